"""What a run came to, as plain values."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovlabel.run.job import Job


@dataclass(frozen=True)
class RunResult:
    """What a run came to; `ovlabel annotate --json` prints it.

    Attributes:
        folder: of the photographs.
        store: where the labels are.
        images: how many the run was about; those that were deleted before their turn no longer count.
        annotated: how many of them are annotated, now or by an earlier run.
        looked_at: how many this run took.
        pending: how many are left over by a limit, or are neither done nor failed for another reason.
        unread: keys of those that were taken, are neither done nor failed, and do not count as deleted (`was_deleted`).
        deleted: keys of those whose file was deleted before its turn.
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
    unread: list[str]
    deleted: list[str]
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
        plan, tally = job.plan, job.tally()
        deleted = [key for key in job.gone if was_deleted(plan.folder, key)]
        unread = sorted(job.open - set(deleted))
        kept = ("key", "stage", "exception", "error", "time", "attempts")
        return cls(
            folder=str(plan.folder),
            store=str(plan.out),
            images=len(plan.items) - len(deleted),
            annotated=tally.done,
            looked_at=len(job.pending),
            pending=job.left + len(unread),
            unread=unread,
            deleted=deleted,
            more_frames=tally.more_frames,
            more_bands=tally.more_bands,
            guessed_range=tally.guessed_range,
            reduced=tally.reduced,
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
        """Whether every image that was taken is annotated, nothing was absent, and nothing was left out."""
        return not (self.failed or self.unread or self.left_out or self.absent)


def was_deleted(folder: Path, key: str) -> bool:
    """Whether a file was deleted, alone or with its folder, rather than is out of sight because nothing is mounted.

    An empty folder is what is left of one that is no longer mounted. So a file counts as deleted if the nearest folder
    above it that is still there, and lies in `folder` or is it, holds something that is not hidden.

    Args:
        folder: of the photographs.
        key: of an image in it.
    """
    if os.path.lexists(folder / key):
        return False
    for above in Path(key).parents:
        try:
            with os.scandir(folder / above) as entries:
                return any(not entry.name.startswith(".") for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return False
    return False
