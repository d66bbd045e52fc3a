"""Files that survive: regular files only, written whole, forced to the disk. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading; a pipe or a device, which could block for ever, is an OSError (EINVAL)."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(handle, "rb")


def read_up_to(path: str | Path, limit: int) -> bytes:
    """The content of a regular file of `limit` bytes at the most. Raises OSError (EFBIG for a larger one)."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(size + 1) if size <= limit else b""
    if max(size, len(data)) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit / 2**20:g} MiB", str(path))
    return data


def put(path: Path, data: bytes, *, new: bool = False) -> None:
    """Write a file whole or not at all, and force it and its name to the disk.

    Args:
        new: leave a file that is there as it is.

    Raises:
        OSError: the folder is gone, full, not writable …; nothing is left behind.
    """
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if not (new and _linked(partial, path)):
            partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def _linked(partial: Path, path: Path) -> bool:
    """Whether `path` is there now, by this call or before it; False where the file system knows no links."""
    try:
        os.link(partial, path)
    except FileExistsError:
        return True
    except OSError:
        return path.exists()
    return True


def remove_node(node: Path) -> None:
    """Remove a node of a Zarr store: its metadata first, so that what is left of an interrupted removal is no node."""
    with contextlib.suppress(OSError):
        (node / "zarr.json").unlink(missing_ok=True)
    shutil.rmtree(node, ignore_errors=True)


def sync_tree(folder: Path) -> None:
    """Force every file below a folder to the disk, and the names of all of them. Raises OSError."""
    for where, _, files in os.walk(folder, topdown=False):
        for name in files:
            with open(os.path.join(where, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(where))


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk; a file system that can't do that for folders is let off."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)
