"""Exports, opened by readers that are not ours and compared pixel by pixel."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import png
import pytest
from PIL import Image
from pycocotools.coco import COCO

import ovlabel as package
from ovlabel.errors import ConfigError
from ovlabel.evaluation.truth import IGNORED, open_truth
from ovlabel.formats import export, format_names
from ovlabel.formats._export import Export, ExportClass
from ovlabel.formats.label_studio import brush
from ovlabel.store.read import Store, open_store
from ovlabel.store.write import writing
from tests.cli.test_cli import Run, ovlabel
from tests.evaluation.test_scores import annotated

__all__ = ["ovlabel"]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


def rgb(path: Path) -> np.ndarray:
    """uint8 h w 3, decoded by PyPNG."""
    width, height, rows, _ = png.Reader(bytes=path.read_bytes()).asRGB8()
    return np.vstack([np.asarray(row, np.uint8) for row in rows]).reshape(height, width, 3)


@pytest.fixture
def labels() -> dict[str, np.ndarray]:
    """Two images of four classes; "dog" (1) lies in three parts, one with a hole."""
    first = np.zeros((6, 9), int)
    first[1:3, 1:3] = first[4:6, 6:9] = 1
    first[:, 4] = 2
    first[0:3, 5:9] = 1
    first[1, 6] = 3  # a hole in a dog
    second = np.full((4, 5), 3)
    second[1:3, 2:4] = 1
    return {"a/x.png": first, "b/c/y_leftImg8bit.png": second}


@pytest.fixture
def store(tmp_path: Path, labels: dict[str, np.ndarray]) -> Store:
    return annotated(tmp_path, labels)


def test_there_are_formats() -> None:
    assert set(format_names()) == {
        *(
            "png",
            "ids",
            "coco-stuff",
            "cityscapes",
            "cityscapes-train",
            "coco-panoptic",
            "coco-instances",
            "coco-polygons",
        ),
        *("yolo-seg", "label-studio", "cvat-masks", "parquet"),
    }


def test_the_manual_lists_every_format() -> None:
    text = (Path(package.__file__).parent / "formats" / "README.md").read_text(encoding="utf-8")
    assert [name for name in format_names() if f"| `{name}`" not in text] == []


def test_a_store_is_exported_by_its_path(store: Store, labels: dict[str, np.ndarray], tmp_path: Path) -> None:
    done: list[str] = []
    assert package.export(str(store.path), str(tmp_path / "out"), on_image=done.append) == 2
    assert done == list(labels)
    for key, values in labels.items():
        np.testing.assert_array_equal(pixels(tmp_path / "out" / key), values)


def test_indexed_pngs_hold_indices_and_look_like_the_palette(
    store: Store, labels: dict[str, np.ndarray], tmp_path: Path
) -> None:
    assert export(store, tmp_path / "out", "png") == 2
    for key, values in labels.items():
        path = (tmp_path / "out" / key).with_suffix(".png")
        np.testing.assert_array_equal(pixels(path), values)
        np.testing.assert_array_equal(rgb(path), np.array([entry.colour for entry in store.classes], np.uint8)[values])
    rows = list(csv.DictReader((tmp_path / "out" / "classes.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == store.class_names


def test_many_classes_take_sixteen_bits(tmp_path: Path) -> None:
    values = np.array([[0, 255], [255, 7]])
    many = annotated(tmp_path, {"x.png": values}, tuple(f"class {i}" for i in range(300)))
    export(many, tmp_path / "out", "png")
    assert pixels(tmp_path / "out" / "x.png").dtype == np.uint16
    np.testing.assert_array_equal(pixels(tmp_path / "out" / "x.png"), values)


def test_pixels_below_a_confidence_have_no_label(store: Store, labels: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Even labels are stored with 200/255, odd ones with 100/255."""
    export(store, tmp_path / "some", "png", min_confidence=0.5)
    export(store, tmp_path / "dogs", "png", min_confidence=0.5, by_class={"dog": 0.1, "cat": 0.9})
    for key, values in labels.items():
        np.testing.assert_array_equal(pixels(tmp_path / "some" / key), np.where(values % 2, 255, values))
        np.testing.assert_array_equal(pixels(tmp_path / "dogs" / key), np.where(np.isin(values, (0, 3)), 255, values))


