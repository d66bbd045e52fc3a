"""Names that formats can't hold, folders that hold something, and exports that end early."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest

from ovlabel.errors import ConfigError, StoreError
from ovlabel.files import from_spreadsheet_cell, spreadsheet_cell
from ovlabel.formats import export, format_names
from ovlabel.formats._export import Rules
from ovlabel.formats._names import checked_names
from ovlabel.store.read import Store, StoredImage
from tests.cli.test_cli import Run, ovlabel
from tests.evaluation.test_scores import annotated

__all__ = ["ovlabel"]
ONE = np.zeros((4, 5), int)
LATIN = os.fsdecode(b"caf\xe9.png")  # as old archives hold it
TEXTS = ["coco-instances", "coco-panoptic", "coco-polygons", "cvat-masks", "label-studio", "parquet"]


def rules(**more: object) -> Rules:
    return Rules(lambda name: f"{name}.png", **more)  # type: ignore[arg-type]


@pytest.fixture
def latin(tmp_path: Path) -> Store:
    try:
        return annotated(tmp_path, {LATIN: ONE, "a.png": ONE})
    except OSError:
        pytest.skip("this file system takes no names that are not UTF-8")


def test_a_name_that_is_no_text_is_refused_or_written_as_it_is(latin: Store, tmp_path: Path, ovlabel: Run) -> None:
    for name in format_names():
        out = tmp_path / "new" / "deep" / name
        said = ovlabel("export", latin.path, out, "--format", name)
        if name in TEXTS:
            assert said.code == 2
            assert r"caf\udce9.png: this name is no valid UTF-8" in said.refusal
            assert not out.exists()
        else:
            assert said.code == 0
            assert any(b"\xe9" in os.fsencode(path) for path in out.rglob("*"))
    assert {path.name for path in (tmp_path / "new" / "deep").iterdir()} == set(format_names()) - set(TEXTS)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["x" * 252 + ".jpg", "a.jpg"], "too long"),
        (["y" * 84 + "猫" * 57 + ".jpg"], "too long"),  # 255 bytes, not letters
        (["/".join(["d" * 200] * 21) + "/x.jpg"], "too long"),
        (["a/x.png", "a/x.jpg"], "one file"),
        (["a/x.png", "A/X.png"], "one file"),
        (["e\u0301.png", "\u00e9.png"], "one file"),
        (["x.jpg", "x.png/y.jpg"], "needs a folder where x.jpg needs a file"),
        (["classes.csv/y.jpg"], "needs a folder where classes.csv needs a file"),
    ],
)
def test_names_that_no_file_system_holds_side_by_side_are_refused(keys: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        checked_names(keys, rules(others=("classes.csv",)), tmp_path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("key", ["a\nb.png", "a\rb.png", "a\u2028b.png", " a.png", "a .png", "#a.png", "a\x0bb.png"])
def test_names_that_are_no_lines_are_refused(key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no lines of a list"):
        checked_names([key], rules(lines=True), tmp_path)
    assert checked_names([key], rules(), tmp_path) == {key: key.removesuffix(".png")}


def test_the_first_few_of_many_names_are_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^#0\.png, #1\.png, #2\.png and 97 more: such names are") as caught:
        checked_names([f"#{i}.png" for i in range(100)], rules(lines=True), tmp_path)
    assert "\n" not in str(caught.value)


def test_names_that_windows_refuses_are_said_and_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = ["aux.jpg", "d/COM1.x.jpg", "a:b.jpg", "end./x.jpg", "auxiliary.jpg", "com.jpg", "a.b/c d.jpg"]
    assert len(checked_names(keys, rules(), tmp_path)) == len(keys)
    assert caplog.messages == [
        "files of these names can't be copied to Windows: aux.jpg, d/COM1.x.jpg, a:b.jpg and 1 more"
    ]


def test_images_of_one_name_need_no_files_of_their_own_in_json(tmp_path: Path) -> None:
    store = annotated(tmp_path, {"a.png": ONE, "a.tif": ONE})
    assert export(store, tmp_path / "coco", "coco-instances") == 2
    with pytest.raises(ConfigError, match="one file"):
        export(store, tmp_path / "cityscapes", "cityscapes")


def test_names_that_become_one_in_the_format_are_refused(tmp_path: Path) -> None:
    store = annotated(tmp_path, {"a.png": ONE, "a_leftImg8bit.png": ONE})
    with pytest.raises(ConfigError, match=r"a\.png and a_leftImg8bit\.png would be written to one file"):
        export(store, tmp_path / "out", "cityscapes")
    assert export(store, tmp_path / "out", "png") == 2


# ---------------------------------------------------------------- the folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return annotated(tmp_path, {"a.png": ONE, "b/c.png": ONE})


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini", ".directory"])
def test_what_file_managers_leave_does_not_count(name: str, store: Store, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_bytes(b"x")
    assert export(store, tmp_path / "out", "png") == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {name, "a.png", "b", "classes.csv"}


def test_a_folder_that_holds_something_is_left_alone(store: Store, tmp_path: Path, ovlabel: Run) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    assert "holds something already" in ovlabel("export", store.path, tmp_path / "out").refusal
    assert "holds something already" in ovlabel("export", store.path, tmp_path / "out" / "mine").refusal
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert "cannot write to" in ovlabel("export", store.path, tmp_path / "link").refusal
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize("name", format_names())
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("there", [True, False])
def test_an_export_that_ends_early_leaves_nothing(
    name: str, failure: BaseException, there: bool, store: Store, tmp_path: Path
) -> None:
    def fail(key: str) -> None:
        raise failure

    out = tmp_path / "new" / "out"
    if there:
        out.mkdir(parents=True)
        (out / ".DS_Store").write_bytes(b"x")
    with pytest.raises((ConfigError, KeyboardInterrupt)):
        export(store, out, name, on_image=fail)
    if there:
        assert [path.name for path in out.iterdir()] == [".DS_Store"]
    else:
        assert not (tmp_path / "new").exists()
    assert export(store, out, name) == 2


@pytest.mark.parametrize("there", [True, False])
def test_what_a_killed_export_left_is_cleared(
    there: bool, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed process clears nothing up, as if removing did nothing."""
    out = tmp_path / "out"
    if there:
        out.mkdir()
    monkeypatch.setattr("ovlabel.formats._staging._remove", lambda place: None)
    monkeypatch.setattr("pathlib.Path.rmdir", lambda place: None)
    with pytest.raises(ConfigError):
        export(store, out, "png", on_image=lambda key: (_ for _ in ()).throw(OSError("killed")))
    monkeypatch.undo()
    assert len(list(tmp_path.rglob(".ovlabel-export*"))) == 1
    assert export(store, out, "png") == 2
    assert not list(tmp_path.rglob(".ovlabel-export*"))


