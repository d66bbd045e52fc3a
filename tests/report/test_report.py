"""The data of a report: figures of every image, queues, galleries, pictures, and what a second call does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovlabel.errors import ConfigError
from ovlabel.report import ReportOptions, make_report
from ovlabel.report.columns import class_shares, read_columns
from ovlabel.report.pictures import run_lengths
from ovlabel.report.scripts import call
from ovlabel.report.truth import measure
from ovlabel.store.example import write_example
from ovlabel.store.read import open_store
from tests.cli.test_cli import Run, ovlabel

__all__ = ["ovlabel"]  # a fixture


@pytest.fixture
def example(tmp_path: Path) -> Path:
    return write_example(tmp_path / "example")


def data(path: Path) -> list[Any]:
    """The arguments that a script hands to the page."""
    text = path.read_text("ascii")
    inner = text[text.index("(") + 1 : text.rindex(")")]
    values: list[Any] = json.loads(f"[{inner}]")
    return values


def test_run_lengths_hold_the_map() -> None:
    values = np.random.default_rng(0).integers(0, 3, (17, 23))
    runs = np.array(run_lengths(values)).reshape(-1, 2)
    assert np.array_equal(np.repeat(runs[:, 0], runs[:, 1]).reshape(17, 23), values)
    assert (np.diff(runs[:, 0]) != 0).all()


@pytest.mark.parametrize("text", ["</script>", "\u2028", "\udcff.jpg", "a\nb", "\u202edrawkcab", '"]);alert(1);("'])
def test_a_script_holds_any_text_as_ascii(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.js").write_bytes(call("items", {"key": [text]}))
    assert data(tmp_path / "x.js") == [{"key": [text]}]
    assert "</" not in (tmp_path / "x.js").read_text("ascii")


def test_figures_of_an_image() -> None:
    labels = np.array([[0, 0, 0, 2], [0, 0, 0, 255]], np.uint8)
    confidence = np.array([[1, 1, 0.5, 0.2], [0.5, 0.5, 1, 0.9]])
    assert [(s.index, s.pixels, round(s.confidence, 6)) for s in class_shares(labels, confidence, 3)] == [
        (0, 6, 0.75),
        (2, 1, 0.2),
    ]


def test_columns_and_queues(example: Path) -> None:
    store = open_store(example / "images.ovlabel.zarr")
    columns = read_columns(store, None, measure(store, example / "truth", "raw"))
    assert columns.keys == ["a.png", "b.png"]
    assert columns.mean.tolist() == [700, 700]
    assert columns.by_class.tolist() == [700, 633]  # b: grass .9, dog .6, cat .4
    assert columns.accuracy.tolist() == [1000, 750]
    assert set(columns.queues()) == {"mean", "by_class", "miou"}
    assert columns.chosen(1) == [0, 1], "the first of every queue, each once"


def test_the_pages_of_a_store(example: Path) -> None:
    made = make_report(
        example / "images.ovlabel.zarr",
        example / "report",
        ReportOptions(example / "truth", "raw", example / "images.ovlabel.zarr"),
    )
    assert made.page.read_bytes().startswith(b"<!doctype html>")
    (about,) = data(example / "report/data/store.js")
    assert about["scores"]["figures"]["pixel_accuracy"] == 0.875
    assert [name for name, _, _ in about["queues"]] == ["miou", "mean", "by_class", "differ"]
    (items,) = data(example / "report/data/items-0000.js")
    assert items["differ"] == [0, 0]
    assert items["drawn"] == [1, 1]
    (name, maps) = data(example / f"report/images/{items['name'][1]}.js")
    assert name == items["name"][1]
    assert (maps["labels"], maps["truth"], maps["wrong"]) == ([2, 2, 1, 1, 0, 1], [2, 2, 1, 2], [0, 3, 1, 1])
    (gallery,) = data(example / "report/data/classes.js")
    assert [own["images"] for own in gallery] == [2, 2, 1]
    assert gallery[0]["least"] == [[1, 400], [0, 900]]
    (figures,) = data(example / "report/data/statistics.js")
    assert figures["together"][0] == [0, 1, 2]


def test_pictures_are_made_of_the_first_of_each_queue_and_a_later_call_adds_more(example: Path) -> None:
    store, out = example / "images.ovlabel.zarr", example / "report"
    make_report(store, out, ReportOptions(top=0))
    assert list((out / "images").iterdir()) == []
    made: list[str] = []
    make_report(store, out, ReportOptions(top=1), on_image=made.append)
    assert sorted(made) == ["a.png", "b.png"]
    kept = {path: path.stat().st_mtime_ns for path in (out / "images").glob("*.jpg")}
    make_report(store, out, ReportOptions(top=2))
    assert {path: path.stat().st_mtime_ns for path in (out / "images").glob("*.jpg")} == kept, "none is drawn twice"


def test_pictures_of_images_that_left_the_store_go_and_other_files_stay(example: Path) -> None:
    store, out = example / "images.ovlabel.zarr", example / "report"
    make_report(store, out)
    (out / "images/mine.txt").touch()
    (out / "images" / f"{'0' * 16}.js").touch()
    make_report(store, out)
    assert not (out / "images" / f"{'0' * 16}.js").exists()
    assert (out / "images/mine.txt").exists()


def test_a_folder_that_is_no_report_is_left_alone(example: Path, ovlabel: Run) -> None:
    (example / "mine").mkdir()
    (example / "mine/letter.txt").touch()
    said = ovlabel("report", example / "images.ovlabel.zarr", "-o", example / "mine")
    assert said.code == 2
    assert "holds something that is no report" in said.err
    assert [path.name for path in (example / "mine").iterdir()] == ["letter.txt"]


def test_a_report_about_another_store_is_left_alone(example: Path, tmp_path: Path, ovlabel: Run) -> None:
    other = write_example(tmp_path / "other") / "images.ovlabel.zarr"
    make_report(example / "images.ovlabel.zarr", example / "report")
    said = ovlabel("report", other, "-o", example / "report")
    assert said.code == 2
    assert "a report about another store" in said.refusal


def test_stores_of_other_classes_are_not_compared(example: Path, tmp_path: Path) -> None:
    other = write_example(tmp_path / "other") / "images.ovlabel.zarr"
    text = (other / "zarr.json").read_text().replace('"cat"', '"cow"')
    (other / "zarr.json").write_text(text)
    with pytest.raises(ConfigError, match="has other classes"):
        make_report(example / "images.ovlabel.zarr", example / "report", ReportOptions(compare=other))


def test_a_photograph_that_is_gone_is_named_and_drawn_when_it_is_back(example: Path, ovlabel: Run) -> None:
    photograph, store = example / "images/a.png", example / "images.ovlabel.zarr"
    away = photograph.rename(example / "a.png")
    said = ovlabel("report", store, "-o", example / "report")
    assert said.code == 3
    assert "1 photographs could not be drawn" in said.err
    (items,) = data(example / "report/data/items-0000.js")
    script = example / f"report/images/{items['name'][0]}.js"
    assert data(script)[1]["missing"] != ""
    assert not script.with_suffix(".jpg").exists()
    away.rename(photograph)
    assert ovlabel("report", store, "-o", example / "report").code == 0
    assert data(script)[1]["missing"] == ""
    with Image.open(script.with_suffix(".jpg")) as picture:
        assert np.ptp(np.asarray(picture)) > 2


def test_nothing_is_written_into_the_store_or_among_photographs_and_masks(example: Path, ovlabel: Run) -> None:
    store = example / "images.ovlabel.zarr"
    before = sorted(path for path in example.rglob("*") if "truth" in path.parts or path.is_relative_to(store))
    places = (store / "out", example / "images" / "out", store, example / "images")
    for place in places:
        for command in (["export", store, place], ["report", store, "-o", place]):
            said = ovlabel(*command)
            assert said.code == 2
            assert "would lie" in said.err or "holds something" in said.err
    for option in ("--csv", "--figures"):
        for place in (store / "zarr.json", example / "images" / "a.png", example / "truth" / "a.png"):
            said = ovlabel("score", store, example / "truth", option, place)
            assert said.code == 2
            assert "would lie" in said.err
    assert sorted(p for p in example.rglob("*") if "truth" in p.parts or p.is_relative_to(store)) == before


def test_the_command(example: Path, ovlabel: Run) -> None:
    said = ovlabel(
        "report", example / "images.ovlabel.zarr", "-o", example / "r", "--truth", "raw", example / "truth", "--top", 1
    )
    assert (said.code, said.err, said.out) == (0, "", f"{example / 'r' / 'index.html'}\n")
