"""Logits scaled so that a confidence means the same under every vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Lt
from torch import Tensor

from ovlabel.fields import Doc
from ovlabel.stages import Stage
from ovlabel.types import ImageContext

_STEPS, _LEAST, _MOST = 30, 0.05, 50.0
_SAMPLES = 4096  # pixels on which the mean is taken


@dataclass(frozen=True)
class Sharpen(Stage):
    """Scales an image's logits by one factor, so that the mean probability of the winning queries is `target`.

    By itself it can't change a label: it moves thresholds, the CRF, and what `max` merging compares. A threshold then
    means the same for 20 classes and for 171.

    Source: none that is published; temperature scaling as in Guo et al.: On Calibration of Modern Neural Networks, ICML
    2017 (arXiv 1706.04599), without labels.
    """

    target: Annotated[float, Ge(0), Lt(1), Doc("Mean probability of the winning query; 0 changes nothing.")] = 0.6

    def logits(self, logits: Tensor, context: ImageContext) -> Tensor:
        """q × H × W cosines → the same, in place."""
        if not self.target or len(logits) < 2:
            return logits
        flat = logits.flatten(1)
        sampled = flat[:, :: max(1, flat.shape[1] // _SAMPLES)] * context.logit_scale
        low, high = _LEAST, _MOST
        for _ in range(_STEPS):
            middle = (low * high) ** 0.5
            if float((middle * sampled).softmax(0).amax(0).mean()) < self.target:
                low = middle
            else:
                high = middle
        return logits.mul_((low * high) ** 0.5)