@pytest.mark.parametrize(
    ("vocabulary", "form", "convention"),
    [
        ("coco-stuff", "coco-stuff", "coco-stuff-raw"),
        ("ade20k", "ids", "ade20k"),
        ("voc21", "ids", "voc"),
        ("cityscapes", "cityscapes", "cityscapes"),
        ("cityscapes", "cityscapes-train", "cityscapes-train"),
        ("coco-panoptic", "ids", "coco-panoptic-ids"),
    ],
)
def test_what_is_written_in_a_layout_is_read_back_in_it(
    vocabulary: str, form: str, convention: str, labels: dict[str, np.ndarray], tmp_path: Path
) -> None:
    from ovlabel.text.vocabulary import load_vocabulary

    store = annotated(tmp_path, labels, tuple(c.name for c in load_vocabulary(vocabulary).classes))
    entries = load_vocabulary(vocabulary).classes
    classes = (replace(own, id=entry.id, kind=entry.kind) for own, entry in zip(store.classes, entries, strict=True))
    store.manifest = replace(store.manifest, classes=tuple(classes))
    export(store, tmp_path / "out", form, min_confidence=0.5)
    truth = open_truth(tmp_path / "out", convention, [])
    for key, values in labels.items():
        name = key.removesuffix(".png").removesuffix("_leftImg8bit" if form.startswith("cityscapes") else "")
        np.testing.assert_array_equal(truth.read(name), np.where(values % 2, IGNORED, values))


@pytest.mark.parametrize(
    ("form", "ids", "words"),
    [
        ("coco-stuff", [1, 0], "class 'b', id 0, would be written as -1; this format has 0 … 255, and 255 means no"),
        ("coco-stuff", [1, 256], "class 'b', id 256, would be written as 255"),
        ("coco-stuff", [1, 300], "class 'b', id 300, would be written as 299; this format has 0 … 255"),
        ("cityscapes", [1, 0], "class 'b', id 0, would be written as 0; this format has 0 … 255, and 0 means no label"),
        ("cityscapes", [300, 1], "class 'a', id 300, would be written as 300; this format has 0 … 255"),
        ("ids", [1, -1], "class 'b', id -1, would be written as -1; this format has 0 … 65535, and 0 means no label"),
        ("ids", [0, 255], "class 'b', id 255, would be written as 255; this format has 0 … 65535, and 255 means no"),
        ("ids", [1, 65536], "class 'b', id 65536"),
    ],
)
def test_an_id_that_a_format_does_not_have_is_refused_by_the_name_of_its_class(
    form: str, ids: list[int], words: str, tmp_path: Path
) -> None:
    store = annotated(tmp_path, {"a.png": np.array([[0, 1]])}, ("a", "b"))
    classes = tuple(replace(own, id=number) for own, number in zip(store.classes, ids, strict=True))
    store.manifest = replace(store.manifest, classes=classes)
    with pytest.raises(ConfigError, match=words):
        export(store, tmp_path / "out", form)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools on numpy 2
@pytest.mark.parametrize("form", ["coco-instances", "coco-polygons"])
def test_instances_are_read_by_pycocotools(
    form: str, store: Store, labels: dict[str, np.ndarray], tmp_path: Path
) -> None:
    export(store, tmp_path / "out", form)
    coco = COCO(tmp_path / "out" / "instances.json")
    for image in coco.loadImgs(coco.getImgIds()):
        own = np.full((image["height"], image["width"]), -1)
        parts = coco.loadAnns(coco.getAnnIds(image["id"]))
        for part in parts:
            mask = coco.annToMask(part).astype(bool)
            assert (mask.sum(), own[mask].max()) == (part["area"], -1)
            left, top, width, height = part["bbox"]
            assert mask[top : top + height, left : left + width].sum() == part["area"]
            own[mask] = part["category_id"] - 1
        values = labels[image["file_name"]]
        np.testing.assert_array_equal(own, np.where(values < 2, values, -1))  # grass and walls are no things
        assert sum(part["category_id"] == 2 for part in parts) == (3 if image["file_name"] == "a/x.png" else 1)


def test_panoptic_segments_are_read_back(store: Store, labels: dict[str, np.ndarray], tmp_path: Path) -> None:
    export(store, tmp_path / "out", "coco-panoptic")
    table = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    truth = open_truth(tmp_path / "out", "coco-panoptic", [])
    for entry in table["annotations"]:
        key = next(image["file_name"] for image in table["images"] if image["id"] == entry["image_id"])
        identities = rgb(tmp_path / "out" / "panoptic" / entry["file_name"]).astype(int) @ [1, 256, 65536]
        for segment in entry["segments_info"]:
            mask = identities == segment["id"]
            assert mask.sum() == segment["area"]
            assert set(labels[key][mask]) == {segment["category_id"] - 1}
        np.testing.assert_array_equal(truth.read(key.removesuffix(".png")), labels[key])


