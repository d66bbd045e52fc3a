"""COCO instances with polygons in place of run-length masks; they rasterise to the same pixels."""

from __future__ import annotations

from typing import Any

from ovlabel.export import Job
from ovlabel.export._outlines import Mask, outlines
from ovlabel.export.coco_instances import save


def write(job: Job) -> None:
    """One JSON for all images; a component with a hole is several polygons of one annotation."""
    save(job, _polygons)


def _polygons(mask: Mask) -> Any:
    return [corners.ravel().tolist() for corners in outlines(mask)]
