"""Cosines blended from coarse to fine: what some writings call SFR, under a name of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from annotated_doc import Doc
from annotated_types import Ge, Le
from torch import Tensor

from ovlabel.ops import enlarge
from ovlabel.stages import Stage
from ovlabel.types import WindowContext


@dataclass(frozen=True)
class Pyramid(Stage):
    """Cosines pooled by 2, 4, …; from the coarsest on, each level is α · finer + (1 − α) · what came before, enlarged.

    Not ResCLIP: no feedback (that is `sfr`). It pools the cosines that are there instead of encoding the image anew.

    Source: García García: Open-Vocabulary Semantic Segmentation for Generative AI, Master's thesis, Universidad de
    Zaragoza, 2025, where a pyramid of three levels with α = 0.6 stands for ResCLIP's SFR.
    """

    weight: Annotated[float, Ge(0), Le(1), Doc("α, the finer level's share.")] = 0.6
    levels: Annotated[int, Ge(1), Le(16), Doc("how many, the patches' own among them.")] = 3

    def similarity(self, cosines: Tensor, context: WindowContext) -> Tensor:
        """b q h w → the same."""
        levels = [cosines]
        for _ in range(1, self.levels):
            levels.append(F.avg_pool2d(levels[-1], 2, ceil_mode=True, count_include_pad=False))
        blended = levels.pop()
        for finer in reversed(levels):
            blended = self.weight * finer + (1 - self.weight) * enlarge(blended, (finer.shape[-2], finer.shape[-1]))
        return blended
