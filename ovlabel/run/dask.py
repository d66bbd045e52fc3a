"""The images of a run, annotated by Dask's workers.

    this process: chunks of items ─task→ worker: read, segment, write arrays under a new name ─receipt→ commit

What a worker does is in `worker`, which worker has what in `crew`. This process holds the lock and commits. What a
worker says of a file that it can't read is compared with what this process sees: a machine without the folder is no
reason to take images for deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import pickle
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovlabel import __version__
from ovlabel.errors import ConfigError, StoreError, printable
from ovlabel.run.crew import RESOURCE, Chunk, Crew, Worker
from ovlabel.run.identity import RunIdentity
from ovlabel.run.local import Maker, OnImage, commit, report_of
from ovlabel.run.options import RunOptions
from ovlabel.run.reading import VANISHED, Entry, read_known
from ovlabel.run.worker import Place, Receipt, Refusal, Task, readable
from ovlabel.store.arrays import write_arrays
from ovlabel.store.layout import chunk_path, new_name
from ovlabel.store.record import Record, now
from ovlabel.store.write import StoreWriter
from ovlabel.types import ChunkReport, ImageItem

if TYPE_CHECKING:
    from distributed import Client


log = logging.getLogger("ovlabel")

_TASKS = 4  # the least number of chunks for each worker, so that all workers finish at about the same time
_DEATHS = 2  # of workers that had a chunk in work, after which each of its images is tried alone, and then passed over
_LANDMARKS = 16  # images that a worker is asked for
_CONNECT_SECONDS = 20


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
            ClusterError: the scheduler was lost, or no worker came.
        """
        items = _absolute(items)
        rest, known = self._known(items, store)
        for start in range(0, len(known), self.options.chunk_size):
            entries = known[start : start + self.options.chunk_size]
            for record, _ in entries:
                on_image(record)
            yield commit(store, entries, time.monotonic())
        if rest:
            with _client(self.options) as client:
                crew = Crew(client, _place(store, rest), self.options.wait_for_workers)
                for receipt in _Queue(crew, store, self._task(store), self.options.chunk_size).receipts(rest):
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
            identity=self.identity.absolute(),
            offline=self.options.offline,
            threads=_threads(self.options.workers),
            failed=(),
            out=Path(os.path.abspath(store.path)),
            number=0,
            shard=store.shard,
            classes=len(store.classes),
        )


def _absolute(items: Sequence[ImageItem]) -> Sequence[ImageItem]:
    """The items with paths that mean the same in a process that was started in another folder."""
    if not items or items[0].path.is_absolute():
        return items
    return [replace(item, path=Path(os.path.abspath(item.path))) for item in items]


