"""Help, completion, and what both cost: a screen of words loads nothing that computes."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from ovlabel.cli import app, commands
from ovlabel.cli.annotate import annotate
from ovlabel.run.options import RunOptions
from tests.cli.test_cli import Run, ovlabel

__all__ = ["ovlabel"]
ROOT = Path(__file__).parents[2]

COMMANDS = [
    "",
    *commands.COMMANDS,
    "stages loftup",
    "vocab list",
    "vocab show",
    "vocab check",
    "vocab describe",
]
LONG = {"annotate", "bench", "ablate", "score", "preview"}  # every option there is takes more than one screen
HEAVY = "numpy scipy PIL zarr dask torch open_clip matplotlib huggingface_hub pyarrow rich pydantic".split()  # noqa: SIM905


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_on_a_screen_and_shows_an_example(
    command: str, ovlabel: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = ovlabel(*command.split(), "--help")
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert len(lines) <= (60 if command in LONG else 34 if not command else 28)
    assert max(len(line) for line in lines) <= 80
    assert said.out.startswith(f"Usage: ovlabel {command}".rstrip())
    assert ovlabel(*command.split(), "-h").out == said.out
    assert "Example" in said.out
    assert f"    ovlabel {command}".rstrip() in said.out


def test_the_overview_describes_every_command_in_a_line_that_ends(
    ovlabel: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for command in ("", "stages", "vocab"):
        listed = ovlabel(*command.split(), "--help").out.partition("Commands:\n")[2].splitlines()
        assert listed
        assert all(line.endswith(".") and not line.endswith("...") for line in listed)


def test_the_help_of_annotate_shows_every_option_in_panels(ovlabel: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = ovlabel("annotate", "--help")
    panels: dict[str, list[str]] = {}
    title = ""
    for line in said.out.splitlines():
        if line and not line.startswith(" "):
            title = line.rstrip(":")
        elif line.startswith("  -"):
            panels.setdefault(title, []).append(line.split()[0].strip(","))
    assert panels == {
        "Images": ["--limit", "--include", "--exclude", "--list", "--retry-failed"],
        "Labels": ["--out", "--vocab", "--classes", "--preset", "--templates", "--set"],
        "Model": ["--model", "--weights", "--device", "--offline"],
        "Cron": ["--prune", "--wait", "--chunk"],
        "Cluster": ["--shard", "--workers", "--scheduler", "--wait-for-workers"],
        "Options": ["--json", "--log-format", "-h"],
    }
    assert "--help-all" not in said.out


def loaded(*arguments: str, **environment: str) -> tuple[str, list[str]]:
    """What another Python prints for a command, and which heavy modules it has loaded then."""
    code = (
        "import sys; from ovlabel.cli import main; code = main(sys.argv[1:])\n"
        f"print('LOADED', *[m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    shown, _, modules = done.stdout.rpartition("LOADED")
    return shown, modules.split()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_nothing_that_computes(command: str) -> None:
    shown, modules = loaded(*command.split(), "--help")
    assert shown.startswith("Usage: ovlabel")
    assert modules == []


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("ovlabel an", {"annotate"}),
        ("ovlabel annotate x --preset sc", {"sclip", "scclip"}),
        ("ovlabel annotate x --vocab voc", {"voc20", "voc21"}),
        ("ovlabel annotate x --templates top", {"top3", "top7"}),
        ("ovlabel annotate x --chunk 8 --preset nac", {"naclip"}),
        ("ovlabel annotate x --device c", {"cpu", "cuda"}),
        ("ovlabel annotate --log-format js", {"json"}),
        ("ovlabel stages lo", {"loftup"}),
        ("ovlabel stages loftup x --off", {"--offline"}),
        ("ovlabel ablate i t --preset nac", {"naclip"}),
        ("ovlabel vocab describe voc20", {"voc20"}),
        ("ovlabel export s o --format coco-p", {"coco-panoptic", "coco-polygons"}),
        ("ovlabel score s t --truth cam", {"camvid", "camvid-rgb"}),
        ("ovlabel presets nac", {"naclip"}),
        ("ovlabel vocab show coco-s", {"coco-stuff"}),
        ("ovlabel annotate x --pr", {"--preset", "--prune"}),
    ],
)
def test_a_shell_completes_names_without_loading_what_computes(typed: str, offered: set[str]) -> None:
    code = (
        "import sys, atexit; from ovlabel.cli import main\n"
        f"atexit.register(lambda: print('LOADED', *[m for m in {HEAVY} if m in sys.modules]))\n"
        "sys.exit(main([]))"
    )
    words = typed.split()
    environment = {"_OVLABEL_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    shown, _, modules = done.stdout.rpartition("LOADED")
    assert set(shown.split()) == offered
    assert modules.split() == []


def test_completion_can_be_shown_and_installed(tmp_path: Path) -> None:
    home = {**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    line = [sys.executable, "-m", "ovlabel", "--show-completion", "bash"]
    done = subprocess.run(line, capture_output=True, text=True, check=True, env=home)
    assert "_OVLABEL_COMPLETE=complete_bash" in done.stdout
    line = [sys.executable, "-m", "ovlabel", "--install-completion", "bash"]
    subprocess.run(line, capture_output=True, text=True, check=True, env=home)
    assert "ovlabel" in (tmp_path / ".bashrc").read_text()


def test_a_mistyped_command_is_answered_with_the_nearest(ovlabel: Run) -> None:
    said = ovlabel("anotate", "x")
    assert said.code == 2
    assert "annotate" in said.err


@pytest.fixture
def defect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `ovlabel status` and `ovlabel annotate` fail as they would by a mistake in the code."""

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by a defect")

    monkeypatch.setattr("ovlabel.run.job.prepare", broken)  # first: its import must not bind the other
    monkeypatch.setattr("ovlabel.store.read.open_store", broken)


