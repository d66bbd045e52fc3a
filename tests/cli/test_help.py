"""Help, completion, and what both cost: a screen of words loads nothing that computes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ovlabel.cli import commands, main
from tests.cli.test_cli import Run, ovlabel

__all__ = ["ovlabel"]

COMMANDS = [
    "",
    *commands.COMMANDS,
    "stages loftup",
    "vocab list",
    "vocab show",
    "vocab check",
    "vocab describe",
]
LONG = {"annotate", "bench", "ablate", "score"}  # show every option there is, which takes more than one screen
HEAVY = "numpy scipy PIL zarr dask torch open_clip matplotlib huggingface_hub pyarrow rich".split()  # noqa: SIM905


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_on_a_screen_and_shows_an_example(
    command: str, ovlabel: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = ovlabel(*command.split(), "--help")
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert len(lines) <= (60 if command in LONG else 32 if not command else 28)
    assert max(len(line) for line in lines) <= 80
    assert said.out.startswith(f"Usage: ovlabel {command}".rstrip())
    assert ovlabel(*command.split(), "-h").out == said.out
    if command and not command.startswith("vocab "):
        assert "Example" in said.out
        assert f"    ovlabel {command}" in said.out


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
        "Cluster": ["--shard", "--workers", "--scheduler"],
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
    done = subprocess.run(
        [sys.executable, "-m", "ovlabel", "--show-completion", "bash"], capture_output=True, text=True, check=True
    )
    assert "_OVLABEL_COMPLETE=complete_bash" in done.stdout
    home = {**os.environ, "HOME": str(tmp_path)}
    line = [sys.executable, "-m", "ovlabel", "--install-completion", "bash"]
    subprocess.run(line, capture_output=True, text=True, check=True, env=home)
    assert "ovlabel" in (tmp_path / ".bashrc").read_text()


def test_a_mistyped_command_is_answered_with_the_nearest(ovlabel: Run) -> None:
    said = ovlabel("anotate", "x")
    assert said.code == 2
    assert "annotate" in said.err


def test_a_defect_says_where_to_report_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by a defect")

    monkeypatch.setattr("ovlabel.store.read.open_store", broken)
    assert main(["status", "x.zarr"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "ZeroDivisionError: by a defect" in said
    assert said.splitlines()[-1].startswith("ovlabel: this is a defect of ovlabel ")
    assert said.splitlines()[-1].endswith("https://github.com/ovlabel/ovlabel/issues")
