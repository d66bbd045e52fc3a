"""`ovlabel demo` as a user types it; the network is closed to every test."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovlabel.store.read import open_store
from tests.cli.test_cli import Run, ovlabel

__all__ = ["ovlabel"]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A demo of four scenes in a process of its own, with every address out of reach."""
    folder = tmp_path_factory.mktemp("demo") / "here"
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise OSError('no network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from ovlabel.cli import main\n"
        f"sys.exit(main(['demo', {str(folder)!r}, '--scenes', '4']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_it_draws_annotates_scores_and_shows(drawn: tuple[Path, str]) -> None:
    folder, said = drawn
    for name in ("images/scene-03.jpg", "truth/scene-03.png", "sclip-overlays/scene-03.png", "sclip-overlays.png"):
        assert min(pixels(folder / name).shape[:2]) >= 200
    store = open_store(folder / "sclip.zarr")
    assert len(store) == 4
    score = re.search(r"^mIoU ([\d.]+) % over (\d+) classes", said, re.MULTILINE)
    assert score
    assert float(score[1]) > 45
    right = [pixels(folder / "truth" / f"{Path(k).stem}.png") == store[k].labels for k in store]
    accuracy = 100 * sum(map(np.sum, right)) / sum(map(np.size, right))
    assert f"pixel accuracy {accuracy:.1f} %" in said
    for words in (
        f"{folder}/images",
        f"{folder}/sclip.zarr",
        f"{folder}/sclip-overlays.png",
        "ovlabel annotate ./photo",
    ):
        assert words in said


def test_again_does_nothing_again(drawn: tuple[Path, str], ovlabel: Run) -> None:
    folder, said = drawn
    committed = open_store(folder / "sclip.zarr").committed
    again = ovlabel("demo", folder, "--scenes", "4")
    assert (again.code, again.out) == (0, said)
    assert open_store(folder / "sclip.zarr").committed == committed


def test_another_preset_lies_beside_it(drawn: tuple[Path, str], ovlabel: Run) -> None:
    folder, _ = drawn
    assert ovlabel("demo", folder, "--scenes", "4", "--preset", "naclip").code == 0
    assert len(open_store(folder / "naclip.zarr")) == 4


def test_a_folder_of_ones_own_is_left_alone(tmp_path: Path, ovlabel: Run) -> None:
    (tmp_path / "mine.jpg").write_bytes(b"a photograph")
    said = ovlabel("demo", tmp_path)
    assert said.code == 2
    assert "holds something else" in said.refusal
    assert [p.name for p in tmp_path.iterdir()] == ["mine.jpg"]


def test_a_file_is_no_folder(tmp_path: Path, ovlabel: Run) -> None:
    (tmp_path / "file").write_text("x")
    assert ovlabel("demo", tmp_path / "file").code == 2


def test_the_embedded_model_and_its_vocabulary_work_elsewhere(
    drawn: tuple[Path, str], ovlabel: Run, tmp_path: Path
) -> None:
    images = drawn[0] / "images"
    said = ovlabel("annotate", images, "--model", "demo", "--vocab", "demo", "--out", tmp_path / "s.zarr")
    assert said.code == 0
    assert "no photographs" in said.err
    one, other = open_store(tmp_path / "s.zarr"), open_store(drawn[0] / "sclip.zarr")
    for key in other:
        np.testing.assert_array_equal(one[key].labels, other[key].labels)


def test_the_embedded_model_has_no_tags(drawn: tuple[Path, str], ovlabel: Run) -> None:
    said = ovlabel(
        "annotate", drawn[0] / "images", "--model", "demo", "--weights", "openai", "--out", drawn[0] / "x.zarr"
    )
    assert said.code == 7
    assert "openai" in said.refusal
