"""ITACLIP: the last attention shares its place with that of earlier layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_doc import Doc
from annotated_types import Ge, Le
from torch import Tensor

from ovlabel.errors import ConfigError
from ovlabel.ops import layer_at, self_scores
from ovlabel.stages import Stage
from ovlabel.types import Trace, WindowContext

_LAYERS = (7, 8, 10)  # of twelve
_KINDS = ("csa", "plain")


@dataclass(frozen=True)
class LayerMean(Stage):
    """(1 − λ) A + λ · mean over earlier layers of their own attention; meant behind `csa`, `last_block = "residual"`.

    Source: Aydın et al.: ITACLIP, CVPR-W 2025 (arXiv 2411.12044), sec. 3.2, and its published code.
    """

    weight: Annotated[float, Ge(0), Le(1), Doc("λ, the earlier layers' share.")] = 0.5
    layers: Annotated[
        tuple[Annotated[int, Ge(1), Le(256)], ...],
        Doc("from 1; none: the 7th, 8th and 10th of twelve, and in a model of another depth those at the same share."),
    ] = ()
    kind: Annotated[
        Literal["csa", "plain"], Doc("what is taken of them: softmax(q qᵀ) + softmax(k kᵀ), or softmax(q kᵀ).")
    ] = "csa"

    def attention(self, attention: Tensor, context: WindowContext) -> Tensor:
        """b heads n n → the same."""
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
