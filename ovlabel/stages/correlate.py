"""Features smoothed by their own likeness: what some writings call RCS, under a name of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_doc import Doc
from annotated_types import Ge, Gt, Le
from torch import Tensor

from ovlabel.ops import normalise
from ovlabel.stages import Stage
from ovlabel.types import WindowContext


@dataclass(frozen=True)
class Correlate(Stage):
    """F + α · softmax(F Fᵀ / τ) F over the patches of a window, with unit features F.

    Not ResCLIP: nothing is taken from other layers (that is `rcs`).

    Source: García García: Open-Vocabulary Semantic Segmentation for Generative AI, Master's thesis, Universidad de
    Zaragoza, 2025, where it stands for ResCLIP's RCS; its own α and τ.
    """

    weight: Annotated[float, Ge(0), Le(100), Doc("α, the share of the mixture.")] = 0.3
    temperature: Annotated[float, Gt(0), Le(100), Doc("τ, in cosines.")] = 0.07

    def features(self, features: Tensor, context: WindowContext) -> Tensor:
        """b e h w → the same; unit vectors plus their mixture, not normalised again."""
        units = normalise(features, 1)
        patches = units.flatten(2)
        alike = (patches.transpose(1, 2) @ patches / self.temperature).softmax(-1)
        return units + self.weight * (patches @ alike.transpose(1, 2)).reshape(units.shape)
