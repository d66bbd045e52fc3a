"""Which images of a folder a run is about."""

from __future__ import annotations

import errno
import logging
import os
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from stat import S_ISREG

from ovlabel.errors import ConfigError, printable
from ovlabel.store.lock import Shard
from ovlabel.types import ImageItem

log = logging.getLogger("ovlabel")

SUFFIXES = frozenset(
    f".{name}"
    for name in "bmp dib gif jfif jp2 jpe jpeg jpg pbm pgm png pnm ppm tga tif tiff webp".split()  # noqa: SIM905
)
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # vanished meanwhile, a link to nowhere, a link to itself


@dataclass(frozen=True)
class Selection:
    """What a run takes of a folder, and how much of it.

    Attributes:
        include: shell patterns of keys, of which one must fit; `*` stands for slashes too. None takes everything.
        exclude: shell patterns of keys, of which none may fit.
        names: paths, relative to the folder or absolute inside it, in place of walking the folder.
        shard: take the keys of one shard only.
        limit: look at so many pending images at the most.
        retry_failed: images that failed are pending again.
        prune: remove from the store what is no longer in the folder.

    Example:
        >>> from ovlabel import Selection
        >>> Selection(include=("2024/*",), exclude=("*.gif",)).takes("2024/may/beach.jpg")
        True
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    names: tuple[str, ...] | None = None
    shard: Shard | None = None
    limit: int | None = None
    retry_failed: bool = False
    prune: bool = False

    def takes(self, key: str) -> bool:
        """Whether a key is among what the run is about."""
        if self.shard is not None and zlib.crc32(os.fsencode(key)) % self.shard.count != self.shard.index - 1:
            return False
        included = not self.include or any(fnmatchcase(key, pattern) for pattern in self.include)
        return included and not any(fnmatchcase(key, pattern) for pattern in self.exclude)


@dataclass
class Listing:
    """A folder as it was found.

    Attributes:
        items: what the run is about, by key. keys: of every image in the folder; None where it was not walked.
        absent: names that were asked for and lead to no image. left_out: subfolders that can't be read.
    """

    items: list[ImageItem]
    keys: set[str] | None
    absent: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def vanished(self, folder: Path, known: Iterable[str]) -> list[str]:
        """The known keys that are not in the folder any more; none where that can't be said."""
        if self.keys is None:
            return []
        hidden = tuple(f"{name.rstrip('/')}/" for name in self.left_out)
        gone = [key for key in known if key not in self.keys and not key.startswith(hidden or "\0")]
        return sorted(key for key in gone if not os.path.lexists(folder / key))


def list_folder(folder: Path, selection: Selection) -> Listing:
    """Walk a folder, or look for the names that were given. Raises ConfigError."""
    if selection.names is None:
        left_out: list[str] = []
        everything = list_images(folder, left_out)
        taken = [item for item in everything if selection.takes(item.key)]
        return Listing(taken, {item.key for item in everything}, left_out=left_out)
    absent: list[str] = []
    named = list_named(folder, selection.names, absent)
    return Listing([item for item in named if selection.takes(item.key)], None, absent)


def parse_shard(text: str) -> Shard:
    """ "2/8". Raises ConfigError."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count) <= 10_000):
        raise ConfigError(f"--shard {text}: write I/N, a number from 1 to N and how many there are, like 2/8")
    return Shard(int(index), int(count))


def parse_names(data: bytes) -> tuple[str, ...]:
    """A list of paths: one a line, or ended by NUL bytes, as `find -print0` writes them."""
    parts: Collection[bytes] = data.split(b"\0") if b"\0" in data else data.splitlines()
    return tuple(os.fsdecode(part) for part in parts if part)


def list_images(folder: Path, left_out: list[str] | None = None) -> list[ImageItem]:
    """Every image below `folder`, sorted by key.

    A file counts by its suffix, in upper or lower case. Hidden files and folders, Zarr stores and linked folders are
    not entered (so no loop of links can trap the walk); a linked file is taken as the file it leads to. Subfolders that
    can't be read, or not all of them, are added to `left_out`.

    Raises:
        ConfigError: `folder` is no readable folder.
    """
    _check_folder(folder)
    return sorted(_walk(folder, [] if left_out is None else left_out), key=lambda item: item.key)


def _check_folder(folder: Path) -> None:
    if not os.path.isdir(folder):  # Path.is_dir raises for some paths
        raise ConfigError(f"no folder {folder}")


def _walk(root: Path, left_out: list[str]) -> Iterator[ImageItem]:
    folders = [("", root)]
    while folders:
        prefix, folder = folders.pop()
        unread: OSError | None = None
        entries: list[os.DirEntry[str]] = []
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            unread = error
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                if entry.is_dir(follow_symlinks=False):
                    if not entry.name.lower().endswith(".zarr"):
                        folders.append((f"{prefix}{entry.name}/", Path(entry.path)))
                elif _has_suffix(entry.name):
                    stat = entry.stat()
                    if S_ISREG(stat.st_mode):
                        yield ImageItem(prefix + entry.name, Path(entry.path), stat.st_size, stat.st_mtime_ns)
            except OSError as error:
                if error.errno not in _NOT_THERE:
                    unread = error
        if unread is None or (prefix and unread.errno in _NOT_THERE):
            continue
        if not prefix:
            raise ConfigError(f"cannot read folder {folder}: {unread.strerror}") from unread
        log.warning("folder %s was left out: %s", printable(prefix), unread.strerror)
        left_out.append(prefix)


def _has_suffix(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def list_named(folder: Path, names: Iterable[str], absent: list[str]) -> list[ImageItem]:
    """The named images, each once, sorted by key. Names are paths, relative to `folder` or absolute.

    A name that isn't there, is no regular file (nor a link to one) or has no image's suffix is added to `absent`.

    Raises:
        ConfigError: `folder` is no folder; a name outside it.
    """
    _check_folder(folder)
    roots = tuple(dict.fromkeys(Path(os.path.abspath(root)) for root in (folder, folder.resolve())))
    items = []
    for key, name in {_key(roots, name): name for name in names}.items():
        try:
            stat = os.stat(folder / key)
        except (OSError, ValueError):  # ValueError: a name that no file can have
            absent.append(name)
            continue
        if S_ISREG(stat.st_mode) and _has_suffix(key):
            items.append(ImageItem(key, folder / key, stat.st_size, stat.st_mtime_ns))
        else:
            absent.append(name)
    return sorted(items, key=lambda item: item.key)


def _key(roots: tuple[Path, ...], name: str) -> str:
    path = Path(os.path.normpath(name))
    if path.is_absolute():
        path = next((path.relative_to(root) for root in roots if path.is_relative_to(root)), path)
    if path.is_absolute() or ".." in path.parts:
        raise ConfigError(f"{printable(name)} lies outside the folder {roots[0]}")
    return path.as_posix()
