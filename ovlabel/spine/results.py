"""What is handed out of a decision: a `Prediction`, or the small integers that a store keeps, an `Annotation`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovlabel.ops import bands
from ovlabel.settings.keys import LabelsConfig
from ovlabel.spine.bands import lifted_values
from ovlabel.spine.finish import Decision
from ovlabel.spine.kept import KeptMaps, label_map, to_bytes
from ovlabel.spine.scales import PreparedImage, finish_size
from ovlabel.types import Annotation, Prediction


def prediction(image: PreparedImage, decision: Decision, probabilities: Tensor) -> Prediction:
    """The prediction of one image.

    Args:
        image: the image.
        decision: its labels and their confidence.
        probabilities: c × h × w at finish size.
    """
    return Prediction(
        labels=label_map(decision.labels, len(image.context.bank.classes)),
        confidence=decision.confidence.float().cpu().numpy(),
        probabilities=probabilities.float().cpu().numpy(),
        working_size=image.working_size,
    )


def annotation(image: PreparedImage, decision: Decision, kept: KeptMaps, settings: LabelsConfig) -> Annotation:
    """What the store keeps of one image.

    Args:
        image: the image.
        decision: its labels and their confidence.
        kept: what is kept of its probabilities.
        settings: say whether labels were decided on fewer pixels than asked.
    """
    classes, probabilities = kept.maps()
    asked = finish_size(settings, image.size, image.working_size, capped=False)
    return Annotation(
        labels=label_map(decision.labels, len(image.context.bank.classes)),
        confidence=quantised(decision.confidence),
        classes=classes,
        probabilities=probabilities,
        working_size=image.working_size,
        reduced=image.finish != asked,
    )


def quantised(confidence: Tensor) -> npt.NDArray[np.uint8]:
    """H × W, 0 … 1 → 0 … 255, rounded."""
    rows = bands(len(confidence), confidence[:1].numel(), lifted_values(confidence.device))
    values: npt.NDArray[np.uint8] = torch.cat([to_bytes(confidence[a:b]) for a, b in rows]).cpu().numpy()
    return values
