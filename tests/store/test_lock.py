"""One writer at a time, whoever dies, sleeps, or changes the clock."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import threading
import time
from pathlib import Path

import pytest

from ovlabel.errors import BusyError, StoreError
from ovlabel.store import lock, lockfile
from ovlabel.store.layout import Shard
from ovlabel.store.lock import locked


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.zarr"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Owners beat and die within fractions of a second."""
    logging.getLogger("ovlabel").setLevel(logging.INFO)
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lock, "DEAD_SECONDS", 0.4)
    monkeypatch.setattr(lock, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr(lock, "_SETTLE_SECONDS", 0.1)


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that knows no flock."""

    def refuse(handle: int, how: int) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)


def left_by(path: Path, **owner: object) -> Path:
    """A lock file that nobody holds."""
    path.mkdir(exist_ok=True)
    file = path / ".lock"
    said = {"token": "x", "host": "elsewhere", "boot": "another", "pid": 7, "since": "yesterday", **owner}
    file.write_text(json.dumps(said))
    return file


def test_a_lock_names_its_owner_and_leaves_nothing_behind(path: Path) -> None:
    with locked(path) as held:
        said = json.loads((path / ".lock").read_text())
        assert said["pid"] == os.getpid()
        held.check()
    assert not path.exists(), "nothing was written, so nothing stays"


def test_a_second_writer_is_told_who_is_writing(path: Path) -> None:
    with locked(path), pytest.raises(BusyError, match=rf"process {os.getpid()} .*--wait"), locked(path):
        pass
    with locked(path) as again:
        again.check()


def test_a_second_writer_that_waits_comes_next(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    order: list[str] = []

    def second() -> None:
        with locked(path, wait=True):
            order.append("second")

    with locked(path):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert sum("waiting: " in message for message in caplog.messages) == 1


def test_the_lock_of_a_dead_owner_of_this_machine_is_taken_at_once(path: Path) -> None:
    left_by(path, boot=lock._boot(), work=["poison.png"])
    start = time.monotonic()
    with locked(path) as held:
        assert time.monotonic() - start < 0.3
        assert held.suspects == ["poison.png"]


def test_a_foreign_owner_without_a_sign_of_life_is_outlived(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    left_by(path)
    start = time.monotonic()
    with locked(path) as held:
        assert time.monotonic() - start >= 0.4
        held.check()
    assert "process 7 on elsewhere" in caplog.text


def test_a_foreign_owner_that_beats_is_left_alone(path: Path) -> None:
    file, stop = left_by(path), threading.Event()

    def beat() -> None:
        while not stop.wait(0.1):
            os.utime(file)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(BusyError, match="process 7 on elsewhere"), locked(path):
            pass
    finally:
        stop.set()
        thread.join()
    assert json.loads(file.read_text())["pid"] == 7


@pytest.mark.usefixtures("no_flock")
def test_without_flock_the_beat_alone_keeps_others_out(path: Path) -> None:
    with locked(path), pytest.raises(BusyError), locked(path):
        pass


@pytest.mark.usefixtures("no_flock")
def test_an_owner_that_was_given_up_finds_out(path: Path) -> None:
    with locked(path) as sleeper:
        sleeper._stopped.set()  # its heart stops: the machine was suspended
        time.sleep(0.2)
        with locked(path) as other:
            other.check()
            with pytest.raises(BusyError, match="took the lock over"):
                sleeper.check()
            sleeper.note(["a.png"])
            os.utime(sleeper._handle)
            other.check()
            with pytest.raises(BusyError, match="took the lock over"):
                sleeper.check()
            sleeper.release()
            other.check()
            sleeper.release = lambda: None  # type: ignore[method-assign]


@pytest.mark.usefixtures("no_flock")
def test_of_two_that_replace_a_dead_owner_the_later_holds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have seen it dead; what the one writes lies between the other's last look and its rename."""
    left_by(path)
    early: list[lock.Lock] = []
    real = lockfile.is_at

    def late(at: Path, handle: int) -> bool:
        answer = real(at, handle)
        if not early:
            early.append(lock.Lock(at, {"token": "early"}, [], lockfile.place(at, {"token": "early"}, None)))
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(lockfile, "_link", os.replace)
        patched.setattr(lock, "_outlive", lambda *_: None)
        patched.setattr(lockfile, "is_at", late)
        held = lock._take(path / ".lock")
    held.check()
    with pytest.raises(BusyError, match="took the lock over"):
        early[0].check()
    early[0].note(["a.png"])
    held.check()
    for one in (early[0], held):
        one.release()
    assert list(path.iterdir()) == []


@pytest.mark.usefixtures("no_flock")
def test_a_place_that_is_taken_again_before_it_has_settled_is_not_held(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_by(path)
    monkeypatch.setattr(lock, "_outlive", lambda *_: None)
    monkeypatch.setattr(time, "sleep", lambda _: left_by(path, token="faster", pid=8))
    with pytest.raises(BusyError, match="process 8 on elsewhere"), locked(path):
        pass
    assert json.loads((path / ".lock").read_text())["token"] == "faster"


@pytest.mark.parametrize("flock", [True, False])
def test_a_file_system_without_hard_links_will_do(
    flock: bool, path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "link", refuse)
    if not flock:
        request.getfixturevalue("no_flock")
    with locked(path) as held:
        held.check()
        with pytest.raises(BusyError), locked(path):
            pass
        assert [file.name for file in path.iterdir()] == [".lock"]
    assert not path.exists()


def test_nothing_is_written_into_a_file_that_was_there(path: Path, tmp_path: Path) -> None:
    """A lock may share its file with another name: `cp -al` makes such copies."""
    left_by(path, boot=lock._boot())
    os.link(path / ".lock", tmp_path / "precious")
    before = (tmp_path / "precious").read_bytes()
    with locked(path) as held:
        held.note(["a.png"])
        assert (tmp_path / "precious").read_bytes() == before
    assert (tmp_path / "precious").read_bytes() == before


def test_the_clock_may_jump(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jumps = iter([0.0, 1e9, -1e9, 4e9] * 1000)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    monkeypatch.setattr(time, "time_ns", lambda: int(real() + next(jumps)) * 10**9)
    with locked(path) as held:
        for _ in range(5):
            time.sleep(0.06)
            held.check()
            with pytest.raises(BusyError), locked(path):
                pass
    left_by(path)
    os.utime(path / ".lock", (4e9, 4e9))  # beaten in the future
    with locked(path):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"work": 3}', b"[" * 100_000, b'{"work": [1, "a"]}'])
def test_a_torn_lock_file_is_outlived(content: bytes, path: Path) -> None:
    left_by(path).write_bytes(content)
    with locked(path) as held:
        held.check()


def test_what_is_no_file_is_no_lock(path: Path, tmp_path: Path) -> None:
    path.mkdir()
    os.mkfifo(path / ".lock")
    with pytest.raises(StoreError, match="is no file"), locked(path):
        pass
    (path / ".lock").unlink()
    (tmp_path / "precious").write_text("precious")
    (path / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(StoreError, match="cannot lock"), locked(path):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_store_that_is_removed_is_noticed(path: Path) -> None:
    with locked(path) as held:
        (path / ".lock").unlink()
        with pytest.raises(StoreError, match="was removed"):
            held.check()


def test_shards_of_one_count_write_side_by_side(path: Path) -> None:
    with locked(path, Shard(1, 3)) as first, locked(path, Shard(2, 3)) as second:
        first.check()
        second.check()
        for shard in (Shard(2, 3), Shard(1, 2), None):
            with pytest.raises(BusyError), locked(path, shard):
                pass
    path.mkdir(exist_ok=True)
    with locked(path), pytest.raises(BusyError), locked(path, Shard(1, 3)):
        pass


def test_the_whole_lock_clears_what_dead_shards_left(path: Path) -> None:
    file = left_by(path, boot=lock._boot(), work=["a.png"]).rename(path / ".lock-2of4")
    with locked(path):
        assert not file.exists()
