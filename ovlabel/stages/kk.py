"""Key-key attention in the last block: NACLIP's similarity, without its neighbourhood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ovlabel.ops import self_scores
from ovlabel.stages import Stage
from ovlabel.types import WindowContext


@dataclass(frozen=True)
class Kk(Stage):
    """softmax(k kᵀ / √d), one term; meant for `encoder.last_block = "attention"`.

    Source: Hajimiri, Ben Ayed, Dolz: NACLIP, WACV 2025 (arXiv 2404.08181).
    """

    replaces: ClassVar[frozenset[str]] = frozenset({"scores"})

    def scores(self, scores: Tensor, context: WindowContext) -> Tensor:
        """Any scores → 1 b heads n n."""
        _, keys, _ = context.trace.qkv(context.trace.layers)
        return self_scores(keys)[None]

    def pairs(self, context: WindowContext) -> tuple[tuple[Tensor, Tensor], ...]:
        """The same as queries and keys."""
        _, keys, _ = context.trace.qkv(context.trace.layers)
        return ((keys, keys),)
