"""The same chunks on Dask's workers: they write arrays, this process commits. dask stays in this room.

    this process: chunks of items ─task→ worker: read, segment, write arrays under a name of its own ─receipt→ commit

A worker builds its segmenter once and keeps it; a task carries the config, a receipt carries records, neither carries
pixels. Folder and store must be at the same paths for everybody. Workers hold no lock and write no record: an array
that no commit adopts never counts, so a worker may die, or be taken for dead and go on writing, at any moment.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovlabel.errors import ConfigError, printable
from ovlabel.run.identity import RunIdentity
from ovlabel.run.local import VANISHED, Annotator, Maker, Records, annotate_items, make_segmenter, report_of
from ovlabel.store.lock import Shard
from ovlabel.store.read import Store, new_name, write_arrays
from ovlabel.store.record import Record, now
from ovlabel.types import ChunkReport, ImageItem

if TYPE_CHECKING:
    from distributed import Client, Future


log = logging.getLogger("ovlabel")

RESOURCE = "ovlabel"  # one task at a time on a worker that declares one of it
_IN_FLIGHT = 2  # tasks a worker: one in work, one waiting
_TASKS = 4  # a worker's share of the run is cut into so many tasks at least, so that none waits long for the last
_CONNECT_SECONDS = 20


@dataclass(frozen=True)
class Where:
    """`workers`: processes to start on this machine, or `scheduler`: the address of a Dask scheduler that is there."""

    workers: int = 0
    scheduler: str = ""


@dataclass(frozen=True)
class Task:
    """What a worker needs to annotate a chunk.

    Attributes:
        run: stands for identity and offline; a worker that has built this run's segmenter uses it again.
        make: builds it. threads: torch's, or 0 to leave them. failed: records of those images that failed before.
        out: the store. number, shard: for the name of the chunk. classes: how many the store has.
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
    """What a worker has written: the chunk's name, its records. `gone`: keys that were not there any more."""

    name: str
    records: tuple[Record, ...]
    gone: tuple[str, ...]
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
    gone = tuple(record.key for record, _ in entries if record.outcome == VANISHED)
    return Receipt(name, tuple(records), gone, time.monotonic() - started)


def _built(task: Task) -> Annotator:
    """The worker's segmenter: on a GPU of its own where there are several."""
    import torch

    identity, config = task.identity, task.identity.config
    if task.threads:
        torch.set_num_threads(task.threads)
    if config.encoder.device == "auto" and torch.cuda.device_count() > 1:
        device = f"cuda:{_number() % torch.cuda.device_count()}"
        identity = replace(identity, config=replace(config, encoder=replace(config.encoder, device=device)))
    return task.make(identity, task.offline)[0]


def _number() -> int:
    """Of the worker that this process is: they are named 0, 1, … where we started them."""
    from distributed import get_worker

    with contextlib.suppress(TypeError, ValueError):
        return int(get_worker().name)
    return 0


class Cluster:
    """Runs chunks on Dask, and commits what comes back."""

    def __init__(self, where: Where, store: Store, identity: RunIdentity, offline: bool, make: Maker | None) -> None:
        self._where, self._store = where, store
        self._fixed: dict[str, Any] = {
            "run": hashlib.sha256(pickle.dumps((identity, offline))).hexdigest(),
            "make": make or make_segmenter,
            "identity": identity,
            "offline": offline,
            "threads": _threads(where.workers),
            "out": store.path.resolve(),
            "shard": store.shard,
            "classes": len(store.classes),
        }

    def run(
        self,
        items: Sequence[ImageItem],
        chunk_size: int,
        on_image: Callable[[Record], None] | None,
        gone: list[str],
    ) -> Iterator[ChunkReport]:
        """Annotate and commit; reports in the order in which chunks are done. `gone` takes keys of vanished files.

        Raises:
            ConfigError: there is no scheduler. StoreError: an array or a record can't be written.
        """
        with _client(self._where) as client:
            for receipt in self._receipts(client, items, chunk_size):
                gone += receipt.gone
                if receipt.records:
                    self._store.adopt(receipt.name, receipt.records)
                for record in receipt.records:
                    if on_image:
                        on_image(record)
                yield report_of(receipt.records, receipt.seconds)

    def _receipts(self, client: Client, items: Sequence[ImageItem], chunk_size: int) -> Iterator[Receipt]:
        """Keep every worker busy, and no more than that in flight."""
        from distributed import as_completed
        from distributed.scheduler import KilledWorker

        resources = _resources(client)
        size = min(chunk_size, -(-len(items) // (_TASKS * _workers(client))))
        waiting = [tuple(items[start : start + size]) for start in range(0, len(items), size)][::-1]
        flying: dict[Future, tuple[ImageItem, ...]] = {}
        done = as_completed(loop=client.loop)
        while waiting or flying:
            while waiting and len(flying) < _IN_FLIGHT * _workers(client):
                chunk = waiting.pop()
                future = client.submit(annotate_chunk, self._task(chunk), resources=resources, pure=False)
                flying[future] = chunk
                done.add(future)
            future = next(done)
            chunk = flying.pop(future)
            try:
                yield future.result()
            except KilledWorker:
                if len(chunk) > 1:  # one of them takes workers down: find out which
                    waiting += [(item,) for item in chunk[::-1]]
                else:
                    yield self._deadly(chunk[0])

    def _task(self, items: tuple[ImageItem, ...]) -> Task:
        known = self._store.records
        failed = tuple(known[item.key] for item in items if item.key in known and known[item.key].outcome == "failed")
        return Task(items, failed=failed, number=self._store.next_number(), **self._fixed)

    def _deadly(self, item: ImageItem) -> Receipt:
        """An image that ended the worker process, again and again, though it was alone in work."""
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
        name = new_name(self._store.next_number(), self._store.shard)
        return Receipt(name, tuple(write_arrays(self._store.path, name, [(record, None)], 1)), (), 0.0)


def _threads(workers: int) -> int:
    """torch's threads in each of so many workers on this machine; 0 where the user says, or others decide."""
    if not workers or os.environ.get("OMP_NUM_THREADS"):
        return 0
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // workers)


@contextlib.contextmanager
def _client(where: Where) -> Iterator[Client]:
    """Connect, or start workers of our own; ours end with the run."""
    import dask
    from distributed import Client, LocalCluster

    if where.scheduler:
        try:
            client = Client(where.scheduler, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ConfigError(f"--scheduler {where.scheduler}: no Dask scheduler answers there ({error})") from None
        with client:
            client.wait_for_workers(1)
            yield client
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set({"distributed.worker.daemon": False, "distributed.admin.tick.limit": "1h"}))
        try:
            cluster = LocalCluster(
                n_workers=where.workers,
                threads_per_worker=1,
                processes=True,
                resources={RESOURCE: 1},
                memory_limit=0,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            )
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"--workers {where.workers}: they can't be started ({error})") from error
        stack.enter_context(cluster)
        yield stack.enter_context(Client(cluster, set_as_default=False))


def _workers(client: Client) -> int:
    return max(1, len(client.scheduler_info(n_workers=-1)["workers"]))


def _resources(client: Client) -> dict[str, float] | None:
    """One of ours a task, where the workers declare them (`dask worker … --resources "ovlabel=1"`)."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    if any(RESOURCE in worker.get("resources", {}) for worker in workers):
        return {RESOURCE: 1}
    log.warning('the workers declare no "%s=1" resource: each runs as many chunks at once as it has threads', RESOURCE)
    return None
