"""kill -9 and Ctrl-C at any moment: what is committed stays and is never done again, what is not never happened.

Run as a script, this file is the driver of the kill test: it imports torch once and forks a child an attempt, which
is `ovlabel annotate` from its first line to its last.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovlabel.store.read import Store, TopProbabilities, open_store

KILLS = 20
IMAGES = 50


def drive(folder: str, base: str, options: list[str]) -> None:
    """Annotate `folder` into BASE/0.zarr undisturbed, then into 1.zarr, 2.zarr, … with KILLS kills among them."""
    import open_clip  # noqa: F401  # what every child would import
    import torch

    from ovlabel.cli import main

    torch.set_num_threads(1)
    dice = random.Random(0)
    kills, stores, torn = 0, 0, 0

    def start(out: Path) -> int:
        child = os.fork()
        if child == 0:
            os._exit(main(["annotate", folder, "--out", str(out), *options]))
        return child

    def nodes(out: Path) -> set[Path]:
        return {path for path in (out / "chunks").glob("*-*") if path.is_dir()}

    def wait_for_commit(child: int, out: Path, known: set[Path]) -> bool:
        """Whether the child began to commit (else it has ended)."""
        while not nodes(out) - known:
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return False
            time.sleep(0.001)
        return True

    reference = Path(base) / "0.zarr"
    child = start(reference)
    assert wait_for_commit(child, reference, set())
    begun = time.monotonic()
    assert os.waitpid(child, 0)[1] == 0
    work = time.monotonic() - begun  # from the first commit to the end

    while kills < KILLS:
        stores += 1
        out = Path(base) / f"{stores}.zarr"
        committed: dict[str, str] = {}
        while True:
            child = start(out)
            if wait_for_commit(child, out, nodes(out)):
                # Anywhere in the next few commits, or close to the first one: in the middle of its writing.
                time.sleep(dice.choice([dice.uniform(0, work / 4), dice.uniform(0, 0.03)]))
            if kills < KILLS:
                os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL, status
            now = chunk_of(open_store(out)) if (out / "zarr.json").exists() else {}
            assert {key: now.get(key) for key in committed} == committed, "a committed image was done again"
            committed = now
            if status == 0:
                break
            kills += 1
            torn += any(not (node / "zarr.json").exists() for node in nodes(out))
    print(json.dumps({"kills": kills, "stores": stores, "torn": torn, "work": work}))


def chunk_of(store: Store) -> dict[str, str]:
    return {key: image.record.chunk for key, image in store.items()}


@pytest.fixture
def options(tiny: dict[str, Any]) -> list[str]:
    """The tiny model, made slow enough that a kill lands inside a run."""
    tiny |= {"tiling.short_side": 96, "tiling.scales": "[1.0, 1.5]"}
    model, weights, templates = (tiny.pop(key) for key in ("encoder.model", "encoder.weights", "text.templates"))
    given = ["--model", model, "--weights", weights, "--templates", templates, "--classes", "cat, dog, grass"]
    return given + [part for key, value in tiny.items() for part in ("--set", f"{key}={value}")]


def draw(folder: Path, names: list[str], size: tuple[int, int] = (40, 48)) -> None:
    folder.mkdir()
    dice = np.random.default_rng(0)
    for name in names:
        Image.fromarray(dice.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)


def test_twenty_kills_change_nothing(tmp_path: Path, options: list[str]) -> None:
    folder = tmp_path / "in"
    draw(folder, [f"{i:02}.png" for i in range(IMAGES)])
    driver = [sys.executable, __file__, str(folder), str(tmp_path), *options, "--chunk", "4"]
    done = subprocess.run(driver, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kills"] == KILLS

    expected = open_store(tmp_path / "0.zarr")
    assert len(expected) == IMAGES
    for number in range(1, told["stores"] + 1):
        store = open_store(tmp_path / f"{number}.zarr")
        assert list(store) == list(expected)
        assert store.failed == {}
        nodes = {node.name for node in (store.path / "chunks").iterdir() if node.is_dir()}
        assert nodes == set(chunk_of(store).values()), "nothing half written is left"
        for key in expected:
            assert_equal(store, expected, key)


def assert_equal(store: Store, expected: Store, key: str) -> None:
    one, other = store[key], expected[key]
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(one.confidence, other.confidence)
    kept, wanted = one.probabilities, other.probabilities
    assert isinstance(kept, TopProbabilities)
    assert isinstance(wanted, TopProbabilities)
    np.testing.assert_array_equal(kept.classes, wanted.classes)
    np.testing.assert_array_equal(kept.values, wanted.values)


def test_ctrl_c_commits_what_is_finished(tmp_path: Path, options: list[str]) -> None:
    folder = tmp_path / "in"
    draw(folder, ["0.png", "1.png", "2.png"])
    (folder / "3.png").write_bytes(b"")  # is said when it is read, two images ahead at the most
    draw(folder / "later", [f"{i}.png" for i in range(40)], (400, 480))
    command = [sys.executable, "-m", "ovlabel", "annotate", str(folder), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "3.png" in line:
                break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("ovlabel: stopped")
    assert "Traceback" not in errors
    store = open_store(tmp_path / "in.ovlabel.zarr")
    assert list(store)[:1] == ["0.png"]
    assert len(store) < 43
    assert set(store.failed) <= {"3.png"}
    assert store["0.png"].labels.shape == (40, 48)
    nodes = {node.name for node in (store.path / "chunks").iterdir() if node.is_dir()}
    assert nodes == set(chunk_of(store).values())


if __name__ == "__main__":
    drive(sys.argv[1], sys.argv[2], sys.argv[3:])
