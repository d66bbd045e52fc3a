"""COCO panoptic: `panoptic.json`, and RGB PNGs in `panoptic/` (segment id = R + 256 G + 256² B; 0: no label).

Things are cut into connected components, one segment each; every other class is one segment.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from PIL import Image

from ovlabel.formats._coco import categories, image_entry
from ovlabel.formats._components import components, extent
from ovlabel.formats._export import Export, LabelledImage, Rules
from ovlabel.formats._image_ids import image_ids


def _file(name: str) -> str:
    """An image's file."""
    return f"panoptic/{name}.png"


RULES = Rules(_file, ("panoptic.json",), text=True, options=("ids_from",))


def write(export: Export) -> None:
    """One PNG an image, one JSON for all."""
    images, annotations = [], []
    ids = image_ids(export.keys, export.options.ids_from)
    for image in export.images():
        number = ids[image.key]
        images.append(image_entry(number, image))
        infos = _write_segments(export, image)
        annotations.append({"image_id": number, "file_name": f"{image.name}.png", "segments_info": infos})
    table = {"images": images, "annotations": annotations, "categories": categories(export.classes)}
    export.file("panoptic.json").write_text(json.dumps(table), encoding="utf-8")


def _write_segments(export: Export, image: LabelledImage) -> list[dict[str, Any]]:
    """Write an image's PNG; returns the JSON's entries of its segments."""
    segments, infos = np.zeros(image.labels.shape, np.uint32), []
    for identity, (entry, mask) in enumerate(components(export.classes, image.labels), start=1):
        segments[mask] = identity
        infos.append({"id": identity, "category_id": entry.id, "iscrowd": 0, **extent(mask)})
    channels = np.stack([segments >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8)
    Image.fromarray(channels).save(export.file(_file(image.name)))
    return infos
