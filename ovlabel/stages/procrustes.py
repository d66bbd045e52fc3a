"""PEARL's aligned attention: keys are turned towards the queries before they are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor

from ovlabel.fields import Doc
from ovlabel.ops import scaled_scores
from ovlabel.stages import Stage
from ovlabel.types import WindowContext

_STEPS = 5  # of the authors' Newton-Schulz iteration, which has not converged by then


@dataclass(frozen=True)
class Procrustes(Stage):
    """(q (k R)ᵀ + a k̄ k̄ᵀ) / √d, one term; R turns the keys of a head onto its queries, k̄ are keys less their mean.

    The means of queries and keys weigh every patch by the length of its query, and leave [CLS] out; [CLS] takes part
    in all else. Meant for `encoder.last_block = "attention"`.

    Source: Pei et al.: PEARL, Geometry Aligns Semantics, CVPR 2026 (arXiv 2603.21528), and its published code, whose
    rotation is stopped after five steps: directions in which queries and keys agree little are damped.
    """

    replaces: ClassVar[frozenset[str]] = frozenset({"scores"})
    weight: Annotated[
        float,
        Ge(0),
        Le(100),
        Doc("a, the share of the key-key scores. The authors take 0.08, and 0.3 for ADE20K and Cityscapes."),
    ] = 0.08
    rotation: Annotated[
        Literal["damped", "exact"],
        Doc("`damped` computes R as the authors' code does, by five steps; `exact` as the paper's formula says."),
    ] = "damped"

    def scores(self, scores: Tensor, context: WindowContext) -> Tensor:
        """Any scores → 1 × b × heads × n × n."""
        return scaled_scores(*self._pair(context))[None]

    def pairs(self, context: WindowContext) -> tuple[tuple[Tensor, Tensor], ...]:
        """The same as queries and keys of 2·d values."""
        dtype = context.trace.qkv(context.trace.layers)[0].dtype
        queries, keys = self._pair(context)
        return ((queries.to(dtype), keys.to(dtype)),)

    def _pair(self, context: WindowContext) -> tuple[Tensor, Tensor]:
        """b × heads × n × 2·d each, in at least float32: both terms of the scores as one product."""
        queries, keys, _ = context.trace.qkv(context.trace.layers)
        if queries.dtype != torch.float64:
            queries, keys = queries.float(), keys.float()
        centred_queries, centred_keys = centred(queries, keys)
        cross = centred_keys.transpose(-2, -1) @ centred_queries
        turned = keys @ (damped(cross) if self.rotation == "damped" else exact(cross))
        wide = 2**0.5 * torch.cat((queries, self.weight * centred_keys), -1)  # √2: a product of 2·d is over √(2·d)
        return wide, torch.cat((turned, centred_keys), -1)


def centred(queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys, b × heads × n × d, less their means over the patches, each patch weighed by its query's length.

    The weight of the first token, [CLS], is 0; the mean is taken from it too.
    """
    weights = queries.norm(dim=-1, keepdim=True)
    weights = torch.cat((torch.zeros_like(weights[..., :1, :]), weights[..., 1:, :]), -2)
    weights = weights / (weights.sum(-2, keepdim=True) + 1e-6)
    return queries - (weights * queries).sum(-2, keepdim=True), keys - (weights * keys).sum(-2, keepdim=True)


def exact(cross: Tensor) -> Tensor:
    """U Vᵀ of U diag(m) Vᵀ: the rotation nearest to a matrix d × d; axes before are a batch."""
    left, _, right = torch.linalg.svd(cross)
    nearest: Tensor = left @ right
    return nearest


def damped(cross: Tensor) -> Tensor:
    """M (Mᵀ M)^(-½), the inverse square root by five steps of Newton and Schulz: U diag(g) Vᵀ of U diag(m) Vᵀ.

    The gain g of a direction is at most 1, at least 0.999 where m² ≥ ‖Mᵀ M‖ / 8, and falls to 0 with m.

    Args:
        cross: M, d × d; axes before are a batch.
    """
    tiny = torch.finfo(cross.dtype).tiny
    cross = cross / cross.abs().amax((-2, -1), keepdim=True).clamp_min(
        tiny
    )  # its scale does not matter but to rounding
    square = cross.transpose(-2, -1) @ cross
    norm = torch.linalg.matrix_norm(square, keepdim=True).clamp_min(tiny)
    unit = torch.eye(cross.shape[-1], dtype=cross.dtype, device=cross.device)
    root, inverse = square / norm + 1e-6 * unit, unit.expand_as(square)
    for _ in range(_STEPS):
        factor = (3 * unit - inverse @ root) / 2
        root, inverse = root @ factor, factor @ inverse
    turned: Tensor = cross @ inverse / norm.sqrt()
    return turned
