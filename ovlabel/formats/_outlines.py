"""Masks as polygons that rasterise back to the same pixels, as COCO and YOLO take them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ovlabel.formats._export import Mask

Points = NDArray[np.int64]
_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))  # east, south, west, north, as (down, right)
_LEFT = ((-1, 0), (0, 0), (0, -1), (-1, -1))  # the pixel ahead and left of a corner, facing so
_RIGHT = ((0, 0), (0, -1), (-1, -1), (-1, 0))


def outlines(mask: Mask) -> Iterator[Points]:
    """Polygons along the edges of a mask's pixels; together they cover exactly the mask, each pixel once.

    A polygon has no place for a hole, so a part with one is cut in two at the hole. A rectangle of w × h pixels at the
    origin is (0, 0), (w, 0), (w, h), (0, h).

    Args:
        mask: bool, H × W.

    Returns:
        The corners (x, y) of each polygon, clockwise: int64, n × 2, pixels.
    """
    left_over = [(0, 0, mask)]
    while left_over:
        top, left, area = left_over.pop()
        parts, _ = ndimage.label(area)
        for number, box in enumerate(ndimage.find_objects(parts), start=1):
            part = parts[box] == number
            y, x = top + box[0].start, left + box[1].start
            holes = ndimage.binary_fill_holes(part, np.ones((3, 3), bool)) & ~part
            if holes.any():
                column = int(np.flatnonzero(holes.any(0))[0])
                left_over += [(y, x, part[:, :column]), (y, x + column, part[:, column:])]
            else:
                yield _around(part) + np.array([x, y])


def _around(part: Mask) -> Points:
    """The corners of a 4-connected part without holes, walked with the part on the right."""
    solid = np.pad(part, 1).tolist()
    y, x = 1, 1 + int(np.argmax(part[0]))
    start, facing = (y, x), 0
    corners: list[tuple[int, int]] = []
    while facing or (y, x) != start or not corners:
        y, x = y + _STEPS[facing][0], x + _STEPS[facing][1]
        right, left = _RIGHT[facing], _LEFT[facing]
        turn = 1 if not solid[y + right[0]][x + right[1]] else -1 if solid[y + left[0]][x + left[1]] else 0
        if turn:
            corners.append((x - 1, y - 1))
            facing = (facing + turn) % 4
    return np.array(corners, np.int64)


def centres(corners: Points) -> Points:
    """The pixels along the inner side of a polygon; filled with its edges drawn, they give the same mask.

    Args:
        corners: int64, n × 2, from `outlines`.

    Returns:
        Pixels (x, y): int64, m × 2.
    """
    following = np.roll(corners, -1, 0)
    step = np.sign(following - corners)
    south_or_west, west_or_north = (step[:, 1] > 0) | (step[:, 0] < 0), (step < 0).any(1)
    aside = -np.stack([south_or_west, west_or_north], 1).astype(np.int64)
    first = corners + aside
    last = following - step + aside
    points = np.stack([first, last], 1).reshape(-1, 2)
    changed = (points != np.roll(points, 1, 0)).any(1)
    return points[changed] if changed.any() else points[:1]
