"""Grey PNGs of one value a pixel, for the formats that differ in which value stands for which class."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from ovlabel.errors import ConfigError, short
from ovlabel.formats._export import NO_LABEL, Export


def png_of(name: str) -> str:
    """The path of an image's PNG, from the image's name."""
    return f"{name}.png"


def write_grey(
    export: Export, values: Sequence[int], no_label: int, file: Callable[[str], str], most: int = 255
) -> None:
    """Write one grey PNG an image; 8 bit, or 16 bit where a value needs it.

    Args:
        export: what to write.
        values: the value of every class, in label order.
        no_label: the value where a pixel has no label.
        file: the path of an image's file, from the image's name.
        most: the greatest value that the format has, 255 or 65535.

    Raises:
        ConfigError: a value is beyond the format's, or means "no label"; the message names the class.
    """
    for entry, value in zip(export.classes, values, strict=True):
        if value == no_label or not 0 <= value <= most:
            raise ConfigError(
                f"class '{short(entry.name)}', id {entry.id}, would be written as {value}; this format has 0 … {most}, "
                f"and {no_label} means no label; --format png takes any vocabulary"
            )
    table = np.full(NO_LABEL + 1, no_label, np.uint16)
    table[: len(values)] = values
    dtype = np.uint8 if max(no_label, *values) < 256 else np.uint16
    for image in export.images():
        pixels = table[image.labels].astype(dtype)
        Image.fromarray(pixels).save(export.file(file(image.name)))
