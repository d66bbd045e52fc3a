"""Finding what is damaged in a store, and taking it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ovlabel.errors import short
from ovlabel.store.layout import refuse_links
from ovlabel.store.manifest import read_manifest
from ovlabel.store.read import Store
from ovlabel.store.record import Record
from ovlabel.store.write import writing


@dataclass(frozen=True)
class Report:
    """What a verification found.

    Attributes:
        images: how many were checked.
        bad: key → which array is damaged, and how.
        records: chunk → why its commit record does not count.
        unfinished: chunks without one, left by a run that is at work or was killed; the next run clears them.
        repaired: whether all of it has been put right.
    """

    images: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    records: dict[str, str] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)
    repaired: bool = False

    @property
    def clean(self) -> bool:
        """Whether nothing is damaged; what is unfinished is not damage."""
        return not (self.bad or self.records)


def verify(store: Store | str | Path, on_image: Callable[[Record], None] | None = None) -> Report:
    """Read every array of every annotated image and compare its length and CRC-32 with its record.

    Args:
        store: an open store, or its path.
        on_image: is told each record after it was checked.

    Raises:
        StoreError: there is no store, or an array can't be read just now (permission, an error of the disk).

    Example:
        >>> import ovlabel, tempfile
        >>> from ovlabel.store.example import write_example
        >>> ovlabel.verify(write_example(tempfile.mkdtemp()) / "images.ovlabel.zarr").clean
        True
    """
    path, manifest = (
        (store.path, store.manifest) if isinstance(store, Store) else (Path(store), read_manifest(Path(store)))
    )
    return _report(Store(path, manifest, indexed=False), on_image)


def _report(store: Store, on_image: Callable[[Record], None] | None) -> Report:
    """What is wrong with a store whose commits have all been read."""
    bad = {}
    done = [record for record in store.records.values() if record.outcome == "done"]
    for record in sorted(done, key=lambda record: (record.chunk, record.pixel)):
        if reason := store.check(record):
            bad[record.key] = reason
        if on_image:
            on_image(record)
    gone = _gone(store)
    return Report(len(done) + len(gone.keys() - bad.keys()), gone | bad, dict(store.damaged), list(store.unfinished))


def _gone(store: Store) -> dict[str, str]:
    """The images whose record that would count names a chunk that is not there, and what is to be said of each."""
    commits, gone = store.records.commits.records, dict[str, str]()
    for record in (record for records in commits.values() for record in records):
        gone.pop(record.key, None)
        if record.outcome == "done" and record.chunk not in commits:
            gone[record.key] = f"labels: the chunk {short(record.chunk)} that holds them is not there"
    return gone


def _chunks(store: Store, report: Report) -> set[str]:
    """The chunks that hold damaged arrays."""
    return {store.records[key].chunk for key in report.bad if key in store.records}


def repair(
    store: Store | str | Path, *, wait: bool = False, on_image: Callable[[Record], None] | None = None
) -> Report:
    """Verify under the lock, and take out what is damaged: its images, and no others, are pending then.

    Chunks whose record does not count are removed: where one image ends and the next begins is not known without it.

    Args:
        store: a store, or its path.
        wait: while another process writes to the store, wait for it.
        on_image: is told each record after it was checked.

    Raises:
        BusyError: another process is writing to the store.
        StoreError: the store can't be written, an array can't be read just now, or something in a chunk that is damaged
            is a link; nothing is repaired.
    """
    with writing(store.path if isinstance(store, Store) else store, wait=wait) as held:
        held.refresh(everything=True)
        report = _report(held, on_image)
        for name in (*report.records, *report.unfinished, *_chunks(held, report)):
            refuse_links(held.path, name)
        for name in (*report.records, *report.unfinished):
            held.discard(name)
        if report.bad:
            held.remove(sorted(report.bad), "damaged")
            held.free()
    return replace(report, repaired=True)
