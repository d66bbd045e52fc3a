"""Classes that the whole window speaks of are favoured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_doc import Doc
from annotated_types import Ge, Le
from torch import Tensor

from ovlabel.ops import normalise
from ovlabel.stages import Stage
from ovlabel.types import WindowContext


@dataclass(frozen=True)
class Presence(Stage):
    """Cosines + κ · (cosine of CLIP's own image embedding with each query, less their mean).

    Source: Li et al.: SegEarth-OV, CVPR 2025 (arXiv 2410.01768), eq. 8, which subtracts; CLIPtrase multiplies.
    """

    weight: Annotated[
        float,
        Ge(-100),
        Le(100),
        Doc("κ; below 0 it takes away what the whole image pushes everywhere, as SegEarth-OV does."),
    ] = 0.3

    def similarity(self, cosines: Tensor, context: WindowContext) -> Tensor:
        """b q h w → the same."""
        if not self.weight:
            return cosines.clone()
        whole = torch.einsum("qe,be->bq", context.text, normalise(context.trace.image(), -1))
        return cosines + self.weight * (whole - whole.mean(1, keepdim=True))[..., None, None]
