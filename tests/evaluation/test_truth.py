"""Ground truth in the layouts in which datasets are published."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from ovlabel.errors import TruthError
from ovlabel.evaluation.truth import CONVENTIONS, IGNORED, TruthClass, open_truth
from ovlabel.text.vocabulary import load_vocabulary
from tests.conftest import SHARED

SAMPLES = SHARED / "samples"
OWN = [TruthClass(name, (name,)) for name in ("cat", "dog", "grass")]


def mask(path: Path, values: object, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(values))
    if mode == "P":
        picture = picture.convert("L")
        picture.putpalette([level for i in range(256) for level in (255 - i, i, 0)])
    picture.save(path)
    return path


def bytes_of(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.uint8)


@pytest.mark.parametrize(
    ("convention", "ending", "values", "names"),
    [
        ("raw", "", [0, 2, 255], ["cat", "grass", None]),
        ("coco-stuff", "_labelTrainIds", [0, 80, 170, 255], ["person", "banner", "wood", None]),
        ("coco-stuff-raw", "", [0, 12, 91, 181, 255], ["person", "stopsign", "banner", "wood", None]),
        ("coco-panoptic-ids", "", [1, 184, 200, 0], ["person", "tree-merged", "rug-merged", None]),
        ("voc", "", [0, 1, 20, 255], ["background", "aeroplane", "television monitor", None]),
        ("voc20", "", [0, 1, 20, 255], [None, "aeroplane", "television monitor", None]),
        ("context60", "", [0, 1, 59, 255], ["background", "aeroplane", "wood", None]),
        ("context59", "", [0, 1, 59, 255], [None, "aeroplane", "wood", None]),
        ("context-459", "", [2, 9, 1, 0], ["aeroplane", "bag", None, None]),
        ("ade20k", "", [1, 150, 0], ["wall", "flag", None]),
        ("cityscapes", "_gtFine_labelIds", [7, 33, 0, 9], ["road", "bicycle", None, None]),
        ("cityscapes-train", "_gtFine_labelTrainIds", [0, 18, 255], ["road", "bicycle", None]),
        ("camvid", "", [0, 9, 10, 11], ["sky", "pedestrian", "bicyclist", None]),
        ("coco-object", "_instanceTrainIds", [0, 1, 80], ["background", "person", "toothbrush"]),
    ],
)
def test_ids_become_the_dataset_classes(
    convention: str, ending: str, values: list[int], names: list[str | None], tmp_path: Path
) -> None:
    mask(tmp_path / "a" / f"b{ending}.png", bytes_of(values), "P" if convention == "voc" else None)
    truth = open_truth(tmp_path, convention, OWN)
    assert list(truth.files) == ["a/b"]
    (read,) = truth.read("a/b").tolist()
    assert [None if index == IGNORED else truth.classes[index].name for index in read] == names


def test_every_convention_is_tested_above_or_has_a_test_of_its_own() -> None:
    named = test_ids_become_the_dataset_classes.pytestmark[0].args[1]  # type: ignore[attr-defined]
    assert {case[0] for case in named} | {
        *("coco-panoptic", "coco-instances", "coco-instances-only", "camvid-rgb")
    } == set(CONVENTIONS)


def test_sixteen_bit_masks_know_classes_beyond_255(tmp_path: Path) -> None:
    mask(tmp_path / "a.png", np.array([[255, 299, 65535]], np.uint16))
    truth = open_truth(tmp_path, "raw", [TruthClass(f"class {i}") for i in range(300)])
    assert truth.read("a").tolist() == [[255, 299, IGNORED]]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (bytes_of([0, 3]), ["a.png", "id 3", "1 pixels", "raw"]),
        (np.zeros((2, 2, 3), np.uint8), ["a.png", "RGB", "one channel"]),
    ],
)
def test_what_a_convention_does_not_have_is_refused(values: np.ndarray, words: list[str], tmp_path: Path) -> None:
    mask(tmp_path / "a.png", values)
    with pytest.raises(TruthError) as refused:
        open_truth(tmp_path, "raw", OWN).read("a")
    assert all(word in str(refused.value) for word in words)


def test_a_broken_mask_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(TruthError, match=r"a\.png can't be read"):
        open_truth(tmp_path, "raw", OWN).read("a")


def test_places_without_ground_truth_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TruthError, match="no ground truth at"):
        open_truth(tmp_path / "nowhere", "raw", OWN)
    with pytest.raises(TruthError, match=r"no masks \(\*\.png, "):
        open_truth(tmp_path, "raw", OWN)
    with pytest.raises(TruthError, match=r"unknown .*'coco'.*coco-stuff"):
        open_truth(tmp_path, "coco", OWN)
    mask(tmp_path / "a_gtFine_color.png", bytes_of([1]))
    with pytest.raises(TruthError, match="_gtFine_labelIds"):
        open_truth(tmp_path, "cityscapes", OWN)
    with pytest.raises(TruthError, match="one panoptic JSON"):
        open_truth(tmp_path, "coco-panoptic", OWN)


def test_two_masks_for_one_image_are_refused(tmp_path: Path) -> None:
    mask(tmp_path / "a.png", bytes_of([1]))
    mask(tmp_path / "a.tif", bytes_of([1]))
    with pytest.raises(TruthError, match=r"two masks for one image: .*a\.png and .*a\.tif"):
        open_truth(tmp_path, "raw", OWN)


def test_pascal_context_is_read_as_published(tmp_path: Path) -> None:
    savemat(tmp_path / "2008_000002.mat", {"LabelMap": np.array([[2, 9, 1], [459, 458, 2]], np.uint16)})
    truth = open_truth(tmp_path, "context-459", OWN)
    assert [truth.classes[i].name if i != IGNORED else None for i in truth.read("2008_000002").ravel()] == [
        *("aeroplane", "bag", None),
        *(None, "wood", "aeroplane"),
    ]
    savemat(tmp_path / "2008_000002.mat", {"other": np.zeros((2, 2))})
    with pytest.raises(TruthError, match="no LabelMap"):
        truth.read("2008_000002")
    (tmp_path / "2008_000002.mat").write_bytes(b"MATLAB 5.0 MAT-file, cut off")
    with pytest.raises(TruthError, match="can't be read"):
        truth.read("2008_000002")


def test_camvid_colours_become_the_eleven_classes(tmp_path: Path) -> None:
    colours = [[128, 128, 128], [192, 0, 128], [0, 64, 64], [192, 128, 192], [192, 0, 192], [0, 0, 0]]
    mask(tmp_path / "0001TP_006690_L.png", np.array([colours], np.uint8))
    truth = open_truth(tmp_path, "camvid-rgb", OWN)
    (read,) = truth.read("0001TP_006690").tolist()
    names = [None if index == IGNORED else truth.classes[index].name for index in read]
    assert names == ["sky", "building", "sign symbol", "car", "bicyclist", None]
    mask(tmp_path / "0001TP_006690_L.png", np.array([[[1, 2, 3]]], np.uint8))
    with pytest.raises(TruthError, match="#010203 is none of CamVid's 32"):
        truth.read("0001TP_006690")
    mask(tmp_path / "0001TP_006690_L.png", bytes_of([3]))
    with pytest.raises(TruthError, match="--truth camvid"):
        truth.read("0001TP_006690")


INSTANCES = {
    "images": [{"id": 7, "file_name": "a/x.jpg", "height": 4, "width": 6}],
    "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}],
    "annotations": [
        {"image_id": 7, "category_id": 1, "area": 4, "iscrowd": 0, "segmentation": [[1, 1, 3, 1, 3, 3, 1, 3]]},
        {
            "image_id": 7,
            "category_id": 3,
            "area": 18,
            "iscrowd": 1,
            "segmentation": {"size": [4, 6], "counts": [0, 18, 6]},
        },
    ],
}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools on numpy 2
def test_instances_become_classes_the_smaller_on_top(tmp_path: Path) -> None:
    (tmp_path / "instances_val2017.json").write_text(json.dumps(INSTANCES))
    truth = open_truth(tmp_path, "coco-instances", OWN)
    assert [c.name for c in truth.classes] == ["background", "person", "car"]
    assert {"sky", "wall"} <= set(truth.classes[0].covers)
    expected = np.zeros((4, 6), int)
    expected.T.flat[:18] = 2
    expected[1:3, 1:3] = 1
    np.testing.assert_array_equal(truth.read("a/x"), expected)
    only = open_truth(tmp_path / "instances_val2017.json", "coco-instances-only", OWN)
    assert [(c.name, c.group) for c in only.classes] == [("person", "person"), ("car", "vehicle")]
    np.testing.assert_array_equal(only.read("a/x"), np.where(expected, expected - 1, IGNORED))


def test_instances_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "i.json"
    for annotation in ({"category_id": 9}, {"image_id": 8}, {"area": "wide"}):
        path.write_text(json.dumps(INSTANCES | {"annotations": [{**INSTANCES["annotations"][0], **annotation}]}))
        with pytest.raises(TruthError, match=r"i\.json is no whole instances JSON"):
            open_truth(path, "coco-instances", OWN)
    for shape in ([[1, 2]], {"size": [4, 6], "counts": [0, 18]}, {"size": [4, 6]}):
        odd = INSTANCES["annotations"][0] | {"id": 5, "segmentation": shape}
        path.write_text(json.dumps(INSTANCES | {"annotations": [odd]}))
        with pytest.raises(TruthError, match="annotation 5: "):
            open_truth(path, "coco-instances", OWN).read("a/x")
    path.write_text(json.dumps(INSTANCES | {"images": INSTANCES["images"] * 2}))
    assert open_truth(path, "coco-instances", OWN).files
    path.write_text(json.dumps(INSTANCES | {"images": [*INSTANCES["images"], INSTANCES["images"][0] | {"id": 8}]}))
    with pytest.raises(TruthError, match="names an image twice"):
        open_truth(path, "coco-instances", OWN)
    (tmp_path / "no").mkdir()
    with pytest.raises(TruthError, match="one instances JSON"):
        open_truth(tmp_path / "no", "coco-instances", OWN)


def panoptic(folder: Path, colours: object, segments: list[dict[str, int]]) -> Path:
    mask(folder / "panoptic" / "7.png", np.asarray(colours, np.uint8))
    categories = [{"id": 1, "name": "person", "isthing": 1}, {"id": 200, "name": "rug-merged", "isthing": 0}]
    table = {"categories": categories, "annotations": [{"file_name": "7.png", "segments_info": segments}]}
    (folder / "panoptic.json").write_text(json.dumps(table))
    return folder


def test_panoptic_segments_become_classes(tmp_path: Path) -> None:
    segments = [{"id": 3 + 256 * 2, "category_id": 200}, {"id": 65536, "category_id": 1}]
    panoptic(tmp_path, [[[3, 2, 0], [0, 0, 1], [0, 0, 0]]], segments)
    truth = open_truth(tmp_path / "panoptic.json", "coco-panoptic", OWN)
    assert truth.read("7").tolist() == [[1, 0, IGNORED]]
    assert [c.name for c in truth.classes] == ["person", "rug-merged"]
    assert truth.classes[1].covers[0] == "rug-merged" or "carpet" in truth.classes[1].covers


def test_a_segment_that_the_json_does_not_know_is_refused(tmp_path: Path) -> None:
    panoptic(tmp_path, [[[9, 0, 0]]], [{"id": 8, "category_id": 1}])
    with pytest.raises(TruthError, match=r"segment 9 is not in panoptic\.json"):
        open_truth(tmp_path, "coco-panoptic", OWN).read("7")


def test_panoptic_classes_cover_all_of_coco_stuff_but_twelve() -> None:
    covered = [name for entry in load_vocabulary("coco-panoptic").classes for name in entry.asked]
    stuff = [entry.name for entry in load_vocabulary("coco-stuff").classes]
    assert len(covered) == len(set(covered))
    assert len(set(stuff) - set(covered)) == 12
    assert not set(covered) - set(stuff)


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the sample photographs are not here (../shared/samples)")
class TestRealSamples:
    def test_panoptic_areas_are_those_of_its_json(self) -> None:
        folder = SAMPLES / "panopticapi_sample" / "sample_data"
        truth = open_truth(folder / "panoptic_examples.json", "coco-panoptic", [])
        table = json.loads((folder / "panoptic_examples.json").read_text())
        names = {c["id"]: c["name"] for c in table["categories"]}
        for entry in table["annotations"]:
            read = truth.read(Path(entry["file_name"]).stem)
            areas = dict.fromkeys(names.values(), 0)
            for segment in entry["segments_info"]:
                areas[names[segment["category_id"]]] += segment["area"]
            assert {c.name: int((read == i).sum()) for i, c in enumerate(truth.classes)} == areas

    @pytest.mark.parametrize(
        ("folder", "convention", "count"),
        [
            ("coco/masks", "coco-panoptic-ids", 50),
            ("ade20k_sample/sampleData/annotations", "ade20k", 3),
            ("camvid/masks", "camvid", 12),
        ],
    )
    def test_samples_are_read(self, folder: str, convention: str, count: int) -> None:
        truth = open_truth(SAMPLES / folder, convention, [])
        assert len(truth.files) == count
        for name in truth.files:
            read = truth.read(name)
            assert (read != IGNORED).any()
            assert read[read != IGNORED].max() < len(truth.classes)
