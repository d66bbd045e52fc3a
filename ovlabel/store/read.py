"""Reading a store. Nothing here writes, and no lock is needed: a reader sees what is committed."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ovlabel import files
from ovlabel.errors import StoreError
from ovlabel.store.layout import INNER, METADATA, METADATA_BYTES, chunk_names, chunk_path, number_of
from ovlabel.store.manifest import Manifest, StoredClass, read_manifest
from ovlabel.store.record import Record, crc32, unpack
from ovlabel.types import ImageItem, LabelMap

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_OPEN = 64  # arrays kept open for reading


def open_store(path: str | Path) -> Store:
    """Open a store for reading.

    Args:
        path: a folder that `ovlabel annotate` has written.

    Raises:
        StoreError: there is no store, or it can't be read.

    Example:
        >>> import ovlabel
        >>> ovlabel.open_store("nowhere.zarr")
        Traceback (most recent call last):
            ...
        ovlabel.errors.StoreError: nowhere.zarr does not exist; ...
    """
    path = Path(path)
    return Store(path, read_manifest(path))


class TopProbabilities(NamedTuple):
    """The most probable classes of every pixel, at working size.

    Attributes:
        classes: class indices, k × h × w, the most probable first.
        values: their probabilities, float32, k × h × w, 0 to 1.
    """

    classes: LabelMap
    values: npt.NDArray[np.float32]


class StoredImage:
    """One annotated image of a store; arrays are read when asked for.

    Example:
        >>> import ovlabel, tempfile
        >>> from ovlabel.store.example import write_example
        >>> store = ovlabel.open_store(write_example(tempfile.mkdtemp()) / "images.ovlabel.zarr")
        >>> store["b.png"].labels.tolist(), float(store["b.png"].confidence.max())
        ([[2, 2], [1, 0]], 1.0)
    """

    def __init__(self, store: Store, record: Record) -> None:
        self._store, self.record = store, record

    @property
    def key(self) -> str:
        """Path relative to the folder."""
        return self.record.key

    @property
    def path(self) -> Path:
        """The photograph."""
        return self._store.folder / self.record.key

    @property
    def labels(self) -> LabelMap:
        """H W class indices at image size; see `Prediction.labels` for the two values kept apart."""
        labels: LabelMap = self._pixels("labels")
        return labels

    @property
    def confidence(self) -> npt.NDArray[np.float32]:
        """H W, 0 to 1 in steps of 1/255: probability of the winning class."""
        return _unquantised(self._pixels("confidence"))

    @property
    def probabilities(self) -> TopProbabilities | npt.NDArray[np.float32] | None:
        """`TopProbabilities` (top-k stores), float32 c h w (full stores), or None; at working size."""
        if not self.record.maps:
            return None
        values = _unquantised(self._maps("probabilities"))
        if self._store.manifest.run["store"]["probabilities"] == "full":
            return values
        return TopProbabilities(self._maps("classes"), values)

    def _pixels(self, name: str) -> Any:
        shape = (self.record.height, self.record.width)
        return self._store.read(self.record, name, self.record.pixel, shape)

    def _maps(self, name: str) -> Any:
        return self._store.read(self.record, name, self.record.map, (self.record.maps, *self.record.working))


def _unquantised(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """0 … 255 → 0 … 1."""
    import numpy as np

    return values.astype(np.float32) / np.float32(255)


class Store(Mapping[str, StoredImage]):
    """An annotated folder: a mapping from key to `StoredImage`, in key order, of the images that are done.

    A photograph that has left the folder, or that goes by another name now, stays under the key it had.

    Attributes:
        path: the store.
        manifest: what the store says of itself: classes, run, folder.
        damaged: chunk → why its record does not count.
        unfinished: chunks without a record.

    Example:
        >>> import ovlabel, tempfile
        >>> from ovlabel.store.example import write_example
        >>> store = ovlabel.open_store(write_example(tempfile.mkdtemp()) / "images.ovlabel.zarr")
        >>> list(store), store.classes[2].name, store["a.png"].labels.shape
        (['a.png', 'b.png'], 'grass', (2, 2))
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self._open: dict[tuple[str, str], Any] = {}
        self.refresh()

    @property
    def classes(self) -> tuple[StoredClass, ...]:
        """The classes in label order."""
        return self.manifest.classes

    @property
    def class_names(self) -> list[str]:
        """The names of the classes in label order."""
        return [entry.name for entry in self.manifest.classes]

    @property
    def folder(self) -> Path:
        """The folder of photographs: beside the store as at the start of the run, else where it was then."""
        beside = self.path.absolute().parent / self.manifest.folder_from_store
        return beside if beside.is_dir() else Path(self.manifest.folder)

    @property
    def failed(self) -> dict[str, Record]:
        """The images that could not be annotated."""
        return {key: r for key, r in sorted(self._records.items()) if r.outcome == "failed"}

    @property
    def records(self) -> Mapping[str, Record]:
        """The record that counts of every image that is done or failed."""
        return self._records

    @property
    def committed(self) -> str:
        """When the last commit was made, ISO 8601 in UTC; "" before the first."""
        for name in reversed(chunk_names(self.path)):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
                return str(json.loads(self._metadata(name))["attributes"]["committed"])
        return ""

    def __getitem__(self, key: str) -> StoredImage:
        record = self._records[key]
        if record.outcome != "done":
            raise KeyError(f"{key}: {record.outcome} ({record.error})")
        return StoredImage(self, record)

    def __iter__(self) -> Iterator[str]:
        return (key for key, r in sorted(self._records.items()) if r.outcome == "done")

    def __len__(self) -> int:
        return sum(r.outcome == "done" for r in self._records.values())

    def refresh(self) -> None:
        """Read the commit records anew; a later record of a key replaces an earlier one."""
        self._open = {}
        committed = self._commits()
        self._last = max(map(number_of, committed), default=0)
        self._records: dict[str, Record] = {}
        for record in (record for records in committed.values() for record in records):
            if record.outcome == "removed":
                self._records.pop(record.key, None)
            elif record.outcome != "done" or record.chunk in committed:
                self._records[record.key] = record
        self.__dict__.pop("_by_content", None)

    def pending(self, items: Sequence[ImageItem], *, retry_failed: bool = False) -> list[ImageItem]:
        """The items that no valid commit record covers, by key, size and modification time.

        A file that was only touched or renamed is pending too, but its content is known (`like`): nothing is redone. So
        is one that could not be opened and can be now, and with `retry_failed` every one that failed.
        """

        def covered(item: ImageItem) -> bool:
            record = self._records.get(item.key)
            if record is None or (record.size, record.mtime_ns) != (item.size, item.mtime_ns):
                return False
            if record.outcome == "done":
                return True
            return not retry_failed and (record.stage != "open" or not os.access(item.path, os.R_OK))

        return [item for item in items if not covered(item)]

    def like(self, sha256: str) -> Record | None:
        """A done image with this content, whose arrays a file of another name can share."""
        return self._by_content.get(sha256)

    @cached_property
    def _by_content(self) -> dict[str, Record]:
        return {r.sha256: r for r in self._records.values() if r.outcome == "done"}

    def read(self, record: Record, name: str, start: int, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """A stretch of one array as `shape`. Raises StoreError where it is damaged or gone."""
        import numpy as np

        count = math.prod(shape)
        try:
            array = self._array(record.chunk, name)
            if start + count > array.shape[0]:
                raise ValueError(f"it ends at {array.shape[0]}, before {start + count}")
            return np.asarray(array[start : start + count]).reshape(shape)
        except Exception as error:
            raise StoreError(f"{self.path}: the {name} of '{record.key}' can't be read ({error})") from error

    def check(self, record: Record) -> str:
        """What is wrong with a done image's arrays; "" if each has its recorded length and checksum."""
        import numpy as np

        pixels, maps = (record.height, record.width), (record.maps, *record.working)
        for name, recorded in zip(record.arrays, record.sums, strict=True):
            of_pixels = name in ("labels", "confidence")
            start, shape = (record.pixel, pixels) if of_pixels else (record.map, maps)
            try:
                values = self.read(record, name, start, shape)
            except StoreError as error:
                return f"{name}: {error.__cause__}"
            if crc32(np.ascontiguousarray(values)) != recorded:
                return f"{name}: the checksum does not fit"
        return ""

    def _array(self, chunk: str, name: str) -> Any:
        """An array, opened once for the images that follow in its chunk. Raises ValueError for one not written here."""
        import zarr

        if (chunk, name) not in self._open:
            if len(self._open) >= _OPEN:
                self._open = {}
            array = zarr.open_array(chunk_path(self.path, chunk) / name, mode="r", zarr_format=3)
            if array.ndim != 1 or array.dtype.name not in ("uint8", "uint16") or array.chunks != (INNER,):
                raise ValueError(f"an array of {array.ndim} dimensions of {array.dtype}, in parts of {array.chunks}")
            self._open[chunk, name] = array
        return self._open[chunk, name]

    def _commits(self) -> dict[str, list[Record]]:
        """The records of every commit that counts, oldest first; notes what is unfinished or damaged."""
        self.unfinished: list[str] = []
        self.damaged: dict[str, str] = {}
        return {name: records for name in chunk_names(self.path) if (records := self._committed(name)) is not None}

    def _committed(self, name: str) -> list[Record] | None:
        """The records of one chunk; None, with the reason noted, where it does not count.

        Raises:
            StoreError: the disk errs, or permission is missing: what is there can't be known.
        """
        try:
            return unpack(self.manifest.id, name, self._metadata(name))
        except FileNotFoundError:
            self.unfinished.append(name)
        except IsADirectoryError:
            self.damaged[name] = "it is a folder"
        except ValueError as error:
            self.damaged[name] = str(error)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EFBIG, errno.ELOOP):
                raise StoreError(f"cannot read {chunk_path(self.path, name)}: {error.strerror or error}") from error
            self.damaged[name] = str(error.strerror)
        return None

    def _metadata(self, name: str) -> bytes:
        """The metadata of a chunk's node, read straight from its file: listing needs no zarr."""
        return files.read_up_to(chunk_path(self.path, name) / METADATA, METADATA_BYTES)