def test_a_folder_that_cant_be_written_is_one_line(store: Store, tmp_path: Path, ovlabel: Run) -> None:
    said = ovlabel("export", store.path, "/proc/nothing/out")
    assert (said.code, "cannot write to /proc/nothing/out" in said.refusal) == (2, True)
    said = ovlabel("export", store.path, tmp_path / ("x" * 300))
    assert said.code == 2
    assert said.refusal


# ---------------------------------------------------------------- tables


FORMULAS = ["=1+1", "+cat", "-cat", "@SUM(A1)", "\t=1", " =1", "'=1", "＝1", '=cmd|"/C calc"!A0']


@pytest.mark.parametrize("text", [*FORMULAS, "cat", "", "'s", "a=b", "don't"])
def test_cells_are_no_formulas_and_come_back(text: str) -> None:
    cell = spreadsheet_cell(text)
    assert from_spreadsheet_cell(cell) == text
    assert cell.startswith("'") if text in FORMULAS else cell == text


def test_classes_are_no_formulas_in_tables(tmp_path: Path, ovlabel: Run) -> None:
    names = ("=1+1", "@x", "-cat", "cat", "'=y")
    store = annotated(tmp_path, {"a.png": ONE}, names)
    export(store, tmp_path / "out")
    with (tmp_path / "out" / "classes.csv").open(encoding="utf-8", newline="") as file:
        cells = [row["name"] for row in csv.DictReader(file)]
    assert cells == ["'=1+1", "'@x", "'-cat", "cat", "''=y"]
    assert list(pandas.read_csv(tmp_path / "out" / "classes.csv")["name"].map(from_spreadsheet_cell)) == list(names)
    (tmp_path / "truth").mkdir()
    export(store, tmp_path / "truth" / "masks")
    (tmp_path / "truth" / "masks" / "classes.csv").unlink()
    assert ovlabel("score", store.path, tmp_path / "truth" / "masks", "--csv", tmp_path / "scores.csv").code == 0
    assert list(pandas.read_csv(tmp_path / "scores.csv")["class"].map(from_spreadsheet_cell)) == list(names)


