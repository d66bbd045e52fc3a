"""SCLIP: correlative self-attention in the last block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ovlabel.ops import self_scores
from ovlabel.stages import Stage
from ovlabel.types import WindowContext


@dataclass(frozen=True)
class Csa(Stage):
    """softmax(q qᵀ / √d) + softmax(k kᵀ / √d): two terms, softmaxed apart and added, so rows sum to 2.

    [CLS] takes part; residual and feed-forward are kept (`encoder.last_block = "full"`).
    Source: Wang, Mei, Yuille: SCLIP, ECCV 2024 (arXiv 2312.01597), eq. 3.
    """

    replaces: ClassVar[frozenset[str]] = frozenset({"scores"})

    def scores(self, scores: Tensor, context: WindowContext) -> Tensor:
        """Any scores → 2 b heads n n."""
        queries, keys, _ = context.trace.qkv(context.trace.layers)
        return torch.stack((self_scores(queries), self_scores(keys)))

    def pairs(self, context: WindowContext) -> tuple[tuple[Tensor, Tensor], ...]:
        """The same as queries and keys."""
        queries, keys, _ = context.trace.qkv(context.trace.layers)
        return ((queries, queries), (keys, keys))
