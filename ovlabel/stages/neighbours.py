"""NACLIP: a Gaussian prior that keeps each patch's attention in its neighbourhood."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import torch
from annotated_doc import Doc
from annotated_types import Gt, Le
from torch import Tensor

from ovlabel.stages import Stage
from ovlabel.types import WindowContext


@dataclass(frozen=True)
class Neighbours(Stage):
    """Adds exp(−‖p − q‖² / 2σ²) to the scores of patches p and q; [CLS]'s row and column get nothing.

    Source: Hajimiri, Ben Ayed, Dolz: NACLIP, WACV 2025 (arXiv 2404.08181), eq. 6. The prior is the Kronecker product
    of two one-dimensional Gaussians.
    """

    sigma: Annotated[float, Gt(0), Le(10_000), Doc("width of the Gaussian, in patches.")] = 5.0

    def scores(self, scores: Tensor, context: WindowContext) -> Tensor:
        """t b heads n n → the same, every term with the prior added."""
        return scores + prior(context.trace.grid, self.sigma).to(scores)


@lru_cache(maxsize=8)
def prior(grid: tuple[int, int], sigma: float) -> Tensor:
    """n n float64 with a zero row and column for [CLS]; peak 1 on the diagonal."""
    rows, columns = (_gaussian(length, sigma) for length in grid)
    count = 1 + grid[0] * grid[1]
    omega = torch.zeros(count, count, dtype=torch.float64)
    omega[1:, 1:] = torch.kron(rows, columns)
    return omega


def _gaussian(length: int, sigma: float) -> Tensor:
    place = torch.arange(length, dtype=torch.float64)
    return torch.exp(-((place[:, None] - place[None, :]) ** 2) / (2 * sigma**2))
