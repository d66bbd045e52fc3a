"""SC-CLIP: CLIP calibrated by itself: outlier tokens repaired, attention and features led by its own middle layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_doc import Doc
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from ovlabel.ops import layer_at, normalise, scaled_scores
from ovlabel.stages import Stage
from ovlabel.types import Trace, WindowContext

_DEEP, _SHALLOW, _FUSED = 9, 4, (4, 5, 6, 7, 8, 9, 10)  # layers of twelve whose outputs are read
_NEIGHBOURS = 30


@dataclass(frozen=True)
class Calibrate(Stage):
    """Four corrections, all from the frozen layers; meant for `encoder.last_block = "attention"`.

    Tokens that stick out by their local outlier factor become the mean of their neighbours on the grid. The tokens that
    enter the last block are mixed by the likeness M of a deep middle layer. That block attends by ½ (softmax of γ times
    what M has above its mean + softmax of key-key scores), without [CLS], of which a share is added back. What comes
    out is mixed by the likeness of a shallow layer, and the same block's answer to the sum of the middle layers is
    added. In a model of another depth than twelve, layers stand at the same share of it.

    [CLS] itself keeps its plain attention; it is never read by patches.

    Source: Bai et al.: Self-Calibrated CLIP for Training-Free Open-Vocabulary Segmentation, 2024 (arXiv 2411.15869),
    sec. 3.2 to 3.4, and its published code.
    """

    replaces: ClassVar[frozenset[str]] = frozenset({"attention"})
    outliers: Annotated[float, Ge(0), Lt(1), Doc("the share of tokens that are repaired.")] = 0.05
    threshold: Annotated[float, Ge(-1), Le(1), Doc("cosine from which tokens are mixed.")] = 0.4
    sharpness: Annotated[float, Gt(0), Le(10_000), Doc("γ, in front of the likeness that leads the attention.")] = 3.0
    cls: Annotated[float, Ge(0), Le(100), Doc("the share of [CLS] that is added back.")] = 0.3
    levels: Annotated[bool, Doc("whether the middle layers' sum goes through the block too.")] = True

    def tokens(self, tokens: Tensor, context: WindowContext) -> Tensor:
        """b n width → the same, outliers repaired, patches mixed."""
        patches = self._repaired(tokens[:, 1:], context.trace)
        likeness = self._likeness(context.trace)
        return torch.cat((tokens[:, :1], _mixed(patches, likeness, self.threshold)), 1)

    def attention(self, attention: Tensor, context: WindowContext) -> Tensor:
        """b heads n n → the same: patches attend patches only."""
        _, keys, _ = context.trace.qkv(context.trace.layers)
        likeness = self._likeness(context.trace)
        above = likeness - likeness.mean((-2, -1), keepdim=True)
        led = (self.sharpness * above).masked_fill(above < 0, -math.inf).softmax(-1)
        own = scaled_scores(keys[:, :, 1:], keys[:, :, 1:]).softmax(-1)
        calibrated = torch.zeros_like(attention)
        calibrated[:, :, 0] = attention[:, :, 0]
        calibrated[:, :, 1:, 1:] = (led[:, None].to(own) + own) / 2
        return calibrated

    def block(self, block: Tensor, context: WindowContext) -> Tensor:
        """b n width → the same, with its share of [CLS], mixed, and the middle layers' answer added."""
        trace = context.trace.unedited
        shallow = _outputs(trace, _SHALLOW)[:, 1:]
        likeness = _cosines(shallow)
        finished = self._finished(block, trace.tokens(trace.layers), likeness)
        if self.levels and context.rerun is not None:
            summed = torch.stack([_outputs(trace, layer) for layer in _FUSED]).sum(0)
            finished = finished + self._finished(context.rerun(summed), summed, likeness)
        return torch.cat((block[:, :1], finished), 1)

    def _finished(self, block: Tensor, entered: Tensor, likeness: Tensor) -> Tensor:
        return _mixed(block[:, 1:] + self.cls * entered[:, :1], likeness, self.threshold)

    def _likeness(self, trace: Trace) -> Tensor:
        """M: cosines between the repaired patches of the deep layer, b h·w h·w."""
        deep = _outputs(trace.unedited, _DEEP)[:, 1:]
        return trace.once(f"calibrate likeness {self.outliers}", lambda: _cosines(self._repaired(deep, trace)))

    def _repaired(self, patches: Tensor, trace: Trace) -> Tensor:
        """b h·w width → the same, with the positions repaired that stick out behind the last block but one."""
        last = trace.unedited.tokens(trace.layers)[:, 1:]
        factor = trace.once("calibrate outlier factor", lambda: outlier_factor(last))
        bad = factor > torch.quantile(factor, 1 - self.outliers, dim=-1, keepdim=True)
        return repaired(patches, bad, trace.grid)


def outlier_factor(tokens: Tensor) -> Tensor:
    """b n width → b n: κ times the mean of 1 / κ over the nearest tokens, κ the squared distance to the 30th of them.

    The local outlier factor (Breunig et al. 2000) as SC-CLIP's code computes it, where the reachability takes the
    token's own distance.
    """
    wide = tokens if tokens.dtype == torch.float64 else tokens.float()
    apart = torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist").square()
    if tokens.shape[1] < 4:
        return wide.new_zeros(tokens.shape[:2])
    count = min(_NEIGHBOURS, (tokens.shape[1] - 1) // 3)  # of few patches fewer: all of them would tell nothing apart
    apart.diagonal(dim1=-2, dim2=-1).fill_(math.inf)
    nearest = apart.topk(count, largest=False)
    reach = nearest.values[..., -1].clamp_min(1e-12)
    around = (1 / reach)[:, None].expand(-1, tokens.shape[1], -1).gather(2, nearest.indices)
    return reach * around.mean(-1)


def repaired(patches: Tensor, bad: Tensor, grid: tuple[int, int]) -> Tensor:
    """b h·w width with `bad` (bool b h·w) patches as the mean of their eight neighbours that are not bad."""
    maps = patches.transpose(1, 2).reshape(len(patches), -1, *grid)
    good = (~bad).to(maps).reshape(len(patches), 1, *grid)
    ring = torch.ones(1, 1, 3, 3, dtype=maps.dtype, device=maps.device)
    ring[..., 1, 1] = 0
    batch, width = maps.shape[:2]
    sums = F.conv2d((maps * good).reshape(batch * width, 1, *grid), ring, padding=1).reshape(maps.shape)
    counts = F.conv2d(good, ring, padding=1)
    mended = torch.where((good == 0) & (counts > 0), sums / counts.clamp_min(1), maps)
    return mended.flatten(2).transpose(1, 2)


def _outputs(trace: Trace, layer: int) -> Tensor:
    """The output of block `layer` of twelve, b n width."""
    return trace.tokens(layer_at(layer, trace.layers) + 1)


def _cosines(patches: Tensor) -> Tensor:
    units = normalise(patches, -1)
    return units @ units.transpose(1, 2)


def _mixed(patches: Tensor, likeness: Tensor, threshold: float) -> Tensor:
    """b n width → the mean of each patch's likes, weighed by their likeness."""
    weights = likeness * (likeness >= threshold)
    weights = weights / weights.sum(-1, keepdim=True)
    return weights.to(patches) @ patches