def _place(store: StoreWriter, items: Sequence[ImageItem]) -> Place:
    """What a worker must find: images of the run and images of the store, as far as this process can read them."""
    folder = Path(os.path.abspath(store.folder))
    candidates = [item.path for item in items[:: max(1, len(items) // _LANDMARKS)]]
    candidates += [folder / key for key in islice(store.records, _LANDMARKS)]
    images = tuple(islice((path for path in candidates if readable(path)), _LANDMARKS))
    out = Path(os.path.abspath(store.path))
    return Place(__version__, images, out, out / store.lock.path.name, store.lock.owner["token"])


def _committed(receipt: Receipt, store: StoreWriter, on_image: OnImage) -> Iterator[ChunkReport]:
    if receipt.records:
        store.adopt(receipt.name, receipt.records)
    for record in (*receipt.records, *receipt.vanished):
        on_image(record)
    yield report_of(receipt.records, receipt.seconds)


@dataclass
class _Queue:
    """Hands chunks to the workers, and takes their receipts.

    Attributes:
        crew: the workers.
        store: where to.
        task: what all tasks of the run have in common.
        chunk_size: most images in one chunk.
        last: chunks that came back; their turn comes last.
    """

    crew: Crew
    store: StoreWriter
    task: Task
    chunk_size: int
    last: deque[Chunk] = field(default_factory=deque)

    def receipts(self, items: Sequence[ImageItem]) -> Iterator[Receipt]:
        """Hand out images; receipts come in the order in which they are done."""
        left = deque(items)
        while left or self.last or self.crew.busy or self.crew.returned:
            self.crew.look()
            yield from self._take_back()
            for worker in self.crew.free():
                if (chunk := self._next_chunk(left, len(items), worker)) is not None:
                    self.crew.hand(chunk, self._of(chunk.items), worker)
            if (done := self.crew.next()) is not None:
                yield from self._received(*done)
            yield from self._take_back()

    def _next_chunk(self, left: deque[ImageItem], count: int, worker: Worker) -> Chunk | None:
        """The next images for a worker, of `count` in all; those that came back when there are no others."""
        if left:
            size = max(1, min(self.chunk_size, -(-count // (_TASKS * len(self.crew.ready)))))
            return Chunk(tuple(left.popleft() for _ in range(min(size, len(left)))))
        chunk = next((chunk for chunk in self.last if worker.address not in chunk.unseen_by), None)
        if chunk is not None:
            self.last.remove(chunk)
        return chunk

    def _take_back(self) -> Iterator[Receipt]:
        """Queue what workers had that died or were set aside; an image by which one worker after another died fails."""
        while self.crew.returned:
            chunk = self.crew.returned.pop()
            if chunk.deaths < _DEATHS:
                self.last.append(chunk)
            elif len(chunk.items) > 1:  # one of these images ends workers: each is tried by itself
                self.last.extend(Chunk((item,)) for item in chunk.items)
            else:
                yield self._deadly(chunk.items[0])
        for chunk in [chunk for chunk in self.last if chunk.unseen_by and not self.crew.may_see(chunk)]:
            self.last.remove(chunk)
            unseen = (Record(item.key, item.size, item.mtime_ns, outcome=VANISHED) for item in chunk.items)
            yield Receipt("", (), tuple(unseen), 0.0)

    def _received(self, worker: Worker, chunk: Chunk, answer: Receipt | Refusal | None) -> Iterator[Receipt]:
        """What there is to commit of an answer."""
        if isinstance(answer, Refusal):
            if answer.trace:
                raise RuntimeError(f"on worker {worker.name}:\n{answer.trace}")
            self.crew.returned.append(chunk)
            self.crew.set_aside(worker, answer.error)
        elif answer is not None:
            written = not answer.records or chunk_path(self.store.path, answer.name).is_dir()
            if written:
                yield self._seen(worker, chunk, answer)
                return
            self.crew.returned.append(chunk)
            self.crew.set_aside(worker, StoreError(f"what it wrote to {self.store.path} is not there"))

    def _seen(self, worker: Worker, chunk: Chunk, receipt: Receipt) -> Receipt:
        """A receipt without the images that the worker could not read while this process can; they come again."""
        path = {item.key: item.path for item in chunk.items}
        doubtful = [*receipt.vanished, *(record for record in receipt.records if record.stage == "open")]
        unseen = {r.key: r for r in doubtful if r.exception != "ImageError" and readable(path[r.key])}
        if not unseen:
            return receipt
        log.warning("worker %s can't read %s, which can be read here", worker.name, _named(unseen))
        self.crew.ask(worker)
        again = tuple(item for item in chunk.items if item.key in unseen)
        self.last.append(Chunk(again, chunk.deaths, chunk.unseen_by | {worker.address}))
        records, vanished = ([r for r in some if r.key not in unseen] for some in (receipt.records, receipt.vanished))
        return replace(receipt, records=tuple(records), vanished=tuple(vanished))

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


def _greet(address: str) -> None:
    """Make sure that a scheduler answers; a client that can't reach one would go on trying when Python ends.

    Raises:
        ConfigError: none answers, or something else does.
    """
    from distributed.comm.core import connect
    from distributed.security import Security

    async def identity() -> Any:
        comm = await connect(address, timeout=_CONNECT_SECONDS, **Security().get_connection_args("client"))
        try:
            await comm.write({"op": "identity", "reply": True})
            return await comm.read()
        finally:
            comm.abort()

    try:
        answer = asyncio.run(asyncio.wait_for(identity(), _CONNECT_SECONDS))
        what = f"a {answer['type']} does"
    except Exception as error:  # whatever an address, or what listens there, provokes
        answer, what = {}, str(error) or type(error).__name__
    if answer.get("type") != "Scheduler":
        raise ConfigError(f"--scheduler {address}: no Dask scheduler answers there ({what})")


@contextlib.contextmanager
def _client(options: RunOptions) -> Iterator[Client]:
    """Connect to the scheduler of the options, or start workers on this machine that end with the run."""
    import dask
    from distributed import Client, LocalCluster
    from distributed.utils import silence_logging_cmgr
    from distributed.versions import VersionMismatchWarning

    with contextlib.ExitStack() as stack:
        stack.enter_context(silence_logging_cmgr(logging.CRITICAL + 1))  # what matters of it is said by this process
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", VersionMismatchWarning)  # a worker that can't do the work is named
        stack.enter_context(dask.config.set({"distributed.worker.daemon": False, "distributed.admin.tick.limit": "1h"}))
        if options.scheduler:
            _greet(options.scheduler)
            client = Client(options.scheduler, timeout=_CONNECT_SECONDS, set_as_default=False)
            stack.callback(_close, client)
            yield client
            return
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


def _close(client: Client) -> None:
    """Close a client, also one whose scheduler is gone."""
    with contextlib.suppress(Exception):
        client.close(timeout=5)


def _named(keys: Iterable[str]) -> str:
    """Keys in words, the first of them by name."""
    first, *others = keys
    return f"{printable(first)} and {len(others)} more" if others else printable(first)
