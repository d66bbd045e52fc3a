"""Gathering many small commits into few large ones, so that years of nightly runs do not slow down opening a store."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ovlabel.errors import StoreError, printable
from ovlabel.store.arrays import write_arrays
from ovlabel.store.layout import new_name
from ovlabel.store.read import StoredImage, TopProbabilities
from ovlabel.store.record import Record
from ovlabel.store.records import SMALL
from ovlabel.store.write import StoreWriter, writing
from ovlabel.types import Annotation

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

log = logging.getLogger("ovlabel")

MOST_IMAGES = 1024  # of a commit that is made here
MOST_BYTES = 2**28  # of its arrays


@dataclass(frozen=True)
class Gathered:
    """What came of gathering.

    Attributes:
        before: how many commits there were.
        after: how many there are.
        damaged: key → what is wrong with its arrays; the commits that hold these images were left as they are.
    """

    before: int
    after: int
    damaged: dict[str, str]


def compact(path: str | Path, *, wait: bool = False) -> Gathered:
    """Gather the small commits of a store into large ones, under its lock.

    Arrays are compared with their checksums and written again as they are. The new commit counts before the old ones
    are removed, so that a process that is killed loses nothing. A program that has the store open reads what it read
    before, or gets a StoreError until it calls `refresh`.

    Args:
        path: the store.
        wait: while another process writes to the store, wait for it.

    Raises:
        BusyError: another process is writing to the store.
        StoreError: the store can't be read or written.

    Example:
        >>> import tempfile
        >>> from ovlabel.store.example import write_example
        >>> compact(write_example(tempfile.mkdtemp()) / "images.ovlabel.zarr")
        Gathered(before=1, after=1, damaged={})
    """
    with writing(path, wait=wait) as store:
        store.clear_unfinished()
        store.refresh(everything=True)
        before, damaged = store.records.commit_count, dict[str, str]()
        small = {name for name, records in store.records.commits.records.items() if len(records) < SMALL}
        for batch in _batches(_groups(store, small)):
            sound = [records for records in batch if not _has_damage(store, records, damaged)]
            if len(sound) > 1:
                _gather(store, small, [record for records in sound for record in records])
        if len(small) > 1:
            store.free()
        return Gathered(before, store.records.commit_count, damaged)


def _has_damage(store: StoreWriter, records: Iterable[Record], damaged: dict[str, str]) -> bool:
    """Whether arrays of some records are damaged; adds to `damaged` which, and why."""
    found = {r.key: reason for r in records if r.outcome == "done" and (reason := store.check(r))}
    for key, reason in found.items():
        log.warning("%s: %s; its commit stays as it is (see 'ovlabel verify')", printable(key), reason)
    damaged.update(found)
    return bool(found)


def _groups(store: StoreWriter, small: set[str]) -> list[list[Record]]:
    """The records that leave small commits, in groups of which each empties one of them.

    A record moves if it lies in a small commit, or its arrays do. A removal moves only while a commit that stays has an
    earlier record of its key.
    """
    commits = store.records.commits.records
    mentioned = {record.key for name, records in commits.items() if name not in small for record in records}
    groups: dict[str, list[Record]] = {}
    for name, record in store.records.counting():
        home = record.chunk if record.chunk in small else name
        if home in small and (record.outcome != "removed" or record.key in mentioned):
            groups.setdefault(home, []).append(record)
    return [groups[home] for home in sorted(groups)]


def _batches(groups: Iterable[list[Record]]) -> Iterator[list[list[Record]]]:
    """Groups that make one commit together."""
    batch: list[list[Record]] = []
    for group in groups:
        records = [record for records in (*batch, group) for record in records]
        if batch and (len(records) > MOST_IMAGES or sum(map(_bytes, records)) > MOST_BYTES):
            yield batch
            batch = []
        batch.append(group)
    yield batch


def _bytes(record: Record) -> int:
    """About how many bytes the arrays of an image take."""
    return 2 * (record.height * record.width + record.maps * record.working[0] * record.working[1])


def _gather(store: StoreWriter, small: set[str], records: Iterable[Record]) -> None:
    """Make one commit of records whose arrays lie in small commits, or elsewhere; those that lie elsewhere stay."""
    own: dict[tuple[str, int, int], Record] = {}  # place of arrays → the first record that has them
    rest = []
    for record in records:
        if record.outcome != "done" or record.chunk not in small:
            rest.append(record if record.outcome == "done" else replace(record, chunk=""))
        elif own.setdefault((record.chunk, record.pixel, record.map), record) is not record:
            rest.append(record)
    name = new_name(store.next_number(), None)
    entries = [(replace(record, chunk=""), _annotation(store, record)) for record in own.values()]
    made = dict(zip(own, write_arrays(store.path, name, entries, len(store.classes)), strict=True))
    if any(made[place].sums != record.sums for place, record in own.items()):
        store.discard(name)
        raise StoreError(f"{store.path}: arrays changed while they were gathered; nothing was removed")
    moved = [_at(record, made.get((record.chunk, record.pixel, record.map))) for record in rest]
    store.adopt(name, [*made.values(), *moved])


def _at(record: Record, first: Record | None) -> Record:
    """The record of an image that shares the arrays of another one, where these lie now."""
    return record if first is None else replace(record, chunk="", pixel=first.pixel, map=first.map)


def _annotation(store: StoreWriter, record: Record) -> Annotation:
    """The arrays of an image as they are in the store."""
    image = StoredImage(store, record)
    kept = image.probabilities
    classes, values = kept if isinstance(kept, TopProbabilities) else (None, kept)
    maps = None if values is None else _quantised(values)
    return Annotation(image.labels, _quantised(image.confidence), classes, maps, record.working, record.reduced)


def _quantised(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """0 … 1 → 0 … 255, exactly what they were before they were read."""
    import numpy as np

    return np.rint(values * 255).astype(np.uint8)
