"""The images of a run, annotated by Dask's workers.

    this process: chunks of items ─task→ worker: read, segment, write arrays under a new name ─receipt→ commit

A worker builds its segmenter once and keeps it. A task carries the run, a receipt carries records; neither carries
pixels. The folder and the store must be at the same paths on every machine. Workers hold no lock and write no commit
record: arrays that no commit record names do not count, so a worker may die at any moment, and one that was taken for
dead may go on writing.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pickle
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ovlabel.errors import ConfigError, printable
from ovlabel.run.identity import RunIdentity
from ovlabel.run.local import Annotator, Maker, OnImage, annotate_items, commit, report_of
from ovlabel.run.options import RunOptions
from ovlabel.run.reading import VANISHED, Entry, Records, read_known
from ovlabel.store.arrays import write_arrays
from ovlabel.store.layout import Shard, new_name
from ovlabel.store.record import Record, now
from ovlabel.store.write import StoreWriter
from ovlabel.types import ChunkReport, ImageItem

if TYPE_CHECKING:
    from distributed import Client, Future


log = logging.getLogger("ovlabel")

RESOURCE = "ovlabel"  # one task at a time on a worker that declares one of it
_IN_FLIGHT = 2  # tasks of a worker at a time: one that runs, and one that is queued
_TASKS = 4  # the least number of tasks for each worker, so that all workers finish at about the same time
_CONNECT_SECONDS = 20


@dataclass(frozen=True)
class Task:
    """What a worker needs to annotate a chunk.

    Attributes:
        items: the images of the chunk.
        run: stands for `identity` and `offline`; a worker that has built this run's segmenter uses it again.
        make: builds the segmenter.
        identity: the run.
        offline: open no connection for weights.
        threads: torch's threads in the worker; 0 leaves them as they are.
        failed: records of those of the images that failed before.
        out: the store.
        number: the number in the name of the chunk.
        shard: the shard in the name of the chunk, or None.
        classes: how many classes the store has.
    """

    items: tuple[ImageItem, ...]
    run: str
    make: Maker
    identity: RunIdentity
    offline: bool
    threads: int
    failed: tuple[Record, ...]
    out: Path
    number: int
    shard: Shard | None
    classes: int


@dataclass(frozen=True)
class Receipt:
    """What a worker has done.

    Attributes:
        name: of the chunk whose arrays it has written.
        records: of the images in it.
        vanished: records of files that were not there any more, which are not committed.
        seconds: what the task took.
    """

    name: str
    records: tuple[Record, ...]
    vanished: tuple[Record, ...]
    seconds: float


_segmenters: dict[str, Annotator] = {}
_building = threading.Lock()


def annotate_chunk(task: Task) -> Receipt:
    """On a worker: annotate the images of a task, and write their arrays. Raises what building and writing raise."""
    started = time.monotonic()
    with _building:
        if task.run not in _segmenters:
            _segmenters.clear()
            _segmenters[task.run] = _built(task)
    known = Records({record.key: record for record in task.failed})
    entries = list(annotate_items(task.items, known, _segmenters[task.run]))
    kept = [entry for entry in entries if entry[0].outcome != VANISHED]
    name = new_name(task.number, task.shard)
    records = write_arrays(task.out, name, kept, task.classes) if kept else []
    vanished = tuple(record for record, _ in entries if record.outcome == VANISHED)
    return Receipt(name, tuple(records), vanished, time.monotonic() - started)


def _built(task: Task) -> Annotator:
    """Build the worker's segmenter; if the machine has several GPUs, each worker takes its own."""
    import torch

    identity, config = task.identity, task.identity.config
    if task.threads:
        torch.set_num_threads(task.threads)
    if config.encoder.device == "auto" and torch.cuda.device_count() > 1:
        device = f"cuda:{_number() % torch.cuda.device_count()}"
        identity = replace(identity, config=replace(config, encoder=replace(config.encoder, device=device)))
    return task.make(identity, task.offline)[0]


def _number() -> int:
    """The number of the worker that runs in this process; workers that ovlabel starts are named 0, 1, …"""
    from distributed import get_worker

    with contextlib.suppress(TypeError, ValueError):
        return int(get_worker().name)
    return 0


@dataclass(frozen=True)
class DaskExecutor:
    """See `local.Executor`: the images are annotated by Dask's workers.

    Attributes:
        identity: the run.
        options: its workers or scheduler, chunk size, and whether to stay offline.
        make: builds the segmenter on a worker.
    """

    identity: RunIdentity
    options: RunOptions
    make: Maker

    def run(self, items: Sequence[ImageItem], store: StoreWriter, on_image: OnImage) -> Iterator[ChunkReport]:
        """See `Executor.run`; reports come in the order in which chunks are done.

        Raises:
            ConfigError: no scheduler answers, or workers can't be started.
            StoreError: an array or a record can't be written.
        """
        rest, known = self._known(items, store)
        for start in range(0, len(known), self.options.chunk_size):
            entries = known[start : start + self.options.chunk_size]
            for record, _ in entries:
                on_image(record)
            yield commit(store, entries, time.monotonic())
        if rest:
            with _client(self.options) as client:
                for receipt in _Queue(client, store, self._task(store)).receipts(rest, self.options.chunk_size):
                    yield from _committed(receipt, store, on_image)

    def _known(self, items: Sequence[ImageItem], store: StoreWriter) -> tuple[list[ImageItem], list[Entry]]:
        """Divide images into those to annotate, and entries of those whose content has been annotated already."""
        sizes = {record.size for record in store.records.values() if record.outcome == "done"}
        rest, known = list[ImageItem](), list[Entry]()
        for item in items:
            record = read_known(item, store) if item.size in sizes else None
            if record is None:
                rest.append(item)
            else:
                known.append((record, None))
        return rest, known

    def _task(self, store: StoreWriter) -> Task:
        """What all tasks of the run have in common."""
        return Task(
            items=(),
            run=hashlib.sha256(pickle.dumps((self.identity, self.options.offline))).hexdigest(),
            make=self.make,
            identity=self.identity,
            offline=self.options.offline,
            threads=_threads(self.options.workers),
            failed=(),
            out=store.path.resolve(),
            number=0,
            shard=store.shard,
            classes=len(store.classes),
        )


