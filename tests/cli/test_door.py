"""What leaves the command line: no name or reason moves a terminal, and a stream that can't be written is said."""

from __future__ import annotations

import ast
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ovlabel.cli import main
from ovlabel.cli.messages import say, say_all, say_json, send_to_stderr
from ovlabel.store.example import write_example

CLI = Path(__file__).parents[2] / "ovlabel" / "cli"
HOSTILE = "\x1b[2J\x9b31m\u202e\u2066\x07\r\nover\x7f\ud800"


def clean(text: str) -> bool:
    return all(letter.isprintable() or letter == "\n" for letter in text)


def calls(tree: ast.Module) -> list[str]:
    return [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", sorted(CLI.glob("*.py")), ids=lambda path: path.stem)
def test_only_one_file_writes_to_a_stream(path: Path) -> None:
    found = calls(ast.parse(path.read_text(encoding="utf-8")))
    written = {
        name for name in found if name == "print" or name.endswith((".echo", ".secho", "stdout.write", "stderr.write"))
    }
    assert written <= ({"print"} if path.stem == "messages" else set())


def test_a_line_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)
    say_all([HOSTILE, "cat"])
    say_json({"key": HOSTILE})
    out = capsys.readouterr().out
    assert clean(out)
    assert len(out.splitlines()) == 4
    assert json.loads(out.splitlines()[-1]) == {"key": HOSTILE}


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_message_stays_one_line(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    send_to_stderr(form)
    logging.getLogger("ovlabel").warning("%s: broken", HOSTILE)
    (line,) = capsys.readouterr().err.splitlines()
    assert clean(line)


def test_what_was_typed_is_printable_too(capsys: pytest.CaptureFixture[str]) -> None:
    for typed in (
        ["\x1b[2J"],
        ["status", "a", "\x1b[2Jb"],
        ["status", "--\x1b[2J"],
        ["annotate", "x", "--chunk", "\x1b["],
    ):
        assert main(typed) == 2
        assert clean(capsys.readouterr().err)


@pytest.mark.parametrize("what", ["created", "folder", "versions", "run", "written"])
def test_a_store_of_a_stranger_moves_no_terminal(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = write_example(tmp_path) / "images.ovlabel.zarr"
    node = json.loads((store / "zarr.json").read_text())
    attributes = node["attributes"]
    config = {
        "text": {"vocabulary": HOSTILE, "templates": HOSTILE},
        "encoder": {"model": HOSTILE, "weights": HOSTILE},
        "tiling": {"window": 1, "stride": HOSTILE, "short_side": HOSTILE},
        "stages": [{"use": HOSTILE}],
        "store": attributes["run"]["store"],
    }
    hostile = {"created": HOSTILE, "folder": HOSTILE, "versions": {"ovlabel": HOSTILE}, "run": config}
    attributes |= {"folder_from_store": "nowhere", "run": config, "written": {"config": config}}
    attributes |= {what: hostile.get(what, {"config": config})}
    (store / "zarr.json").write_text(json.dumps(node))
    for line in (
        ["status"],
        ["verify"],
        ["show", "a.png", "-o", str(tmp_path / "o.png")],
        ["show", HOSTILE[:5]],
        ["export", str(tmp_path / what)],
    ):
        main([line[0], str(store), *line[1:]])
        said = capsys.readouterr()
        assert clean(said.out), line
        assert clean(said.err), line


def run(line: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """A line of the shell, in which $O stands for the command."""
    environment = {**os.environ, "PYTHONPATH": str(CLI.parents[1]), "O": f"{sys.executable} -m ovlabel"}
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, env=environment, **more)


@pytest.mark.parametrize("to", [">&-", "> /dev/full"])
def test_a_stdout_that_can_not_be_written_is_said(to: str) -> None:
    done = run(f"$O presets {to}")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("ovlabel: stdout can't be written: ")


def test_without_stderr_and_stdin_the_command_does_its_work() -> None:
    done = run("$O presets 2>&- <&-")
    assert done.returncode == 0
    assert "sclip" in done.stdout


def test_a_reader_that_has_enough_is_no_reason_for_a_message() -> None:
    done = run("$O stages | head -c 1")
    assert (done.stdout, done.stderr) == ("a", "") or len(done.stdout) == 1
    assert done.stderr == ""


def test_a_list_from_a_closed_stdin_is_refused(tmp_path: Path) -> None:
    done = run(f"$O annotate {tmp_path} --list - <&-")
    assert (done.returncode, done.stderr) == (2, "ovlabel: --list -: stdin is closed\n")


def test_a_terminal_of_ascii_gets_escapes() -> None:
    done = run("LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 PYTHONIOENCODING=ascii COLUMNS=20 TERM=dumb $O vocab list")
    assert done.returncode == 0
    assert "Garc\\xeda" in done.stdout
    assert done.stderr == ""


def test_a_folder_that_was_deleted_under_the_command_is_said(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    done = run("rmdir ../gone; $O status x.zarr", cwd=tmp_path / "gone")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("ovlabel: the folder in which this command was started is not there")


@pytest.mark.parametrize("path", ["x" * 5000, "/".join(["y" * 200] * 25), "/dev/null/x"])
def test_a_path_that_no_file_can_have_is_refused_in_one_line(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    for line in (["annotate", path], ["status", path], ["vocab", "check", path], ["presets", f"{path}.toml"]):
        assert main(line) in (2, 4)
        assert "Traceback" not in capsys.readouterr().err
