"""Where things lie in a store, and what a part of it is called.

    OUT.zarr/
      zarr.json                      attributes: the manifest (manifest.py)
      chunks/
        00000001-5f0c3a9e/           one commit: up to `chunk_size` images
          zarr.json                  attributes: the commit record (record.py), written last
          labels/ confidence/        1-D arrays, the images' pixels one after another, one shard file each
          classes/ probabilities/    likewise, the kept probability maps (k × h × w an image, at working size)

One folder a commit and not one an image: 100,000 images are some 14,000 files instead of 900,000. Keys are data in the
commit record, never names of files, so that any path a file system allows can be a key. The chunks of a shard
(`annotate --shard`) end in its name, 00000001-5f0c3a9e-2of8, and lie among the others: readers see the union.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ovlabel.errors import StoreError
from ovlabel.files import passed_over

FORMAT = 2
METADATA = "zarr.json"
CHUNKS = "chunks"  # the folder of the chunks
LOCK = re.compile(r"\.lock(?:-\d+of\d+)?")  # the lock of the whole store, or that of a shard
INNER = 2**16  # values in an inner chunk of an array: what reading a part of an image decompresses
METADATA_BYTES = 2**30  # the largest metadata file that is read
MOST_CLASSES = 2**16 - 2
_CHUNK = re.compile(r"(\d{8})-[0-9a-f]{8}(?:-(\d+of\d+))?")
_REMOVABLE = re.compile(rf"{CHUNKS}|{CHUNKS}/{_CHUNK.pattern}|(?:{CHUNKS}/)?zarr\.(?:\w+\.)*partial|{LOCK.pattern}")


@dataclass(frozen=True)
class Shard:
    """One of several parts of a folder that are annotated independently; a key's part depends on the key alone.

    Attributes:
        index: which part, from 1 to `count`.
        count: how many parts there are.

    Example:
        >>> str(Shard(2, 8))
        '2of8'
    """

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}of{self.count}"


def new_name(number: int, shard: Shard | None) -> str:
    """The name of a new chunk, different from every other.

    Args:
        number: chunks of higher numbers are read later, and replace records of earlier ones.
        shard: the shard that writes it, or None.
    """
    return f"{number:08d}-{uuid.uuid4().hex[:8]}" + (f"-{shard}" if shard else "")


def number_of(name: str) -> int:
    """The number in the name of a chunk."""
    return int(name[:8])


def shard_of(name: str) -> str:
    """The shard in the name of a chunk ("2of8"), or ""."""
    found = _CHUNK.fullmatch(name)
    return (found[2] or "") if found else ""


def chunk_path(store: Path, name: str) -> Path:
    """The folder of a chunk."""
    return store / CHUNKS / name


def chunk_names(store: Path) -> list[str]:
    """The names of all chunks, in order; links and other things are passed over."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(store / CHUNKS) as entries:
        return sorted(e.name for e in entries if _CHUNK.fullmatch(e.name) and e.is_dir(follow_symlinks=False))
    return []


def remove(store: Path, name: str) -> None:
    """Remove a part of a store. Nothing inside a store is deleted in any other way.

    A chunk loses its metadata first, so that what is left of an interrupted removal is no chunk. A part that is not
    there any more is no error.

    Args:
        store: the store.
        name: the part as seen from the store: a chunk ("chunks/00000001-5f0c3a9e"), the folder "chunks" (which stays
            where it holds anything), a file that was never finished ("zarr.json.….partial"), or a lock (".lock").

    Raises:
        StoreError: `name` is none of these, or it is a link or lies behind one and so, perhaps, outside the store.
        OSError: a file can't be removed.
    """
    path = store / name
    if not _REMOVABLE.fullmatch(name):
        raise StoreError(f"{path} is no part of a store that may be removed; nothing was removed")
    for part in dict.fromkeys((store / PurePosixPath(name).parts[0], path)):
        if part.is_symlink():
            raise StoreError(f"{part} is a link; nothing is removed through it")
    if name == CHUNKS:
        with contextlib.suppress(OSError):
            path.rmdir()
    elif _CHUNK.fullmatch(path.name):
        with contextlib.suppress(OSError):
            (path / METADATA).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def partial_files(store: Path) -> list[str]:
    """The files that were begun and never finished, as seen from the store."""
    found = [*store.glob("*.partial"), *(store / CHUNKS).glob("*.partial")]
    names = (path.relative_to(store).as_posix() for path in found if not path.is_symlink() and path.is_file())
    return sorted(name for name in names if _REMOVABLE.fullmatch(name))


def group(attributes: dict[str, Any]) -> bytes:
    """The metadata file of a Zarr group with these attributes."""
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}, indent=1).encode()


def exists(path: Path) -> bool:
    """Whether there is a store at a path; a folder in which one was begun holds none yet.

    Raises:
        StoreError: the path leads to a file, or to a folder that holds something else.
    """
    if (path / METADATA).exists():
        return True
    parts = path.rglob("*") if path.is_dir() else []
    ours = (CHUNKS, METADATA)
    if (path.exists() and not path.is_dir()) or any(
        part.name not in ours and part.suffix != ".partial" and not _hidden(part, path) for part in parts
    ):
        raise StoreError(f"{path} exists and is no store; pass another --out")
    return False


def _hidden(part: Path, below: Path) -> bool:
    return any(passed_over(name) for name in part.relative_to(below).parts)


@contextlib.contextmanager
def naming_failures(path: Path) -> Iterator[None]:
    """Raise StoreError in place of OSError, naming the store that could not be written."""
    try:
        yield
    except FileNotFoundError as error:
        raise StoreError(f"{path} was removed while it was written ({error.filename})") from error
    except OSError as error:
        raise StoreError(f"cannot write to {path}: {error.strerror or error}") from error
