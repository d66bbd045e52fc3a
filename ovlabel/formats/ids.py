"""Grey PNGs of the vocabulary's own ids (ADE20K, VOC …); 0 where there is no label, 255 where 0 is a class."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ovlabel.errors import ConfigError
from ovlabel.formats import DROPPED, Job


def write(job: Job) -> None:
    """One PNG an image: 8 bit, or 16 bit where an id wants it."""
    none = 255 if any(c.id == 0 for c in job.classes) else 0
    save(job, {i: c.id for i, c in enumerate(job.classes)}, none, "")


def save(job: Job, value_of: dict[int, int], none: int, ending: str) -> None:
    """PNGs of `value_of[index]`, `none` where there is no label, named NAME + ending."""
    if none in value_of.values() or min(value_of.values()) < 0 or max(value_of.values()) > 65535:
        raise ConfigError(
            f"this vocabulary's ids can't be written: they must lie in 0 … 65535, and {none} means no label"
        )
    table = np.full(DROPPED + 1, none, np.uint16)
    table[list(value_of)] = list(value_of.values())
    small = max(none, *value_of.values()) < 256
    for sheet in job.sheets():
        values = table[sheet.labels]
        Image.fromarray(values.astype(np.uint8) if small else values).save(job.file(f"{sheet.name}{ending}.png"))
