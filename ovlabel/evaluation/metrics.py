"""How well a label map agrees with ground truth: confusion, intersection over union, boundaries, calibration; numpy.

Everything counts pixels in int64, so that images add up to a dataset without loss.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

IGNORED = 255
Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]
Map = NDArray[np.integer]
Shares = NDArray[np.float64]


def confusion(truth: Map, labels: Map, classes: int, ignored: int = IGNORED) -> Counts:
    """Pixels by true and predicted class; add up the images of a dataset.

    Args:
        truth: class indices; pixels of the value `ignored` do not count.
        labels: of the same shape; class indices, or any other value where a pixel has none (below threshold).
        classes: how many.

    Returns:
        int64 (classes + 1) × (classes + 1): rows are true, columns predicted classes; the last row holds
        labelled pixels of no class of ours, the last column pixels without a prediction.

    Raises:
        ValueError: the shapes differ.
    """
    if truth.shape != labels.shape:
        raise ValueError(f"the ground truth is {truth.shape}, the labels {labels.shape}")
    side = classes + 1
    rows, columns = _bounded(truth, classes), _bounded(labels, classes)
    joint = rows * np.int32(side) + columns
    joint[truth == ignored] = side * side
    return np.bincount(joint.ravel(), minlength=side * side + 1)[:-1].reshape(side, side)


def _bounded(values: Map, classes: int) -> NDArray[np.int32]:
    """Values beyond the classes as `classes`; by a table where there are few values, which is several times faster."""
    if values.dtype in (np.uint8, np.uint16):
        table = np.minimum(np.arange(np.iinfo(values.dtype).max + 1, dtype=np.int32), classes)
        return table[values]
    return np.where((values >= 0) & (values < classes), values, classes).astype(np.int32)


def iou(counts: Counts) -> Shares:
    """Intersection over union of every class, 0 … 1; NaN where a class is neither there nor predicted."""
    intersection = np.diagonal(counts)[:-1]
    return ratio(intersection, counts[:-1].sum(1) + counts[:, :-1].sum(0) - intersection)


def miou(counts: Counts) -> float:
    """Mean IoU, 0 … 1, of the classes whose union is not empty: one predicted but never there counts 0."""
    return mean(iou(counts))


def miou_present(counts: Counts) -> float:
    """Mean IoU, 0 … 1, of the classes that the ground truth holds."""
    return mean(iou(counts)[counts[:-1].sum(1) > 0])


def pixel_accuracy(counts: Counts) -> float:
    """The share of the pixels of our classes that carry their true class, 0 … 1."""
    return float(ratio(np.trace(counts[:-1, :-1]), counts[:-1].sum()))


def areas(counts: Counts) -> Counts:
    """Right, true and predicted pixels of every class: int64 3 × classes."""
    return np.stack([np.diagonal(counts)[:-1], counts[:-1].sum(1), counts[:, :-1].sum(0)])


def recall(counts: Counts) -> Shares:
    """Of every class' true pixels, the share that was found, 0 … 1; NaN where there are none. Their mean: mAcc."""
    return ratio(np.diagonal(counts)[:-1], counts[:-1].sum(1))


def precision(counts: Counts) -> Shares:
    """Of every class' predicted pixels, the share that is right, 0 … 1; NaN where there are none."""
    return ratio(np.diagonal(counts)[:-1], counts[:, :-1].sum(0))


def f1(counts: Counts) -> Shares:
    """Harmonic mean of precision and recall of every class (the Dice coefficient), 0 … 1; NaN as for `iou`."""
    hits = np.diagonal(counts)[:-1]
    return ratio(2 * hits, counts[:-1].sum(1) + counts[:, :-1].sum(0))


def fwiou(counts: Counts) -> float:
    """IoU weighted by the classes' share of the true pixels, 0 … 1."""
    weights = counts[:-1].sum(1)
    return float(ratio(np.nansum(weights * np.nan_to_num(iou(counts))), weights.sum()))


