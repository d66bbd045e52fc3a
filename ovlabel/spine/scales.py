"""From an image to what the encoder sees of it: the working-size image, and the image at every other scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ovlabel.ops import resize
from ovlabel.settings.keys import Config, LabelsConfig
from ovlabel.spine.similarity import Queries
from ovlabel.spine.stack import Stack
from ovlabel.spine.windows import working_size
from ovlabel.types import Encoder, ImageContext, TextBank, UInt8Image


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """One image before the encoder.

    Attributes:
        scales: the image at each of `tiling.scales`, normalised 3 × H × W on the run's device.
        size: (height, width) of the labels to make.
        finish: (height, width) where logits and probabilities are computed.
        context: what stages may read from the level LOGITS on.
    """

    scales: tuple[Tensor, ...]
    size: tuple[int, int]
    finish: tuple[int, int]
    context: ImageContext

    @property
    def working_size(self) -> tuple[int, int]:
        """(height, width) of the image at scale 1."""
        return self.context.pixels.shape[-2], self.context.pixels.shape[-1]


class Scales:
    """Prepares images.

    Args:
        encoder: normalises them.
        bank: what is asked; stages may read it.
        queries: the same on the run's device.
        stack: stages from the level LOGITS on are handed the image.
        config: `tiling` and `labels` are read.
    """

    def __init__(self, encoder: Encoder, bank: TextBank, queries: Queries, stack: Stack, config: Config) -> None:
        self._encoder, self._bank, self._queries = encoder, bank, queries
        self._tiling, self._labels = config.tiling, config.labels
        self._image_is_read = stack.acts_at("logits", "probabilities", "labels")

    def prepare(self, image: UInt8Image) -> PreparedImage:
        """An image, uint8 H × W × 3, resized to its working size. Raises ValueError for an array of another kind."""
        image = np.asarray(image)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise ValueError(f"an image is uint8 H W 3, not {image.dtype} {image.shape}")
        size, tiling = (image.shape[0], image.shape[1]), self._tiling
        working = working_size(size, tiling.short_side, tiling.long_side, self._encoder.patch)
        return self.prepare_resized(resize(image, working), size, image)

    def prepare_resized(self, resized: UInt8Image, size: tuple[int, int], source: UInt8Image) -> PreparedImage:
        """An image that is at its working size already.

        Args:
            resized: uint8, h × w × 3.
            size: (height, width) of the labels to make.
            source: uint8, H × W × 3: the image that other scales are resized from and that stages read.
        """
        pixels, queries = self._normalised(resized), self._queries
        whole = resize(source, size) if self._image_is_read else source
        context = ImageContext(whole, pixels, self._bank, queries.vectors, queries.logit_scale)
        finish = finish_size(self._labels, size, (resized.shape[0], resized.shape[1]))
        return PreparedImage(self._at_scales(pixels, source), size, finish, context)

    def _at_scales(self, pixels: Tensor, source: UInt8Image) -> tuple[Tensor, ...]:
        """The image at each of `tiling.scales`, no side under a patch; at scale 1 it is the working-size image."""
        height, width = pixels.shape[-2], pixels.shape[-1]
        least = self._encoder.patch

        def resized(scale: float) -> Tensor:
            size = max(round(height * scale), least), max(round(width * scale), least)
            return self._normalised(resize(source, size))

        return tuple(pixels if scale == 1 else resized(scale) for scale in self._tiling.scales)

    def _normalised(self, image: UInt8Image) -> Tensor:
        """uint8 H × W × 3 → 3 × H × W on the encoder's device, normalised with the model's constants."""
        return self._encoder.pixels(torch.from_numpy(np.array(image)).permute(2, 0, 1))


def finish_size(
    labels: LabelsConfig, size: tuple[int, ...], working: tuple[int, int], *, capped: bool = True
) -> tuple[int, int]:
    """(height, width) where logits and probabilities are computed.

    Args:
        labels: `finish` says which size, `max_finish_pixels` the most pixels of an image.
        size: of the image, height and width first.
        working: (height, width) of the resized image.
        capped: whether `max_finish_pixels` counts.
    """
    if labels.finish == "working":
        return working
    height, width = size[0], size[1]
    excess = height * width / labels.max_finish_pixels
    if excess <= 1 or not capped:
        return height, width
    return max(int(height * excess**-0.5), 1), max(int(width * excess**-0.5), 1)
