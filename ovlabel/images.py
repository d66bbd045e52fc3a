"""Listing and reading images. Pillow stays in this room; torch is not needed."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISREG

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ovlabel.errors import ConfigError, ImageError
from ovlabel.types import ImageItem, UInt8Image

log = logging.getLogger("ovlabel")

SUFFIXES = frozenset(
    f".{name}"
    for name in "bmp dib gif jfif jp2 jpe jpeg jpg pbm pgm png pnm ppm tga tif tiff webp".split()  # noqa: SIM905
)


def list_images(folder: Path, left_out: list[str] | None = None) -> list[ImageItem]:
    """Every image below `folder`, sorted by key.

    A file counts by its suffix, in upper or lower case. Hidden files and folders, Zarr stores and linked folders are
    not entered (so no loop of links can trap the walk); a linked file is taken as the file it leads to. Subfolders that
    can't be read are added to `left_out`.

    Raises:
        ConfigError: `folder` is no readable folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"no folder {folder}")
    return sorted(_walk(folder, [] if left_out is None else left_out), key=lambda item: item.key)


def _walk(root: Path, left_out: list[str]) -> Iterator[ImageItem]:
    folders = [("", root)]
    while folders:
        prefix, folder = folders.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            if not prefix:
                raise ConfigError(f"cannot read folder {folder}: {error.strerror}") from None
            log.warning("folder %s was left out: %s", printable(prefix), error.strerror)
            left_out.append(prefix)
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                if not entry.name.lower().endswith(".zarr"):
                    folders.append((f"{prefix}{entry.name}/", Path(entry.path)))
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                with contextlib.suppress(OSError):  # a link to itself, a file that vanished meanwhile
                    stat = entry.stat()
                    if S_ISREG(stat.st_mode):
                        yield ImageItem(prefix + entry.name, Path(entry.path), stat.st_size, stat.st_mtime_ns)


def printable(key: str) -> str:
    """A key on one line of any terminal: control characters and undecodable bytes as escapes."""
    if key.isprintable():
        return key
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in key)


def read_file(path: Path) -> tuple[bytes, str]:
    """A file's bytes and their sha256 in hex. Raises ImageError."""
    try:
        data = path.read_bytes()
    except (OSError, MemoryError) as error:
        raise ImageError(f"cannot read the file: {getattr(error, 'strerror', None) or 'out of memory'}") from None
    return data, hashlib.sha256(data).hexdigest()


def decode(data: bytes) -> UInt8Image:
    """The first frame of an image file as uint8 RGB, H W 3, turned upright by its EXIF orientation.

    Sixteen-bit grey is scaled to eight bits (float and 32-bit grey by their largest value: up to 1, 255 or 65535),
    transparent pixels are laid on white, CMYK and palettes are converted.

    Raises:
        ImageError: empty, truncated or not an image; says which.
    """
    if not data:
        raise ImageError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as opened:
                opened.load()
                return np.ascontiguousarray(_rgb(ImageOps.exif_transpose(opened)))
    except UnidentifiedImageError:
        raise ImageError("not an image in a format that can be read") from None
    except Exception as error:  # Pillow's plugins raise whatever the bytes provoke; each means "unreadable"
        raise ImageError(f"cannot be decoded: {type(error).__name__}: {error}") from None


def _rgb(image: Image.Image) -> UInt8Image:
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image).astype(np.float64)
        sixteen = image.mode.startswith("I;16") or grey.max(initial=0) > 255
        unit = image.mode == "F" and grey.max(initial=0) <= 1
        grey8 = np.clip(np.rint(grey / 257 if sixteen else grey * 255 if unit else grey), 0, 255).astype(np.uint8)
        return np.repeat(grey8[..., None], 3, axis=2)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    return np.asarray(image.convert("RGB"))
