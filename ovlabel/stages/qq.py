"""ClearCLIP: query-query attention in the last block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ovlabel.ops import self_scores
from ovlabel.stages import Stage
from ovlabel.types import WindowContext


@dataclass(frozen=True)
class Qq(Stage):
    """softmax(q qᵀ / √d), one term; meant for `encoder.last_block = "attention"`.

    Source: Lan et al.: ClearCLIP, ECCV 2024 (arXiv 2407.12442).
    """

    replaces: ClassVar[frozenset[str]] = frozenset({"scores"})

    def scores(self, scores: Tensor, context: WindowContext) -> Tensor:
        """Any scores → 1 b heads n n."""
        queries, _, _ = context.trace.qkv(context.trace.layers)
        return self_scores(queries)[None]

    def pairs(self, context: WindowContext) -> tuple[tuple[Tensor, Tensor], ...]:
        """The same as queries and keys."""
        queries, _, _ = context.trace.qkv(context.trace.layers)
        return ((queries, queries),)
