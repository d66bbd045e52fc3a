"""What of an image file the decoder is handed: the pixels and what they need, without the metadata around them.

Decoders refuse whole files for a damaged entry in their metadata. So those parts are left out first; of them only
the EXIF orientation and the colour profile are used, and both may be damaged without harm.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ovlabel.errors import ImageError

PROFILE_BYTES = 2**22  # the largest colour profile that is used

_PPM_HEADER_BYTES = 2**16
_COMMENT = re.compile(rb"#[^\r\n]*+")
_PLAIN_PPM, _ANY_PPM = re.compile(rb"P[123]\s"), re.compile(rb"P[1-6][\s#]")
_PPM_HEADER = re.compile(rb"P[1-6](?:(?:\s|#[^\r\n]*+[\r\n])++[0-9]++){2}")


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
        data: the content of the file. Formats other than JPEG, JPEG 2000, PNG, WebP and PPM are left as they are.

    Raises:
        ImageError: it would take a decoder longer than any photograph does.
    """
    from ovlabel.pictures import jpeg, jpeg2000, png, webp

    if data.startswith(b"\xff\xd8\xff"):
        return jpeg.strip(data)
    if data.startswith(png.SIGNATURE):
        return png.strip(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return webp.strip(data)
    if data.startswith(jpeg2000.SIGNATURES):
        return jpeg2000.strip(data)
    if _PLAIN_PPM.match(data):
        data = _COMMENT.sub(b"", data)
    if _ANY_PPM.match(data) and not _PPM_HEADER.match(data[:_PPM_HEADER_BYTES]):
        raise ImageError(f"a PPM whose first {_PPM_HEADER_BYTES / 2**10:g} KiB do not say how large it is")
    return Stripped(data)
