"""COCO-Stuff 164k's stuffthingmaps: 8-bit PNGs of official id − 1; 255 where there is no label."""

from __future__ import annotations

from ovlabel.formats import Job
from ovlabel.formats.ids import save


def write(job: Job) -> None:
    """One PNG an image."""
    save(job, {i: c.id - 1 for i, c in enumerate(job.classes)}, 255, "")
