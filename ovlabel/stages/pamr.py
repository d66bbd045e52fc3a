"""PAMR: maps that follow the edges of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le, Len
from torch import Tensor

from ovlabel.fields import Doc
from ovlabel.ops import enlarge, pamr, pamr_weights
from ovlabel.stages import Stage
from ovlabel.types import ImageContext


@dataclass(frozen=True)
class Pamr(Stage):
    """Pixel-adaptive mask refinement: each pixel's cosines become a mean of its neighbours', weighed by their likeness.

    The guidance is the working-size image, enlarged to the maps, as in NACLIP and SCLIP. The maps are changed in place.

    Source: Araslanov, Roth: Single-Stage Semantic Segmentation from Image Labels, CVPR 2020 (arXiv 2005.08104), sec. 4.
    """

    iterations: Annotated[int, Ge(0), Le(1000), Doc("How often the mean is taken; 0 changes nothing.")] = 10
    dilations: Annotated[
        tuple[Annotated[int, Ge(1), Le(4096)], ...],
        Len(1, 16),
        Doc("How far the eight neighbours lie from a pixel, in pixels of the maps; one ring for each number."),
    ] = (8, 16)

    def logits(self, logits: Tensor, context: ImageContext) -> Tensor:
        """q × H × W cosines → the same, refined."""
        if not self.iterations:
            return logits
        size = (logits.shape[-2], logits.shape[-1])
        weights = pamr_weights(enlarge(context.pixels[None], size), self.dilations)
        return pamr(logits[None], weights, self.dilations, self.iterations)[0]
