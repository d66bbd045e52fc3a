"""ITACLIP: the last attention is averaged with that of earlier layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le, Len
from torch import Tensor

from ovlabel.errors import ConfigError
from ovlabel.fields import Doc
from ovlabel.ops import layer_at, self_scores
from ovlabel.stages import Stage
from ovlabel.types import Trace, WindowContext

_LAYERS = (7, 8, 10)  # of twelve


@dataclass(frozen=True)
class LayerMean(Stage):
    """(1 − λ) A + λ · mean over earlier layers of their own attention. Meant to follow `csa`.

    It is published with `encoder.last_block = "residual"`.

    Source: Aydın et al.: ITACLIP, CVPR-W 2025 (arXiv 2411.12044), sec. 3.2, and its published code.
    """

    weight: Annotated[float, Ge(0), Le(1), Doc("λ, the share of the earlier layers.")] = 0.5
    layers: Annotated[
        tuple[Annotated[int, Ge(1), Le(1000)], ...],
        Len(0, 64),
        Doc("Layers to average, counted from 1; empty: the 7th, 8th and 10th of twelve, or those at the same depth."),
    ] = ()
    kind: Annotated[
        Literal["csa", "plain"],
        Doc("What is taken of the layers: softmax(q qᵀ) + softmax(k kᵀ) (`csa`), or softmax(q kᵀ) (`plain`)."),
    ] = "csa"

    def attention(self, attention: Tensor, context: WindowContext) -> Tensor:
        """b × heads × n × n → the same."""
        each = [self._of(context.trace, layer) for layer in self._chosen(context.trace.layers)]
        return (1 - self.weight) * attention + self.weight * torch.stack(each).mean(0)

    def _of(self, trace: Trace, layer: int) -> Tensor:
        if self.kind == "plain":
            return trace.attention(layer)
        queries, keys, _ = trace.qkv(layer)
        return self_scores(queries).softmax(-1) + self_scores(keys).softmax(-1)

    def _chosen(self, depth: int) -> tuple[int, ...]:
        if self.layers and not 1 <= min(self.layers) <= max(self.layers) <= depth:
            raise ConfigError(f"layer_mean.layers = {list(self.layers)}: the model has layers 1 … {depth}")
        return self.layers or tuple(layer_at(layer, depth) for layer in _LAYERS)
