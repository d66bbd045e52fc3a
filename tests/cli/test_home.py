"""A user without a home folder: a container, a batch system, `env -i`."""

from __future__ import annotations

import os
import pwd
import tempfile
from pathlib import Path

import pytest

from ovlabel import files
from ovlabel.cli import main


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Neither $HOME nor an entry in passwd; the folder of temporary files."""

    def missing(_: int) -> None:
        raise KeyError("no such user")

    for name in ("HOME", "OVLABEL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", missing)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    files._tell.cache_clear()
    return tmp_path


def test_the_cache_lies_in_a_private_temporary_folder_and_one_line_says_so(
    homeless: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ovlabel")
    home = homeless / f"ovlabel-home-{os.getuid()}"
    assert files.cache_dir() == files.cache_dir() == home / ".cache" / "ovlabel"
    assert home.stat().st_mode & 0o777 == 0o700
    (message,) = caplog.messages
    assert "OVLABEL_CACHE" in message
    assert str(home) in message


@pytest.mark.parametrize("theirs", ["open to all", "a link", "a file"])
def test_a_folder_that_somebody_else_may_have_filled_is_not_taken(theirs: str, homeless: Path) -> None:
    home = homeless / f"ovlabel-home-{os.getuid()}"
    if theirs == "a file":
        home.touch()
    elif theirs == "a link":
        (homeless / "other").mkdir()
        home.symlink_to(homeless / "other")
    else:
        home.mkdir()
        home.chmod(0o777)
    cache = files.cache_dir()
    assert not cache.is_relative_to(homeless)
    assert not files.write_atomic(cache / "x", b"x")
    assert files.file_sha256(Path(__file__))


def test_without_a_temporary_folder_there_is_no_cache(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    assert not files.write_atomic(files.cache_dir() / "x", b"x")


def test_commands_work_without_a_home(homeless: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in (["presets"], ["vocab", "check", "voc21"], ["annotate", str(homeless / "no"), "--weights", "~/w.pt"]):
        assert main(line) == (2 if line[0] == "annotate" else 0)
        assert "Traceback" not in capsys.readouterr().err
