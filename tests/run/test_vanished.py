"""Images that are out of sight when their turn comes: deleted ones are done with, all others end in no success."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovlabel.cli import main
from ovlabel.errors import ConfigError
from ovlabel.run import job as jobs
from ovlabel.run import local
from ovlabel.run.job import prepare
from ovlabel.run.result import was_deleted
from tests import faults

WORDS = ("--classes", "dark, middle, bright", "--weights", "random:0")
KEYS = ["a.png", "b.png", "trip/c.png", "trip/d.png"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for number, key in enumerate(KEYS):
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / key)
    return folder


Happens = Callable[[Callable[[Path], None]], None]


@pytest.fixture
def after_listing(monkeypatch: pytest.MonkeyPatch) -> Happens:
    """Let something happen to the folder after it was listed and before its first image is read."""

    def arrange(what: Callable[[Path], None]) -> None:
        monkeypatch.setattr(local, "make_segmenter", faults.make)
        original = jobs.Job.run

        def run(self: jobs.Job, *args: object, **kwargs: object) -> object:
            what(self.plan.folder)
            return original(self, *args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(jobs.Job, "run", run)

    return arrange


def emptied(folder: Path) -> None:
    shutil.rmtree(folder / "trip")
    for path in folder.iterdir():
        path.unlink()


def emptied_but_for_what_is_hidden(folder: Path) -> None:
    emptied(folder)
    (folder / ".DS_Store").touch()


def no_longer_mounted_below(folder: Path) -> None:
    for path in (folder / "trip").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("what", "unread"),
    [(emptied, KEYS), (emptied_but_for_what_is_hidden, KEYS), (no_longer_mounted_below, KEYS[2:])],
)
def test_a_folder_that_is_empty_all_at_once_is_no_success(
    what: Callable[[Path], None],
    unread: list[str],
    folder: Path,
    after_listing: Happens,
    capsys: pytest.CaptureFixture[str],
) -> None:
    after_listing(what)
    assert main(["annotate", str(folder), *WORDS, "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert (told["exit_code"], told["unread"], told["deleted"]) == (3, unread, [])
    assert (told["images"], told["annotated"], told["pending"]) == (4, 4 - len(unread), len(unread))


def test_what_is_out_of_sight_is_named(
    folder: Path, after_listing: Happens, capsys: pytest.CaptureFixture[str]
) -> None:
    after_listing(no_longer_mounted_below)
    assert main(["annotate", str(folder), *WORDS]) == 3
    said = capsys.readouterr()
    assert said.out.startswith("2 of 4 images annotated (4 looked at now, 0 failed, 2 pending) in ")
    assert "ovlabel: trip/c.png: was listed, and is neither annotated nor deleted; is its folder mounted?" in said.err


def test_a_folder_that_is_gone_is_refused_in_one_line(
    folder: Path, after_listing: Happens, capsys: pytest.CaptureFixture[str]
) -> None:
    after_listing(shutil.rmtree)
    assert main(["annotate", str(folder), *WORDS]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"ovlabel: no folder {folder} any more: is it mounted?"


@pytest.mark.parametrize("what", ["a.png", "trip"])
def test_what_was_deleted_is_counted_and_no_longer_pending(
    what: str, folder: Path, after_listing: Happens, capsys: pytest.CaptureFixture[str]
) -> None:
    def delete(folder: Path) -> None:
        shutil.rmtree(folder / what) if what == "trip" else (folder / what).unlink()

    gone = [key for key in KEYS if key.startswith(what)]
    after_listing(delete)
    assert main(["annotate", str(folder), *WORDS, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["deleted"], told["unread"], told["pending"]) == (gone, [], 0)
    assert told["images"] == told["annotated"] == 4 - len(gone)


def test_what_was_deleted_is_printed(folder: Path, after_listing: Happens, capsys: pytest.CaptureFixture[str]) -> None:
    after_listing(lambda folder: (folder / "a.png").unlink())
    assert main(["annotate", str(folder), *WORDS]) == 0
    assert "3 of 3 images annotated (4 looked at now, 0 failed, 1 deleted before their turn) in " in (
        capsys.readouterr().out
    )


def test_a_file_that_is_there_was_not_deleted_whoever_says_so(folder: Path) -> None:
    (folder / "dead.png").symlink_to(folder / "nowhere.png")
    assert not was_deleted(folder, "a.png")
    assert not was_deleted(folder, "dead.png")
    assert was_deleted(folder, "gone.png")
    assert was_deleted(folder, "a.png/under-a-file.png")
    assert not was_deleted(folder / "gone", "a.png")


def test_a_limit_is_no_failure(folder: Path, after_listing: Happens, capsys: pytest.CaptureFixture[str]) -> None:
    after_listing(lambda _: None)
    assert main(["annotate", str(folder), *WORDS, "--limit", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["pending"], told["unread"]) == (3, [])


def test_a_folder_that_vanished_before_the_run_is_a_config_error(folder: Path) -> None:
    job = prepare(folder, jobs.Config.from_dict({"text.vocabulary": "classes:a, b", "encoder.weights": "random:0"}))
    shutil.rmtree(folder)
    with pytest.raises(ConfigError, match="is it mounted"):
        list(job.run(make=faults.make))
