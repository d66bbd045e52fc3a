"""What a commit says: an image's line in it, and the record that makes it count. Standard library only."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any


@dataclass(frozen=True, slots=True)
class Record:
    """One image's line in a commit record.

    Attributes:
        key: path relative to the folder. size: bytes. mtime_ns: modification time. sha256: of the file, in hex.
        outcome: "done", "failed", or "removed": no earlier line of this key counts any more.
        stage, exception, error: where it failed, with which exception, and why; why it was removed.
        time: when it failed, ISO 8601 in UTC. attempts: how often this file has failed.
        more_frames: the file holds further frames or pages; the first was annotated.
        height, width: of the labels. working: (h, w) of the probability maps.
        chunk: the node that holds the arrays; "" is the record's own.
        pixel, map: where the image starts in `labels`/`confidence`, and in `classes`/`probabilities`.
        maps: k, how many probability maps are kept.
        sums: CRC-32 of the image's bytes in each array that holds some, in the order of `arrays`.
        reduced: decided on fewer pixels than `labels.finish` asks for.
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
        """The arrays that hold something of this image."""
        maps = {2: (), 3: ("probabilities",), 4: ("classes", "probabilities")}
        return ("labels", "confidence", *maps[len(self.sums)]) if self.sums else ()

    def to_json(self) -> dict[str, Any]:
        """Without the fields that hold their defaults."""
        return {key: value for key, value in asdict(self).items() if value != _DEFAULTS.get(key, ...)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Record:
        """The inverse of `to_json`; fields of a later version are passed over.

        Raises:
            TypeError, ValueError: no record, or one whose key leads out of the folder.
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
        if len(record.sums) not in ((2, 3, 4) if record.outcome == "done" else (0,)):
            raise ValueError(f"'{record.key}' has {len(record.sums)} checksums")
        parts = PurePosixPath(record.key).parts
        if not parts or parts[0] == "/" or ".." in parts or "\0" in record.key:
            raise ValueError(f"'{record.key}' leads out of the folder")
        return record


_DEFAULTS = asdict(Record("", -1, -1)) | {"key": ..., "size": ..., "mtime_ns": ..., "outcome": ...}
_TYPES = {field.name: type(getattr(Record("", -1, -1), field.name)) for field in fields(Record)}


def crc32(data: Any) -> int:
    """CRC-32 of anything with a contiguous buffer: it finds rot, it does not stop a forger."""
    return zlib.crc32(data)


def pack(store: str, node: str, records: Sequence[Record]) -> bytes:
    """The file that commits `records` as chunk `node` of the store with this id: a Zarr group's metadata."""
    said = {"store": store, "node": node, "images": [record.to_json() for record in records]}
    attributes = {**said, "committed": now(), "crc32": _sum(said)}
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}).encode()


def unpack(store: str, node: str, data: bytes) -> list[Record]:
    """The records of a commit. Raises ValueError where it is damaged, or another store's or chunk's: says why."""
    try:
        attributes = json.loads(data)["attributes"]
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
    return crc32(json.dumps(said, sort_keys=True).encode())


def now() -> str:
    """This moment, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