@pytest.mark.usefixtures("defect")
def test_a_defect_says_where_to_report_it(ovlabel: Run) -> None:
    said = ovlabel("status", "x.zarr")
    assert said.code == 1
    assert "Traceback" in said.err
    assert "ZeroDivisionError: by a defect" in said.err
    assert said.err.splitlines()[-1].startswith("ovlabel: this is a defect of ovlabel ")
    assert said.err.splitlines()[-1].endswith("https://github.com/ovlabel/ovlabel/issues")


@pytest.mark.usefixtures("defect")
def test_a_defect_is_reported_as_json_lines_where_these_are_asked_for(ovlabel: Run) -> None:
    said = ovlabel("annotate", "x", "--log-format", "json")
    assert said.code == 1
    trace, report = (json.loads(line) for line in said.err.splitlines())
    assert trace["message"].endswith("ZeroDivisionError: by a defect")
    assert report["message"].endswith("https://github.com/ovlabel/ovlabel/issues")


@pytest.mark.usefixtures("defect")
def test_a_defect_of_a_checkout_that_is_not_installed_is_told_too(
    ovlabel: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "metadata", missing)
    said = ovlabel("status", "x.zarr")
    assert said.code == 1
    assert said.err.splitlines()[-1].endswith("please report it, with the lines above")


def test_the_address_of_issues_is_that_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["urls"]["Issues"] == "https://github.com/ovlabel/ovlabel/issues"
    assert {"Homepage", "Documentation", "Issues", "Changelog"} == set(project["urls"])


def rows(command: str) -> set[str]:
    """The options of a command in the tables of the manual."""
    manual = (ROOT / "ovlabel" / "cli" / "README.md").read_text(encoding="utf-8")
    section = manual.partition(f"\n### `ovlabel {command}`\n")[2].partition("\n#")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    return {option for cell in cells for option in re.findall(r"--[a-z][a-z-]*", cell)}


@pytest.mark.parametrize("command", [command for command in COMMANDS if command])
def test_the_manual_lists_every_option(command: str) -> None:
    found: Any = typer.main.get_command(app)
    context = typer.Context(found)
    for name in command.split():
        found = found.get_command(context, name)
    options = {option for one in found.params for option in one.opts if option.startswith("--")}
    assert rows(command) == options


def test_the_default_size_of_a_commit_is_that_of_the_library() -> None:
    """The command line names it itself, since its help imports nothing of a run."""
    assert inspect.signature(annotate).parameters["chunk"].default == RunOptions.chunk_size


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("annotate", "Missing argument 'FOLDER'"),
        ("annotate x --chunk 0", "Invalid value for '--chunk'"),
        ("annotate x --chunk -1", "Invalid value for '--chunk'"),
        ("annotate x --chunk ten", "Invalid value for '--chunk'"),
        ("annotate x --chunk 99999999999999999999 y", "unexpected extra argument(s) (y)"),
        ("demo x --scenes 100", "Invalid value for '--scenes'"),
        ("score s t --min-miou much", "Invalid value for '--min-miou'"),
        ("status", "Missing argument 'STORE'"),
    ],
)
def test_what_was_typed_wrongly_is_named(typed: str, message: str, ovlabel: Run) -> None:
    said = ovlabel(*typed.split())
    assert said.code == 2
    assert message in said.err


def test_presets_refuses_what_annotate_would_refuse(ovlabel: Run, tmp_path: Path) -> None:
    assert "unknown vocabulary 'vco21'" in ovlabel("presets", "naclip", "--vocab", "vco21").refusal
    own = tmp_path / "own.toml"
    for field in ("foo = 1", 'sigma = "x"', "sigma = -5"):
        own.write_text(f'title = "Own"\n[[stages]]\nuse = "neighbours"\n{field}\n')
        said = ovlabel("presets", own)
        assert said.code == 2
        assert said.out == ""
