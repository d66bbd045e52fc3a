"""CVAT's "Segmentation mask 1.1": coloured PNGs of classes and of objects, and `labelmap.txt`; zip it to import it."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovlabel.errors import ConfigError, printable
from ovlabel.formats import DROPPED, Job
from ovlabel.formats.coco_panoptic import components

_NONE = (0, 0, 0)


def write(job: Job) -> None:
    """Two PNGs an image; black is what has no label, and a class named background."""
    colours = [_NONE if c.name == "background" else c.colour for c in job.classes]
    shared = [c.name for c, colour in zip(job.classes, colours, strict=True) if Counter([_NONE, *colours])[colour] > 1]
    shared = [name for name in shared if name != "background"]
    if shared:
        raise ConfigError(f"CVAT tells classes by colour, and {', '.join(shared[:4])} share theirs; give them `colour`")
    rows = {"background": _NONE} | {c.name: colour for c, colour in zip(job.classes, colours, strict=True)}
    bad = next((name for name in rows if ":" in name or "\n" in name), None)
    if bad is not None:
        raise ConfigError(
            f"CVAT's label map has no place for ':' or a line break in a name ({bad!r}); rename the class"
        )
    lines = "".join(f"{name}:{','.join(map(str, colour))}::\n" for name, colour in rows.items())
    job.file("labelmap.txt").write_text(f"# label:color_rgb:parts:actions\n{lines}", encoding="utf-8")
    table = np.zeros((DROPPED + 1, 3), np.uint8)
    table[: len(colours)] = colours
    names = []
    for sheet in job.sheets():
        if "\n" in sheet.name:
            raise ConfigError(f"CVAT's list of images has no place for a line break: rename {printable(sheet.key)}")
        Image.fromarray(table[sheet.labels]).save(job.file(f"SegmentationClass/{sheet.name}.png"))
        objects = np.zeros(sheet.labels.shape, np.uint32)
        for number, (entry, mask) in enumerate(components(job.classes, sheet.labels), start=1):
            if entry.name != "background":
                objects[mask] = number
        Image.fromarray(_voc_colour(objects)).save(job.file(f"SegmentationObject/{sheet.name}.png"))
        names.append(f"{sheet.name}\n")
    job.file("ImageSets/Segmentation/default.txt").write_text("".join(names), encoding="utf-8")


def _voc_colour(numbers: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """PASCAL VOC's colour of every number, h w 3: its bits dealt out to red, green and blue, highest first."""
    channels = [sum(((numbers >> (3 * k + c)) & 1) << (7 - k) for k in range(8)) for c in range(3)]
    return np.stack(channels, -1).astype(np.uint8)
