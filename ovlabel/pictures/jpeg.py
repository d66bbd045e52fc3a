"""JPEG files without their metadata, and how many scans one may have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ovlabel.errors import ImageError
from ovlabel.pictures.stripping import PROFILE_BYTES, Stripped

# A progressive JPEG of today's encoders has 6 to 12 scans. Each goes through all of the image, even an empty one, so
# that a small file could keep a decoder busy for hours.
MAX_SCANS = 128
_SCANNED_PIXELS = 2**32  # scans × pixels
_MOST_MARKERS = 2**16
END = b"\xff\xd9"
_SOI, _EOI, _SOS, _APP0, _APP1, _APP2, _APP14 = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xE2, 0xEE
_ALONE = {0x01, *range(0xD0, _EOI)}  # markers without a segment
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # those that begin a frame
_KEPT = {*range(0xC0, 0xD0), *range(0xDA, 0xE0)}  # tables, frames and scans
_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
_EXIF, _ICC = b"Exif\0", b"ICC_PROFILE\0"


class _Part(NamedTuple):
    """A marker with its segment, and with the coded data that follows a scan's."""

    marker: int
    start: int
    payload: bytes
    end: int


def strip(data: bytes) -> Stripped:
    """A JPEG up to its end, without metadata; see `stripping.strip`."""
    kept, notes, scans = [data[:2]], _Notes(), _Scans()
    ended = False
    for part in _parts(data):
        if part.marker == _EOI:
            ended = True
            break
        scans.add(part)
        if part.marker in _KEPT:
            kept.append(data[part.start : part.end])
        elif part.marker == _APP0 and part.payload.startswith(b"JFIF\0") and len(part.payload) >= 14:
            kept.append(_JFIF)
        elif part.marker == _APP14 and part.payload.startswith(b"Adobe") and len(part.payload) >= 12:
            kept.append(b"\xff\xee\x00\x0e" + part.payload[:12])
        else:
            notes.add(part)
    cut = not ended and scans.count > 0
    if cut and not scans.complete:
        raise ImageError("image file is truncated: scans are missing")
    whole = b"".join(kept)
    if ended or cut:
        whole = whole.rstrip(b"\xff") + END  # half of the end may be there
    return Stripped(whole, notes.exif, notes.profile(), False, cut=cut)


def continuations(data: bytes) -> Iterator[bytes]:
    """A JPEG whose end was missing, with different bytes in place of what may be missing before it.

    Where its pixels stay as they were, nothing was missing but the end.

    Args:
        data: `Stripped.data` of a JPEG that is cut.
    """
    for filler in (b"\xaa", b"\xfe"):  # as bits: codes of every length begin in one of them
        yield data.removesuffix(END) + 1024 * filler + END


def _parts(data: bytes) -> Iterator[_Part]:
    """The parts of a file; bytes between them are passed over, as decoders do."""
    at, count = 2, 0
    while found := _MARKER.search(data, at):
        count += 1
        if count > _MOST_MARKERS:
            raise ImageError(f"a JPEG of more than {_MOST_MARKERS} segments, which are not read")
        marker, start = data[found.end() - 1], found.start()
        at = found.end()
        if marker in _ALONE:
            continue
        if marker == _EOI:
            yield _Part(marker, start, b"", at)
            return
        size = int.from_bytes(data[at : at + 2], "big")
        payload = data[at + 2 : at + size]
        at += max(size, 2)
        if marker == _SOS:
            after = _AFTER_SCAN.search(data, at)
            at = after.start() if after else len(data)
        yield _Part(marker, start, payload, at)


@dataclass
class _Notes:
    """The EXIF block and the colour profile, which may be spread over several segments."""

    exif: bytes = b""
    parts: dict[int, bytes] = field(default_factory=dict)

    def add(self, part: _Part) -> None:
        """Look at a segment that the decoder is not handed."""
        if part.marker == _APP1 and part.payload.startswith(_EXIF) and not self.exif:
            self.exif = part.payload[6:]
        elif part.marker == _APP2 and part.payload.startswith(_ICC) and len(part.payload) > 14:
            self.parts.setdefault(part.payload[12], part.payload[14:])

    def profile(self) -> bytes:
        """The colour profile, or nothing if it is too large."""
        whole = b"".join(self.parts[number] for number in sorted(self.parts))
        return whole if len(whole) <= PROFILE_BYTES else b""


@dataclass
class _Scans:
    """The scans of a file: how many, and whether they give every coefficient in full."""

    count: int = 0
    pixels: int = 0
    components: set[int] = field(default_factory=set)
    given: dict[int, set[int]] = field(default_factory=dict)

    def add(self, part: _Part) -> None:
        """Note a frame or a scan. Raises ImageError where there are too many scans."""
        body = part.payload
        if part.marker in _FRAMES and len(body) >= 6:
            self.pixels = int.from_bytes(body[1:3], "big") * int.from_bytes(body[3:5], "big")
            self.components = set(body[6 : 6 + 3 * body[5] : 3])
        if part.marker != _SOS:
            return
        self.count += 1
        if self.count > MAX_SCANS or self.count * self.pixels > _SCANNED_PIXELS:
            raise ImageError(
                f"a JPEG of {self.pixels / 1e6:.1f} megapixels in {self.count} scans or more, which are not decoded"
            )
        self._note_coefficients(body)

    def _note_coefficients(self, body: bytes) -> None:
        many = body[0] if body else 0
        if len(body) < 4 + 2 * many:
            return
        first, last, shift = body[1 + 2 * many : 4 + 2 * many]
        if shift & 15 == 0:
            for component in body[1 : 1 + 2 * many : 2]:
                self.given.setdefault(component, set()).update(range(first, min(last, 63) + 1))

    @property
    def complete(self) -> bool:
        """Whether every component has all its coefficients, to the last bit."""
        return all(len(self.given.get(component, ())) == 64 for component in self.components)
