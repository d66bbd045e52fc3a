"""The use case: a folder of photographs → a store. Resumable, because the store is the only state."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovlabel.errors import ConfigError, StoreError, printable
from ovlabel.run.dask import Cluster, Where
from ovlabel.run.identity import RunIdentity, check_folder, check_run
from ovlabel.run.listing import Listing, Selection, list_folder
from ovlabel.run.local import VANISHED, Annotator, Entry, Maker, annotate_items, make_segmenter, read_known, report_of
from ovlabel.settings.keys import Config
from ovlabel.store.lock import locked
from ovlabel.store.read import Store, create_store, exists, open_store
from ovlabel.store.record import Record
from ovlabel.types import ChunkReport, ImageItem, TextBank

log = logging.getLogger("ovlabel")

_CHUNK_BYTES = 2**28
_CHUNK_SECONDS = 60.0


@dataclass
class Job:
    """What there is to do in a folder; `run()` does it.

    Attributes:
        listing: the images that the run is about. pending: those that no commit covers.
        left: how many more are pending than `limit` takes.
        vanished: keys of the store that are no longer in the folder. removed: whether the run has removed them.
        gone: keys that were listed, and not there any more when their turn came.
        settled: the store was written by the very same settings; nothing needs to be compared further.
    """

    folder: Path
    out: Path
    config: Config
    selection: Selection
    listing: Listing
    pending: list[ImageItem]
    vanished: list[str]
    store: Store | None
    settled: bool
    run_identity: RunIdentity
    chunk_size: int = 64
    offline: bool = False
    wait: bool = False
    spread: Where | None = None
    removed: bool = False
    left: int = 0
    gone: list[str] = field(default_factory=list)

    @property
    def items(self) -> list[ImageItem]:
        """Every image that the run is about."""
        return self.listing.items

    @property
    def idle(self) -> bool:
        """Whether nothing is to be done or checked: torch is not needed."""
        if self.selection.prune and self.vanished:
            return False
        return not self.pending and (self.settled or not self.items)

    def plan(self, store: Store | None) -> None:
        """Find what is pending now, as far as the run goes."""
        retry, limit = self.selection.retry_failed, self.selection.limit
        pending = self.items if store is None else store.pending(self.items, retry_failed=retry)
        self.pending = pending[:limit]
        self.left = len(pending) - len(self.pending)

    def failures(self) -> dict[str, Record]:
        """The images of the run that failed, now or earlier."""
        listed = {item.key for item in self.items}
        failed = {} if self.store is None else self.store.failed
        return {key: record for key, record in failed.items() if key in listed}

    def run(self, on_image: Callable[[Record], None] | None = None, make: Maker | None = None) -> Iterator[ChunkReport]:
        """Annotate what is pending, a commit at a time; what was finished is committed even if the loop is left early.

        Args:
            on_image: called with each image's record as soon as it is decided, before it is committed.
            make: builds the segmenter and the run's description; a test's way in.

        Raises:
            RunError: the store belongs to another run. BusyError: somebody else is writing to it.
            StoreError: it can't be written. ConfigError, WeightsError: the segmenter can't be built.
        """
        if self.idle:
            return
        with locked(self.out, self.selection.shard, wait=self.wait) as lock:
            segmenter: Annotator | None = None
            text = _text_of(self)
            if (self.pending and not self.spread) or not self.settled:
                segmenter, run = (make or make_segmenter)(self.run_identity, self.offline)
                if exists(self.out):
                    made = open_store(self.out)
                else:
                    made = create_store(self.out, self.folder, run, self.run_identity.written, text)
                check_run(made, run)
            store = self.store = open_store(self.out, lock, self.selection.shard)
            check_folder(store, self.folder)
            store.settle(self.run_identity.written, self.folder, text)
            store.clear_unfinished()
            self.plan(store)
            if self.spread:
                del segmenter  # the workers have their own
                yield from self._on_workers(self.spread, store, on_image, make)
            elif segmenter is not None:
                yield from self._chunks(store, segmenter, on_image)
            if self.selection.prune and self.vanished:
                self.vanished = [key for key in self.vanished if not os.path.lexists(self.folder / key)]
                store.remove(self.vanished, "no longer in the folder")
                store.free()
                self.removed = True

    def _on_workers(
        self, where: Where, store: Store, on_image: Callable[[Record], None] | None, make: Maker | None
    ) -> Iterator[ChunkReport]:
        """Chunks on Dask; renamed and touched images are found here, because the store knows contents."""
        sizes = {record.size for record in store.records.values() if record.outcome == "done"}
        rest, same = [], list[Entry]()
        for item in self.pending:
            reading = read_known(item, store) if item.size in sizes else None
            if reading is None:
                rest.append(item)
                continue
            same.append((reading, None))
            if on_image:
                on_image(reading)
        for start in range(0, len(same), self.chunk_size):
            yield _commit(store, same[start : start + self.chunk_size], time.monotonic())
        if rest:
            cluster = Cluster(where, store, self.run_identity, self.offline, make)
            yield from cluster.run(rest, self.chunk_size, on_image, self.gone)

    def _chunks(
        self, store: Store, segmenter: Annotator, on_image: Callable[[Record], None] | None
    ) -> Iterator[ChunkReport]:
        """Everything that is pending; what a run died of comes last, each in a commit of its own."""
        suspects = set(store.lock.suspects if store.lock else ()) & {item.key for item in self.pending}
        for key in sorted(suspects):
            log.warning("%s: was in work when an earlier run died; its turn comes last", printable(key))
        groups = [[item for item in self.pending if item.key not in suspects]]
        groups += [[item] for item in self.pending if item.key in suspects]
        with _Writer(store) as writer:
            for items in groups:
                yield from self._group(items, store, segmenter, writer, on_image)

    def _group(
        self,
        items: list[ImageItem],
        store: Store,
        segmenter: Annotator,
        writer: _Writer,
        on_image: Callable[[Record], None] | None,
    ) -> Iterator[ChunkReport]:
        """Annotate and commit, each at its own pace, in the order of the items."""
        chunk, suspects = _Chunk(self.chunk_size), store.lock.suspects if store.lock else []

        def note(keys: set[str]) -> None:
            if store.lock is not None:
                store.lock.note(sorted(keys.union(suspects)))

        try:
            for record, annotation in annotate_items(items, store, segmenter, note):
                if record.outcome == VANISHED:
                    self.gone.append(record.key)
                else:
                    chunk.add((record, annotation))
                if on_image:
                    on_image(record)
                if chunk.full:
                    yield from writer.put(chunk)
                    chunk = _Chunk(self.chunk_size)
                yield from writer.done()
            yield from writer.put(chunk)
            yield from writer.done(wait=True)
        except BaseException as error:  # Ctrl-C, an abandoned loop, a defect: keep what is finished, then go on failing
            if not isinstance(error, StoreError):
                list(writer.put(chunk))
                list(writer.done(wait=True))
            raise


class _Writer:
    """Commits chunks in a thread of its own, so that nobody waits for the disk; one at a time, in order.

    A signal never falls into a commit: it is the main thread's.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ovlabel write")
        self._writing: Future[ChunkReport] | None = None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def put(self, chunk: _Chunk) -> Iterator[ChunkReport]:
        """Commit a chunk, if it holds anything, once the one before it is done; yields that one's report."""
        yield from self.done(wait=True)
        if chunk.entries:
            entries, chunk.entries = chunk.entries, []
            self._writing = self._thread.submit(_commit, self._store, entries, chunk.since)

    def done(self, *, wait: bool = False) -> Iterator[ChunkReport]:
        """The report of the commit that is under way, if it is done. Raises what it raised."""
        if self._writing is not None and (wait or self._writing.done()):
            report = self._writing.result()
            self._writing = None
            yield report


