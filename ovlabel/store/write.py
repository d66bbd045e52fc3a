"""Writing to a store: only inside `with writing(path) as store:`, which holds the store's lock.

Arrays first, forced to the disk, then the commit record, which a rename puts in place at once: a chunk without a record
never happened. A record names its store and its chunk and has a checksum, so it vouches for nothing else. What is
committed is never written to again: a later record of a key replaces an earlier one, and a "removed" one ends it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ovlabel import files
from ovlabel.errors import StoreError
from ovlabel.store import inside
from ovlabel.store.arrays import write_arrays
from ovlabel.store.index import Index
from ovlabel.store.layout import (
    CHUNKS,
    INDEX,
    METADATA,
    METADATA_BYTES,
    Shard,
    chunk_path,
    exists,
    group,
    naming_failures,
    new_name,
    partial_files,
    refuse_link,
    remove,
    shard_of,
)
from ovlabel.store.lock import Lock, locked
from ovlabel.store.manifest import Manifest, read_manifest
from ovlabel.store.read import State, Store, warn_of_damage
from ovlabel.store.record import Record, pack
from ovlabel.store.records import Records
from ovlabel.text.vocabulary import Vocabulary
from ovlabel.types import Annotation

_REMOVED = 1000  # images in one commit that removes them; its record stays far below the limit on metadata files


@contextlib.contextmanager
def writing(
    path: str | Path,
    shard: Shard | None = None,
    *,
    wait: bool = False,
    create: Callable[[], Manifest] | None = None,
    known: Store | None = None,
) -> Iterator[StoreWriter]:
    """Take a store's lock, write to the store, and release the lock.

    Inside the `with` block a thread keeps the lock's file fresh (`lock.BEAT_SECONDS`). When the block ends, the store
    can be read still, and no longer written to.

    Args:
        path: the store.
        shard: write as one of several shards, beside the others; None keeps every other writer out.
        wait: while another process writes, wait for it.
        create: makes the manifest of a new store; it is called once the lock is held, if no store is there.
        known: the same store, open for reading: what has not changed since is not read again.

    Raises:
        BusyError: another process is writing to the store.
        StoreError: there is no store (and `create` is not given), or it can't be read or written.

    Example:
        >>> import tempfile, ovlabel
        >>> from pathlib import Path
        >>> from ovlabel.store.manifest import Manifest
        >>> from ovlabel.text.vocabulary import load_vocabulary
        >>> folder = Path(tempfile.mkdtemp())
        >>> run = {"store": {"probabilities": "none"}}
        >>> words = load_vocabulary("classes:cat, dog")
        >>> make = lambda: Manifest.new(folder / "s.zarr", folder, words, run, written={})
        >>> with writing(folder / "s.zarr", create=make) as store:
        ...     len(store)
        0
    """
    path = Path(path)
    if create is None:
        read_manifest(path)  # where there is no store, no folder is made for a lock
    with locked(path, shard, wait=wait) as lock:
        if create is not None and not exists(path):
            create_store(path, create())
        store = StoreWriter(path, read_manifest(path), lock, shard, None if known is None else known.records.index)
        try:
            store._forget_consolidated()
            yield store
        finally:
            store._keep_index()
            store.ended = True


def create_store(path: Path, manifest: Manifest) -> None:
    """Make an empty store; one that another shard has made in the meantime is left as it is.

    Args:
        path: where.
        manifest: the attributes of its root.

    Raises:
        StoreError: it can't be written, or its folder of chunks is a link.
    """
    with naming_failures(path):
        (path / CHUNKS).mkdir(parents=True, exist_ok=True)
        refuse_link(path)
        files.put(path / CHUNKS / METADATA, group({}), new=True)
    manifest.write(path, new=True)


class StoreWriter(Store):
    """A store that this process may write to, for as long as the `with` block of `writing` lasts.

    It sees its own commits at once. Every method that writes checks first that the block has not ended and that the
    lock is still this process's own; it raises StoreError or BusyError otherwise.

    Attributes:
        lock: the lock that is held.
        shard: the shard that is written, or None for the whole store.
        ended: whether the `with` block is over.
    """

    def __init__(
        self, path: Path, manifest: Manifest, lock: Lock, shard: Shard | None = None, index: Index | None = None
    ) -> None:
        super().__init__(path, manifest, index=index)
        self.lock, self.shard, self.ended = lock, shard, False
        self._last = 0

    def clear_unfinished(self) -> None:
        """Remove chunks that were never committed: a shard's own, or all of them.

        A chunk whose record is there but does not count stays where it is: its images are annotated anew, and
        `ovlabel verify --repair` removes it.

        Raises:
            StoreError: what is to be removed lies behind a link, or can't be removed.
        """
        self._hold()
        unfinished = [name for name in self.unfinished if self.shard is None or shard_of(name) == str(self.shard)]
        partial = partial_files(self.path) if self.shard is None else []
        with naming_failures(self.path):
            for name in (*(f"{CHUNKS}/{name}" for name in unfinished), *partial):
                self._hold()
                remove(self.path, name)
        warn_of_damage(self)

    def settle(self, folder: Path, vocabulary: Vocabulary, written: Mapping[str, Any]) -> None:
        """Note where the folder lies, how classes are drawn and how the run is written now.

        A later run that is written alike need not be resolved to see that it is the same.

        Args:
            folder: the photographs.
            vocabulary: the classes.
            written: the run as written.

        Raises:
            StoreError: the manifest can't be written.
        """
        self._hold()
        manifest = self.manifest.settled(self.path, folder, vocabulary, written)
        if manifest != self.manifest:
            manifest.write(self.path)
            self.manifest = manifest

    def commit(self, entries: Sequence[tuple[Record, Annotation | None]]) -> None:
        """Write the arrays of images, then the record that makes them count.

        Args:
            entries: record and annotation of each image; None for an image that has no arrays of its own.

        Raises:
            StoreError: the disk is full, the store was removed, permission is gone …; earlier commits stay.
            BusyError: another process has taken the lock over.
        """
        name = new_name(self.next_number(), self.shard)
        self._cleanly(name, lambda: self._adopt(name, write_arrays(self.path, name, entries, len(self.classes))))
        self._keep_index()

    def adopt(self, name: str, records: Sequence[Record]) -> None:
        """Commit a chunk whose arrays another process has written with `write_arrays`. Raises as `commit` does.

        Args:
            name: of the chunk.
            records: what `write_arrays` returned.
        """
        self._cleanly(name, lambda: self._adopt(name, records))
        self._keep_index()

    def next_number(self) -> int:
        """The number of the next chunk: later ones count where two have a record of one key."""
        self._last = max(self._last, self.records.last) + 1
        return self._last

    def remove(self, keys: Sequence[str], reason: str) -> None:
        """Commit that the images of these keys are no longer part of the store; `free` removes their arrays.

        Args:
            keys: of images in the store.
            reason: is kept in the records.
        """
        for start in range(0, len(keys), _REMOVED):
            part = keys[start : start + _REMOVED]
            self.commit([(Record(key, -1, -1, outcome="removed", error=reason), None) for key in part])

    def free(self) -> int:
        """Remove the chunks in which nothing counts any more. Only for the writer of the whole store.

        Returns:
            How many chunks were removed.

        Raises:
            StoreError: a chunk lies behind a link.
        """
        self._hold()
        self.refresh(everything=True)
        lines, freed = self.records.commits.records, 0
        home = {record.key: name for name, records in lines.items() for record in records}
        used = {record.chunk for record in self.records.values() if record.outcome == "done"}
        mentioned: set[str] = set()  # by chunks that stay: a removal must outlive what it removes
        for name, records in lines.items():
            last = [record for record in records if home[record.key] == name]
            if name in used or any(r.outcome != "removed" or r.key in mentioned for r in last):
                mentioned.update(record.key for record in records)
            else:
                self._hold()
                remove(self.path, f"{CHUNKS}/{name}")
                freed += 1
        if freed:
            self.refresh(everything=True)
        return freed

    def discard(self, name: str) -> None:
        """Remove a chunk whose commit record is missing or does not count.

        Args:
            name: of the chunk, from `unfinished` or `damaged`.

        Raises:
            StoreError: the chunk lies behind a link.
        """
        self._hold()
        remove(self.path, f"{CHUNKS}/{name}")

    def _forget_consolidated(self) -> None:
        """Drop copies of all metadata that zarr or xarray has put into a group: plain zarr sees no later commit there.

        Raises:
            StoreError: the file of a group can't be written.
        """
        for name in (METADATA, f"{CHUNKS}/{METADATA}"):
            try:
                node = files.parse_json(inside.read_up_to(self.path, name, METADATA_BYTES))
            except (OSError, ValueError, RecursionError):
                continue
            if isinstance(node, dict) and node.pop("consolidated_metadata", None) is not None:
                with naming_failures(self.path):
                    files.put(self.path / name, json.dumps(node, indent=1).encode(), last=self._hold)

    def _keep_index(self) -> None:
        """Bring the index up to date where that pays. Without one the store is the same, only slower to open."""
        with contextlib.suppress(StoreError, MemoryError), naming_failures(self.path):
            records = self.records
            if not records.index_pays or (index := records.extended()) is None:
                return
            files.put(self.path / INDEX, index.to_bytes(self.manifest.id), last=self._hold)
            left = replace(records.commits, records={}, stamps={})
            self._state = State(Records(self.path, self.manifest.id, index, left), self._state.arrays)

    def _cleanly(self, name: str, write: Callable[[], None]) -> None:
        """Call `write`; if it fails, remove what there is of the chunk."""
        try:
            with naming_failures(self.path):
                self._hold()
                try:
                    write()
                except FileNotFoundError:
                    self._hold()  # says so where another process has taken the lock over, and cleared this chunk away
                    raise
        except BaseException:
            with contextlib.suppress(StoreError, OSError):
                remove(self.path, f"{CHUNKS}/{name}")
            if not (self.path / METADATA).exists():  # the store was removed meanwhile: leave no empty folders of it
                with contextlib.suppress(StoreError, OSError):
                    remove(self.path, CHUNKS)
                    self.path.rmdir()
            raise

    def _adopt(self, name: str, records: Sequence[Record]) -> None:
        """Put the commit record of a chunk in place; from then on it counts."""
        node = chunk_path(self.path, name)
        self._hold()
        refuse_link(self.path, f"{CHUNKS}/{name}")
        files.sync_folder(node.parent)
        files.put(node / METADATA, pack(self.manifest.id, name, records), last=self._hold)
        self.records.add(name, [replace(record, chunk=record.chunk or name) for record in records])

    def _hold(self) -> None:
        """Raise unless this process may write to the store still, and writes nowhere else."""
        if self.ended:
            raise StoreError(f"{self.path} is written to only inside 'with writing(…)', which is over")
        self.lock.check()
        with naming_failures(self.path):
            refuse_link(self.path)
