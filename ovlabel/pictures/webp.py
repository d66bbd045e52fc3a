"""WebP files without their metadata and without further frames."""

from __future__ import annotations

from collections.abc import Iterator

from ovlabel.errors import ImageError
from ovlabel.pictures.stripping import PROFILE_BYTES, Stripped

MAX_CHUNKS = 2**16
_PIXELS = (b"VP8 ", b"VP8L", b"ALPH", b"ANIM")
_PROFILE, _EXIF, _XMP = 0x20, 0x08, 0x04  # flags of the header that say which metadata follow


def strip(data: bytes) -> Stripped:
    """A WebP with its first frame alone; see `stripping.strip`."""
    kept, exif, profile, frames = [], b"", b"", 0
    for count, (name, chunk) in enumerate(_chunks(data)):
        if count == MAX_CHUNKS:
            raise ImageError(f"a WebP of more than {MAX_CHUNKS} chunks, which are not read")
        if name == b"ANMF":
            frames += 1
        if name in _PIXELS or (name == b"ANMF" and frames == 1):
            kept.append(chunk)
        elif name == b"VP8X":
            kept.append(chunk[:8] + bytes([chunk[8] & ~(_PROFILE | _EXIF | _XMP)]) + chunk[9:] if chunk[8:] else chunk)
        elif name == b"EXIF":
            exif = exif or chunk[8:].removeprefix(b"Exif\0\0")
        elif name == b"ICCP" and len(chunk) <= PROFILE_BYTES:
            profile = profile or chunk[8:]
    body = b"".join(kept)
    whole = b"RIFF" + (4 + len(body)).to_bytes(4, "little") + b"WEBP" + body
    return Stripped(whole, exif, profile, frames > 1)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The name of each chunk, and all of it; chunks begin at even places."""
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + size + size % 2
        yield data[at : at + 4], data[at:end]
        at = end
