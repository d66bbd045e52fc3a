"""The Zarr layout: what is written, when it counts as committed, what is pending. zarr stays in this room.

    OUT.zarr/
      zarr.json                      attributes: the store's id and the whole run (config, classes, versions)
      chunks/
        00000001-5f0c3a9e/           one commit: up to `--chunk` images
          zarr.json                  attributes: `images`, a line an image (record.py). THE COMMIT RECORD, written last
          labels/ confidence/        1-D arrays, the images' pixels one after another, one shard file each
          classes/ probabilities/    likewise, the kept probability maps (k h w an image, at working size)

Arrays first, forced to the disk, then the record, which a rename puts in place at once: a chunk without a record never
happened. A record names its store and its node and has a checksum, so it vouches for nothing else. What is committed is
never written to again; a later line of a key replaces an earlier one, and a "removed" line ends it. The nodes of a
shard (`annotate --shard`) end in its name, 00000001-5f0c3a9e-2of8, and lie among the others: readers see the union. One
folder a commit and not one an image: 100,000 images are some 14,000 files instead of 900,000 (README, "The store").
Keys are data in the record, never node names, so any path a file system allows can be a key.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import platform
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ovlabel import files
from ovlabel.errors import StoreError
from ovlabel.store.lock import Lock, Shard
from ovlabel.store.record import Record, crc32, now, pack, unpack
from ovlabel.types import Annotation, ImageItem, LabelMap, below_threshold, label_dtype, not_annotated

log = logging.getLogger("ovlabel")

FORMAT = 2
_OPEN = 64  # arrays kept open for reading
_INNER = 2**16  # values in an inner chunk: what reading a part of an image decompresses
_LARGEST = 2**30  # bytes of a metadata file
_MOST_CLASSES = 2**16 - 2
_NAME = re.compile(r"(\d{8})-[0-9a-f]{8}(?:-(\d+of\d+))?")


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
        damaged: chunk → why its record does not count. unfinished: chunks without one.
        lock: what the writer holds; None for readers.
    """

    def __init__(self, path: Path, attrs: dict[str, Any], lock: Lock | None = None, shard: Shard | None = None) -> None:
        self.path, self.attrs, self.lock, self.shard = path, attrs, lock, shard
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
    def records(self) -> Mapping[str, Record]:
        """The record that counts of every image that is done or failed."""
        return self._records

    @property
    def committed(self) -> str:
        """When the last commit was made, ISO 8601 in UTC; "" before the first."""
        for name in reversed(self._nodes()):
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
        self._last = max((int(name[:8]) for name in committed), default=0)
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
        count = int(np.prod(shape, dtype=object))
        try:
            array = self._array(record.chunk, name)
            if start + count > array.shape[0]:
                raise ValueError(f"it ends at {array.shape[0]}, before {start + count}")
            return np.asarray(array[start : start + count]).reshape(shape)
        except Exception as error:
            raise StoreError(f"{self.path}: the {name} of '{record.key}' can't be read ({error})") from error

    def check(self, record: Record) -> str:
        """What is wrong with a done image's arrays; "" if each has its recorded length and checksum."""
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
            array = zarr.open_array(self.path / "chunks" / chunk / name, mode="r", zarr_format=3)
            if array.ndim != 1 or array.dtype.name not in ("uint8", "uint16") or array.chunks != (_INNER,):
                raise ValueError(f"an array of {array.ndim} dimensions of {array.dtype}, in parts of {array.chunks}")
            self._open[chunk, name] = array
        return self._open[chunk, name]

    def _nodes(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.path / "chunks") as entries:
            return sorted(e.name for e in entries if _NAME.fullmatch(e.name) and e.is_dir(follow_symlinks=False))
        return []

    def _commits(self) -> dict[str, list[Record]]:
        """The records of every commit that counts, oldest first; notes what is unfinished or damaged."""
        self.unfinished: list[str] = []
        self.damaged: dict[str, str] = {}
        return {name: records for name in self._nodes() if (records := self._committed(name)) is not None}

    def _committed(self, name: str) -> list[Record] | None:
        """The records of one chunk; None, with the reason noted, where it does not count.

        Raises:
            StoreError: the disk errs, or permission is missing: what is there can't be known.
        """
        try:
            return unpack(self.attrs["id"], name, self._metadata(name))
        except FileNotFoundError:
            self.unfinished.append(name)
        except IsADirectoryError:
            self.damaged[name] = "it is a folder"
        except ValueError as error:
            self.damaged[name] = str(error)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EFBIG, errno.ELOOP):
                raise StoreError(f"cannot read {self.path / 'chunks' / name}: {error.strerror or error}") from error
            self.damaged[name] = str(error.strerror)
        return None

    def _metadata(self, name: str) -> bytes:
        """The metadata of a chunk's node, read straight from its file: listing needs no zarr."""
        return files.read_up_to(self.path / "chunks" / name / "zarr.json", _LARGEST)

    # ---------------------------------------------------------------- writing

    def clear_unfinished(self) -> None:
        """Remove chunks that were never committed: a shard's own, or all of them. Only for the holder of the lock.

        A chunk whose record is there but does not count stays where it is: its images are done anew, and what it is
        worth is for a person to say (`verify --repair`).
        """
        for name in self.unfinished:
            shard = _NAME.fullmatch(name)
            if self.shard is None or (shard and shard[2] == str(self.shard)):
                files.remove_node(self.path / "chunks" / name)
        if self.shard is None:
            for partial in (*self.path.glob("*.partial"), *(self.path / "chunks").glob("*.partial")):
                partial.unlink(missing_ok=True)
        for name, reason in self.damaged.items():
            log.warning("%s: the record of chunk %s does not count: %s (see 'ovlabel verify')", self.path, name, reason)

    def settle(self, written: dict[str, Any], folder: Path, text: dict[str, Any]) -> None:
        """Note how the run is written, where its folder lies and how its classes are drawn now.

        The next run need not resolve it then. Only for the holder of the lock; `text` as in `create_store`.
        """
        said = {"written": written, **_place(self.path, folder), **text}
        if any(self.attrs.get(name) != value for name, value in said.items()):
            self.attrs.update(said)
            with _writing(self.path):
                files.put(self.path / "zarr.json", _group(self.attrs))

    def commit(self, entries: Sequence[tuple[Record, Annotation | None]]) -> None:
        """Write the arrays of the entries, then the record that makes them count.

        Raises:
            StoreError: the disk is full, the store was removed, permission is gone …; what was committed before stays.
            BusyError: another process has taken the lock over.
        """
        name = new_name(self.next_number(), self.shard)
        self._cleanly(name, lambda: self._adopt(name, write_arrays(self.path, name, entries, len(self.classes))))

    def adopt(self, name: str, records: Sequence[Record]) -> None:
        """Commit a chunk whose arrays somebody else has written, with `write_arrays`. Raises as `commit` does."""
        self._cleanly(name, lambda: self._adopt(name, records))

    def next_number(self) -> int:
        """The number of the next chunk: later ones count where two have a line of one key."""
        self._last += 1
        return self._last

    def _cleanly(self, name: str, write: Callable[[], None]) -> None:
        """Do it, or leave nothing of the chunk."""
        node = self.path / "chunks" / name
        try:
            with _writing(self.path):
                self._hold()
                write()
        except BaseException:
            files.remove_node(node)
            if not (self.path / "zarr.json").exists():  # removed underneath: bring nothing back, not even empty folders
                for folder in (node.parent, self.path):
                    with contextlib.suppress(OSError):
                        folder.rmdir()
            raise

    def _adopt(self, name: str, records: Sequence[Record]) -> None:
        node = self.path / "chunks" / name
        self._hold()
        files.sync_folder(node.parent)
        files.put(node / "zarr.json", pack(self.attrs["id"], name, records))
        for record in records:
            self._remember(replace(record, chunk=record.chunk or name))

    def remove(self, keys: Sequence[str], reason: str) -> None:
        """Commit that the images of these keys are no longer part of the store; see `free`."""
        self.commit([(Record(key, -1, -1, outcome="removed", error=reason), None) for key in keys])

    def free(self) -> int:
        """Remove the chunks in which nothing counts any more; how many. Only for the holder of the whole lock."""
        lines = self._commits()
        home = {record.key: name for name, records in lines.items() for record in records}
        used = {record.chunk for record in self._records.values() if record.outcome == "done"}
        mentioned: set[str] = set()  # by what stays: a removal must outlive what it removes
        freed = 0
        for name, records in lines.items():
            last = [record for record in records if home[record.key] == name]
            if name in used or any(r.outcome != "removed" or r.key in mentioned for r in last):
                mentioned.update(record.key for record in records)
            else:
                files.remove_node(self.path / "chunks" / name)
                freed += 1
        return freed

    def discard(self, name: str) -> None:
        """Remove a chunk whose record does not count."""
        files.remove_node(self.path / "chunks" / name)

    def _hold(self) -> None:
        """Raise unless this process is still the one that may write here, and nowhere else."""
        if self.lock is not None:
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


