"""A morphological closing of the label image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from annotated_doc import Doc
from annotated_types import Ge, Le
from torch import Tensor

from ovlabel.errors import ConfigError
from ovlabel.stages import Stage
from ovlabel.types import ImageContext


@dataclass(frozen=True)
class Closing(Stage):
    """The greatest label within a square, then the least: thin gaps between labels of a higher index are filled.

    It works on the numbers: which of two labels gives way depends on the order of the vocabulary. The stored confidence
    stays that of the label a pixel had before.

    Source: Aydın et al.: ITACLIP, CVPR-W 2025 (arXiv 2411.12044), its published code: 3 × 3.
    """

    side: Annotated[int, Ge(1), Le(255), Doc("of the square, in pixels, odd; beyond the border nothing counts.")] = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side % 2 == 0:
            raise ConfigError(f"closing.side = {self.side}: it must be an odd number of pixels")

    def labels(self, labels: Tensor, context: ImageContext) -> Tensor:
        """int64 H W → the same."""
        greatest = F.max_pool2d(labels[None].float(), self.side, stride=1, padding=self.side // 2)
        least = -F.max_pool2d(-greatest, self.side, stride=1, padding=self.side // 2)
        return least[0].long()
