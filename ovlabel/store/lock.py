"""One writer at a time: a lock with an owner and a heartbeat. Standard library only.

Two guards, because neither suffices everywhere. `flock` on the lock file is exact on one machine and lets go when the
process ends, however it ends; some network file systems have none, or none between machines. So the file also names its
owner, who touches it every few seconds: a foreign owner counts as dead when nothing has moved for `DEAD_SECONDS` by the
watcher's own monotonic clock (clocks of two machines are never compared, and none that jumps is read). An owner who was
given up while it slept finds out before its next commit (`Lock.check`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import Any

from ovlabel import files
from ovlabel.errors import BusyError, StoreError
from ovlabel.store.record import now

log = logging.getLogger("ovlabel")

BEAT_SECONDS = 5.0
DEAD_SECONDS = 30.0
_LARGEST = 2**24  # bytes of a lock file
_POLL_SECONDS = 0.5
_SAY_SECONDS = 60.0
_NAME = re.compile(r"\.lock(-\d+of\d+)?")


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 1) of `count`: each key belongs to one of them, whatever else there is."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}of{self.count}"


@dataclass
class Lock:
    """A lock that is held.

    Attributes:
        path: its file. owner: what the file says of this process; its `token` is nobody else's.
        suspects: what earlier owners, who died, had in work.
    """

    path: Path
    owner: dict[str, Any]
    suspects: list[str]
    _handle: int
    _stopped: threading.Event = field(default_factory=threading.Event)
    _telling: threading.Lock = field(default_factory=threading.Lock)
    _heart: threading.Thread | None = None

    def check(self) -> None:
        """Raise StoreError if the store was removed, BusyError if somebody else took the lock over."""
        try:
            with self._telling:
                owner: dict[str, Any] | None = _said(self.path)
        except FileNotFoundError:
            owner = None
        except OSError as error:
            raise StoreError(f"cannot read {self.path}: {error.strerror}") from error
        except ValueError:
            owner = {}
        if owner is None:
            raise StoreError(f"{self.path.parent} was removed, or its lock was, while it was written")
        if owner.get("token") != self.owner["token"]:
            raise BusyError(f"{self.path.parent}: {_named(owner)} took the lock over; nothing more is written here")

    def note(self, work: list[str]) -> None:
        """Say what is in work, in case that this process dies of it."""
        with contextlib.suppress(OSError), self._telling:  # a full disk will be told where it matters
            _say(self._handle, {**self.owner, "work": work})

    def start(self) -> None:
        """Begin to beat."""
        self._heart = threading.Thread(target=self._beat, name="ovlabel lock", daemon=True)
        self._heart.start()

    def _beat(self) -> None:
        while not self._stopped.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self._handle)

    def release(self) -> None:
        """Remove the file, if it is still this owner's, and let go."""
        self._stopped.set()
        if self._heart is not None:
            self._heart.join()  # before its file is closed, and its number given to another
        try:
            with contextlib.suppress(OSError):
                if (_owner(self.path) or {}).get("token") == self.owner["token"]:
                    self.path.unlink()
        finally:
            os.close(self._handle)


@contextlib.contextmanager
def locked(store: Path, shard: Shard | None = None, *, wait: bool = False) -> Iterator[Lock]:
    """Hold a store's folder (made if need be) against other writers.

    Without `shard` nobody else may write; shards of one count may write beside each other.

    Args:
        wait: stay until the others are done, with a line a minute.

    Raises:
        BusyError: somebody else is writing; names who. StoreError: the folder can't be made or locked.
    """
    made = not store.exists()
    lock = _patiently(store, shard) if wait else _all(store, shard)
    lock.start()
    try:
        yield lock
    finally:
        lock.release()
        if made:
            with contextlib.suppress(OSError):
                store.rmdir()  # nothing was written


def owners(store: Path) -> list[str]:
    """Who holds a lock on the store, or died with it; for people to read."""
    names = sorted(path for path in store.glob(".lock*") if _NAME.fullmatch(path.name))
    return [_named(owner) for path in names if (owner := _owner(path)) is not None]


def _patiently(store: Path, shard: Shard | None) -> Lock:
    said = -_SAY_SECONDS
    while True:
        try:
            return _all(store, shard)
        except BusyError as error:
            if time.monotonic() - said >= _SAY_SECONDS:
                said = time.monotonic()
                log.info("waiting: %s", error)
            time.sleep(_POLL_SECONDS)


