"""The use case: a folder of photographs → a store. Resumable, because the store is the only state."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from ovlabel import __version__
from ovlabel.cache import file_sha256
from ovlabel.config import Config
from ovlabel.errors import ConfigError, ImageError, StoreError, VanishedError, out_of_memory
from ovlabel.images import decode_first, printable, read_file
from ovlabel.lock import locked
from ovlabel.record import Record, now
from ovlabel.runs import check_folder, check_run
from ovlabel.selection import Listing, Selection, list_folder
from ovlabel.store import Store, create_store, exists, open_store
from ovlabel.types import Annotation, ChunkReport, ImageItem, TextBank, UInt8Image
from ovlabel.vocabulary import Vocabulary, VocabularyClass, load_descriptions, load_templates, load_vocabulary

log = logging.getLogger("ovlabel")

_CHUNK_BYTES = 2**28
_CHUNK_SECONDS = 60.0
_READERS = max(1, min(4, (os.cpu_count() or 1) // 2))
_AHEAD_BYTES = 2**28  # of pixels that are read and wait
_VANISHED = "vanished"  # an outcome that is told, and never committed
Entry = tuple[Record, Annotation | None]


class Annotator(Protocol):
    """What a job needs of a segmenter."""

    @property
    def behind(self) -> int:
        """How many images may be begun before the first of them is finished."""

    def begin(self, image: UInt8Image) -> Callable[[], Annotation]:
        """Begin to annotate a uint8 H W 3 RGB image; the call finishes it."""


Maker = Callable[[Config, TextBank | None, bool], tuple[Annotator, dict[str, Any]]]


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
    written: dict[str, Any]
    text: TextBank | None = None
    chunk_size: int = 64
    offline: bool = False
    wait: bool = False
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
            if self.pending or not self.settled:
                segmenter, run = (make or _make)(self.config, self.text, self.offline)
                there = exists(self.out)
                check_run(
                    open_store(self.out) if there else create_store(self.out, self.folder, run, self.written, text), run
                )
            store = self.store = open_store(self.out, lock, self.selection.shard)
            check_folder(store, self.folder)
            store.settle(self.written, self.folder, text)
            store.clear_unfinished()
            if segmenter is not None:
                self.plan(store)
                yield from self._chunks(store, segmenter, on_image)
            if self.selection.prune and self.vanished:
                store.remove(self.vanished, "no longer in the folder")
                store.free()
                self.removed = True

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
        """Read ahead → begin → finish → commit, each at its own pace, in the order of the items."""
        chunk, begun = _Chunk(self.chunk_size), deque[Callable[[], Entry]]()
        try:
            for reading in read_ahead(items, store):
                if reading is not None:
                    begun.append(begin_image(reading, segmenter))
                while len(begun) > (segmenter.behind if reading else 0):
                    record, annotation = begun.popleft()()
                    if record.outcome == _VANISHED:
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
    records = [record for record, _ in entries]
    return ChunkReport(
        done=tuple(r.key for r in records if r.outcome == "done"),
        failed=tuple((r.key, r.error) for r in records if r.outcome == "failed"),
        seconds=time.monotonic() - since,
    )


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
) -> Iterator[ChunkReport]:
    """Annotate what is pending in a folder: an iterator that works as it is walked, a report a commit.

    Args:
        folder: photographs, in any depth of folders. config: from `load_config`.
        out: the store; by default FOLDER.ovlabel.zarr beside the folder.
        text: a bank of one's own in place of the config's vocabulary and templates.
        selection: what of the folder; by default all that is pending.
        chunk_size: images in a commit, at the most. offline: open no connection for weights.
        wait: while another process writes to the store, wait for it.

    Raises:
        ConfigError, WeightsError, StoreError: see `Job.run`. An image that can't be read is reported, not raised.
    """
    return prepare(
        folder, config, out, text=text, selection=selection, chunk_size=chunk_size, offline=offline, wait=wait
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
) -> Job:
    """List the folder and find what is pending, without torch. Raises ConfigError, StoreError."""
    folder, selection = Path(folder), selection or Selection()
    if "://" in str(out):
        raise ConfigError(f"--out {out}: a store is a folder on this machine")
    if selection.prune and (selection.shard or selection.names is not None):
        raise ConfigError("--prune needs the whole folder and the whole store: run it without --shard and --list")
    listing = list_folder(folder, selection)
    path = default_store(folder) if out is None else Path(out)
    written = as_written(config, own_text=text is not None)
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
        settled=text is None and store is not None and store.attrs["written"] == written,
        written=written,
        text=text,
        chunk_size=chunk_size,
        offline=offline,
        wait=wait,
    )
    job.plan(store)
    if selection.prune and job.vanished and not listing.keys:
        raise ConfigError(f"{folder} holds no image at all: is it mounted? Nothing was removed from {path}")
    return job


def default_store(folder: Path) -> Path:
    """FOLDER.ovlabel.zarr beside the folder."""
    real = folder.resolve()
    return real.parent / f"{real.name or 'root'}.ovlabel.zarr"


@dataclass(frozen=True)
class Reading:
    """An image file as it was read: its record so far, the pixels, or the entry that is known without them."""

    record: Record
    before: Record | None
    pixels: UInt8Image | None = None
    entry: Entry | None = None


def read_ahead(items: Iterable[ImageItem], store: Store) -> Iterator[Reading | None]:
    """Read and decode in threads, a few images ahead of whoever takes them, in order; None at the end.

    As many as there are threads are in work, and so many bytes of pixels wait at the most. The lock says which images
    are in work, for whoever takes it over should this process die of one of them.
    """
    store.like("")  # makes the index, before there are threads
    waiting, left = deque[tuple[str, Future[Reading]]](), iter(items)
    suspects = store.lock.suspects if store.lock else []
    reader = ThreadPoolExecutor(_READERS, thread_name_prefix="ovlabel read")
    try:
        taken = ""
        while True:
            ready = [future.result().pixels for _, future in waiting if future.done() and not future.exception()]
            held = sum(pixels.nbytes for pixels in ready if pixels is not None)
            while len(waiting) <= _READERS and held < _AHEAD_BYTES and (item := next(left, None)) is not None:
                if store.lock is not None:
                    store.lock.note(sorted({taken, item.key, *(key for key, _ in waiting), *suspects} - {""}))
                waiting.append((item.key, reader.submit(read_image, item, store)))
            if not waiting:
                break
            taken, future = waiting.popleft()
            yield future.result()
        yield None
    finally:
        reader.shutdown(cancel_futures=True)


def read_image(item: ImageItem, store: Store) -> Reading:
    """Read and decode one image. A file of the same content as a committed image shares that one's arrays."""
    record, stage = Record(item.key, item.size, item.mtime_ns), "open"
    before = store.records.get(item.key)
    try:
        content = read_file(item.path)
        record = replace(record, size=len(content.data), mtime_ns=content.mtime_ns, sha256=content.sha256)
        if twin := store.like(content.sha256):
            known = replace(twin, key=record.key, size=record.size, mtime_ns=record.mtime_ns)
            return Reading(known, before, entry=(known, None))
        stage = "decode"
        pixels, more_frames = decode_first(content.data)
        return Reading(replace(record, more_frames=more_frames), before, pixels)
    except VanishedError:
        gone = replace(record, outcome=_VANISHED)
        return Reading(gone, before, entry=(gone, None))
    except (ImageError, MemoryError) as error:
        return Reading(record, before, entry=_failed(record, stage, error, before))


