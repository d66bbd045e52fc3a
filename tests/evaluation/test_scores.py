"""A store against ground truth: matching, mapping, figures, and the command as a user types it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovlabel.errors import TruthError
from ovlabel.evaluation.class_map import map_classes, read_map
from ovlabel.evaluation.metrics import confusion, miou, pixel_accuracy
from ovlabel.evaluation.scoring import score_labels
from ovlabel.evaluation.truth import Truth, TruthClass, open_truth
from ovlabel.run.identity import RunIdentity
from ovlabel.run.job import prepare
from ovlabel.settings.reading import load_config
from ovlabel.store.read import Store, open_store
from ovlabel.types import Annotation, UInt8Image
from tests.cli.test_cli import Run, ovlabel

__all__ = ["ovlabel"]
NAMES = ("cat", "dog", "grass", "wall-brick")


class Painted:
    """Labels are an image's red, confidence its green."""

    def __init__(self, classes: int) -> None:
        self.dtype = np.uint8 if classes < 255 else np.uint16

    in_flight, together = 0, 1

    def begin_all(self, images: Sequence[UInt8Image]) -> list[Callable[[], Annotation]]:
        return [self.begin(image) for image in images]

    def begin(self, image: UInt8Image) -> Callable[[], Annotation]:
        return lambda: Annotation(image[..., 0].astype(self.dtype), image[..., 1].copy(), None, None, image.shape[:2])


def annotated(
    folder: Path, labels: dict[str, np.ndarray], names: tuple[str, ...] = NAMES, name: str = "s.zarr"
) -> Store:
    """A store of these labels; confidence is 200/255 where a label is even, else 100/255."""
    for key, values in labels.items():
        path = folder / name.removesuffix(".zarr") / key
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.stack([values, np.where(values % 2, 100, 200), np.zeros_like(values)], -1)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    config = load_config("plain", {"text.vocabulary": "classes:" + ", ".join(names), "encoder.weights": "random:0"})

    def make(run: RunIdentity, offline: bool) -> tuple[Painted, dict[str, Any]]:
        return Painted(len(names)), run.config.to_dict()

    for _ in prepare(folder / name.removesuffix(".zarr"), config, folder / name).run(make=make):
        pass
    return open_store(folder / name)


def masks(folder: Path, values: dict[str, np.ndarray]) -> Path:
    for name, value in values.items():
        path = folder / "truth" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(value.astype(np.uint8)).save(path)
    return folder / "truth"


def own(names: tuple[str, ...] = NAMES) -> list[TruthClass]:
    return [TruthClass(name, (name,)) for name in names]


def truth_of(folder: Path, names: tuple[str, ...] = NAMES) -> Truth:
    return open_truth(folder, "raw", own(names))


