"""ResCLIP's residual cross-correlation: the last attention takes a share of the middle layers'."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le, Len
from torch import Tensor

from ovlabel.errors import ConfigError
from ovlabel.fields import Doc
from ovlabel.ops import layer_at
from ovlabel.stages import Stage
from ovlabel.types import Trace, WindowContext

_MIDDLE = (6, 7, 8, 9)  # of twelve


@dataclass(frozen=True)
class Rcs(Stage):
    """τ · ((1 − λ) A + λ · mean of the plain query-key attention of `layers`), head by head, [CLS] included.

    Rows add up to τ; if those of A add up to 2, to τ (2 − λ).

    Source: Yang, Deng, Li, Duan: ResCLIP, CVPR 2025 (arXiv 2411.15851), eq. 5 and 6; defaults of its COCO-Stuff config.
    """

    layers: Annotated[
        tuple[Annotated[int, Ge(1), Le(1000)], ...],
        Len(0, 64),
        Doc("Layers to average, counted from 1; empty: the 6th to 9th of twelve, or those at the same depth."),
    ] = ()
    temperature: Annotated[
        float,
        Gt(0),
        Le(1000),
        Doc("τ, the factor of all. Every published config has 2, which the paper does not mention."),
    ] = 2.0
    weight: Annotated[float, Ge(0), Le(1), Doc("λ, the share of the middle layers.")] = 0.4

    def attention(self, attention: Tensor, context: WindowContext) -> Tensor:
        """b × heads × n × n → the same."""
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
