"""Whether a LoftUp checkpoint was trained on features like the ones at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovlabel.ops import resize
from ovlabel.settings.keys import Config, StageConfig
from ovlabel.spine.segmenter import Segmenter
from ovlabel.spine.stack import Stack, make_stage
from ovlabel.stages._loftup_network import LoftUp
from ovlabel.types import Box, Encoder, TextBank, UInt8Image

CANDIDATES = {
    "plain": ((), "full"),
    "value": (("value",), "attention"),
    "csa": (("csa",), "full"),
    "kk, neighbours": (("kk", "neighbours"), "attention"),
}
CONSTANTS = {  # of the input, on values in 0 … 1
    "CLIP": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
ENOUGH = 0.9  # features of this fraction of the best consistency are taken as the network's own


@dataclass(frozen=True)
class Consistency:
    """How consistent one kind of features is under one normalisation of the input.

    Attributes:
        features: a name in `CANDIDATES`.
        constants: a name in `CONSTANTS`.
        r: the consistency, −1 … 1; see `consistency`.
    """

    features: str
    constants: str
    r: float


def consistency(network: LoftUp, features: Tensor, guidance: Tensor) -> float:
    """Mean cosine, −1 … 1, of features and the same features upsampled by a network and pooled back to their grid.

    Both are taken in the network's normalised space. Features like those it was trained on come back unchanged.

    Args:
        network: the LoftUp checkpoint.
        features: b × e × h × w.
        guidance: b × 3 × H × W, the image, a whole number of cells a patch.
    """
    grid = (features.shape[-2], features.shape[-1])
    back = F.adaptive_avg_pool2d(network.features(features, guidance), grid)
    return float(F.cosine_similarity(back, network.normalised(features), dim=1).mean())


def rank_features(
    encoder: Encoder, config: Config, network: LoftUp, images: Sequence[UInt8Image], factor: int = 4
) -> list[Consistency]:
    """The consistency of every candidate, the highest first.

    Args:
        encoder: all candidates share its weights.
        config: the settings of a run; its stages are not used.
        network: the LoftUp checkpoint.
        images: uint8, H × W × 3; cut to their middle square and resized to 14 patches a side.
        factor: guidance cells a patch side.
    """
    side = 14 * encoder.patch
    squares = [torch.from_numpy(resize(_middle(image), (side, side))) for image in images]
    found = []
    for name, (stages, last_block) in CANDIDATES.items():
        made = _candidate(encoder.finishing(last_block), stages, config, network)
        for constants, (mean, std) in CONSTANTS.items():
            total = 0.0
            for square in squares:
                pixels = square.permute(2, 0, 1).to(encoder.device, torch.float32) / 255
                pixels = (pixels - pixels.new_tensor(mean)[:, None, None]) / pixels.new_tensor(std)[:, None, None]
                total += _of_square(made, network, pixels, factor)
            found.append(Consistency(name, constants, total / len(squares)))
    return sorted(found, key=lambda one: -one.r)


def _candidate(encoder: Encoder, stages: tuple[str, ...], config: Config, network: LoftUp) -> Segmenter:
    """A segmenter whose features are those of one candidate; it is asked for nothing else."""
    bank = TextBank(np.eye(1, network.dim, dtype=np.float32), np.zeros(1, np.int64), ("anything",), ("thing",))
    stack = Stack(tuple(make_stage(StageConfig(use)) for use in stages))
    return Segmenter(encoder, bank, stack, replace(config, stages=()))


@torch.inference_mode()
def _of_square(segmenter: Segmenter, network: LoftUp, pixels: Tensor, factor: int) -> float:
    """The consistency of one image's features; pixels 3 × H × W, normalised, one window."""
    box = Box(0, 0, pixels.shape[-2], pixels.shape[-1])
    features = next(segmenter.features(pixels, (box,))).maps
    grid = (features.shape[-2] * factor, features.shape[-1] * factor)
    guidance = F.interpolate(pixels[None], grid, mode="area")
    return consistency(network.to(features), features, guidance)


def _middle(image: UInt8Image) -> UInt8Image:
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return image[top : top + side, left : left + side]
