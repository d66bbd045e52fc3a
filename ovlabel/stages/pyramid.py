"""Cosines blended from coarse to fine: what some writings call SFR, under a name of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ovlabel.errors import ConfigError
from ovlabel.ops import enlarge
from ovlabel.types import WindowContext


@dataclass(frozen=True)
class Pyramid:
    """Cosines pooled by 2, 4, …; from the coarsest on, each level is α · finer + (1 − α) · what came before, enlarged.

    Attributes:
        weight: α, the finer level's share, 0 … 1. levels: how many, the patches' own among them.

    Not ResCLIP: no feedback (that is `sfr`). It pools the cosines that are there instead of encoding the image anew.

    Source: the thesis that started this project, where a pyramid of three levels with α = 0.6 stands for ResCLIP's SFR.
    """

    replaces: ClassVar[frozenset[str]] = frozenset()
    weight: float = 0.6
    levels: int = 3

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1 or self.levels < 1:
            raise ConfigError(f"pyramid.weight = {self.weight}, pyramid.levels = {self.levels}: 0 … 1, and from 1")

    def similarity(self, cosines: Tensor, context: WindowContext) -> Tensor:
        """b q h w → the same."""
        levels = [cosines]
        for _ in range(1, self.levels):
            levels.append(F.avg_pool2d(levels[-1], 2, ceil_mode=True, count_include_pad=False))
        blended = levels.pop()
        for finer in reversed(levels):
            blended = self.weight * finer + (1 - self.weight) * enlarge(blended, (finer.shape[-2], finer.shape[-1]))
        return blended
