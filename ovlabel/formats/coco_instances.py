"""COCO instances: `instances.json`; every connected component of a thing is an annotation with a run-length mask."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from ovlabel.formats import Job
from ovlabel.formats.coco_panoptic import categories, components, extent, image_entry


def write(job: Job) -> None:
    """One JSON for all images."""
    save(job, _runs)


def save(job: Job, drawn: Callable[[NDArray[np.bool_]], Any]) -> None:
    """`instances.json`; `drawn` says how a mask is written."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, sheet in enumerate(job.sheets(), start=1):
        images.append(image_entry(number, sheet.key, sheet.labels.shape))
        for entry, mask in components(job.classes, sheet.labels):
            if entry.kind == "thing":
                annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": entry.id, "iscrowd": 0}
                annotations.append({**annotation, **extent(mask), "segmentation": drawn(mask)})
    things = [entry for entry in categories(job.classes) if entry["isthing"]]
    table = {"images": images, "annotations": annotations, "categories": things}
    job.file("instances.json").write_text(json.dumps(table), encoding="utf-8")


def _runs(mask: NDArray[np.bool_]) -> Any:
    runs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": runs["size"], "counts": runs["counts"].decode("ascii")}
