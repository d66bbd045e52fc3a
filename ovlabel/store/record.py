"""Commit records: one line an image, and the file that makes a chunk count. Standard library only."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from ovlabel.errors import ordinary, short
from ovlabel.files import parse_json
from ovlabel.store.layout import MOST_CLASSES, MOST_PIXELS, MOST_SIDE, MOST_VALUES


@dataclass(frozen=True, slots=True)
class Record:
    """One image's record in a commit.

    Attributes:
        key: path relative to the folder, with `/` between its parts.
        size: of the file, in bytes.
        mtime_ns: modification time of the file, nanoseconds since 1970.
        sha256: of the file, in hex.
        outcome: "done", "failed", or "removed": no earlier record of this key counts any more.
        stage: the step that failed: "open", "decode" or "segment".
        exception: the name of the exception that it failed with.
        error: why it failed, or why it was removed.
        time: when it failed, ISO 8601 in UTC.
        attempts: how often this file has failed.
        more_frames: the file holds further frames or pages; the first was annotated.
        more_bands: the file holds samples that are neither colour nor opacity; they were not used.
        guessed_range: the file does not say how many bits of its samples are used; their largest value decided.
        height: of the label map, in pixels.
        width: of the label map, in pixels.
        working: height and width of the probability maps, in pixels.
        chunk: the chunk that holds the arrays; "" stands for the chunk of the record.
        pixel: index of the image's first value in `labels` and `confidence`.
        map: index of the image's first value in `classes` and `probabilities`.
        maps: how many probability maps are kept.
        sums: CRC-32 of the image's bytes in each of `arrays`.
        reduced: the labels were decided on fewer pixels than `labels.finish` asks for.

    Example:
        >>> Record("a.jpg", size=100, mtime_ns=0, height=2, width=3, sums=(1, 2)).arrays
        ('labels', 'confidence')
    """

    key: str
    size: int
    mtime_ns: int
    sha256: str = ""
    outcome: str = "done"
    stage: str = ""
    exception: str = ""
    error: str = ""
    time: str = ""
    attempts: int = 0
    more_frames: bool = False
    more_bands: bool = False
    guessed_range: bool = False
    height: int = 0
    width: int = 0
    working: tuple[int, int] = (0, 0)
    chunk: str = ""
    pixel: int = 0
    map: int = 0
    maps: int = 0
    sums: tuple[int, ...] = ()
    reduced: bool = False

    @property
    def arrays(self) -> tuple[str, ...]:
        """The names of the arrays that hold something of this image."""
        maps = {2: (), 3: ("probabilities",), 4: ("classes", "probabilities")}
        return ("labels", "confidence", *maps[len(self.sums)]) if self.sums else ()

    def stretch(self, name: str) -> tuple[int, tuple[int, ...]]:
        """Where the image lies in one of `arrays`: the index of its first value, and its shape.

        Args:
            name: "labels", "confidence", "classes" or "probabilities".
        """
        if name in ("labels", "confidence"):
            return self.pixel, (self.height, self.width)
        return self.map, (self.maps, *self.working)

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON values, without the fields that hold their defaults."""
        return {key: value for key, value in asdict(self).items() if value != _DEFAULTS.get(key, ...)}

    def bounded(self) -> bool:
        """Whether the numbers are within what an image that is decoded, and an array, can have."""
        sides = (self.height, self.width, *self.working)
        pixels = max(self.height * self.width, math.prod(self.working))
        places = (self.size, self.attempts, self.pixel, self.map, *self.sums)
        right = max(sides) <= MOST_SIDE and pixels <= MOST_PIXELS and self.maps <= MOST_CLASSES
        right = (
            right and abs(self.mtime_ns) < 2**66
        )  # file systems hold times up to 2486; from 2262 on they have more than 64 bits
        return right and all(map(ordinary, places)) and self.maps * pixels <= MOST_VALUES

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Record:
        """The inverse of `to_json`; fields that this version does not know are passed over.

        Args:
            values: plain JSON values, which may come from anywhere.

        Raises:
            TypeError: a field is missing or of another type.
            ValueError: the numbers describe no image, or the key leads out of the folder.
        """
        known = {name: value for name, value in values.items() if name in _TYPES}
        known |= {name: tuple(known[name]) for name in ("working", "sums") if name in known}
        record = cls(**known)
        for name, kind in _TYPES.items():
            if type(getattr(record, name)) is not kind:
                raise TypeError(f"{name} is {getattr(record, name)!r}")
        numbers = (record.height, record.width, record.pixel, record.map, record.maps, *record.working, *record.sums)
        if any(type(number) is not int or number < 0 for number in numbers) or len(record.working) != 2:
            raise ValueError(f"the numbers of '{record.key}' describe no image")
        if not record.bounded():
            raise ValueError(f"the numbers of '{short(record.key)}' are beyond those of any image that is decoded")
        if len(record.sums) not in ((2, 3, 4) if record.outcome == "done" else (0,)):
            raise ValueError(f"'{record.key}' has {len(record.sums)} checksums")
        parts = PurePosixPath(record.key).parts
        if not parts or parts[0] == "/" or ".." in parts or "\0" in record.key:
            raise ValueError(f"'{record.key}' leads out of the folder")
        return record


_DEFAULTS = asdict(Record("", -1, -1)) | {"key": ..., "size": ..., "mtime_ns": ..., "outcome": ...}
_TYPES = {field.name: type(getattr(Record("", -1, -1), field.name)) for field in fields(Record)}


def crc32(data: Any, before: int = 0) -> int:
    """CRC-32 of the bytes of an array or of `bytes`. It finds accidental damage; it does not stop a forger.

    Args:
        data: anything with a contiguous buffer.
        before: the checksum of the bytes that come before these.
    """
    return zlib.crc32(data, before)


def pack(store: str, node: str, records: Sequence[Record]) -> bytes:
    """The metadata file of a chunk, a Zarr group whose attributes are the commit record.

    Args:
        store: the store's id.
        node: the chunk's name.
        records: of the chunk's images.
    """
    said = {"store": store, "node": node, "images": [record.to_json() for record in records]}
    attributes = {**said, "committed": now(), "crc32": _sum(said)}
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}).encode()


def unpack(store: str, node: str, data: bytes) -> list[Record]:
    """The inverse of `pack`.

    Args:
        store: the id that the record must name.
        node: the chunk that it must name.
        data: the content of the metadata file.

    Raises:
        ValueError: the record is damaged, or belongs to another store or chunk; the message says which.
    """
    try:
        attributes = parse_json(data)["attributes"]
        said = {name: attributes[name] for name in ("store", "node", "images")}
        if _sum(said) != attributes["crc32"]:
            raise ValueError("its checksum does not fit")
        if said["store"] != store:
            raise ValueError("it belongs to another store")
        if said["node"] != node:
            raise ValueError(f"it belongs to {said['node']}")
        return [Record.from_json({"chunk": node, **line}) for line in said["images"]]
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"it holds no commit ({type(error).__name__}: {error})") from None


def _sum(said: Mapping[str, Any]) -> int:
    """The checksum of a commit record."""
    return crc32(json.dumps(said, sort_keys=True).encode())


def now() -> str:
    """The current time, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
