"""Pure tensor functions that two rooms or stages share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
