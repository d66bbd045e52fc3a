"""COCO instances: `instances.json`; every connected component of a thing is an annotation with a run-length mask."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ovlabel.formats._coco import write_instances
from ovlabel.formats._export import Export, Mask, Rules

RULES = Rules(text=True, options=("ids_from",))


def write(export: Export) -> None:
    """One JSON for all images."""
    write_instances(export, _runs)


def _runs(mask: Mask) -> Any:
    """A mask as COCO's compressed run lengths."""
    runs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": runs["size"], "counts": runs["counts"].decode("ascii")}
