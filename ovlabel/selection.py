"""Which images of a folder a run is about."""

from __future__ import annotations

import os
import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from ovlabel.errors import ConfigError
from ovlabel.images import list_images, list_named
from ovlabel.lock import Shard
from ovlabel.types import ImageItem


@dataclass(frozen=True)
class Selection:
    """What a run takes of a folder, and how much of it.

    Attributes:
        include, exclude: shell patterns of keys; `*` stands for slashes too. No `include` takes everything.
        names: paths, relative to the folder or absolute inside it, in place of walking the folder.
        shard: take the keys of one shard only.
        limit: look at so many pending images at the most.
        retry_failed: images that failed are pending.
        prune: remove from the store what is no longer in the folder.
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
