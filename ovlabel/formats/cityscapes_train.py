"""Cityscapes' ids for training: CITY/NAME_gtFine_labelTrainIds.png of class indices, 255 where there is no label."""

from __future__ import annotations

from ovlabel.formats._export import Export, Rules
from ovlabel.formats._grey import write_grey


def _file(name: str) -> str:
    """An image's file; `_leftImg8bit` is taken off, as in the published dataset."""
    return f"{name.removesuffix('_leftImg8bit')}_gtFine_labelTrainIds.png"


RULES = Rules(_file)


def write(export: Export) -> None:
    """One PNG an image."""
    write_grey(export, list(range(len(export.classes))), 255, _file)
