"""One writer at a time: a lock file that names its owner and is touched every few seconds. Standard library only.

Two mechanisms work together, because neither suffices on every file system. `flock` on the lock file is exact on one
machine, and the kernel releases it when the process ends, however it ends; some network file systems do not know it, or
do not pass it on between machines. Therefore the file also names its owner, and a thread of the owner sets the file's
modification time every `BEAT_SECONDS`. A process that finds an owner of another machine watches the file: the owner
counts as dead when the file has not changed for `DEAD_SECONDS` on the watching process's own monotonic clock. Clocks of
two machines are never compared, and no clock that can jump is read.

Every lock file has one author. A process writes its own file under a name that nobody else uses, and then gives it the
name of the lock: with a hard link, which fails where there is a lock already, or, in place of a dead owner's file, with
a rename. What an owner writes later goes to the file that it made, wherever its name has gone; so no process ever
writes into the lock of another. Of two that take a dead owner's place at once, the later rename counts. Where `flock`
did not decide between them, each waits `_SETTLE_SECONDS` and looks whose file has the name.

An owner that was suspended, and lost its lock meanwhile, notices it before its next commit (`Lock.check`), last when
the record lies on the disk and only its name is missing. The run that took the lock over removes what was not committed
(`StoreWriter.clear_unfinished`), so that there is no file left to be given the name.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovlabel.errors import BusyError, StoreError, short
from ovlabel.store import lockfile
from ovlabel.store.layout import LOCK, Shard, naming_failures, remove
from ovlabel.store.record import now

log = logging.getLogger("ovlabel")

BEAT_SECONDS = 5.0  # between two touches of the lock file by its owner
DEAD_SECONDS = 30.0  # without a touch: the owner counts as dead
_POLL_SECONDS = 0.5  # between two looks at another owner's file
_SETTLE_SECONDS = 1.0  # without flock: after a dead owner's file was replaced, before its place counts as taken
_REPORT_SECONDS = 60.0  # between two lines of the log while waiting


@dataclass
class Lock:
    """A lock that is held.

    Attributes:
        path: the lock file.
        owner: this process as the file names it: host, process id, start, and a `token` that no other lock has.
        suspects: keys of the images that earlier owners were working on when they died.
    """

    path: Path
    owner: dict[str, Any]
    suspects: list[str]
    _handle: int
    _stopped: threading.Event = field(default_factory=threading.Event)
    _telling: threading.Lock = field(default_factory=threading.Lock)
    _heart: threading.Thread | None = None

    def check(self) -> None:
        """Make sure that the lock is still this process's own.

        Raises:
            StoreError: the store or its lock file was removed, or the file can't be read.
            BusyError: another process has taken the lock over.
        """
        try:
            with self._telling:
                owner: dict[str, Any] | None = lockfile.content(self.path)
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
        """Write into the lock file which images are in work, for the next run, should this process die of one of them.

        Args:
            work: keys of images.
        """
        with contextlib.suppress(OSError), self._telling:  # the next commit reports a full disk
            lockfile.write(
                self._handle, {**self.owner, "work": work}
            )  # into the file that this process made, no other's

    def start(self) -> None:
        """Start the thread that touches the lock file."""
        self._heart = threading.Thread(target=self._beat, name="ovlabel lock", daemon=True)
        self._heart.start()

    def _beat(self) -> None:
        """Touch the lock file every few seconds, until the lock is released."""
        while not self._stopped.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self._handle)

    def release(self) -> None:
        """Remove the lock file, if it still names this owner, and close it."""
        self._stopped.set()
        if self._heart is not None:
            self._heart.join()  # before the file is closed: its descriptor could be given to another file
        try:
            with contextlib.suppress(OSError, StoreError):
                if (_owner(self.path) or {}).get("token") == self.owner["token"]:
                    remove(self.path.parent, self.path.name)
        finally:
            os.close(self._handle)


@contextlib.contextmanager
def locked(store: Path, shard: Shard | None = None, *, wait: bool = False) -> Iterator[Lock]:
    """Hold the lock of a store's folder, which is made if it is not there.

    Args:
        store: the folder.
        shard: the shard that is written; shards of one count may write at the same time. None: no other process may.
        wait: wait until the other processes are done, with a line in the log every minute.

    Raises:
        BusyError: another process is writing; the message names it.
        StoreError: the folder can't be made or locked.
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
    """The processes that hold a lock on a store, or died while they held one, each in words.

    Args:
        store: the store's folder.
    """
    names = sorted(path for path in store.glob(".lock*") if LOCK.fullmatch(path.name))
    return [_named(owner) for path in names if (owner := _owner(path)) is not None]


