"""CVAT's "Segmentation mask 1.1": coloured PNGs of classes and of objects, and `labelmap.txt`; zip it to import it."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovlabel.errors import ConfigError
from ovlabel.formats._components import components
from ovlabel.formats._export import NO_LABEL, Export, ExportClass, LabelledImage, Rules
from ovlabel.text.class_lists import NO_BACKGROUND

Colour = tuple[int, int, int]
_BACKGROUND: Colour = (0, 0, 0)


def _file(name: str) -> str:
    """An image's file of classes."""
    return f"SegmentationClass/{name}.png"


RULES = Rules(_file, ("labelmap.txt",), text=True, lines=True)


def write(export: Export) -> None:
    """Two PNGs an image; black is what has no label, and a class named background.

    Raises:
        ConfigError: two classes share a colour, or a name does not fit CVAT's text files.
    """
    colours = _colours(export.classes)
    _write_label_map(export, colours)
    table = np.zeros((NO_LABEL + 1, 3), np.uint8)
    table[: len(colours)] = colours
    names = []
    for image in export.images():
        Image.fromarray(table[image.labels]).save(export.file(_file(image.name)))
        objects = _voc_colour(_objects(export.classes, image))
        Image.fromarray(objects).save(export.file(f"SegmentationObject/{image.name}.png"))
        names.append(f"{image.name}\n")
    export.file("ImageSets/Segmentation/default.txt").write_text("".join(names), encoding="utf-8")


def _colours(classes: tuple[ExportClass, ...]) -> list[Colour]:
    """The colour of every class; CVAT tells classes by it."""
    colours = [_BACKGROUND if c.name == "background" else c.colour for c in classes]
    count = Counter([_BACKGROUND, *colours])
    shared = [c.name for c, colour in zip(classes, colours, strict=True) if count[colour] > 1]
    shared = [name for name in shared if name != "background"]
    if shared:
        raise ConfigError(f"CVAT tells classes by colour, and {', '.join(shared[:4])} share theirs; give them `colour`")
    return colours


def _write_label_map(export: Export, colours: list[Colour]) -> None:
    """`labelmap.txt`: one line a class."""
    names = [c.name for c in export.classes]
    rows = {"background": _BACKGROUND, **dict(zip(names, colours, strict=True))}
    bad = next((name for name in rows if ":" in name or name.splitlines() != [name.strip()] or name[0] == "#"), None)
    if bad is not None:
        raise ConfigError(
            f"CVAT's label map has no place for a name with ':' or a line break, or with # at its start ({bad!r}); "
            "rename the class"
        )
    lines = "".join(f"{name}:{','.join(map(str, colour))}::\n" for name, colour in rows.items())
    head = "# label:color_rgb:parts:actions\n" + (f"{NO_BACKGROUND}\n" if "background" not in names else "")
    export.file("labelmap.txt").write_text(head + lines, encoding="utf-8")


def _objects(classes: tuple[ExportClass, ...], image: LabelledImage) -> NDArray[np.uint32]:
    """The number of every pixel's region, H × W, from 1; 0 for the background."""
    objects = np.zeros(image.labels.shape, np.uint32)
    for number, (entry, mask) in enumerate(components(classes, image.labels), start=1):
        if entry.name != "background":
            objects[mask] = number
    return objects


def _voc_colour(numbers: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """PASCAL VOC's colour of every number, H × W × 3: its bits dealt out to red, green and blue, the highest first."""
    channels = [sum(((numbers >> (3 * k + c)) & 1) << (7 - k) for k in range(8)) for c in range(3)]
    return np.stack(channels, -1).astype(np.uint8)
