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
import errno
import json
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ovlabel.errors import StoreError, printable, short
from ovlabel.files import passed_over
from ovlabel.store import inside

FORMAT = 2
METADATA = "zarr.json"
CHUNKS = "chunks"  # the folder of the chunks
INDEX = ".index.npz"  # derived from the commits (index.py)
ARRAYS = ("labels", "confidence", "classes", "probabilities")  # of a chunk
LOCK = re.compile(r"\.lock(?:-\d+of\d+)?")  # the lock of the whole store, or that of a shard
INNER = 2**16  # values in an inner chunk of an array: what reading a part of an image decompresses
METADATA_BYTES = 2**27  # the largest metadata file that is read: that of 65,534 classes has some 60 MB
MOST_CLASSES = 2**16 - 2
MOST_SIDE, MOST_PIXELS = 2**18, 2**28  # of an image, as `pictures.read` decodes it
MOST_VALUES = 2**36  # in an array; the index of its shard file has 16 MiB then
_CHUNK = re.compile(r"(\d{8})-[0-9a-f]{8}(?:-(\d+of\d+))?")
_PARTIAL = rf"(?:(?:{CHUNKS}/)?zarr|\.index)\.(?:\w+\.)*partial"
_LOCKS = rf"{LOCK.pattern}(?:\.\w+\.partial)?"
_REMOVABLE = re.compile(rf"{CHUNKS}|{CHUNKS}/{_CHUNK.pattern}|{_PARTIAL}|{_LOCKS}")


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
    """The names of all chunks, in order; what is no folder is passed over.

    Raises:
        StoreError: the folder of the chunks, a chunk, or the folder of an array is a link, or can't be read.
    """
    with _refusing_links(), contextlib.suppress(FileNotFoundError), inside.folder(store, CHUNKS) as place:
        with os.scandir(place) as entries:
            found = [entry for entry in entries if _CHUNK.fullmatch(entry.name)]
        names = sorted(entry.name for entry in found if entry.is_dir(follow_symlinks=False))
        arrays = (f"{name}/{array}" for name in names for array in ARRAYS)
        links = [entry.name for entry in found if entry.is_symlink()]
        if link := next(iter(links), None) or next((name for name in arrays if inside.is_link(name, place)), None):
            raise OSError(errno.ELOOP, "is a link", str(chunk_path(store, link)))
        return names
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
        StoreError: `name` is none of these, or can't be removed, or it is a link, lies behind one or holds one, which
            could lead to another store; nothing was removed.
    """
    if not _REMOVABLE.fullmatch(name):
        raise StoreError(f"{store / name} is no part of a store that may be removed; nothing was removed")
    with _refusing_links():
        if name != CHUNKS:
            inside.delete(store, name, METADATA if _CHUNK.fullmatch(PurePosixPath(name).name) else "")
            return
        with inside.folder(store) as place, contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=place)


def partial_files(store: Path) -> list[str]:
    """The files that were begun and never finished, as seen from the store.

    Raises:
        StoreError: the folder of the chunks is a link, or can't be read.
    """
    names: list[str] = []
    for parts in ((), (CHUNKS,)):
        with _refusing_links(), inside.folder(store, *parts) as place, os.scandir(place) as entries:
            names += ["/".join((*parts, entry.name)) for entry in entries if entry.is_file(follow_symlinks=False)]
    return sorted(name for name in names if name.endswith(".partial") and _REMOVABLE.fullmatch(name))


def refuse_link(store: Path, name: str = CHUNKS) -> None:
    """Raise StoreError where a folder inside a store is a link or lies behind one, FileNotFoundError where it is gone.

    Args:
        store: the store.
        name: the folder as seen from the store.
    """
    with _refusing_links(), inside.folder(store, *PurePosixPath(name).parts):
        pass


def refuse_links(store: Path, chunk: str) -> None:
    """Raise StoreError where a chunk is a link, or something in it is.

    Args:
        store: the store.
        chunk: its name.
    """
    with _refusing_links(), contextlib.suppress(FileNotFoundError):
        inside.refuse_links(store, f"{CHUNKS}/{chunk}")


@contextlib.contextmanager
def _refusing_links() -> Iterator[None]:
    """Raise StoreError in place of OSError, naming the part of a store that is a link or can't be used."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        linked = error.errno == errno.ELOOP
        reason = " is a link; nothing inside a store may be one" if linked else f": {error.strerror}"
        raise StoreError(f"{printable(str(error.filename))}{reason}") from error


def group(attributes: dict[str, Any]) -> bytes:
    """The metadata file of a Zarr group with these attributes."""
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}, indent=1).encode()


def exists(path: Path) -> bool:
    """Whether there is a store at a path; a folder in which one was begun, or that holds hidden files, holds none yet.

    Raises:
        StoreError: the path leads to a file, or to a folder that holds something else or can't be read.
    """
    if os.path.lexists(path / METADATA):
        return True
    with naming_failures(path):
        if path.exists() and (not path.is_dir() or any(map(_is_foreign, _names(path)))):
            raise StoreError(f"{path} exists and is no store; pass another --out")
    return False


def _names(folder: Path) -> Iterator[str]:
    """The names of all that is in a folder, at any depth. Raises OSError where a folder can't be read."""

    def stop(error: OSError) -> None:
        raise error

    for _, folders, plain in os.walk(folder, onerror=stop):
        yield from (*folders, *plain)
        folders[:] = [name for name in folders if not _is_foreign(name) and not passed_over(name)]


def _is_foreign(name: str) -> bool:
    """Whether a file or folder of this name shows that a folder is not one in which a store was begun."""
    return name not in (CHUNKS, METADATA) and not name.endswith(".partial") and not passed_over(name)


@contextlib.contextmanager
def naming_failures(path: Path) -> Iterator[None]:
    """Raise StoreError in place of OSError, naming the store that could not be written."""
    try:
        yield
    except FileNotFoundError as error:
        raise StoreError(f"{path} was removed while it was written ({error.filename})") from error
    except OSError as error:
        raise StoreError(f"cannot write to {path}: {error.strerror or error}") from error


def why(error: Exception) -> str:
    """What is wrong with a file of a store, in one short line that is safe to print.

    Args:
        error: what reading it raised.
    """
    return short((isinstance(error, OSError) and error.strerror) or error)
