"""The records of a store: which one counts for every image. Those that an index knows are read when asked for."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ovlabel.errors import StoreError
from ovlabel.store.commits import Commits, read_commit, read_commits, stamps
from ovlabel.store.index import (
    DONE,
    FAILED,
    GUESSED_RANGE,
    MORE_BANDS,
    MORE_FRAMES,
    REDUCED,
    UNOPENED,
    Index,
    Stamp,
    read_index,
    stamp,
    state_of,
)
from ovlabel.store.layout import INDEX, number_of
from ovlabel.store.record import Record
from ovlabel.types import ImageList, in_64_bits

_SAME = 128  # a bit beside those of a state: size and modification time are the recorded ones
FRESH_IMAGES = 4096  # that no index covers: reading them takes 0.2 s
FRESH_COMMITS = 256  # beside an index that does not cover them
SMALL = 32  # images: a commit of fewer is worth gathering with others
_OPEN = 256  # commits whose records are kept once they were read


@dataclass(frozen=True)
class Tally:
    """What is known of some images.

    Attributes:
        done: how many of them are annotated.
        more_frames: how many of these hold further frames or pages.
        more_bands: how many of these hold samples that are neither colour nor opacity.
        guessed_range: how many of these do not say how many bits of their samples are used.
        reduced: for how many of these labels were decided on fewer pixels than asked.
        failed: the keys of those that failed, in the order of the images.
    """

    done: int = 0
    more_frames: int = 0
    more_bands: int = 0
    guessed_range: int = 0
    reduced: int = 0
    failed: list[str] = field(default_factory=list)


class Records(Mapping[str, Record]):
    """Key → the record that counts, of every image that is done or failed.

    Threads may read while one adds.

    Attributes:
        index: what is known without reading commits, or None.
        commits: the commits that the index does not cover.
        last: the highest number of a chunk that counts.
    """

    def __init__(self, store: Path, identity: str, index: Index | None, commits: Commits) -> None:
        self._store, self._identity = store, identity
        self.index, self.commits = index, commits
        covered: Mapping[str, Stamp] = {} if index is None else index.stamps
        self.last = max(map(number_of, (*covered, *commits.records)), default=0)
        self._latest: dict[str, Record] = {}  # what counts of `commits`, also where an image was removed
        self._by_content: dict[str, Record] | None = None
        self._opened: dict[str, Sequence[Record]] = {}
        for name, records in commits.records.items():
            there = (r for r in records if r.outcome != "done" or r.chunk in commits.records or r.chunk in covered)
            self._take(name, there)

    @classmethod
    def read(cls, store: Path, identity: str, index: Index | None = None, *, indexed: bool = True) -> Records:
        """Read the records of a store.

        Args:
            store: the store.
            identity: its id.
            index: the index as it was read before; while it covers nearly everything, the file is not read again.
            indexed: use an index, where there is one; else every commit is read.

        Raises:
            StoreError: the disk reports an error, or permission is missing.
        """
        present = stamps(store)
        if not indexed or index is None or not index.fits(present) or len(present) - len(index.names) > FRESH_COMMITS:
            index = read_index(store, identity, present) if indexed else None
        covered: Mapping[str, Stamp] = {} if index is None else index.stamps
        fresh = {name: stamp for name, stamp in present.items() if name not in covered}
        return cls(store, identity, index, read_commits(store, identity, fresh))

    @property
    def index_pays(self) -> bool:
        """Whether opening the store reads so many commits that an index which covers them is worth writing."""
        fresh = self.commits.records
        many = self.index is not None and len(fresh) >= FRESH_COMMITS
        return many or sum(map(len, fresh.values())) >= FRESH_IMAGES

    def __getitem__(self, key: str) -> Record:
        record = self._latest.get(key)
        if record is None and self.index is not None and (row := self.index.find(key)) is not None:
            record = self._stored(self.index, row)
        if record is None or record.outcome == "removed":
            raise KeyError(key)
        return record

    def __iter__(self) -> Iterator[str]:
        latest = self._latest.copy()
        if self.index is not None:
            yield from (key for key in self.index.having(DONE | FAILED) if key not in latest)
        yield from (key for key, record in latest.items() if record.outcome != "removed")

    def __len__(self) -> int:
        return self.count(DONE | FAILED)

    def count(self, bits: int) -> int:
        """How many images have one of these bits in their state."""
        latest = self._latest.copy()
        found = sum(state_of(record) & bits > 0 for record in latest.values())
        return found + sum(key not in latest for key in self.index.having(bits)) if self.index else found

    def having(self, bits: int) -> list[str]:
        """The keys of the images that have one of these bits in their state, sorted."""
        latest = self._latest.copy()
        found = [key for key, record in latest.items() if state_of(record) & bits]
        return sorted([*(k for k in self.index.having(bits) if k not in latest), *found] if self.index else found)

    def pending(self, images: ImageList, *, retry_failed: bool = False) -> list[int]:
        """The positions of those images that no record covers; see `Store.pending`."""
        settled = DONE if retry_failed else DONE | FAILED
        return [
            place
            for place, state in enumerate(self._states(images))
            if not (state & _SAME and state & settled)
            or (state & UNOPENED and os.access(images.folder / images.keys[place], os.R_OK))
        ]

    def tally(self, images: ImageList) -> Tally:
        """What is known of some images.

        Args:
            images: of the folder, in any order.
        """
        states = self._states(images)
        counts = Counter(states)
        failed = [key for key, state in zip(images.keys, states, strict=True) if state & FAILED]

        def having(bits: int) -> int:
            return sum(count for state, count in counts.items() if state & bits == bits)

        flags = (MORE_FRAMES, MORE_BANDS, GUESSED_RANGE, REDUCED)
        frames, bands, guessed, reduced = (having(DONE | flag) for flag in flags)
        return Tally(having(DONE), frames, bands, guessed, reduced, failed)

    def like(self, sha256: str) -> Record | None:
        """The record of a done image with this content; see `Store.like`."""
        if self._by_content is None:
            self._by_content = {r.sha256: r for r in self._latest.copy().values() if r.outcome == "done"}
        if (record := self._by_content.get(sha256)) is not None or self.index is None:
            return record
        for row in self.index.alike(sha256):
            with contextlib.suppress(StoreError):  # a commit that is gone or damaged: the image is annotated anew
                record = self._stored(self.index, row)
                if record.sha256 == sha256 and record.key not in self._latest:
                    return record
        return None

    def add(self, name: str, records: Sequence[Record]) -> None:
        """Take the records of a commit that was just made.

        Args:
            name: of its chunk.
            records: of its images.
        """
        self.commits.records[name] = list(records)
        if (found := stamp(self._store, name)) is not None:
            self.commits.stamps[name] = found
        self._take(name, records)

    def counting(self) -> Iterator[tuple[str, Record]]:
        """The records that count among those of `commits`, removals too, each with the name of its commit."""
        for name, records in self.commits.records.items():
            yield from ((name, record) for record in records if self._latest.get(record.key) is record)

    @property
    def commit_count(self) -> int:
        """How many commits count."""
        return len(self.commits.records) + (0 if self.index is None else len(self.index.names))

    @property
    def small_commits(self) -> int:
        """How many commits hold few images that count."""
        fresh = sum(len(records) < SMALL for records in self.commits.records.values())
        return fresh if self.index is None else fresh + self.index.small_commits(SMALL)

    def extended(self) -> Index | None:
        """The index that covers all commits; None where a record holds something that no index can hold."""
        if self.commits.stamps.keys() < self.commits.records.keys():
            return None
        try:
            index = Index.empty() if self.index is None else self.index
            return index.extended(self.commits.stamps, self.commits.records, self._latest)
        except (OverflowError, ValueError):
            return None

    def _take(self, name: str, records: Iterable[Record]) -> None:
        """Let the records of a commit count, except where the index knows of later ones."""
        for record in records:
            if self.index is not None and name < self.index.names[-1]:
                row = self.index.find(record.key)
                if row is not None and name < self.index.names[self.index.columns["commits"][row]]:
                    continue
            self._latest[record.key] = record
            if record.outcome != "done":
                self._by_content = None
            elif self._by_content is not None:
                self._by_content[record.sha256] = record

    def _states(self, images: ImageList) -> bytearray:
        """The state of each image, and whether its size and time are the recorded ones; 0 for one that is unknown."""
        if self.index is None:
            return bytearray(map(self._state, images.keys, images.sizes, images.times))
        import numpy as np

        rows, columns = self.index.rows(images.keys), self.index.columns
        same = (columns["sizes"][rows] == np.asarray(images.sizes)) & (
            columns["times"][rows] == np.asarray(images.times)
        )
        states = bytearray(np.where(rows < 0, 0, columns["states"][rows] | same * np.uint8(_SAME)).tobytes())
        if self._latest:
            for place, key in enumerate(images.keys):
                if key in self._latest:
                    states[place] = self._state(key, images.sizes[place], images.times[place])
        return states

    def _state(self, key: str, size: int, time: int) -> int:
        """The state of one image, by what the commits say that the index does not cover."""
        record = self._latest.get(key)
        if record is None:
            return 0
        return state_of(record) | (_SAME if (record.size, in_64_bits(record.mtime_ns)) == (size, time) else 0)

    def _stored(self, index: Index, row: int) -> Record:
        """The record at a row of the index, read from its commit. Raises StoreError if it is not there any more."""
        name, line = index.names[index.columns["commits"][row]], int(index.columns["lines"][row])
        records = self._opened.get(name)
        if records is None:
            try:
                records = read_commit(self._store, self._identity, name)
            except (OSError, ValueError) as error:
                why = "open it again (refresh), or see 'ovlabel verify'"
                raise StoreError(f"{self._store}: commit {name} was removed or damaged ({error}); {why}") from error
            if len(self._opened) >= _OPEN:
                self._opened = {}
            self._opened[name] = records
        if line >= len(records) or records[line].key != index.keys[row]:
            raise StoreError(f"{self._store / INDEX} does not fit the commits; remove that file")
        return records[line]
