"""Indexed PNGs: a pixel is a class index, shown in the class' colour; 255 (65535 in 16 bit) where there is no label.

`classes.csv` beside them says what the indices mean.
"""

from __future__ import annotations

import csv

import numpy as np
from PIL import Image

from ovlabel.formats import DROPPED, Job


def write(job: Job) -> None:
    """One PNG an image."""
    with job.file("classes.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["index", "name", "id", "kind", "group", "red", "green", "blue"])
        table.writerows([i, c.name, c.id, c.kind, c.group, *c.colour] for i, c in enumerate(job.classes))
    palette = [value for c in job.classes[:255] for value in c.colour]
    for sheet in job.sheets():
        if len(job.classes) > 255:
            picture = Image.fromarray(sheet.labels)
        else:
            picture = Image.fromarray(np.where(sheet.labels == DROPPED, 255, sheet.labels).astype(np.uint8))
            picture.putpalette(palette + [0] * (765 - len(palette)) + [255, 255, 255])
        picture.save(job.file(f"{sheet.name}.png"))
