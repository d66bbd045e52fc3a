"""`ovlabel score` and its neighbours on ground truth and names that people have, as they type it."""

from __future__ import annotations

import csv
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovlabel.cli.score_lines import score_lines
from ovlabel.evaluation.figures import draw, largest
from ovlabel.evaluation.metrics import areas, confusion
from ovlabel.evaluation.scores import Scores
from ovlabel.evaluation.truth import IGNORED, TruthClass
from ovlabel.run.listing import list_named
from ovlabel.store.example import write_example
from tests.cli.test_cli import Run, ovlabel
from tests.evaluation.test_scores import annotated, masks

__all__ = ["ovlabel"]
COMPOSED, PARTS = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_example(tmp_path)


def scored(*names: str, group: str = "") -> Scores:
    """Scores of a diagonal: every class is right."""
    labels = np.arange(len(names))[None]
    counts = confusion(labels, labels, len(names), IGNORED)
    classes = tuple(TruthClass(name, group=group) for name in names)
    sizes, certainty = np.zeros((3, 4), np.int64), np.ones((256, 2), np.int64)
    return Scores(classes, counts, ("a.png",), areas(counts)[None], certainty, 1, sizes=sizes)


@pytest.mark.parametrize(
    "names",
    [
        (r"$\frac{a$", "b"),
        ("bill $10-$20", "$a_{b", r"100 % \alpha", "a^b $x$", "#&~{}"),
        ("W" * 200, "i"),
        ("café", "crème brûlée"),
        ("one",),
    ],
    ids=lambda names: names[0][:12],
)
def test_figures_are_drawn_of_any_name(tmp_path: Path, names: tuple[str, ...]) -> None:
    for path in draw(scored(*names), tmp_path):
        assert path.stat().st_size > 1000


def test_a_picture_shows_the_classes_of_most_pixels() -> None:
    kept = largest(scored(*(f"class {index}" for index in range(450))))
    assert kept.tolist() == list(range(400))


def test_dollars_are_written_as_they_are(tmp_path: Path) -> None:
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none"}):
        draw(scored("bill $10-$20", "x"), tmp_path)
    assert "bill $10-$20" in (tmp_path / "classes.svg").read_text(encoding="utf-8")


def test_a_title_and_its_figure_are_apart() -> None:
    scores = scored("cat", group="background scenery and more")
    assert "mIoU of group background scenery and more 100.0 %" in score_lines(scores.to_json(), scores, 0)


def test_the_figures_come_before_the_classes(folder: Path, ovlabel: Run) -> None:
    lines = ovlabel("score", folder / "images.ovlabel.zarr", folder / "truth").out.splitlines()
    assert lines[0].startswith("2 of 2 images")
    assert lines[1].startswith("mIoU ")
    assert lines[-1].endswith("grass ← grass")


def test_classes_that_are_nearly_equal_are_scored_by_their_ids(tmp_path: Path, ovlabel: Run) -> None:
    names = ("T-shirt", "tshirt", "Grass", "grass", "sky")
    values = np.array([[0, 1, 2], [3, 4, 0]])
    annotated(tmp_path, {"x.png": values}, names)
    said = ovlabel("score", tmp_path / "s.zarr", masks(tmp_path, {"x.png": values}), "--json")
    assert json.loads(said.out)["miou"] == 1


def test_no_name_is_a_formula_in_a_table(tmp_path: Path, ovlabel: Run) -> None:
    values = np.array([[0, 1, 2, 3]])
    annotated(tmp_path, {"x.png": values}, ("=1+1", "@SUM(A1)", "-x", "cat"))
    ovlabel("score", tmp_path / "s.zarr", masks(tmp_path, {"x.png": values}), "--csv", tmp_path / "c.csv")
    rows = list(csv.DictReader((tmp_path / "c.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["class"] for row in rows] == ["'=1+1", "'@SUM(A1)", "'-x", "cat"]


@pytest.mark.parametrize("arguments", [[], ["--min-miou", "0.5"], ["--figures", "f"], ["--json"]])
def test_ground_truth_of_which_nothing_counts_is_refused(folder: Path, ovlabel: Run, arguments: list[str]) -> None:
    for path in (folder / "truth").iterdir():
        Image.new("L", (2, 2), 255).save(path)
    said = ovlabel("score", folder / "images.ovlabel.zarr", folder / "truth", *arguments)
    assert said.code == 2
    assert "no pixel of the 2 masks counts" in said.refusal


def test_an_image_of_which_nothing_counts_is_compared_by_none(folder: Path, ovlabel: Run) -> None:
    Image.new("L", (2, 2), 255).save(folder / "truth" / "a.png")
    store = folder / "images.ovlabel.zarr"
    said = ovlabel("score", store, folder / "truth", "--compare", store, "--json")
    assert list(json.loads(said.out, parse_constant=pytest.fail)["compare"]["images"]) == ["b.png"]


def test_masks_with_an_ending_are_scored(folder: Path, ovlabel: Run) -> None:
    for name in ("a", "b"):
        (folder / "truth" / f"{name}.png").rename(folder / "truth" / f"{name}_mask.png")
        Image.new("RGB", (2, 2)).save(folder / "truth" / f"{name}.png")
    arguments = ["score", folder / "images.ovlabel.zarr", folder / "truth", "--mask-ending", "_mask"]
    assert "2 of 2 images" in ovlabel(*arguments).out
    said = ovlabel(*arguments, "--truth", "coco-instances")
    assert said.code == 2
    assert "--mask-ending is for folders of masks" in said.refusal


def test_names_with_accents_are_found_in_either_form(tmp_path: Path, ovlabel: Run) -> None:
    values = np.array([[0, 1, 2]])
    annotated(tmp_path, {f"{PARTS}/{PARTS}.png": values, f"{COMPOSED}2.png": values})
    images = tmp_path / "s"
    truth = masks(tmp_path, {f"{COMPOSED}/{COMPOSED}.png": values, f"{PARTS}2.png": values})
    assert "2 of 2 images" in ovlabel("score", tmp_path / "s.zarr", truth).out
    absent: list[str] = []
    names = [f"{COMPOSED}/{COMPOSED}.png", f"{PARTS}2.png", f"{COMPOSED}/x.png"]
    found = [item.key for item in list_named(images, names, absent)]
    assert sorted(found) == sorted([f"{PARTS}/{PARTS}.png", f"{COMPOSED}2.png"])
    assert absent == [f"{COMPOSED}/x.png"]
    for name in (f"{COMPOSED}/{COMPOSED}.png", f"{COMPOSED}.png", COMPOSED, f"{PARTS}2", f"{PARTS}2.png"):
        assert ovlabel("show", tmp_path / "s.zarr", name, "-o", tmp_path / "o.png").code == 0


@pytest.mark.parametrize("command", ["score", "ablate"])
def test_refusals_of_ground_truth_are_one_line(folder: Path, ovlabel: Run, command: str) -> None:
    place = folder / ("images.ovlabel.zarr" if command == "score" else "images")
    (folder / "boxes.json").write_text('{"images": [], "categories": [{}], "annotations": [{"image_id": 1}]}')
    (folder / "cut.json").write_text('{"images": [')
    (folder / "empty").mkdir()
    for truth, convention in (
        ("boxes.json", "coco-instances"),
        ("cut.json", "coco-panoptic"),
        ("empty", "raw"),
        ("x" * 5000, "raw"),
        ("truth/a.png/b", "raw"),
    ):
        said = ovlabel(command, place, folder / truth, "--truth", convention)
        assert said.code == 2, (truth, said.err)
        assert said.refusal
