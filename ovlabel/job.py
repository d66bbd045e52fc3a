"""The use case: a folder of photographs → a store. Resumable, because the store is the only state."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
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
        chunk, behind = _Chunk(self.chunk_size), deque[tuple[str, Callable[[], Entry]]]()
        last = set(store.lock.suspects if store.lock else ())
        for key in sorted(last & {item.key for item in self.pending}):
            log.warning("%s: was in work when an earlier run died; its turn comes last", printable(key))
        try:
            for item in (*sorted(self.pending, key=lambda item: item.key in last), None):
                alone = item is None or item.key in last
                if item is not None and not alone:
                    _begin(item, behind, segmenter, store, last)
                while len(behind) > (0 if alone else segmenter.behind):
                    self._finish(behind, chunk, on_image)
                    if chunk.full:
                        yield chunk.commit(store)
                if alone and chunk.entries:
                    yield chunk.commit(store)
                if item is not None and alone:
                    _begin(item, behind, segmenter, store, last)
        except BaseException as error:  # Ctrl-C, an abandoned loop, a defect: keep what is finished, then go on failing
            if chunk.entries and not isinstance(error, StoreError):
                chunk.commit(store)
            raise

    def _finish(
        self, behind: deque[tuple[str, Callable[[], Entry]]], chunk: _Chunk, on_image: Callable[[Record], None] | None
    ) -> None:
        """Wait for the first of those behind."""
        record, annotation = behind.popleft()[1]()
        if record.outcome == _VANISHED:
            self.gone.append(record.key)
        else:
            chunk.add((record, annotation))
        if on_image:
            on_image(record)


def _begin(
    item: ImageItem,
    behind: deque[tuple[str, Callable[[], Entry]]],
    segmenter: Annotator,
    store: Store,
    suspects: set[str],
) -> None:
    """Begin an image; the lock says which ones are in work, for whoever takes it over should this process die."""
    if store.lock is not None:
        store.lock.note(sorted({item.key, *(key for key, _ in behind), *suspects}))
    behind.append((item.key, annotate_image(item, segmenter, store)))


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

    def commit(self, store: Store) -> ChunkReport:
        entries = self.entries
        store.commit(entries)
        self.entries, self.bytes = [], 0  # only now: an interrupted commit is tried once more
        started, self.since = self.since, time.monotonic()
        records = [record for record, _ in entries]
        return ChunkReport(
            done=tuple(r.key for r in records if r.outcome == "done"),
            failed=tuple((r.key, r.error) for r in records if r.outcome == "failed"),
            seconds=self.since - started,
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


def annotate_image(item: ImageItem, segmenter: Annotator, store: Store) -> Callable[[], Entry]:
    """Read and begin one image; the call gives its record and arrays.

    A file of the same content as a committed image shares that one's arrays.
    """
    record, stage = Record(item.key, item.size, item.mtime_ns), "open"
    before = store.records.get(item.key)
    try:
        content = read_file(item.path)
        record = replace(record, size=len(content.data), mtime_ns=content.mtime_ns, sha256=content.sha256)
        if twin := store.like(content.sha256):
            return _known((replace(twin, key=record.key, size=record.size, mtime_ns=record.mtime_ns), None))
        stage = "decode"
        image, more_frames = decode_first(content.data)
        record, stage = replace(record, more_frames=more_frames), "segment"
        del content
        finish = segmenter.begin(image)
        del image
    except VanishedError:
        return _known((replace(record, outcome=_VANISHED), None))
    except (ImageError, MemoryError, RuntimeError) as error:
        return _known(_failed(record, stage, error, before))

    def finished() -> Entry:
        try:
            return record, finish()
        except (MemoryError, RuntimeError) as error:
            return _failed(record, stage, error, before)

    return finished


def _known(entry: Entry) -> Callable[[], Entry]:
    return lambda: entry


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