def new_name(number: int, shard: Shard | None) -> str:
    """The name of a new chunk; nobody else makes the same."""
    return f"{number:08d}-{uuid.uuid4().hex[:8]}" + (f"-{shard}" if shard else "")


def write_arrays(
    path: Path, name: str, entries: Sequence[tuple[Record, Annotation | None]], classes: int
) -> list[Record]:
    """Write the arrays of a new chunk, and force them to the disk. They count once a commit adopts them.

    Args:
        path: the store. classes: how many it has.

    Returns:
        The records, with the place and the checksums of what belongs to them.

    Raises:
        StoreError: see `Store.commit`.
    """
    node = path / "chunks" / name
    with _writing(path):
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


def open_store(path: str | Path, lock: Lock | None = None, shard: Shard | None = None) -> Store:
    """Open a store: for reading, or with a lock for writing. Raises StoreError where there is none."""
    path = Path(path)
    try:
        node = json.loads(files.read_up_to(path / "zarr.json", _LARGEST))
    except (FileNotFoundError, NotADirectoryError):
        what = "holds no zarr.json" if path.is_dir() else "does not exist" if not path.exists() else "is a file"
        raise StoreError(f"{path} {what}; an ovlabel store ends in .zarr and is made by 'ovlabel annotate'") from None
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path}/zarr.json can't be read: {error}") from None
    attrs = (node.get("attributes") or {}) if isinstance(node, dict) else {}
    found = attrs.get("ovlabel_format") if isinstance(attrs, dict) else None
    if found != FORMAT:
        reason = f"has format {found}, this version reads {FORMAT}" if found else "was not made by ovlabel"
        raise StoreError(f"{path} {reason}")
    if wrong := sorted(_wrong(attrs)):
        raise StoreError(f"{path}/zarr.json is damaged: {', '.join(wrong)} missing or not what they must be")
    return Store(path, attrs, lock, shard)


