"""What ground truth says of a store: its scores, the figures of every image, and where single images are wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovlabel.evaluation import metrics
from ovlabel.evaluation.class_map import map_classes
from ovlabel.evaluation.matching import match
from ovlabel.evaluation.scores import Scores
from ovlabel.evaluation.scoring import own_classes, score_labels
from ovlabel.evaluation.truth import IGNORED, Truth, open_truth
from ovlabel.store.read import Store


@dataclass(frozen=True)
class Measured:
    """A store beside its ground truth.

    Attributes:
        scores: of the whole dataset.
        truth: the ground truth.
        masks: the mask's name by the image's key.
        table: the true class of every label.
        miou: mean IoU by key, 0 … 1.
        accuracy: share of right pixels by key, 0 … 1.
    """

    scores: Scores
    truth: Truth
    masks: dict[str, str]
    table: NDArray[np.uint16]
    miou: dict[str, float]
    accuracy: dict[str, float]

    def compared(self, key: str, labels: NDArray[np.integer]) -> tuple[NDArray[np.uint16], NDArray[np.bool_]] | None:
        """The true classes of an image, and where its labels are wrong; None for an image without a mask.

        Args:
            key: of the image.
            labels: its labels, H × W.
        """
        if key not in self.masks:
            return None
        true = self.truth.read(self.masks[key])
        return true, (self.table[labels] != true) & (true != IGNORED)


def measure(store: Store, ground_truth: Path, convention: str) -> Measured:
    """Score a store, and keep what is known of every image.

    Args:
        store: the store.
        ground_truth: a folder of masks, or COCO's JSON.
        convention: how masks are written.

    Raises:
        TruthError: the ground truth can't be read, or does not fit.
    """
    own = own_classes(store)
    truth = open_truth(ground_truth, convention, own)
    classes = map_classes([entry.name for entry in own], truth.classes, None)
    scores = score_labels(store, truth, classes, allow_partial=True)
    hits, true = scores.tallies[:, 0].sum(1), scores.tallies[:, 1].sum(1)
    accuracy = metrics.ratio(hits, true)
    return Measured(
        scores,
        truth,
        match(sorted(store), truth),
        classes.table(),
        dict(zip(scores.images, scores.image_miou().tolist(), strict=True)),
        dict(zip(scores.images, accuracy.tolist(), strict=True)),
    )
