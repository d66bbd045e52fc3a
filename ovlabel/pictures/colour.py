"""From any kind of 8-bit image to red, green and blue as a screen shows them."""

from __future__ import annotations

import functools
import io
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

from ovlabel.types import UInt8Image

_BAND_PIXELS = 2**20  # pixels that are converted at once
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # the colour spaces of profiles that are used, and Pillow's names
_ALIKE = 3  # levels: a profile that changes no colour by more is taken for sRGB


class _Conversion(NamedTuple):
    """To sRGB, from images of one of Pillow's modes."""

    mode: str
    transform: ImageCms.ImageCmsTransform


def to_rgb(image: Image.Image, profile: bytes = b"") -> UInt8Image:
    """Convert an image in bands of rows, because each step of Pillow's makes a new image of four bytes a pixel.

    Args:
        image: of any of Pillow's modes with eight bits or fewer a sample. Transparent pixels are laid on white.
        profile: the ICC profile of its colours. Without one they are sRGB, and so they are if it is damaged or of
            another kind than the image.

    Returns:
        uint8, H × W × 3, sRGB.
    """
    width, height = image.size
    conversion = _conversion(profile) if profile else None
    rows = max(1, _BAND_PIXELS // width)
    rgb = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        rgb[top : top + rows] = np.asarray(_shown(band, conversion))
    return rgb


def _shown(image: Image.Image, conversion: _Conversion | None) -> Image.Image:
    if not image.has_transparency_data:
        return _converted(image, conversion)
    rgba = image.convert("RGBA")
    if conversion is not None:
        opacity = rgba.getchannel("A")
        rgba = _converted(image.convert("L") if image.mode == "LA" else rgba, conversion)
        rgba.putalpha(opacity)
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def _converted(image: Image.Image, conversion: _Conversion | None) -> Image.Image:
    colours = image if image.mode in ("L", "CMYK") else image.convert("RGB") if image.mode != "RGB" else image
    if conversion is None or conversion.mode != colours.mode:
        return colours.convert("RGB")
    converted = ImageCms.applyTransform(colours, conversion.transform)
    assert converted is not None
    return converted


@functools.lru_cache(8)
def _conversion(profile: bytes) -> _Conversion | None:
    """The conversion from a profile to sRGB; None where it is sRGB already, or of no use."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _MODES[opened.profile.xcolor_space.strip()]
        intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
        transform = ImageCms.buildTransform(opened, _srgb(), mode, "RGB", renderingIntent=intent, flags=flags)
        conversion = _Conversion(mode, transform)
        sample = _every_colour(mode)
        changed = np.asarray(_converted(sample, conversion), int) - np.asarray(sample.convert("RGB"), int)
    except Exception:  # a damaged profile; the colours are taken as they are
        return None
    return conversion if np.abs(changed).max() > _ALIKE else None


@functools.cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _every_colour(mode: str) -> Image.Image:
    """An image that holds colours of every part of a colour space."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    channels = np.meshgrid(*[np.linspace(0, 255, 9).astype(np.uint8)] * len(mode))
    return Image.fromarray(np.stack(channels, axis=-1).reshape(9, -1, len(mode)), mode)
