"""Killed, stopped, out of space, out of order: whatever happens at whichever step, resume gives what never happened."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ovlabel.errors import StoreError
from ovlabel.run.job import default_store, prepare
from ovlabel.run.options import RunOptions
from ovlabel.store.read import open_store
from ovlabel.store.verify import verify
from ovlabel.types import Annotation, UInt8Image
from tests.faults import POINTS, draw
from tests.run.test_job import CONFIG, Fake
from tests.run.test_job import draw as draw_one

ROOT = Path(__file__).parents[2]

STOPS = [
    {"point": point, "when": when, "occurrence": occurrence, "what": what}
    for point in POINTS
    for when in ("before", "after")
    for what in ("KILL", "TERM")
    for occurrence in (1, 3)
]
ERRORS = [
    {"point": point, "when": "before", "occurrence": occurrence, "what": what}
    for point in POINTS
    for what in ("ENOSPC", "EIO")
    for occurrence in (1, 4)
    if point in ("ovlabel.store.lockfile.write", "ovlabel.store.write.write_arrays", "ovlabel.store.arrays._put")
    or point.startswith(("ovlabel.files.", "os."))  # what asks something of the disk
]
EVENTS = [{"event": event, "what": what} for event in range(1, 150, 7) for what in ("KILL", "ENOSPC", "HUP")]
PLAN: list[dict[str, Any]] = [*STOPS, *ERRORS, *EVENTS]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What two drivers, each with half of the plan, found: case → answer."""
    running = []
    for part in (0, 1):
        place = tmp_path_factory.mktemp(f"faults{part}")
        plan = place / "plan"
        plan.write_text("\n".join(map(json.dumps, PLAN[part::2])))
        line = [sys.executable, "-W", "error", "-m", "tests.faults", str(place / "in"), str(plan)]
        running.append(subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=ROOT))
    answers = [json.loads(line) for process in running for line in process.communicate(timeout=900)[0].splitlines()]
    assert [process.returncode for process in running] == [0, 0]
    return {name(answer): answer for answer in answers}


def name(case: dict[str, Any]) -> str:
    if "event" in case:
        return f"{case['what']} at event {case['event']}"
    return f"{case['what']} {case['when']} {case['point']} {case['occurrence']}"


@pytest.mark.parametrize("case", PLAN, ids=name)
def test_after_a_fault_resume_gives_what_an_undisturbed_run_gives(
    case: dict[str, Any], told: dict[str, dict[str, Any]]
) -> None:
    answer = told[name(case)]
    assert answer["between"] == 0, "what is committed is whole, and equals an undisturbed run's"
    assert (answer["again"], answer["after"]) == (3, 0), "broken.png is named; all else is there, and verifies"
    ends = {"KILL": -9, "TERM": 143, "HUP": 129, "ENOSPC": 4, "EIO": 4}
    assert answer["exit"] in (ends[case["what"]], 3), "3: the step did not come that often, or its failure cost nothing"


@pytest.mark.parametrize("what", ["KILL", "TERM", "ENOSPC", "EIO"])
def test_the_steps_are_real(what: str, told: dict[str, dict[str, Any]]) -> None:
    ended = [answer["exit"] != 3 for answer in told.values() if answer["what"] == what]
    assert sum(ended) >= 0.7 * len(ended)


def test_a_disk_that_fills_up_and_is_enlarged(tmp_path: Path) -> None:
    small, folder = tmp_path / "small", tmp_path / "in"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    try:
        draw(folder)
        out = small / "s.zarr"
        assert forked_alone(folder, out, "command") == 4, "no space left, said so"
        assert forked_alone(folder, out, "intact") == 0
        subprocess.run(["mount", "-o", "remount,size=8m", small], check=True)
        assert forked_alone(folder, out, "command") == 3
        assert forked_alone(folder, out, "whole") == 0
    finally:
        subprocess.run(["umount", small], check=True)


