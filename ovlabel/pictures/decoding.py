"""From the bytes of an image file to its pixels: which of the ways of this folder a file takes."""

from __future__ import annotations

import functools
import io
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile

from ovlabel.errors import ImageError
from ovlabel.pictures import jpeg, jpeg2000, limits, orientation, png, tiff, tiff_tags
from ovlabel.pictures.colour import to_rgb
from ovlabel.pictures.depth import samples_of
from ovlabel.pictures.samples import Samples, to_eight_bits
from ovlabel.pictures.stripping import Stripped, strip
from ovlabel.types import UInt8Image

# The formats of the suffixes that a folder is searched for (`run.listing.SUFFIXES`). Others are not tried: some of
# Pillow's decoders are slow, and EPS runs Ghostscript. TGA is tried last, because it has no signature by which it is
# recognised.
FORMATS = ("BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "WEBP", "AVIF", "HEIF", "TGA")
MAX_SIDE = 2**18  # pixels; longer sides take some decoders minutes and many times the memory
_HEADER_BYTES = 2**20  # in which AVIF and HEIF say what a file holds
_MODES = {(1, 0): "L", (1, 1): "LA", (3, 0): "RGB", (3, 1): "RGBA", (4, 0): "CMYK"}  # by colours and opacity


class Decoded(NamedTuple):
    """An image that was decoded, and what of its file was left aside or not certain.

    Attributes:
        pixels: uint8, H × W × 3, sRGB, upright.
        more_frames: the file has further frames or pages (the previews of an MPO do not count).
        more_bands: it has samples that are neither colour nor opacity, such as infrared.
        guessed_range: its samples use fewer bits than they have, and how many it does not say; see `samples`.
    """

    pixels: UInt8Image
    more_frames: bool = False
    more_bands: bool = False
    guessed_range: bool = False


def decode_file(data: bytes) -> Decoded:
    """Decode the first frame of a file; to be called inside `limits`.

    Args:
        data: its content.

    Raises:
        ImageError: its samples are not understood, or it exceeds a limit.
        Exception: anything that Pillow raises for damaged bytes.
    """
    return _decode_tiff(data) if data.startswith(tiff_tags.PREFIXES) else _decode_stripped(strip(data))


def _decode_stripped(stripped: Stripped) -> Decoded:
    """Decode a file of any format but TIFF."""
    with _open(stripped.data) as opened:
        _check_size(*opened.size)
        tiles = list(opened.tile)
        opened.load()
        if stripped.cut:
            _check_whole(opened, stripped)
        if opened.format == "PNG" and _ends_black(opened) and not png.is_whole(stripped.data):
            raise ImageError("image file is truncated: rows are missing")
        turn = orientation.turn_of(stripped.exif or opened.info.get("exif", b""))
        profile = stripped.profile or opened.info.get("icc_profile", b"")
        samples = samples_of(opened, tiles, stripped)
        if samples is None:
            image, guessed = _without_false_opacity(opened, stripped.data), False
        else:
            image, guessed = _eight_bits(samples, opened.info.get("transparency"))
        pixels = to_rgb(orientation.upright(image, turn), profile)
        more_bands = opened.format == "JPEG2000" and len(image.getbands()) < len(opened.getbands())
        more_frames = _holds_more(opened) if stripped.more_frames is None else stripped.more_frames
        return Decoded(pixels, more_frames, more_bands, guessed)


def _decode_tiff(data: bytes) -> Decoded:
    data, turn, profile = tiff_tags.strip(data)
    layout = tiff_tags.layout_of(data)
    _check_size(layout.width, layout.height)
    if layout.usual:
        with tiff.open_usual(data, layout) as opened:
            opened.load()
            pixels, guessed = to_rgb(orientation.upright(opened, turn), profile), False
    else:
        image, guessed = _eight_bits(tiff.read_samples(data, layout), None, multiplied=layout.opacity == 1)
        pixels = to_rgb(orientation.upright(image, turn), profile)
    return Decoded(pixels, layout.more_frames, layout.more_bands, guessed)


def _eight_bits(samples: Samples, transparent: object, *, multiplied: bool = False) -> tuple[Image.Image, bool]:
    """The image that samples make, and whether their range was guessed.

    Args:
        samples: of the file.
        transparent: the grey value that stands for transparent pixels, or anything else.
        multiplied: the colours are multiplied by the opacity already.
    """
    values, guessed = to_eight_bits(samples)
    if isinstance(transparent, int) and values.shape[2] == 1:
        values[samples.values == transparent] = 255
    mode = _MODES[values.shape[2] - samples.opacity, int(samples.opacity)]
    stored = {"RGBA": "RGBa", "LA": "La"}.get(mode, mode) if multiplied else mode
    height, width, _ = values.shape
    return Image.frombuffer(stored, (width, height), values, "raw", stored, 0, 1).convert(mode), guessed


def _without_false_opacity(image: ImageFile.ImageFile, data: bytes) -> Image.Image:
    """An image whose last channel is left out where Pillow takes it for opacity and the file does not say so."""
    if image.mode not in ("LA", "RGBA"):
        return image
    false = (image.format == "JPEG2000" and not jpeg2000.has_opacity(data)) or (
        image.format == "TGA" and not data[17] & 15  # how many bits of opacity it says that there are
    )
    return image.convert(image.mode.removesuffix("A")) if false else image


def _open(data: bytes) -> ImageFile.ImageFile:
    """Open a file; that of an AVIF or HEIF without its metadata where they keep it from being opened."""
    try:
        return Image.open(io.BytesIO(data), formats=_formats())
    except Exception:  # Pillow's plugins raise whatever the bytes provoke
        header = data[:_HEADER_BYTES]
        if data[4:8] != b"ftyp" or b"Exif" not in header:
            raise
        return Image.open(io.BytesIO(header.replace(b"Exif", b"none") + data[_HEADER_BYTES:]), formats=_formats())


def _check_size(width: int, height: int) -> None:
    if width * height > limits.MAX_PIXELS:
        raise Image.DecompressionBombError(f"{width * height}")
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"a side of {max(width, height)} pixels; more than {MAX_SIDE} are not decoded")


def _ends_black(opened: ImageFile.ImageFile) -> bool:
    """Whether one of the two last rows is all zero, as rows are that were not there."""
    width, height = opened.size
    rows = (opened.crop((0, max(0, top), width, top + 1)) for top in (height - 2, height - 1) if top >= 0)
    return any(row.getbbox(alpha_only=False) is None for row in rows)


def _check_whole(opened: ImageFile.ImageFile, stripped: Stripped) -> None:
    """Raise ImageError where pixels of a JPEG without its end depend on bytes that are missing."""
    for data in jpeg.continuations(stripped.data):
        with _open(data) as other:
            other.load()
            if not np.array_equal(np.asarray(opened), np.asarray(other)):
                raise ImageError("image file is truncated: rows are missing")


@functools.cache
def _formats() -> list[str]:
    Image.init()
    if find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False)
    return [name for name in FORMATS if name in Image.OPEN]


def _holds_more(image: ImageFile.ImageFile) -> bool:
    """Whether an image has further frames or pages; may move it to another frame."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # a damaged second frame
        return False
