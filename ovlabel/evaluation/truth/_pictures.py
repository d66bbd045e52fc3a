"""Opening mask files within bounds, for the readers beside this file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from ovlabel.files import open_regular
from ovlabel.pictures.limits import MAX_PIXELS, limits

_FORMATS = ("PNG", "TIFF", "BMP", "GIF")  # whatever the suffix is: for other formats (EPS) Pillow starts programs
_MOST = f"masks and photographs have at most {MAX_PIXELS} pixels"
_JPEG = b"\xff\xd8\xff"
_SUBFILE, _PHOTOMETRIC, _BITS = 254, 262, 258  # tags of TIFF


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """Open a mask: a regular file in a known format, of one frame, of no more pixels than a photograph may have.

    Raises:
        ValueError: the file is no picture in these formats, too large, or one of which it is not clear what its values
            are.
        OSError: the file can't be opened, or is no regular file.
    """
    with open_regular(path) as file, limits:
        if file.read(3) == _JPEG:
            raise ValueError("it is a JPEG, which changes values; masks are PNG, TIFF, BMP or GIF")
        file.seek(0)
        try:
            picture = Image.open(file, formats=_FORMATS)
        except UnidentifiedImageError:
            raise ValueError("it is no picture in a format that can be read") from None
        except Image.DecompressionBombError:
            raise ValueError(f"it is too large; {_MOST}") from None
        with picture:
            check_size(picture.height, picture.width)
            _check_frames(picture)
            if isinstance(picture, TiffImagePlugin.TiffImageFile):
                _check_white(picture)
            yield picture


def _check_frames(picture: Image.Image) -> None:
    """Refuse a file of several pictures, only one of which would be read. A smaller copy inside a TIFF is none."""
    try:
        picture.seek(1)
    except EOFError:
        return
    if not (isinstance(picture, TiffImagePlugin.TiffImageFile) and picture.tag_v2.get(_SUBFILE, 0) & 1):
        raise ValueError("it holds several pictures, where one is wanted")
    picture.seek(0)


def _check_white(picture: TiffImagePlugin.TiffImageFile) -> None:
    """Refuse values that count from white: some programs turn them over, others do not."""
    bits = picture.tag_v2.get(_BITS, (1,))
    if picture.tag_v2.get(_PHOTOMETRIC) == 0 and bits != (1,):
        raise ValueError("its values count from white to black (WhiteIsZero), so which ids it holds is not clear")


def check_size(height: int, width: int) -> None:
    """Refuse a mask of more pixels than any photograph has, before memory is set aside for it. Raises ValueError."""
    if height < 0 or width < 0 or height * width > MAX_PIXELS:
        raise ValueError(f"it is {height} × {width} pixels; {_MOST}")