# ---------------------------------------------------------------- damaged stores


@pytest.fixture
def strange(tmp_path: Path) -> Store:
    """Four classes, and a label 200."""
    return annotated(tmp_path, {"a.png": ONE, "b.png": np.full((4, 5), 200)})


@pytest.mark.parametrize("name", format_names())
def test_a_label_that_is_no_class_is_refused(name: str, strange: Store, tmp_path: Path, ovlabel: Run) -> None:
    said = ovlabel("export", strange.path, tmp_path / "out", "--format", name)
    assert said.code == 4
    assert "'b.png' holds the label 200, and there are 4 classes" in said.refusal
    assert not (tmp_path / "out").exists()


def test_a_label_that_is_no_class_is_refused_wherever_labels_are_read(
    strange: Store, tmp_path: Path, ovlabel: Run
) -> None:
    with pytest.raises(StoreError, match="label 200"):
        _ = strange["b.png"].labels
    assert strange["a.png"].labels.max() == 0
    shown = ovlabel("show", strange.path, "b.png", "-o", tmp_path / "o.png")
    assert (shown.code, "label 200" in shown.refusal) == (4, True)
    scored = ovlabel("score", strange.path, tmp_path / "s", "--truth", "raw")
    assert scored.code in (2, 4)
    assert "Traceback" not in scored.err


def test_two_classes_of_one_name_are_refused(store: Store, tmp_path: Path) -> None:
    store.manifest = replace(store.manifest, classes=store.classes[:1] * 2)
    for name in format_names():
        with pytest.raises(StoreError, match="class cat is there twice"):
            export(store, tmp_path / "out", name)
    assert not (tmp_path / "out").exists()


def test_a_photograph_of_another_size_than_its_labels_is_refused(store: Store, tmp_path: Path, ovlabel: Run) -> None:
    from PIL import Image

    image = store["a.png"]
    Image.new("RGB", (9, 9)).save(image.path)
    said = ovlabel("show", store.path, "a.png", "-o", tmp_path / "o.png")
    assert (said.code, "has changed since it was annotated" in said.refusal) == (2, True)
    image.path.unlink()
    said = ovlabel("show", store.path, "a.png", "-o", tmp_path / "o.png")
    assert (said.code, "No such file" in said.refusal) == (2, True)
    assert not (tmp_path / "o.png").exists()


