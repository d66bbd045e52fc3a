"""Ground truth from untrusted sources is refused in one clear line, without blocking, in little memory."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovlabel.errors import TruthError
from ovlabel.evaluation.truth import TruthClass, open_truth
from tests.hostile import (
    INSTANCES,
    MIB,
    PANOPTIC,
    refused,
    written,
)

pytestmark = pytest.mark.usefixtures("no_hang")


def with_part(table: dict[str, Any], part: str, **more: Any) -> dict[str, Any]:
    return {**table, part: [{**table[part][0], **more}]}


@pytest.mark.parametrize(
    "shape",
    [
        [[0, 0, 1e9, 0, 1e9, 1e9]],
        [[0, 0, 1e999, 0, 1, 1]],
        [[0, 0, float("nan"), 0, 1, 1]],
        [[0, 0, 10**400, 0, 1, 1]],
        [[0, 0, 1e6, 1e6] * 1000],
        [[0, 0, 1]],
        [{"size": [4, 6], "counts": [24]}],
        [["a", "b"]],
        {"size": [4, 6], "counts": [10**6, 24 - 10**6]},
        {"size": [4, 6], "counts": [1e6, 24 - 1e6]},
        {"size": [4, 6], "counts": [True, 23]},
        {"size": [10**5, 10**5], "counts": [10**10]},
        {"size": [10**5, 10**5], "counts": "1"},
        {"size": [4, 6], "counts": "o" * 100},
        {"size": [4, 6], "counts": "P" * 100},
        {"size": [4, 6], "counts": "`" * 1000},
        {"size": [4, 6], "counts": "\u20ac"},
        {"size": [4, 6], "counts": {"a": 1}},
        {"size": 4, "counts": "1"},
        {"counts": None},
        "text",
        5,
    ],
    ids=lambda shape: type(shape).__name__,
)
def test_an_outline_that_would_write_beyond_memory_is_refused(tmp_path: Path, shape: Any) -> None:
    path = written(tmp_path / "i.json", json.dumps(with_part(INSTANCES, "annotations", segmentation=shape)))
    assert "i.json" in refused(TruthError, lambda: open_truth(path, "coco-instances", []).read("x"))


def test_runs_as_coco_writes_them_are_read(tmp_path: Path) -> None:
    from pycocotools import mask as coco_mask

    rng = np.random.default_rng(0)
    for _ in range(50):
        height, width = rng.integers(1, 60, 2).tolist()
        drawn = rng.random((height, width)) > rng.random()
        runs = coco_mask.encode(np.asfortranarray(drawn.astype(np.uint8)))["counts"].decode()
        shape = {"size": [height, width], "counts": runs}
        table = with_part(INSTANCES, "images", height=height, width=width)
        path = written(tmp_path / "i.json", json.dumps(with_part(table, "annotations", segmentation=shape)))
        np.testing.assert_array_equal(open_truth(path, "coco-instances", []).read("x"), drawn)


ODD_PARTS: list[tuple[str, dict[str, Any]]] = [
    ("categories", {"id": 1e999}),
    ("categories", {"id": None}),
    ("categories", {"name": "a\nb"}),
    ("categories", {"name": "\ud800"}),
    ("categories", {"name": "n" * 1000}),
    ("categories", {"name": {"a": 1}}),
    ("annotations", {"category_id": 1e999, "segments_info": [{"id": 1, "category_id": 9}]}),
    ("annotations", {"image_id": [], "segments_info": 5}),
    ("annotations", {"area": "wide", "segments_info": [{}]}),
    ("annotations", {"image_id": {}, "file_name": 5}),
    ("images", {"file_name": 5}),
    ("images", {"file_name": ""}),
    ("images", {"height": 10**9}),
    ("images", {"height": -4}),
    ("images", {"height": 1e999}),
    ("images", {"height": None}),
]


@pytest.mark.parametrize(
    ("form", "part", "more"),
    [("instances", *odd) for odd in ODD_PARTS] + [("panoptic", *odd) for odd in ODD_PARTS if odd[0] != "images"],
)
def test_a_ground_truth_that_makes_no_sense_is_refused(
    tmp_path: Path, form: str, part: str, more: dict[str, Any]
) -> None:
    table = INSTANCES if form == "instances" else PANOPTIC
    from PIL import Image

    Image.new("RGB", (2, 2), (3, 0, 0)).save(tmp_path / "7.png")
    path = written(tmp_path / "g.json", json.dumps(with_part(table, part, **more)))

    def read_it() -> None:
        truth = open_truth(path, f"coco-{form}", [])
        for name in truth.files:
            truth.read(name)

    refused(TruthError, read_it)


@pytest.mark.parametrize("form", ["instances", "panoptic"])
def test_more_categories_than_labels_hold_are_refused(tmp_path: Path, form: str) -> None:
    table = {**(INSTANCES if form == "instances" else PANOPTIC)}
    table["categories"] = [{"id": index, "name": str(index)} for index in range(70_000)]
    (tmp_path / "7.png").touch()
    path = written(tmp_path / "g.json", json.dumps(table))
    assert "70000 categories" in refused(TruthError, lambda: open_truth(path, f"coco-{form}", []), 300 * MIB)


def test_masks_that_are_no_pictures_are_refused(tmp_path: Path) -> None:
    sentinel = tmp_path / "executed"
    eps = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%touch {sentinel}) (w) file\n%%EOF\n"
    bomb = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + struct.pack(">2I5B", 10**5, 10**5, 8, 0, 0, 0, 0)
    for content in (eps.encode(), bomb + b"\0" * 99, b"", b"GIF89a", b"MATLAB 5.0", bytes(500)):
        for name in ("a.png", "a.tif", "a.gif", "a.mat"):
            path = written(tmp_path / name, content)
            truth = open_truth(path, "raw", [TruthClass("cat")])
            assert name in refused(TruthError, lambda: truth.read("a"))  # noqa: B023
            path.unlink()
    assert not sentinel.exists()
    for name in ("a.png", "a.mat"):
        os.mkfifo(tmp_path / name)
        truth = open_truth(tmp_path / name, "raw", [TruthClass("cat")])
        assert "not a regular file" in refused(TruthError, lambda: truth.read("a"))  # noqa: B023


def test_a_matlab_file_that_claims_much_is_refused(tmp_path: Path) -> None:
    from scipy.io import savemat

    path = tmp_path / "a.mat"
    for table in (np.full((2, 2), np.nan), np.array([["a"]], object), np.ones((2, 2), complex), np.full((2, 2), -5)):
        savemat(path, {"LabelMap": table}, do_compression=True)
        refused(TruthError, lambda: open_truth(path, "context-459", []).read("a"))
    savemat(path, {"LabelMap": np.ones((2, 3), np.uint16)})
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<2i", 2, 3))
    struct.pack_into("<2i", data, at, 10**5, 10**5)
    path.write_bytes(data)
    refused(TruthError, lambda: open_truth(path, "context-459", []).read("a"))
