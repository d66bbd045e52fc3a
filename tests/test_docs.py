"""The manual: links lead somewhere, Python blocks run, commands exist, TOML is read, every public name has an example.

Every failure names the Markdown file (or module) and the line.
"""

from __future__ import annotations

import doctest
import importlib
import json
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image

import ovlabel
from ovlabel.cli import main
from ovlabel.settings.keys import SECTIONS
from ovlabel.text.templates import load_templates, template_names
from ovlabel.text.vocabulary import load_vocabulary, vocabulary_names
from tests.conftest import TINY_MODEL
from tests.manual import (
    INLINE,
    LINK,
    MANUAL,
    ROOT,
    Block,
    anchors,
    blocks,
    files_with,
    first_columns,
    named,
    of,
    ovlabel_calls,
    prose,
    statements,
)

_README_BYTES, _PICTURE_BYTES = 9_000, 300_000


# Links


@pytest.mark.parametrize("path", MANUAL, ids=named)
def test_every_relative_link_leads_to_a_file_and_a_heading_that_exist(path: Path) -> None:
    broken = []
    for number, line in enumerate(prose(path), start=1):
        for link in LINK.finditer(INLINE.sub("", line)):
            place, _, anchor = link["target"].partition("#")
            if re.match(r"[a-z]+:", place):
                continue
            target = (path.parent / place) if place else path
            if not target.exists():
                broken.append(f"{named(path)}:{number}: {link['target']} is not there")
            elif anchor and anchor not in anchors(target):
                broken.append(f"{named(path)}:{number}: {link['target']}: {named(target)} has no such heading")
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("path", MANUAL, ids=named)
def test_every_script_that_a_page_names_exists(path: Path) -> None:
    named_scripts = re.findall(r"\btests/[\w/]+\.py\b", path.read_text(encoding="utf-8"))
    assert [name for name in named_scripts if not (ROOT / name).is_file()] == []


# The front page


def test_the_front_page_is_short() -> None:
    assert (ROOT / "README.md").stat().st_size <= _README_BYTES