def ratio(part: NDArray[np.generic] | np.generic | float, whole: NDArray[np.generic] | np.generic | float) -> Shares:
    """part / whole, NaN where whole is 0."""
    top, bottom = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
    each: Shares = np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
    return each


def mean(values: Shares) -> float:
    """Mean of those that are not NaN; NaN where there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def band(labels: Map, distance: int) -> Mask:
    """Pixels within `distance` (chessboard) of another label or of the image's edge: h w.

    The boundary region of Cheng et al. 2021 (Boundary IoU, eq. 2), of all classes at once: a pixel belongs to the band
    of its own class.
    """
    h, w = labels.shape
    padded = np.full((h + 2, w + 2), -1, np.int64)
    padded[1:-1, 1:-1] = labels
    down, across = padded[1:] != padded[:-1], padded[:, 1:] != padded[:, :-1]
    return (_within(down, distance, 1, 0)[:h, :w] | _within(across, distance, 0, 1)[:h, :w]).astype(bool)


def _within(edges: Mask, distance: int, rows: int, columns: int) -> Mask:
    """Whether an edge lies inside each pixel's window; an edge joins a pixel and its next along `rows` or `columns`."""
    sums = np.zeros((edges.shape[0] + 1, edges.shape[1] + 1), np.int64)
    sums[1:, 1:] = edges.cumsum(0).cumsum(1)
    h, w = edges.shape[0] - 2 + rows, edges.shape[1] - 2 + columns
    y, x = np.arange(1, h + 1)[:, None], np.arange(1, w + 1)[None, :]
    top, left = np.maximum(y - distance, 0), np.maximum(x - distance, 0)
    bottom = np.minimum(y + distance + 1 - rows, edges.shape[0])
    right = np.minimum(x + distance + 1 - columns, edges.shape[1])
    inside: Mask = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left] > 0
    return inside


def band_width(shape: tuple[int, ...], share: float = 0.02) -> int:
    """The band's width in pixels: a share of the image's diagonal, at least 1."""
    return max(round(share * math.hypot(*shape)), 1)


def contour(mask: Mask) -> Mask:
    """Pixels whose right, lower or lower-right neighbour lies on the other side (`seg2bmap` of the DAVIS benchmark)."""
    border = np.zeros_like(mask)
    border[:-1, :-1] = (
        (mask[:-1, :-1] ^ mask[:-1, 1:]) | (mask[:-1, :-1] ^ mask[1:, :-1]) | (mask[:-1, :-1] ^ mask[1:, 1:])
    )
    border[-1, :-1] = mask[-1, :-1] ^ mask[-1, 1:]
    border[:-1, -1] = mask[:-1, -1] ^ mask[1:, -1]
    return border


def boundary_f1(truth: Mask, predicted: Mask, tolerance: float = 2, void: Mask | None = None) -> float:
    """Boundary F-measure of one mask, 0 … 1, as the DAVIS benchmark computes it (Perazzi et al. 2016).

    Args:
        truth, predicted: bool h w. tolerance: pixels; below 1 a share of the diagonal. void: pixels that do not count.
    """
    radius = math.ceil(tolerance * math.hypot(*truth.shape)) if tolerance < 1 else int(tolerance)
    if void is not None:
        truth, predicted = truth & ~void, predicted & ~void
    true, found = contour(truth), contour(predicted)
    count_true, count_found = int(true.sum()), int(found.sum())
    if not count_true or not count_found:
        return float(count_true == count_found)
    right = (found & _dilated(true, radius)).sum() / count_found
    reached = (true & _dilated(found, radius)).sum() / count_true
    return float(2 * right * reached / (right + reached)) if right + reached else 0.0


def _dilated(mask: Mask, radius: int) -> Mask:
    """By a disk: every pixel within `radius` of the mask."""
    h, w = mask.shape
    wide = np.zeros((h + 2 * radius, w + 2 * radius), bool)
    rows, columns = np.nonzero(mask)
    for down in range(-radius, radius + 1):
        reach = math.isqrt(radius**2 - down**2)
        for across in range(-reach, reach + 1):
            wide[rows + radius + down, columns + radius + across] = True
    return wide[radius : radius + h, radius : radius + w]


