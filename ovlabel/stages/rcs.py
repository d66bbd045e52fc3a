"""ResCLIP's residual cross-correlation: the last attention takes a share of the middle layers' own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_doc import Doc
from annotated_types import Ge, Gt, Le
from torch import Tensor

from ovlabel.errors import ConfigError
from ovlabel.ops import layer_at
from ovlabel.stages import Stage
from ovlabel.types import Trace, WindowContext

_MIDDLE = (6, 7, 8, 9)  # of twelve


@dataclass(frozen=True)
class Rcs(Stage):
    """τ · ((1 − λ) A + λ · mean of the plain q-k attention of `layers`), head by head, [CLS] included.

    Source: Yang, Deng, Li, Duan: ResCLIP, CVPR 2025 (arXiv 2411.15851), eq. 5 and 6; defaults of its COCO-Stuff config.
    """

    layers: Annotated[
        tuple[Annotated[int, Ge(1), Le(256)], ...],
        Doc(
            "whose attention is averaged, from 1; none: the 6th to 9th of twelve, and in a model of another depth "
            "those at the same share of it."
        ),
    ] = ()
    temperature: Annotated[
        float,
        Gt(0),
        Le(10_000),
        Doc(
            "τ, in front of all; rows add up to τ (of a base whose rows add up to 2: to τ (2 − λ)). Every published "
            "config has 2, which the paper does not mention."
        ),
    ] = 2.0
    weight: Annotated[float, Ge(0), Le(1), Doc("λ, the middle layers' share.")] = 0.4

    def attention(self, attention: Tensor, context: WindowContext) -> Tensor:
        """b heads n n → the same."""
        layers = self._layers(context.trace)
        middle = sum(context.trace.attention(layer) for layer in layers) / len(layers)
        mixed: Tensor = self.temperature * ((1 - self.weight) * attention + self.weight * middle)
        return mixed

    def _layers(self, trace: Trace) -> tuple[int, ...]:
        if self.layers:
            if min(self.layers) < 1 or max(self.layers) > trace.layers:
                raise ConfigError(f"rcs.layers = {list(self.layers)}: the model has layers 1 … {trace.layers}")
            return self.layers
        return tuple(layer_at(layer, trace.layers) for layer in _MIDDLE)
