"""The index of a large store: one derived file beside the commits, so that opening need not read every commit record.

It is an uncompressed .npz file, NumPy arrays in a zip archive: for every image its key, size, modification time and
state, and where its record lies (which commit, which line). Records themselves are read from the commits, when they are
asked for. The index names every commit that it covers with the size and modification time of its metadata file. It
counts only while each of these is there, unchanged; commits that it does not cover are read as they are. Where it does
not count, or is damaged (the archive has a checksum of each array), everything is read from the commits.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from operator import lt
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

from ovlabel import files
from ovlabel.store.layout import INDEX, METADATA, chunk_path
from ovlabel.store.record import Record
from ovlabel.types import in_64_bits

if TYPE_CHECKING:
    import numpy.typing as npt

    Column = npt.NDArray[Any]

DONE, FAILED, UNOPENED, MORE_FRAMES, MORE_BANDS, GUESSED_RANGE, REDUCED = (1 << bit for bit in range(7))  # of a state
_OUTCOMES = {"done": DONE, "failed": FAILED, "removed": 0}
_VERSION = 1
_TYPES = {  # of the columns, in the order of `_row`
    "sizes": "<i8",
    "times": "<i8",
    "states": "|u1",
    "commits": "<i4",
    "lines": "<i4",
    "arrays": "<i4",
    "contents": "<u4",
}
_PARTS = ("about", "names", "stamps", "keys", *_TYPES)
_SLACK = 2**20  # bytes that an index may take beyond the metadata files that it stands for

Stamp = tuple[int, int]  # size and modification time (ns) of a metadata file


def state_of(record: Record) -> int:
    """The state of an image in bits: its outcome, and what a run wants to know of many images at once."""
    bits = _OUTCOMES.get(record.outcome, FAILED)
    bits |= UNOPENED if record.outcome == "failed" and record.stage == "open" else 0
    bits |= (MORE_FRAMES if record.more_frames else 0) | (REDUCED if record.reduced else 0)
    return bits | (MORE_BANDS if record.more_bands else 0) | (GUESSED_RANGE if record.guessed_range else 0)


def stamp(store: Path, name: str) -> Stamp | None:
    """Size and modification time of a chunk's metadata file; None where it is no regular file.

    Args:
        store: the store.
        name: of the chunk.
    """
    try:
        stat = os.stat(chunk_path(store, name) / METADATA, follow_symlinks=False)
    except OSError:
        return None
    return (stat.st_size, stat.st_mtime_ns) if S_ISREG(stat.st_mode) else None


@dataclass(frozen=True, eq=False)
class Index:
    """What an index says; row i of every column belongs to the i-th key.

    Attributes:
        stamps: commit → size and modification time of its metadata file, for every commit that is covered, in order.
        dangling: chunks that are named by records which do not count, because these chunks do not.
        keys: of all images, sorted; each once, also those that were removed.
        columns: "sizes" and "times" of the files; "states" (`state_of`); "commits" and "lines": which commit, as an
            index into `names`, holds the record that counts, and at which place; "arrays": which chunk holds the
            arrays, likewise; "contents": CRC-32 of the sha256 of the files, to find candidates.
    """

    stamps: Mapping[str, Stamp]
    dangling: frozenset[str]
    keys: list[str]
    columns: Mapping[str, Column]

    @classmethod
    def empty(cls) -> Index:
        """An index that covers nothing."""
        import numpy as np

        return cls({}, frozenset(), [], {name: np.empty(0, kind) for name, kind in _TYPES.items()})

    @cached_property
    def names(self) -> list[str]:
        """The commits that are covered, in order."""
        return list(self.stamps)

    def fits(self, present: Mapping[str, Stamp | None]) -> bool:
        """Whether every commit that is covered is there, unchanged, and what was missing is missing still.

        Args:
            present: chunk → size and modification time of its metadata file, for every chunk that is there.
        """
        return self.dangling.isdisjoint(present) and all(present.get(n) == stamp for n, stamp in self.stamps.items())

    def find(self, key: str) -> int | None:
        """The row of a key; None for one that is not here."""
        row = bisect_left(self.keys, key)
        return row if row < len(self.keys) and self.keys[row] == key else None

    def rows(self, keys: list[str]) -> Column:
        """The rows of keys; −1 for those that are not here.

        Args:
            keys: in any order; sorted ones are found fastest.
        """
        import numpy as np

        rows, place, row, step = np.full(len(keys), -1, np.int64), 0, 0, 1
        while place < len(keys):  # stretches that are the same on both sides are compared as a whole
            stretch = keys[place : place + step]
            if stretch == self.keys[row : row + step]:
                rows[place : place + step] = np.arange(row, row + len(stretch))
                place, row, step = place + len(stretch), row + len(stretch), 2 * step
            elif step > 1:
                step = max(1, step // 4)
            else:
                row = bisect_left(self.keys, keys[place])
                if self.keys[row : row + 1] == stretch:
                    rows[place], row = row, row + 1
                place += 1
        return rows

    def having(self, bits: int) -> Iterator[str]:
        """The keys whose state has one of these bits, sorted."""
        import numpy as np

        return map(self.keys.__getitem__, np.flatnonzero(self.columns["states"] & bits).tolist())

    def small_commits(self, images: int) -> int:
        """How many commits hold fewer records that count than so many."""
        import numpy as np

        held = np.bincount(self.columns["commits"], minlength=len(self.names))
        return int(np.count_nonzero(held < images))

    def alike(self, sha256: str) -> list[int]:
        """The rows of done images that may have this content; nearly always none, or the right ones."""
        import numpy as np

        (order, sums), wanted = self._by_content, np.uint32(_content(sha256))
        found = order[sums.searchsorted(wanted, "left") : sums.searchsorted(wanted, "right")]
        rows: list[int] = found[(self.columns["states"][found] & DONE) > 0].tolist()
        return rows

    @cached_property
    def _by_content(self) -> tuple[Column, Column]:
        """The rows in the order of their contents, and these contents."""
        order = self.columns["contents"].argsort(kind="stable")
        return order, self.columns["contents"][order]

    def extended(
        self, stamps: Mapping[str, Stamp], commits: Mapping[str, Sequence[Record]], latest: Mapping[str, Record]
    ) -> Index:
        """The index that covers further commits.

        Args:
            stamps: commit → size and modification time of its metadata file.
            commits: commit → its records.
            latest: key → which of these records counts, in place of what this index says.

        Raises:
            OverflowError, ValueError: a record holds a number or a key that no index can hold.
        """
        import numpy as np

        every = {name: (self.stamps.get(name) or stamps[name]) for name in sorted({*self.stamps, *stamps})}
        rows = _rows(commits, latest, every)
        old = self.rows(list(latest))
        kept = np.setdiff1d(np.arange(len(self.keys)), old[old >= 0])
        keys = [self.keys[row] for row in kept.tolist()] + [row[0] for row in rows]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        columns = {}
        for number, (name, column) in enumerate(self._moved(every).items(), start=1):
            added = np.array([row[number] for row in rows], column.dtype)
            columns[name] = np.concatenate([column[kept], added])[order]
        missing = {r.chunk for records in commits.values() for r in records if r.outcome == "done"}.difference(every)
        return Index(every, self.dangling | missing, [keys[number] for number in order], columns)

    def _moved(self, stamps: Mapping[str, Stamp]) -> dict[str, Column]:
        """The columns as they are where more commits are covered."""
        import numpy as np

        place = {name: number for number, name in enumerate(stamps)}
        places = np.array([place[name] for name in self.names], _TYPES["commits"])
        return {name: places[c] if name in ("commits", "arrays") else c for name, c in self.columns.items()}

    def to_bytes(self, store: str) -> memoryview:
        """The file of the index.

        Args:
            store: the store's id.
        """
        import numpy as np

        about = {"version": _VERSION, "store": store, "dangling": sorted(self.dangling)}
        file = io.BytesIO()
        parts: dict[str, Any] = {
            "about": _text(json.dumps(about)),
            "names": _text("\0".join(self.names)),
            "stamps": np.array([*self.stamps.values()], "<i8").reshape(-1, 2),
            "keys": _text("\0".join(self.keys)),
            **self.columns,
        }
        np.savez(file, **parts)
        return file.getbuffer()


def read_index(store: Path, identity: str, present: Mapping[str, Stamp | None]) -> Index | None:
    """Read the index of a store.

    Args:
        store: the store.
        identity: its id.
        present: chunk → size and modification time of its metadata file, for every chunk that is there.

    Returns:
        None where there is no index, or one that is damaged, belongs to another store, or does not fit the commits.
    """
    most = 2 * sum(stamp[0] for stamp in present.values() if stamp is not None) + _SLACK
    try:
        data = files.read_up_to(store / INDEX, most)
        index = _unpacked(data, identity)
    except Exception:  # whatever a damaged or forged archive raises in zipfile, numpy or json: the commits are read
        return None
    return index if index.fits(present) else None


def _unpacked(data: bytes, identity: str) -> Index:
    """The inverse of `Index.to_bytes`. Raises ValueError, and whatever zipfile, numpy and json raise."""
    import numpy as np

    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        entries = archive.zip.infolist()
        if any(entry.compress_type for entry in entries) or sum(entry.file_size for entry in entries) > len(data):
            raise ValueError("compressed")
        parts = {name: archive[name] for name in _PARTS}
    about = json.loads(parts["about"].tobytes())
    if (about["version"], about["store"]) != (_VERSION, identity):
        raise ValueError("of another version or store")
    names, keys = _lines(parts["names"]), _lines(parts["keys"])
    stamps = dict(zip(names, map(tuple, parts["stamps"].tolist()), strict=True))
    columns = {name: parts[name] for name in _TYPES}
    if any(columns[name].dtype != kind or columns[name].shape != (len(keys),) for name, kind in _TYPES.items()):
        raise ValueError("columns that do not fit")
    for name, most in (("commits", len(names)), ("arrays", len(names)), ("lines", 2**31), ("states", 128)):
        if len(keys) and not (columns[name].min() >= 0 and columns[name].max() < most):
            raise ValueError(f"{name} that lead nowhere")
    if not keys or not all(all(map(lt, values, islice(values, 1, None))) for values in (names, keys)):
        raise ValueError("empty, or not sorted")
    return Index(stamps, frozenset(about["dangling"]), keys, columns)


def _rows(
    commits: Mapping[str, Sequence[Record]], latest: Mapping[str, Record], names: Iterable[str]
) -> list[tuple[Any, ...]]:
    """Key and columns of the records that count among those of some commits."""
    place = {name: number for number, name in enumerate(names)}
    found = []
    for name, records in commits.items():
        for line, record in enumerate(records):
            if latest.get(record.key) is record:
                arrays = place[record.chunk] if record.outcome == "done" else place[name]
                where = (place[name], line, arrays, _content(record.sha256))
                found.append((record.key, record.size, in_64_bits(record.mtime_ns), state_of(record), *where))
    return found


def _content(sha256: str) -> int:
    """32 bits of a file's checksum."""
    return zlib.crc32(sha256.encode("utf-8", "surrogatepass"))


def _text(text: str) -> Column:
    """A text as an array of bytes; names in it may hold lone surrogates."""
    import numpy as np

    return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)


def _lines(column: Column) -> list[str]:
    """The names in such an array, which a NUL character separates."""
    text = column.tobytes().decode("utf-8", "surrogatepass")
    return text.split("\0") if text else []
