"""COCO's segmentations as masks: polygons, and run lengths compressed or not.

pycocotools draws polygons. What it is given is checked first, because its C code trusts the numbers it gets.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovlabel.errors import shown

_OUTLINE = 2_000_000  # pixels that a polygon may be long: pycocotools takes 80 bytes for each


def is_empty(segmentation: Any) -> bool:
    """Whether a segmentation, as it stands in the JSON, is none: nothing, no runs, or no outline of three points."""
    if isinstance(segmentation, list):
        return not any(not isinstance(outline, list) or _encloses(outline) for outline in segmentation)
    return not (segmentation.get("counts") if isinstance(segmentation, dict) else segmentation)


def in_fractions(segmentation: Any) -> bool:
    """Whether a segmentation is of polygons all of whose coordinates lie within 0 … 1, as those of YOLO do."""
    if not isinstance(segmentation, list) or not segmentation:
        return False
    try:
        return all(min(outline) >= 0 and max(outline) <= 1 for outline in segmentation)
    except (TypeError, ValueError):
        return False


def draw(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Draw one annotation's segmentation.

    Args:
        segmentation: as in the JSON: a list of polygons, or a dict with `counts` and, where it is given, `size`.
        size: height and width of the image, pixels.

    Returns:
        bool, H × W.

    Raises:
        ValueError: the numbers do not describe a mask of this size. A shape of another form raises other errors too.
    """
    if isinstance(segmentation, list):
        return _fill(segmentation, size)
    if not isinstance(segmentation, dict):
        raise ValueError("its segmentation is neither polygons nor run lengths")
    runs = _runs(segmentation["counts"])
    if (claimed := segmentation.get("size", list(size))) != list(size):
        raise ValueError(f"segmentation: its runs are for {shown(claimed)} pixels, the image has {list(size)}")
    if sum(runs) != size[0] * size[1]:
        count = f"they add up to {shown(sum(runs))} pixels of {size[0] * size[1]}"
        raise ValueError(f"segmentation: its runs are not as long as the image: {count}")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(size[1], size[0]).T  # runs go column by column


def _runs(counts: Any) -> list[int]:
    """Run lengths from `counts`, compressed or not. Raises ValueError where they are none."""
    runs = _unpack(counts.encode()) if isinstance(counts, str) else counts
    if not isinstance(runs, list):
        raise ValueError(f"segmentation: counts is {shown(runs)}, where a list or a text is wanted")
    if strange := [run for run in runs if type(run) is not int or run < 0]:
        raise ValueError(f"segmentation: its runs are not as long as the image: {shown(strange[0])} is no length")
    return runs


def _encloses(outline: list[Any]) -> bool:
    """Whether an outline x y x y … has three points; pycocotools takes one of two for a box."""
    return len(outline) >= 6 or any(isinstance(point, list) for point in outline)


def _fill(polygons: list[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels inside any of the polygons, each x y x y …"""
    from pycocotools import mask as coco_mask

    if not all(isinstance(polygon, list) for polygon in polygons):
        raise ValueError("write its polygons as [[x, y, x, y, …], …]")
    outlines = []
    for polygon in polygons:
        points = _points(polygon)
        near = bool((np.abs(points) <= _OUTLINE).all())
        if not near or np.abs(np.diff(points, axis=0, append=points[:1])).sum() > _OUTLINE:
            raise ValueError("segmentation: an outline is longer than any in a photograph")
        if len(points) >= 3:
            outlines.append(points)
    if not outlines or not size[0] * size[1]:
        return np.zeros(size, bool)
    if all((p.max(0) <= 0).any() or (p.min(0) >= (size[1], size[0])).any() for p in outlines):
        raise ValueError(f"its outlines lie outside the image, which is {size[0]} × {size[1]} pixels")
    runs = coco_mask.frPyObjects([points.ravel().tolist() for points in outlines], *size)
    return np.asarray(coco_mask.decode(coco_mask.merge(runs)).astype(bool))


def _points(outline: list[Any]) -> NDArray[np.float64]:
    """The points of an outline, N × 2. Raises ValueError where it holds what is no coordinate."""
    try:
        points = np.array(outline, np.float64)
    except (TypeError, ValueError, OverflowError):
        flat = [value for point in outline for value in (point if isinstance(point, list) else [point])]
        strange = next((value for value in flat if not isinstance(value, int | float)), outline)
        raise ValueError(f"segmentation: an outline holds {shown(strange)}, which is no coordinate") from None
    if not np.isfinite(points).all():
        raise ValueError(f"segmentation: an outline holds {points[~np.isfinite(points)][0]}, which is no coordinate")
    if points.size % 2 or (points.ndim > 1 and points.shape[1:] != (2,)):
        raise ValueError(f"segmentation: an outline of {points.size} numbers; write x, y, x, y, …")
    return points.reshape(-1, 2)


def _unpack(text: bytes) -> list[int]:
    """COCO's compressed runs: five bits a letter, the lowest first; from the third run on, the difference to the last
    but one.

    pycocotools reads them in C, and writes beyond its memory where they make no sense; so they are read here.
    """
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        bits = letter - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("its runs are no text of COCO's")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits >> 4 & 1) << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("its runs are cut short")
    return runs