@dataclass
class _Chunk:
    """Finished images waiting for their commit: so many, so many bytes or so many seconds of work, at the most."""

    limit: int
    entries: list[Entry] = field(default_factory=list)
    bytes: int = 0
    since: float = field(default_factory=time.monotonic)

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        if annotation := entry[1]:
            arrays = (annotation.labels, annotation.confidence, annotation.classes, annotation.probabilities)
            self.bytes += sum(array.nbytes for array in arrays if array is not None)

    @property
    def full(self) -> bool:
        age = time.monotonic() - self.since
        return len(self.entries) >= self.limit or self.bytes >= _CHUNK_BYTES or age >= _CHUNK_SECONDS


def _commit(store: Store, entries: list[Entry], since: float) -> ChunkReport:
    """Write it all, and say what it was; `since` is when work on it began."""
    store.commit(entries)
    return report_of((record for record, _ in entries), time.monotonic() - since)


def annotate(
    folder: str | Path,
    config: Config,
    out: str | Path | None = None,
    *,
    text: TextBank | None = None,
    selection: Selection | None = None,
    chunk_size: int = 64,
    offline: bool = False,
    wait: bool = False,
    spread: Where | None = None,
) -> Iterator[ChunkReport]:
    """Annotate what is pending in a folder: an iterator that works as it is walked, a report a commit.

    Args:
        folder: photographs, in any depth of folders. config: from `load_config`.
        out: the store; by default FOLDER.ovlabel.zarr beside the folder.
        text: a bank of one's own in place of the config's vocabulary and templates.
        selection: what of the folder; by default all that is pending.
        chunk_size: images in a commit, at the most. offline: open no connection for weights.
        wait: while another process writes to the store, wait for it.
        spread: Dask's workers in place of this process.

    Raises:
        ConfigError, WeightsError, StoreError: see `Job.run`. An image that can't be read is reported, not raised.
    """
    return prepare(
        folder,
        config,
        out,
        text=text,
        selection=selection,
        chunk_size=chunk_size,
        offline=offline,
        wait=wait,
        spread=spread,
    ).run()


