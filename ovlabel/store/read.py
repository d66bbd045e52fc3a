"""Reading a store. Nothing here writes, and no lock is needed: a reader sees what is committed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ovlabel.errors import StoreError, printable
from ovlabel.store.arrays import ArrayReader
from ovlabel.store.commits import last_commit, read_commits
from ovlabel.store.layout import number_of
from ovlabel.store.manifest import Manifest, StoredClass, read_manifest
from ovlabel.store.record import Record, crc32
from ovlabel.types import ImageItem, LabelMap, below_threshold, not_annotated

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


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
        labels: LabelMap = self._pixels("labels")
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
        return _unquantised(self._pixels("confidence"))

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
        values = _unquantised(self._maps("probabilities"))
        if self._store.manifest.probabilities == "full":
            return values
        return TopProbabilities(self._maps("classes"), values)

    def _pixels(self, name: str) -> Any:
        """An array of the image's pixels, H × W."""
        shape = (self.record.height, self.record.width)
        return self._store.read(self.record, name, self.record.pixel, shape)

    def _maps(self, name: str) -> Any:
        """An array of the image's probability maps, k × h × w."""
        return self._store.read(self.record, name, self.record.map, (self.record.maps, *self.record.working))


def _unquantised(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """0 … 255 → 0 … 1."""
    import numpy as np

    return values.astype(np.float32) / np.float32(255)


class Store(Mapping[str, StoredImage]):
    """An annotated folder: a mapping from key to `StoredImage`, in key order, of the images that are done.

    It only reads; `ovlabel.store.write.writing` gives a store that can be written to. It shows what was committed when
    it was opened, or when `refresh` was called last. A photograph that has left the folder, or has another name now,
    stays under its old key until a run with `--prune` removes it.

    Attributes:
        path: the store.
        manifest: the attributes of its root: classes, run, folder.
        unfinished: chunks without a commit record: a run is writing them, or was killed.
        damaged: chunk → why its commit record does not count.

    Example:
        >>> import ovlabel, tempfile
        >>> from ovlabel.store.example import write_example
        >>> store = ovlabel.open_store(write_example(tempfile.mkdtemp()) / "images.ovlabel.zarr")
        >>> list(store), store.classes[2].name, store["a.png"].labels.shape
        (['a.png', 'b.png'], 'grass', (2, 2))
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
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
        return last_commit(self.path)

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
        """Read the commit records anew; a later record of a key replaces an earlier one.

        Raises:
            StoreError: the disk reports an error, or permission is missing.
        """
        commits = read_commits(self.path, self.manifest.id)
        self.unfinished, self.damaged = commits.unfinished, commits.damaged
        self._arrays = ArrayReader(self.path)
        self._last = max(map(number_of, commits.records), default=0)
        self._records: dict[str, Record] = {}
        for record in (record for records in commits.records.values() for record in records):
            if record.outcome == "removed":
                self._records.pop(record.key, None)
            elif record.outcome != "done" or record.chunk in commits.records:
                self._records[record.key] = record
        self.__dict__.pop("_by_content", None)

    def pending(self, items: Sequence[ImageItem], *, retry_failed: bool = False) -> list[ImageItem]:
        """The images that no commit record covers, by key, size and modification time, in the given order.

        A file that was only touched or renamed is pending too, but its content is known (`like`), so that it is not
        annotated a second time. So is a file that could not be opened and can be opened now.

        Args:
            items: images of the folder.
            retry_failed: every image that failed is pending as well.
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
        """The record of a done image with this content, whose arrays a file of another name can share.

        Args:
            sha256: of the file, in hex.
        """
        return self._by_content.get(sha256)

    @cached_property
    def _by_content(self) -> dict[str, Record]:
        """sha256 → record of a done image."""
        return {r.sha256: r for r in self._records.values() if r.outcome == "done"}

    def read(self, record: Record, name: str, start: int, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """What one array holds of an image.

        Args:
            record: the image's.
            name: "labels", "confidence", "classes" or "probabilities".
            start: index of its first value in the array.
            shape: of the result.

        Raises:
            StoreError: the array is damaged or gone.
        """
        try:
            return self._arrays.read(record.chunk, name, start, shape)
        except Exception as error:
            raise StoreError(f"{self.path}: the {name} of '{record.key}' can't be read ({error})") from error

    def check(self, record: Record) -> str:
        """What is wrong with the arrays of a done image; "" if each has its recorded length and checksum.

        Args:
            record: the image's.
        """
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