@pytest.fixture
def maps() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Five images: (truth, labels), alike in most pixels."""
    random = np.random.default_rng(0)
    made = {}
    for index in range(5):
        truth = random.integers(0, 4, (5, 6 + index)).repeat(6, 0).repeat(6, 1)
        labels = np.where(random.random(truth.shape) < 0.2, random.integers(0, 4, truth.shape), truth)
        truth[random.random(truth.shape) < 0.1] = 255
        made[f"{'a' if index % 2 else 'b'}/{index}"] = (truth, labels)
    return made


@pytest.fixture
def place(tmp_path: Path, maps: dict[str, tuple[np.ndarray, np.ndarray]]) -> Path:
    annotated(tmp_path, {f"{name}.png": labels for name, (_, labels) in maps.items()})
    masks(tmp_path, {f"{name}.png": truth for name, (truth, _) in maps.items()})
    return tmp_path


def test_scores_are_those_of_counting(place: Path, maps: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    truth = truth_of(place / "truth")
    scores = score_labels(open_store(place / "s.zarr"), truth, map_classes(NAMES, truth.classes), boundaries=True)
    counts = sum(confusion(t, p, 4) for t, p in maps.values())
    assert isinstance(counts, np.ndarray)
    np.testing.assert_array_equal(scores.counts, counts)
    values = scores.to_json()
    assert values["miou"] == miou(counts)
    assert values["pixel_accuracy"] == pixel_accuracy(counts)
    assert values["images"] == values["masks"] == 5
    every = [miou(confusion(t, p, 4)) for t, p in maps.values()]
    assert values["image_miou"] == pytest.approx(np.mean(every))
    low, high = values["intervals"]["miou"]
    assert low < values["miou"] < high
    sure = scores.certainty
    assert sure.sum() == counts.sum()
    assert set(np.flatnonzero(sure.sum(1))) == {100, 200}
    assert 0 < values["boundary_iou"] < values["boundary_f1"] < 1
    assert json.loads(json.dumps(values)) == values


def test_masks_are_found_by_path_and_by_name_alone(tmp_path: Path) -> None:
    one = np.zeros((4, 5), int)
    store = annotated(tmp_path, {"a/x.png": one, "b/x.png": one + 1, "c/y_leftImg8bit.png": one})
    truth = truth_of(masks(tmp_path, {"a/x.png": one, "b/x.png": one + 1, "y.png": one}))
    assert score_labels(store, truth, map_classes(NAMES, truth.classes)).to_json()["miou"] == 1


def test_a_mask_that_fits_two_images_is_refused(tmp_path: Path) -> None:
    one = np.zeros((4, 5), int)
    store = annotated(tmp_path, {"a/x.png": one, "b/x.png": one})
    truth = truth_of(masks(tmp_path, {"x.png": one}))
    with pytest.raises(TruthError, match=r"x\.png fits two images: a/x\.png and b/x\.png"):
        score_labels(store, truth, map_classes(NAMES, truth.classes))


def test_an_image_that_fits_two_masks_is_refused(tmp_path: Path) -> None:
    one = np.zeros((4, 5), int)
    store = annotated(tmp_path, {"x.png": one})
    truth = truth_of(masks(tmp_path, {"a/x.png": one, "b/x.png": one}))
    with pytest.raises(TruthError, match=r"image x\.png fits two masks: .*a/x\.png and .*b/x\.png"):
        score_labels(store, truth, map_classes(NAMES, truth.classes))


def test_another_size_is_never_resized(tmp_path: Path) -> None:
    store = annotated(tmp_path, {"x.png": np.zeros((4, 5), int)})
    truth = truth_of(masks(tmp_path, {"x.png": np.zeros((8, 10), int)}))
    with pytest.raises(TruthError, match=r"x\.png is 4 × 5, its mask 8 × 10"):
        score_labels(store, truth, map_classes(NAMES, truth.classes))


def test_masks_without_an_image_need_to_be_allowed(place: Path) -> None:
    masks(place, {"z/9.png": np.zeros((4, 4), int)})
    truth = truth_of(place / "truth")
    classes = map_classes(NAMES, truth.classes)
    with pytest.raises(TruthError, match=r"1 of 6 masks have no annotated image \(z/9\)"):
        score_labels(open_store(place / "s.zarr"), truth, classes)
    scores = score_labels(open_store(place / "s.zarr"), truth, classes, allow_partial=True)
    assert (len(scores.images), scores.masks) == (5, 6)


def test_classes_map_by_name_then_by_what_is_covered_and_the_rest_is_wrong(tmp_path: Path) -> None:
    true = [
        TruthClass("wall-other-merged", ("wall-brick", "wall-stone")),
        TruthClass("cat", ("cat",)),
        TruthClass("sky", ("sky",)),
    ]
    classes = map_classes(["wall-brick", "Cat", "wall stone", "wood"], true)
    assert classes.index == (0, 1, 0, 3)
    assert classes.unmapped == ["wood"]
    lines = "\n".join(classes.lines())
    for words in (
        "wall-other-merged ← wall-brick, wall stone",
        "cat ← Cat",
        "sky ← (none: never found)",
        "(always wrong) ← wood",
    ):
        assert words in lines
    (tmp_path / "map.toml").write_text('"wood" = "sky"\n"Cat" = "wall-other-merged"\n')
    assert map_classes(["wall-brick", "Cat", "wood"], true, read_map(tmp_path / "map.toml")).index == (0, 0, 2)
    assert map_classes(["wall-brick", "wood", "dog"], true, {"*": "sky"}).index == (0, 2, 2)
    with pytest.raises(TruthError, match="unknown true class 'skye'; did you mean sky"):
        map_classes(["wood"], true, {"wood": "skye"})
    with pytest.raises(TruthError, match="unknown predicted class 'wod'; did you mean wood"):
        map_classes(["wood"], true, {"wod": "sky"})


def test_a_class_without_a_counterpart_is_wrong_on_labelled_pixels(tmp_path: Path) -> None:
    store = annotated(tmp_path, {"x.png": np.array([[0, 1, 1, 3]])})
    truth = truth_of(masks(tmp_path, {"x.png": np.array([[0, 0, 1, 255]])}), ("cat", "dog"))
    scores = score_labels(store, truth, map_classes(("cat", "wolf", "grass", "wall-brick"), truth.classes))
    np.testing.assert_array_equal(scores.counts, [[1, 0, 1], [0, 0, 1], [0, 0, 0]])


def test_the_person_class_kinds_and_groups_are_reported_apart(tmp_path: Path) -> None:
    store = annotated(tmp_path, {"x.png": np.array([[0, 1, 2, 2]])}, ("person", "car", "sky"))
    true = [
        TruthClass("person", ("person",), "thing", "person"),
        TruthClass("car", ("car",), "thing", "vehicle"),
        TruthClass("sky", ("sky",), "stuff"),
    ]
    truth = open_truth(masks(tmp_path, {"x.png": np.array([[0, 0, 2, 2]])}), "raw", true)
    values = score_labels(store, truth, map_classes(store.class_names, true)).to_json()
    assert values["person"] == 0.5
    assert values["kinds"] == {"thing": 0.25, "stuff": 1.0}
    assert values["groups"] == {"person": 0.5, "vehicle": 0.0}


def test_a_perfect_store_whose_classes_come_in_another_order_scores_one(tmp_path: Path, ovlabel: Run) -> None:
    """By name, not by index; a store whose labels are shuffled against its names shows in the confusions."""
    own = ("tree", "sky", "road", "building")
    truth = np.array([[0, 1, 3, 5], [5, 5, 0, 3]])  # CamVid: sky, building, road, tree
    masks(tmp_path, {"x.png": truth})
    index_of = {0: 1, 1: 3, 3: 2, 5: 0}
    right = np.vectorize(index_of.get)(truth)
    annotated(tmp_path, {"x.png": right}, own)
    said = ovlabel("score", tmp_path / "s.zarr", tmp_path / "truth", "--truth", "camvid", "--json")
    assert json.loads(said.out)["miou"] == 1
    for line in ("0  sky ← sky", "1  building ← building", "3  road ← road", "5  tree ← tree"):
        assert line in said.err
    annotated(tmp_path, {"x.png": truth % 4}, own, name="shuffled.zarr")
    said = ovlabel("score", tmp_path / "shuffled.zarr", tmp_path / "truth", "--truth", "camvid", "--confusions", "4")
    assert "mIoU                        0.0 %" in said.out
    assert "confused: sky → tree: 2 pixels, 100.0 % of sky" in said.out


def test_cityscapes_cities_are_matched(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2]])
    names = ("road", "sidewalk", "building")
    cities = {f"{city}/{city}_000000_000019_leftImg8bit.png": (values + shift) % 3 for shift, city in enumerate("ab")}
    store = annotated(tmp_path, cities, names)
    ids = np.array([7, 8, 11])
    layout = {key.replace("_leftImg8bit", "_gtFine_labelIds"): ids[labels] for key, labels in cities.items()}
    truth = open_truth(masks(tmp_path, layout), "cityscapes", [])
    assert score_labels(store, truth, map_classes(names, truth.classes)).to_json()["miou"] == 1


def test_objects_are_counted_by_size(tmp_path: Path) -> None:
    truth = np.zeros((120, 140), int)
    truth[2:10, 2:10] = 1  # 64 pixels, found
    truth[20:30, 2:12] = 1  # 100 pixels, four tenths found
    truth[0:110, 20:120] = 1  # 11,000 pixels, not found
    truth[30:40, 30:40] = 255
    labels = np.where(truth == 1, 2, truth)
    labels[2:10, 2:10] = labels[20:30, 2:6] = 1
    labels[labels == 255] = 1
    store = annotated(tmp_path, {"x.png": labels})
    true = [TruthClass("cat", kind="stuff"), TruthClass("dog", kind="thing"), TruthClass("grass", kind="thing")]
    known = open_truth(masks(tmp_path, {"x.png": truth}), "raw", true)
    sizes = score_labels(store, known, map_classes(NAMES, true)).to_json()["sizes"]
    assert sizes == {
        "small": {"objects": 2, "found": 0.5, "recall": 104 / 164},
        "medium": {"objects": 0, "found": None, "recall": None},
        "large": {"objects": 1, "found": 0.0, "recall": 0.0},
    }


def test_figures_are_drawn(place: Path, ovlabel: Run) -> None:
    said = ovlabel("score", place / "s.zarr", place / "truth", "--figures", place / "figures")
    assert said.code == 0, said.err
    names = {path.name for path in (place / "figures").iterdir()}
    assert names == {
        f"{name}.{ending}" for name in ("confusion", "classes", "reliability") for ending in ("svg", "png")
    }
    drawn = (place / "figures" / "classes.svg").read_bytes()
    assert b"<svg" in drawn
    with Image.open(place / "figures" / "confusion.png") as picture:
        assert min(picture.size) > 300
    ovlabel("score", place / "s.zarr", place / "truth", "--figures", place / "figures")
    assert (place / "figures" / "classes.svg").read_bytes() == drawn
    (place / "file").write_text("")
    assert ovlabel("score", place / "s.zarr", place / "truth", "--figures", place / "file").code == 2


def test_the_command_prints_the_mapping_and_the_figures(place: Path, ovlabel: Run) -> None:
    said = ovlabel(
        "score", place / "s.zarr", place / "truth", "--confusions", "3", "--boundaries", "--csv", place / "c.csv"
    )
    assert said.code == 0, said.err
    for words in ("3  wall-brick ← wall-brick", "5 of 5 images", "mIoU", "pixel accuracy", "boundary F1", "confused: "):
        assert words in said.out
    assert said.out.index("mIoU") < said.out.index("cat ← cat")
    rows = list(csv.DictReader((place / "c.csv").read_text().splitlines()))
    assert [row["class"] for row in rows] == list(NAMES)
    assert 0 < float(rows[0]["iou"]) < 1


def test_json_goes_to_stdout_alone(place: Path, ovlabel: Run) -> None:
    said = ovlabel("score", place / "s.zarr", place / "truth", "--json")
    values = json.loads(said.out)
    assert {"miou", "miou_present", "pixel_accuracy", "mean_accuracy", "fwiou", "classes"} <= values.keys()
    assert "cat ← cat" in said.err


def test_a_gate_has_an_exit_code_of_its_own(place: Path, ovlabel: Run) -> None:
    assert ovlabel("score", place / "s.zarr", place / "truth", "--min-miou", "0.3").code == 0
    said = ovlabel("score", place / "s.zarr", place / "truth", "--min-miou", "0.99")
    assert said.code == 6
    assert "below --min-miou 0.99" in said.err
    assert ovlabel("score", place / "s.zarr", place / "truth", "--min-miou", "30").code == 2


def test_two_stores_are_compared_class_by_class_and_image_by_image(
    place: Path, maps: dict[str, tuple[np.ndarray, np.ndarray]], ovlabel: Run
) -> None:
    worse = {f"{name}.png": np.where(labels == 2, 0, labels) for name, (_, labels) in maps.items()}
    annotated(place, worse, name="other.zarr")
    said = ovlabel("score", place / "s.zarr", place / "truth", "--compare", place / "other.zarr", "--json")
    found = json.loads(said.out)["compare"]
    assert next(iter(found["classes"])) == "grass"
    assert found["classes"]["grass"] > 0.3
    assert len(found["images"]) == 5
    assert "points" in ovlabel("score", place / "s.zarr", place / "truth", "--compare", place / "other.zarr").out


def test_refusals_are_one_line(place: Path, ovlabel: Run) -> None:
    for arguments in (["--truth", "coco"], ["--map", "nowhere.toml"], ["--truth", "cityscapes"]):
        said = ovlabel("score", place / "s.zarr", place / "truth", *arguments)
        assert said.code == 2
        assert said.refusal
    assert ovlabel("score", place / "nowhere.zarr", place / "truth").code == 4
