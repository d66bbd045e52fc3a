"""Opening mask files within bounds, for the readers beside this file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ovlabel.files import open_regular

_PIXELS = 2**28  # of one mask, at most
_FORMATS = ("PNG", "TIFF", "BMP", "GIF")  # whatever the suffix is: for other formats (EPS) Pillow starts programs


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """Open a mask that is a regular file, in a known format, and of at most 2²⁸ pixels.

    Raises:
        ValueError: the file is no picture in these formats, or too large.
        OSError: the file can't be opened, or is no regular file.
    """
    with open_regular(path) as file:
        try:
            picture = Image.open(file, formats=_FORMATS)
        except UnidentifiedImageError:
            raise ValueError("it is no picture in a format that can be read") from None
        with picture:
            check_size(picture.height, picture.width)
            yield picture


def check_size(height: int, width: int) -> None:
    """Refuse a mask of more pixels than any photograph has, before memory is set aside for it. Raises ValueError."""
    if height < 0 or width < 0 or height * width > _PIXELS:
        raise ValueError(f"it is {height} × {width} pixels; {_PIXELS} are the most")
