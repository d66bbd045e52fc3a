"""Regional clues: class tokens that see one region each say what is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_doc import Doc
from annotated_types import Ge, Le
from torch import Tensor

from ovlabel.ops import enlarge, normalise
from ovlabel.stages import Stage
from ovlabel.types import WindowContext


@dataclass(frozen=True)
class Regional(Stage):
    """(1 − ρ) cosines + ρ · cosines of regions, interpolated between the regions' centres.

    A window's grid is cut into `side` × `side` regions. For each, a copy of the class token goes through CLIP's blocks
    and sees only its region's patches and itself; patches never see it. The regions' cosines are brought to the mean
    and the spread that the patches' have, as the two kinds lie at different heights.

    Source: none that is published. The region tokens are those of CLIP-RC (Zhang et al., CVPR 2024), which trains its
    own; this is a form of them without training.
    """

    weight: Annotated[float, Ge(0), Le(1), Doc("ρ, the regions' share.")] = 0.25
    side: Annotated[int, Ge(1), Le(64), Doc("regions on each side of a window.")] = 4

    def similarity(self, cosines: Tensor, context: WindowContext) -> Tensor:
        """b q h w → the same."""
        if not self.weight:
            return cosines.clone()
        height, width = context.trace.grid
        masks, rows, columns = _regions(height, width, self.side, cosines.device)
        tokens = context.trace.read_regions(masks.expand(len(cosines), -1, -1))
        found = torch.einsum("qe,bre->bqr", context.text, normalise(tokens, -1))
        found = enlarge(found.reshape(*found.shape[:2], rows, columns), (cosines.shape[-2], cosines.shape[-1]))
        over = (1, 2, 3)
        centred = (found - found.mean(over, keepdim=True)) / found.std(over, keepdim=True).clamp_min(1e-6)
        fitted = centred * cosines.std(over, keepdim=True) + cosines.mean(over, keepdim=True)
        return (1 - self.weight) * cosines + self.weight * fitted


def _regions(height: int, width: int, side: int, device: torch.device) -> tuple[Tensor, int, int]:
    """bool 1 r h·w, and how many regions lie in a column and in a row."""
    rows, columns = min(side, height), min(side, width)
    row = torch.arange(height, device=device) * rows // height
    column = torch.arange(width, device=device) * columns // width
    region = (row[:, None] * columns + column[None, :]).flatten()
    return region[None, None, :] == torch.arange(rows * columns, device=device)[None, :, None], rows, columns
