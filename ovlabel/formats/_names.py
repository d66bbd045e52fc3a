"""The names of images, checked against a format over all images, before anything is written."""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from ovlabel.errors import ConfigError, printable, short
from ovlabel.formats._export import Rules

log = logging.getLogger("ovlabel")

_PART, _PATH = 255, 4095  # bytes: the most of a file's name, and of a path
_WINDOWS = re.compile(r'[<>:"|?*\\\x00-\x1f]|[. ](/|$)|(?:^|/)(con|prn|aux|nul|com\d|lpt\d)(\.|/|$)', re.IGNORECASE)


def checked_names(keys: Sequence[str], rules: Rules, folder: Path) -> dict[str, str]:
    """The names of images, by key.

    Args:
        keys: of all images.
        rules: of the format.
        folder: where it will be written.

    Returns:
        Key → key without suffix.

    Raises:
        ConfigError: the format can't hold some names, or two images would share a file, on any file system (some do
            not tell upper from lower case, or one way to write an accent from another).
    """
    names = {key: PurePosixPath(key).with_suffix("").as_posix() for key in keys}
    if rules.text:
        _refuse("no valid UTF-8, and this format writes names as text", (key for key in keys if not _is_text(key)))
    if rules.lines:
        bad = (key for key, name in names.items() if not _is_line(name))
        _refuse("no lines of a list: they hold a line break, begin with #, or begin or end with a blank", bad)
    if rules.file:
        files = {key: rules.file(name) for key, name in names.items()}
        long = (key for key, file in files.items() if _is_long(file, folder))
        _refuse("too long for the files that would be written", long)
        _check_apart(files, rules.others)
        _warn_of_windows(files)
    return names


def _refuse(problem: str, keys: Iterable[str]) -> None:
    """Raise a ConfigError that names the first few of the keys, if there is one."""
    if bad := list(keys):
        raise ConfigError(f"{_some(bad)}: {'this name is' if len(bad) == 1 else 'such names are'} {problem}; rename")


def _some(keys: list[str]) -> str:
    """The first few of some keys, and how many more there are."""
    shown = ", ".join(short(printable(key)) for key in keys[:3])
    return f"{shown} and {len(keys) - 3} more" if len(keys) > 3 else shown


def _is_text(key: str) -> bool:
    """Whether a key consists of characters; a name that is no UTF-8 does not."""
    return not any("\ud800" <= letter <= "\udfff" for letter in key)


def _is_line(name: str) -> bool:
    """Whether a name is read back from a line of a list."""
    return name.splitlines() == [name.strip()] and not name.startswith("#")


def _is_long(file: str, folder: Path) -> bool:
    """Whether a path or a part of it has too many bytes."""
    whole = len(os.fsencode(folder.absolute())) + 1 + len(os.fsencode(file))
    return whole > _PATH or any(len(os.fsencode(part)) > _PART for part in file.split("/"))


def _check_apart(files: dict[str, str], others: tuple[str, ...]) -> None:
    """Raise a ConfigError where two images share a file, or a file has the name of a folder."""
    taken = {_folded(other): other for other in others}
    for key, file in files.items():
        if (other := taken.setdefault(_folded(file), key)) != key:
            raise ConfigError(
                f"{printable(other)} and {printable(key)} would be written to one file; rename one of them"
            )
    for key, file in files.items():
        for parent in _parents(_folded(file)):
            if parent in taken:
                raise ConfigError(
                    f"{printable(key)} needs a folder where {printable(taken[parent])} needs a file; rename one of them"
                )


def _folded(file: str) -> str:
    """A path as file systems see it that tell neither case nor the ways to write an accent apart."""
    return file if file.isascii() and file.islower() else unicodedata.normalize("NFC", file.casefold())


def _parents(file: str) -> Iterator[str]:
    """The folders above a file."""
    end = file.rfind("/")
    while end > 0:
        yield file[:end]
        end = file.rfind("/", 0, end)


def _warn_of_windows(files: dict[str, str]) -> None:
    """Log a warning where files could not be copied to Windows."""
    if bad := [key for key, file in files.items() if _WINDOWS.search(file)]:
        log.warning("files of these names can't be copied to Windows: %s", _some(bad))
