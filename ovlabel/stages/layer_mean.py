"""ITACLIP: the last attention shares its place with that of earlier layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ovlabel.errors import ConfigError, unknown
from ovlabel.ops import layer_at, self_scores
from ovlabel.types import Trace, WindowContext

_LAYERS = (7, 8, 10)  # of twelve
_KINDS = ("csa", "plain")


@dataclass(frozen=True)
class LayerMean:
    """(1 − λ) A + λ · mean over earlier layers of their own attention; meant behind `csa`, `last_block = "residual"`.

    Attributes:
        weight: λ, 0 … 1. layers: from 1; by default the 7th, 8th and 10th of twelve, in others at the same share.
        kind: what is taken of them: "csa", softmax(q qᵀ) + softmax(k kᵀ), or "plain", softmax(q kᵀ).

    Source: Aydın et al.: ITACLIP, CVPR-W 2025 (arXiv 2411.12044), sec. 3.2, and its published code.
    """

    replaces: ClassVar[frozenset[str]] = frozenset()
    weight: float = 0.5
    layers: tuple[int, ...] = ()
    kind: str = "csa"

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ConfigError(unknown("layer_mean.kind", self.kind, _KINDS))
        if not 0 <= self.weight <= 1:
            raise ConfigError(f"layer_mean.weight = {self.weight}: 0 … 1")

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