def forked_alone(folder: Path, out: Path, what: str) -> int:
    """One step of tests/faults.py in a process of its own."""
    code = (
        "import sys; from pathlib import Path; from tests import faults\n"
        "folder, out, what = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]\n"
        "code = faults.command(folder, out) if what == 'command' else "
        "faults.intact(folder, out, whole=what == 'whole')\n"
        "sys.exit(code)"
    )
    line = [sys.executable, "-c", code, str(folder), str(out), what]
    return subprocess.run(line, capture_output=True, cwd=ROOT).returncode


class Meddling(Fake):
    """Does something to the store while an image is in work, after the first commit."""

    def __init__(self, out: Path, act: Callable[[Path], None]) -> None:
        super().__init__()
        self.out, self.act, self.left = out, act, 3

    def begin(self, image: UInt8Image) -> Callable[[], Annotation]:
        self.left -= 1
        if self.left == 0:
            while not len(open_store(self.out)):
                time.sleep(0.01)
            self.act(self.out)
        return super().begin(image)


def meddle(tmp_path: Path, act: Callable[[Path], None]) -> Path:
    for seed in range(5):
        draw_one(tmp_path / "in" / f"{seed}.png", seed)
    out = default_store(tmp_path / "in")
    with pytest.raises(StoreError) as caught:
        list(prepare(tmp_path / "in", CONFIG, options=RunOptions(chunk_size=2)).run(make=Meddling(out, act).make))
    assert "\n" not in str(caught.value)
    assert str(out) in str(caught.value)
    return out


def test_a_store_that_is_deleted_underneath_is_not_brought_back_by_halves(tmp_path: Path) -> None:
    def delete(out: Path) -> None:
        while out.exists():
            shutil.rmtree(out, ignore_errors=True)

    out = meddle(tmp_path, delete)
    assert not out.exists()


def test_a_store_that_is_moved_away_underneath_stays_whole(tmp_path: Path) -> None:
    out = meddle(tmp_path, lambda out: out.rename(tmp_path / "moved.zarr"))
    assert not out.exists()
    moved = open_store(tmp_path / "moved.zarr")
    assert (len(moved), verify(moved).clean) == (2, True)


def test_a_store_that_was_replaced_underneath_is_not_written_to(tmp_path: Path) -> None:
    def replace(out: Path) -> None:
        out.rename(tmp_path / "moved.zarr")
        shutil.copytree(tmp_path / "moved.zarr", out, ignore=shutil.ignore_patterns(".lock*"))

    out = meddle(tmp_path, replace)
    assert len(open_store(out)) == 2


def test_permission_that_is_lost_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    out = meddle(tmp_path, lambda _: monkeypatch.setattr("ovlabel.files.put", refuse))
    monkeypatch.undo()
    store = open_store(out)
    assert (len(store), store.unfinished) == (2, [])
    list(prepare(tmp_path / "in", CONFIG).run(make=Fake().make))
    assert len(open_store(out)) == 5


def test_two_runs_at_the_same_time_make_one_store(tmp_path: Path) -> None:
    """Eight at once: one writes, the others are told so; with --wait, all come to the same end."""
    folder, out = tmp_path / "in", tmp_path / "s.zarr"
    draw(folder)
    code = "import sys; from pathlib import Path; from tests import faults\n"
    code += "sys.exit(faults.command(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]))"
    for more, ends in (([], {3, 5}), (["--wait"], {3})):
        line = [sys.executable, "-c", code, str(folder), str(out), *more]
        running = [subprocess.Popen(line, stderr=subprocess.PIPE, text=True, stdout=-3, cwd=ROOT) for _ in range(8)]
        told = [process.communicate(timeout=120)[1] for process in running]
        codes = [process.returncode for process in running]
        assert set(codes) <= ends
        assert 3 in codes
        assert all("is being written by process" in said for said, code in zip(told, codes) if code == 5)
        assert forked_alone(folder, out, "whole") == 0
        shutil.rmtree(out)