def prepare(
    folder: str | Path,
    config: Config,
    out: str | Path | None = None,
    *,
    text: TextBank | None = None,
    selection: Selection | None = None,
    chunk_size: int = 64,
    offline: bool = False,
    wait: bool = False,
    spread: Where | None = None,
) -> Job:
    """List the folder and find what is pending, without torch. Raises ConfigError, StoreError."""
    folder, selection = Path(folder), selection or Selection()
    if "://" in str(out):
        raise ConfigError(f"--out {out}: a store is a folder on this machine")
    if spread is not None and spread.scheduler and config.encoder.precision == "auto":
        raise ConfigError("--scheduler: name encoder.precision; 'auto' might be another on every worker")
    if selection.prune and (selection.shard or selection.names is not None):
        raise ConfigError("--prune needs the whole folder and the whole store: run it without --shard and --list")
    listing = list_folder(folder, selection)
    path = default_store(folder) if out is None else Path(out)
    identity = RunIdentity.read(config, text)
    store = open_store(path) if exists(path) else None
    if store is not None:
        check_folder(store, folder)
    job = Job(
        folder=folder,
        out=path,
        config=config,
        selection=selection,
        listing=listing,
        pending=[],
        vanished=[] if store is None else listing.vanished(folder, store.records),
        store=store,
        settled=text is None and store is not None and store.attrs["written"] == identity.written,
        run_identity=identity,
        chunk_size=chunk_size,
        offline=offline,
        wait=wait,
        spread=spread,
    )
    job.plan(store)
    if selection.prune and job.vanished and not listing.keys:
        raise ConfigError(f"{folder} holds no image at all: is it mounted? Nothing was removed from {path}")
    return job


def default_store(folder: Path) -> Path:
    """FOLDER.ovlabel.zarr beside the folder."""
    real = folder.resolve()
    return real.parent / f"{real.name or 'root'}.ovlabel.zarr"


def _text_of(job: Job) -> dict[str, Any]:
    """What a store says of its classes."""
    vocabulary = job.run_identity.vocabulary
    return {
        "classes": [entry.name for entry in vocabulary.classes],
        "colours": [list(colour) for colour in vocabulary.colours],
        "background": vocabulary.background,
        "vocabulary": vocabulary.content()["classes"],
    }