def _committed(receipt: Receipt, store: StoreWriter, on_image: OnImage) -> Iterator[ChunkReport]:
    if receipt.records:
        store.adopt(receipt.name, receipt.records)
    for record in (*receipt.records, *receipt.vanished):
        on_image(record)
    yield report_of(receipt.records, receipt.seconds)


@dataclass(frozen=True)
class _Queue:
    """Submits chunks to the workers, at most two for each worker at a time."""

    client: Client
    store: StoreWriter
    task: Task

    def receipts(self, items: Sequence[ImageItem], chunk_size: int) -> Iterator[Receipt]:
        """Submit chunks; receipts come in the order in which they are done."""
        from distributed import as_completed
        from distributed.scheduler import KilledWorker

        client = self.client
        resources = _resources(client)
        size = min(chunk_size, -(-len(items) // (_TASKS * _workers(client))))
        waiting = [tuple(items[start : start + size]) for start in range(0, len(items), size)][::-1]
        flying: dict[Future, tuple[ImageItem, ...]] = {}
        done = as_completed(loop=client.loop)
        while waiting or flying:
            while waiting and len(flying) < _IN_FLIGHT * _workers(client):
                chunk = waiting.pop()
                future = client.submit(annotate_chunk, self._of(chunk), resources=resources, pure=False)
                flying[future] = chunk
                done.add(future)
            future = next(done)
            chunk = flying.pop(future)
            try:
                yield future.result()
            except KilledWorker:
                if len(chunk) > 1:  # one of these images ends workers: run each in a task of its own
                    waiting += [(item,) for item in chunk[::-1]]
                else:
                    yield self._deadly(chunk[0])

    def _of(self, items: tuple[ImageItem, ...]) -> Task:
        known = self.store.records
        failed = tuple(known[item.key] for item in items if item.key in known and known[item.key].outcome == "failed")
        return replace(self.task, items=items, failed=failed, number=self.store.next_number())

    def _deadly(self, item: ImageItem) -> Receipt:
        """The record, as failed, of an image that repeatedly ended the worker process, alone in its task."""
        log.warning("%s: every worker that took it died", printable(item.key))
        record = Record(
            item.key,
            item.size,
            item.mtime_ns,
            outcome="failed",
            stage="segment",
            exception="KilledWorker",
            error="every worker that took it died: out of memory, or a crash in a library",
            time=now(),
            attempts=1,
        )
        name = new_name(self.store.next_number(), self.store.shard)
        return Receipt(name, tuple(write_arrays(self.store.path, name, [(record, None)], 1)), (), 0.0)


def _threads(workers: int) -> int:
    """torch's threads in each of `workers` workers on this machine; 0 to leave them as the environment sets them."""
    if not workers or os.environ.get("OMP_NUM_THREADS"):
        return 0
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // workers)


@contextlib.contextmanager
def _client(options: RunOptions) -> Iterator[Client]:
    """Connect to the scheduler of the options, or start workers on this machine that end with the run."""
    import dask
    from distributed import Client, LocalCluster

    if options.scheduler:
        try:
            client = Client(options.scheduler, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ConfigError(f"--scheduler {options.scheduler}: no Dask scheduler answers there ({error})") from None
        with client:
            client.wait_for_workers(1)
            yield client
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set({"distributed.worker.daemon": False, "distributed.admin.tick.limit": "1h"}))
        try:
            cluster = LocalCluster(
                n_workers=options.workers,
                threads_per_worker=1,
                processes=True,
                resources={RESOURCE: 1},
                memory_limit=0,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            )
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"--workers {options.workers}: they can't be started ({error})") from error
        stack.enter_context(cluster)
        yield stack.enter_context(Client(cluster, set_as_default=False))


def _workers(client: Client) -> int:
    return max(1, len(client.scheduler_info(n_workers=-1)["workers"]))


def _resources(client: Client) -> dict[str, float] | None:
    """What a task needs of the resources that workers declare (`dask worker … --resources "ovlabel=1"`), or None."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    if any(RESOURCE in worker.get("resources", {}) for worker in workers):
        return {RESOURCE: 1}
    log.warning('the workers declare no "%s=1" resource: each runs as many chunks at once as it has threads', RESOURCE)
    return None
