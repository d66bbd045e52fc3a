"""Sizes, windows and stitching: pure geometry."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ovlabel.ops import enlarge, lift_rows
from ovlabel.types import Box


def working_size(size: tuple[int, int], short_side: int, long_side: int, patch: int) -> tuple[int, int]:
    """(height, width) of the resized image: short side S, long side at most `long_side`, sizes rounded half up.

    The rule of mmsegmentation's Resize, which the published protocols use; never under one patch a side, so that a
    sliver (5000 × 20) still has a grid.
    """
    height, width = size
    factor = min(long_side / max(height, width), short_side / min(height, width))
    return max(int(height * factor + 0.5), patch), max(int(width * factor + 0.5), patch)


def tile(size: tuple[int, int], window: int, stride: int) -> tuple[Box, ...]:
    """Windows over a height × width image, row by row; `window` 0 is the whole image.

    A window that would cross the border is shifted back inside, so all windows of an image have one size; a side
    shorter than the window is taken whole, without padding. Every pixel is covered.
    """
    height, width = size
    if window == 0:
        return (Box(0, 0, height, width),)
    tall, wide = min(window, height), min(window, width)
    return tuple(
        Box(top, left, tall, wide) for top in _starts(height, window, stride) for left in _starts(width, window, stride)
    )


def _starts(length: int, window: int, stride: int) -> list[int]:
    count = max(length - window + stride - 1, 0) // stride + 1
    return [max(min(k * stride, length - window), 0) for k in range(count)]


def cut(pixels: Tensor, boxes: tuple[Box, ...]) -> Tensor:
    """3 H W → b 3 h w, the windows stacked."""
    return torch.stack([pixels[:, b.top : b.top + b.height, b.left : b.left + b.width] for b in boxes])


class Canvas:
    """Maps of windows, averaged where they overlap: the sum at working size, and how often each pixel was seen."""

    def __init__(self, channels: int, size: tuple[int, int], like: Tensor) -> None:
        self._sum = torch.zeros(channels, *size, dtype=like.dtype, device=like.device)
        self._count = torch.zeros(*size, dtype=like.dtype, device=like.device)

    def add(self, maps: Tensor, box: Box) -> None:
        """One window's c h w map, at the window's pixels."""
        rows, columns = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
        self._sum[:, rows, columns] += maps
        self._count[rows, columns] += 1

    def mean(self) -> Tensor:
        """c H W. Raises RuntimeError for cells that no window saw: a defect, not a value."""
        if not bool((self._count > 0).all()):
            raise RuntimeError("windows left pixels out")
        return self._sum.div_(self._count)


class Sheet:
    """Maps of a whole image, c h w, to be resized: what stages at `window` leave, or a patch grid enlarged at once."""

    def __init__(self, maps: Tensor) -> None:
        self._maps = maps

    def add(self, other: Sheet, weight: float) -> None:
        """Add another sheet of this size, times `weight`."""
        self._maps.add_(other._maps, alpha=weight)

    def scale(self, weight: float) -> None:
        """Multiply by `weight`."""
        if weight != 1:
            self._maps.mul_(weight)

    def at(self, size: tuple[int, int]) -> Tensor:
        """c H W at `size`."""
        return enlarge(self._maps[None], size)[0]

    def rows(self, size: tuple[int, int]) -> Callable[[int, int], Tensor]:
        """A call that gives rows top … bottom−1 of `at(size)`, which are the caller's to change."""
        if self._maps.shape[1:] == size:
            return lambda top, bottom: self._maps[:, top:bottom].clone()
        every = torch.arange(len(self._maps), device=self._maps.device)
        return lambda top, bottom: lift_rows(self._maps, every, size, top, bottom)


class Mosaic(Sheet):
    """Patch maps of all windows of an image: enlarged to their pixels, averaged where they overlap, then resized.

    All three are linear, act on rows and columns alike, and the windows stand in rows and columns: so the whole is one
    matrix from the left and one from the right, Σ over windows (r, c) of Y_r M_rc X_cᵀ, with the counts inside. The
    same values as `Canvas` and `enlarge`, up to rounding, without a map at image size for every window.

    Args:
        size: of the image. boxes: from `tile`. padding, padded: as the encoder padded each window, and (height, width).
    """

    def __init__(
        self,
        size: tuple[int, int],
        boxes: tuple[Box, ...],
        padding: tuple[int, int, int, int],
        padded: tuple[int, int],
    ) -> None:
        self._tops, self._lefts = sorted({b.top for b in boxes}), sorted({b.left for b in boxes})
        self._size, self._box, self._padding, self._padded = size, boxes[0], padding, padded
        self._maps = torch.empty(0)

    def put(self, maps: Tensor, box: Box) -> None:
        """One window's c h w patch map."""
        if not len(self._maps):
            rows, columns = len(self._tops), len(self._lefts)
            self._maps = maps.new_empty(len(maps), rows, maps.shape[1], columns, maps.shape[2])
        self._maps[:, self._tops.index(box.top), :, self._lefts.index(box.left)] = maps

    def at(self, size: tuple[int, int]) -> Tensor:
        """c H W at `size`."""
        return self.rows(size)(0, size[0])

    def rows(self, size: tuple[int, int]) -> Callable[[int, int], Tensor]:
        """A call that gives rows top … bottom−1 of `at(size)`, which are the caller's to change."""
        count, rows, high, columns, wide = self._maps.shape
        left, _, top, _ = self._padding
        y = self._matrix(self._tops, self._box.height, high, (self._padded[0], top), (self._size[0], size[0]))
        x = self._matrix(self._lefts, self._box.width, wide, (self._padded[1], left), (self._size[1], size[1]))
        maps = self._maps.reshape(count, rows * high, columns * wide)

        def made(top: int, bottom: int) -> Tensor:
            strips = torch.matmul(y[top:bottom], maps)
            return torch.matmul(strips.flatten(0, 1), x.t()).view(count, bottom - top, size[1])

        return made

    def _matrix(
        self, starts: list[int], length: int, patches: int, padded: tuple[int, int], sizes: tuple[int, int]
    ) -> Tensor:
        """One axis, target × (windows · patches). `padded`: (size, border before); `sizes`: image and target."""
        like = self._maps
        window = _enlarging(padded[0], patches, like)[padded[1] : padded[1] + length]
        spread = like.new_zeros(sizes[0], len(starts), patches)
        for number, start in enumerate(starts):
            spread[start : start + length, number] = window
        seen_so_often = spread.sum((1, 2), keepdim=True)
        if not bool((seen_so_often > 0.5).all()):
            raise RuntimeError("windows left pixels out")
        averaged = (spread / seen_so_often.round()).flatten(1)
        return averaged if sizes[0] == sizes[1] else _enlarging(sizes[1], sizes[0], like) @ averaged


