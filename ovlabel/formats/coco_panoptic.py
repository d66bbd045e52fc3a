"""COCO panoptic: `panoptic.json`, and RGB PNGs in `panoptic/` (segment id = R + 256 G + 256² B; 0: no label).

Things are cut into connected components, one segment each; everything else is one segment a class.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from ovlabel.formats import DROPPED, ExportClass, Job


def write(job: Job) -> None:
    """One PNG an image, one JSON for all."""
    images, annotations = [], []
    for number, sheet in enumerate(job.sheets(), start=1):
        segments, infos = np.zeros(sheet.labels.shape, np.uint32), []
        for identity, (entry, mask) in enumerate(components(job.classes, sheet.labels), start=1):
            segments[mask] = identity
            infos.append({"id": identity, "category_id": entry.id, "iscrowd": 0, **extent(mask)})
        channels = np.stack([segments >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8)
        Image.fromarray(channels).save(job.file(f"panoptic/{sheet.name}.png"))
        images.append(image_entry(number, sheet.key, sheet.labels.shape))
        annotations.append({"image_id": number, "file_name": f"{sheet.name}.png", "segments_info": infos})
    table = {"images": images, "annotations": annotations, "categories": categories(job.classes)}
    job.file("panoptic.json").write_text(json.dumps(table), encoding="utf-8")


def components(
    classes: tuple[ExportClass, ...], labels: NDArray[np.uint16]
) -> Iterator[tuple[ExportClass, NDArray[np.bool_]]]:
    """(class, mask) of every connected component of a thing (8 neighbours), and of every other class as a whole."""
    for index in np.unique(labels[labels != DROPPED]):
        mask = labels == index
        if classes[index].kind != "thing":
            yield classes[index], mask
            continue
        parts, count = ndimage.label(mask, np.ones((3, 3)))
        for part in range(1, count + 1):
            yield classes[index], parts == part


def extent(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask's area in pixels and its box: left, top, width, height."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    return {"area": int(mask.sum()), "bbox": [int(v) for v in box]}


def image_entry(number: int, key: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """An entry of the JSON's images."""
    return {"id": number, "file_name": key, "height": shape[0], "width": shape[1]}


def categories(classes: tuple[ExportClass, ...]) -> list[dict[str, Any]]:
    """The JSON's categories."""
    return [
        {
            "id": c.id,
            "name": c.name,
            "supercategory": c.group,
            "isthing": int(c.kind == "thing"),
            "color": list(c.colour),
        }
        for c in classes
    ]
