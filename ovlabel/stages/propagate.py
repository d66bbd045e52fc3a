"""PEARL's propagation: maps smoothed on a coarse grid, except across edges of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor

from ovlabel.fields import Doc
from ovlabel.ops import bands, enlarge
from ovlabel.stages import Stage
from ovlabel.stages._cell_graph import CellGraph, conjugate_gradients, contrast_edges, solve
from ovlabel.types import ImageContext

_BAND_VALUES = 2**24  # cosines that are enlarged together
_FLOOR = 0.05  # least probability that counts as trust


@dataclass(frozen=True)
class Propagate(Stage):
    """Each cell of a grid becomes a mean of itself and its neighbours, which count by their edges; then it is enlarged.

    The guidance is the working-size image. The maps are changed in place; details smaller than a cell are lost.

    Source: Pei et al.: PEARL, Geometry Aligns Semantics, CVPR 2026 (arXiv 2603.21528), "text-aware Laplacian
    propagation", and its published code. There the trust in a cell is all but a constant, the text gates nothing, and
    the solver is stopped so early that its steps are a setting and a query's map depends on the other queries.
    """

    mode: Annotated[
        Literal["literal", "repaired"],
        Doc(
            "`literal` computes what the authors' code computes. `repaired` solves each query by itself to "
            "`tolerance`, on square cells that cover the whole image, with weights by `follows`."
        ),
    ] = "literal"
    grid: Annotated[
        int,
        Ge(1),
        Le(4096),
        Doc("Cells on each side of the maps; if repaired, on the shorter side. The authors take 224 for Cityscapes."),
    ] = 80
    steps: Annotated[int, Ge(0), Le(10_000), Doc("Steps of the solver, if literal; 0 leaves the means of cells.")] = 25
    follows: Annotated[
        Literal["image", "probabilities"],
        Doc(
            "What the weights follow, if repaired: `image` its edges alone, so that a query's map is the same under "
            "every vocabulary; `probabilities` also the queries' probabilities and the likeness of their texts."
        ),
    ] = "image"
    trust: Annotated[
        float,
        Ge(1e-4),
        Le(10_000),
        Doc("Weight of a cell's own value beside its edges, if only the image is followed."),
    ] = 0.02
    tolerance: Annotated[
        float, Ge(1e-6), Le(1), Doc("Share of the distance to the solution that may be left, if repaired.")
    ] = 1e-4

    def logits(self, logits: Tensor, context: ImageContext) -> Tensor:
        """q × H × W cosines → the same, in place."""
        cells = self._literal(logits, context) if self.mode == "literal" else self._repaired(logits, context)
        size = (logits.shape[1], logits.shape[2])
        for first, last in bands(len(logits), logits[0].numel(), _BAND_VALUES):
            logits[first:last] = enlarge(cells[None, first:last], size)[0]
        return logits

    def _literal(self, logits: Tensor, context: ImageContext) -> Tensor:
        """Cells of whole pixels; what is left over at the right and at the bottom is dropped."""
        size = (logits.shape[1], logits.shape[2])
        block = (max(1, round(size[0] / self.grid)), max(1, round(size[1] / self.grid)))
        guide = enlarge(context.pixels[None].to(logits), size)
        cells, grey = (F.avg_pool2d(maps, block)[0] for maps in (logits[None], grey_of(guide)))
        own = likeness(context.text.to(logits)).diagonal()[:, None, None]
        shares = cells.softmax(0)
        return conjugate_gradients(_weighed(grey[0], shares, own * shares), cells, self.steps)

    def _repaired(self, logits: Tensor, context: ImageContext) -> Tensor:
        """Cells of one shape, on a grid that does not depend on the size of the maps."""
        height, width = context.pixels.shape[-2:]
        side = min(height, width) / self.grid
        rows, columns = (max(1, round(length / side)) for length in (height, width))
        count = (min(rows, logits.shape[1]), min(columns, logits.shape[2]))
        cells = F.adaptive_avg_pool2d(logits, count)
        grey = F.adaptive_avg_pool2d(grey_of(context.pixels[None].to(logits)), count)[0, 0]
        if self.follows == "image":
            graph = CellGraph(torch.full_like(grey, self.trust), *contrast_edges(grey))
            return solve(graph, cells, self.tolerance, self.trust)
        shares = (context.logit_scale * cells).softmax(0)
        texts = likeness(context.text.to(logits))
        graph = _weighed(grey, shares, torch.einsum("qr,rhw->qhw", (texts + texts.T) / 2, shares))
        return solve(graph, cells, self.tolerance, _FLOOR**2)


def grey_of(pixels: Tensor) -> Tensor:
    """b × 3 × H × W → b × 1 × H × W."""
    return (pixels * pixels.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)


def likeness(text: Tensor) -> Tensor:
    """Unit vectors q × e → q × q: (softmax of twice their cosines + 10 · identity) / 11."""
    alike = (2 * text @ text.T).softmax(1)
    alike.diagonal().add_(10)
    return alike / (11 + 1e-6)


def _weighed(grey: Tensor, shares: Tensor, others: Tensor) -> CellGraph:
    """Trust and edges that grow with how sure cells are, and how far neighbours agree.

    Args:
        grey: h × w.
        shares: q × h × w, the probabilities.
        others: q × h × w, the probabilities times the likeness of texts.
    """

    def agreement(one: Tensor, two: Tensor) -> Tensor:
        return 1 + (one * two).sum(0).clamp_(0, 1)

    trust = shares.amax(0).clamp_min(_FLOOR).square() * agreement(shares, others)
    across, down = contrast_edges(grey)
    across = across * agreement(shares[..., :-1], others[..., 1:])
    down = down * agreement(shares[..., :-1, :], others[..., 1:, :])
    return CellGraph(trust, across.clamp_(0, 1), down.clamp_(0, 1))
