"""PAMR: maps that follow the image's edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_doc import Doc
from annotated_types import Ge, Le, MaxLen, MinLen
from torch import Tensor

from ovlabel.ops import enlarge, pamr, pamr_weights
from ovlabel.stages import Stage
from ovlabel.types import ImageContext


@dataclass(frozen=True)
class Pamr(Stage):
    """Pixel-adaptive mask refinement of the cosines: each pixel becomes a mean of its neighbours, by their likeness.

    The guidance is the working-size image, enlarged to the maps, as in NACLIP and SCLIP. The maps are changed in place.

    Source: Araslanov, Roth: Single-Stage Semantic Segmentation from Image Labels, CVPR 2020 (arXiv 2005.08104), sec. 4.
    """

    iterations: Annotated[int, Ge(0), Le(1000), Doc("how often; 0 changes nothing.")] = 10
    dilations: Annotated[
        tuple[Annotated[int, Ge(1), Le(4096)], ...],
        MinLen(1),
        MaxLen(16),
        Doc("how far the eight neighbours lie, in pixels of the maps, one ring each."),
    ] = (8, 16)

    def logits(self, logits: Tensor, context: ImageContext) -> Tensor:
        """q H W cosines → the same, refined."""
        if not self.iterations:
            return logits
        size = (logits.shape[-2], logits.shape[-1])
        weights = pamr_weights(enlarge(context.pixels[None], size), self.dilations)
        return pamr(logits[None], weights, self.dilations, self.iterations)[0]
