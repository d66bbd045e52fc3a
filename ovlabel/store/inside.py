"""Files inside a store, opened and deleted without following a link, which could lead to another store.

The path of the store itself may lead through links. Below it, each folder is opened from the descriptor of the one
above it, so that a link leads nowhere, also one that takes the place of a folder between a check and a deletion.
Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from stat import S_ISLNK, S_ISREG
from typing import BinaryIO

from ovlabel import files

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


@contextlib.contextmanager
def folder(store: Path, *parts: str) -> Iterator[int]:
    """The descriptor of a folder inside a store.

    Args:
        store: the store; links that lead to it are followed.
        parts: the names of the folders on the way, each in the one before it; none for the store's own folder.

    Raises:
        OSError: a folder can't be opened; ELOOP where it is a link.
    """
    handle = os.open(store, _FOLDER)
    try:
        for depth, part in enumerate(parts, 1):
            deeper = _open(part, _FOLDER, handle, store.joinpath(*parts[:depth]))
            os.close(handle)
            handle = deeper
        yield handle
    finally:
        os.close(handle)


def open_file(store: Path, name: str) -> BinaryIO:
    """Open a regular file inside a store for reading in binary.

    Args:
        store: the store.
        name: the file as seen from the store, with `/` between its parts.

    Raises:
        OSError: it can't be opened; ELOOP where it is a link or lies behind one, EINVAL where it is a pipe, a device or
            a folder, reading which could block for ever.
    """
    *folders, last = PurePosixPath(name).parts
    with folder(store, *folders) as place:
        handle = _open(last, _FILE, place, store / name)
    if not S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", str(store / name))
    return os.fdopen(handle, "rb")


def read_up_to(store: Path, name: str, limit: int) -> bytes:
    """The content of a regular file inside a store.

    Args:
        store: the store.
        name: the file as seen from the store.
        limit: the most bytes that are read.

    Raises:
        OSError: as `open_file`; EFBIG where the file is larger than `limit`.
    """
    with open_file(store, name) as file:
        return files.content(file, limit, store / name)


def delete(store: Path, name: str, first: str = "") -> None:
    """Delete a file, or a folder with all that is in it. What is not there any more is no error.

    Args:
        store: the store.
        name: the file or folder as seen from the store.
        first: the name of the file in the folder that is deleted before the others.

    Raises:
        OSError: it can't be deleted; ELOOP where it is a link, lies behind one or holds one: nothing was deleted.
    """
    *folders, last = PurePosixPath(name).parts
    with contextlib.suppress(FileNotFoundError), folder(store, *folders) as place:
        _refuse_link(last, place, store / name)
        if not first:
            os.unlink(last, dir_fd=place)
            return
        refuse_links(store, name)
        with folder(store, *folders, last) as doomed, contextlib.suppress(OSError):
            os.unlink(first, dir_fd=doomed)
        shutil.rmtree(last, ignore_errors=True, dir_fd=place)


def refuse_links(store: Path, name: str) -> None:
    """Raise OSError (ELOOP) where a folder inside a store is a link, lies behind one, or holds one at any depth.

    Args:
        store: the store.
        name: the folder as seen from the store.
    """
    with folder(store, *PurePosixPath(name).parts) as place:
        for where, folders, plain, handle in os.fwalk(".", dir_fd=place, follow_symlinks=False):
            for entry in (*folders, *plain):
                _refuse_link(entry, handle, store / name / where / entry)


def _open(part: str, flags: int, place: int, path: Path) -> int:
    """Open a file or folder in an open folder, unless it is a link."""
    if part in ("", ".", "..") or "/" in part:
        raise OSError(errno.EINVAL, "not a name", str(path))
    try:
        return os.open(part, flags | os.O_NOFOLLOW, dir_fd=place)
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path)) from None
    except OSError as error:
        _refuse_link(part, place, path)
        if error.errno == errno.ENXIO:  # a socket
            raise OSError(errno.EINVAL, "not a regular file", str(path)) from None
        raise OSError(error.errno, error.strerror, str(path)) from None


def is_link(part: str, place: int) -> bool:
    """Whether an entry of an open folder is a link; False where there is none.

    Args:
        part: its name.
        place: the descriptor of the folder.
    """
    try:
        return S_ISLNK(os.stat(part, dir_fd=place, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _refuse_link(part: str, place: int, path: Path) -> None:
    """Raise OSError where an entry of an open folder is a link."""
    if is_link(part, place):
        raise OSError(errno.ELOOP, "is a link", str(path))
