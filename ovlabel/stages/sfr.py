"""ResCLIP's semantic feedback: a first segmentation says which patches belong together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_doc import Doc
from annotated_types import Ge, Gt, Le
from torch import Tensor

from ovlabel.errors import ConfigError
from ovlabel.ops import enlarge, pamr, pamr_weights
from ovlabel.stages import Stage
from ovlabel.types import WindowContext

_DILATIONS, _ITERATIONS = (8, 16), 10
_MODES = ("literal", "repaired")
_RIVALS = 2  # repaired: queries that are among so many best of any patch are refined


@dataclass(frozen=True)
class Sfr(Stage):
    """τ · ((1 − λ) scores + λ Ŝ), where Ŝ is high between patches to which a first pass gives one label.

    The first pass goes through all later edits of scores and attention: its cosines, refined by PAMR on the window's
    pixels, give each pixel its best query and each patch its most frequent one. Patches of one query are near; less so
    if the straight way between them leaves it.

    `mode = "literal"` does what the authors' code does; `"repaired"` what it means to do: the whole way is looked at
    and not only its first part, the blur is two-dimensional instead of running on across rows, rows are scaled to a
    maximum of 1 each instead of all by the largest, and nothing is rounded to half precision. It also refines only
    queries that are among the two best of some patch, the others as one unrefined rest.

    Source: Yang, Deng, Li, Duan: ResCLIP, CVPR 2025 (arXiv 2411.15851), eq. 7 to 11, and its published code, which runs
    PAMR in the loop; defaults of its COCO-Stuff config.
    """

    rescales: ClassVar[frozenset[str]] = frozenset({"scores"})
    mode: Annotated[
        Literal["literal", "repaired"], Doc("what the authors' code does, or what it means to do; see above.")
    ] = "literal"
    threshold: Annotated[float, Ge(0), Le(1), Doc("pixels of less probability count as query 0.")] = 0.11
    temperature: Annotated[float, Gt(0), Le(10_000), Doc("τ, in front of all.")] = 1.8
    weight: Annotated[float, Ge(0), Le(1), Doc("λ, the share of the feedback.")] = 0.7
    sigma: Annotated[float, Gt(0), Le(10_000), Doc("width of the blur, in patches.")] = 5.0

    def scores(self, scores: Tensor, context: WindowContext) -> Tensor:
        """t b heads n n → the same, every term with the feedback; [CLS] gets none."""
        if context.preview is None:
            raise ConfigError("sfr needs a preview of the segmentation")
        labels = self._labels(context.preview(scores), context)
        near = self._near(labels).to(scores)
        edited: Tensor = scores * (self.temperature * (1 - self.weight))
        edited[..., 1:, 1:] += self.temperature * near[:, None]
        return edited

    def _labels(self, cosines: Tensor, context: WindowContext) -> Tensor:
        """b q h w cosines → int64 b h w: each patch's most frequent best query, the smallest of equals."""
        size = (context.pixels.shape[-2], context.pixels.shape[-1])
        first = self._best_refined if self.mode == "literal" else self._best_pruned
        grids = [
            _vote(first(one[None] * context.logit_scale, pixels[None], size), one.shape)
            for one, pixels in zip(cosines, context.pixels, strict=True)
        ]
        return torch.stack(grids)

    def _best_refined(self, logits: Tensor, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        """1 q h w → int64 H W, the best query of every pixel."""
        maps = pamr(enlarge(logits, size), pamr_weights(pixels, _DILATIONS), _DILATIONS, _ITERATIONS)[0]
        best, query = maps.max(0)
        return query.masked_fill_((best - maps.logsumexp(0)).exp() < self.threshold, 0)

    def _best_pruned(self, logits: Tensor, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        """The same, refining only queries that can win."""
        kept = torch.unique(logits[0].topk(min(_RIVALS, logits.shape[1]), dim=0).indices)
        others = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device).index_fill_(0, kept, False)
        maps = pamr(enlarge(logits[:, kept], size), pamr_weights(pixels, _DILATIONS), _DILATIONS, _ITERATIONS)[0]
        total = maps.logsumexp(0)
        if others.any():
            total = torch.logaddexp(total, enlarge(logits[:, others].logsumexp(1, keepdim=True), size)[0, 0])
        best, index = maps.max(0)
        query: Tensor = kept[index].masked_fill_((best - total).exp() < self.threshold, 0)
        return query

    def _near(self, labels: Tensor) -> Tensor:
        """int64 b h w → b h·w h·w: λ Ŝ."""
        near: Tensor = affinity(labels, self.sigma, self.mode)
        if self.mode == "repaired":
            scaled: Tensor = self.weight * near / near.amax(-1, keepdim=True)
            return scaled
        rounded: Tensor = (near / near.amax((-2, -1), keepdim=True)).half() * self.weight
        return rounded.float()


def affinity(labels: Tensor, sigma: float, mode: str = "literal", decay: bool = True) -> Tensor:
    """Patch labels b h w → Ŝ, b h·w h·w: rows add up to 1, before they are scaled.

    1 for patches of one label, exp(−distance / greatest distance) where the way between them leaves it (`decay`),
    0 for others; blurred along the keys, and divided by the rows' sums.
    """
    height, width = labels.shape[1:]
    flat = labels.flatten(1)
    same = (flat[:, :, None] == flat[:, None, :]).float()
    if decay:
        distance = _distances(height, width).to(labels.device)
        farther = torch.exp(-distance / max(height - 1, width - 1, 1))
        same = same * torch.where(clear_way(labels, mode), 1.0, farther)
    if mode == "repaired":
        grid = same.reshape(-1, 1, height, width)
        tall, wide = _kernel(sigma, height, grid), _kernel(sigma, width, grid)
        grid = F.conv2d(grid, tall[None, None, :, None], padding=(len(tall) // 2, 0))
        blurred = F.conv2d(grid, wide[None, None, None, :], padding=(0, len(wide) // 2)).reshape(same.shape)
    else:
        kernel = _kernel(sigma, height * width, same)
        blurred = F.conv1d(same.reshape(-1, 1, height * width), kernel[None, None], padding=len(kernel) // 2)
        blurred = blurred.reshape(same.shape)
    blurred = blurred.relu()
    return blurred / (blurred.sum(-1, keepdim=True) + 1e-8)


def clear_way(labels: Tensor, mode: str = "literal") -> Tensor:
    """bool b h·w h·w: whether the straight way from one patch to another keeps the first one's label.

    "repaired": the way has a sample for each step of the greater distance r, at j / r. "literal": samples lie at j / M
    for every pair, M the greatest distance on the grid, and only the first r are looked at, so that only a first part
    of the way is.
    """
    batch, height, width = labels.shape
    flat = labels.flatten(1)
    distance = _distances(height, width).to(labels.device)
    steps = max(height - 1, width - 1)
    clear = torch.ones(batch, height * width, height * width, dtype=torch.bool, device=labels.device)
    shares = torch.linspace(0, 1, steps + 1) if steps else torch.zeros(1)
    for step in range(steps + 1):
        if mode == "literal":
            share = shares[step].to(labels.device)
            rows, columns = (_between(length, share, labels.device) for length in (height, width))
            index = (rows[:, None, :, None] * width + columns[None, :, None, :]).reshape(height * width, -1)
        else:
            index = _on_the_way(height, width, step, distance)
        kept = flat[:, index] == flat[:, :, None]
        clear &= kept | (distance < step)
    return clear


def _between(length: int, share: Tensor, device: torch.device) -> Tensor:
    """int64 length × length: the rounded place on the way from each to each, in float32 as the authors compute it."""
    place = torch.arange(length, dtype=torch.float32, device=device)
    return torch.round(place[:, None] * (1 - share) + place[None, :] * share).long()


def _on_the_way(height: int, width: int, step: int, distance: Tensor) -> Tensor:
    """int64 h·w × h·w: the patch `step` steps along the way of each pair; rounded halves go up for both directions."""
    grid = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y, x = (place.flatten().to(distance) for place in grid)
    share = step / distance.clamp_min(step).clamp_min(1)
    rows, columns = (torch.floor(p[:, None] + (p[None, :] - p[:, None]) * share + 0.5).long() for p in (y, x))
    return rows * width + columns


def _distances(height: int, width: int) -> Tensor:
    """float32 h·w × h·w: the greater of the distances in rows and in columns, in patches."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    apart = [(place.flatten()[:, None] - place.flatten()[None, :]).abs() for place in (y, x)]
    return torch.maximum(*apart).float()


def _kernel(sigma: float, length: int, like: Tensor) -> Tensor:
    """A Gaussian of 6 σ + 1 taps, at most `length` and always odd, adding up to 1."""
    taps = min(length, int(6 * sigma + 1))
    taps += 1 - taps % 2
    place = torch.arange(taps, dtype=torch.float32) - taps // 2
    weights = torch.exp(-(place**2) / (2 * sigma**2))
    return (weights / weights.sum()).to(like)


def _vote(best: Tensor, shape: tuple[int, ...]) -> Tensor:
    """int64 H W → h w: the most frequent value of each patch, the smallest of equals. `shape` is (q, h, w)."""
    queries, height, width = shape
    tall, wide = best.shape[0] // height, best.shape[1] // width
    cells = best[: height * tall, : width * wide].reshape(height, tall, width, wide).permute(0, 2, 1, 3).flatten(2)
    offsets = torch.arange(height * width, device=best.device)[:, None] * queries
    counts = torch.bincount((cells.flatten(0, 1) + offsets).flatten(), minlength=height * width * queries)
    return counts.reshape(height * width, queries).argmax(1).reshape(height, width)
