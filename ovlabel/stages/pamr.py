"""PAMR: maps that follow the image's edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ovlabel.errors import ConfigError
from ovlabel.ops import enlarge, pamr, pamr_weights
from ovlabel.types import ImageContext


@dataclass(frozen=True)
class Pamr:
    """Pixel-adaptive mask refinement of the cosines: each pixel becomes a mean of its neighbours, by their likeness.

    Attributes:
        iterations: how often; 0 changes nothing.
        dilations: how far the eight neighbours lie, in pixels of the maps, one ring each.

    The guidance is the working-size image, enlarged to the maps, as in NACLIP and SCLIP. The maps are changed in place.

    Source: Araslanov, Roth: Single-Stage Semantic Segmentation from Image Labels, CVPR 2020 (arXiv 2005.08104), sec. 4.
    """

    replaces: ClassVar[frozenset[str]] = frozenset()
    iterations: int = 10
    dilations: tuple[int, ...] = (8, 16)

    def __post_init__(self) -> None:
        if self.iterations < 0 or not self.dilations or min(self.dilations) < 1:
            raise ConfigError(
                f"pamr.iterations = {self.iterations}, pamr.dilations = {list(self.dilations)}: "
                "whole numbers, from 0 and from 1"
            )

    def logits(self, logits: Tensor, context: ImageContext) -> Tensor:
        """q H W cosines → the same, refined."""
        if not self.iterations:
            return logits
        size = (logits.shape[-2], logits.shape[-1])
        weights = pamr_weights(enlarge(context.pixels[None], size), self.dilations)
        return pamr(logits[None], weights, self.dilations, self.iterations)[0]
