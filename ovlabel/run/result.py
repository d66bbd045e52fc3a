"""What a run came to, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ovlabel.run.job import Job


@dataclass(frozen=True)
class RunResult:
    """What a run came to; `ovlabel annotate --json` prints it.

    Attributes:
        folder: of the photographs.
        store: where the labels are.
        images: how many the run was about.
        annotated: how many of them are annotated, now or by an earlier run.
        looked_at: how many this run took.
        pending: how many are left over by a limit, or were gone before their turn.
        more_frames: how many hold further frames or pages; the first was annotated.
        more_bands: how many hold samples that are neither colour nor opacity, such as infrared.
        guessed_range: how many do not say how many bits of their samples are used.
        reduced: how many are so large that their labels were decided on `labels.max_finish_pixels`.
        failed: key, stage, exception, error, time and attempts of each that failed, now or in an earlier run.
        vanished: keys of annotated images that have left the folder.
        removed: whether they were removed from the store.
        absent: listed paths that lead to no image.
        left_out: subfolders that can't be read.
        others: how many files of other kinds were not looked at, by suffix, most first ("": without one).
        seconds: that the run took.
    """

    folder: str
    store: str
    images: int
    annotated: int
    looked_at: int
    pending: int
    more_frames: int
    more_bands: int
    guessed_range: int
    reduced: int
    failed: list[dict[str, Any]]
    vanished: list[str]
    removed: bool
    absent: list[str]
    left_out: list[str]
    others: dict[str, int]
    seconds: float

    @classmethod
    def of(cls, job: Job, seconds: float) -> RunResult:
        """The result of a job that has run.

        Args:
            job: it.
            seconds: that it took.
        """
        plan, records = job.plan, {} if job.store is None else job.store.records
        done = [r for item in plan.items if (r := records.get(item.key)) and r.outcome == "done"]
        kept = ("key", "stage", "exception", "error", "time", "attempts")
        return cls(
            folder=str(plan.folder),
            store=str(plan.out),
            images=len(plan.items),
            annotated=len(done),
            looked_at=len(job.pending),
            pending=job.left + len(job.gone),
            more_frames=sum(record.more_frames for record in done),
            more_bands=sum(record.more_bands for record in done),
            guessed_range=sum(record.guessed_range for record in done),
            reduced=sum(record.reduced for record in done),
            failed=[{name: getattr(record, name) for name in kept} for record in job.failures().values()],
            vanished=job.vanished,
            removed=job.removed,
            absent=plan.listing.absent,
            left_out=plan.listing.left_out,
            others=plan.listing.others,
            seconds=round(seconds, 3),
        )

    @property
    def complete(self) -> bool:
        """Whether nothing failed, was absent or was left out."""
        return not (self.failed or self.left_out or self.absent)
