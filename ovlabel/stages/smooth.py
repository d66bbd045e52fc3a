"""Pixels that are unsure take the mean of their likes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ovlabel.errors import ConfigError
from ovlabel.ops import bands, enlarge, pamr, pamr_weights
from ovlabel.types import ImageContext

_BAND_VALUES = 2**24  # cosines looked at together


@dataclass(frozen=True)
class Smooth:
    """PAMR where the entropy of the probabilities is above a share of its greatest; elsewhere nothing changes.

    Attributes:
        entropy: the share, 0 … 1; 1 changes nothing. iterations, dilations: as in `pamr`.

    Takes two copies of the maps. Source: none that is published; the gate is this project's, the mean is PAMR's
    (Araslanov & Roth, CVPR 2020).
    """

    replaces: ClassVar[frozenset[str]] = frozenset()
    entropy: float = 0.3
    iterations: int = 10
    dilations: tuple[int, ...] = (1, 2, 4, 8)

    def __post_init__(self) -> None:
        if not 0 <= self.entropy <= 1 or self.iterations < 1 or not self.dilations or min(self.dilations) < 1:
            raise ConfigError(f"{self}: entropy 0 … 1, whole numbers from 1")

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
