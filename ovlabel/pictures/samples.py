"""Samples of more than eight bits become eight: by the range that the file declares, else by the values themselves.

Cameras and scanners write 10, 12 or 14 bits into files of 16, and few of them say so. Where all values of an image fit
into fewer bits than its samples have, and the file does not declare its range, the fewest usual bits that hold them
are taken for the range, and the result says that it was guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ovlabel.errors import ImageError

_USUAL_BITS = (8, 10, 12, 14, 16, 24, 32, 64)
_BAND_PIXELS = 2**20  # pixels that are converted at once
_FULL = {1: (0, 2), 255: (32, 270)}  # ranges of float samples, and between which their maxima lie: filters overshoot


@dataclass(frozen=True)
class Samples:
    """The samples of an image as its file holds them.

    Attributes:
        values: unsigned, signed or float, H × W × 1 to 4: grey or red, green, blue; and perhaps opacity.
        bits: of a sample in the file.
        declared: how many bits are used, as the file says; 0 where it does not.
        opacity: whether the last channel is one.
        inverted: 0 is white.
    """

    values: npt.NDArray[Any]
    bits: int
    declared: int = 0
    opacity: bool = False
    inverted: bool = False


def to_eight_bits(samples: Samples) -> tuple[npt.NDArray[np.uint8], bool]:
    """Scale samples to 0 … 255.

    Args:
        samples: of any kind. Float values that are no number become black.

    Returns:
        uint8, with as many channels; and whether the range of the values was guessed.

    Raises:
        ImageError: values are negative or infinite, or float values have none of the usual ranges.
    """
    values = samples.values
    colours = values[..., : values.shape[2] - samples.opacity]
    if values.dtype.kind == "f":
        times, guessed = _float_scale(colours)
        return _converted(samples, lambda part: np.nan_to_num(part.astype(np.float64)) * times), guessed
    low, top = int(colours.min()), int(colours.max())
    if low < 0:
        raise ImageError(f"samples from {low} to {top}: which of them are black and white the file does not say")
    bits, guessed = _bits_used(samples, top)
    if bits < 8 or (bits == 16 and values.shape[2] == 1):
        return _converted(samples, lambda part: part.astype(np.float64) * (255 / (2**bits - 1))), guessed
    return _converted(samples, lambda part: part >> (bits - 8)), guessed


def _bits_used(samples: Samples, top: int) -> tuple[int, bool]:
    """How many bits of the samples are used, and whether that is guessed from the largest value."""
    if 0 < top.bit_length() <= samples.declared:
        return samples.declared, False
    most = samples.bits - (samples.values.dtype.kind == "i")
    if samples.declared or top == 0 or samples.bits not in (16, 32, 64):
        return most, False
    bits = min(most, next(bits for bits in _USUAL_BITS if top < 2**bits))
    return bits, bits < most


def _float_scale(colours: npt.NDArray[Any]) -> tuple[float, bool]:
    """The factor that brings float values to 0 … 255, and whether their range was guessed."""
    finite = colours[~np.isnan(colours)]
    low, top = (float(finite.min()), float(finite.max())) if finite.size else (0.0, np.inf)
    full = next((full for full, (least, most) in _FULL.items() if least <= top <= most), 0)
    if not full and 255 < top < 2**16:
        full = 2 ** next(bits for bits in _USUAL_BITS if top < 2**bits) - 1
    if not full or low < -0.1 * full:
        raise ImageError(f"float samples from {low:g} to {top:g}: which of them are black and white is not known")
    return 255 / full, full > 255


def _converted(samples: Samples, scale: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> npt.NDArray[np.uint8]:
    values = samples.values
    out: npt.NDArray[np.uint8] = np.empty(values.shape, np.uint8)
    rows = max(1, _BAND_PIXELS // values.shape[1])
    for top in range(0, len(values), rows):
        with np.errstate(all="ignore"):  # what is no number
            out[top : top + rows] = np.clip(np.rint(scale(values[top : top + rows])), 0, 255).astype(np.uint8)
    if samples.inverted:
        colours = out[..., : out.shape[2] - samples.opacity]
        np.subtract(255, colours, out=colours)
    return out
