"""The report of `ovlabel doctor`: what was found, section by section, and the problems."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ovlabel.errors import OvlabelError

_LEAST_FREE = 2**30  # bytes of a disk, fewer of which are a problem


@dataclass
class Report:
    """What there is on this machine, and what is wrong with it.

    Attributes:
        sections: section → label → what was found, in one line.
        problems: what is wrong, where, and what to do about it; one line each.
    """

    sections: dict[str, dict[str, str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    _broken: bool = False  # a package does not import
    _full: set[int] = field(default_factory=set)  # device numbers of disks that are known to be full

    def check(self, section: str, label: str, find: Callable[[], str], cure: str = "") -> None:
        """Run one check and enter its result; whatever it raises becomes a problem, and the report goes on.

        Args:
            section: of the report.
            label: under which the result stands.
            find: returns the result in one line; it may enter further results, which stand below its own.
            cure: for the check of a package: how to install it again. Unexpected errors of other checks are no
                problems of their own once a package is broken, because they follow from it.
        """
        found = self.sections.setdefault(section, {})
        found[label] = ""  # takes its place before the results that `find` enters
        try:
            found[label] = find()
        except OvlabelError as error:
            found[label] = "can't be used"
            self.problems.append(str(error))
        except Exception as error:
            found[label] = f"failed ({one_line(error)})"
            if cure or not self._broken:
                self.problems.append(f"{label}: {one_line(error)}; {cure or 'if nothing else explains it, report it'}")
            self._broken |= bool(cure)

    def folder(self, folder: Path, cure: str, *, count: bool = False, needed: bool = True) -> str:
        """Whether a folder can be written and locked, and how much space is free; leaves nothing in it.

        Args:
            folder: the folder; where it does not exist, the nearest folder above it is examined.
            cure: what to do where it can't be written or is full.
            count: also count its files and their size.
            needed: whether a folder that can't be written is a problem.

        Returns:
            One line.
        """
        there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
        facts = _content(folder) if count else []
        try:
            with tempfile.TemporaryFile(dir=there, buffering=0) as file:
                file.write(b"0")
                facts += ["writable", _locks(file.fileno())]
        except OSError as error:
            facts += [f"not writable: {error.strerror}"]
            if needed:
                self.problems.append(f"{folder} can't be written ({there}: {error.strerror}); {cure}")
        free, disk = shutil.disk_usage(there).free, os.stat(there).st_dev
        if free < _LEAST_FREE and disk not in self._full:
            self._full.add(disk)  # one problem a disk
            self.problems.append(f"only {size(free)} are free where {folder} lies; remove something, or {cure}")
        return f"{folder} ({', '.join([*facts, f'{size(free)} free'])})"


def one_line(error: object) -> str:
    """The class of an error and the first line of its message, at most 200 characters of it."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"


def size(count: float) -> str:
    """A number of bytes in words: "412 B", "1.4 MiB", "23.5 GiB"."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while count >= 1024 and len(units) > 1:
        count, units = count / 1024, units[1:]
    return f"{count:.{0 if units[0] == 'B' else 1}f} {units[0]}"


def _content(folder: Path) -> list[str]:
    """How many files lie in a folder and below, and their size."""
    sizes = []
    for where, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                sizes.append(os.lstat(os.path.join(where, name)).st_size)
    return [f"{len(sizes)} files", size(sum(sizes))]


def _locks(handle: int) -> str:
    """Whether an open file can be locked, as a store must be."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return f"no flock: {error.strerror}"
    return "flock works"
