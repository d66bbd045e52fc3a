"""COCO instances: `instances.json`; every connected component of a thing is an annotation with a run-length mask."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ovlabel.export import Job
from ovlabel.export.coco_panoptic import categories, components, extent, image_entry


def write(job: Job) -> None:
    """One JSON for all images."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, sheet in enumerate(job.sheets(), start=1):
        images.append(image_entry(number, sheet.key, sheet.labels.shape))
        for entry, mask in components(job.classes, sheet.labels):
            if entry.kind == "thing":
                runs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
                annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": entry.id, "iscrowd": 0}
                outline = {"size": runs["size"], "counts": runs["counts"].decode("ascii")}
                annotations.append({**annotation, **extent(mask), "segmentation": outline})
    things = [entry for entry in categories(job.classes) if entry["isthing"]]
    table = {"images": images, "annotations": annotations, "categories": things}
    job.file("instances.json").write_text(json.dumps(table), encoding="utf-8")