def begin_image(reading: Reading, segmenter: Annotator) -> Callable[[], Entry]:
    """Begin to annotate what was read; the call gives its record and arrays."""
    record, before, pixels = reading.record, reading.before, reading.pixels
    entry = reading.entry
    if entry is not None or pixels is None:
        return lambda: entry or (record, None)
    try:
        finish = segmenter.begin(pixels)
    except (MemoryError, RuntimeError) as error:
        failed = _failed(record, "segment", error, before)
        return lambda: failed

    def finished() -> Entry:
        try:
            return record, finish()
        except (MemoryError, RuntimeError) as error:
            return _failed(record, "segment", error, before)

    return finished


def _failed(record: Record, stage: str, error: Exception, before: Record | None) -> Entry:
    """The record of an image that can't be annotated; other errors are defects, and raised."""
    if not isinstance(error, ImageError) and not out_of_memory(error):
        raise error
    reason = str(error) if isinstance(error, ImageError) else "out of memory"
    log.warning("%s: %s", printable(record.key), reason)
    again = before is not None and before.outcome == "failed" and before.sha256 == record.sha256
    return (
        replace(
            record,
            outcome="failed",
            stage=stage,
            exception=type(error.__cause__ or error).__name__,
            error=reason,
            time=now(),
            attempts=before.attempts + 1 if before and again else 1,
        ),
        None,
    )


def as_written(config: Config, *, own_text: bool = False) -> dict[str, Any]:
    """The settings with the content of the files that they name, as plain JSON values; torch is not needed.

    Two runs of one ovlabel version with equal settings are the same run, and nothing needs to be resolved.
    """
    values = config.to_dict()
    values["encoder"].pop("device")
    vocabulary, templates = load_vocabulary(config.text.vocabulary), load_templates(config.text.templates)
    said = load_descriptions(config.text.descriptions, vocabulary)
    content = json.dumps([vocabulary.content(), dict(templates.by_kind), templates.adaptive, said], sort_keys=True)
    model, weights = (Path(os.path.expanduser(name)) for name in config.encoder.source)
    checkpoints = [Path(str(dict(stage.fields).get("checkpoint", ""))) for stage in config.stages]
    named = (model, weights, weights.parent / "open_clip_config.json", *checkpoints)
    files = {str(path): file_sha256(path) for path in named if os.path.isfile(path)}
    return {
        "config": values,
        "prompts": "given" if own_text else hashlib.sha256(content.encode()).hexdigest(),
        "files": files,
        "version": __version__,
    }


def _make(config: Config, text: TextBank | None, offline: bool) -> tuple[Annotator, dict[str, Any]]:
    from ovlabel.builder import build, resolved

    segmenter = build(config, text=text, offline=offline)
    return segmenter, resolved(config, segmenter, own_text=text is not None)


def _text_of(job: Job) -> dict[str, Any]:
    """What a store says of its classes."""
    vocabulary = load_vocabulary(job.config.text.vocabulary) if job.text is None else _vocabulary_of(job.text)
    return {
        "classes": [entry.name for entry in vocabulary.classes],
        "colours": [list(colour) for colour in vocabulary.colours],
        "background": vocabulary.background,
        "vocabulary": vocabulary.content()["classes"],
    }


def _vocabulary_of(bank: TextBank) -> Vocabulary:
    pairs = zip(bank.classes, bank.kinds, strict=True)
    classes = tuple(VocabularyClass(name, kind) for name, kind in pairs)
    return Vocabulary("given", "given", "", classes, bank.background)
