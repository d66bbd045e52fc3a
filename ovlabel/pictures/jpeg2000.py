"""What a JPEG 2000 file says of its samples, which Pillow does not tell."""

from __future__ import annotations

_CODESTREAM = b"\xff\x4f\xff\x51"
_CHANNELS = b"cdef"
_OPACITY = (1, 2)


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
