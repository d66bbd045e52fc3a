"""Samples of more than eight bits in formats other than TIFF, which Pillow hands over whole or by their high bytes."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from ovlabel.errors import ImageError
from ovlabel.pictures import jpeg2000
from ovlabel.pictures.samples import Samples
from ovlabel.pictures.stripping import Stripped

_DARK = 64  # high bytes, rounded or not, that are at most this may leave two or more of the 16 bits unused


def samples_of(opened: ImageFile.ImageFile, tiles: list[ImageFile._Tile], stripped: Stripped) -> Samples | None:
    """The samples of an image that has more than eight bits of them.

    Args:
        opened: the image, loaded.
        tiles: its tiles as they were before it was loaded.
        stripped: the file.

    Returns:
        None where Pillow has made eight bits of them and no better can be done.

    Raises:
        ImageError: the colours may use fewer bits than the file has, and Pillow gives no access to them.
    """
    declared = _declared(opened, tiles, stripped)
    if opened.mode == "F" or opened.mode.startswith("I"):
        bits = 16 if opened.mode.startswith("I;16") else 32
        return Samples(np.asarray(opened)[..., None], bits, declared)
    raw = _raw_mode(tiles)
    wide = raw.endswith(";16B") or (opened.format == "JPEG2000" and jpeg2000.depth_of(stripped.data) == 16)
    if not (wide or _is_wide_ppm(tiles)) or declared == 16 or _top(opened) > _DARK:
        return None
    if opened.format == "PPM":
        size = opened.width * opened.height * 3
        values = np.frombuffer(stripped.data, ">u2", size, tiles[0].offset)
        return Samples(values.reshape(opened.height, opened.width, 3), 16)
    if raw not in ("RGB;16B", "RGBA;16B"):
        raise ImageError("16 bits a sample, of which only some are used; in this format such colours can't be read")
    values = np.asarray(opened).astype(np.uint16) << 8 | _low_bytes(stripped.data, tiles[0])
    return Samples(values, 16, declared, opacity=raw == "RGBA;16B")


def _declared(opened: ImageFile.ImageFile, tiles: list[ImageFile._Tile], stripped: Stripped) -> int:
    """How many bits are used, as far as the file says; 16 where Pillow has scaled them to all 16."""
    if opened.format == "JPEG2000":
        return 16 if 8 < jpeg2000.depth_of(stripped.data) < 16 else 0
    if tiles and tiles[0].codec_name.startswith("ppm"):
        return 0 if _is_wide_ppm(tiles) else 16
    return stripped.bits


def _is_wide_ppm(tiles: list[ImageFile._Tile]) -> bool:
    """Whether a PPM says that its binary samples go up to 65535."""
    return bool(tiles) and tiles[0].codec_name == "ppm" and tiles[0].args == ("RGB", 65535)


def _raw_mode(tiles: list[ImageFile._Tile]) -> str:
    args = tiles[0].args if tiles else None
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _top(opened: ImageFile.ImageFile) -> int:
    """The largest high byte of a colour."""
    colours = opened.convert("RGB") if opened.mode == "RGBA" else opened
    return max(int(high) for _, high in np.reshape(colours.getextrema(), (-1, 2)))


def _low_bytes(data: bytes, tile: ImageFile._Tile) -> npt.NDArray[np.uint8]:
    """The low bytes of the samples: the high ones of their bytes in the other order."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as again:
        again.tile = [tile._replace(args=_raw_mode([tile]).replace(";16B", ";16L"))]
        again.load()
        return np.asarray(again)
