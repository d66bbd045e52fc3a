"""Features smoothed by their own likeness: what some writings call RCS, under a name of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ovlabel.errors import ConfigError
from ovlabel.ops import normalise
from ovlabel.types import WindowContext


@dataclass(frozen=True)
class Correlate:
    """F + α · softmax(F Fᵀ / τ) F over the patches of a window, with unit features F.

    Attributes:
        weight: α. temperature: τ, in cosines.

    Not ResCLIP: nothing is taken from other layers (that is `rcs`).

    Source: the thesis that started this project, where it stands for ResCLIP's RCS; its own α and τ.
    """

    replaces: ClassVar[frozenset[str]] = frozenset()
    weight: float = 0.3
    temperature: float = 0.07

    def __post_init__(self) -> None:
        if self.weight < 0 or self.temperature <= 0:
            raise ConfigError(
                f"correlate.weight = {self.weight}, correlate.temperature = {self.temperature}: from 0, and above 0"
            )

    def features(self, features: Tensor, context: WindowContext) -> Tensor:
        """b e h w → the same; unit vectors plus their mixture, not normalised again."""
        units = normalise(features, 1)
        patches = units.flatten(2)
        alike = (patches.transpose(1, 2) @ patches / self.temperature).softmax(-1)
        return units + self.weight * (patches @ alike.transpose(1, 2)).reshape(units.shape)
