"""Cityscapes' layout: CITY/NAME_gtFine_labelIds.png (0: no label) and …_gtFine_labelTrainIds.png (255: no label)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from ovlabel.formats._export import Export, LabelledImage
from ovlabel.formats._grey import write_grey


def write(export: Export) -> None:
    """Two PNGs an image; `_leftImg8bit` is taken off the names, as in the published dataset."""

    def images() -> Iterator[LabelledImage]:
        for image in export.images():
            yield dataclasses.replace(image, name=image.name.removesuffix("_leftImg8bit"))

    renamed = dataclasses.replace(export, images=images)
    write_grey(renamed, [c.id for c in export.classes], 0, "_gtFine_labelIds")
    write_grey(renamed, list(range(len(export.classes))), 255, "_gtFine_labelTrainIds")