def _enlarging(size: int, length: int, like: Tensor) -> Tensor:
    """The matrix size × length that `enlarge` multiplies an axis with."""
    return enlarge(torch.eye(length, dtype=like.dtype, device=like.device)[None, None], (size, length))[0, 0]


class GridCanvas:
    """Features of windows, averaged on one patch grid over the whole image.

    A cell takes, from every window that holds its centre, the window's features bilinearly sampled there. Where the
    stride is a multiple of the patch the grids coincide and this is the plain mean of the patches' features.
    """

    def __init__(self, channels: int, size: tuple[int, int], patch: int, like: Tensor) -> None:
        self.grid = (-(-size[0] // patch), -(-size[1] // patch))
        self._centres = tuple(
            ((torch.arange(g, device=like.device, dtype=torch.float32) + 0.5) * patch).clamp_max(s - 0.5)
            for g, s in zip(self.grid, size, strict=True)
        )
        self._canvas = Canvas(channels, self.grid, like)

    def add(self, features: Tensor, box: Box, covered: tuple[float, float, float, float]) -> None:
        """One window's e h w features; `covered` is the (top, left, bottom, right) that its grid spans, in pixels."""
        spans = ((box.top, box.top + box.height), (box.left, box.left + box.width))
        inside = [
            torch.nonzero((c >= start) & (c < end)).flatten()
            for c, (start, end) in zip(self._centres, spans, strict=True)
        ]
        if any(len(i) == 0 for i in inside):
            return
        grid = [
            2 * (c[i] - start) / (end - start) - 1
            for c, i, start, end in zip(self._centres, inside, covered[:2], covered[2:], strict=True)
        ]
        ys, xs = torch.meshgrid(grid[0], grid[1], indexing="ij")
        sampled = torch.nn.functional.grid_sample(
            features[None],
            torch.stack((xs, ys), -1)[None].to(features.dtype),
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )[0]
        top, left = int(inside[0][0]), int(inside[1][0])
        self._canvas.add(sampled, Box(top, left, len(inside[0]), len(inside[1])))

    def mean(self) -> Tensor:
        """e h w on the image's grid."""
        return self._canvas.mean()


def enlarge_window(maps: Tensor, box: Box, padding: tuple[int, int, int, int], size: tuple[int, int]) -> Tensor:
    """b c h w patch maps → b c H W at the window's pixels: enlarged to the padded size, then the padding cut off.

    `padding` is (left, right, top, bottom) as the encoder padded the window; `size` is the padded (height, width).
    """
    left, _, top, _ = padding
    return enlarge(maps, size)[..., top : top + box.height, left : left + box.width]


_FLIPS = {"hflip": (-1,), "vflip": (-2,)}
_GREY = (0.2989, 0.587, 0.114)
_TAPS, _WIDTH = 11, 5.0  # of the blur, in pixels


def seen(windows: Tensor, view: str) -> Tensor:
    """b 3 H W windows as a view shows them: flipped, in grey, or blurred (11 taps of a Gaussian of width 5, mirrored).

    Grey and blur act on normalised values, as ITACLIP's (Aydın et al., CVPR-W 2025, sec. 3.3).
    """
    if view in _FLIPS:
        return windows.flip(_FLIPS[view])
    if view == "grey":
        shares = torch.tensor(_GREY, dtype=windows.dtype, device=windows.device)
        return torch.einsum("c,bchw->bhw", shares, windows)[:, None].expand(windows.shape)
    if view == "blur":
        place = torch.arange(_TAPS, dtype=windows.dtype, device=windows.device) - _TAPS // 2
        taps = torch.exp(-(place**2) / (2 * _WIDTH**2))
        taps = (taps / taps.sum())[None, None]
        half = _TAPS // 2
        mode = "reflect" if min(windows.shape[-2:]) > half else "replicate"
        planes = torch.nn.functional.pad(windows.flatten(0, 1)[:, None], (half,) * 4, mode=mode)
        planes = torch.nn.functional.conv2d(planes, taps[..., None])
        return torch.nn.functional.conv2d(planes, taps[..., None, :]).reshape(windows.shape)
    return windows


def turned(maps: Tensor, view: str) -> Tensor:
    """Maps … H W of a view, turned back."""
    return maps.flip(_FLIPS[view]) if view in _FLIPS else maps


def flipped_padding(padding: tuple[int, int, int, int], view: str) -> tuple[int, int, int, int]:
    """(left, right, top, bottom) where it lies after a flip, or before it."""
    left, right, top, bottom = padding
    return {"hflip": (right, left, top, bottom), "vflip": (left, right, bottom, top)}.get(view, padding)
