"""Parts of COCO's annotation files that several formats share."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ovlabel.formats._components import components, extent
from ovlabel.formats._export import Export, ExportClass, LabelledImage, Mask
from ovlabel.formats._image_ids import image_ids


def write_instances(export: Export, segmentation: Callable[[Mask], Any]) -> None:
    """Write `instances.json`: every connected component of a thing is an annotation.

    Args:
        export: what to write.
        segmentation: how a mask is written in an annotation.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    ids = image_ids(export.keys, export.options.ids_from)
    for image in export.images():
        number = ids[image.key]
        images.append(image_entry(number, image))
        for entry, mask in components(export.classes, image.labels):
            if entry.kind == "thing":
                annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": entry.id, "iscrowd": 0}
                annotations.append({**annotation, **extent(mask), "segmentation": segmentation(mask)})
    things = [entry for entry in categories(export.classes) if entry["isthing"]]
    table = {"images": images, "annotations": annotations, "categories": things}
    export.file("instances.json").write_text(json.dumps(table), encoding="utf-8")


def image_entry(number: int, image: LabelledImage) -> dict[str, Any]:
    """An entry of the JSON's `images`."""
    height, width = image.labels.shape
    return {"id": number, "file_name": image.key, "height": height, "width": width}


def categories(classes: tuple[ExportClass, ...]) -> list[dict[str, Any]]:
    """The JSON's `categories`."""
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