def photographs(store: Store, folder: Path) -> Path:
    """The store's photographs under their names, as PNGs."""
    for key in store:
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store[key].path.read_bytes())
    return folder


def test_yolo_labels_are_read_by_supervision(store: Store, labels: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Flat names: supervision looks for one folder of labels."""
    import supervision

    export(store, tmp_path / "out", "yolo-seg")
    for key, values in labels.items():
        name = Path(key).parent
        data = supervision.DetectionDataset.from_yolo(
            str(photographs(store, tmp_path / "images") / name),
            str(tmp_path / "out" / "labels" / name),
            str(tmp_path / "out" / "data.yaml"),
            force_masks=True,
        )
        assert data.classes == store.class_names
        ((_, _, found),) = list(data)
        own = np.full(values.shape, -1)
        for mask, index in zip(found.mask, found.class_id, strict=True):
            assert (own[mask] == -1).all()
            own[mask] = index
        np.testing.assert_array_equal(own, values)


YAML_NAMES = ("yes", "1", "null", "~", "it's", 'a "b"', "a: b", "# no", "猫 😀", "[x]", "back\\slash", "- x", "0x1F")


def test_yolo_names_are_strings_for_every_reader(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    store = annotated(tmp_path, {"a.png": np.zeros((4, 5), int)}, YAML_NAMES)
    export(store, tmp_path / "out", "yolo-seg")
    table = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text(encoding="utf-8"))
    assert table == {"train": "images", "val": "images", "names": dict(enumerate(YAML_NAMES))}


YOLO_KEYS = ["train/images/a.png", "b.png", "images/c.png", "x/images/y/images/d.png", "images/images/e.png",
             "my images/f.g.png", "images.png/h.png", "labels/i.png"]  # fmt: skip


def test_yolo_labels_lie_where_readers_look(tmp_path: Path) -> None:
    """The rule of Ultralytics: the last `/images/` of a photograph's path becomes `/labels/`."""
    store = annotated(tmp_path, dict.fromkeys(YOLO_KEYS, np.zeros((4, 5), int)))
    export(store, tmp_path / "out", "yolo-seg")
    for key in YOLO_KEYS:
        photograph = f"{tmp_path}/out/images/{key}"
        assert Path("/labels/".join(photograph.rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt").is_file(), key
    assert len(list((tmp_path / "out").rglob("*.txt"))) == len(YOLO_KEYS)


@pytest.mark.parametrize(
    ("keys", "splits"),
    [
        (["train/images/a.png", "valid/images/b.png"], {"train": "images/train", "val": "images/valid"}),
        (["images/train2017/a.png", "images/val2017/b.png", "images/test2017/c.png"],
         {"train": "images/images/train2017", "val": "images/images/val2017", "test": "images/images/test2017"}),
        (["a/train/x.png", "b/train/x.png", "b/val/x.png"],
         {"train": ["images/a/train", "images/b/train"], "val": "images/b/val"}),
        (["train/a.png", "val/b.png", "c.png"], {"train": "images", "val": "images"}),
        (["train/a.png", "train/b.png"], {"train": "images", "val": "images"}),
        (["trains/a.png", "val/b.png"], {"train": "images", "val": "images"}),
    ],
)  # fmt: skip
def test_yolo_splits_are_those_of_the_tree(keys: list[str], splits: dict[str, Any], tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    store = annotated(tmp_path, dict.fromkeys(keys, np.zeros((4, 5), int)))
    export(store, tmp_path / "out", "yolo-seg")
    table = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text(encoding="utf-8"))
    assert {name: place for name, place in table.items() if name != "names"} == splits


def test_the_evaluator_of_cityscapes_finds_one_prediction_an_image(tmp_path: Path) -> None:
    """The official evaluation takes every PNG whose name begins with CITY_SEQUENCE_FRAME for a prediction."""
    store = annotated(tmp_path, {"aachen/aachen_000000_000019_leftImg8bit.png": np.zeros((4, 5), int)})
    for form, ending in (("cityscapes", "labelIds"), ("cityscapes-train", "labelTrainIds")):
        export(store, tmp_path / form, form)
        found = [path.name for path in (tmp_path / form).rglob("*") if path.is_file()]
        assert found == [f"aachen_000000_000019_gtFine_{ending}.png"]


def tasks_of(folder: Path) -> list[dict[str, Any]]:
    """The tasks of an export, in the order of its files."""
    return [task for path in sorted(folder.glob("tasks-*.json")) for task in json.loads(path.read_text())]


@pytest.mark.parametrize(
    ("url", "begin", "key"),
    [
        ("", "/data/local-files/?d=s/", "b%20c/%C3%BC%2341%3F%25%5C.png"),
        ("https://host/p", "https://host/p/", "b%20c/%C3%BC%2341%3F%25%5C.png"),
        ("/data/local-files/?d=", "/data/local-files/?d=", "b%20c/%C3%BC%2341%3F%25%5C.png"),
        ("s3://bucket/p/", "s3://bucket/p/", "b c/ü#41?%\\.png"),
    ],
)
def test_photographs_are_found_by_label_studio(url: str, begin: str, key: str, tmp_path: Path, ovlabel: Run) -> None:
    store = annotated(tmp_path, {"a.png": np.zeros((4, 5), int), "b c/ü#41?%\\.png": np.zeros((4, 5), int)})
    options = ["--image-url", url] if url else []
    said = ovlabel("export", store.path, tmp_path / "out", "--format", "label-studio", *options)
    assert [task["data"]["image"] for task in tasks_of(tmp_path / "out")] == [f"{begin}a.png", begin + key]
    settings = f"DOCUMENT_ROOT={tmp_path}, and with a local storage of the project at {tmp_path / 's'}"
    assert (settings in said.err) == (not url)


def test_tasks_are_cut_into_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = annotated(tmp_path, {f"{i}.png": np.zeros((4, 5), int) for i in range(7)})
    export(store, tmp_path / "one", "label-studio")
    size = (tmp_path / "one" / "tasks-00000.json").stat().st_size
    monkeypatch.setattr("ovlabel.formats.label_studio._FILE", size // 3)
    export(store, tmp_path / "many", "label-studio")
    files = sorted((tmp_path / "many").glob("tasks-*.json"))
    assert [path.name for path in files] == [f"tasks-{i:05d}.json" for i in range(4)]
    assert max(path.stat().st_size for path in files) <= size // 3
    assert tasks_of(tmp_path / "many") == tasks_of(tmp_path / "one")
    monkeypatch.setattr("ovlabel.formats.label_studio._FILE", 1)
    export(store, tmp_path / "single", "label-studio")
    assert len(tasks_of(tmp_path / "single")) == len(list((tmp_path / "single").glob("tasks-*.json"))) == 7


def test_a_store_without_images_is_exported(tmp_path: Path) -> None:
    store = annotated(tmp_path, {"a.png": np.zeros((4, 5), int)})
    with writing(store.path) as opened:
        opened.remove(["a.png"], "taken out")
    store.refresh()
    for name in format_names():
        assert export(store, tmp_path / name, name) == 0
    assert tasks_of(tmp_path / "label-studio") == []


def test_brush_masks_are_read_by_label_studio(store: Store, labels: dict[str, np.ndarray], tmp_path: Path) -> None:
    from label_studio_converter.brush import decode_rle

    export(store, tmp_path / "out", "label-studio", min_confidence=0.5)
    tasks = json.loads((tmp_path / "out" / "tasks-00000.json").read_text())
    assert [task["data"]["image"] for task in tasks] == [f"/data/local-files/?d=s/{key}" for key in labels]
    for task, values in zip(tasks, labels.values(), strict=True):
        own = np.full(values.shape, -1)
        for region in task["predictions"][0]["result"]:
            pixels = np.reshape(decode_rle(region["value"]["rle"]), (*values.shape, 4))
            assert (region["original_height"], region["original_width"]) == values.shape
            assert set(np.unique(pixels)) <= {0, 255}
            own[pixels[..., 3] > 0] = store.class_names.index(region["value"]["brushlabels"][0])
        np.testing.assert_array_equal(own, np.where(values % 2, -1, values))
    config = ElementTree.parse(tmp_path / "out" / "config.xml")
    assert [label.get("value") for label in config.iter("Label")] == store.class_names


def test_a_brush_stroke_longer_than_a_run_is_cut() -> None:
    from label_studio_converter.brush import decode_rle

    mask = np.zeros((300, 400), bool)
    mask[100:250] = True
    mask[7, 9] = True
    np.testing.assert_array_equal(np.reshape(decode_rle(brush(mask)), (300, 400, 4))[..., 0] > 0, mask)


def test_cvat_masks_are_read_by_datumaro(store: Store, labels: dict[str, np.ndarray], tmp_path: Path) -> None:
    import datumaro

    paint(store, [[200, 10, 10], [10, 200, 10], [10, 10, 200], [90, 90, 90]])
    export(store, tmp_path / "out", "cvat-masks", min_confidence=0.5)
    data = datumaro.Dataset.import_from(str(tmp_path / "out"), "voc_segmentation")
    names = [entry.name for entry in data.categories()[datumaro.AnnotationType.label]]
    assert names == ["background", *store.class_names]
    for item in data:
        values = labels[f"{item.id}.png"]
        own = np.full(values.shape, -1)
        for annotation in item.annotations:
            own[annotation.image.astype(bool)] = annotation.label - 1
        np.testing.assert_array_equal(own, np.where(values % 2, -1, values))
    objects = rgb(tmp_path / "out" / "SegmentationObject" / "a" / "x.png").reshape(-1, 3)
    assert len(np.unique(objects, axis=0)) == 4  # nothing, a cat on either side of the grass, grass


def paint(store: Store, colours: list[list[int]]) -> None:
    """Give the classes of an open store other colours."""
    pairs = zip(store.classes, colours, strict=True)
    classes = tuple(replace(entry, colour=tuple(colour)) for entry, colour in pairs)
    store.manifest = replace(store.manifest, classes=classes)


def test_classes_of_one_colour_are_refused_for_cvat(store: Store, tmp_path: Path) -> None:
    paint(store, [[200, 10, 10], [10, 200, 10], [200, 10, 10], [90, 90, 90]])
    with pytest.raises(ConfigError, match="cat, grass share theirs"):
        export(store, tmp_path / "out", "cvat-masks")


def test_parquet_is_read_by_datasets(
    store: Store, labels: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr("ovlabel.formats.parquet._FILE", 1)
    monkeypatch.setattr("ovlabel.formats.parquet._GROUP", 1)
    export(store, tmp_path / "out", "parquet", min_confidence=0.5)
    files = sorted(str(path) for path in (tmp_path / "out").glob("*.parquet"))
    assert len(files) == 2
    data = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path / "cache"))
    assert data["key"][:] == list(labels)
    for row in data:
        values = labels[row["key"]]
        np.testing.assert_array_equal(np.array(row["label"]), np.where(values % 2, 255, values))
    named = json.loads((tmp_path / "out" / "id2label.json").read_text())
    assert list(named.values()) == store.class_names


@pytest.mark.parametrize("keys", [("a/x.png", "a/x.jpg.png"), ("a/x.png", "A/X.png")])
def test_two_images_of_one_name_are_refused(keys: tuple[str, str], tmp_path: Path) -> None:
    store = annotated(tmp_path, {key: np.zeros((2, 2), int) for key in keys})
    if keys[1] == "a/x.jpg.png":
        assert export(store, tmp_path / "out", "png") == 2
        return
    with pytest.raises(ConfigError, match=r"A/X\.png and a/x\.png would be written to one file"):
        export(store, tmp_path / "out", "png")
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_outside_the_folder(tmp_path: Path) -> None:
    job = Export((ExportClass("cat", 1, "thing", "", (0, 0, 0)),), lambda: iter(()), tmp_path / "out")
    for name in ("../x.png", "/etc/x.png", "a/../../x.png"):
        with pytest.raises(ConfigError, match="outside"):
            job.file(name)
    assert not list(tmp_path.iterdir())


def test_the_photographs_are_not_needed(store: Store, labels: dict[str, np.ndarray], tmp_path: Path) -> None:
    for key in labels:
        (store.folder / key).unlink()
    assert export(open_store(store.path), tmp_path / "out", "png") == 2


def test_the_command(store: Store, tmp_path: Path, ovlabel: Run) -> None:
    said = ovlabel(
        "export", store.path, tmp_path / "out", "--format", "coco-instances", "--class-confidence", "dog=0.2"
    )
    assert (said.code, said.out) == (0, f"2 images as coco-instances in {tmp_path / 'out'}\n")
    for arguments in (["--format", "coco"], ["--min-confidence", "2"], ["--class-confidence", "dog"], []):
        refused = ovlabel("export", store.path, tmp_path / ("out" if not arguments else "new"), *arguments)
        assert refused.code == 2
        assert refused.refusal
    assert "fox" in ovlabel("export", store.path, tmp_path / "new", "--class-confidence", "fox=0.2").refusal


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "._x", "@eaDir"])
def test_what_a_system_keeps_in_a_folder_is_in_no_exports_way(store: Store, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / name).touch()
    assert export(store, folder, "png") == 2
    with pytest.raises(ConfigError, match="holds something already"):
        export(store, folder, "png")
