"""Adding up the counts of images to the scores of a dataset."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ovlabel.evaluation import metrics
from ovlabel.evaluation.boundary import boundary_counts, boundary_f1_by_class
from ovlabel.evaluation.scores import Boundaries, Scores
from ovlabel.evaluation.truth import IGNORED, Truth


@dataclass(frozen=True)
class ImageCounts:
    """The counts of one image, as `Scores` has them of a dataset; None where something was not counted.

    Attributes:
        counts: the confusion, int64, (c + 1) × (c + 1).
        f1: boundary F1 of every class, float64, c.
        bands: intersection and union of the boundary bands, int64, 2 × c.
        certainty: pixels by confidence and by whether they are right, int64, 256 × 2.
        sizes: objects by size, int64, 3 × 4.
    """

    counts: metrics.Counts
    f1: metrics.Fractions | None = None
    bands: metrics.Counts | None = None
    certainty: metrics.Counts | None = None
    sizes: metrics.Counts | None = None


def with_boundaries(true: metrics.Indices, found: metrics.Indices, classes: int) -> ImageCounts:
    """The confusion and the boundaries of one image.

    Args:
        true: H × W, class indices, IGNORED where a pixel does not count.
        found: H × W, class indices.
        classes: how many classes there are.
    """
    return ImageCounts(
        metrics.confusion(true, found, classes, IGNORED),
        boundary_f1_by_class(true, found, classes, ignored=IGNORED),
        boundary_counts(true, found, classes, IGNORED),
    )


class Tally:
    """Adds images up.

    Args:
        classes: how many classes there are.
    """

    def __init__(self, classes: int) -> None:
        self._counts = np.zeros((classes + 1, classes + 1), np.int64)
        self._bands = np.zeros((2, classes), np.int64)
        self._certainty = np.zeros((256, 2), np.int64)
        self._sizes: metrics.Counts | None = None
        self._areas: list[metrics.Counts] = []
        self._f1: list[metrics.Fractions] = []

    def add(self, image: ImageCounts) -> None:
        """Add one image."""
        self._counts += image.counts
        self._areas.append(metrics.areas(image.counts))
        if image.certainty is not None:
            self._certainty += image.certainty
        if image.sizes is not None:
            self._sizes = image.sizes if self._sizes is None else self._sizes + image.sizes
        if image.f1 is not None and image.bands is not None:
            self._f1.append(image.f1)
            self._bands += image.bands

    def scores(self, truth: Truth, keys: tuple[str, ...]) -> Scores:
        """The scores of what was added.

        Args:
            truth: the ground truth.
            keys: of the images, in the order in which they were added.
        """
        boundaries = Boundaries(np.array(self._f1), self._bands) if self._f1 else None
        areas, masks = np.array(self._areas), len(truth.files)
        return Scores(truth.classes, self._counts, keys, areas, self._certainty, masks, boundaries, self._sizes)
