"""Image files are read and decoded in threads, a few images ahead of the encoder.

An image whose content is annotated already (a renamed, copied or touched file) is recognised by its checksum and shares
the arrays of the image that is there.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

from ovlabel.errors import ImageError, VanishedError, out_of_memory, printable
from ovlabel.pictures.read import MAX_FILE_BYTES, Content, decode_first, read_file
from ovlabel.store.record import Record, now
from ovlabel.types import Annotation, ImageItem, UInt8Image

log = logging.getLogger("ovlabel")

VANISHED = "vanished"  # the outcome of a file that is not there any more: it is reported, and never committed
_READERS = max(1, min(4, (os.cpu_count() or 1) // 2))
_AHEAD_BYTES = 2**28  # most bytes of decoded pixels that are held before the encoder takes them
Entry = tuple[Record, Annotation | None]  # what is committed of one image; None where it has no arrays of its own
NoteWork = Callable[[set[str]], None]  # is told the keys of the images that are in work


class Known(Protocol):
    """What is known of images from earlier commits: a store, or the part of it that travels to a worker."""

    @property
    def records(self) -> Mapping[str, Record]:
        """The record that counts of every image, by key."""

    def like(self, sha256: str) -> Record | None:
        """The record of an annotated image with this content, or None."""


@dataclass(frozen=True)
class Records:
    """Records by key, without their arrays: what a worker knows of the store."""

    records: Mapping[str, Record] = field(default_factory=dict)

    def like(self, _: str) -> None:
        """Always None: no image shares the arrays of another."""


@dataclass(frozen=True)
class Reading:
    """What came of reading one image file.

    Attributes:
        record: the image's record so far.
        before: its record of an earlier run, or None.
        pixels: uint8, H × W × 3, RGB; None where `entry` is known without them.
        entry: the finished entry of an image that failed, vanished, or is annotated already.
    """

    record: Record
    before: Record | None
    pixels: UInt8Image | None = None
    entry: Entry | None = None


def read_ahead(
    items: Iterable[ImageItem], known: Known, note: NoteWork | None = None, together: int = 1, unfinished: int = 0
) -> Iterator[Reading | None]:
    """Read and decode images in threads, in the order of the items; None comes at the end.

    As many images are read at once as there are threads, and `together` more wait, of 256 MiB of pixels at the most.

    Args:
        items: the images.
        known: what is known of them.
        note: is told which images are in work (being read, waiting, being segmented), so that a run that is killed
            leaves word of which image it may have died of.
        together: images that are segmented at once.
        unfinished: images that are segmented and still wait for a stage that works in another process.
    """
    known.like("")  # makes the index before there are threads
    waiting, left = deque[tuple[str, Future[Reading]]](), iter(items)
    reader = ThreadPoolExecutor(_READERS, thread_name_prefix="ovlabel read")
    try:
        taken = deque[str](maxlen=together + unfinished)
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
    return _same_content(item, content, known)


def read_image(item: ImageItem, known: Known) -> Reading:
    """Read and decode one image file.

    Args:
        item: the image.
        known: what is known of images; one with the same content makes decoding unnecessary.
    """
    record = Record(item.key, item.size, item.mtime_ns)
    stage = "open" if item.size <= MAX_FILE_BYTES else "decode"  # what can't be opened is tried again in every run
    before = known.records.get(item.key)
    try:
        content = read_file(item.path)
        record = replace(record, size=len(content.data), mtime_ns=content.mtime_ns, sha256=content.sha256)
        if same := _same_content(item, content, known):
            return Reading(same, before, entry=(same, None))
        stage = "decode"
        found = decode_first(content.data)
        kept = {name: value for name, value in found._asdict().items() if name != "pixels"}
        return Reading(replace(record, **kept), before, found.pixels)
    except VanishedError:
        vanished = replace(record, outcome=VANISHED)
        return Reading(vanished, before, entry=(vanished, None))
    except (ImageError, MemoryError) as error:
        return Reading(record, before, entry=failed_entry(record, stage, error, before))


def failed_entry(record: Record, stage: str, error: Exception, before: Record | None) -> Entry:
    """The entry of an image that can't be annotated.

    Args:
        record: its record so far.
        stage: where it failed: "open", "decode" or "segment".
        error: what was raised; anything but an ImageError or a lack of memory is a defect and raised again.
        before: its record of an earlier run, for the number of attempts.
    """
    if not isinstance(error, ImageError) and not out_of_memory(error):
        raise error
    reason = str(error) if isinstance(error, ImageError) else "out of memory"
    log.warning("%s: %s", printable(record.key), reason)
    again = before is not None and before.outcome == "failed" and before.sha256 == record.sha256
    failed = replace(
        record,
        outcome="failed",
        stage=stage,
        exception=type(error.__cause__ or error).__name__,
        error=reason,
        time=now(),
        attempts=before.attempts + 1 if before and again else 1,
    )
    return failed, None


def _same_content(item: ImageItem, content: Content, known: Known) -> Record | None:
    if twin := known.like(content.sha256):
        return replace(twin, key=item.key, size=len(content.data), mtime_ns=content.mtime_ns)
    return None