def _patiently(store: Path, shard: Shard | None) -> Lock:
    """Take the lock as soon as no other process holds one that excludes it."""
    reported = -_REPORT_SECONDS
    while True:
        try:
            return _all(store, shard)
        except BusyError as error:
            if time.monotonic() - reported >= _REPORT_SECONDS:
                reported = time.monotonic()
                log.info("waiting: %s", error)
            time.sleep(_POLL_SECONDS)


def _all(store: Path, shard: Shard | None) -> Lock:
    """Take the lock of a shard, or of the whole store; release it again if another lock excludes it.

    Every process takes its own lock first and then looks for others: two may both give up, but never both go on.
    """
    own = store / (".lock" if shard is None else f".lock-{shard}")
    with naming_failures(store):
        store.mkdir(parents=True, exist_ok=True)
    lock = _take(own)
    try:
        with naming_failures(store), os.scandir(store) as entries:
            names = sorted(entry.name for entry in entries if LOCK.fullmatch(entry.name))
        for other in names:
            beside = shard is not None and other.endswith(f"of{shard.count}")
            if other != own.name and not beside:
                _take(store / other).release()  # removes a lock that a dead owner left
    except BaseException:
        lock.release()
        raise
    return lock


def _take(path: Path) -> Lock:
    """Take one lock file. Raises BusyError where a living process holds it, StoreError where it can't be locked."""
    while True:
        with contextlib.ExitStack() as held:
            try:
                return _try(path, held)
            except FileNotFoundError:  # its owner has released and removed it meanwhile: try again
                if not path.parent.is_dir():
                    raise BusyError(f"{path.parent} is being removed by another process") from None
            except OSError as error:
                raise StoreError(f"cannot lock {path.parent}: {error.strerror}") from None


def _try(path: Path, held: contextlib.ExitStack) -> Lock:
    """Take one lock file, if nobody else is at it; else raise FileNotFoundError, or as `_take` does.

    Args:
        path: the lock file.
        held: closes the file of an earlier owner, whose `flock` keeps others out until then.
    """
    before, exact, left = lockfile.open_if_there(path), True, None
    if before is not None:
        held.callback(os.close, before)
        exact = _flock(before, path)
        left = (_owner(path) or {}).get("work")
        _outlive(path, before, exact)
    suspects = [name for name in left if isinstance(name, str)] if isinstance(left, list) else []
    owner = _new_owner()
    made = lockfile.place(path, {**owner, "work": suspects}, before)
    lock = Lock(path, owner, suspects, made)
    try:
        if before is not None and not exact:
            time.sleep(_SETTLE_SECONDS)
        lock.check()
    except BaseException:
        lock.release()
        raise
    return lock


def _new_owner() -> dict[str, Any]:
    """This process, as a lock file names it."""
    return {
        "token": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": os.getpid(),
        "since": now(),
    }


def _flock(handle: int, path: Path) -> bool:
    """Call flock, and return whether the file system knows it. Raises BusyError where another process holds it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BusyError(_busy(path, _owner(path))) from None
    except OSError:
        return False
    return True


def _outlive(path: Path, handle: int, exact: bool) -> None:
    """Return once the owner that the file names counts as dead. Raises BusyError if the file is touched.

    Raises FileNotFoundError where the file has gone, or gave its name to another.
    """
    if not lockfile.is_at(path, handle):
        raise FileNotFoundError
    owner = _owner(path) or {}
    if exact and owner.get("boot") == _boot():
        return
    log.info("%s: %s left a lock; looking for a sign of life for %g s", path.parent, _named(owner), DEAD_SECONDS)
    before, start = lockfile.touched(path), time.monotonic()
    while time.monotonic() - start < DEAD_SECONDS:
        time.sleep(min(_POLL_SECONDS, DEAD_SECONDS))
        if lockfile.touched(path) != before:
            raise BusyError(_busy(path, _owner(path)))


def _owner(path: Path) -> dict[str, Any] | None:
    """The owner that a lock file names; {} where it names none yet, None where there is no file."""
    try:
        return lockfile.content(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}


def _busy(path: Path, owner: dict[str, Any] | None) -> str:
    """The message of a BusyError."""
    return f"{path.parent} is being written by {_named(owner or {})}; wait for it (--wait), or stop it"


def _named(owner: dict[str, Any]) -> str:
    """An owner in words: its process, its host if that is another one, and since when it holds the lock."""
    if "pid" not in owner:
        return "another process"
    host = "" if owner.get("host") == socket.gethostname() else f" on {owner.get('host')}"
    return short(f"process {owner['pid']}{host} (since {owner.get('since')})")


def _boot() -> str:
    """What identifies this machine since it was started last: Linux's boot id, elsewhere the host name."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()
