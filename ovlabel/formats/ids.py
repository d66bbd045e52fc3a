"""Grey PNGs of the vocabulary's own ids (ADE20K, PASCAL VOC, …).

A pixel without a label is 0, or 255 where 0 is a class.
"""

from __future__ import annotations

from ovlabel.formats._export import Export, Rules
from ovlabel.formats._grey import png_of, write_grey

RULES = Rules(png_of)


def write(export: Export) -> None:
    """One PNG an image: 8 bit, or 16 bit where an id needs it."""
    ids = [c.id for c in export.classes]
    write_grey(export, ids, 255 if 0 in ids else 0, png_of, 65535)