def _all(store: Path, shard: Shard | None) -> Lock:
    """Take the lock of a shard, or of all; then see that nobody holds one that excludes it, or give it back.

    Both sides take first and look then, so two can give way to each other but never both go on.
    """
    own = store / (".lock" if shard is None else f".lock-{shard}")
    try:
        store.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make {store}: {error.strerror}") from None
    lock = _take(own)
    try:
        for other in sorted(entry.name for entry in os.scandir(store) if _NAME.fullmatch(entry.name)):
            beside = shard is not None and other.endswith(f"of{shard.count}")
            if other != own.name and not beside:
                _take(store / other).release()  # one that a dead owner left goes
    except BaseException:
        lock.release()
        raise
    return lock


def _take(path: Path) -> Lock:
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
        except FileNotFoundError:
            raise BusyError(f"{path.parent} is being removed by another process") from None
        except OSError as error:
            raise StoreError(f"cannot lock {path.parent}: {error.strerror}") from None
        try:
            if not S_ISREG(os.fstat(handle).st_mode):
                raise OSError(errno.EINVAL, f"{path.name} is no file")
            exact = _flock(handle, path)
            if os.stat(path, follow_symlinks=False).st_ino != os.fstat(handle).st_ino:
                raise FileNotFoundError
            _outlive(path, handle, exact)
            left = (_owner(path) or {}).get("work")
            suspects = [name for name in left if isinstance(name, str)] if isinstance(left, list) else []
            owner = {
                "token": uuid.uuid4().hex,
                "host": socket.gethostname(),
                "boot": _boot(),
                "pid": os.getpid(),
                "since": now(),
            }
            _say(handle, {**owner, "work": suspects})
            return Lock(path, owner, suspects, handle)
        except FileNotFoundError:  # its owner let go of it, and removed it, meanwhile
            os.close(handle)
        except OSError as error:
            os.close(handle)
            raise StoreError(f"cannot lock {path.parent}: {error.strerror}") from None
        except BaseException:
            os.close(handle)
            raise


def _flock(handle: int, path: Path) -> bool:
    """Whether the file system knows flock. Raises BusyError where another process has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BusyError(_busy(path, _owner(path))) from None
    except OSError:
        return False
    return True


def _outlive(path: Path, handle: int, exact: bool) -> None:
    """Come back once an owner that the file names is known to be dead. Raises BusyError where it moves."""
    if os.fstat(handle).st_size == 0:
        return
    owner = _owner(path) or {}
    if exact and owner.get("boot") == _boot():
        return
    log.info("%s: %s left a lock; looking for a sign of life for %g s", path.parent, _named(owner), DEAD_SECONDS)
    before, start = os.stat(path), time.monotonic()
    while time.monotonic() - start < DEAD_SECONDS:
        time.sleep(min(_POLL_SECONDS, DEAD_SECONDS))
        after = os.stat(path)
        if (after.st_mtime_ns, after.st_ino) != (before.st_mtime_ns, before.st_ino):
            raise BusyError(_busy(path, owner))


def _say(handle: int, said: dict[str, Any]) -> None:
    """Write the file anew in place, so that flock goes on holding it; its end is cut last."""
    data = json.dumps(said).encode()
    os.pwrite(handle, data, 0)
    os.ftruncate(handle, len(data))


def _owner(path: Path) -> dict[str, Any] | None:
    """What a lock file says of its owner; {} while it says nothing yet, None where there is none."""
    try:
        return _said(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}


def _said(path: Path) -> dict[str, Any]:
    """Raises OSError, ValueError."""
    try:
        said, _ = json.JSONDecoder().raw_decode(files.read_up_to(path, _LARGEST).decode())
    except RecursionError as error:
        raise ValueError(str(error)) from None
    return said if isinstance(said, dict) else {}


def _busy(path: Path, owner: dict[str, Any] | None) -> str:
    return f"{path.parent} is being written by {_named(owner or {})}; wait for it (--wait), or stop it"


def _named(owner: dict[str, Any]) -> str:
    if "pid" not in owner:
        return "another process"
    host = "" if owner.get("host") == socket.gethostname() else f" on {owner.get('host')}"
    return f"process {owner['pid']}{host} (since {owner.get('since')})"


def _boot() -> str:
    """This machine since it was started."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()
