"""The images of a run, annotated in this process. The executor `dask` does the same on other processes.

Three steps overlap: threads read the next images, the segmenter annotates, and a thread commits what is finished.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from ovlabel.errors import StoreError, out_of_memory, printable
from ovlabel.run.identity import RunIdentity
from ovlabel.run.reading import VANISHED, Entry, Known, NoteWork, Reading, failed_entry, read_ahead
from ovlabel.store.record import Record
from ovlabel.store.write import StoreWriter
from ovlabel.types import Annotation, ChunkReport, ImageItem, UInt8Image

log = logging.getLogger("ovlabel")

_CHUNK_BYTES = 2**28  # of arrays in one commit
_CHUNK_SECONDS = 60.0  # of work in one commit
OnImage = Callable[[Record], None]  # called with the record of every image as soon as its outcome is known


class Annotator(Protocol):
    """What a run needs of a segmenter."""

    @property
    def in_flight(self) -> int:
        """How many images may be begun before the first of them is finished."""

    @property
    def together(self) -> int:
        """How many images are best begun at once."""

    def begin(self, image: UInt8Image) -> Callable[[], Annotation]:
        """Begin to annotate an image (uint8, H × W × 3, RGB); the call that is returned finishes it."""

    def begin_all(self, images: Sequence[UInt8Image]) -> list[Callable[[], Annotation]]:
        """The same for several images at once."""


Maker = Callable[[RunIdentity, bool], tuple[Annotator, dict[str, Any]]]  # (run, offline) → segmenter, run as resolved


class Executor(Protocol):
    """Annotates images and commits the results: `LocalExecutor` in this process, `DaskExecutor` on a cluster."""

    def run(self, items: Sequence[ImageItem], store: StoreWriter, on_image: OnImage) -> Iterator[ChunkReport]:
        """Annotate images; what was finished is committed even if the iteration is left early.

        Args:
            items: the images, in the order in which they are annotated.
            store: where to; opened for writing.
            on_image: called with every image's record before it is committed, for deleted files too.

        Returns:
            A report for each commit.
        """


def make_segmenter(run: RunIdentity, offline: bool) -> tuple[Annotator, dict[str, Any]]:
    """The segmenter of a run, and the run as resolved.

    Args:
        run: the settings and the content of their files.
        offline: open no connection for weights.

    Raises:
        ConfigError, WeightsError: see `ovlabel.build`.
    """
    from ovlabel.spine.build import build

    segmenter = build(run.config, text=run.text, prompts=run.prompts, offline=offline)
    return segmenter, run.resolved(segmenter)


def annotate_items(
    items: Iterable[ImageItem], known: Known, segmenter: Annotator, note: NoteWork | None = None
) -> Iterator[Entry]:
    """Read and annotate images; yields an entry for each, in the order of the items.

    Args:
        items: the images.
        known: the records of earlier runs, and of equal files.
        segmenter: annotates them.
        note: called with the keys of the images that are being annotated.
    """
    begun, together = deque[Callable[[], Entry]](), list[Reading]()
    for reading in read_ahead(items, known, note, segmenter.together, segmenter.in_flight):
        together += [] if reading is None else [reading]
        if reading is None or len(together) >= segmenter.together:
            begun += begin_images(together, segmenter)
            together = []
        while len(begun) > (segmenter.in_flight if reading else 0):
            yield begun.popleft()()


def begin_images(readings: Sequence[Reading], segmenter: Annotator) -> list[Callable[[], Entry]]:
    """Begin several images at once, or one by one where there is no memory for all of them."""
    pixels = [reading.pixels for reading in readings if reading.pixels is not None]
    if len(pixels) > 1:
        try:
            calls = iter(segmenter.begin_all(pixels))
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
        else:
            return [_finisher(r, None if r.pixels is None else next(calls)) for r in readings]
    return [begin_image(reading, segmenter) for reading in readings]


def begin_image(reading: Reading, segmenter: Annotator) -> Callable[[], Entry]:
    """Begin one image; the call that is returned gives its entry."""
    if reading.pixels is None:
        return _finisher(reading, None)
    try:
        return _finisher(reading, segmenter.begin(reading.pixels))
    except (MemoryError, RuntimeError) as error:
        failed = failed_entry(reading.record, "segment", error, reading.before)
        return lambda: failed


def _finisher(reading: Reading, finish: Callable[[], Annotation] | None) -> Callable[[], Entry]:
    """The call that gives an entry: what is known already, or what `finish` makes."""

    def finished() -> Entry:
        if finish is None:
            return reading.entry or (reading.record, None)
        try:
            return reading.record, finish()
        except (MemoryError, RuntimeError) as error:
            return failed_entry(reading.record, "segment", error, reading.before)

    return finished


def report_of(records: Iterable[Record], seconds: float) -> ChunkReport:
    """The report of a commit.

    Args:
        records: what was committed.
        seconds: how long it took, with the annotation of its images.
    """
    records = list(records)
    return ChunkReport(
        done=tuple(record.key for record in records if record.outcome == "done"),
        failed=tuple((record.key, record.error) for record in records if record.outcome == "failed"),
        seconds=seconds,
    )


def commit(store: StoreWriter, entries: list[Entry], since: float) -> ChunkReport:
    """Commit entries.

    Args:
        store: where to.
        entries: records and annotations.
        since: when work on them began (`time.monotonic`).
    """
    store.commit(entries)
    return report_of((record for record, _ in entries), time.monotonic() - since)


@dataclass(frozen=True)
class LocalExecutor:
    """See `Executor`: the images are annotated in this process.

    Attributes:
        segmenter: annotates them.
        chunk_size: most images in one commit.
    """

    segmenter: Annotator
    chunk_size: int

    def run(self, items: Sequence[ImageItem], store: StoreWriter, on_image: OnImage) -> Iterator[ChunkReport]:
        """See `Executor.run`. Images that were in work when an earlier run was killed come last, each by itself."""
        suspects = set(store.lock.suspects) & {item.key for item in items}
        for key in sorted(suspects):
            log.warning("%s: was in work when an earlier run died; its turn comes last", printable(key))
        groups = [[item for item in items if item.key not in suspects]]
        groups += [[item] for item in items if item.key in suspects]
        with _CommitThread(store) as commits:
            for group in groups:
                yield from self._group(group, store, commits, on_image)

    def _group(
        self, items: list[ImageItem], store: StoreWriter, commits: _CommitThread, on_image: OnImage
    ) -> Iterator[ChunkReport]:
        """Annotate and commit in the order of the items."""
        chunk = _Chunk(self.chunk_size)
        try:
            for record, annotation in annotate_items(items, store, self.segmenter, _noting(store)):
                if record.outcome != VANISHED:
                    chunk.add((record, annotation))
                on_image(record)
                if chunk.full:
                    yield from commits.put(chunk)
                    chunk = _Chunk(self.chunk_size)
                yield from commits.done()
            yield from commits.put(chunk)
            yield from commits.done(wait=True)
        except BaseException as error:  # Ctrl-C, an abandoned iteration, a defect: commit what is finished, then raise
            if not isinstance(error, StoreError):
                list(commits.put(chunk))
                list(commits.done(wait=True))
            raise


def _noting(store: StoreWriter) -> NoteWork:
    """A function that notes in the lock the images in progress, beside those an earlier run may have died of."""
    suspects = store.lock.suspects

    def note(keys: set[str]) -> None:
        store.lock.note(sorted(keys.union(suspects)))

    return note


class _CommitThread:
    """Commits chunks in a separate thread, one at a time, in order, while the segmenter continues.

    Python handles signals in the main thread, so that none interrupts a commit.
    """

    def __init__(self, store: StoreWriter) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ovlabel write")
        self._writing: Future[ChunkReport] | None = None

    def __enter__(self) -> _CommitThread:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def put(self, chunk: _Chunk) -> Iterator[ChunkReport]:
        """Begin to commit a chunk that is not empty; yields the report of the commit before it."""
        yield from self.done(wait=True)
        if chunk.entries:
            entries, chunk.entries = chunk.entries, []
            self._writing = self._thread.submit(commit, self._store, entries, chunk.since)

    def done(self, *, wait: bool = False) -> Iterator[ChunkReport]:
        """Yields the report of the commit that is under way, if it is done. Raises what the commit raised."""
        if self._writing is not None and (wait or self._writing.done()):
            report = self._writing.result()
            self._writing = None
            yield report


@dataclass
class _Chunk:
    """Finished images that are not committed yet: a limited number, of limited size and age."""

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
