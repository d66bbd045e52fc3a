"""COCO instances with polygons in place of run-length masks; they rasterise to the same pixels."""

from __future__ import annotations

from typing import Any

from ovlabel.formats._coco import write_instances
from ovlabel.formats._export import Export, Mask, Rules
from ovlabel.formats._outlines import outlines

RULES = Rules(text=True, options=("ids_from",))


def write(export: Export) -> None:
    """One JSON for all images; a component with a hole is several polygons of one annotation."""
    write_instances(export, _polygons)


def _polygons(mask: Mask) -> Any:
    """A mask as lists of x y x y …, along the pixels' edges."""
    return [corners.ravel().tolist() for corners in outlines(mask)]
