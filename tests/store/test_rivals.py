"""Two processes and one store, on a file system that knows no flock and on one that does."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ovlabel.store.read import open_store
from ovlabel.store.verify import verify
from tests.faults import IMAGES, draw

ROOT = Path(__file__).parents[2]
TRIALS = int(os.environ.get("RIVAL_TRIALS", "4"))  # of each kind; a hundred by hand
NO_FLOCK = "#include <errno.h>\nint flock(int handle, int how) { errno = ENOTSUP; return -1; }\n"

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module", params=["flock", "no flock"])
def environment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """That of the processes; without flock, a library that is loaded first answers it with ENOTSUP."""
    if request.param == "flock":
        return dict(os.environ)
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler (cc) on Linux, to answer flock with ENOTSUP")
    place = tmp_path_factory.mktemp("flock")
    (place / "none.c").write_text(NO_FLOCK)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", place / "none.so", place / "none.c"], check=True)
    return {**os.environ, "LD_PRELOAD": str(place / "none.so")}


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Start]:
    """Start a rival."""
    running: list[subprocess.Popen[str]] = []

    def rival(*words: object) -> subprocess.Popen[str]:
        line = [sys.executable, "-W", "error", "-m", "tests.store.rival", *map(str, words)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, env=environment)
        running.append(process)
        return process

    yield rival
    for process in running:
        process.kill()
        process.communicate()


def say(process: subprocess.Popen[str], word: object = "") -> None:
    assert process.stdin is not None
    process.stdin.write(f"{word}\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


def left(path: Path, kind: str) -> None:
    """What an earlier owner has left of its lock."""
    path.mkdir()
    if kind == "empty":
        (path / ".lock").touch()
    elif kind == "dead":
        (path / ".lock").write_text(json.dumps({"token": "x", "host": "elsewhere", "boot": "another", "pid": 7}))


@pytest.mark.parametrize("kind", ["nothing", "empty", "dead"])
def test_of_two_that_start_at_once_one_gets_the_lock(kind: str, start: Start, tmp_path: Path) -> None:
    rivals = [start("lock"), start("lock")]
    for trial in range(TRIALS):
        path = tmp_path / f"{trial}.zarr"
        left(path, kind)
        for rival in rivals if trial % 2 else reversed(rivals):
            say(rival, path)
        answers = [hear(rival) for rival in rivals]
        assert sorted(answer[0] for answer in answers) != ["held", "held"], answers
        for rival in rivals:
            say(rival)


@pytest.mark.parametrize("first", [0, 1])
def test_no_two_ever_hold_the_lock_at_once(first: int, start: Start, tmp_path: Path) -> None:
    """One comes a moment later than the other, in both orders, again and again at one store."""
    rivals = [start("lock"), start("lock")]
    path = tmp_path / "s.zarr"
    held = 0
    for _ in range(TRIALS):
        early, late = rivals[first], rivals[1 - first]
        say(early, path)
        answer = hear(early)
        assert answer[0] == "held"
        say(late, path)
        assert hear(late)[0] == "refused"
        say(early)
        say(late)
        held += 1
    assert held == TRIALS
    assert not (path / ".lock").exists() or not list(path.glob("*.partial"))


@pytest.mark.parametrize("step", ["arrays", "record"])
def test_a_writer_that_was_given_up_does_not_commit(
    step: str, start: Start, environment: dict[str, str], tmp_path: Path
) -> None:
    """Stopped in mid-chunk, taken over, continued: what it had not committed by then, it never commits."""
    folder, out = tmp_path / "in", tmp_path / "s.zarr"
    draw(folder)
    sleeper = start("annotate", folder, out, step)
    assert hear(sleeper) == ["here"]
    sleeper.send_signal(signal.SIGSTOP)
    other = start("annotate", folder, out, "")
    _, told = other.communicate(timeout=60)
    if "LD_PRELOAD" not in environment:  # flock is held for as long as a process lives
        assert other.returncode == 5
        assert f"process {sleeper.pid}" in told
        sleeper.send_signal(signal.SIGCONT)
        assert sleeper.communicate("\n", timeout=60)[1].count("Traceback") == 0
        assert len(open_store(out)) == IMAGES
        return
    assert other.returncode == 3, told  # broken.png is no image
    before = sorted(path.name for path in (out / "chunks").iterdir())
    sleeper.send_signal(signal.SIGCONT)
    _, told = sleeper.communicate("\n", timeout=60)
    assert sleeper.returncode in (4, 5)
    assert re.search(r"took the lock over|its lock was", told.splitlines()[-1])
    assert "Traceback" not in told
    assert sorted(path.name for path in (out / "chunks").iterdir()) == before
    assert len(open_store(out)) == IMAGES
    assert verify(out).clean
    assert not list(out.glob(".lock*"))
