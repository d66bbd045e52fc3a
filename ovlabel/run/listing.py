"""Lists the images of a folder and selects those of a run. Imports neither numpy nor Pillow."""

from __future__ import annotations

import codecs
import errno
import logging
import os
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from stat import S_ISREG
from unicodedata import normalize

from ovlabel.errors import ConfigError, printable
from ovlabel.files import passed_over
from ovlabel.store.layout import Shard
from ovlabel.types import ImageItem, ImageList

log = logging.getLogger("ovlabel")

_HEIF = ("heic", "heif", "hif") if find_spec("pillow_heif") else ()
SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *"apng avif avifs bmp dib gif j2c j2k jfi jfif jif jp2 jpc jpe jpeg jpf jpg jpx mpo pbm pfm pgm".split(),  # noqa: SIM905
        *"pjp pjpeg png pnm ppm tga tif tiff webp".split(),  # noqa: SIM905
        *_HEIF,
    )
)
_SIDECARS = frozenset(  # of files that lie beside images and are none; they are not counted
    f".{name}"
    for name in (
        *"aae bib cfg csv htm html ini ipynb json jsonl lnk log mat md md5 npy npz py rst sh sha256".split(),  # noqa: SIM905
        *"srt thm toml tsv txt url vtt xml xmp yaml yml".split(),  # noqa: SIM905
    )
)
_MOST_KINDS, _OF_OTHERS = 100, "others"  # suffixes that are counted apart; a folder may hold a million of them
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # deleted meanwhile, a link to a missing file, a link to itself


