"""Listing and reading images. Pillow stays in this room; torch is not needed."""

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
# .jpg. Others are not tried: some of Pillow's are slow, and EPS runs Ghostscript. TGA bears no mark and comes last.
FORMATS = ("BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP", "AVIF", "TGA")
MAX_FILE_BYTES = 2**30
MAX_PIXELS = 2**28  # even: Pillow's limit is twice the number that it is given
MAX_SIDE = 2**18  # rows beyond it cost some decoders minutes and many times their memory
_BAND_PIXELS = 2**20  # what is converted at once
_READS = 3


class Content(NamedTuple):
    """The bytes of a file, their sha256 in hex, and when they were written (ns)."""

    data: bytes
    sha256: str
    mtime_ns: int


def read_file(path: Path) -> Content:
    """A regular file's content, read again if it changes meanwhile. Never waits for a pipe or a device.

    Raises:
        VanishedError: it is not there.
        ImageError: no regular file, unreadable, larger than MAX_FILE_BYTES, or changing all the time.
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
    """The first frame of an image file as uint8 RGB, H W 3, turned upright by its EXIF orientation.

    Sixteen-bit grey is scaled to eight bits (float and 32-bit grey by their largest value: up to 1, 255 or 65535),
    transparent pixels are laid on white, CMYK and palettes are converted.

    Raises:
        ImageError: empty, truncated, of more than MAX_PIXELS, of a side longer than MAX_SIDE or not an image; says
            which.
    """
    return decode_first(data)[0]


def decode_first(data: bytes) -> tuple[UInt8Image, bool]:
    """As `decode`, and whether the file holds more: frames of an animation, pages (not the previews of an MPO)."""
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
    """Pillow's limit set to MAX_PIXELS; its warnings, and what it and libtiff would print on stderr, ignored.

    These are settings of the process: the first thread in makes them and the last one out restores them, where
    `warnings.catch_warnings` in each of several threads could restore what another thread had set.
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
        Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses more than twice as many
        logger, handler = logging.getLogger("PIL"), logging.NullHandler()  # without any, errors go to stderr
        logger.addHandler(handler)
        self._before.callback(logger.removeHandler, handler)
        if handle_errors := _libtiff_error_handler():
            self._before.callback(handle_errors, handle_errors(None))


@functools.cache
def _libtiff_error_handler() -> Callable[[int | None], int | None] | None:
    """The call that sets what libtiff does with messages (None: nothing) and returns what it did; None on Windows."""
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
    """Whether further frames or pages follow; may leave the image at another frame."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # a damaged second frame
        return False


def _rgb(image: Image.Image) -> UInt8Image:
    """H W 3, converted in bands of rows: a whole image of Pillow's is four bytes a pixel, and each step makes one."""
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
    """What values of more than eight bits are multiplied with and divided by, given the largest ones."""
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
