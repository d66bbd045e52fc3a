"""Whether a store is what its records say, and how to make it so again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ovlabel.store.lock import locked
from ovlabel.store.read import Store, open_store
from ovlabel.store.record import Record


@dataclass
class Report:
    """What was found.

    Attributes:
        images: how many were checked. bad: key → which array is damaged, and how.
        records: chunk → why its commit record does not count. unfinished: chunks without one (a run at work, or one
            that was killed; the next run clears them).
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


def verify(store: Store, on_image: Callable[[Record], None] | None = None) -> Report:
    """Read every array of every annotated image and compare length and CRC-32 with its record.

    Args:
        on_image: called with each record after it was checked.
    """
    report = Report(records=dict(store.damaged), unfinished=list(store.unfinished))
    done = [record for record in store.records.values() if record.outcome == "done"]
    for record in sorted(done, key=lambda record: (record.chunk, record.pixel)):
        if reason := store.check(record):
            report.bad[record.key] = reason
        report.images += 1
        if on_image:
            on_image(record)
    return report


def repair(store: Store, *, wait: bool = False, on_image: Callable[[Record], None] | None = None) -> Report:
    """Verify under the lock, and take out what is damaged: its images, and no others, are pending then.

    Chunks whose record does not count are removed: where one image ends and the next begins is not known without it.

    Raises:
        BusyError: somebody is writing. StoreError: the store can't be written.
    """
    with locked(store.path, wait=wait) as lock:
        held = open_store(store.path, lock)
        report = verify(held, on_image)
        for name in (*report.records, *report.unfinished):
            held.discard(name)
        if report.bad:
            held.remove(sorted(report.bad), "damaged")
            held.free()
        report.repaired = True
    return report
