"""Reading a store. Nothing here writes, and no lock is needed: a reader sees what is committed."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ovlabel.errors import ConfigError, StoreError, printable, short
from ovlabel.store.arrays import ArrayReader
from ovlabel.store.commits import last_commit
from ovlabel.store.index import DONE, FAILED, Index
from ovlabel.store.layout import why
from ovlabel.store.manifest import Manifest, StoredClass, read_manifest
from ovlabel.store.record import Record
from ovlabel.store.records import Records
from ovlabel.types import ImageItem, ImageList, LabelMap, below_threshold, not_annotated

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

log = logging.getLogger("ovlabel")

# what a file is that is gone, or no file of arrays; any other error of the system may pass
_WRONG_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EFBIG, errno.ELOOP, errno.ENXIO)


def open_store(path: str | Path) -> Store:
    """Open a store for reading.

    Args:
        path: a folder that `ovlabel annotate` has written.

    Returns:
        A store that has no method that writes. It needs no lock, also while a run is writing.

    Raises:
        StoreError: there is no store, it was written in another format, or it can't be read.

    Example:
        >>> import ovlabel
        >>> ovlabel.open_store("nowhere.zarr")
        Traceback (most recent call last):
            ...
        ovlabel.errors.StoreError: nowhere.zarr does not exist; ...
    """
    path = Path(path)
    return Store(path, read_manifest(path))


def warn_of_damage(store: Store) -> None:
    """Write a warning into the log for every commit record that does not count: its images may be missing.

    Args:
        store: an open store.
    """
    for name, reason in store.damaged.items():
        what = "%s: the record of chunk %s does not count: %s (see 'ovlabel verify')"
        log.warning(what, printable(str(store.path)), name, short(reason))


def check_outside(store: Store, out: Path, ground_truth: Path | None = None) -> None:
    """Check that a result is written neither into a store, nor among its photographs, nor among masks.

    Args:
        store: the store.
        out: the file or folder to write.
        ground_truth: a folder of masks, or None.

    Raises:
        ConfigError: it lies in one of these, where it would damage something or be taken for a photograph.
    """
    places = [(store.path, "inside the store"), (store.folder, "among the photographs of")]
    if ground_truth is not None and ground_truth.is_dir():
        places.append((ground_truth, "among the masks of"))
    for place, words in places:
        if out.resolve().is_relative_to(place.resolve()):
            raise ConfigError(f"{out} would lie {words} {place}; name another place")


class TopProbabilities(NamedTuple):
    """The most probable classes of every pixel, at working size.

    Attributes:
        classes: class indices, k × h × w, the most probable first.
        values: their probabilities, float32, k × h × w, 0 to 1.
    """

    classes: LabelMap
    values: npt.NDArray[np.float32]


class StoredImage:
    """One annotated image of a store; its arrays are read from the disk each time they are asked for.

    Attributes:
        record: size, place and checksums of the image, from its commit.

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
        """The image's path relative to the folder, with `/` between its parts."""
        return self.record.key

    @property
    def path(self) -> Path:
        """Where the photograph lies, if it is still there."""
        return self._store.folder / self.record.key

    @property
    def labels(self) -> LabelMap:
        """The label map: class indices, uint8 (uint16 above 254 classes), H × W at image size.

        The largest value means "not annotated", the one before it "below threshold" (see `Prediction.labels`).

        Raises:
            StoreError: the array is damaged or gone, or holds a label that is no class.
        """
        labels: LabelMap = self._store.read(self.record, "labels")
        count = len(self._store.classes)
        beyond = labels[labels >= count]
        odd = beyond[(beyond != not_annotated(count)) & (beyond != below_threshold(count))]
        if odd.size:
            raise StoreError(
                f"{self._store.path}: '{printable(self.key)}' holds the label {odd[0]}, and there are {count} classes; "
                "'ovlabel verify' checks the store"
            )
        return labels

    @property
    def confidence(self) -> npt.NDArray[np.float32]:
        """The probability of the winning class: float32, H × W at image size, 0 to 1 in steps of 1/255.

        Raises:
            StoreError: the array is damaged or gone.
        """
        return _unquantised(self._store.read(self.record, "confidence"))

    @property
    def probabilities(self) -> TopProbabilities | npt.NDArray[np.float32] | None:
        """The kept probability maps, h × w at working size; what they are depends on the run's `store.probabilities`.

        Returns:
            `TopProbabilities` ("top1", "top5", …), float32 c × h × w of all classes ("full"), or None ("none").

        Raises:
            StoreError: an array is damaged or gone.
        """
        if not self.record.maps:
            return None
        values = _unquantised(self._store.read(self.record, "probabilities"))
        if self._store.manifest.probabilities == "full":
            return values
        return TopProbabilities(self._store.read(self.record, "classes"), values)


