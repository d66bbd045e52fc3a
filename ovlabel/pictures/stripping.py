"""What of an image file the decoder is handed: the pixels and what they need, without the metadata around them.

Decoders refuse whole files for a damaged entry in their metadata. So those parts are left out first; of them only
the EXIF orientation and the colour profile are used, and both may be damaged without harm.
"""

from __future__ import annotations

from dataclasses import dataclass

PROFILE_BYTES = 2**22  # the largest colour profile that is used


@dataclass(frozen=True)
class Stripped:
    """An image file without its metadata.

    Attributes:
        data: a file of the same format with the same pixels, as little else as possible, and one frame.
        exif: the EXIF block, beginning with its TIFF header; empty where there is none.
        profile: the ICC profile; empty where there is none.
        more_frames: whether the file holds further frames; None where only the decoder can tell.
        bits: how many bits of every sample are used, as far as the file says; 0 where it does not.
        cut: whether the end of a JPEG is missing, so that rows of it may be missing too.
    """

    data: bytes
    exif: bytes = b""
    profile: bytes = b""
    more_frames: bool | None = None
    bits: int = 0
    cut: bool = False


def strip(data: bytes) -> Stripped:
    """Leave out of an image file what its pixels do not need.

    Args:
        data: the content of the file. Formats other than JPEG, PNG and WebP are left as they are.

    Raises:
        ImageError: it would take a decoder longer than any photograph does.
    """
    from ovlabel.pictures import jpeg, png, webp

    if data.startswith(b"\xff\xd8\xff"):
        return jpeg.strip(data)
    if data.startswith(png.SIGNATURE):
        return png.strip(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return webp.strip(data)
    return Stripped(data)
