"""Scores against mmsegmentation's own counts (golden) and against counting by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ovlabel.evaluation.boundary import (
    band,
    band_width,
    boundary_counts,
    boundary_f1,
    boundary_f1_by_class,
    contour,
)
from ovlabel.evaluation.metrics import (
    calibration,
    calibration_error,
    confusion,
    coverage,
    f1,
    fwiou,
    iou,
    miou,
    miou_present,
    pixel_accuracy,
    precision,
    recall,
)

Golden = Callable[[str], dict[str, np.ndarray]]


@pytest.mark.parametrize(
    ("case", "truth", "fewer"),
    [
        ("plain", "gt", 0),
        ("outofrange", "gt_outofrange", 0),
        ("img0ignored", "gt_img0_ignored", 0),
        ("reduced", "gt_reduced", 1),
    ],
)
def test_counts_are_mmsegmentations(case: str, truth: str, fewer: int, golden: Golden) -> None:
    arrays = golden("iou")
    classes = int(arrays["num_classes"]) - fewer
    counts = sum(confusion(t, p, classes) for t, p in zip(arrays[truth], arrays["pred"], strict=True))
    assert isinstance(counts, np.ndarray)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(np.diagonal(counts)[:-1], arrays[f"{case}_intersect"])
    np.testing.assert_array_equal(counts[:-1].sum(1), arrays[f"{case}_gt_area"])
    np.testing.assert_array_equal(counts[:, :-1].sum(0), arrays[f"{case}_pred_area"])
    np.testing.assert_array_equal(iou(counts), arrays[f"f64_{case}_iou"])
    summary = arrays[f"f64_{case}_summary"]
    assert 100 * miou(counts) == pytest.approx(summary[0], abs=1e-12)
    assert 100 * pixel_accuracy(counts) == pytest.approx(summary[1], abs=1e-12)


maps = st.tuples(st.integers(1, 6), st.integers(1, 6)).flatmap(
    lambda shape: st.tuples(
        arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3, 7, 255])),
        arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 254, 255])),
    )
)


@given(maps)
def test_every_counted_pixel_is_in_one_cell(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, labels = pair
    counts = confusion(truth, labels, 3)
    for t in range(4):
        for p in range(4):
            rows = truth == t if t < 3 else (truth >= 3) & (truth != 255)
            columns = labels == p if p < 3 else labels >= 3
            assert counts[t, p] == (rows & columns).sum()


def test_maps_of_two_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        confusion(np.zeros((2, 3), int), np.zeros((3, 2), int), 2)


@pytest.mark.parametrize("case", [0, 1, 2])
@pytest.mark.parametrize("share", ["0.02", "0.005", "0.05"])
def test_boundary_iou_is_the_authors_own(case: int, share: str, golden: Golden) -> None:
    arrays = golden("boundary")
    truth, predicted = (arrays[f"{name}_{case}"].astype(bool) for name in ("gt", "pred"))
    width = band_width(truth.shape, float(share))
    true, found = (band(mask.astype(np.uint8), width) & mask for mask in (truth, predicted))
    counted = [(true & found).sum(), (true | found).sum()]
    np.testing.assert_array_equal(counted, arrays[f"biou_{case}_r{share}"])
    assert counted[0] / counted[1] == arrays[f"f64_biou_{case}_r{share}"]
    if share == "0.02":
        np.testing.assert_array_equal(true, arrays[f"boundary_gt_{case}"])
        np.testing.assert_array_equal(found, arrays[f"boundary_pred_{case}"])
        assert boundary_counts(truth.astype(np.uint8), predicted.astype(np.uint8), 2)[:, 1].tolist() == counted


@pytest.mark.parametrize("case", [0, 1, 2])
@pytest.mark.parametrize("tolerance", ["0.008", "2", "5"])
def test_boundary_f1_is_the_davis_benchmarks(case: int, tolerance: str, golden: Golden) -> None:
    arrays = golden("boundary")
    truth, predicted, void = (arrays[f"{name}_{case}"].astype(bool) for name in ("gt", "pred", "void"))
    np.testing.assert_array_equal(contour(truth), arrays[f"seg2bmap_gt_{case}"])
    assert boundary_f1(truth, predicted, float(tolerance)) == arrays[f"f64_bf_{case}_th{tolerance}"]
    assert boundary_f1(truth, predicted, float(tolerance), void) == arrays[f"f64_bf_{case}_th{tolerance}_void"]


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 2)), st.integers(1, 4))
def test_the_band_is_where_the_window_is_not_of_one_label(labels: np.ndarray, distance: int) -> None:
    wide = np.pad(labels.astype(int), distance, constant_values=-1)
    size = 2 * distance + 1
    expected = [
        [len(np.unique(wide[y : y + size, x : x + size])) > 1 for x in range(labels.shape[1])]
        for y in range(len(labels))
    ]
    np.testing.assert_array_equal(band(labels, distance), expected)


def test_a_perfect_map_scores_one_everywhere() -> None:
    truth = np.random.default_rng(0).integers(0, 4, (40, 50)).repeat(3, 0).repeat(3, 1).astype(np.uint8)
    counts = confusion(truth, truth, 5)
    for measure in (miou, miou_present, pixel_accuracy, fwiou):
        assert measure(counts) == 1
    for each in (iou, recall, precision, f1):
        np.testing.assert_array_equal(each(counts), [1, 1, 1, 1, np.nan])
    np.testing.assert_array_equal(boundary_f1_by_class(truth, truth, 5), [1, 1, 1, 1, np.nan])
    intersection, union = boundary_counts(truth, truth, 5)
    np.testing.assert_array_equal(intersection, union)


def test_torchmetrics_agrees_where_the_conventions_do() -> None:
    """One image at a time: over several, torchmetrics averages images, and it knows no ignored pixels."""
    import torch
    from torchmetrics.segmentation import MeanIoU

    random = np.random.default_rng(1)
    for classes in (3, 20, 171):
        truth = random.integers(0, classes, (40, 50)).repeat(3, 0)
        labels = np.where(random.random(truth.shape) < 0.4, random.integers(0, classes, truth.shape), truth)
        theirs = MeanIoU(classes, per_class=True, input_format="index")
        found = theirs(torch.from_numpy(labels)[None], torch.from_numpy(truth)[None])
        np.testing.assert_allclose(iou(confusion(truth, labels, classes)), found.numpy(), rtol=1e-6)


def test_miou_counts_a_class_that_is_only_predicted_and_miou_present_does_not() -> None:
    truth, labels = np.array([[0, 0, 1, 1]]), np.array([[0, 0, 1, 2]])
    counts = confusion(truth, labels, 3)
    assert miou(counts) == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert miou_present(counts) == pytest.approx((1 + 1 / 2) / 2)
    assert pixel_accuracy(counts) == 3 / 4
    assert fwiou(counts) == pytest.approx(0.5 * 1 + 0.5 * 0.5)
    np.testing.assert_array_equal(recall(counts), [1, 0.5, np.nan])
    np.testing.assert_array_equal(precision(counts), [1, 1, 0])


def test_calibration_of_a_forecaster_that_is_right_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    said = random.integers(0, 256, 200_000).astype(np.uint8)
    honest = calibration(said, random.random(said.size) < said / 255)
    assert calibration_error(honest) < 0.01
    boasting = calibration(np.full(1000, 255, np.uint8), np.arange(1000) < 250)
    assert calibration_error(boasting) == pytest.approx(0.75)
    kept, accuracy = coverage(honest)
    assert kept[0] == 1
    assert (np.diff(kept) <= 0).all()
    assert accuracy[0] == pytest.approx(0.5, abs=0.01)
    assert accuracy[230] > 0.94
