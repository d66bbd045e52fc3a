"""Runs of `ovlabel annotate` that are killed, stopped or made to fail at a chosen step, and what is left afterwards.

`python tests/faults.py FOLDER PLAN` reads a plan (JSON lines) and answers each with a line. It imports everything once
and forks for every run, so hundreds of runs take seconds. `python tests/faults.py --random 100` is the long run
by hand: 100 kills at random steps of the file system, then 100 at random moments.

A step is a call of a named function of the commit path (`POINTS`), just before it or just after it, or the n-th thing
that the process asks of the file system below the store (Python's audit events).
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr  # noqa: F401 (before the forks)
from PIL import Image

from ovlabel.cli import main
from ovlabel.run import local
from ovlabel.run.identity import RunIdentity
from ovlabel.store.read import open_store
from ovlabel.store.verify import verify
from ovlabel.types import Annotation, UInt8Image

POINTS = (
    "ovlabel.store.lockfile.place",
    "ovlabel.store.lockfile.write",
    "ovlabel.store.lock.Lock.start",
    "ovlabel.store.lock.Lock.note",
    "ovlabel.store.lock.Lock.check",
    "ovlabel.store.lock.Lock.release",
    "ovlabel.store.write.create_store",
    "ovlabel.store.write.StoreWriter.settle",
    "ovlabel.store.write.StoreWriter.clear_unfinished",
    "ovlabel.store.write.StoreWriter.commit",
    "ovlabel.store.write.StoreWriter.check_writable",
    "ovlabel.store.write.StoreWriter._adopt",
    "ovlabel.store.write.write_arrays",
    "ovlabel.store.arrays._put",
    "ovlabel.store.records.Records.add",
    "ovlabel.store.write.pack",
    "ovlabel.files.sync_tree",
    "ovlabel.files.sync_folder",
    "ovlabel.files.put",
    "ovlabel.files._linked",
    "os.fsync",
    "os.replace",
    "os.link",
    "os.unlink",
)
SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "INT": signal.SIGINT, "HUP": signal.SIGHUP}
ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EACCES": errno.EACCES}
IMAGES = 9
CHUNK = 2


class Fake:
    """A segmenter that labels by brightness."""

    in_flight = 0
    together = 1

    def begin_all(self, images: Sequence[UInt8Image]) -> list[Callable[[], Annotation]]:
        return [self.begin(image) for image in images]

    def begin(self, image: UInt8Image) -> Callable[[], Annotation]:
        return lambda: annotation(image)


def annotation(image: UInt8Image) -> Annotation:
    small = image[:3, :3, 2]
    return Annotation(
        (image[..., 0] // 86).astype(np.uint8),
        image[..., 1].copy(),
        np.ones((1, *small.shape), np.uint8),
        small[None].copy(),
        small.shape,
    )


def draw(folder: Path) -> None:
    """Nine images, two of one content, and a file that is none."""
    folder.mkdir()
    for number in range(IMAGES):
        dice = np.random.default_rng(number % (IMAGES - 1))
        Image.fromarray(dice.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"nothing")


def make(run: RunIdentity, offline: bool) -> tuple[Fake, dict[str, Any]]:
    resolved = run.config.to_dict()
    resolved["encoder"].pop("device")
    return Fake(), resolved


def command(folder: Path, out: Path, *more: str) -> int:
    local.make_segmenter = make  # type: ignore[assignment]
    options = ["--classes", "dark, middle, bright", "--weights", "random:0", "--chunk", str(CHUNK)]
    return main(["annotate", str(folder), "--out", str(out), *options, *more])


# ---------------------------------------------------------------- steps


def act(what: str) -> None:
    """What happens at the step."""
    if what in ERRORS:
        raise OSError(ERRORS[what], os.strerror(ERRORS[what]))
    os.kill(os.getpid(), SIGNALS[what])
    if what == "KILL":
        time.sleep(60)


def at_point(point: str, when: str, occurrence: int, what: str) -> None:
    """Act at the given call of a function, before it or after it."""
    place, _, name = point.rpartition(".")
    try:
        owner: Any = importlib.import_module(place)
    except ModuleNotFoundError:
        module, _, kind = place.rpartition(".")
        owner = getattr(importlib.import_module(module), kind)
    original, calls = getattr(owner, name), [0]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if when == "before" and calls[0] == occurrence:
            act(what)
        result = original(*args, **kwargs)
        if when == "after" and calls[0] == occurrence:
            act(what)
        return result

    setattr(owner, name, wrapped)


def at_event(out: Path, number: int, what: str) -> None:
    """Act at the n-th thing asked of the file system below `out`."""
    inside, count = os.fspath(out), [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(("os.", "open", "shutil.")) and count[0] >= 0:
            first = next((os.fsdecode(a) for a in arguments[:2] if isinstance(a, str | bytes | os.PathLike)), "")
            if first.startswith(inside):
                count[0] += 1
                if count[0] == number:
                    count[0] = -1
                    act(what)

    sys.addaudithook(hook)


# ---------------------------------------------------------------- runs


def forked(work: Callable[[], int], seconds: float | None = None) -> int:
    """Run `work` in a child; its exit code, or minus the signal that ended it. Killed after `seconds`, if given."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            quiet = os.open(os.devnull, os.O_WRONLY)
            log = os.open(os.environ.get("FAULTS_LOG", os.devnull), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(quiet, 1)
            os.dup2(log, 2)
            code = work()
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def faulty(case: dict[str, Any], folder: Path, out: Path) -> int:
    if "point" in case:
        at_point(case["point"], case["when"], case["occurrence"], case["what"])
    else:
        at_event(out, case["event"], case["what"])
    return command(folder, out)


def intact(folder: Path, out: Path, *, whole: bool) -> int:
    """0 if what is committed is right and verifies; with `whole`, if it is what an undisturbed run leaves."""
    if not (out / "zarr.json").exists():
        return 10 * whole
    store = open_store(out)
    report = verify(store)
    if report.bad or report.records:
        return 11
    for key, stored in store.items():
        wanted = annotation(np.asarray(Image.open(folder / key)))
        kept = stored.probabilities
        same = (
            np.array_equal(stored.labels, wanted.labels)
            and np.array_equal(np.rint(stored.confidence * 255), wanted.confidence)
            and np.array_equal(kept.classes, wanted.classes)  # type: ignore[union-attr]
            and np.array_equal(np.rint(kept.values * 255), wanted.probabilities)  # type: ignore[union-attr]
        )
        if not same:
            return 12
    if not whole:
        return 0
    if sorted(store) != [f"{n}.png" for n in range(IMAGES)] or sorted(store.failed) != ["broken.png"]:
        return 13
    if report.unfinished or store.failed["broken.png"].attempts != 1:
        return 14
    return 15 if list(out.glob("chunks/*/*.partial")) else 0


def answer(case: dict[str, Any], folder: Path, out: Path) -> dict[str, Any]:
    """Make one run fail as the case says; then look, resume, look again."""
    first = forked(lambda: faulty(case, folder, out), case.get("seconds"))
    between = forked(lambda: intact(folder, out, whole=False))
    again = forked(lambda: command(folder, out))
    return {
        **case,
        "exit": first,
        "between": between,
        "again": again,
        "after": forked(lambda: intact(folder, out, whole=True)),
    }


def main_loop(folder: Path, plan: Path) -> None:
    if not folder.exists():
        draw(folder)
    with tempfile.TemporaryDirectory(dir=folder.parent) as stores:
        for number, line in enumerate(plan.read_text().splitlines()):
            print(json.dumps(answer(json.loads(line), folder, Path(stores) / f"{number}.zarr")), flush=True)


def at_random(count: int) -> None:
    """Kills at random steps, then at random moments, of one store after another; a line of figures."""
    dice, told = random.Random(0), {"kills": 0, "runs": 0, "bad": 0, "inside a commit": 0}
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where) / "in"
        draw(folder)
        number = 0
        while told["kills"] < 2 * count:
            out, number = Path(where) / f"{number}.zarr", number + 1
            code = -9
            while code == -9 and told["kills"] < 2 * count:
                timed = told["kills"] >= count
                case = {"event": 10**9 if timed else dice.randint(1, 90), "what": "KILL"}
                code = forked(lambda: faulty(case, folder, out), dice.uniform(0.02, 0.5) if timed else None)  # noqa: B023
                told["runs"] += 1
                told["kills"] += code == -9
                torn = [p for p in out.glob("chunks/0*") if not (p / "zarr.json").exists()]
                told["inside a commit"] += bool(torn)
                told["bad"] += forked(lambda: intact(folder, out, whole=False)) != 0  # noqa: B023
            told["bad"] += forked(lambda: command(folder, out)) != 3  # noqa: B023
            told["bad"] += forked(lambda: intact(folder, out, whole=True)) != 0  # noqa: B023
    print(json.dumps({**told, "stores": number}))


if __name__ == "__main__":
    if sys.argv[1] == "--random":
        at_random(int(sys.argv[2]))
    else:
        main_loop(Path(sys.argv[1]), Path(sys.argv[2]))
