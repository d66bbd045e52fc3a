"""Cityscapes' layout: CITY/NAME_gtFine_labelIds.png, …_labelTrainIds.png; 0 and 255 where there is no label."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from ovlabel.formats import Job, Sheet
from ovlabel.formats.ids import save


def write(job: Job) -> None:
    """Two PNGs an image; `_leftImg8bit` is taken off the names."""

    def sheets() -> Iterator[Sheet]:
        for sheet in job.sheets():
            yield dataclasses.replace(sheet, name=sheet.name.removesuffix("_leftImg8bit"))

    renamed = dataclasses.replace(job, sheets=sheets)
    save(renamed, {i: c.id for i, c in enumerate(job.classes)}, 0, "_gtFine_labelIds")
    save(renamed, {i: i for i in range(len(job.classes))}, 255, "_gtFine_labelTrainIds")