def _wrong(attrs: dict[str, Any]) -> list[str]:
    """The attributes of a store that are not what `create_store` writes; it may come from anywhere."""

    def holds(name: str, *keys: str) -> bool:
        value: Any = attrs.get(name)
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return isinstance(value, str if keys else dict)

    classes, colours, background = attrs.get("classes"), attrs.get("colours"), attrs.get("background")
    entries, names = attrs.get("vocabulary"), classes if isinstance(classes, list) else []
    count = len(names)
    right = {
        **{name: isinstance(attrs.get(name), str) for name in ("id", "created", "folder", "folder_from_store")},
        "classes": 0 < count < _MOST_CLASSES and all(isinstance(c, str) and c and c.isprintable() for c in names),
        "colours": isinstance(colours, list) and len(colours) == count and all(map(_is_colour, colours)),
        "background": background is None or (type(background) is int and 0 <= background < count),
        "vocabulary": isinstance(entries, list) and len(entries) == count and all(map(_is_entry, entries, names)),
        "labels": holds("labels"),
        "written": holds("written"),
        "versions": holds("versions", "ovlabel"),
        "run": holds("run") and holds("run", "store", "probabilities"),
    }
    return [name for name, is_right in right.items() if not is_right]


def _is_entry(value: Any, name: str) -> bool:
    if not isinstance(value, dict) or value.get("name") != name:
        return False
    words = all(isinstance(value.get(key) or "", str) for key in ("kind", "group"))
    return words and type(value.get("id") or 0) is int


def _is_colour(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(part) is int and 0 <= part <= 255 for part in value)


def exists(path: Path) -> bool:
    """Whether a store is there; a folder in which one was begun holds none yet. Raises StoreError for anything else."""
    if (path / "zarr.json").exists():
        return True
    parts = path.rglob("*") if path.is_dir() else []
    ours = ("chunks", "zarr.json")
    if (path.exists() and not path.is_dir()) or any(
        part.name not in ours and part.suffix != ".partial" and not part.name.startswith(".lock") for part in parts
    ):
        raise StoreError(f"{path} exists and is no store; pass another --out")
    return False


def create_store(path: Path, folder: Path, run: dict[str, Any], written: dict[str, Any], text: dict[str, Any]) -> Store:
    """A new, empty store; one that another shard made meanwhile is left as it is, and taken.

    Args:
        path: where. folder: the photographs. run, written: the run as resolved and as written.
        text: `classes` and `colours` in label order, `background` (index or None), `vocabulary` (all that it says).
    """
    count = len(text["classes"])
    attrs = {
        "ovlabel_format": FORMAT,
        "id": uuid.uuid4().hex,
        "created": now(),
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
    with _writing(path):
        (path / "chunks").mkdir(parents=True, exist_ok=True)
        files.put(path / "chunks" / "zarr.json", _group({}), new=True)
        files.put(path / "zarr.json", _group(attrs), new=True)
    return open_store(path)


def _group(attrs: dict[str, Any]) -> bytes:
    """The metadata of a Zarr group."""
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attrs}, indent=1).encode()


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say where a write failed: StoreError for OSError."""
    try:
        yield
    except FileNotFoundError as error:
        raise StoreError(f"{path} was removed while it was written ({error.filename})") from error
    except OSError as error:
        raise StoreError(f"cannot write to {path}: {error.strerror or error}") from error


def _place(path: Path, folder: Path) -> dict[str, str]:
    """Where the photographs lie: as a path of its own, and seen from the store, so that both can move together."""
    real = folder.resolve()
    return {"folder": str(real), "folder_from_store": os.path.relpath(real, path.resolve().parent)}


def versions() -> dict[str, str]:
    """Versions of what the results depend on."""
    names = ("ovlabel", "torch", "open_clip_torch", "numpy", "pillow", "zarr")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
