"""ExCEL's static visual calibration: a second path through the last blocks that only gathers what agrees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_doc import Doc
from annotated_types import Ge, Le
from torch import Tensor

from ovlabel.ops import self_scores
from ovlabel.stages import Stage
from ovlabel.types import WindowContext


@dataclass(frozen=True)
class StaticCalibration(Stage):
    """Patches take, block by block, what a self-correlation of the original path gathers; no feed-forward.

    The path starts as a copy of what enters the first of the last `blocks` blocks. In each, queries, keys and values
    are the original path's, the attention is ⅓ (softmax(q qᵀ) + softmax(k kᵀ) + softmax(v vᵀ)), summed over heads and
    shared by all of them. [CLS] stays the original path's.

    Source: Yang et al.: ExCEL, CVPR 2025 (arXiv 2503.20826), sec. 3.3 (SVC), without its normalisation over tokens,
    which presumes that the image's classes are known; the dual path is CLIP Surgery's (Li et al., 2023).
    """

    replaces: ClassVar[frozenset[str]] = frozenset({"block"})
    blocks: Annotated[int, Ge(1), Le(256), Doc("how many, counted from the last.")] = 5

    def block(self, block: Tensor, context: WindowContext) -> Tensor:
        """b n width → the same, patches from the second path."""
        trace = context.trace
        first = max(1, trace.layers - self.blocks + 1)
        path = trace.tokens(first)
        for layer in range(first, trace.layers + 1):
            shared = torch.stack([self_scores(one).softmax(-1) for one in trace.qkv(layer)]).mean(0)
            path = path + trace.attended(layer, shared.sum(1, keepdim=True))
        return torch.cat((block[:, :1], path[:, 1:]), 1)
