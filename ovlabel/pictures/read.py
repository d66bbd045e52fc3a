"""Reads and decodes image files, of untrusted sources too, within limits on their size. Used by every run."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from ovlabel.errors import ImageError, VanishedError, printable
from ovlabel.files import open_regular
from ovlabel.pictures.decoding import MAX_SIDE, Decoded, decode_file
from ovlabel.pictures.limits import MAX_PIXELS, limits
from ovlabel.types import UInt8Image

__all__ = ["MAX_FILE_BYTES", "MAX_PIXELS", "MAX_SIDE", "Content", "Decoded", "decode", "decode_first", "read_file"]

MAX_FILE_BYTES = 2**30
_READS = 3  # attempts to read a file that changes while it is read


class Content(NamedTuple):
    """The content of a file.

    Attributes:
        data: its bytes.
        sha256: of them, in hex.
        mtime_ns: when the file was written, in nanoseconds since 1970.
    """

    data: bytes
    sha256: str
    mtime_ns: int


def read_file(path: Path) -> Content:
    """Read a file whole; read it again if it was changed meanwhile.

    Args:
        path: the file.

    Raises:
        VanishedError: it does not exist.
        ImageError: it is no regular file, can't be read, is larger than MAX_FILE_BYTES, or changed at every attempt.
    """
    try:
        for _ in range(_READS):
            with open_regular(path) as file:
                before = os.fstat(file.fileno())
                if before.st_size > MAX_FILE_BYTES:
                    raise ImageError(
                        f"a file of {before.st_size} bytes; more than {MAX_FILE_BYTES / 2**20:g} MiB are not read"
                    )
                data = file.read(before.st_size + 1)
                after = os.fstat(file.fileno())
            if len(data) == before.st_size == after.st_size and before.st_mtime_ns == after.st_mtime_ns:
                return Content(data, hashlib.sha256(data).hexdigest(), after.st_mtime_ns)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise VanishedError(f"cannot read the file: {error.strerror}") from error
    except OSError as error:
        socket = error.errno == errno.ENXIO
        reason = "not a regular file" if socket else error.strerror or type(error).__name__
        raise ImageError(f"cannot read the file: {reason}") from error
    except MemoryError as error:
        raise ImageError("cannot read the file: out of memory") from error
    raise ImageError("keeps changing while it is read")


def decode(data: bytes) -> UInt8Image:
    """Decode the first frame of an image file, turned upright by its EXIF orientation.

    Samples of more than eight bits are scaled to eight. Transparent pixels are laid on white. CMYK and palettes are
    converted, and so are colours whose profile is not sRGB. Further metadata is not read, and may be damaged.

    Args:
        data: the content of the file.

    Returns:
        uint8, H × W × 3, RGB.

    Raises:
        ImageError: it is empty, truncated or not an image, its samples are not understood, it has more than MAX_PIXELS
            or a side longer than MAX_SIDE, or it would take far longer to decode than a photograph does.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (3, 2), (255, 0, 0)).save(file, "PNG")
        >>> decode(file.getvalue()).shape
        (2, 3, 3)
    """
    return decode_first(data).pixels


def decode_first(data: bytes) -> Decoded:
    """As `decode`, and what of the file was left aside. Raises ImageError."""
    if not data:
        raise ImageError("the file is empty")
    try:
        with limits:
            return decode_file(data)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError("not an image in a format that can be read") from error
    except Image.DecompressionBombError as error:
        size = re.search(r"\d+", str(error))
        raise ImageError(
            f"an image of {size[0] if size else 'too many'} pixels; "
            f"more than {MAX_PIXELS / 1e6:.0f} megapixels are not decoded"
        ) from error
    except Exception as error:  # Pillow's plugins raise whatever the bytes provoke; each means "unreadable"
        reason = printable(f"{type(error).__name__}: {error}").rstrip(": ")
        raise ImageError(f"cannot be decoded: {reason}") from error
