"""How well the borders of a label map agree with those of the ground truth: boundary F1 and boundary IoU. numpy only.

Boundary F1 asks how many contour pixels have a counterpart within a distance; boundary IoU compares the bands of pixels
along the borders.
"""

from __future__ import annotations

import math

import numpy as np

from ovlabel.evaluation.metrics import IGNORED, Counts, Fractions, Indices, Mask, bounded


def band(labels: Indices, distance: int) -> Mask:
    """Pixels near a border: bool, H × W.

    The boundary region of Cheng et al. (Boundary IoU, CVPR 2021, equation 2), of all classes at once: a pixel belongs
    to the band of its own class.

    Args:
        labels: H × W, class indices.
        distance: how far, in pixels (chessboard distance), another label or the image's edge may lie.
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


def band_width(shape: tuple[int, ...], fraction: float = 0.02) -> int:
    """The width of the band in pixels: a fraction of the image's diagonal, at least 1."""
    return max(round(fraction * math.hypot(*shape)), 1)


def contour(mask: Mask) -> Mask:
    """Pixels whose right, lower or lower-right neighbour lies on the other side of the mask's border: bool, H × W.

    Source: `seg2bmap` of the DAVIS benchmark.
    """
    border = np.zeros_like(mask)
    border[:-1, :-1] = (
        (mask[:-1, :-1] ^ mask[:-1, 1:]) | (mask[:-1, :-1] ^ mask[1:, :-1]) | (mask[:-1, :-1] ^ mask[1:, 1:])
    )
    border[-1, :-1] = mask[-1, :-1] ^ mask[-1, 1:]
    border[:-1, -1] = mask[:-1, -1] ^ mask[1:, -1]
    return border


def boundary_f1(truth: Mask, predicted: Mask, tolerance: float = 2, void: Mask | None = None) -> float:
    """The boundary F-measure of one mask, 0 … 1, as the DAVIS benchmark computes it (Perazzi et al., CVPR 2016).

    Args:
        truth: bool, H × W.
        predicted: bool, H × W.
        tolerance: how far apart contours may lie, in pixels; below 1 as a fraction of the diagonal.
        void: pixels that do not count, bool, H × W.
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
    """Every pixel within `radius` of the mask (a dilation by a disk)."""
    h, w = mask.shape
    wide = np.zeros((h + 2 * radius, w + 2 * radius), bool)
    rows, columns = np.nonzero(mask)
    for down in range(-radius, radius + 1):
        reach = math.isqrt(radius**2 - down**2)
        for across in range(-reach, reach + 1):
            wide[rows + radius + down, columns + radius + across] = True
    return wide[radius : radius + h, radius : radius + w]


def boundary_f1_by_class(
    truth: Indices, labels: Indices, classes: int, tolerance: float = 2, ignored: int = IGNORED
) -> Fractions:
    """`boundary_f1` of every class of one image.

    Args:
        truth: H × W, class indices; pixels of the value `ignored` are void.
        labels: H × W, class indices.
        classes: how many classes there are.
        tolerance: as in `boundary_f1`.
        ignored: pixels of this value in `truth` do not count.

    Returns:
        float64, one a class, 0 … 1; NaN where neither map holds it.
    """
    void = truth == ignored
    each = np.full(classes, np.nan)
    for index in np.union1d(np.unique(truth[~void]), np.unique(labels[~void])):
        if 0 <= index < classes:
            each[index] = boundary_f1(truth == index, labels == index, tolerance, void)
    return each


def boundary_counts(truth: Indices, labels: Indices, classes: int, ignored: int = IGNORED) -> Counts:
    """Count the pixels of the boundary bands of one image. Add up the images of a dataset.

    Bands are as wide as 2 % of the diagonal (Cheng et al., CVPR 2021). Ignored pixels count in neither map.

    Args:
        truth: H × W, class indices.
        labels: H × W, class indices.
        classes: how many classes there are.
        ignored: pixels of this value in `truth` do not count.

    Returns:
        int64, 2 × classes: intersection and union. Their ratio is the boundary IoU.
    """
    width = band_width(truth.shape)
    counted = truth != ignored
    true, found = band(truth, width) & counted, band(labels, width) & counted
    rows, columns = bounded(truth, classes), bounded(labels, classes)
    sizes = [
        np.bincount(values[chosen], minlength=classes + 1)[:classes]
        for values, chosen in ((rows, true & found & (rows == columns)), (rows, true), (columns, found))
    ]
    return np.stack([sizes[0], sizes[1] + sizes[2] - sizes[0]])
