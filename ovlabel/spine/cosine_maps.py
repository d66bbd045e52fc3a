"""Cosines of a whole image at one scale in one view, to be enlarged, in bands, to the size where they are read."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ovlabel.ops import enlarge, lift_rows
from ovlabel.spine.windows import Padding
from ovlabel.types import Box


class CosineMaps:
    """Cosines of a whole image, q × h × w, to be enlarged to the size where they are read.

    Args:
        maps: at working size, or at the patches of the whole image.
    """

    def __init__(self, maps: Tensor) -> None:
        self._maps = maps

    @property
    def queries(self) -> int:
        """How many maps there are."""
        return len(self._maps)

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self._maps.device

    def add(self, other: CosineMaps, weight: float) -> None:
        """Add other maps of this size, times a weight."""
        self._maps.add_(other._maps, alpha=weight)

    def scale(self, weight: float) -> None:
        """Multiply by a weight."""
        if weight != 1:
            self._maps.mul_(weight)

    def at(self, size: tuple[int, int]) -> Tensor:
        """q × H × W at a size (H, W)."""
        return enlarge(self._maps[None], size)[0]

    def rows(self, size: tuple[int, int]) -> Callable[[int, int], Tensor]:
        """A call (top, bottom) that gives rows top … bottom − 1 of `at(size)`; the tensor is its caller's to change."""
        if self._maps.shape[1:] == size:
            return lambda top, bottom: self._maps[:, top:bottom].clone()
        every = torch.arange(len(self._maps), device=self._maps.device)
        return lambda top, bottom: lift_rows(self._maps, every, size, top, bottom)


class Mosaic(CosineMaps):
    """Patch maps of all windows of an image: enlarged to their pixels, averaged where they overlap, then resized.

    All three are linear, act on rows and columns alike, and the windows stand in rows and columns: so the whole is one
    matrix from the left and one from the right, Σ over windows (r, c) of Y_r M_rc X_cᵀ, with the counts inside. The
    values are those of `Canvas` and `enlarge`, up to rounding, without a map at image size for every window.

    Args:
        size: (height, width) of the image.
        boxes: its windows, from `tile`.
        padding: as the encoder padded each window.
        padded: (height, width) of a padded window.
    """

    def __init__(
        self,
        size: tuple[int, int],
        boxes: tuple[Box, ...],
        padding: Padding,
        padded: tuple[int, int],
    ) -> None:
        self._tops, self._lefts = sorted({b.top for b in boxes}), sorted({b.left for b in boxes})
        self._size, self._box, self._padding, self._padded = size, boxes[0], padding, padded
        self._maps = torch.empty(0)

    def put(self, maps: Tensor, box: Box) -> None:
        """One window's patch map, q × h × w."""
        if not len(self._maps):
            rows, columns = len(self._tops), len(self._lefts)
            self._maps = maps.new_empty(len(maps), rows, maps.shape[1], columns, maps.shape[2])
        self._maps[:, self._tops.index(box.top), :, self._lefts.index(box.left)] = maps

    def at(self, size: tuple[int, int]) -> Tensor:
        """q × H × W at a size (H, W)."""
        return self.rows(size)(0, size[0])

    def rows(self, size: tuple[int, int]) -> Callable[[int, int], Tensor]:
        """A call (top, bottom) that gives rows top … bottom − 1 of `at(size)`; the tensor is its caller's to change."""
        count, rows, high, columns, wide = self._maps.shape
        left, _, top, _ = self._padding
        y = self._matrix(self._tops, self._box.height, high, (self._padded[0], top), (self._size[0], size[0]))
        x = self._matrix(self._lefts, self._box.width, wide, (self._padded[1], left), (self._size[1], size[1]))
        maps = self._maps.reshape(count, rows * high, columns * wide)

        def band(top: int, bottom: int) -> Tensor:
            strips = torch.matmul(y[top:bottom], maps)
            return torch.matmul(strips.flatten(0, 1), x.t()).view(count, bottom - top, size[1])

        return band

    def _matrix(
        self, starts: list[int], length: int, patches: int, padded: tuple[int, int], sizes: tuple[int, int]
    ) -> Tensor:
        """The matrix of one axis, target × (windows · patches).

        Args:
            starts: of the windows along this axis.
            length: of a window.
            patches: of a window.
            padded: length of a padded window, and the padding in front of it.
            sizes: of the image and of the target.
        """
        like = self._maps
        window = _enlarging(padded[0], patches, like)[padded[1] : padded[1] + length]
        spread = like.new_zeros(sizes[0], len(starts), patches)
        for number, start in enumerate(starts):
            spread[start : start + length, number] = window
        counts = spread.sum((1, 2), keepdim=True)
        if not bool((counts > 0.5).all()):
            raise RuntimeError("windows left pixels out")
        averaged = (spread / counts.round()).flatten(1)
        return averaged if sizes[0] == sizes[1] else _enlarging(sizes[1], sizes[0], like) @ averaged


def _enlarging(size: int, length: int, like: Tensor) -> Tensor:
    """The matrix size × length that `enlarge` multiplies an axis with."""
    return enlarge(torch.eye(length, dtype=like.dtype, device=like.device)[None, None], (size, length))[0, 0]
