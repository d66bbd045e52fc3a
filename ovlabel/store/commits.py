"""Which commits of a store count: every chunk with a whole commit record that belongs to this store and this chunk."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ovlabel import files
from ovlabel.errors import StoreError
from ovlabel.store import inside
from ovlabel.store.index import Stamp, stamp
from ovlabel.store.layout import CHUNKS, METADATA, METADATA_BYTES, chunk_names, chunk_path
from ovlabel.store.record import Record, unpack


@dataclass(frozen=True)
class Commits:
    """The chunks of a store.

    Attributes:
        records: chunk → the records of its images, for every chunk that counts, the oldest first.
        stamps: chunk → size and modification time of the file that these records were read from.
        unfinished: chunks without a commit record.
        damaged: chunk → why its commit record does not count.
    """

    records: dict[str, list[Record]] = field(default_factory=dict)
    stamps: dict[str, Stamp] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)


def read_commits(store: Path, identity: str, present: Mapping[str, Stamp | None] | None = None) -> Commits:
    """Read commit records of a store, straight from the files: zarr is not needed.

    Args:
        store: the store.
        identity: its id, which its records name.
        present: the chunks to read, in order, with size and modification time of their metadata files as they were
            before; by default every chunk that is there.

    Raises:
        StoreError: the disk reports an error, or permission is missing, so that what is there can't be known.
    """
    commits = Commits()
    for name, before in (stamps(store) if present is None else present).items():
        try:
            commits.records[name] = read_commit(store, identity, name)
            commits.stamps[name] = before or (-1, -1)
        except FileNotFoundError:
            commits.unfinished.append(name)
        except (ValueError, OSError) as error:
            commits.damaged[name] = _reason(store, name, error)
    return commits


def read_commit(store: Path, identity: str, name: str) -> list[Record]:
    """The records of one commit.

    Args:
        store: the store.
        identity: its id.
        name: of the chunk.

    Raises:
        ValueError: the commit record does not count.
        OSError: it can't be read.
    """
    return unpack(identity, name, _metadata(store, name))


def stamps(store: Path) -> dict[str, Stamp | None]:
    """Chunk → size and modification time of its metadata file, for every chunk that is there, in order."""
    return {name: stamp(store, name) for name in chunk_names(store)}


def last_commit(store: Path) -> str:
    """When the last commit was made, ISO 8601 in UTC; "" before the first."""
    for name in reversed(chunk_names(store)):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            return str(files.parse_json(_metadata(store, name))["attributes"]["committed"])
    return ""


def _metadata(store: Path, name: str) -> bytes:
    """The metadata file of a chunk."""
    return inside.read_up_to(store, f"{CHUNKS}/{name}/{METADATA}", METADATA_BYTES)


def _reason(store: Path, name: str, error: ValueError | OSError) -> str:
    """Why a record does not count. Raises StoreError for an error of the disk, which may pass."""
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if not isinstance(error, OSError):
        return str(error)
    if error.errno not in (errno.EINVAL, errno.EFBIG, errno.ELOOP):
        raise StoreError(f"cannot read {chunk_path(store, name)}: {error.strerror or error}") from error
    return str(error.strerror)
