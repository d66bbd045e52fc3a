"""The use case: a folder of photographs → a store. Resumable, because the store is the only state."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from ovlabel import __version__
from ovlabel.cache import file_sha256
from ovlabel.config import Config
from ovlabel.errors import ConfigError, ImageError, StoreError
from ovlabel.images import decode, list_images, printable, read_file
from ovlabel.runs import check_folder, check_run
from ovlabel.store import Record, Store, create_store, exists, locked, open_store
from ovlabel.types import Annotation, ChunkReport, ImageItem, TextBank, UInt8Image
from ovlabel.vocabulary import Vocabulary, VocabularyClass, load_descriptions, load_templates, load_vocabulary

log = logging.getLogger("ovlabel")

_CHUNK_BYTES = 2**28
_CHUNK_SECONDS = 60.0
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
        items: every image of the folder. pending: those that no commit covers.
        settled: the store was written by the very same settings; nothing needs to be compared further.
        left_out: subfolders that could not be read.
    """

    folder: Path
    out: Path
    config: Config
    items: list[ImageItem]
    pending: list[ImageItem]
    store: Store | None
    settled: bool
    written: dict[str, Any]
    text: TextBank | None = None
    chunk_size: int = 64
    offline: bool = False
    left_out: tuple[str, ...] = ()

    @property
    def idle(self) -> bool:
        """Whether nothing is to be done or checked: torch is not needed."""
        return not self.pending and (self.settled or not self.items)

    def failures(self) -> dict[str, Record]:
        """The folder's images that failed, now or earlier."""
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
            ConfigError, WeightsError: the segmenter can't be built.
        """
        if self.idle:
            return
        segmenter, run = (make or _make)(self.config, self.text, self.offline)
        with locked(self.out):
            text = _text_of(self)
            if not exists(self.out):
                create_store(self.out, self.folder, run, self.written, text)
            store = self.store = open_store(self.out)
            check_folder(store, self.folder)
            check_run(store, run)
            store.settle(self.written, self.folder, text)
            store.clear_unfinished()
            self.pending = store.pending(self.items)
            yield from self._chunks(store, segmenter, on_image)

    def _chunks(
        self, store: Store, segmenter: Annotator, on_image: Callable[[Record], None] | None
    ) -> Iterator[ChunkReport]:
        chunk, behind = _Chunk(self.chunk_size), deque[Callable[[], Entry]]()
        try:
            for item in (*self.pending, None):
                if item is not None:
                    behind.append(annotate_image(item, segmenter, store))
                while len(behind) > (segmenter.behind if item else 0):
                    entry = behind.popleft()()
                    chunk.add(entry)
                    if on_image:
                        on_image(entry[0])
                    if chunk.full:
                        yield chunk.commit(store)
            if chunk.entries:
                yield chunk.commit(store)
        except BaseException as error:  # Ctrl-C, an abandoned loop, a defect: keep what is finished, then go on failing
            if chunk.entries and not isinstance(error, StoreError):
                chunk.commit(store)
            raise


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
    chunk_size: int = 64,
    offline: bool = False,
) -> Iterator[ChunkReport]:
    """Annotate what is pending in a folder: an iterator that works as it is walked, a report a commit.

    Args:
        folder: photographs, in any depth of folders. config: from `load_config`.
        out: the store; by default FOLDER.ovlabel.zarr beside the folder.
        text: a bank of one's own in place of the config's vocabulary and templates.
        chunk_size: images in a commit, at the most. offline: open no connection for weights.

    Raises:
        ConfigError, WeightsError, StoreError: see `Job.run`. An image that can't be read is reported, not raised.
    """
    return prepare(folder, config, out, text=text, chunk_size=chunk_size, offline=offline).run()


def prepare(
    folder: str | Path,
    config: Config,
    out: str | Path | None = None,
    *,
    text: TextBank | None = None,
    chunk_size: int = 64,
    offline: bool = False,
) -> Job:
    """List the folder and find what is pending, without torch. Raises ConfigError, StoreError."""
    folder = Path(folder)
    left_out: list[str] = []
    items = list_images(folder, left_out)
    if "://" in str(out):
        raise ConfigError(f"--out {out}: a store is a folder on this machine")
    path = default_store(folder) if out is None else Path(out)
    written = as_written(config, own_text=text is not None)
    store = open_store(path) if exists(path) else None
    if store is not None:
        check_folder(store, folder)
    return Job(
        folder=folder,
        out=path,
        config=config,
        items=items,
        pending=items if store is None else store.pending(items),
        store=store,
        settled=text is None and store is not None and store.attrs["written"] == written,
        written=written,
        text=text,
        chunk_size=chunk_size,
        offline=offline,
        left_out=tuple(left_out),
    )


def default_store(folder: Path) -> Path:
    """FOLDER.ovlabel.zarr beside the folder."""
    real = folder.resolve()
    return real.parent / f"{real.name or 'root'}.ovlabel.zarr"


def annotate_image(item: ImageItem, segmenter: Annotator, store: Store) -> Callable[[], Entry]:
    """Read and begin one image; the call gives its record and arrays.

    A file of the same content as a committed image shares that one's arrays.
    """
    record, stage = Record(item.key, item.size, item.mtime_ns), "open"
    try:
        data, sha256 = read_file(item.path)
        if twin := store.like(sha256):
            return _known((replace(twin, key=item.key, size=item.size, mtime_ns=item.mtime_ns), None))
        record, stage = replace(record, sha256=sha256), "decode"
        image = decode(data)
        stage = "segment"
        finish = segmenter.begin(image)
    except (ImageError, MemoryError, RuntimeError) as error:
        return _known(_failed(record, stage, error))

    def finished() -> Entry:
        try:
            return record, finish()
        except (MemoryError, RuntimeError) as error:
            return _failed(record, stage, error)

    return finished


def _known(entry: Entry) -> Callable[[], Entry]:
    return lambda: entry


def _failed(record: Record, stage: str, error: Exception) -> Entry:
    """The record of an image that can't be annotated; other errors are defects, and raised."""
    if not isinstance(error, ImageError) and not _out_of_memory(error):
        raise error
    reason = str(error) if isinstance(error, ImageError) else "out of memory"
    log.warning("%s: %s", printable(record.key), reason)
    return replace(record, outcome="failed", stage=stage, error=reason), None


def _out_of_memory(error: Exception) -> bool:
    """Whether an image was too large for the machine: Python's, torch's CPU and its devices' ways to say so."""
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error)


def as_written(config: Config, *, own_text: bool = False) -> dict[str, Any]:
    """The settings with the content of the files that they name, as plain JSON values; torch is not needed.

    Two runs of one ovlabel version with equal settings are the same run, and nothing needs to be resolved.
    """
    values = config.to_dict()
    values["encoder"].pop("device")
    vocabulary, templates = load_vocabulary(config.text.vocabulary), load_templates(config.text.templates)
    said = load_descriptions(config.text.descriptions, vocabulary)
    content = json.dumps([vocabulary.content(), dict(templates.by_kind), templates.adaptive, said], sort_keys=True)
    model, weights = (Path(name).expanduser() for name in config.encoder.source)
    checkpoints = [Path(str(dict(stage.fields).get("checkpoint", ""))) for stage in config.stages]
    named = (model, weights, weights.parent / "open_clip_config.json", *checkpoints)
    files = {str(path): file_sha256(path) for path in named if path.is_file()}
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