def _unquantised(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """0 … 255 → 0 … 1."""
    import numpy as np

    return values.astype(np.float32) / np.float32(255)


@dataclass(frozen=True)
class State:
    """What a store shows. It is replaced as a whole: a method that takes it once sees one state."""

    records: Records
    arrays: ArrayReader


class Store(Mapping[str, StoredImage]):
    """An annotated folder: a mapping from key to `StoredImage`, in key order, of the images that are done.

    It only reads; `ovlabel.store.write.writing` gives a store that can be written to. It shows what was committed when
    it was opened, or when `refresh` was called last. A photograph that has left the folder, or has another name now,
    stays under its old key until a run with `--prune` removes it.

    Attributes:
        path: the store.
        manifest: the attributes of its root: classes, run, folder.

    Example:
        >>> import ovlabel, tempfile
        >>> from ovlabel.store.example import write_example
        >>> store = ovlabel.open_store(write_example(tempfile.mkdtemp()) / "images.ovlabel.zarr")
        >>> list(store), store.classes[2].name, store["a.png"].labels.shape
        (['a.png', 'b.png'], 'grass', (2, 2))
    """

    def __init__(self, path: Path, manifest: Manifest, *, index: Index | None = None, indexed: bool = True) -> None:
        self.path, self.manifest = path, manifest
        self._state = State(Records.read(path, manifest.id, index, indexed=indexed), ArrayReader(path))

    @property
    def unfinished(self) -> list[str]:
        """Chunks without a commit record: a run is writing them, or was killed."""
        return self._state.records.commits.unfinished

    @property
    def damaged(self) -> dict[str, str]:
        """Chunk → why its commit record does not count."""
        return self._state.records.commits.damaged

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
        records = self.records
        return {key: records[key] for key in records.having(FAILED)}

    @property
    def records(self) -> Records:
        """The record that counts of every image that is done or failed."""
        return self._state.records

    @property
    def committed(self) -> str:
        """When the last commit was made, ISO 8601 in UTC; "" before the first."""
        return last_commit(self.path)

    def __getitem__(self, key: str) -> StoredImage:
        record = self.records[key]
        if record.outcome != "done":
            raise KeyError(f"{key}: {record.outcome} ({record.error})")
        return StoredImage(self, record)

    def __iter__(self) -> Iterator[str]:
        return iter(self.records.having(DONE))

    def __len__(self) -> int:
        return self.records.count(DONE)

    def refresh(self, *, everything: bool = False) -> None:
        """Read anew what is committed. Threads that read meanwhile see what was there before, or all of the new.

        Args:
            everything: read every commit, whatever an index says of it.

        Raises:
            StoreError: the disk reports an error, or permission is missing.
        """
        records = Records.read(self.path, self.manifest.id, self.records.index, indexed=not everything)
        self._state = State(records, ArrayReader(self.path))

    def pending(self, items: Sequence[ImageItem], *, retry_failed: bool = False) -> Sequence[ImageItem]:
        """The images that no commit record covers, by key, size and modification time, in the given order.

        A file that was only touched or renamed is pending too, but its content is known (`like`), so that it is not
        annotated a second time. So is a file that could not be opened and can be opened now.

        Args:
            items: images of the folder.
            retry_failed: every image that failed is pending as well.
        """
        images = items if isinstance(items, ImageList) else ImageList.of(self.folder, map(_stat_of, items))
        places = self.records.pending(images, retry_failed=retry_failed)
        return images.take(places) if images is items else [items[place] for place in places]

    def like(self, sha256: str) -> Record | None:
        """The record of a done image with this content, whose arrays a file of another name can share.

        Args:
            sha256: of the file, in hex.
        """
        return self.records.like(sha256)

    def read(self, record: Record, name: str) -> npt.NDArray[Any]:
        """What one array holds of an image, in the shape that its record says. Its checksum was compared.

        Args:
            record: the image's.
            name: "labels", "confidence", "classes" or "probabilities".

        Raises:
            StoreError: the array is damaged or gone.
        """
        try:
            return self._state.arrays.read(record, name)
        except Exception as error:
            key = printable(record.key)
            raise StoreError(f"{self.path}: the {name} of '{key}' can't be read ({why(error)})") from error

    def check(self, record: Record) -> str:
        """What is wrong with the arrays of a done image; "" if each has its recorded length and checksum.

        Args:
            record: the image's.

        Raises:
            StoreError: an array can't be read just now (permission, an error of the disk), so that nothing is known.
        """
        for name in record.arrays:
            try:
                self._state.arrays.check(record, name)
            except Exception as error:
                if isinstance(error, OSError) and error.errno not in _WRONG_FILE:
                    raise StoreError(f"{self.path}: {name} of '{printable(record.key)}': {why(error)}") from error
                return f"{name}: {why(error)}"
        return ""


def _stat_of(item: ImageItem) -> tuple[str, int, int]:
    """Key, size and modification time."""
    return item.key, item.size, item.mtime_ns
