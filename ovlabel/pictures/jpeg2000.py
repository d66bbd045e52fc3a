"""What a JPEG 2000 file says of its samples and its parts, which Pillow does not tell."""

from __future__ import annotations

from collections.abc import Iterator

from ovlabel.errors import ImageError
from ovlabel.pictures.stripping import Stripped

SIGNATURES = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
_CODESTREAM, _END = b"\xff\x4f\xff\x51", b"\xff\xd9"
_CHANNELS, _OPACITY = b"cdef", (1, 2)
_SIZE, _CODING, _COMPONENT_CODING, _TILE, _DATA = 0x51, 0x52, 0x53, 0x90, 0x93
_MOST_COMPONENTS = 4
_MOST_BLOCKS = 2**19  # the decoder asks for some four kilobytes of memory for each, before it looks at the data


def depth_of(data: bytes) -> int:
    """The bits of a sample of the first component; 0 where the file does not say."""
    at = data.find(_CODESTREAM) + 42
    return (data[at] & 127) + 1 if 42 <= at < len(data) else 0


def has_opacity(data: bytes) -> bool:
    """Whether the file says that one of its channels is opacity."""
    header = data[: max(data.find(_CODESTREAM), 0)]
    at = header.find(_CHANNELS) + 4
    if at < 4:
        return False
    many = int.from_bytes(header[at : at + 2], "big")
    kinds = (int.from_bytes(header[at + 4 + 6 * n : at + 6 + 6 * n], "big") for n in range(min(many, 16)))
    return any(kind in _OPACITY for kind in kinds)


def strip(data: bytes) -> Stripped:
    """A file whose end is put right where its two bytes are missing; see `stripping.strip`.

    Args:
        data: the file, or its codestream alone.

    Raises:
        ImageError: a part of it is missing, or it has so many components or code blocks that the decoder would need
            far more memory than the pixels take.
    """
    samples = 0
    for marker, body in _segments(data):
        if marker == _SIZE and len(body) >= 36:
            numbers = [int.from_bytes(body[at : at + 4], "big") for at in range(2, 34, 4)]
            components = int.from_bytes(body[34:36], "big")
            samples = (numbers[0] - numbers[2]) * (numbers[1] - numbers[3]) * components
            if components > _MOST_COMPONENTS:
                raise ImageError(f"a JPEG 2000 image of {components} components, which can't be read")
        elif marker in (_CODING, _COMPONENT_CODING):
            blocks = _blocks(samples, body if marker == _CODING else body[1:2] + bytes(4) + body[2:])
            if blocks > _MOST_BLOCKS:
                raise ImageError(f"a JPEG 2000 image in {blocks} code blocks; more than {_MOST_BLOCKS} are not decoded")
    return Stripped(data if data.endswith(_END) else data + _END)


def _blocks(samples: int, coding: bytes) -> int:
    """How many code blocks hold so many samples, given how an image or a component of it is coded."""
    if len(coding) < 10:
        return 0
    levels = min(coding[5], 32)
    precincts = coding[10 : 11 + levels] if coding[0] & 1 else b""
    blocks = 0
    for level in range(levels + 1):
        precinct = precincts[level] if level < len(precincts) else 0xFF
        width = min(coding[6] + 2, max((precinct & 15) - (level > 0), 0))
        height = min(coding[7] + 2, max((precinct >> 4) - (level > 0), 0))
        blocks += samples >> 2 * (levels - level) + width + height
    return blocks


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The markers and segments of the main header and those of the tiles. Raises ImageError where a tile is cut."""
    at, tile_end = data.find(_CODESTREAM) + 2, 0
    while 2 <= at <= len(data) - 4 and data[at] == 0xFF:
        marker, size = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _DATA:
            if tile_end <= at:
                return
            at = tile_end
            continue
        if marker == _TILE:
            length = int.from_bytes(data[at + 6 : at + 10], "big")
            tile_end = at + max(length, 14) if length else len(data)
            if tile_end > len(data):
                raise ImageError("image file is truncated: a tile is missing")
        yield marker, data[at + 4 : at + 2 + size]
        at += 2 + max(size, 2)
