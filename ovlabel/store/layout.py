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
from pathlib import Path
from typing import Any

from ovlabel.errors import StoreError
from ovlabel.store.lock import Shard

FORMAT = 2
METADATA = "zarr.json"
INNER = 2**16  # values in an inner chunk of an array: what reading a part of an image decompresses
METADATA_BYTES = 2**30  # of a metadata file, at the most
MOST_CLASSES = 2**16 - 2
_CHUNK = re.compile(r"(\d{8})-[0-9a-f]{8}(?:-(\d+of\d+))?")


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
    return store / "chunks" / name


def chunk_names(store: Path) -> list[str]:
    """The names of all chunks, in order; links and other things are passed over."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(store / "chunks") as entries:
        return sorted(e.name for e in entries if _CHUNK.fullmatch(e.name) and e.is_dir(follow_symlinks=False))
    return []


def remove_chunk(store: Path, name: str) -> None:
    """Remove a chunk: its metadata first, so that what is left of an interrupted removal is no chunk.

    This is the only way in which anything inside a store is deleted.

    Args:
        store: the store.
        name: of a chunk.

    Raises:
        StoreError: `name` is no chunk's, or the way to it leads through a link and so, perhaps, out of the store.
    """
    node = chunk_path(store, name)
    if not _CHUNK.fullmatch(name):
        raise StoreError(f"{node} is no chunk of the store; nothing was removed")
    for part in (node.parent, node):
        if part.is_symlink():
            raise StoreError(f"{part} is a link; nothing is removed through it")
    with contextlib.suppress(OSError):
        (node / METADATA).unlink(missing_ok=True)
    shutil.rmtree(node, ignore_errors=True)


def group(attributes: dict[str, Any]) -> bytes:
    """The metadata file of a Zarr group with these attributes."""
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}, indent=1).encode()


def exists(path: Path) -> bool:
    """Whether a store is there; a folder in which one was begun holds none yet. Raises StoreError for anything else."""
    if (path / METADATA).exists():
        return True
    parts = path.rglob("*") if path.is_dir() else []
    ours = ("chunks", METADATA)
    if (path.exists() and not path.is_dir()) or any(
        part.name not in ours and part.suffix != ".partial" and not part.name.startswith(".lock") for part in parts
    ):
        raise StoreError(f"{path} exists and is no store; pass another --out")
    return False


@contextlib.contextmanager
def naming_failures(path: Path) -> Iterator[None]:
    """Raise StoreError in place of OSError, naming the store that could not be written."""
    try:
        yield
    except FileNotFoundError as error:
        raise StoreError(f"{path} was removed while it was written ({error.filename})") from error
    except OSError as error:
        raise StoreError(f"cannot write to {path}: {error.strerror or error}") from error
