"""The Zarr layout: what is written, when it counts as committed, what is pending. zarr stays in this room.

    OUT.zarr/
      zarr.json                      attributes: the whole run (config as written and as resolved, classes, versions)
      chunks/
        00000001-5f0c3a9e/           one commit: up to `--chunk` images
          zarr.json                  attributes: `images`, one line an image. THE COMMIT RECORD, written last
          labels/ confidence/        1-D arrays, the images' pixels one after another, one shard file each
          classes/ probabilities/    likewise, the kept probability maps (k h w an image, at working size)

Arrays first, then the record, which a rename puts in place at once: a chunk without a record never happened. One
folder a commit and not one an image: 100,000 images are some 14,000 files instead of 900,000 (README, "The store").
Keys are data in the record, never node names, so any path a file system allows can be a key.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import platform
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ovlabel.errors import BusyError, StoreError
from ovlabel.types import Annotation, ImageItem, LabelMap, below_threshold, label_dtype, not_annotated

log = logging.getLogger("ovlabel")

FORMAT = 1
_OPEN = 64  # arrays kept open for reading
_INNER = 2**16  # values in an inner chunk: what reading a part of an image decompresses
_NAME = re.compile(r"\d{8}-[0-9a-f]{8}")


@dataclass(frozen=True)
class Record:
    """One image's line in a commit record.

    Attributes:
        key: path relative to the folder. size: bytes. mtime_ns: modification time. sha256: of the file, in hex.
        outcome: "done" or "failed". stage, error: what failed, and why.
        height, width: of the labels. working: (h, w) of the probability maps.
        chunk: the node that holds the arrays; "" is the record's own.
        pixel, map: where the image starts in `labels`/`confidence`, and in `classes`/`probabilities`.
        maps: k, how many probability maps are kept.
        reduced: decided on fewer pixels than `labels.finish` asks for.
    """

    key: str
    size: int
    mtime_ns: int
    sha256: str = ""
    outcome: str = "done"
    stage: str = ""
    error: str = ""
    height: int = 0
    width: int = 0
    working: tuple[int, int] = (0, 0)
    chunk: str = ""
    pixel: int = 0
    map: int = 0
    maps: int = 0
    reduced: bool = False

    def to_json(self) -> dict[str, Any]:
        """Without the fields that hold their defaults."""
        return {k: v for k, v in asdict(self).items() if v != _DEFAULTS.get(k, ...)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Record:
        """The inverse of `to_json`; fields of a later version are passed over. Raises TypeError for no record."""
        known = {key: value for key, value in values.items() if key in cls.__dataclass_fields__}
        return cls(**known | {"working": tuple(known.get("working", (0, 0)))})


_DEFAULTS = asdict(Record("", -1, -1)) | {"key": ..., "size": ..., "mtime_ns": ..., "outcome": ...}


class TopProbabilities(NamedTuple):
    """The most probable classes of every pixel, at working size: `classes`, `values` (float32, 0 to 1), each k h w."""

    classes: LabelMap
    values: npt.NDArray[np.float32]


class StoredImage:
    """One annotated image; arrays are read when asked for."""

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
        if self._store.run["store"]["probabilities"] == "full":
            return values
        return TopProbabilities(self._maps("classes"), values)

    def _pixels(self, name: str) -> Any:
        shape = (self.record.height, self.record.width)
        return self._store.read(self.record, name, self.record.pixel, shape)

    def _maps(self, name: str) -> Any:
        return self._store.read(self.record, name, self.record.map, (self.record.maps, *self.record.working))


def _unquantised(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return values.astype(np.float32) / np.float32(255)


class Store(Mapping[str, StoredImage]):
    """An annotated folder: a mapping from key to `StoredImage`, in key order, of the images that are done.

    A photograph that has left the folder, or that goes by another name now, stays under the key it had.

    Attributes:
        path: the store. attrs: its attributes. failed: key → record of the images that failed.
    """

    def __init__(self, path: Path, attrs: dict[str, Any]) -> None:
        self.path, self.attrs = path, attrs
        self._open: dict[tuple[str, str], Any] = {}
        self.refresh()

    # ---------------------------------------------------------------- reading

    @property
    def run(self) -> dict[str, Any]:
        """The run as resolved: everything that changes results."""
        run: dict[str, Any] = self.attrs["run"]
        return run

    @property
    def classes(self) -> list[str]:
        """Class names in label order."""
        return list(self.attrs["classes"])

    @property
    def colours(self) -> list[tuple[int, int, int]]:
        """RGB of each class."""
        return [(c[0], c[1], c[2]) for c in self.attrs["colours"]]

    @property
    def folder(self) -> Path:
        """The folder of photographs: beside the store as at the start of the run, else where it was then."""
        beside = self.path.absolute().parent / self.attrs["folder_from_store"]
        return beside if beside.is_dir() else Path(self.attrs["folder"])

    @property
    def failed(self) -> dict[str, Record]:
        """The images that could not be annotated."""
        return {key: r for key, r in sorted(self._records.items()) if r.outcome == "failed"}

    @property
    def committed(self) -> str:
        """When the last commit was made, ISO 8601 in UTC; "" before the first."""
        for name in reversed(self._nodes()):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                return str(self._attributes(name)["committed"])
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
        nodes = {name: self._committed(name) for name in self._nodes()}
        committed = {name: records for name, records in nodes.items() if records is not None}
        self._unfinished = sorted(nodes.keys() - committed.keys())
        self._last = max((int(name[:8]) for name in committed), default=0)
        self._records: dict[str, Record] = {
            record.key: record
            for records in committed.values()
            for record in records
            if record.outcome != "done" or record.chunk in committed
        }
        self.__dict__.pop("_by_content", None)

    def pending(self, items: Sequence[ImageItem]) -> list[ImageItem]:
        """The items that no valid commit record covers, by key, size and modification time.

        A file that was only touched or renamed is pending too, but its content is known (`like`): nothing is redone. So
        is one that could not be opened and can be now.
        """

        def covered(item: ImageItem) -> bool:
            record = self._records.get(item.key)
            if record is None or (record.size, record.mtime_ns) != (item.size, item.mtime_ns):
                return False
            return record.outcome == "done" or record.stage != "open" or not os.access(item.path, os.R_OK)

        return [item for item in items if not covered(item)]

    def like(self, sha256: str) -> Record | None:
        """A done image with this content, whose arrays a file of another name can share."""
        return self._by_content.get(sha256)

    @cached_property
    def _by_content(self) -> dict[str, Record]:
        return {r.sha256: r for r in self._records.values() if r.outcome == "done"}

    def read(self, record: Record, name: str, start: int, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """A stretch of one array as `shape`. Raises StoreError where it is damaged or gone."""
        count = int(np.prod(shape))
        try:
            array = self._array(record.chunk, name)
            return np.asarray(array[start : start + count]).reshape(shape)
        except Exception as error:
            raise StoreError(f"{self.path}: the {name} of '{record.key}' can't be read ({error})") from error

    def _array(self, chunk: str, name: str) -> Any:
        """An array, opened once for the images that follow in its chunk."""
        import zarr

        if (chunk, name) not in self._open:
            if len(self._open) >= _OPEN:
                self._open = {}
            self._open[chunk, name] = zarr.open_array(self.path / "chunks" / chunk / name, mode="r")
        return self._open[chunk, name]

    def _nodes(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self.path / "chunks") as entries:
            return sorted(e.name for e in entries if _NAME.fullmatch(e.name))
        return []

    def _committed(self, name: str) -> list[Record] | None:
        """The records of one chunk, or None where no commit counts. Raises StoreError for a disk that errs."""
        try:
            return [Record.from_json({"chunk": name, **line}) for line in self._attributes(name)["images"]]
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return None
        except OSError as error:
            where = self.path / "chunks" / name
            raise StoreError(f"cannot read {where}: {error.strerror or error}") from error

    def _attributes(self, name: str) -> Any:
        """The attributes of a chunk's node, read straight from its file: listing needs no zarr."""
        return json.loads((self.path / "chunks" / name / "zarr.json").read_bytes())["attributes"]

    # ---------------------------------------------------------------- writing

    def clear_unfinished(self) -> None:
        """Remove chunks that were never committed. Only for the holder of the lock (`locked`).

        A chunk whose record is there but damaged stays where it is: its images are done anew, its arrays may be of use.
        """
        for name in self._unfinished:
            node = self.path / "chunks" / name
            if (node / "zarr.json").exists():
                log.warning("%s: the record of chunk %s is damaged; its images are annotated anew", self.path, name)
            else:
                shutil.rmtree(node, ignore_errors=True)

    def settle(self, written: dict[str, Any], folder: Path, text: dict[str, Any]) -> None:
        """Note how the run is written, where its folder lies and how its classes are drawn now.

        The next run need not resolve it then. Only for the holder of the lock; `text` as in `create_store`.
        """
        import zarr

        now = {"written": written, **_place(self.path, folder), **text}
        if any(self.attrs.get(name) != value for name, value in now.items()):
            self.attrs.update(now)
            zarr.open_group(self.path, mode="r+").update_attributes(now)

    def commit(self, entries: Sequence[tuple[Record, Annotation | None]]) -> None:
        """Write the arrays of the entries, then the record that makes them count. Raises StoreError."""
        self._last += 1
        name = f"{self._last:08d}-{uuid.uuid4().hex[:8]}"
        try:
            records = self._write(name, entries)
        except OSError as error:
            shutil.rmtree(self.path / "chunks" / name, ignore_errors=True)
            raise StoreError(f"cannot write to {self.path}: {error.strerror or error}") from error
        for record in records:
            self._records[record.key] = record
            if record.outcome == "done":
                self._by_content[record.sha256] = record

    def _write(self, name: str, entries: Sequence[tuple[Record, Annotation | None]]) -> list[Record]:
        import zarr

        node = self.path / "chunks" / name
        lines, pixel, position = [], 0, 0
        for record, annotation in entries:
            values = asdict(record)
            if annotation is not None:
                height, width = annotation.labels.shape
                maps = 0 if annotation.probabilities is None else len(annotation.probabilities)
                working = annotation.working_size
                values |= {"height": height, "width": width, "working": working, "maps": maps}
                values |= {"pixel": pixel, "map": position, "reduced": annotation.reduced}
                pixel += height * width
                position += maps * working[0] * working[1]
            lines.append(Record(**values))
        annotations = [annotation for _, annotation in entries if annotation is not None]
        self._put(node, "labels", [a.labels for a in annotations], not_annotated(len(self.classes)))
        self._put(node, "confidence", [a.confidence for a in annotations], 0)
        self._put(node, "classes", [a.classes for a in annotations if a.classes is not None], 0)
        self._put(node, "probabilities", [a.probabilities for a in annotations if a.probabilities is not None], 0)
        attributes = {
            "images": [line.to_json() for line in lines],
            "committed": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with zarr.config.set({"json_indent": None}):
            zarr.create_group(node, attributes=attributes)
        return [line if line.chunk else Record(**{**asdict(line), "chunk": name}) for line in lines]

    def _put(self, node: Path, name: str, parts: Sequence[npt.NDArray[Any]], fill: int) -> None:
        """One 1-D array of all parts, flattened, in a single shard file."""
        if not parts:
            return
        import zarr
        from zarr.codecs import ZstdCodec

        flat = np.concatenate([np.ravel(part) for part in parts])
        array = zarr.create_array(
            node / name,
            shape=flat.shape,
            dtype=flat.dtype,
            chunks=(_INNER,),
            shards=(-(-len(flat) // _INNER) * _INNER,),
            compressors=ZstdCodec(level=3, checksum=True),
            fill_value=fill,
        )
        array[:] = flat


def open_store(path: str | Path) -> Store:
    """Open a store for reading. Raises StoreError where there is none."""
    path = Path(path)
    try:
        node = json.loads((path / "zarr.json").read_bytes())
    except FileNotFoundError:
        what = "holds no zarr.json" if path.is_dir() else "does not exist"
        raise StoreError(f"{path} {what}; an ovlabel store ends in .zarr and is made by 'ovlabel annotate'") from None
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}/zarr.json can't be read: {error}") from None
    attrs = (node.get("attributes") or {}) if isinstance(node, dict) else {}
    if attrs.get("ovlabel_format") != FORMAT:
        found = attrs.get("ovlabel_format")
        reason = f"has format {found}, this version reads {FORMAT}" if found else "was not made by ovlabel"
        raise StoreError(f"{path} {reason}")
    return Store(path, attrs)


def exists(path: Path) -> bool:
    """Whether a store is there; a folder in which one was begun holds none yet. Raises StoreError for anything else."""
    if (path / "zarr.json").exists():
        return True
    parts = path.rglob("*") if path.is_dir() else []
    foreign = any(part.name not in ("chunks", "zarr.json") and part.suffix != ".partial" for part in parts)
    if foreign or (path.exists() and not path.is_dir()):
        raise StoreError(f"{path} exists and is no store; pass another --out")
    return False


def create_store(path: Path, folder: Path, run: dict[str, Any], written: dict[str, Any], text: dict[str, Any]) -> Store:
    """A new, empty store.

    Args:
        path: where. folder: the photographs. run, written: the run as resolved and as written.
        text: `classes` and `colours` in label order, `background` (index or None), `vocabulary` (all that it says).
    """
    import zarr

    count = len(text["classes"])
    attrs = {
        "ovlabel_format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **_place(path, folder),
        **text,
        "labels": {
            "dtype": np.dtype(label_dtype(count)).name,
            "not_annotated": not_annotated(count),
            "below_threshold": below_threshold(count) if text["background"] is None else text["background"],
        },
        "written": written,
        "run": run,
        "versions": versions(),
    }
    try:
        if not (path / "chunks" / "zarr.json").exists():
            zarr.create_group(path / "chunks")
        zarr.create_group(path, attributes=attrs)
    except OSError as error:
        raise StoreError(f"cannot make {path}: {error.strerror or error}") from error
    return open_store(path)


def _place(path: Path, folder: Path) -> dict[str, str]:
    """Where the photographs lie: as a path of its own, and seen from the store, so that both can move together."""
    real = folder.resolve()
    return {"folder": str(real), "folder_from_store": os.path.relpath(real, path.resolve().parent)}


def versions() -> dict[str, str]:
    """Versions of what the results depend on."""
    names = ("ovlabel", "torch", "open_clip_torch", "numpy", "pillow", "zarr")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a store's folder (made if need be) against other writers.

    An advisory lock; the system lets go of it when the process ends, however it ends.

    Raises:
        BusyError: another process holds it. StoreError: the folder can't be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise StoreError(f"cannot make {path}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"{path} is being written by another process; wait for it, or stop it") from None
        yield
    finally:
        os.close(handle)
