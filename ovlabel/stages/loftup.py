"""LoftUp: features at the window's own resolution."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ovlabel.errors import ConfigError, WeightsError, unknown
from ovlabel.ops import enlarge, normalise
from ovlabel.stages import _loftup_network
from ovlabel.types import WindowContext

_MODES = ("features", "transport", "blend")


@dataclass(frozen=True)
class Loftup:
    """Cross-attention from the window's pixels to its patches, by a trained network; each window by itself.

    Attributes:
        checkpoint: a file, or `hf-hub:owner/name`.
        factor: cells a patch side; 16 is a cell a pixel, as the network was trained. The cost grows with its square.
        mode: "features": what the network makes. "transport": the features that come in, each cell a mean of them by
            the network's attention, so that they stay where text meets them. "blend": of the network's and bilinear.
        weight: the network's share in a blend, 0 … 1.

    The public record does not agree on which CLIP features it was trained on; `ovlabel loftup` measures which of yours
    suit it. Source: Huang et al.: LoftUp, ICCV 2025 (arXiv 2504.14032).
    """

    replaces: ClassVar[frozenset[str]] = frozenset()
    checkpoint: str = _loftup_network.CHECKPOINT
    factor: int = 4
    mode: str = "transport"
    weight: float = 0.5

    def __post_init__(self) -> None:
        if self.mode not in _MODES:
            raise ConfigError(unknown("loftup.mode", self.mode, _MODES))
        if self.factor < 1 or not 0 <= self.weight <= 1:
            raise ConfigError(f"loftup.factor = {self.factor}, loftup.weight = {self.weight}: from 1, and 0 … 1")

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
