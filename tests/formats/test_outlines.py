"""Polygons that rasterise back to their masks, in readers that are not ours."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from ovlabel.formats._outlines import centres, outlines

MASKS = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.booleans())


def test_a_rectangle_is_its_four_corners() -> None:
    mask = np.zeros((5, 6), bool)
    mask[1:4, 2:6] = True
    (corners,) = outlines(mask)
    assert sorted(corners.tolist()) == [[2, 1], [2, 4], [6, 1], [6, 4]]
    assert sorted(centres(corners).tolist()) == [[2, 1], [2, 3], [5, 1], [5, 3]]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools on numpy 2
@given(MASKS)
def test_corners_fill_to_the_mask_in_pycocotools(mask: np.ndarray) -> None:
    polygons = [corners.ravel().tolist() for corners in outlines(mask)]
    if not mask.any():
        assert not polygons
        return
    runs = coco_mask.merge(coco_mask.frPyObjects(polygons, *mask.shape))
    np.testing.assert_array_equal(coco_mask.decode(runs), mask)


@given(MASKS)
def test_corners_enclose_every_pixel_once(mask: np.ndarray) -> None:
    """The shoelace formula: parts neither overlap nor leave anything out."""
    area = 0.0
    for corners in outlines(mask):
        x, y = corners.T
        area += (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2
    assert area == mask.sum()


@given(MASKS)
def test_centres_fill_to_the_mask_in_opencv(mask: np.ndarray) -> None:
    drawn = np.zeros(mask.shape, np.uint8)
    for corners in outlines(mask):
        cv2.fillPoly(drawn, [centres(corners).astype(np.int32)], 1)
    np.testing.assert_array_equal(drawn, mask)
