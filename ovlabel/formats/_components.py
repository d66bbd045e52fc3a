"""Labels as regions: connected components of things, and every other class as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ovlabel.formats._export import NO_LABEL, ExportClass, Mask


def components(classes: tuple[ExportClass, ...], labels: NDArray[np.uint16]) -> Iterator[tuple[ExportClass, Mask]]:
    """Cut an image's labels into regions.

    Args:
        classes: in label order.
        labels: H × W, as in `LabelledImage`.

    Returns:
        Class and mask (bool, H × W) of every connected component of a thing (8 neighbours), and of every other class as
        a whole; in label order.
    """
    for index in np.unique(labels[labels != NO_LABEL]):
        mask = labels == index
        if classes[index].kind != "thing":
            yield classes[index], mask
            continue
        parts, count = ndimage.label(mask, np.ones((3, 3)))
        for part in range(1, count + 1):
            yield classes[index], parts == part


def extent(mask: Mask) -> dict[str, Any]:
    """A mask's `area` in pixels and its `bbox`: left, top, width, height."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    return {"area": int(mask.sum()), "bbox": [int(v) for v in box]}
