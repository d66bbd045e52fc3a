"""Indexed PNGs: a pixel is a class index, shown in the class' colour; 255 (65535 in 16 bit) where there is no label.

`classes.csv` beside them says what the indices mean.
"""

from __future__ import annotations

import csv

import numpy as np
from PIL import Image

from ovlabel.files import spreadsheet_cell
from ovlabel.formats._export import NO_LABEL, Export, Rules


def _file(name: str) -> str:
    """An image's file."""
    return f"{name}.png"


RULES = Rules(_file, ("classes.csv",))


def write(export: Export) -> None:
    """One PNG an image; grey of 16 bit above 255 classes."""
    _write_table(export)
    colours = [value for c in export.classes[:255] for value in c.colour]
    palette = colours + [0] * (765 - len(colours)) + [255, 255, 255]
    for image in export.images():
        if len(export.classes) > 255:
            picture = Image.fromarray(image.labels)
        else:
            picture = Image.fromarray(np.where(image.labels == NO_LABEL, 255, image.labels).astype(np.uint8))
            picture.putpalette(palette)
        picture.save(export.file(_file(image.name)))


def _write_table(export: Export) -> None:
    """`classes.csv`: one line a class."""
    with export.file("classes.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["index", "name", "id", "kind", "group", "red", "green", "blue"])
        for index, entry in enumerate(export.classes):
            name, kind, group = map(spreadsheet_cell, (entry.name, entry.kind, entry.group))
            table.writerow([index, name, entry.id, kind, group, *entry.colour])
