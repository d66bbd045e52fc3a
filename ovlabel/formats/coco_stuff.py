"""COCO-Stuff 164k's stuffthingmaps: 8-bit PNGs of the official id − 1; 255 where there is no label."""

from __future__ import annotations

from ovlabel.formats._export import Export, Rules
from ovlabel.formats._grey import png_of, write_grey

RULES = Rules(png_of)


def write(export: Export) -> None:
    """One PNG an image."""
    write_grey(export, [c.id - 1 for c in export.classes], 255, png_of)
