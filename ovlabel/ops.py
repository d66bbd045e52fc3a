"""Pure functions on tensors and images that two rooms or stages share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ovlabel.types import UInt8Image

_ONE = 2048  # fixed-point weight of 1 in `resize`


def normalise(vectors: Tensor, dim: int) -> Tensor:
    """Unit length along `dim`, in float32 or finer."""
    return F.normalize(vectors if vectors.dtype == torch.float64 else vectors.float(), dim=dim)


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """b c h w → b c H W, bilinear with half-pixel centres, borders clamped, no antialiasing."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def lift_rows(maps: Tensor, size: tuple[int, int], top: int, bottom: int) -> Tensor:
    """Rows top … bottom−1 of `enlarge(maps, size)`, without the rest: c h w → c (bottom−top) W."""
    height = maps.shape[-2]
    rows = torch.arange(top, bottom, device=maps.device, dtype=torch.float32)
    source = ((rows + 0.5) * (height / size[0]) - 0.5).clamp_min(0)
    low = source.floor().long().clamp_max(height - 1)
    high = (low + 1).clamp_max(height - 1)
    share = (source - low).to(maps.dtype)[:, None]
    band = maps[:, low] * (1 - share) + maps[:, high] * share
    return enlarge(band[None], (bottom - top, size[1]))[0]


def self_scores(one: Tensor) -> Tensor:
    """Scores of a projection with itself: b heads n d → b heads n n, x xᵀ / √d, float32 or finer."""
    return scaled_scores(one, one)


def scaled_scores(queries: Tensor, keys: Tensor) -> Tensor:
    """q kᵀ / √d in float32 or finer: b heads n d → b heads n n."""
    if queries.dtype != torch.float64:
        queries, keys = queries.float(), keys.float()
    scores: Tensor = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-2, -1)
    return scores


def resize(image: UInt8Image, size: tuple[int, int]) -> UInt8Image:
    """uint8 H W 3 → uint8 at (height, width) `size`: bilinear, half-pixel centres, no antialiasing.

    Bit for bit OpenCV's INTER_LINEAR, with which the published protocols resize: weights in 1/2048, columns first,
    then rows, each product shifted before the sum.
    """
    if image.shape[:2] == size:
        return image
    top, bottom, upper, lower = _samples(size[0], image.shape[0])
    left, right, near, far = _samples(size[1], image.shape[1])
    # beyond the borders OpenCV drops the outer column's weight, but keeps both rows'
    near, far = np.where(left == right, _ONE, near), np.where(left == right, 0, far)

    def columns(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        source = image[rows].astype(np.int32)
        mixed = source[:, left] * near[None, :, None] + source[:, right] * far[None, :, None]
        return (mixed >> 4).astype(np.int32)

    total = ((columns(top) * upper[:, None, None]) >> 16) + ((columns(bottom) * lower[:, None, None]) >> 16)
    resized: UInt8Image = np.clip((total + 2) >> 2, 0, 255).astype(np.uint8)
    return resized


def _samples(
    count: int, length: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """For `count` samples of `length` pixels: the two neighbours of each and their weights in 1/2048."""
    place = ((np.arange(count) + 0.5) * (length / count) - 0.5).astype(np.float32)
    low = np.floor(place).astype(np.int64)
    share = place - low.astype(np.float32)
    weights = [np.rint(w * _ONE).astype(np.int32) for w in (np.float32(1) - share, share)]
    return np.clip(low, 0, length - 1), np.clip(low + 1, 0, length - 1), weights[0], weights[1]
