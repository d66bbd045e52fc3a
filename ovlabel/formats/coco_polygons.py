"""COCO instances with polygons in place of run-length masks; they rasterise to the same pixels."""

from __future__ import annotations

from typing import Any

from ovlabel.formats import Job
from ovlabel.formats._outlines import Mask, outlines
from ovlabel.formats.coco_instances import save


def write(job: Job) -> None:
    """One JSON for all images; a component with a hole is several polygons of one annotation."""
    save(job, _polygons)


def _polygons(mask: Mask) -> Any:
    return [corners.ravel().tolist() for corners in outlines(mask)]