def test_an_image_without_pixels_is_refused(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hollow(self: Store, key: str) -> StoredImage:
        return StoredImage(self, replace(self.records[key], height=0, width=0))

    monkeypatch.setattr(Store, "__getitem__", hollow)
    for name in format_names():
        with pytest.raises(StoreError):
            export(store, tmp_path / "out", name)
        assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- ids of images


def ids_of(store: Store, out: Path, form: str = "coco-instances", **options: Path) -> dict[str, int]:
    export(store, out, form, **options)  # type: ignore[arg-type]
    (file,) = out.glob("*.json")
    return {entry["file_name"]: entry["id"] for entry in json.loads(file.read_text())["images"]}


@pytest.mark.parametrize("form", ["coco-instances", "coco-panoptic", "coco-polygons"])
def test_an_image_that_is_named_by_a_number_has_it_as_id(form: str, tmp_path: Path) -> None:
    numbers = {
        "val2017/000000000139.png": 139,
        "000000000285.png": 285,
        "COCO_val2014_000000000042.png": 42,
        "0.png": 0,
    }
    store = annotated(tmp_path, dict.fromkeys(numbers, ONE))
    assert ids_of(store, tmp_path / "out", form) == numbers


def test_ids_do_not_move_when_an_image_arrives(tmp_path: Path) -> None:
    keys = ["b.png", "d/e f.png", "12.png", "猫.png"]
    before = ids_of(annotated(tmp_path / "x", dict.fromkeys(keys, ONE)), tmp_path / "before")
    more = ["a.png", "c.png", "13.png", "z/1-1.png", "IMG_12.png"]
    after = ids_of(annotated(tmp_path / "y", dict.fromkeys([*keys, *more], ONE)), tmp_path / "after")
    assert before == {key: after[key] for key in keys}
    assert len(set(after.values())) == len(after)
    assert all(0 <= number < 2**53 for number in after.values())


def test_images_of_one_number_have_ids_of_their_own(tmp_path: Path) -> None:
    store = annotated(tmp_path, dict.fromkeys(["a/1.png", "b/1.png", "2.png"], ONE))
    ids = ids_of(store, tmp_path / "out")
    assert ids["2.png"] == 2
    assert len({*ids.values(), 1}) == 4


@pytest.mark.parametrize("name", [lambda k: k, lambda k: k.rpartition("/")[2], lambda k: f"./{k}".replace("/", "\\")])
def test_ids_are_those_of_the_ground_truth(name: Callable[[str], str], tmp_path: Path) -> None:
    keys = {"a/x.png": 7, "b/y.png": 3}
    images = [{"id": number, "file_name": name(key)} for key, number in keys.items()]
    (tmp_path / "gt.json").write_text("\ufeff" + json.dumps({"images": [*images, {"id": 1, "file_name": "other.jpg"}]}))
    store = annotated(tmp_path, dict.fromkeys([*keys, "7.png"], ONE))
    ids = ids_of(store, tmp_path / "out", "coco-panoptic", ids_from=tmp_path / "gt.json")
    assert {key: ids[key] for key in keys} == keys
    assert ids["7.png"] not in (1, 3, 7)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1", "no valid JSON"),
        ("[" * 100_000, "no valid JSON"),
        ("[]", "no list of images"),
        ('{"images": 3}', "no list of images"),
        ('{"images": [7]}', "has no file_name and id"),
        ('{"images": [{"id": "7", "file_name": "a.png"}]}', "has no file_name and id"),
        ('{"images": [{"id": true, "file_name": "a.png"}]}', "has no file_name and id"),
        ('{"images": [{"id": -1, "file_name": "a.png"}]}', "has no file_name and id"),
        ('{"images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "a.png"}]}', "two ids"),
        ('{"images": [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "c.png"}]}', "would both be image 1"),
        ('{"images": [{"id": 1, "file_name": "x.png"}]}', "knows none of the images"),
        ('{"images": []}', "knows none of the images"),
    ],
)
def test_a_ground_truth_without_ids_is_one_line(
    content: str, said: str, store: Store, tmp_path: Path, ovlabel: Run
) -> None:
    (tmp_path / "gt.json").write_text(content)
    refused = ovlabel(
        "export", store.path, tmp_path / "out", "--format", "coco-instances", "--ids-from", tmp_path / "gt.json"
    )
    assert refused.code == 2
    assert said in refused.refusal
    assert not (tmp_path / "out").exists()
    missing = ovlabel(
        "export", store.path, tmp_path / "out", "--format", "coco-instances", "--ids-from", tmp_path / "no"
    )
    assert (missing.code, "cannot read" in missing.refusal) == (2, True)


def test_options_of_other_formats_are_refused(store: Store, tmp_path: Path, ovlabel: Run) -> None:
    for option, value in (("--ids-from", "gt.json"), ("--image-url", "https://x/")):
        said = ovlabel("export", store.path, tmp_path / "out", option, value)
        assert (said.code, f"the format png takes no {option}" in said.refusal) == (2, True)
