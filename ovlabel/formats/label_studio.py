"""Label Studio: `tasks.json` with brush masks as predictions to be reviewed, and `config.xml`, the labelling set-up."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from ovlabel.formats import Job
from ovlabel.formats.coco_panoptic import components

_SIZES = (3, 4, 8, 16)  # bits that a run's length may take


def write(job: Job) -> None:
    """One task an image, one brush region a component; pictures are named as local files: `?d=KEY`."""
    labels = "".join(
        f'    <Label value={quoteattr(c.name)} background="#{bytes(c.colour).hex()}"/>\n' for c in job.classes
    )
    config = f'<View>\n  <Image name="image" value="$image"/>\n  <BrushLabels name="label" toName="image">\n{labels}'
    job.file("config.xml").write_text(f"{config}  </BrushLabels>\n</View>\n", encoding="utf-8")
    tasks: list[dict[str, Any]] = []
    for sheet in job.sheets():
        height, width = sheet.labels.shape
        found = [
            {
                "id": f"{number}",
                "type": "brushlabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {"format": "rle", "rle": brush(mask), "brushlabels": [entry.name]},
            }
            for number, (entry, mask) in enumerate(components(job.classes, sheet.labels))
        ]
        image = f"/data/local-files/?d={quote(sheet.key)}"
        tasks.append({"data": {"image": image}, "predictions": [{"model_version": "ovlabel", "result": found}]})
    job.file("tasks.json").write_text(json.dumps(tasks), encoding="utf-8")


def brush(mask: NDArray[np.bool_]) -> list[int]:
    """A mask as Label Studio's brush runs, bytes: the four channels of every pixel, 255 or 0, in the RLE of thi.ng.

    32 bits: how many values; 5: bits a value, less 1; 4 × 4: the sizes that a run's length may have, less 1. Then
    every run: 1, two bits for its size, its length less 1 in so many bits, its value in 8.
    """
    flat = mask.ravel()
    bounds = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    bits = [f"{4 * flat.size:032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in _SIZES)]
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        value, left = "1" * 8 if flat[start] else "0" * 8, 4 * (end - start)
        while left:
            length = min(left, 1 << _SIZES[-1])
            kind = next(i for i, size in enumerate(_SIZES) if length <= 1 << size)
            bits.append(f"1{kind:02b}{length - 1:0{_SIZES[kind]}b}{value}")
            left -= length
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))
