"""COCO's JSONs as people make, convert and cut them: read as what they mean, or refused by the entry's name."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovlabel.errors import TruthError
from ovlabel.evaluation.matching import match
from ovlabel.evaluation.truth import IGNORED, Truth, open_truth

# pycocotools on numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Change = Callable[[dict[str, Any]], object]
SQUARE = [[1, 1, 3, 1, 3, 3, 1, 3]]
INSTANCES: dict[str, Any] = {
    "images": [
        {"id": 1, "file_name": "a.jpg", "height": 4, "width": 6},
        {"id": 2, "file_name": "b.jpg", "height": 4, "width": 6},
    ],
    "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}],
    "annotations": [
        {"id": 11, "image_id": 1, "category_id": 1, "area": 4, "segmentation": SQUARE},
        {"id": 12, "image_id": 2, "category_id": 3, "segmentation": {"size": [4, 6], "counts": [0, 18, 6]}},
    ],
}


def instances(folder: Path, change: Change | None = None, name: str = "coco-instances") -> Truth:
    table = deepcopy(INSTANCES)
    if change:
        change(table)
    (folder / "i.json").write_text(json.dumps(table))
    return open_truth(folder / "i.json", name, [])


def put(part: str, field: str, value: Any, place: int = 0) -> Change:
    return lambda table: table[part][place].__setitem__(field, value)


def out(part: str, field: str) -> Change:
    return lambda table: table[part][0].pop(field)


def both(part: str, field: str, value: Any) -> Change:
    return lambda table: [entry.__setitem__(field, value) for entry in table[part]]


def held(truth: Truth) -> dict[str, set[str]]:
    """The names of the classes that each mask holds."""
    return {name: {truth.classes[index].name for index in np.unique(truth.read(name))} for name in truth.files}


PLAIN = {"a": {"background", "person"}, "b": {"background", "car"}}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_every_encoding_of_unicode_is_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "i.json").write_bytes(json.dumps(INSTANCES).encode(encoding))
    assert held(open_truth(tmp_path, "coco-instances", [])) == PLAIN


@pytest.mark.parametrize(
    "change",
    [
        put("annotations", "area", None),
        put("annotations", "area", 0),
        put("annotations", "area", float("nan")),
        out("annotations", "area"),
        put("annotations", "iscrowd", None),
        put("annotations", "category_id", "1"),
        put("images", "id", "1"),
        put("images", "id", 1.0),
        lambda t: (put("images", "id", 10**30)(t), put("annotations", "image_id", 10**30)(t)),
        lambda t: (put("images", "id", "f3-9a")(t), put("annotations", "image_id", "f3-9a")(t)),
        put("annotations", "segmentation", [[[1, 1], [3, 1], [3, 3], [1, 3]]]),
        put("annotations", "segmentation", [[0, 0, 1, 1], *SQUARE]),
        put("annotations", "segmentation", [[-5, -5, 3, -5, 3, 3, -5, 3]]),
        lambda t: t["categories"].append({"id": 1, "name": "person"}),
        lambda t: t["images"].append(t["images"][0]),
    ],
)
def test_details_that_change_nothing_are_read(tmp_path: Path, change: Change) -> None:
    assert held(instances(tmp_path, change)) == PLAIN


@pytest.mark.parametrize(
    "written",
    ["images\\a.jpg", "C:\\data\\a.jpg", "/home/me/a.jpg", "./a.jpg", "../a.jpg", "http://x.org/val/a.jpg?s=1", "a"],
)
def test_paths_of_other_systems_find_their_images(tmp_path: Path, written: str) -> None:
    truth = instances(tmp_path, put("images", "file_name", written))
    assert list(match(["a.jpg", "b.jpg"], truth)) == ["a.jpg", "b.jpg"]


def test_an_address_stands_for_a_file_name_that_is_not_there(tmp_path: Path) -> None:
    def change(table: dict[str, Any]) -> None:
        del table["images"][0]["file_name"]
        table["images"][0]["coco_url"] = "http://images.example.org/val2017/a.jpg"

    assert set(instances(tmp_path, change).files) == {"val2017/a", "b"}


def test_areas_that_are_missing_are_measured_so_that_the_smaller_lies_on_top(tmp_path: Path) -> None:
    def change(table: dict[str, Any]) -> None:
        large = {"id": 13, "image_id": 1, "category_id": 3, "area": None, "segmentation": [[0, 0, 6, 0, 6, 4, 0, 4]]}
        table["annotations"] = [table["annotations"][0] | {"area": None}, large]

    truth = instances(tmp_path, change)
    assert held(truth)["a"] == {"person", "car"}


def test_annotations_of_images_that_are_not_listed_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert held(instances(tmp_path, put("annotations", "image_id", 99, 1)))["b"] == {"background"}
    assert "1 of 2 annotations are of images that the JSON does not list" in caplog.text
    assert "annotation 12 is of the image 99" in caplog.text
    with pytest.raises(TruthError, match="none of its annotations is of an image that it lists"):
        instances(tmp_path, both("annotations", "image_id", 99))


EMPTY: list[Any] = [None, [], [[]], {}, "", {"size": [4, 6], "counts": []}, [[1, 1, 3, 3]], [[1, 1, 3, 1, 3]]]


@pytest.mark.parametrize("shape", EMPTY)
def test_an_annotation_without_a_mask_is_refused_by_name(tmp_path: Path, shape: Any) -> None:
    with pytest.raises(TruthError, match="annotation 11: it has no mask, as 1 of 2 have none"):
        instances(tmp_path, put("annotations", "segmentation", shape))


def test_an_annotation_without_a_mask_does_not_count_where_only_instances_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    truth = instances(tmp_path, out("annotations", "segmentation"), "coco-instances-only")
    assert (truth.read("a") == IGNORED).all()
    assert "annotation 11: it has no mask" in caplog.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (both("annotations", "segmentation", [[0.1, 0.1, 0.3, 0.1, 0.3, 0.3]]), "within 0 … 1"),
        (lambda t: [a.pop("segmentation") for a in t["annotations"]], "2 annotations without segmentation"),
        (put("annotations", "category_id", 9), "annotation 11 is of the category 9"),
        (out("annotations", "category_id"), "annotation 11 has no category_id"),
        (put("annotations", "area", "wide"), "annotation 11: area is 'wide', which is no number"),
        (put("annotations", "area", [4]), r"annotation 11: area is \[4\]"),
        (put("annotations", "area", 10**400), "annotation 11: area is an integer of"),
        (put("annotations", "image_id", None), "annotation 11: image_id: None is no id"),
        (put("annotations", "category_id", 1.5), "annotation 11: category_id: 1.5 is no id"),
        (
            put("annotations", "segmentation", [[0, 0, 0.5, 0, 0.5, 0.5, 0, 0.5]]),
            "annotation 11: .*within 0 … 1, as 1 of 2",
        ),
        (put("images", "height", "tall"), "image 1: height is 'tall'"),
        (put("images", "width", -3), "image 1: width is -3"),
        (put("categories", "name", None), "category 1: name: None is no category's name"),
        (put("images", "width", None), "image 1: width is None"),
        (put("images", "file_name", 7), "image 1: file_name: 7 is no file's name"),
        (lambda t: t.__setitem__("images", None), "it: images is None, where a list is wanted"),
        (out("images", "file_name"), "image 1 has no file_name"),
        (out("images", "height"), "image 1 has no height"),
        (put("images", "height", 0), "image 1 is 0 × 6"),
        (put("images", "id", True), "True is no id"),
        (put("images", "id", 2), "two images have the id 2: 'a.jpg' and 'b.jpg'"),
        (put("images", "file_name", "b.png"), r"an image twice, but for the suffix: 'b.jpg' \(ids 1 and 2\)"),
        (put("categories", "id", 3), "two categories have the id 3"),
        (put("categories", "name", " "), "is no category's name"),
        (lambda t: t.pop("images"), "it has no images"),
        (lambda t: t.pop("categories"), "has no categories"),
        (lambda t: t["annotations"].clear(), "has no annotations"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(tmp_path: Path, change: Change, words: str) -> None:
    with pytest.raises(TruthError, match=words):
        instances(tmp_path, change)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ([[100, 100, 120, 100, 120, 120]], "outside the image, which is 4 × 6"),
        ([[-9, -9, -3, -9, -3, -3]], "outside the image"),
        ([1, 1, 3, 1, 3, 3], "write its polygons as"),
        ("PPYo0", "neither polygons nor run lengths"),
        ([[-9, -9, 0, -9, 0, 9, -9, 9]], "outside the image"),
        ({"counts": [18, 0, 6]}, r"its runs hold no pixel; it has no size, so the image's \[4, 6\] is taken"),
        ({"counts": [18, 0, 6], "size": [4, 6]}, "segmentation: its runs hold no pixel"),
        ({"counts": [18, 7]}, "they add up to 25 pixels of 24"),
        ({"counts": [18, -1, 7]}, "-1 is no length"),
        ({"counts": 24}, "counts is 24, where a list or a text is wanted"),
        ({"counts": [18, 6], "size": 24}, "its runs are for 24 pixels"),
        ([[float("nan"), 1, 3, 1, 3, 3]], "segmentation: an outline holds nan, which is no coordinate"),
        ([[1, 1, float("inf"), 1, 3, 3]], "an outline holds inf"),
        ([[1, 1, "x", 1, 3, 3]], "an outline holds 'x'"),
        ([[1, 1, 3, 1, 3, 3, 1]], "an outline of 7 numbers; write x, y"),
        ([[[1, 1, 0], [3, 1, 0], [3, 3, 0], [1, 3, 0]]], "an outline of 12 numbers; write x, y"),
        ([[1, 1, 9e6, 1, 3, 3]], "an outline is longer than any in a photograph"),
    ],
)
def test_a_mask_that_misses_its_image_is_refused_by_name(tmp_path: Path, shape: Any, words: str) -> None:
    truth = instances(tmp_path, lambda t: t["annotations"].__setitem__(0, SQUARE_OF | {"segmentation": shape}))
    with pytest.raises(TruthError, match=f"annotation 11: .*{words}"):
        truth.read("a")


def test_what_lies_outside_the_image_is_cut_off(tmp_path: Path) -> None:
    shape = [[-50, -50, 500, -50, 500, 2, -50, 2]]
    truth = instances(tmp_path, put("annotations", "segmentation", shape))
    np.testing.assert_array_equal(truth.read("a"), [[1] * 6, [1] * 6, [0] * 6, [0] * 6])


def test_an_object_that_says_that_it_is_smaller_than_a_pixel_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = {"area": 0.25, "segmentation": [[0, 0, 0.5, 0, 0.5, 0.5, 0, 0.5]]}
    instances(tmp_path, lambda table: table["annotations"][0].update(small)).read("a")
    assert "annotation 11 lies within 0 … 1, as 1 of 2 do" in caplog.text


SQUARE_OF = {"id": 11, "image_id": 1, "category_id": 1}


def test_categories_of_one_name_are_one_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    truth = instances(tmp_path, put("categories", "name", "car"))
    assert [c.name for c in truth.classes] == ["background", "car"]
    assert held(truth) == {"a": {"background", "car"}, "b": {"background", "car"}}
    assert "2 categories are called 'car' (ids 1, 3); they are one class" in caplog.text


def test_a_category_of_the_background_is_one_class_with_it(tmp_path: Path) -> None:
    truth = instances(tmp_path, put("categories", "name", "Background"))
    assert [c.name for c in truth.classes] == ["background", "car"]
    assert held(truth) == {"a": {"background"}, "b": {"background", "car"}}
    only = instances(tmp_path, put("categories", "name", "background"), "coco-instances-only")
    assert [c.name for c in only.classes] == ["background", "car"]


def test_hidden_files_and_upper_case_suffixes_beside_the_json(tmp_path: Path) -> None:
    instances(tmp_path)
    (tmp_path / "i.json").rename(tmp_path / "i.JSON")
    (tmp_path / "._i.json").write_bytes(b"\0\5\x16\7")
    assert set(open_truth(tmp_path, "coco-instances", []).files) == {"a", "b"}


PANOPTIC: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
    "categories": [{"id": 1, "name": "person", "isthing": 1}, {"id": 200, "name": "rug-merged", "isthing": 0}],
    "annotations": [
        {
            "image_id": 1,
            "file_name": "a.png",
            "segments_info": [{"id": 3, "category_id": 1}, {"id": 515, "category_id": 200}],
        },
        {"image_id": 2, "file_name": "b.png", "segments_info": [{"id": 3, "category_id": 1}]},
    ],
}
A, B = [[[3, 0, 0], [3, 2, 0], [0, 0, 0]]], [[[3, 0, 0]]]


def panoptic(folder: Path, change: Change | None = None) -> Truth:
    table = deepcopy(PANOPTIC)
    for name, values in (("a", A), ("b", B)):
        Image.fromarray(np.array(values, np.uint8)).save(folder / f"{name}.png")
    if change:
        change(table)
    (folder / "p.json").write_text(json.dumps(table))
    return open_truth(folder / "p.json", "coco-panoptic", [])


@pytest.mark.parametrize(
    "change",
    [
        None,
        put("annotations", "file_name", ".\\a.png"),
        lambda t: t.pop("images"),
        put("annotations", "image_id", 9),
        put("categories", "supercategory", None),
        put("annotations", "segments_info", [{"id": "3", "category_id": "1"}, {"id": 515.0, "category_id": 200}]),
    ],
)
def test_panoptic_details_that_change_nothing_are_read(tmp_path: Path, change: Change | None) -> None:
    truth = panoptic(tmp_path, change)
    assert {name: truth.read(name).tolist() for name in truth.files} == {"a": [[0, 1, IGNORED]], "b": [[0]]}


def test_a_panoptic_mask_belongs_to_the_image_that_its_id_names(tmp_path: Path) -> None:
    def change(table: dict[str, Any]) -> None:
        (tmp_path / "a.png").rename(tmp_path / "0007_panoptic.png")
        table["annotations"][0]["file_name"] = "0007_panoptic.png"

    assert set(panoptic(tmp_path, change).files) == {"a", "b"}


def test_panoptic_pngs_that_are_missing_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert set(panoptic(tmp_path, put("annotations", "file_name", "z" * 5000)).files) == {"b"}
    assert "1 of 2 PNGs that p.json names are not there" in caplog.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("annotations", "image_id", 2), "two annotations are of the image 'b'"),
        (put("annotations", "segments_info", [{"id": 3, "category_id": 9}]), "segment 3 is of the category 9"),
        (put("annotations", "segments_info", [{"id": 3, "category_id": i} for i in (1, 200)]), "of two categories"),
        (put("annotations", "segments_info", [{"id": 3, "category_id": 1}]), "segment 515 is not in p.json"),
        (
            put("annotations", "segments_info", [{"id": i, "category_id": 1} for i in (3, 515, 9)]),
            "no pixel of segment 9",
        ),
        (both("annotations", "file_name", "z.png"), "none of the PNGs"),
        (put("annotations", "segments_info", None), "annotation of 'a.png': segments_info is None, where a list"),
        (put("annotations", "segments_info", [None]), "annotation of 'a.png': segment is None"),
        (put("annotations", "segments_info", [{"id": "x", "category_id": 1}]), "id of a segment is 'x'"),
        (put("annotations", "image_id", None), "image_id: None is no id"),
        (put("annotations", "file_name", ["x"]), "annotation: file_name: .* is no file's name"),
        (put("images", "file_name", "b.png"), r"an image twice, but for the suffix: 'b.jpg' \(ids 1 and 2\)"),
        (lambda t: t["images"].append({"id": 9, "file_name": "a.jpg"}), r"an image twice.*\(ids 1 and 9\)"),
    ],
)
def test_panoptic_segments_that_make_no_sense_are_refused(tmp_path: Path, change: Change, words: str) -> None:
    with pytest.raises(TruthError, match=words):
        panoptic(tmp_path, change).read("a")


def test_a_grey_panoptic_png_is_refused(tmp_path: Path) -> None:
    truth = panoptic(tmp_path)
    Image.new("L", (3, 1), 3).save(tmp_path / "a.png")
    with pytest.raises(TruthError, match="it is L, where the colours of segments are wanted"):
        truth.read("a")