@dataclass(frozen=True)
class Selection:
    """Which images of a folder a run annotates.

    Attributes:
        include: shell patterns of keys, in which `*` matches slashes too; an image must match one. Empty: all images.
        exclude: shell patterns of keys that are left out, or paths of folders. A folder of which all is left out is
            not entered.
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
        return included and not any(
            fnmatchcase(key, pattern) or key.startswith(f"{pattern.rstrip('/')}/") for pattern in self.exclude
        )

    def enters(self, prefix: str) -> bool:
        """Whether the patterns leave anything of a folder.

        Args:
            prefix: its path, ending in a slash.
        """
        return not any(
            (pattern.endswith("*") and fnmatchcase(prefix, pattern)) or prefix.startswith(f"{pattern.rstrip('/')}/")
            for pattern in self.exclude
        )


@dataclass
class Listing:
    """The images that were found in a folder.

    Attributes:
        items: the selected images, sorted by key.
        keys: the keys of all images in the folder, sorted, or None if it was not searched.
        absent: the names among `Selection.names` that are no images.
        left_out: subfolders that can't be read, each ending in a slash.
        excluded: subfolders that the selection excludes whole, likewise.
        others: how many files of other kinds were not looked at, by suffix, most first ("": without one).
    """

    items: ImageList
    keys: list[str] | None
    absent: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)

    def vanished(self, folder: Path, known: Iterable[str]) -> list[str]:
        """The keys of images that are no longer in the folder, sorted.

        Args:
            folder: the folder.
            known: the keys to check, such as those of a store.

        Returns:
            Nothing if the folder was not searched; no keys below a subfolder that can't be read or was excluded.
        """
        if self.keys is None:
            return []
        unread = tuple(f"{name.rstrip('/')}/" for name in [*self.left_out, *self.excluded])
        gone = (key for key in set(known).difference(self.keys) if not key.startswith(unread or "\0"))
        return sorted(key for key in gone if not os.path.lexists(folder / key))


def list_folder(folder: Path, selection: Selection, *, by_name: bool = False) -> Listing:
    """List the images of a folder that a run selects.

    Args:
        folder: it is searched with all its subfolders, unless the selection names paths.
        selection: which images.
        by_name: leave sizes and times 0 where the folder is searched, which takes a third of the time.

    Raises:
        ConfigError: `folder` is no readable folder, or a named path lies outside it.
    """
    if selection.names is None:
        _check_folder(folder)
        met = _Met(selection)
        found = ImageList.of(folder, _walk(folder, met, by_name))
        everything = found.take(sorted(range(len(found)), key=found.keys.__getitem__))
        others = dict(met.others.most_common())
        return Listing(_taken(everything, selection), everything.keys, [], met.left_out, met.excluded, others)
    absent: list[str] = []
    named = list_named(folder, selection.names, absent)
    found = ImageList.of(folder, ((item.key, item.size, item.mtime_ns) for item in named))
    return Listing(_taken(found, selection), None, absent)


def _taken(images: ImageList, selection: Selection) -> ImageList:
    """Those images that a selection takes."""
    if not (selection.include or selection.exclude or selection.shard):
        return images
    return images.take([place for place, key in enumerate(images.keys) if selection.takes(key)])


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

    A mark of the byte order at the start, which some editors write, is passed over.

    Example:
        >>> parse_names(b"a.jpg\\nb c.jpg\\n")
        ('a.jpg', 'b c.jpg')
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    parts: Collection[bytes] = data.split(b"\0") if b"\0" in data else data.splitlines()
    return tuple(os.fsdecode(part) for part in parts if part)


def list_images(folder: Path, left_out: list[str] | None = None) -> list[ImageItem]:
    """Every image in a folder and its subfolders, sorted by key.

    A file is an image if its suffix is one of SUFFIXES, in upper or lower case. Files and folders that are hidden or
    belong to a system, Zarr stores and links to folders are skipped, so that links can make no endless loop; a link to
    a file counts as the file.

    Args:
        folder: where to search.
        left_out: receives the subfolders that can't be read completely, each ending in a slash.

    Raises:
        ConfigError: `folder` is no readable folder.
    """
    listing = list_folder(folder, Selection())
    if left_out is not None:
        left_out += listing.left_out
    return list(listing.items)


def _check_folder(folder: Path) -> None:
    if not os.path.isdir(folder):  # Path.is_dir raises for some paths
        raise ConfigError(f"no folder {folder}")


@dataclass
class _Met:
    """What a walk through a folder meets that is no image; see `Listing`."""

    selection: Selection = field(default_factory=Selection)
    left_out: list[str] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    def enters(self, prefix: str, name: str) -> bool:
        """Whether the walk goes into a subfolder."""
        if name.lower().endswith(".zarr"):
            return False
        if self.selection.enters(f"{prefix}{name}/"):
            return True
        self.excluded.append(f"{prefix}{name}/")
        return False

    def count(self, prefix: str, entry: os.DirEntry[str]) -> None:
        """Count a file that has no suffix of an image, unless it is one of those that lie beside images."""
        suffix = os.path.splitext(entry.name)[1].lower()
        if suffix not in _SIDECARS and entry.is_file() and self.selection.takes(prefix + entry.name):
            many = len(self.others) >= _MOST_KINDS and suffix not in self.others
            self.others[_OF_OTHERS if many else suffix] += 1


def _walk(root: Path, met: _Met, by_name: bool) -> Iterator[tuple[str, int, int]]:
    """Key, size and modification time of every image, in no order."""
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
            name = entry.name
            image = _has_suffix(name)
            if name.startswith(".") if image else passed_over(name):  # no name of a system ends like an image
                continue
            try:
                if entry.is_dir(follow_symlinks=False):
                    if met.enters(prefix, entry.name):
                        folders.append((f"{prefix}{entry.name}/", Path(entry.path)))
                elif not image:
                    met.count(prefix, entry)
                elif by_name:
                    if entry.is_file():
                        yield prefix + name, 0, 0
                else:
                    stat = entry.stat()
                    if S_ISREG(stat.st_mode):
                        yield prefix + name, stat.st_size, stat.st_mtime_ns
            except OSError as error:
                if error.errno not in _NOT_THERE:
                    unread = error
        if unread is None or (prefix and unread.errno in _NOT_THERE):
            continue
        if not prefix:
            raise ConfigError(f"cannot read folder {folder}: {unread.strerror}") from unread
        log.warning("folder %s was left out: %s", printable(prefix), unread.strerror)
        met.left_out.append(prefix)


def _has_suffix(name: str) -> bool:
    dot = name.rfind(".")
    return dot > 0 and name[dot - 1] != "/" and (name[dot:] in SUFFIXES or name[dot:].lower() in SUFFIXES)


def list_named(folder: Path, names: Iterable[str], absent: list[str]) -> list[ImageItem]:
    """The images of a folder with these names, each once, sorted by key.

    A name that is no image's is tried without blanks and quotes around it, and then with the suffix of an image after
    it, as the lists of data sets have names; with suffixes it counts if only one file has such a name.

    Args:
        folder: the folder.
        names: paths, relative to the folder or absolute.
        absent: receives the names that do not exist, are no regular files or links to one, or lack an image's suffix.

    Raises:
        ConfigError: `folder` is no folder, or a name lies outside it.
    """
    _check_folder(folder)
    roots = tuple(dict.fromkeys(Path(os.path.abspath(root)) for root in (folder, folder.resolve())))
    found: dict[str, ImageItem] = {}
    for key, name in {_as_written(folder, _key(roots, name)): name for name in names}.items():
        if (item := _named(folder, roots, key, name)) is None:
            absent.append(name)
        else:
            found[item.key] = item
    return [found[key] for key in sorted(found)]


def _named(folder: Path, roots: tuple[Path, ...], key: str, name: str) -> ImageItem | None:
    """The image of a name in a list, or None."""
    if item := _image(folder, key):
        return item
    plain = _key(roots, name.strip().strip("\"'"))
    if item := _image(folder, plain):
        return item
    endings = [ending for suffix in sorted(SUFFIXES) for ending in (suffix, suffix.upper())]
    items = [item for ending in endings if (item := _image(folder, plain + ending))]
    return items[0] if len(items) == 1 else None


def _image(folder: Path, key: str) -> ImageItem | None:
    """The image of a key, or None."""
    try:
        stat = os.stat(folder / key)
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return None
    if not (S_ISREG(stat.st_mode) and _has_suffix(key)):
        return None
    return ImageItem(key, folder / key, stat.st_size, stat.st_mtime_ns)


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
