"""Geometry: sizes, windows, stitching, resizing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ovlabel.ops import enlarge, lift_rows, resize
from ovlabel.spine.cosine_maps import CosineMaps, Mosaic
from ovlabel.spine.stitching import Canvas, GridCanvas
from ovlabel.spine.windows import cut, enlarge_window, tile, working_size
from ovlabel.types import Box

sides = st.integers(1, 48)
sizes = st.tuples(sides, sides)
tilings = st.integers(1, 40).flatmap(lambda w: st.tuples(st.just(w), st.integers(1, w)))


@pytest.mark.parametrize(("size", "count"), [((336, 448), 6), ((448, 597), 15), ((560, 1120), 36)])
def test_the_published_window_counts(size: tuple[int, int], count: int) -> None:
    assert len(tile(size, 224, 112)) == count


@pytest.mark.parametrize(
    ("size", "short", "expected"),
    [((480, 640), 448, (448, 597)), ((480, 640), 336, (336, 448)), ((150, 230), 240, (240, 368))],
)
def test_the_short_side_is_scaled(size: tuple[int, int], short: int, expected: tuple[int, int]) -> None:
    assert working_size(size, short, 2048, 16) == expected


def test_the_long_side_is_capped_and_a_sliver_keeps_a_patch() -> None:
    assert working_size((1000, 8000), 448, 2048, 16) == (256, 2048)
    assert working_size((20, 5000), 448, 2048, 16) == (16, 2048)
    assert working_size((1, 1), 448, 2048, 16) == (448, 448)


@given(sizes, tilings)
def test_windows_have_one_size_lie_inside_and_cover_every_pixel(size: tuple[int, int], tiling: tuple[int, int]) -> None:
    boxes = tile(size, *tiling)
    seen = np.zeros(size, int)
    for box in boxes:
        assert (box.height, box.width) == (min(tiling[0], size[0]), min(tiling[0], size[1]))
        assert box.top >= 0
        assert box.left >= 0
        part = seen[box.top : box.top + box.height, box.left : box.left + box.width]
        assert part.shape == (box.height, box.width)
        part += 1
    assert seen.min() >= 1
    assert len(set(boxes)) == len(boxes)


def test_window_zero_is_the_whole_image() -> None:
    assert tile((30, 50), 0, 7) == (Box(0, 0, 30, 50),)


@given(sizes, tilings)
def test_stitching_undoes_cutting(size: tuple[int, int], tiling: tuple[int, int]) -> None:
    image = torch.rand(3, *size, dtype=torch.float64)
    boxes = tile(size, *tiling)
    canvas = Canvas(3, size, image)
    for window, box in zip(cut(image, boxes), boxes, strict=True):
        canvas.add(window, box)
    assert torch.allclose(canvas.mean(), image)


def test_overlaps_are_averaged() -> None:
    canvas = Canvas(1, (1, 3), torch.zeros(1))
    canvas.add(torch.full((1, 1, 2), 1.0), Box(0, 0, 1, 2))
    canvas.add(torch.full((1, 1, 2), 3.0), Box(0, 1, 1, 2))
    assert canvas.mean().tolist() == [[[1.0, 2.0, 3.0]]]


def test_features_on_aligned_windows_are_the_plain_mean_of_their_patches() -> None:
    """Windows of 32 every 16 at patch 16 share one grid: each cell is the mean over the windows that hold it."""
    size, patch = (48, 64), 16
    boxes = tile(size, 32, 16)
    features = torch.rand(len(boxes), 2, 2, 2)
    canvas = GridCanvas(2, size, patch, features)
    total, count = torch.zeros(2, 3, 4), torch.zeros(3, 4)
    for one, box in zip(features, boxes, strict=True):
        canvas.add(one, box, (box.top, box.left, box.top + 32, box.left + 32))
        rows, columns = box.top // patch, box.left // patch
        total[:, rows : rows + 2, columns : columns + 2] += one
        count[rows : rows + 2, columns : columns + 2] += 1
    assert canvas.grid == (3, 4)
    assert torch.allclose(canvas.mean(), total / count, atol=1e-6)


@given(sizes, tilings, st.integers(1, 20))
def test_a_constant_feature_stays_constant_on_the_image_grid(
    size: tuple[int, int], tiling: tuple[int, int], patch: int
) -> None:
    canvas = GridCanvas(1, size, patch, torch.zeros(1))
    for box in tile(size, *tiling):
        covered = (box.top, box.left, box.top + box.height, box.left + box.width)
        canvas.add(torch.full((1, 2, 3), 5.0), box, covered)
    assert torch.allclose(canvas.mean(), torch.tensor(5.0))


@given(sizes, sizes)
def test_lifting_bands_equals_lifting_the_whole(size: tuple[int, int], target: tuple[int, int]) -> None:
    maps = torch.rand(2, *size)
    middle = target[0] // 2
    bands = [
        lift_rows(maps, torch.arange(len(maps)), target, a, b) for a, b in ((0, middle), (middle, target[0])) if b > a
    ]
    assert torch.allclose(torch.cat(bands, dim=1), enlarge(maps[None], target)[0], atol=1e-5)


@given(sizes, sizes)
def test_resizing_is_bilinear_within_one_grey_level(size: tuple[int, int], target: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    exact = enlarge(torch.from_numpy(image).permute(2, 0, 1)[None].float(), target)[0].permute(1, 2, 0)
    assert np.abs(resize(image, target).astype(float) - exact.numpy()).max() <= 1.01


def test_resizing_to_the_same_size_changes_nothing() -> None:
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    assert np.array_equal(resize(image, (4, 5)), image)


@given(sizes, tilings, st.integers(1, 5), st.tuples(st.integers(0, 3), st.integers(0, 3)), st.integers(0, 2**31))
def test_a_mosaic_is_the_canvas_of_its_enlarged_windows(
    size: tuple[int, int], tiling: tuple[int, int], patches: int, border: tuple[int, int], seed: int
) -> None:
    torch.manual_seed(seed)
    boxes = tile(size, *tiling)
    padding = (border[0], 1, border[1], 2)
    padded = (boxes[0].height + border[1] + 2, boxes[0].width + border[0] + 1)
    maps = torch.rand(len(boxes), 2, patches, patches + 1, dtype=torch.float64)
    mosaic, canvas = Mosaic(size, boxes, padding, padded), Canvas(2, size, maps)
    for one, box in zip(maps, boxes, strict=True):
        mosaic.put(one, box)
        canvas.add(enlarge_window(one[None], box, padding, padded)[0], box)
    expected = canvas.mean()
    assert torch.allclose(mosaic.at(size), expected, atol=1e-12)
    for target in ((size[0] + 7, size[1] * 2), (max(size[0] // 2, 1), size[1])):
        lifted = enlarge(expected[None], target)[0]
        assert torch.allclose(mosaic.at(target), lifted, atol=1e-12)
        middle = target[0] // 2
        assert torch.allclose(mosaic.rows(target)(0, middle), lifted[:, :middle], atol=1e-12)
        assert torch.allclose(CosineMaps(expected).rows(target)(middle, target[0]), lifted[:, middle:], atol=1e-6)


def test_a_mosaic_with_a_hole_is_a_defect() -> None:
    mosaic = Mosaic((4, 4), (Box(0, 0, 2, 4),), (0, 0, 0, 0), (2, 4))
    mosaic.put(torch.zeros(1, 1, 1), Box(0, 0, 2, 4))
    with pytest.raises(RuntimeError, match="left pixels out"):
        mosaic.at((4, 4))
