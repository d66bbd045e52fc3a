"""Cosines blended from coarse to fine, which some writings call SFR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor

from ovlabel.fields import Doc
from ovlabel.ops import enlarge
from ovlabel.stages import Stage
from ovlabel.types import WindowContext


@dataclass(frozen=True)
class Pyramid(Stage):
    """Cosines pooled by 2, 4, …; from the coarsest on, each becomes α · finer + (1 − α) · what came before, enlarged.

    Not ResCLIP's SFR, which feeds a segmentation back (the stage `sfr`). It pools the cosines at hand and does not
    encode the image anew.

    Source: Pablo García García, "Open-Vocabulary Semantic Segmentation for Generative AI", Master's thesis,
    Universidad de Zaragoza, 2025, where a pyramid of
    three levels with α = 0.6 stands for ResCLIP's SFR.
    """

    weight: Annotated[float, Ge(0), Le(1), Doc("α, the share of the finer level.")] = 0.6
    levels: Annotated[int, Ge(1), Le(32), Doc("Number of levels, that of the patches included.")] = 3

    def similarity(self, cosines: Tensor, context: WindowContext) -> Tensor:
        """b × q × h × w → the same."""
        levels = [cosines]
        for _ in range(1, self.levels):
            levels.append(F.avg_pool2d(levels[-1], 2, ceil_mode=True, count_include_pad=False))
        blended = levels.pop()
        for finer in reversed(levels):
            blended = self.weight * finer + (1 - self.weight) * enlarge(blended, (finer.shape[-2], finer.shape[-1]))
        return blended
