"""CLIPtrase: self-correlation in the last block, and regions that vote for one class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_doc import Doc
from annotated_types import Ge, Gt, Le
from scipy import ndimage, sparse
from scipy.sparse import csgraph
from torch import Tensor

from ovlabel.ops import enlarge, normalise, self_scores
from ovlabel.stages import Stage
from ovlabel.types import Trace, WindowContext

_MEDIAN = 7  # side of the square over which the clusters' maps are smoothed, in quarters of a patch


@dataclass(frozen=True)
class Cliptrase(Stage):
    """Attention softmax(q qᵀ) + softmax(k kᵀ) + softmax(v vᵀ); then regions of a window vote.

    Patches that correlate alike in the last block but one, less what [CLS] does, are clustered (DBSCAN); a pixel goes
    to the cluster that is strongest there, and each region of pixels takes its most frequent class: the best cosine of
    that class and the best of all change places. A window without clusters stays as it is.

    Source: Shao et al.: Explore the Potential of CLIP for Training-Free Open Vocabulary Semantic Segmentation,
    ECCV 2024 (arXiv 2407.08268), and its published code; in windows, each votes by itself.
    """

    replaces: ClassVar[frozenset[str]] = frozenset({"scores"})
    radius: Annotated[float, Gt(0), Le(10_000), Doc("DBSCAN's ε, a distance between rows of correlations.")] = 0.7
    neighbours: Annotated[
        int,
        Ge(1),
        Le(10_000),
        Doc(
            "how many make a core point, itself included. The authors take radius 0.7 and 3 neighbours for 224 pixels, "
            "1.1 and 7 for 336."
        ),
    ] = 3
    presence: Annotated[
        bool,
        Doc("before the vote, weigh each class by the cosine of [CLS] with it (the authors do so for VOC-20)."),
    ] = False
    vote: Annotated[bool, Doc("whether regions vote; without it only the attention is left.")] = True

    def scores(self, scores: Tensor, context: WindowContext) -> Tensor:
        """Any scores → 3 b heads n n."""
        return torch.stack([self_scores(one) for one in context.trace.qkv(context.trace.layers)])

    def window(self, cosines: Tensor, context: WindowContext) -> Tensor:
        """b q H W → the same, with the best of the winner's queries in the place of the best of all."""
        if not self.vote:
            return cosines.clone()
        rows = denoised(correlations(context.trace))
        voted = [self._vote(one, row, context, i) for i, (one, row) in enumerate(zip(cosines, rows, strict=True))]
        return torch.stack(voted)

    def _vote(self, cosines: Tensor, rows: Tensor, context: WindowContext, index: int) -> Tensor:
        regions = region_map(rows, self.radius, self.neighbours, context.trace.grid, tuple(cosines.shape[1:]))
        if regions is None:
            return cosines.clone()
        weighed = cosines
        if self.presence and context.cls is not None:
            weighed = cosines * (context.text @ normalise(context.cls[index], -1))[:, None, None]
        owner = context.class_of.to(cosines.device)
        classes = int(owner.max()) + 1
        own = owner[weighed.argmax(0)]
        counts = torch.bincount((regions * classes + own).flatten(), minlength=(int(regions.max()) + 1) * classes)
        winner = counts.reshape(-1, classes).argmax(1)[regions]
        best = cosines.argmax(0, keepdim=True)
        theirs = cosines.masked_fill(owner[:, None, None] != winner, -torch.inf).argmax(0, keepdim=True)
        high, low = cosines.gather(0, best), cosines.gather(0, theirs)
        return cosines.scatter(0, best, low).scatter(0, theirs, high)


def correlations(trace: Trace) -> Tensor:
    """b n n: mean over heads, and over q, k and v, of the cosines in the last block but one."""
    parts = [normalise(one, -1) for one in trace.qkv(max(trace.layers - 1, 1))]
    each = [(one @ one.transpose(-2, -1)).mean(1) for one in parts]
    return torch.stack(each).mean(0)


def denoised(correlation: Tensor) -> Tensor:
    """b n n → b h·w h·w: what patches correlate beyond [CLS], at least 0."""
    return (correlation[:, 1:, 1:] - correlation[:, :1, 1:]).clamp_min(0)


def cluster(rows: Tensor, radius: float, neighbours: int) -> Tensor:
    """DBSCAN of the rows, n d → int64 n, −1 for noise; clusters in the order of their first core point.

    A point at a border belongs to the first cluster that reaches it. (Ester et al. 1996.)
    """
    near = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist") <= radius
    near.fill_diagonal_(True)
    core = near.sum(1) >= neighbours
    reach = (near & core[:, None]).cpu().numpy()
    is_core = core.cpu().numpy()
    labels = np.full(len(rows), -1, np.int64)
    if is_core.any():
        cores = np.flatnonzero(is_core)
        _, parts = csgraph.connected_components(sparse.csr_matrix(reach[np.ix_(cores, cores)]), directed=False)
        _, first = np.unique(parts, return_index=True)
        order = np.argsort(np.argsort(first))[parts]
        numbers = np.where(reach[cores], order[:, None], len(cores)).min(0)
        labels = np.where(numbers < len(cores), numbers, -1)
    return torch.from_numpy(labels).to(rows.device)


def region_map(
    rows: Tensor, radius: float, neighbours: int, grid: tuple[int, int], size: tuple[int, ...]
) -> Tensor | None:
    """Denoised correlations h·w h·w → int64 H W, the strongest cluster of every pixel; None without clusters."""
    labels = cluster(rows, radius, neighbours)
    count = int(labels.max()) + 1
    if count == 0:
        return None
    maps = torch.stack([rows[labels == number].mean(0) for number in range(count)]).reshape(1, count, *grid)
    maps = enlarge(maps, (4 * grid[0], 4 * grid[1]))
    smooth = [ndimage.median_filter(one, _MEDIAN) for one in maps[0].cpu().numpy()]
    maps = torch.from_numpy(np.stack(smooth))[None].to(rows.device)
    return enlarge(maps, (size[0], size[1]))[0].argmax(0)
