"""Writing to a store: only inside `with writing(path) as store:`, which holds the store's lock.

Arrays first, forced to the disk, then the commit record, which a rename puts in place at once: a chunk without a record
never happened. A record names its store and its chunk and has a checksum, so it vouches for nothing else. What is
committed is never written to again: a later record of a key replaces an earlier one, and a "removed" one ends it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovlabel import files
from ovlabel.errors import StoreError
from ovlabel.store.layout import (
    INNER,
    METADATA,
    chunk_path,
    exists,
    group,
    naming_failures,
    new_name,
    remove_chunk,
    shard_of,
)
from ovlabel.store.lock import Lock, Shard, locked
from ovlabel.store.manifest import Manifest, read_manifest
from ovlabel.store.read import Store
from ovlabel.store.record import Record, crc32, pack
from ovlabel.text.vocabulary import Vocabulary
from ovlabel.types import Annotation, not_annotated

if TYPE_CHECKING:
    import numpy.typing as npt

log = logging.getLogger("ovlabel")


@contextlib.contextmanager
def writing(
    path: str | Path,
    shard: Shard | None = None,
    *,
    wait: bool = False,
    create: Callable[[], Manifest] | None = None,
) -> Iterator[StoreWriter]:
    """Hold a store's lock, and write to the store.

    Args:
        path: the store.
        shard: write as one of several shards, beside the others; None keeps every other writer out.
        wait: while another process writes, wait for it.
        create: makes the manifest of a new store; it is called once the lock is held, if no store is there.

    Raises:
        BusyError: another process is writing to the store.
        StoreError: no store is there (and `create` is not given), or it can't be read or written.

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
    with locked(path, shard, wait=wait) as lock:
        if create is not None and not exists(path):
            create_store(path, create())
        yield StoreWriter(path, read_manifest(path), lock, shard)


def create_store(path: Path, manifest: Manifest) -> None:
    """Make an empty store; one that another shard has made meanwhile is left as it is. Raises StoreError."""
    with naming_failures(path):
        (path / "chunks").mkdir(parents=True, exist_ok=True)
        files.put(path / "chunks" / METADATA, group({}), new=True)
    manifest.write(path, new=True)


class StoreWriter(Store):
    """A store that this process may write to; made by `writing`.

    Attributes:
        lock: the lock that is held.
        shard: the shard that is written, or None for the whole store.
    """

    def __init__(self, path: Path, manifest: Manifest, lock: Lock, shard: Shard | None = None) -> None:
        super().__init__(path, manifest)
        self.lock, self.shard = lock, shard

    def clear_unfinished(self) -> None:
        """Remove chunks that were never committed: a shard's own, or all of them.

        A chunk whose record is there but does not count stays where it is: its images are annotated anew, and
        `ovlabel verify --repair` removes it.

        Raises:
            StoreError: a chunk that lies behind a link.
        """
        for name in self.unfinished:
            if self.shard is None or shard_of(name) == str(self.shard):
                remove_chunk(self.path, name)
        if self.shard is None:
            for partial in (*self.path.glob("*.partial"), *(self.path / "chunks").glob("*.partial")):
                partial.unlink(missing_ok=True)
        for name, reason in self.damaged.items():
            log.warning("%s: the record of chunk %s does not count: %s (see 'ovlabel verify')", self.path, name, reason)

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

    def adopt(self, name: str, records: Sequence[Record]) -> None:
        """Commit a chunk whose arrays another process has written with `write_arrays`. Raises as `commit` does."""
        self._cleanly(name, lambda: self._adopt(name, records))

    def next_number(self) -> int:
        """The number of the next chunk: later ones count where two have a record of one key."""
        self._last += 1
        return self._last

    def remove(self, keys: Sequence[str], reason: str) -> None:
        """Commit that the images of these keys are no longer part of the store; `free` removes their arrays.

        Args:
            keys: of images in the store.
            reason: is kept in the records.
        """
        self.commit([(Record(key, -1, -1, outcome="removed", error=reason), None) for key in keys])

    def free(self) -> int:
        """Remove the chunks in which nothing counts any more. Only for the writer of the whole store.

        Returns:
            How many chunks were removed.

        Raises:
            StoreError: a chunk that lies behind a link.
        """
        lines = self._commits()
        home = {record.key: name for name, records in lines.items() for record in records}
        used = {record.chunk for record in self._records.values() if record.outcome == "done"}
        mentioned: set[str] = set()  # by chunks that stay: a removal must outlive what it removes
        freed = 0
        for name, records in lines.items():
            last = [record for record in records if home[record.key] == name]
            if name in used or any(r.outcome != "removed" or r.key in mentioned for r in last):
                mentioned.update(record.key for record in records)
            else:
                remove_chunk(self.path, name)
                freed += 1
        return freed

    def discard(self, name: str) -> None:
        """Remove a chunk whose record does not count. Raises StoreError for one behind a link."""
        remove_chunk(self.path, name)

    def _cleanly(self, name: str, write: Callable[[], None]) -> None:
        """Do it, or leave nothing of the chunk."""
        node = chunk_path(self.path, name)
        try:
            with naming_failures(self.path):
                self._hold()
                write()
        except BaseException:
            with contextlib.suppress(StoreError):
                remove_chunk(self.path, name)
            if not (self.path / METADATA).exists():  # removed underneath: bring nothing back, not even empty folders
                for folder in (node.parent, self.path):
                    with contextlib.suppress(OSError):
                        folder.rmdir()
            raise

    def _adopt(self, name: str, records: Sequence[Record]) -> None:
        node = chunk_path(self.path, name)
        self._hold()
        files.sync_folder(node.parent)
        files.put(node / METADATA, pack(self.manifest.id, name, records))
        for record in records:
            self._remember(replace(record, chunk=record.chunk or name))

    def _hold(self) -> None:
        """Raise unless this process is still the one that may write here, and nowhere else."""
        self.lock.check()
        if (self.path / "chunks").is_symlink():
            raise StoreError(f"{self.path}/chunks is a link; nothing is written through it")

    def _remember(self, record: Record) -> None:
        if record.outcome == "removed":
            self._records.pop(record.key, None)
            self.__dict__.pop("_by_content", None)
            return
        self._records[record.key] = record
        if record.outcome == "done":
            self._by_content[record.sha256] = record


