"""LoftUp: features at the window's own resolution."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch.nn.functional as F
from annotated_doc import Doc
from annotated_types import Ge, Le
from torch import Tensor

from ovlabel.errors import WeightsError
from ovlabel.ops import enlarge, normalise
from ovlabel.stages import Stage, _loftup_network
from ovlabel.types import WindowContext

_MODES = ("features", "transport", "blend")


@dataclass(frozen=True)
class Loftup(Stage):
    """Cross-attention from the window's pixels to its patches, by a trained network; each window by itself.

    The public record does not agree on which CLIP features it was trained on; `ovlabel loftup` measures which of yours
    suit it. Source: Huang et al.: LoftUp, ICCV 2025 (arXiv 2504.14032).
    """

    checkpoint: Annotated[str, Doc("a file, or `hf-hub:owner/name`.")] = _loftup_network.CHECKPOINT
    factor: Annotated[
        int,
        Ge(1),
        Le(64),
        Doc(
            "cells on the side of a patch; 16 is a cell a pixel, as the network was trained. The cost grows with its "
            "square."
        ),
    ] = 4
    mode: Annotated[
        Literal["features", "transport", "blend"],
        Doc(
            "`features`: what the network makes. `transport`: the features that come in, each cell a mean of them by "
            "the network's attention, so that they stay where text meets them. `blend`: of the network's and bilinear."
        ),
    ] = "transport"
    weight: Annotated[float, Ge(0), Le(1), Doc("the network's share in a blend.")] = 0.5

    def prepare(self, *, offline: bool) -> Path:
        """The checkpoint's file, found and read. Raises WeightsError."""
        path = _loftup_network.locate(self.checkpoint, offline=offline)
        _loftup_network.load(path)
        return path

    def features(self, features: Tensor, context: WindowContext) -> Tensor:
        """b e h w → b e h·factor w·factor."""
        network = _loftup_network.load(self.prepare(offline=True)).to(features)
        if network.dim != features.shape[1]:
            raise WeightsError(f"{self.checkpoint} is for {network.dim} channels, the encoder has {features.shape[1]}")
        size = (features.shape[-2] * self.factor, features.shape[-1] * self.factor)
        guidance = F.interpolate(context.pixels.to(features.dtype), size, mode="area")
        if self.mode == "transport":
            return network.transport(normalise(features, 1), guidance)
        made = network.features(features, guidance)
        if self.mode == "features":
            return made
        plain = normalise(enlarge(features, size), 1)
        return (1 - self.weight) * plain + self.weight * normalise(made, 1)
