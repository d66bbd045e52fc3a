"""How much of small, medium and large objects was found."""

from __future__ import annotations

import numpy as np

from ovlabel.evaluation.metrics import IGNORED, Counts, Indices, Mask

_LIMITS = (32**2, 96**2)  # pixels: COCO's small objects are below the first, its medium ones below the second


def found_by_size(truth: Indices, labels: Indices, chosen: Mask, ignored: int = IGNORED) -> Counts:
    """Count the objects of one image by their size. Add up the images of a dataset.

    An object is a connected component (8 neighbours) of a true class. Sizes are those of COCO's evaluation (Lin et al.,
    ECCV 2014): below 32² pixels, below 96² pixels, larger.

    Args:
        truth: H × W, class indices.
        labels: H × W, class indices.
        chosen: bool, one a class: which classes have objects.
        ignored: pixels of this value in `truth` do not count.

    Returns:
        int64, 3 × 4: rows are small, medium and large; columns are objects, objects of which at least half was found,
        their pixels, and their pixels that were found.
    """
    from scipy import ndimage  # imported here: it takes longer to import than all else that scoring needs

    table = np.zeros((3, 4), np.int64)
    true = np.where((truth == ignored) | (truth >= len(chosen)), 0, truth.astype(np.int32) + 1)
    for index, box in enumerate(ndimage.find_objects(true)):
        if box is None or not chosen[index]:
            continue
        parts, count = ndimage.label(true[box] == index + 1, np.ones((3, 3), bool))
        total = np.bincount(parts.ravel(), minlength=count + 1)[1:]
        hits = np.bincount(parts[labels[box] == index], minlength=count + 1)[1:]
        size = np.digitize(total, _LIMITS)
        for column, values in enumerate((np.ones_like(total), 2 * hits >= total, total, hits)):
            table[:, column] += np.bincount(size, values, 3).astype(np.int64)
    return table
