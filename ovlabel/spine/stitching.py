"""Stitching: maps of windows, one by one → one map of the whole image, averaged where windows overlap.

`Canvas` averages at pixels, `GridCanvas` at patches. Where no stage needs a window at its own pixels, `Mosaic` in
`cosine_maps.py` stitches all windows at once instead.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ovlabel.types import Box


class Canvas:
    """Maps of windows, averaged where they overlap: their sum at working size, and how many windows hold each pixel.

    Args:
        channels: c.
        size: (height, width) of the image.
        like: a tensor of the device and the dtype to compute in.
    """

    def __init__(self, channels: int, size: tuple[int, int], like: Tensor) -> None:
        self._sum = torch.zeros(channels, *size, dtype=like.dtype, device=like.device)
        self._count = torch.zeros(*size, dtype=like.dtype, device=like.device)

    def add(self, maps: Tensor, box: Box) -> None:
        """One window's map, c × h × w, at the window's pixels."""
        rows, columns = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
        self._sum[:, rows, columns] += maps
        self._count[rows, columns] += 1

    def mean(self) -> Tensor:
        """c × H × W. Raises RuntimeError where a pixel lies in no window: a defect of the tiling."""
        if not bool((self._count > 0).all()):
            raise RuntimeError("windows left pixels out")
        return self._sum.div_(self._count)


class GridCanvas:
    """Features of windows, averaged on one patch grid over the whole image.

    A cell takes, from every window that holds its centre, the window's features bilinearly sampled there. Where the
    stride is a multiple of the patch the grids coincide, and this is the plain mean of the patches' features.

    Args:
        channels: e.
        size: (height, width) of the image in pixels.
        patch: side of a patch in pixels.
        like: a tensor of the device and the dtype to compute in.
    """

    def __init__(self, channels: int, size: tuple[int, int], patch: int, like: Tensor) -> None:
        self.grid = (-(-size[0] // patch), -(-size[1] // patch))
        self._centres = tuple(
            ((torch.arange(g, device=like.device, dtype=torch.float32) + 0.5) * patch).clamp_max(s - 0.5)
            for g, s in zip(self.grid, size, strict=True)
        )
        self._canvas = Canvas(channels, self.grid, like)

    def add(self, features: Tensor, box: Box, extent: tuple[float, float, float, float]) -> None:
        """One window's features.

        Args:
            features: e × h × w.
            box: the window.
            extent: (top, left, bottom, right) that its grid spans, in pixels of the image.
        """
        spans = ((box.top, box.top + box.height), (box.left, box.left + box.width))
        inside = [
            torch.nonzero((c >= start) & (c < end)).flatten()
            for c, (start, end) in zip(self._centres, spans, strict=True)
        ]
        if any(len(i) == 0 for i in inside):
            return
        places = [
            2 * (c[i] - start) / (end - start) - 1
            for c, i, start, end in zip(self._centres, inside, extent[:2], extent[2:], strict=True)
        ]
        top, left = int(inside[0][0]), int(inside[1][0])
        self._canvas.add(_sampled(features, places[0], places[1]), Box(top, left, len(inside[0]), len(inside[1])))

    def mean(self) -> Tensor:
        """e × h × w on the image's grid."""
        return self._canvas.mean()


def _sampled(features: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """e × h × w at rows × columns, −1 … 1 from border to border, bilinearly."""
    ys, xs = torch.meshgrid(rows, columns, indexing="ij")
    return torch.nn.functional.grid_sample(
        features[None],
        torch.stack((xs, ys), -1)[None].to(features.dtype),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )[0]
