"""A folder that is there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

from ovlabel.errors import ConfigError
from ovlabel.files import occupied

_PARTIAL = ".ovlabel-export"


def check_free(folder: Path) -> None:
    """Check that nothing of somebody else's lies in a folder; what file managers and file systems leave does not count.

    Raises:
        ConfigError: the folder holds something, is a file, or can't be looked into.
    """
    try:
        holds = occupied(folder)
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror}") from None
    if holds:
        raise ConfigError(f"{folder} holds something already; name a folder that is empty or not there yet")


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Make a folder in whose place another stands in until everything is written.

    Args:
        folder: from `check_free`.

    Returns:
        The folder to write to. At the end of the block its content is `folder`'s. After an exception it is gone, and
        `folder` is as it was.

    Raises:
        OSError: a folder can't be made, moved or removed.
    """
    made = [place for place in folder.parents if not place.exists()]
    there = folder.exists()
    partial = folder / _PARTIAL if there else folder.parent / f"{_PARTIAL}-{zlib.crc32(os.fsencode(folder.name)):08x}"
    moved: list[Path] = []
    try:
        if partial.exists():  # of an export that was killed
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        yield partial
        if there:
            for entry in sorted(partial.iterdir()):
                moved.append(folder / entry.name)
                entry.rename(moved[-1])
            partial.rmdir()
        else:
            partial.rename(folder)
    except BaseException:
        for place in (partial, *moved):
            _remove(place)
        for place in made:
            with contextlib.suppress(OSError):
                place.rmdir()
        raise


def _remove(place: Path) -> None:
    """Remove a file or a folder with all that it holds, as far as it can be removed."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            place.unlink(missing_ok=True)
