"""Lists of classes in the forms of other tools: read as they mean, or refused by name; what is odd is said."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ovlabel.errors import ConfigError
from ovlabel.formats import export
from ovlabel.text.vocabulary import MOST_CLASSES, Vocabulary, check, doubts, load_vocabulary, vocabulary_names
from tests.cli.test_cli import Run, ovlabel
from tests.evaluation.test_scores import annotated
from tests.hostile import MIB, refused

__all__ = ["ovlabel"]
pytestmark = pytest.mark.usefixtures("no_hang")


def listed(folder: Path, name: str, content: str | bytes) -> Vocabulary:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_vocabulary(str(path))


def names(vocabulary: Vocabulary) -> list[str]:
    return [entry.name for entry in vocabulary.classes]


PERSON_CAR: dict[str, list[str | bytes]] = {
    "data.yaml": [
        "names: [person, car]\n",
        "names:\n  0: person\n  1: car\n",
        "path: .\nnc: 2\nnames: ['person', \"car\"]\n",
        "- person\n- car\n",
        "0: person\n1: car\n",
        "person: 0\ncar: 1\n",
        "%YAML 1.2\n---\nclasses:\n- person\n- car\n...\n",
        "names:\n  1: car\n  0: person\n",
        "categories:\n- name: person\n- name: car\n",
    ],
    "c.json": [
        '["person", "car"]',
        '{"0": "person", "1": "car"}',
        '{"1": "car", "0": "person"}',
        '{"person": 0, "car": 1}',
        '{"id2label": {"0": "person", "1": "car"}, "label2id": {"person": 0, "car": 1}}',
        '{"names": ["person", "car"]}',
        '[{"name": "person", "attributes": []}, {"name": "car"}]',
        '{"classes": [{"title": "person"}, {"title": "car"}]}',
    ],
    "c.csv": [
        "name\nperson\ncar\n",
        "person\ncar\n",
        "index,name\n0,person\n1,car\n",
        "0,person\n1,car\n",
        "Class;Index\nperson;0\ncar;1\n",
        '"name"\n"person"\n"car"\n',
        "name\tindex\nperson\t0\ncar\t1\n",
        "person,0\ncar,1\n",
    ],
    "c.txt": [
        "person\ncar\n",
        "\ufeffperson\r\ncar\r\n",
        "person\rcar",
        "person\ncar\n".encode("utf-16"),
        b"\xfe\xff" + "person\ncar".encode("utf-16-be"),
        "0: person\n1: car\n",
        "0 person\n1 car\n",
        "0\tperson\n1\tcar\n",
        "0. person\n1. car",
        "0) person\n1) car",
        "1: car\n0: person\n",
        "person 0\ncar 1\n",
        "person: 0\ncar: 1\n",
        "0,person\n1,car\n",
        "- person\n- car\n",
        "* person\n* car\n",
        '"person",\n"car",\n',
        "'person'\n'car'\n",
        "# my classes\nperson\n// bus\n#bus\n\ncar  # with wheels\n",
        '["person", "car"]',
        "['person', 'car']",
        "names: [person, car]\n",
        "names:\n- person\n- car\n",
        '{"0": "person", "1": "car"}',
        "__ignore__\nperson\ncar\n",
        "index,name\n0,person\n1,car\n",
        "  person  \n\n  car",
        "| index | name |\n|---|---|\n| 0 | person |\n| 1 | car |\n",
        "[[class]]\nname = 'person'\n[[class]]\nname = 'car'\n",
    ],
}


@pytest.mark.parametrize(
    ("name", "content"), [(name, content) for name, contents in PERSON_CAR.items() for content in contents]
)
def test_a_known_form_is_read_as_it_means(tmp_path: Path, name: str, content: str | bytes) -> None:
    vocabulary = listed(tmp_path, name, content)
    assert [(entry.name, entry.synonyms, entry.id) for entry in vocabulary.classes] == [
        ("person", (), None), ("car", (), None)
    ]  # fmt: skip
    assert vocabulary.background is None
    assert vocabulary.classes[0].kind == "thing"


@pytest.mark.parametrize("first", ["background", "Background", "BACKGROUND", "_background_", "__background__"])
@pytest.mark.parametrize(
    "form", ["{}\ncat\n", "0: {}\n1: cat\n", '["{}", "cat"]', "index,name\n0,{}\n1,cat\n", "names: [{}, cat]"]
)
def test_a_first_class_called_background_is_the_background(tmp_path: Path, first: str, form: str) -> None:
    vocabulary = listed(tmp_path, "c.txt", form.replace("{}", first))
    assert vocabulary.background == 0
    assert names(vocabulary) == ["background", "cat"]
    assert vocabulary.classes[0].asked == ("background",)
    assert vocabulary.classes[0].kind == "stuff"
    assert doubts(vocabulary) == []


def test_labelmes_and_cvats_lists_are_read(tmp_path: Path) -> None:
    labelme = listed(tmp_path, "labels.txt", "__ignore__\n_background_\nperson\n")
    assert (names(labelme), labelme.background) == (["background", "person"], 0)
    assert "__ignore__ is labelme's mark" in doubts(labelme)[0]
    label_map = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nperson:192,128,128:hand,foot:\ncar:::\n"
    cvat = listed(tmp_path, "labelmap.txt", label_map)
    assert (names(cvat), cvat.background) == (["background", "person", "car"], 0)
    assert [entry.colour for entry in cvat.classes] == [(0, 0, 0), (192, 128, 128), None]
    camvid = listed(tmp_path, "label_colors.txt", "64 128 64\tAnimal\n192 0 128\t\tArchway\n")
    assert [(entry.name, entry.colour) for entry in camvid.classes] == [
        ("Animal", (64, 128, 64)),
        ("Archway", (192, 0, 128)),
    ]


def test_ids_colours_kinds_and_groups_are_kept(tmp_path: Path) -> None:
    categories = [
        {"id": 1, "name": "person", "supercategory": "human", "isthing": 1, "color": [220, 20, 60]},
        {"id": 92, "name": "banner", "supercategory": "textile", "isthing": 0, "color": "#ffffff"},
    ]
    for content in (categories, {"categories": categories, "images": [], "annotations": []}):
        found = listed(tmp_path, "c.json", json.dumps(content)).classes
        assert [(c.name, c.id, c.group, c.kind, c.colour) for c in found] == [
            ("person", 1, "human", "thing", (220, 20, 60)), ("banner", 92, "textile", "stuff", (255, 255, 255))
        ]  # fmt: skip
    table = "id,name,r,g,b\n7,road,128,64,128\n8,sidewalk,244,35,232\n"
    found = listed(tmp_path, "c.csv", table).classes
    assert [(c.name, c.id, c.colour) for c in found] == [("road", 7, (128, 64, 128)), ("sidewalk", 8, (244, 35, 232))]
    assert [c.id for c in listed(tmp_path, "c.txt", "1: a\n2: b\n").classes] == [1, 2]


def test_names_stay_as_they_are_written(tmp_path: Path) -> None:
    assert names(listed(tmp_path, "c.yaml", "- no\n- 1e3\n- 0x1F\n- ~x\n- 'null'\n- 2024-01-01\n")) == [
        "no", "1e3", "0x1F", "~x", "null", "2024-01-01"
    ]  # fmt: skip
    assert names(listed(tmp_path, "c.txt", '"door, wooden"\nbed\n')) == ["door, wooden", "bed"]
    assert names(listed(tmp_path, "c.csv", 'id,name\n1,"door, wooden"\n2,a;b\n')) == ["door, wooden", "a;b"]
    assert names(listed(tmp_path, "c.csv", "index,name\n0,'=1+1\n1,'@x\n2,O'Brien\n")) == ["=1+1", "@x", "O'Brien"]
    plain = ["N/A", "100%", "café crème", "猫", "C++", "O'Brien", "a & b", "$HOME", "3d printer", "C# code", "😀"]
    assert names(listed(tmp_path, "c.txt", "\n".join(plain))) == plain
    for lines in (
        ["2 door car", "4 door car"],
        ["zone 1", "zone 2"],
        ["boeing 707", "boeing 747"],
        ["person", "1: car"],
    ):
        assert names(listed(tmp_path, "c.txt", "\n".join(lines))) == lines


def test_the_lists_of_the_sclip_family_are_read_as_ever(tmp_path: Path) -> None:
    lines = "sky, wall, tree, wood, grass, road\nperson, person in shirt\ntelevision monitor; tv monitor\nwall-brick\n"
    vocabulary = listed(tmp_path, "cls_voc21.txt", lines)
    asked = [list(entry.asked) for entry in vocabulary.classes]
    assert asked[0] == ["sky", "wall", "tree", "wood", "grass", "road"]
    assert asked[1:] == [["person", "person in shirt"], ["television monitor", "tv monitor"], ["wall-brick"]]
    assert (vocabulary.background, names(vocabulary)[0]) == (0, "background")
    assert doubts(vocabulary) == []


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("c.txt", "0: a\n2: b\n", "the number 1 is missing"),
        ("c.txt", "7: a\n8: b\n", "its numbers begin with 7"),
        ("c.txt", "0: a\n0: b\n", "the number 0 is there twice"),
        ("c.yaml", "names:\n  0: a\n  3: b\n", "the number 1 is missing"),
        ("c.yaml", "names:\n  0: a\n  0: b\n", "the key '0' is there twice"),
        ("c.json", '{"0": "a", "0": "b"}', "the key '0' is there twice"),
        ("c.json", '["a", "a"]', "class a is there twice"),
        ("c.csv", "index,name\n0,a\n2,b\n", "the number 1 is missing"),
        ("c.csv", "index,name\n0,a\n,b\n", "a row has no number in the column index"),
        ("c.csv", "id,name\n0,a\n1,\n", "class 1 of the list is ''"),
        ("c.csv", "person,people\ncar,auto\n", "names no column of names"),
        ("c.json", '["a", null]', "class 1 of the list is None, not a name"),
        ("c.json", '["a", ["b"]]', "not a name"),
        ("c.json", '{"a": {"b": 1}}', "holds no list of classes"),
        ("c.json", '"a"', "holds no list of classes"),
        ("c.json", "[]", "holds no class"),
        ("c.json", "", "not valid JSON"),
        ("c.json", '["a",]', "not valid JSON"),
        ("c.jsonl", '{"name": "a"}\n{"name": "b"}\n', "not valid JSON: Extra data"),
        ("c.yaml", "names: a\n", "holds no list of classes"),
        ("c.yaml", "a\nb\n", "holds no list of classes"),
        ("c.yaml", "", "holds no list of classes"),
        ("c.yaml", "- [a\n", "not valid YAML"),
        ("c.yaml", "- a\n- ~\n", "not a name"),
        ("c.yaml", "--- [a]\n--- [b]\n", "several documents"),
        ("c.yaml", "a: &x [b]\nnames: *x\n", "anchors and aliases"),
        ("c.yaml", "names: !!python/object/apply:os.system [touch x]\n", "the tag"),
        ("c.yaml", "? [a]\n: b\n", "a key of it is no text"),
        ("c.txt", "# a\n// b\n", "holds no class"),
        ("c.txt", "__ignore__\n", "holds no class"),
        ("c.txt", "n01440764 tench, Tinca tinca\n", "numbers of WordNet"),
        ("c.txt", "<!DOCTYPE html>\n<html>", "a page of HTML or XML"),
        ("c.txt", '<?xml version="1.0"?><annotation>', "a page of HTML or XML"),
        ("c.pbtxt", 'item {\n  id: 1\n  name: "a"\n}\n', "a label map of TensorFlow"),
        ("c.py", "CLASSES = ('a', 'b')\n", "Python code"),
        ("c.txt", "names = ['a', 'b']\n", "Python code"),
        ("c.txt", b"\x89PNG\r\n\x1a\n", "a PNG image"),
        ("c.txt", b"\xff\xd8\xff\xe0", "a JPEG image"),
        ("c.csv", b"PK\x03\x04", "a zip file (.xlsx"),
        ("c.txt", b"\x1f\x8b\x08", "a gzip file"),
        ("c.txt", b"\x7fELF\0\0", "a binary file"),
        ("c.txt", "a\nb\n".encode("utf-16-le"), "UTF-16 without a byte order mark (save it as UTF-8)"),
        ("c.txt", b"caf\xe9\n", "byte 3 is not UTF-8; save it as UTF-8"),
    ],
)  # fmt: skip
def test_everything_else_is_refused_by_name(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    message = refused(ConfigError, lambda: listed(tmp_path, name, content))
    assert said in message
    assert str(tmp_path / name) in message


HUGE: dict[str, Callable[[], tuple[str, str]]] = {
    "lists in lists": lambda: ("c.json", "[" * 200_000),
    "lists in lists of YAML": lambda: ("c.yaml", "[" * 200_000),
    "mappings in mappings": lambda: ("c.yaml", "{a: " * 100_000),
    "lists below lists": lambda: ("c.yaml", "- " * 100_000),
    "a billion laughs": lambda: (
        "c.yaml", "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
    ),
    "a number without end": lambda: ("c.json", "{" + f'"{"9" * 100_000}": "a"' + "}"),
    "a large number": lambda: ("c.txt", "999999999: a\n"),
    "blanks": lambda: ("c.txt", "a" + " " * 500_000 + "# b\nn" + " " * 500_000 + "1x" + "\n" * 500_000),
    "a long line of quotes": lambda: ("c.txt", "\"a,'b;" * 50_000 + "\x1b"),
    "one cell": lambda: ("c.csv", "id,name\n0," + "x" * 500_000),
    "colons": lambda: ("c.txt", "a:" * 300_000),
}  # fmt: skip


@pytest.mark.parametrize("name", HUGE)
def test_a_hostile_list_is_refused_soon(tmp_path: Path, name: str) -> None:
    file, content = HUGE[name]()
    start = time.monotonic()
    refused(ConfigError, lambda: listed(tmp_path, file, content), 200 * MIB)
    assert time.monotonic() - start < 10


def test_a_list_holds_as_many_classes_as_labels_have_room_for(tmp_path: Path) -> None:
    many = [f"class number {index}x" for index in range(MOST_CLASSES + 1)]
    with pytest.raises(ConfigError, match="65535 classes; labels of 16 bits have room for 65534"):
        listed(tmp_path, "c.json", json.dumps(many))


OWN = [("cat", "dog", "sky", "wall-brick"), ("background", "door, wooden", "no", "a;b"), ("=1+1", "N/A", "7", "猫's")]


@pytest.mark.parametrize("words", OWN)
@pytest.mark.parametrize(
    ("form", "file"),
    [("yolo-seg", "data.yaml"), ("png", "classes.csv"), ("parquet", "id2label.json"), ("cvat-masks", "labelmap.txt")],
)
def test_what_an_export_writes_beside_the_labels_reads_back(
    tmp_path: Path, words: tuple[str, ...], form: str, file: str
) -> None:
    store = annotated(tmp_path, {"x.png": np.zeros((4, 5), int)})
    colours = [(0, 0, 0) if word == "background" else (index, 200, 10) for index, word in enumerate(words)]
    classes = [replace(c, name=w, colour=rgb) for c, w, rgb in zip(store.classes, words, colours, strict=True)]
    store.manifest = replace(store.manifest, classes=tuple(classes))
    export(store, tmp_path / "out", form)
    vocabulary = load_vocabulary(str(tmp_path / "out" / file))
    assert names(vocabulary) == list(words)
    assert vocabulary.background == (0 if words[0] == "background" else None)
    if form in ("png", "cvat-masks"):
        assert vocabulary.colours == colours
    if form == "png":
        assert [entry.kind for entry in vocabulary.classes[1:]] == [entry.kind for entry in classes[1:]]


@pytest.mark.parametrize("name", vocabulary_names())
def test_no_built_in_name_is_odd(name: str) -> None:
    assert doubts(load_vocabulary(name)) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("7", "is a number"),
        ("7: car", "begins with a number"),
        ("// car", "looks like a comment"),
        ('"car', "has quotation marks"),
        ("[car", "has brackets"),
        ("car}", "has brackets"),
        ("- car", "begins with a bullet"),
        ("_ignored_", "is a marker of a labelling tool"),
        ("name: car", "has a mark that lists use"),
        ("null", "stands for no thing"),
        ("void", "stands for no class"),
        ("unlabeled", "stands for no class"),
        ("car\u200b", "a letter that is not seen"),
        ("cafÃ©", "letters of another encoding"),
        ("caf\ufffd", "letters of another encoding"),
        ("car.jpg", "is the name of a file"),
        ("a photo of a car that stands in the shade of a large old tree", "as long as a sentence"),
        ("Background", "is asked like any other class"),
    ],
)
def test_what_looks_odd_is_said(tmp_path: Path, name: str, said: str) -> None:
    toml = listed(
        tmp_path, "c.toml", f"[[class]]\nname = 'cat'\n[[class]]\nname = {json.dumps(name, ensure_ascii=False)}\n"
    )
    assert names(toml) == ["cat", name]
    assert any(said in doubt for doubt in doubts(toml))
    assert set(doubts(toml)) <= set(check(toml))


def test_a_list_that_says_another_number_of_classes_is_doubted(tmp_path: Path) -> None:
    assert "nc says 3, but names holds 2" in doubts(listed(tmp_path, "c.yaml", "nc: 3\nnames: [a, b]\n"))[0]


def test_names_that_differ_in_case_or_accents_are_said(tmp_path: Path) -> None:
    found = check(listed(tmp_path, "c.txt", "Grass\ngrass\nT-shirt\ntshirt\ncafé\ncafe\u0301\n"))
    assert any("'grass' is asked for Grass and grass" in line for line in found)
    assert any("'t-shirt', 'tshirt' are nearly the same" in line for line in found)
    assert any("café" in line for line in found)


def test_names_and_files_that_are_mixed_up_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("cat\n")
    os.mkfifo(tmp_path / "pipe")
    assert "'mine.txt' is a vocabulary of its own: --vocab mine.txt" in doubts(load_vocabulary("classes:mine.txt"))[0]
    assert "'coco-stuff' is a vocabulary of its own" in doubts(load_vocabulary("classes:coco-stuff, cat"))[0]
    for name, said in (
        ("cat, dog", "names are given with --classes"),
        (".", "is a folder"),
        ("./pipe", "a pipe or a device"),
    ):
        assert said in refused(ConfigError, lambda: load_vocabulary(name))  # noqa: B023


def test_the_command_line_says_what_looks_odd(tmp_path: Path, ovlabel: Run) -> None:
    (tmp_path / "c.txt").write_text("person\n1: car\n")
    said = ovlabel("vocab", "check", tmp_path / "c.txt")
    assert said.code == 0
    assert "look at: '1: car' begins with a number" in said.out
    (tmp_path / "c.txt").write_text("cat\ncat\u202e\u200b\n")
    for command in ("check", "show"):
        assert all(line.isprintable() for line in ovlabel("vocab", command, tmp_path / "c.txt").out.splitlines())
    (tmp_path / "c.txt").write_text("<html>")
    assert "a page of HTML" in ovlabel("vocab", "check", tmp_path / "c.txt").refusal
