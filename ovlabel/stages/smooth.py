"""Pixels that are unsure take the mean of their likes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_doc import Doc
from annotated_types import Ge, Le, MaxLen, MinLen
from torch import Tensor

from ovlabel.ops import bands, enlarge, pamr, pamr_weights
from ovlabel.stages import Stage
from ovlabel.types import ImageContext

_BAND_VALUES = 2**24  # cosines looked at together


@dataclass(frozen=True)
class Smooth(Stage):
    """PAMR where the entropy of the probabilities is above a share of its greatest; elsewhere nothing changes.

    Takes two copies of the maps. Source: none that is published; the gate is this project's, the mean is PAMR's
    (Araslanov & Roth, CVPR 2020).
    """

    entropy: Annotated[float, Ge(0), Le(1), Doc("the share of the greatest entropy; 1 changes nothing.")] = 0.3
    iterations: Annotated[int, Ge(1), Le(1000), Doc("how often, as in `pamr`.")] = 10
    dilations: Annotated[
        tuple[Annotated[int, Ge(1), Le(4096)], ...],
        MinLen(1),
        MaxLen(16),
        Doc("how far the eight neighbours lie, in pixels of the maps, one ring each, as in `pamr`."),
    ] = (1, 2, 4, 8)

    def logits(self, logits: Tensor, context: ImageContext) -> Tensor:
        """q H W cosines → the same, in place."""
        if self.entropy == 1 or len(logits) < 2:
            return logits
        size = (logits.shape[-2], logits.shape[-1])
        weights = pamr_weights(enlarge(context.pixels[None], size), self.dilations)
        refined = pamr(logits[None].clone(), weights, self.dilations, self.iterations)[0]
        for top, bottom in bands(logits.shape[1], logits.shape[0] * logits.shape[2], _BAND_VALUES):
            band = logits[:, top:bottom]
            shares = (context.logit_scale * band).softmax(0)
            unsure = -(shares * shares.clamp_min(1e-12).log()).sum(0) > self.entropy * math.log(len(logits))
            band.copy_(torch.where(unsure, refined[:, top:bottom], band))
        return logits
