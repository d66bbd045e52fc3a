"""Reads and decodes image files, of untrusted sources too, within limits on their size. Used by every run."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import hashlib
import io
import logging
import os
import re
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError, _imaging

from ovlabel.errors import ImageError, VanishedError, printable
from ovlabel.files import open_regular
from ovlabel.types import UInt8Image

log = logging.getLogger("ovlabel")

# The formats of the suffixes that a folder is searched for (`run.listing.SUFFIXES`), and AVIF, which browsers save as
# .jpg. Others are not tried: some of Pillow's decoders are slow, and EPS runs Ghostscript. TGA is tried last, because
# it has no signature by which it is recognised.
FORMATS = ("BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP", "AVIF", "TGA")
MAX_FILE_BYTES = 2**30
MAX_PIXELS = 2**28  # an even number, because Pillow refuses images above twice the limit that it is given
MAX_SIDE = 2**18  # pixels; longer sides take some decoders minutes and many times the memory
_BAND_PIXELS = 2**20  # pixels that are converted at once
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

    Sixteen-bit grey is scaled to eight bits; float and 32-bit grey according to their largest value, as a range up to
    1, 255 or 65535. Transparent pixels are laid on white. CMYK and palettes are converted.

    Args:
        data: the content of the file.

    Returns:
        uint8, H × W × 3, RGB.

    Raises:
        ImageError: it is empty, truncated or not an image, or has more than MAX_PIXELS or a side longer than MAX_SIDE.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (3, 2), (255, 0, 0)).save(file, "PNG")
        >>> decode(file.getvalue()).shape
        (2, 3, 3)
    """
    return decode_first(data)[0]


def decode_first(data: bytes) -> tuple[UInt8Image, bool]:
    """As `decode`, and whether the file has further frames or pages (the previews of an MPO do not count)."""
    if not data:
        raise ImageError("the file is empty")
    try:
        with _settings, Image.open(io.BytesIO(data), formats=_formats()) as opened:
            if max(opened.size) > MAX_SIDE:
                raise ImageError(f"a side of {max(opened.size)} pixels; more than {MAX_SIDE} are not decoded")
            opened.load()
            ImageOps.exif_transpose(opened, in_place=True)
            return _rgb(opened), _holds_more(opened)
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


class _Settings:
    """Sets Pillow's limit to MAX_PIXELS, and silences its warnings and what it and libtiff print on stderr.

    These settings hold for the whole process. The first thread that enters makes them, the last that leaves restores
    them; `warnings.catch_warnings` in each of several threads could restore what another thread had set.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._set()
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._before.close()

    def _set(self) -> None:
        self._before.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", module=r"PIL\.")
        self._before.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
        Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses images above twice this number
        logger, handler = (
            logging.getLogger("PIL"),
            logging.NullHandler(),
        )  # without a handler, errors are printed on stderr
        logger.addHandler(handler)
        self._before.callback(logger.removeHandler, handler)
        if handle_errors := _libtiff_error_handler():
            self._before.callback(handle_errors, handle_errors(None))


@functools.cache
def _libtiff_error_handler() -> Callable[[int | None], int | None] | None:
    """libtiff's function that sets its error handler (None: none) and returns the one before; None on Windows."""
    try:
        setter = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler  # found through Pillow's own dependencies
    except (AttributeError, OSError):
        return None
    setter.restype, setter.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    return setter


_settings = _Settings()


@functools.cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _holds_more(image: ImageFile.ImageFile) -> bool:
    """Whether an image has further frames or pages; may move it to another frame."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # a damaged second frame
        return False


def _rgb(image: Image.Image) -> UInt8Image:
    """H × W × 3, converted in bands of rows, because each step of Pillow's makes a new image of four bytes a pixel."""
    width, height = image.size
    rows = max(1, _BAND_PIXELS // width)
    boxes = [(0, top, width, min(top + rows, height)) for top in range(0, height, rows)]
    grey = image.mode.startswith("I") or image.mode == "F"
    times, by = _scale(image.mode, [np.asarray(image.crop(box)).max() for box in boxes]) if grey else (1, 1)
    rgb = np.empty((height, width, 3), np.uint8)
    for box in boxes:
        band = image.crop(box)
        rgb[box[1] : box[3]] = _grey8(band, times, by)[..., None] if grey else _rgb8(band)
    return rgb


def _scale(mode: str, largest: list[np.number[Any]]) -> tuple[int, int]:
    """The factor and the divisor that bring values to 0 … 255, given the largest value of each band."""
    high = np.max(largest)  # NaN where there is one
    if mode.startswith("I;16") or high > 255:
        return 1, 257
    return (255, 1) if mode == "F" and high <= 1 else (1, 1)


def _grey8(image: Image.Image, times: int, by: int) -> npt.NDArray[np.uint8]:
    with np.errstate(all="ignore"):  # NaN
        grey = np.asarray(image).astype(np.float64) * times / by
        return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def _rgb8(image: Image.Image) -> UInt8Image:
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
