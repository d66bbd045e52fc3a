"""Figures that follow from counts of pixels: confusion, intersection over union, accuracy, calibration. numpy only.

Pixels are counted in int64 and counts are added up over images, so that a figure is one of the whole dataset.
Boundaries are counted in `boundary.py`, objects in `objects.py`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

IGNORED = 255
Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]
Indices = NDArray[np.integer]  # a map of class indices
Fractions = NDArray[np.float64]


def confusion(truth: Indices, labels: Indices, classes: int, ignored: int = IGNORED) -> Counts:
    """Count the pixels of one image by true and by predicted class. Add up the images of a dataset.

    Args:
        truth: H × W, class indices.
        labels: H × W, class indices; any other value where a pixel has no class (below a threshold).
        classes: how many classes there are.
        ignored: pixels of this value in `truth` do not count.

    Returns:
        int64, (classes + 1) × (classes + 1): rows are true, columns predicted classes. The last row holds labelled
        pixels whose class is none of these, the last column pixels without a prediction.

    Raises:
        ValueError: the shapes differ.
    """
    if truth.shape != labels.shape:
        raise ValueError(f"the ground truth is {truth.shape}, the labels {labels.shape}")
    side = classes + 1
    rows, columns = bounded(truth, classes), bounded(labels, classes)
    joint = rows * np.int32(side) + columns
    joint[truth == ignored] = side * side
    return np.bincount(joint.ravel(), minlength=side * side + 1)[:-1].reshape(side, side)


def bounded(values: Indices, classes: int) -> NDArray[np.int32]:
    """Class indices with every other value set to `classes`; of any shape.

    Maps of 8 or 16 bits go through a table of all their values, which is several times faster.
    """
    if values.dtype in (np.uint8, np.uint16):
        table = np.minimum(np.arange(np.iinfo(values.dtype).max + 1, dtype=np.int32), classes)
        return table[values]
    return np.where((values >= 0) & (values < classes), values, classes).astype(np.int32)


def iou(counts: Counts) -> Fractions:
    """Intersection over union (the Jaccard index) of every class, 0 … 1.

    Args:
        counts: from `confusion`.

    Returns:
        float64, one a class; NaN where a class is neither in the ground truth nor predicted.
    """
    intersection = np.diagonal(counts)[:-1]
    return ratio(intersection, counts[:-1].sum(1) + counts[:, :-1].sum(0) - intersection)


def miou(counts: Counts) -> float:
    """Mean IoU, 0 … 1, over the classes in the ground truth or predicted; one that is only predicted counts 0.

    This is the mean of mmsegmentation.
    """
    return mean(iou(counts))


def miou_present(counts: Counts) -> float:
    """Mean IoU, 0 … 1, over the classes in the ground truth."""
    return mean(iou(counts)[counts[:-1].sum(1) > 0])


def pixel_accuracy(counts: Counts) -> float:
    """The fraction of the labelled pixels that carry their true class, 0 … 1."""
    return float(ratio(np.trace(counts[:-1, :-1]), counts[:-1].sum()))


def areas(counts: Counts) -> Counts:
    """Right, true and predicted pixels of every class: int64, 3 × classes."""
    return np.stack([np.diagonal(counts)[:-1], counts[:-1].sum(1), counts[:, :-1].sum(0)])


def recall(counts: Counts) -> Fractions:
    """The fraction of every class' true pixels that was found, 0 … 1; NaN where there are none.

    The mean over classes is the mean accuracy (mAcc).
    """
    return ratio(np.diagonal(counts)[:-1], counts[:-1].sum(1))


def precision(counts: Counts) -> Fractions:
    """The fraction of every class' predicted pixels that is right, 0 … 1; NaN where there are none."""
    return ratio(np.diagonal(counts)[:-1], counts[:, :-1].sum(0))


def f1(counts: Counts) -> Fractions:
    """The harmonic mean of precision and recall of every class (the Dice coefficient), 0 … 1; NaN as in `iou`."""
    return ratio(2 * np.diagonal(counts)[:-1], counts[:-1].sum(1) + counts[:, :-1].sum(0))


def fwiou(counts: Counts) -> float:
    """Frequency-weighted IoU, 0 … 1: every class weighs as many true pixels as it has."""
    weights = counts[:-1].sum(1)
    return float(ratio(np.nansum(weights * np.nan_to_num(iou(counts))), weights.sum()))


def ratio(part: NDArray[np.generic] | np.generic | float, whole: NDArray[np.generic] | np.generic | float) -> Fractions:
    """part / whole, elementwise; NaN where whole is 0."""
    top, bottom = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
    each: Fractions = np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
    return each


def mean(values: Fractions) -> float:
    """The mean of the values that are not NaN; NaN where there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def calibration(confidence: NDArray[np.uint8], right: Mask) -> Counts:
    """Count pixels by their confidence and by whether their label is right. Add up the images of a dataset.

    Args:
        confidence: one a pixel, in 255ths.
        right: one a pixel.

    Returns:
        int64, 256 × 2: by confidence; wrong and right pixels.
    """
    return np.bincount(confidence.astype(np.int64) * 2 + right, minlength=512).reshape(256, 2)


def calibration_error(counts: Counts, bins: int = 15) -> float:
    """Expected calibration error, 0 … 1: |accuracy − confidence|, weighted by the pixels of equal bins of confidence.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3.

    Args:
        counts: from `calibration`.
        bins: how many.
    """
    level = np.arange(256) / 255
    bin_of = np.minimum((level * bins).astype(int), bins - 1)
    total = counts.sum(1)
    sums = np.array([np.bincount(bin_of, weights, bins) for weights in (total, counts[:, 1], total * level)])
    return float(ratio(np.abs(sums[1] - sums[2]).sum(), sums[0].sum()))


def coverage(counts: Counts) -> tuple[Fractions, Fractions]:
    """What is kept, and how accurate it is, if only pixels of at least some confidence are kept.

    Args:
        counts: from `calibration`.

    Returns:
        256 fractions of pixels that are kept, and 256 accuracies of those, by the least confidence in 255ths.
    """
    kept = counts[::-1].cumsum(0)[::-1]
    total = kept.sum(1)
    return ratio(total, total[0]), ratio(kept[:, 1], total)
