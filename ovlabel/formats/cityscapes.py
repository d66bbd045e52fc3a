"""Cityscapes' layout: CITY/NAME_gtFine_labelIds.png, 0 where there is no label."""

from __future__ import annotations

from ovlabel.formats._export import Export, Rules
from ovlabel.formats._grey import write_grey


def _file(name: str) -> str:
    """An image's file; `_leftImg8bit` is taken off, as in the published dataset."""
    return f"{name.removesuffix('_leftImg8bit')}_gtFine_labelIds.png"


RULES = Rules(_file)


def write(export: Export) -> None:
    """One PNG an image, as the official evaluation wants it: it takes every PNG of an image's name for a prediction."""
    write_grey(export, [c.id for c in export.classes], 0, _file)
