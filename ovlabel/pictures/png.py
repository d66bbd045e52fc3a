"""PNG files without their metadata: chunks that pixels do not need are left out, whatever state they are in."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from ovlabel.errors import ImageError
from ovlabel.pictures.stripping import PROFILE_BYTES, Stripped

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 2**20
_NEEDED = (b"IHDR", b"PLTE")  # with the checksums that they have: the decoder looks at them
# left, top, step across and step down of the passes of an interlaced PNG (Adam7)
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_END = b"\0\0\0\0IEND\xaeB`\x82"


def strip(data: bytes) -> Stripped:
    """A PNG without metadata and further frames, its pixels in one chunk; see `stripping.strip`."""
    head, pixels, notes = [SIGNATURE], [], _Notes()
    for count, (name, start, size) in enumerate(_chunks(data)):
        if count == MAX_CHUNKS:
            raise ImageError(f"a PNG of more than {MAX_CHUNKS} chunks, which are not read")
        if name == b"IDAT":
            pixels.append(data[start + 8 : start + 8 + size])
        elif name in _NEEDED or (name == b"tRNS" and _intact(data, start, size)):
            head.append(data[start : start + 12 + size])
        else:
            notes.add(name, data, start, size)
    body = b"".join(pixels)
    if len(body) >= 2**31:
        raise ImageError("a PNG with more than 2 GiB of pixels, which are not read")
    chunk = [len(body).to_bytes(4, "big"), b"IDAT", body, zlib.crc32(body, zlib.crc32(b"IDAT")).to_bytes(4, "big")]
    whole = b"".join([*head, *(chunk if pixels else ()), _END])
    return Stripped(whole, notes.exif, notes.profile, notes.frames > 1, notes.bits)


def is_whole(stripped: bytes) -> bool:
    """Whether the pixels of a PNG hold all of its rows; decoders leave rows black that are not there.

    Args:
        stripped: from `strip`.
    """
    start = stripped.find(b"IDAT") + 4
    width, height = (int.from_bytes(stripped[at : at + 4], "big") for at in (16, 20))
    bits = stripped[24] * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[stripped[25]]
    passes = _ADAM7 if stripped[28] else ((0, 0, 1, 1),)
    wanted = 0
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        wanted += rows * (1 + -(-columns * bits // 8)) if columns > 0 else 0
    inflate, rest = zlib.decompressobj(), stripped[start : -len(_END)]
    with contextlib.suppress(zlib.error):
        while wanted > 0 and rest and not inflate.eof:
            wanted -= len(inflate.decompress(rest, 2**20))
            rest = inflate.unconsumed_tail
    return wanted <= 0


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, position and size of each chunk up to the end; the last one may be cut.

    Where a chunk of metadata names a size that leads nowhere, the pixels are looked for after it.
    """
    at = len(SIGNATURE)
    while at + 8 <= len(data):
        size, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if name == b"IEND":
            return
        yield name, at, size
        following = at + 12 + size
        if name not in (b"IHDR", b"IDAT") and not data[following + 4 : following + 8].isalpha():
            following = data.find(b"IDAT", at + 8) - 4
            if following < 0:
                return
        at = following


def _intact(data: bytes, start: int, size: int) -> bool:
    """Whether a chunk has the checksum that it names."""
    end = start + 8 + size
    return zlib.crc32(data[start + 4 : end]).to_bytes(4, "big") == data[end : end + 4]


@dataclass
class _Notes:
    """What the chunks around the pixels say."""

    exif: bytes = b""
    profile: bytes = b""
    frames: int = 0
    bits: int = 0
    _seen: set[bytes] = field(default_factory=set)

    def add(self, name: bytes, data: bytes, start: int, size: int) -> None:
        """Look at a chunk that the decoder is not handed. The first of a name counts, if its checksum is right."""
        if name not in (b"eXIf", b"iCCP", b"acTL", b"sBIT") or name in self._seen or not _intact(data, start, size):
            return
        self._seen.add(name)
        body = data[start + 8 : start + 8 + size]
        if name == b"eXIf":
            self.exif = body.removeprefix(b"Exif\0\0")
        elif name == b"iCCP":
            self.profile = _inflated(body.partition(b"\0")[2][1:])
        elif name == b"acTL":
            self.frames = int.from_bytes(body[:4], "big")
        elif body and data[24] == 16:  # the depth of the image
            self.bits = max(body[:3] if data[25] & 2 else body[:1])


def _inflated(data: bytes) -> bytes:
    """A compressed profile, or nothing if it is damaged or too large."""
    try:
        profile = zlib.decompressobj().decompress(data, PROFILE_BYTES + 1)
    except zlib.error:
        return b""
    return profile if len(profile) <= PROFILE_BYTES else b""
