"""A process that takes a store's lock, again and again or in the middle of a run, for `test_rivals.py`.

`python -m tests.store.rival lock` reads paths of stores, one a line, and tells of each whether it got the lock and kept
it. `python -m tests.store.rival annotate FOLDER OUT STEP` annotates a folder with a stand-in for a model, says "here"
at a step of its first commit, and waits there for a line.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ovlabel import files
from ovlabel.errors import BusyError, StoreError
from ovlabel.store import lock, write


def hurry() -> None:
    """Owners beat and die within fractions of a second."""
    lock.BEAT_SECONDS, lock.DEAD_SECONDS = 0.05, 0.4
    lock._POLL_SECONDS, lock._SETTLE_SECONDS = 0.02, 0.1


def try_locks() -> None:
    for line in sys.stdin:
        path = Path(line.strip())
        try:
            with lock.locked(path) as held:
                entered = time.monotonic()
                time.sleep(0.02)
                held.note(["a.png"])
                held.check()
                print(f"held {entered} {time.monotonic()}", flush=True)
                sys.stdin.readline()
        except (BusyError, StoreError) as error:
            print(f"refused {type(error).__name__}", flush=True)
            sys.stdin.readline()


def paused(original: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with one pause after its first call."""
    calls = [0]

    def wrapped(*arguments: Any, **named: Any) -> Any:
        result = original(*arguments, **named)
        calls[0] += 1
        if calls[0] == 1:
            print("here", flush=True)
            sys.stdin.readline()
        return result

    return wrapped


def annotate(folder: str, out: str, step: str) -> int:
    from tests.faults import command

    if step == "arrays":
        write.write_arrays = paused(write.write_arrays)
    elif step == "record":  # everything is on the disk, and checked; only the name is missing
        files.put = named_late(files.put)
    return command(Path(folder), Path(out))


def named_late(put: Callable[..., None]) -> Callable[..., None]:
    """`files.put`, with one pause between the last check before a commit record gets its name, and that."""
    calls = [0]

    def pause() -> None:
        calls[0] += 1
        if calls[0] == 1:
            print("here", flush=True)
            sys.stdin.readline()

    def wrapped(path: Path, data: bytes, *, new: bool = False, last: Callable[[], None] | None = None) -> None:
        put(path, data, new=new, last=lambda: (last(), pause()) if last else None)

    return wrapped


if __name__ == "__main__":
    hurry()
    try_locks() if sys.argv[1] == "lock" else sys.exit(annotate(*sys.argv[2:]))
