"""Lists the images of a folder and selects those of a run. Imports neither numpy nor Pillow."""

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
from unicodedata import normalize

from ovlabel.errors import ConfigError, printable
from ovlabel.store.layout import Shard
from ovlabel.types import ImageItem

log = logging.getLogger("ovlabel")

SUFFIXES = frozenset(
    f".{name}"
    for name in "bmp dib gif jfif jp2 jpe jpeg jpg pbm pgm png pnm ppm tga tif tiff webp".split()  # noqa: SIM905
)
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # deleted meanwhile, a link to a missing file, a link to itself


@dataclass(frozen=True)
class Selection:
    """Which images of a folder a run annotates.

    Attributes:
        include: shell patterns of keys, in which `*` matches slashes too; an image must match one. Empty: all images.
        exclude: shell patterns of keys that are left out.
        names: paths, relative to the folder or absolute inside it, or None to search the folder.
        shard: the only shard whose keys are taken, or None.
        limit: the most pending images that are annotated, or None.
        retry_failed: count images that failed in an earlier run as pending.
        prune: remove images from the store that are no longer in the folder.

    Example:
        >>> from ovlabel import Selection
        >>> selection = Selection(include=("holiday/*",), exclude=("*.gif",))
        >>> selection.takes("holiday/2024/beach.jpg"), selection.takes("holiday/waves.gif")
        (True, False)
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    names: tuple[str, ...] | None = None
    shard: Shard | None = None
    limit: int | None = None
    retry_failed: bool = False
    prune: bool = False

    def takes(self, key: str) -> bool:
        """Whether the patterns and the shard select an image, given its key."""
        if self.shard is not None and zlib.crc32(os.fsencode(key)) % self.shard.count != self.shard.index - 1:
            return False
        included = not self.include or any(fnmatchcase(key, pattern) for pattern in self.include)
        return included and not any(fnmatchcase(key, pattern) for pattern in self.exclude)


@dataclass
class Listing:
    """The images that were found in a folder.

    Attributes:
        items: the selected images, sorted by key.
        keys: the keys of all images in the folder, or None if it was not searched.
        absent: the names among `Selection.names` that are no images.
        left_out: subfolders that can't be read, each ending in a slash.
    """

    items: list[ImageItem]
    keys: set[str] | None
    absent: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def vanished(self, folder: Path, known: Iterable[str]) -> list[str]:
        """The keys of images that are no longer in the folder, sorted.

        Args:
            folder: the folder.
            known: the keys to check, such as those of a store.

        Returns:
            Nothing if the folder was not searched; no keys below a subfolder that can't be read.
        """
        if self.keys is None:
            return []
        unread = tuple(f"{name.rstrip('/')}/" for name in self.left_out)
        gone = [key for key in known if key not in self.keys and not key.startswith(unread or "\0")]
        return sorted(key for key in gone if not os.path.lexists(folder / key))


def list_folder(folder: Path, selection: Selection) -> Listing:
    """List the images of a folder that a run selects.

    Args:
        folder: it is searched with all its subfolders, unless the selection names paths.
        selection: which images.

    Raises:
        ConfigError: `folder` is no readable folder, or a named path lies outside it.
    """
    if selection.names is None:
        left_out: list[str] = []
        everything = list_images(folder, left_out)
        taken = [item for item in everything if selection.takes(item.key)]
        return Listing(taken, {item.key for item in everything}, left_out=left_out)
    absent: list[str] = []
    named = list_named(folder, selection.names, absent)
    return Listing([item for item in named if selection.takes(item.key)], None, absent)


def parse_shard(text: str) -> Shard:
    """Read a shard as it is written on the command line.

    Args:
        text: "I/N", the number of the shard, from 1, and how many shards there are.

    Raises:
        ConfigError: it is written otherwise, or there are more than 10,000 shards.

    Example:
        >>> shard = parse_shard("2/8")
        >>> shard.index, shard.count
        (2, 8)
    """
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count) <= 10_000):
        raise ConfigError(f"--shard {text}: write I/N, a number from 1 to N and how many there are, like 2/8")
    return Shard(int(index), int(count))


def parse_names(data: bytes) -> tuple[str, ...]:
    """Read a list of paths: one on each line, or each followed by a NUL byte, as `find -print0` writes them.

    Example:
        >>> parse_names(b"a.jpg\\nb c.jpg\\n")
        ('a.jpg', 'b c.jpg')
    """
    parts: Collection[bytes] = data.split(b"\0") if b"\0" in data else data.splitlines()
    return tuple(os.fsdecode(part) for part in parts if part)


def list_images(folder: Path, left_out: list[str] | None = None) -> list[ImageItem]:
    """Every image in a folder and its subfolders, sorted by key.

    A file is an image if its suffix is one of SUFFIXES, in upper or lower case. Hidden files and folders, Zarr stores
    and links to folders are skipped, so that links can make no endless loop; a link to a file counts as the file.

    Args:
        folder: where to search.
        left_out: receives the subfolders that can't be read completely, each ending in a slash.

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
    """The images of a folder with these names, each once, sorted by key.

    Args:
        folder: the folder.
        names: paths, relative to the folder or absolute.
        absent: receives the names that do not exist, are no regular files or links to one, or lack an image's suffix.

    Raises:
        ConfigError: `folder` is no folder, or a name lies outside it.
    """
    _check_folder(folder)
    roots = tuple(dict.fromkeys(Path(os.path.abspath(root)) for root in (folder, folder.resolve())))
    items = []
    for key, name in {_as_written(folder, _key(roots, name)): name for name in names}.items():
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


def _as_written(folder: Path, key: str) -> str:
    """The key of the file whose name has the same letters, where an accent may be a part of its letter or follow it.

    macOS writes the second form, archives and git often hold the first.
    """
    if key.isascii() or os.path.lexists(folder / key):
        return key
    found = ""
    for part in key.split("/"):
        try:
            names = [part] if os.path.lexists(folder / found / part) else os.listdir(folder / found)
        except (OSError, ValueError):
            return key
        same = [name for name in names if normalize("NFC", name) == normalize("NFC", part)]
        found = os.path.join(found, same[0] if len(same) == 1 else part)
    return found


def _key(roots: tuple[Path, ...], name: str) -> str:
    path = Path(os.path.normpath(name))
    if path.is_absolute():
        path = next((path.relative_to(root) for root in roots if path.is_relative_to(root)), path)
    if path.is_absolute() or ".." in path.parts:
        raise ConfigError(f"{printable(name)} lies outside the folder {roots[0]}")
    return path.as_posix()
