"""Windows: the working size of an image, the windows it is cut into, their padding, and their views. Pure geometry."""

from __future__ import annotations

import torch
from torch import Tensor

from ovlabel.ops import enlarge
from ovlabel.types import Box

Padding = tuple[int, int, int, int]  # pixels at the left, right, top and bottom of a window

_FLIPS = {"hflip": (-1,), "vflip": (-2,)}
_GREY = (0.2989, 0.587, 0.114)  # weights of red, green and blue
_TAPS, _WIDTH = 11, 5.0  # of the blur, in pixels


def working_size(size: tuple[int, int], short_side: int, long_side: int, patch: int) -> tuple[int, int]:
    """(height, width) of the resized image: the short side becomes `short_side`, unless the long one grew too long.

    Sizes are rounded half up. This is the rule of mmsegmentation's Resize, which the published protocols use. A side is
    never under one patch, so that a very long and narrow image (5000 × 20) still has a grid.

    Args:
        size: (height, width) of the image.
        short_side: pixels of the short side.
        long_side: the most pixels of the long side.
        patch: side of a patch in pixels.
    """
    height, width = size
    factor = min(long_side / max(height, width), short_side / min(height, width))
    return max(int(height * factor + 0.5), patch), max(int(width * factor + 0.5), patch)


def tile(size: tuple[int, int], window: int, stride: int) -> tuple[Box, ...]:
    """Windows over an image, row by row. Every pixel is covered.

    A window that would cross the border is moved back inside, so all windows of an image have one size. A side that is
    shorter than the window is taken whole, without padding.

    Args:
        size: (height, width) of the image.
        window: side of a window in pixels; 0 is the whole image.
        stride: pixels between the starts of two windows.
    """
    height, width = size
    if window == 0:
        return (Box(0, 0, height, width),)
    tall, wide = min(window, height), min(window, width)
    return tuple(
        Box(top, left, tall, wide) for top in _starts(height, window, stride) for left in _starts(width, window, stride)
    )


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows start along one side of an image."""
    count = max(length - window + stride - 1, 0) // stride + 1
    return [max(min(k * stride, length - window), 0) for k in range(count)]


def cut(pixels: Tensor, boxes: tuple[Box, ...]) -> Tensor:
    """The windows of an image, stacked: 3 × H × W → b × 3 × h × w."""
    return torch.stack([pixels[:, b.top : b.top + b.height, b.left : b.left + b.width] for b in boxes])


def padding_around(box: Box, patch: int, pad: str) -> Padding:
    """What fills a window up to whole patches, an odd pixel at the right and at the bottom.

    Args:
        box: the window.
        patch: side of a patch in pixels.
        pad: "center", or "none" for no padding.
    """
    tall, wide = -box.height % patch, -box.width % patch
    if pad == "none":
        return 0, 0, 0, 0
    return wide // 2, wide - wide // 2, tall // 2, tall - tall // 2


def padded_extent(box: Box, padding: Padding) -> tuple[float, float, float, float]:
    """(top, left, bottom, right) of a window with its padding, in pixels of the working-size image."""
    left, right, top, bottom = padding
    return box.top - top, box.left - left, box.top + box.height + bottom, box.left + box.width + right


def enlarge_window(maps: Tensor, box: Box, padding: Padding, size: tuple[int, int]) -> Tensor:
    """Maps at patches → maps at the window's pixels: enlarged to the padded size, then the padding is cut off.

    Args:
        maps: b × c × h × w.
        box: the window.
        padding: as the encoder padded the window.
        size: (height, width) of the padded window.

    Returns:
        b × c × H × W at the window's size.
    """
    left, _, top, _ = padding
    return enlarge(maps, size)[..., top : top + box.height, left : left + box.width]


def apply_view(windows: Tensor, view: str) -> Tensor:
    """Windows in a view: mirrored ("hflip", "vflip"), in grey, blurred, or as they are ("identity").

    The blur is a Gaussian of width 5 over 11 pixels, its borders mirrored. Grey and blur act on normalised values, as
    in ITACLIP (Aydın et al., CVPR Workshops 2025, section 3.3).

    Args:
        windows: b × 3 × H × W, normalised.
        view: its name.
    """
    if view in _FLIPS:
        return windows.flip(_FLIPS[view])
    if view == "grey":
        weights = torch.tensor(_GREY, dtype=windows.dtype, device=windows.device)
        return torch.einsum("c,bchw->bhw", weights, windows)[:, None].expand(windows.shape)
    return _blurred(windows) if view == "blur" else windows


def _blurred(windows: Tensor) -> Tensor:
    """Columns, then rows, of the Gaussian of `apply_view`."""
    place = torch.arange(_TAPS, dtype=windows.dtype, device=windows.device) - _TAPS // 2
    taps = torch.exp(-(place**2) / (2 * _WIDTH**2))
    taps = (taps / taps.sum())[None, None]
    half = _TAPS // 2
    mode = "reflect" if min(windows.shape[-2:]) > half else "replicate"
    planes = torch.nn.functional.pad(windows.flatten(0, 1)[:, None], (half,) * 4, mode=mode)
    planes = torch.nn.functional.conv2d(planes, taps[..., None])
    return torch.nn.functional.conv2d(planes, taps[..., None, :]).reshape(windows.shape)


def undo_view(maps: Tensor, view: str) -> Tensor:
    """Maps … × H × W of a mirrored view, mirrored back; those of other views as they are."""
    return maps.flip(_FLIPS[view]) if view in _FLIPS else maps


def padding_in_view(padding: Padding, view: str) -> Padding:
    """Where a window's padding lies in a view; applied twice, where it lay before."""
    left, right, top, bottom = padding
    return {"hflip": (right, left, top, bottom), "vflip": (left, right, bottom, top)}.get(view, padding)