def write_arrays(
    path: Path, name: str, entries: Sequence[tuple[Record, Annotation | None]], classes: int
) -> list[Record]:
    """Write the arrays of a new chunk, and force them to the disk. They count once a commit adopts them.

    This needs no lock: workers of a cluster write arrays, and the process that holds the lock commits them.

    Args:
        path: the store.
        name: of the chunk, from `new_name`.
        entries: record and annotation of each image; None for an image that has no arrays of its own.
        classes: how many the store has.

    Returns:
        The records, with the place and the checksums of the arrays that belong to them.

    Raises:
        StoreError: see `StoreWriter.commit`.
    """
    node = chunk_path(path, name)
    with naming_failures(path):
        node.mkdir()
        lines, pixel, position = [], 0, 0
        for record, annotation in entries:
            if annotation is None:
                lines.append(record)
                continue
            lines.append(_placed(record, annotation, pixel, position))
            pixel += annotation.labels.size
            position += 0 if annotation.probabilities is None else annotation.probabilities.size
        made = [annotation for _, annotation in entries if annotation is not None]
        _put(node, "labels", [a.labels for a in made], not_annotated(classes))
        _put(node, "confidence", [a.confidence for a in made], 0)
        _put(node, "classes", [a.classes for a in made if a.classes is not None], 0)
        _put(node, "probabilities", [a.probabilities for a in made if a.probabilities is not None], 0)
        files.sync_tree(node)
    return lines


def _placed(record: Record, annotation: Annotation, pixel: int, position: int) -> Record:
    """The record with the sizes, places and checksums of the image's arrays."""
    import numpy as np

    parts = (annotation.labels, annotation.confidence, annotation.classes, annotation.probabilities)
    return replace(
        record,
        height=annotation.labels.shape[0],
        width=annotation.labels.shape[1],
        working=annotation.working_size,
        maps=0 if annotation.probabilities is None else len(annotation.probabilities),
        pixel=pixel,
        map=position,
        reduced=annotation.reduced,
        sums=tuple(crc32(np.ascontiguousarray(part)) for part in parts if part is not None),
    )


def _put(node: Path, name: str, parts: Sequence[npt.NDArray[Any]], fill: int) -> None:
    """One 1-D array of all parts, flattened, in a single shard file."""
    if not parts:
        return
    import numpy as np
    import zarr
    from zarr.codecs import ZstdCodec

    flat = np.concatenate([np.ravel(part) for part in parts])
    array = zarr.create_array(
        node / name,
        shape=flat.shape,
        dtype=flat.dtype,
        chunks=(INNER,),
        shards=(-(-len(flat) // INNER) * INNER,),
        compressors=ZstdCodec(level=3, checksum=True),
        fill_value=fill,
    )
    array[:] = flat
