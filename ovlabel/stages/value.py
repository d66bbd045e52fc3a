"""MaskCLIP: every token keeps its own value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ovlabel.stages import Stage
from ovlabel.types import WindowContext


@dataclass(frozen=True)
class Value(Stage):
    """Attention = identity: the block gives out_proj(v) token by token; meant for `encoder.last_block = "attention"`.

    Source: Zhou, Loy, Dai: Extract Free Dense Labels from CLIP, ECCV 2022 (arXiv 2112.01071), without its key
    smoothing and prompt denoising.
    """

    replaces: ClassVar[frozenset[str]] = frozenset({"attention"})

    def attention(self, attention: Tensor, context: WindowContext) -> Tensor:
        """b heads n n → the identity in the same shape."""
        count = attention.shape[-1]
        return torch.eye(count, dtype=attention.dtype, device=attention.device).expand_as(attention)
