"""The same store from Dask's workers, whatever happens to them. Runs in processes of its own: workers speak TCP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovlabel.run import worker
from ovlabel.run.crew import RESOURCE
from ovlabel.run.identity import RunIdentity
from ovlabel.run.job import prepare
from ovlabel.run.options import RunOptions
from ovlabel.settings.keys import Config
from ovlabel.settings.reading import load_config
from ovlabel.store.read import open_store
from ovlabel.store.verify import verify
from ovlabel.types import Annotation, UInt8Image
from tests import faults
from tests.faults import annotation

ROOT = Path(__file__).parents[2]
CONFIG = load_config("plain", {"text.vocabulary": "classes:dark, middle, bright", "encoder.weights": "random:0"})
IMAGES = 24


class Slow(faults.Fake):
    """Leaves time to kill its worker."""

    def begin(self, image: UInt8Image) -> Callable[[], Annotation]:
        time.sleep(0.15)
        return super().begin(image)


class Deadly(faults.Fake):
    """Takes its process down with every black image."""

    def begin(self, image: UInt8Image) -> Callable[[], Annotation]:
        if not image.any():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().begin(image)


def slow(run: RunIdentity, offline: bool) -> tuple[Slow, dict[str, Any]]:
    return Slow(), faults.make(run, offline)[1]


def deadly(run: RunIdentity, offline: bool) -> tuple[Deadly, dict[str, Any]]:
    return Deadly(), faults.make(run, offline)[1]


MAKERS = {"fake": faults.make, "slow": slow, "deadly": deadly}


def drive(given: dict[str, Any]) -> dict[str, Any]:
    """One run; `kill`: how many workers are killed on the way. What it came to."""
    folder, out = Path(given["folder"]), Path(given["out"])
    where = {"workers": given.get("workers", 0), "scheduler": given.get("scheduler", "")}
    killed: list[int] = []
    seen: list[str] = []

    def kill() -> None:
        while len(killed) < given["kill"]:
            time.sleep(0.3)
            pids = [] if len(seen) < 3 * len(killed) + 1 else [pid for pid in below(os.getpid()) if is_worker(pid)]
            if pids:
                killed.append(pids[0])
                os.kill(pids[0], signal.SIGKILL)

    if given.get("kill"):
        threading.Thread(target=kill, daemon=True).start()
    job = prepare(folder, CONFIG, out, options=RunOptions(chunk_size=given.get("chunk", 3), **where))
    reports = list(job.run(on_image=lambda record: seen.append(record.key), make=MAKERS[given.get("make", "fake")]))
    return {
        "seen": seen,
        "done": [key for report in reports for key in report.done],
        "failed": [failure for report in reports for failure in report.failed],
        "killed": len(killed),
        "gone": job.gone,
    }


def below(pid: int) -> list[int]:
    """The processes that this one started, and those that they did."""
    children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in read(task / "children").split()]
    return children + [deeper for child in children for deeper in below(child)]


def is_worker(pid: int) -> bool:
    return "spawn_main" in read(Path(f"/proc/{pid}/cmdline"))


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


# ---------------------------------------------------------------- tests


def run(**given: Any) -> dict[str, Any]:
    line = [sys.executable, "-m", "tests.run.test_dask", json.dumps(given, default=str)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, capture_output=True, text=True, timeout=180, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(IMAGES):
        dice = np.random.default_rng(number)
        Image.fromarray(dice.integers(1, 256, (20, 30, 3), dtype=np.uint8)).save(folder / f"{number:02}.png")
    return folder


def assert_right(folder: Path, out: Path, failed: tuple[str, ...] = ()) -> None:
    store = open_store(out)
    assert list(store) == sorted(path.name for path in folder.iterdir() if path.name not in failed)
    assert sorted(store.failed) == sorted(failed)
    for key, stored in store.items():
        wanted = annotation(np.asarray(Image.open(folder / key)))
        np.testing.assert_array_equal(stored.labels, wanted.labels)
        np.testing.assert_array_equal(np.rint(stored.confidence * 255), wanted.confidence)
    assert verify(store).clean


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_makes_the_same_store(workers: int, folder: Path, tmp_path: Path) -> None:
    (folder / "broken.png").write_bytes(b"nothing")
    out = tmp_path / "s.zarr"
    told = run(folder=folder, out=out, workers=workers)
    assert sorted(told["seen"]) == sorted(path.name for path in folder.iterdir())
    assert_right(folder, out, ("broken.png",))
    again = run(folder=folder, out=out, workers=workers)
    assert again["seen"] == []


def test_killed_workers_lose_nothing(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.zarr"
    told = run(folder=folder, out=out, workers=2, make="slow", kill=2)
    assert told["killed"] == 2
    assert sorted(told["done"]) == [f"{number:02}.png" for number in range(IMAGES)]
    assert_right(folder, out)


def test_an_image_that_takes_workers_down_is_found_and_named(folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(folder / "black.png")
    out = tmp_path / "s.zarr"
    run(folder=folder, out=out, workers=2, make="deadly")
    assert_right(folder, out, ("black.png",))
    record = open_store(out).failed["black.png"]
    assert (record.exception, record.stage, record.attempts) == ("KilledWorker", "segment", 1)


def test_what_is_known_by_its_content_is_not_sent(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.zarr"
    run(folder=folder, out=out, workers=1)
    nodes = len(list(out.glob("chunks/0*/labels")))
    (folder / "00.png").rename(folder / "renamed.png")
    os.utime(folder / "01.png", (1, 1))
    told = run(folder=folder, out=out, workers=1)
    assert sorted(told["done"]) == ["01.png", "renamed.png"]
    assert len(list(out.glob("chunks/0*/labels"))) == nodes


def test_a_scheduler_that_is_there_is_used_with_workers_in_another_folder(folder: Path, tmp_path: Path) -> None:
    code = (
        "from distributed import LocalCluster\n"
        "if __name__ == '__main__':\n"
        f"    with LocalCluster(n_workers=2, threads_per_worker=1, resources={{'{RESOURCE}': 1}},\n"
        "                      dashboard_address=None) as cluster:\n"
        "        print(cluster.scheduler_address, flush=True)\n"
        "        input()\n"
    )
    script = tmp_path / "scheduler.py"
    script.write_text(code)
    line = [sys.executable, str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    elsewhere = tmp_path / "elsewhere"  # where no relative path leads to what is meant
    elsewhere.mkdir()
    with subprocess.Popen(line, stdin=-1, stdout=-1, stderr=-3, text=True, cwd=elsewhere, env=environment) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        run(folder=os.path.relpath(folder, ROOT), out=os.path.relpath(tmp_path / "s.zarr", ROOT), scheduler=address)
        process.communicate("\n", timeout=60)
    assert_right(folder, tmp_path / "s.zarr")


def test_no_scheduler_is_said_in_one_line(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.zarr"
    code = (
        "import sys; from ovlabel.run import dask, local; from ovlabel.cli import main; from tests import faults\n"
        "dask._CONNECT_SECONDS = 1; local.make_segmenter = faults.make\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    options = ["--classes", "dark, middle, bright", "--weights", "random:0", "--scheduler", "tcp://127.0.0.1:1"]
    line = [sys.executable, "-c", code, "annotate", str(folder), "--out", str(out), *options]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("ovlabel: --scheduler tcp://127.0.0.1:1: no Dask scheduler answers")


def test_a_workers_segmenter_is_built_once(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(folder=folder, out=tmp_path / "s.zarr", workers=1)  # makes the store
    store = open_store(tmp_path / "s.zarr")
    made: list[Config] = []

    def make(run: RunIdentity, offline: bool) -> tuple[faults.Fake, dict[str, Any]]:
        made.append(run.config)
        return faults.make(run, offline)

    monkeypatch.setattr(worker, "_segmenters", {})
    items = tuple(prepare(folder, CONFIG, tmp_path / "other.zarr").plan.items)
    for number in range(3):
        identity = RunIdentity.read(CONFIG)
        task = worker.Task(items[:2], "run", make, identity, False, 0, (), store.path, 90 + number, None, 3)
        receipt = worker.annotate_chunk(task)
        assert isinstance(receipt, worker.Receipt)
        assert [record.key for record in receipt.records] == ["00.png", "01.png"]
        assert (store.path / "chunks" / receipt.name / "labels").is_dir()
    assert len(made) == 1
    assert len(open_store(store.path)) == IMAGES, "nobody adopted them"
    assert len(open_store(store.path).unfinished) == 3


if __name__ == "__main__":
    from tests.run import test_dask  # by its own name: workers know no __main__ of ours

    print(json.dumps(test_dask.drive(json.loads(sys.argv[1]))))
