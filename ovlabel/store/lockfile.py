"""The file of a lock: made whole, given its name, read. What its content means, and who may take it, says `lock.py`.

A lock file has one author: nothing here writes into a file that another process made. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from pathlib import Path
from stat import S_ISREG
from typing import Any

from ovlabel import files

_LARGEST = 2**24  # bytes of a lock file that are read


def place(path: Path, content: dict[str, Any], before: int | None) -> int:
    """Make a lock file, whole and locked from the start, and return its descriptor.

    Args:
        path: the lock file.
        content: of the file.
        before: the file of a dead owner, which is replaced; None: there was no file.

    Raises:
        FileNotFoundError: another process was faster.
    """
    own = path.with_name(f"{path.name}.{content['token']}.partial")
    handle = os.open(own, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        with contextlib.suppress(OSError):  # a file system that does not know it
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write(handle, content)
        if before is None:
            _link(own, path)
        elif is_at(path, before):
            os.replace(own, path)
        else:
            raise FileNotFoundError
        return handle
    except BaseException:
        os.close(handle)
        raise
    finally:
        with contextlib.suppress(OSError):
            os.unlink(own)


def _link(own: Path, path: Path) -> None:
    """Give a file the name of the lock. Raises FileNotFoundError where that is taken."""
    try:
        os.link(own, path)
    except FileExistsError:
        raise FileNotFoundError from None
    except FileNotFoundError:
        raise
    except OSError:  # a file system without hard links: an empty file is outlived like any other
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
        except FileExistsError:
            raise FileNotFoundError from None
        try:
            os.replace(own, path)
        except OSError:
            os.unlink(path)  # the empty file
            raise


def write(handle: int, content: dict[str, Any]) -> None:
    """Write the content of a file that this process has made, in place, and cut off what is left of the old content.

    Args:
        handle: from `place`.
        content: of the file, as plain JSON values.
    """
    data = json.dumps(content).encode()
    os.pwrite(handle, data, 0)
    os.ftruncate(handle, len(data))


def open_if_there(path: Path) -> int | None:
    """Open a lock file for `flock`, which some file systems grant for writing only; None where there is none.

    Args:
        path: the lock file.

    Raises:
        OSError: it is a link, no file, or can't be opened.
    """
    try:
        return open_plain(path, os.O_RDWR)
    except FileNotFoundError:
        return None


def open_plain(path: Path, how: int) -> int:
    """Open a lock file.

    Args:
        path: the lock file.
        how: os.O_RDONLY or os.O_RDWR.

    Raises:
        OSError: it is a link, no file, or can't be opened.
    """
    handle = os.open(path, how | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    if not S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, f"{path.name} is no file")
    return handle


def is_at(path: Path, handle: int) -> bool:
    """Whether a path leads to a file that is open.

    Args:
        path: the lock file.
        handle: of the open file.

    Raises:
        FileNotFoundError: there is nothing at the path.
    """
    found, opened = os.stat(path, follow_symlinks=False), os.fstat(handle)
    return (found.st_ino, found.st_dev) == (opened.st_ino, opened.st_dev)


def touched(path: Path) -> tuple[int, int]:
    """When a lock file was changed, and which file it is; opened anew, since network file systems keep old answers.

    Args:
        path: the lock file.

    Raises:
        OSError: it has gone, or can't be opened.
    """
    handle = open_plain(path, os.O_RDONLY)
    try:
        found = os.fstat(handle)
    finally:
        os.close(handle)
    return found.st_mtime_ns, found.st_ino


def content(path: Path) -> dict[str, Any]:
    """What a lock file says; {} where that is no object of JSON.

    Args:
        path: the lock file.

    Raises:
        OSError: it can't be read.
        ValueError: it is no JSON.
    """
    try:
        with os.fdopen(open_plain(path, os.O_RDONLY), "rb") as file:
            reported, _ = json.JSONDecoder().raw_decode(files.content(file, _LARGEST, path).decode())
    except RecursionError as error:
        raise ValueError(str(error)) from None
    return reported if isinstance(reported, dict) else {}
