"""From an image file to its entry: read ahead in threads, begin, finish. What one process does, here or on a worker."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ovlabel.errors import ImageError, VanishedError, out_of_memory, printable
from ovlabel.pictures.read import Content, decode_first, read_file
from ovlabel.run.identity import RunIdentity
from ovlabel.store.record import Record, now
from ovlabel.types import Annotation, ChunkReport, ImageItem, UInt8Image

log = logging.getLogger("ovlabel")

_READERS = max(1, min(4, (os.cpu_count() or 1) // 2))
_AHEAD_BYTES = 2**28  # of pixels that are read and wait
VANISHED = "vanished"  # an outcome that is told, and never committed
Entry = tuple[Record, Annotation | None]


class Annotator(Protocol):
    """What a job needs of a segmenter."""

    @property
    def behind(self) -> int:
        """How many images may be begun before the first of them is finished."""

    @property
    def together(self) -> int:
        """How many images are best begun at once."""

    def begin(self, image: UInt8Image) -> Callable[[], Annotation]:
        """Begin to annotate a uint8 H W 3 RGB image; the call finishes it."""

    def begin_all(self, images: Sequence[UInt8Image]) -> list[Callable[[], Annotation]]:
        """The same for several images at once."""


Maker = Callable[[RunIdentity, bool], tuple[Annotator, dict[str, Any]]]


class Known(Protocol):
    """What is known of images before: a store, or as much of it as travels to a worker."""

    @property
    def records(self) -> Mapping[str, Record]:
        """By key."""

    def like(self, sha256: str) -> Record | None:
        """A done image with this content, whose arrays a file of another name can share."""


Note = Callable[[set[str]], None]


@dataclass(frozen=True)
class Records:
    """`Known` without a store."""

    records: Mapping[str, Record] = field(default_factory=dict)

    def like(self, _: str) -> None:
        """Nothing."""


def annotate_items(
    items: Iterable[ImageItem], known: Known, segmenter: Annotator, note: Note | None = None
) -> Iterator[Entry]:
    """Read ahead → begin → finish, each at its own pace: an entry an image, in the order of the items."""
    begun, together = deque[Callable[[], Entry]](), list[Reading]()
    for reading in read_ahead(items, known, note, segmenter.together, segmenter.behind):
        together += [] if reading is None else [reading]
        if reading is None or len(together) >= segmenter.together:
            begun += begin_images(together, segmenter)
            together = []
        while len(begun) > (segmenter.behind if reading else 0):
            yield begun.popleft()()


def begin_images(readings: Sequence[Reading], segmenter: Annotator) -> list[Callable[[], Entry]]:
    """Begin several images at once; one by one, where there is no room for all of them."""
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


@dataclass(frozen=True)
class Reading:
    """An image file as it was read: its record so far, the pixels, or the entry that is known without them."""

    record: Record
    before: Record | None
    pixels: UInt8Image | None = None
    entry: Entry | None = None


def read_ahead(
    items: Iterable[ImageItem], known: Known, note: Note | None = None, together: int = 1, behind: int = 0
) -> Iterator[Reading | None]:
    """Read and decode in threads, a few images ahead of whoever takes them, in order; None at the end.

    As many as there are threads are in work, and `together` wait, of so many bytes at the most. `note` is told which
    images are in work (being read, waiting, `together` begun, `behind` to be finished), for whoever comes after should
    this process die of one of them.
    """
    known.like("")  # makes the index, before there are threads
    waiting, left = deque[tuple[str, Future[Reading]]](), iter(items)
    reader = ThreadPoolExecutor(_READERS, thread_name_prefix="ovlabel read")
    try:
        taken = deque[str](maxlen=together + behind)
        while True:
            ready = [future.result().pixels for _, future in waiting if future.done() and not future.exception()]
            held = sum(pixels.nbytes for pixels in ready if pixels is not None)
            while len(waiting) < _READERS + together and held < _AHEAD_BYTES and (item := next(left, None)) is not None:
                if note is not None:
                    note({*taken, item.key, *(key for key, _ in waiting)})
                waiting.append((item.key, reader.submit(read_image, item, known)))
            if not waiting:
                break
            key, future = waiting.popleft()
            taken.append(key)
            yield future.result()
        yield None
    finally:
        reader.shutdown(cancel_futures=True)


def read_known(item: ImageItem, known: Known) -> Record | None:
    """The record of an image whose content is annotated already, under another name or time; None for any other."""
    try:
        content = read_file(item.path)
    except ImageError:
        return None
    return _same(item, content, known)


def _same(item: ImageItem, content: Content, known: Known) -> Record | None:
    if twin := known.like(content.sha256):
        return replace(twin, key=item.key, size=len(content.data), mtime_ns=content.mtime_ns)
    return None


def read_image(item: ImageItem, known: Known) -> Reading:
    """Read and decode one image. A file of the same content as a committed image shares that one's arrays."""
    record, stage = Record(item.key, item.size, item.mtime_ns), "open"
    before = known.records.get(item.key)
    try:
        content = read_file(item.path)
        record = replace(record, size=len(content.data), mtime_ns=content.mtime_ns, sha256=content.sha256)
        if same := _same(item, content, known):
            return Reading(same, before, entry=(same, None))
        stage = "decode"
        pixels, more_frames = decode_first(content.data)
        return Reading(replace(record, more_frames=more_frames), before, pixels)
    except VanishedError:
        gone = replace(record, outcome=VANISHED)
        return Reading(gone, before, entry=(gone, None))
    except (ImageError, MemoryError) as error:
        return Reading(record, before, entry=_failed(record, stage, error, before))


def begin_image(reading: Reading, segmenter: Annotator) -> Callable[[], Entry]:
    """Begin to annotate what was read; the call gives its record and arrays."""
    if reading.pixels is None:
        return _finisher(reading, None)
    try:
        return _finisher(reading, segmenter.begin(reading.pixels))
    except (MemoryError, RuntimeError) as error:
        failed = _failed(reading.record, "segment", error, reading.before)
        return lambda: failed


def _finisher(reading: Reading, finish: Callable[[], Annotation] | None) -> Callable[[], Entry]:
    """The call that gives an entry: what is known already, or what `finish` makes."""

    def finished() -> Entry:
        if finish is None:
            return reading.entry or (reading.record, None)
        try:
            return reading.record, finish()
        except (MemoryError, RuntimeError) as error:
            return _failed(reading.record, "segment", error, reading.before)

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


def report_of(records: Iterable[Record], seconds: float) -> ChunkReport:
    """What a commit of these records comes to; `seconds` is what it took with all before it."""
    records = list(records)
    return ChunkReport(
        done=tuple(record.key for record in records if record.outcome == "done"),
        failed=tuple((record.key, record.error) for record in records if record.outcome == "failed"),
        seconds=seconds,
    )


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