def boundary_f1_by_class(truth: Map, labels: Map, classes: int, tolerance: float = 2, ignored: int = IGNORED) -> Shares:
    """`boundary_f1` of every class; NaN for a class that neither map holds. Ignored pixels are void."""
    void = truth == ignored
    each = np.full(classes, np.nan)
    for index in np.union1d(np.unique(truth[~void]), np.unique(labels[~void])):
        if 0 <= index < classes:
            each[index] = boundary_f1(truth == index, labels == index, tolerance, void)
    return each


def boundary_counts(truth: Map, labels: Map, classes: int, ignored: int = IGNORED) -> Counts:
    """Intersection and union of the boundary bands of every class, pixels: int64 2 × classes; add up a dataset.

    Bands are 2 % of the diagonal wide (Cheng et al. 2021). Ignored pixels count in neither map.
    """
    width = band_width(truth.shape)
    counted = truth != ignored
    true, found = band(truth, width) & counted, band(labels, width) & counted
    rows, columns = _bounded(truth, classes), _bounded(labels, classes)
    sizes = [
        np.bincount(values[chosen], minlength=classes + 1)[:classes]
        for values, chosen in ((rows, true & found & (rows == columns)), (rows, true), (columns, found))
    ]
    return np.stack([sizes[0], sizes[1] + sizes[2] - sizes[0]])


def found_by_size(truth: Map, labels: Map, chosen: Mask, ignored: int = IGNORED) -> Counts:
    """How much of small, medium and large objects was found (COCO's sizes: below 32², below 96² pixels, larger).

    An object is a connected component (8 neighbours) of a true class. Add up the images of a dataset.

    Args:
        truth, labels: h w. chosen: bool, which true classes have objects.

    Returns:
        int64 3 × 4: small, medium, large; objects, those of which at least half was found, their pixels, pixels found.
    """
    table = np.zeros((3, 4), np.int64)
    true = np.where((truth == ignored) | (truth >= len(chosen)), 0, truth.astype(np.int32) + 1)
    for index, box in enumerate(ndimage.find_objects(true)):
        if box is None or not chosen[index]:
            continue
        parts, count = ndimage.label(true[box] == index + 1, np.ones((3, 3), bool))
        total = np.bincount(parts.ravel(), minlength=count + 1)[1:]
        hits = np.bincount(parts[labels[box] == index], minlength=count + 1)[1:]
        size = np.digitize(total, (32**2, 96**2))
        for column, values in enumerate((np.ones_like(total), 2 * hits >= total, total, hits)):
            table[:, column] += np.bincount(size, values, 3).astype(np.int64)
    return table


def calibration(confidence: NDArray[np.uint8], right: Mask) -> Counts:
    """Pixels by confidence (0 … 255, in 255ths) and by whether they are right: int64 256 × 2; add up a dataset."""
    return np.bincount(confidence.astype(np.int64) * 2 + right, minlength=512).reshape(256, 2)


def calibration_error(counts: Counts, bins: int = 15) -> float:
    """Expected calibration error, 0 … 1: |accuracy − confidence| over equal bins of confidence (Guo et al. 2017)."""
    level = np.arange(256) / 255
    bin_of = np.minimum((level * bins).astype(int), bins - 1)
    total = counts.sum(1)
    sums = np.array([np.bincount(bin_of, weights, bins) for weights in (total, counts[:, 1], total * level)])
    return float(ratio(np.abs(sums[1] - sums[2]).sum(), sums[0].sum()))


def coverage(counts: Counts) -> tuple[Shares, Shares]:
    """If only pixels of at least some confidence were kept: (share kept, accuracy of those), for 256 thresholds."""
    kept = counts[::-1].cumsum(0)[::-1]
    total = kept.sum(1)
    return ratio(total, total[0]), ratio(kept[:, 1], total)