def test_the_picture_of_the_front_page_is_small() -> None:
    (picture,) = re.findall(r"!\[[^]]+\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert (ROOT / picture).stat().st_size <= _PICTURE_BYTES
    with Image.open(ROOT / picture) as shown:
        assert min(shown.size) >= 400


def test_the_front_page_has_one_test_command_where_the_checks_look_for_it() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    _, marker, rest = text.partition("<!-- tests -->\n```sh\n")
    assert marker
    command = rest.partition("```")[0].splitlines()
    assert len(command) == 1
    assert command[0].startswith("python3 ")
    assert command[0].endswith("-m pytest -n auto --dist loadfile")


def test_the_front_page_leads_to_every_other_page_of_the_manual() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    elsewhere = {ROOT / "README.md", ROOT / "tests" / "golden" / "README.md"}
    assert [named(path) for path in MANUAL if path not in elsewhere and f"]({named(path)})" not in text] == []


# Code


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the manual's examples work on.

    `images` holds three photographs (beach.jpg, holiday/beach.jpg, holiday/sea.png), `images.ovlabel.zarr` their store
    (COCO-Stuff, a tiny model of random weights), `ground_truth` a mask of every image in indices of the vocabulary,
    `tiny.json` that model.
    """
    place = tmp_path_factory.mktemp("manual")
    random = np.random.default_rng(0)
    for key in ("beach.jpg", "holiday/beach.jpg", "holiday/sea.png"):
        small = Image.fromarray(random.integers(0, 255, (4, 5, 3), dtype=np.uint8))
        mask = Image.fromarray(np.full((48, 60), 3, np.uint8))
        for folder, picture, name in (("images", small.resize((60, 48)), key), ("ground_truth", mask, key)):
            path = (place / folder / name).with_suffix(Path(key).suffix if folder == "images" else ".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    (place / "tiny.json").write_text(json.dumps(TINY_MODEL))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVLABEL_CACHE", str(tmp_path_factory.mktemp("cache")))
        config = ovlabel.load_config("sclip", tiny(place))
        assert sum(len(report.done) for report in ovlabel.annotate(place / "images", config)) == 3
    return place


def tiny(place: Path) -> dict[str, Any]:
    """A model of random weights and small windows, in place of CLIP's weights, which tests don't have."""
    return {
        "encoder.model": str(place / "tiny.json"),
        "encoder.weights": "random:0",
        "text.templates": "simple",
        "tiling.short_side": 64,
        "tiling.window": 48,
        "tiling.stride": 32,
    }


@pytest.fixture
def worked_on(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `place` as the working folder; `load_config` takes the tiny model where an example names no other."""
    folder = tmp_path / "manual"
    shutil.copytree(place, folder)
    monkeypatch.chdir(folder)
    load = ovlabel.load_config

    def with_tiny(name: str, overrides: Any = None) -> Any:
        return load(name, {**tiny(folder), **(overrides or {})})

    monkeypatch.setattr(ovlabel, "load_config", with_tiny)
    return folder


@pytest.mark.parametrize("path", files_with("python"), ids=named)
def test_python_blocks_run_one_after_another(path: Path, worked_on: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one page are one module; a traceback shows the page's own lines."""
    page = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", page)  # where dataclasses look their annotations up
    names = vars(page)
    for block in blocks(path):
        if block.language != "python":
            continue
        if block.text.startswith(">>> "):
            run_examples(doctest.DocTestParser().get_doctest(block.text, names, str(block), str(path), block.line - 1))
        else:
            exec(compile("\n" * (block.line - 1) + block.text, str(path), "exec", dont_inherit=True), names)


def run_examples(examples: doctest.DocTest) -> None:
    """Run `>>>` lines; their output may leave out parts with `...`."""
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert runner.run(examples, out=said.append, clear_globs=False).failed == 0, "".join(said)


@pytest.mark.parametrize("block", of("toml"), ids=str)
def test_toml_blocks_are_what_they_say_they_are(block: Block, tmp_path: Path) -> None:
    """Vocabularies, template sets and presets are read as such; anything else must be TOML."""
    table = tomllib.loads(block.text)
    path = tmp_path / "example.toml"
    path.write_text(block.text, encoding="utf-8")
    if "class" in table:
        assert load_vocabulary(str(path)).classes
    elif "templates" in table:
        assert load_templates(str(path)).by_kind
    elif table.keys() & {"stages", *SECTIONS}:
        assert ovlabel.load_config(str(path))


# Commands


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """What the real command line says against some arguments; nothing is run. Empty where it takes them."""
    from typer.main import get_command

    from ovlabel.cli import app

    group = get_command(app)
    command = next(cls for cls in type(group).__mro__ if cls.__name__ == "Command")
    monkeypatch.setattr(command, "invoke", lambda self, context: None)

    def parsed(arguments: list[str]) -> str:
        code = main(arguments)
        output = capsys.readouterr()
        return "" if code == 0 else (output.err or output.out or f"exit code {code}")

    return parsed


@pytest.mark.parametrize("block", of("sh", "bash", "console", "cron", "ini"), ids=str)
def test_every_command_of_a_block_exists_with_its_options(
    block: Block, parse: Callable[[list[str]], str], worked_on: Path
) -> None:
    refused = []
    for number, line in statements(block):
        calls = ovlabel_calls(line)
        refused += [
            f"{named(block.path)}:{number}: {shlex.join(call)}\n{said}" for call in calls if (said := parse(call))
        ]
    assert not refused, "\n".join(refused)


@pytest.mark.parametrize("path", [path for path in MANUAL if path.name != "CHANGELOG.md"], ids=named)
def test_every_command_named_in_a_sentence_exists_with_its_options(
    path: Path, parse: Callable[[list[str]], str], worked_on: Path
) -> None:
    """Arguments may be missing there: `--help` behind the command takes their place."""
    refused = []
    for number, line in enumerate(prose(path), start=1):
        whole = [
            code for code in INLINE.findall(line) if code.startswith("ovlabel ") and not re.search(r"[…|\[\]]", code)
        ]
        calls = [[*call, "--help"] for code in whole for call in ovlabel_calls(code)]
        refused += [f"{named(path)}:{number}: {shlex.join(call)}\n{said}" for call in calls if (said := parse(call))]
    assert not refused, "\n".join(refused)


# Tables that repeat what files say


def test_the_page_of_vocabularies_lists_each_with_its_number_of_classes() -> None:
    rows = first_columns(ROOT / "vocabularies" / "README.md", 2)
    assert {(name, len(load_vocabulary(name).classes)) for name in vocabulary_names()} <= {
        (name, int(count)) for name, count in rows if count.isdigit()
    }


def test_the_page_of_templates_lists_each_with_its_number_of_sentences() -> None:
    rows = first_columns(ROOT / "templates" / "README.md", 2)
    counts = {name: load_templates(name).by_kind["thing"] for name in template_names()}
    assert {(name, len(sentences)) for name, sentences in counts.items()} <= {
        (name, int(count)) for name, count in rows if count.isdigit()
    }


def test_the_page_of_the_house_lists_its_wings_as_the_import_rules_do() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = next(contract["layers"] for contract in contracts["contracts"] if contract["type"] == "layers")
    wings = [name.strip() for layer in layers for name in layer.split("|")]
    rows = [row[0].removesuffix(".py").removesuffix("/") for row in first_columns(ROOT / "ovlabel" / "README.md", 1)]
    assert [row for row in rows if row in wings] == wings


def test_every_file_that_the_page_of_the_house_names_exists() -> None:
    text = "\n".join(prose(ROOT / "ovlabel" / "README.md"))
    files = [code for code in INLINE.findall(text) if re.fullmatch(r"[\w/]+\.(py|toml)", code) and "NAME" not in code]
    assert len(files) > 10
    assert [name for name in files if not (ROOT / "ovlabel" / name).is_file()] == []


# Examples in docstrings

MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "ovlabel").rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_run(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for examples in doctest.DocTestFinder().find(importlib.import_module(module), module):
        run_examples(examples)


def test_every_public_name_has_an_example() -> None:
    without = [name for name in ovlabel.__all__ if ">>> " not in (getattr(ovlabel, name).__doc__ or "")]
    assert not without, f"no 'Example:' with >>> lines in the docstrings of {', '.join(without)}"


# What is tested above is found: these tests must be able to fail.


def _refuse(*_: object) -> NoReturn:
    raise AssertionError("a command was run")


@pytest.mark.parametrize(
    ("line", "calls"),
    [
        ("ovlabel demo", [["demo"]]),
        (".venv/bin/pip install . && .venv/bin/ovlabel demo", [["demo"]]),
        ('ovlabel annotate . --classes "cat, dog"  # a comment', [["annotate", ".", "--classes", "cat, dog"]]),
        ("15 3 * * *  ovlabel annotate /data --wait 2>>/var/log/o.log", [["annotate", "/data", "--wait"]]),
        ("find . | ovlabel annotate . --list - > out; ovlabel doctor", [["annotate", ".", "--list", "-"], ["doctor"]]),
        ("ExecStart=/opt/bin/ovlabel status s.zarr", [["status", "s.zarr"]]),
        ("python tests/benchmarks/codecs.py STORE", []),
    ],
)  # fmt: skip
def test_commands_are_found_in_lines(line: str, calls: list[list[str]]) -> None:
    assert list(ovlabel_calls(line)) == calls


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["annotate", "images", "--vocabulary", "voc20"], "--vocabulary"),
        (["anotate", "images"], "anotate"),
        (["vocab", "shaw", "voc20"], "shaw"),
        (["annotate"], "folder"),
        (["annotate", "images", "--vocab", "voc20", "--limit", "many"], "--limit"),
    ],
)
def test_a_command_that_does_not_exist_is_refused(
    arguments: list[str], words: str, parse: Callable[[list[str]], str]
) -> None:
    assert words in parse(arguments).lower()


def test_a_command_that_exists_is_taken_and_not_run(
    parse: Callable[[list[str]], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ovlabel.demo.scenes.draw", _refuse)
    assert parse(["demo"]) == ""
    assert list(tmp_path.iterdir()) == []


def test_headings_become_anchors_and_blocks_are_no_prose(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One `two`, three!\n## Same\n## Same\n```sh\n# no heading\n```\n[a](#one-two-three)\n")
    assert anchors(page) == {"one-two-three", "same", "same-1"}
    assert [(block.line, block.text) for block in blocks(page)] == [(5, "# no heading\n")]
