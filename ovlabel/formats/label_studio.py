"""Label Studio: tasks with brush masks as predictions to be reviewed, and `config.xml`, the labelling set-up."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from ovlabel.formats._components import components
from ovlabel.formats._export import Export, ExportClass, LabelledImage, Mask, Rules

log = logging.getLogger("ovlabel")

_SIZES = (3, 4, 8, 16)  # bits that a run's length may take
_FILE = 100_000_000  # bytes of a file of tasks, at most: Label Studio refuses an import of more than 250 MiB
_BUCKETS = ("s3://", "gs://", "azure-blob://")  # addresses that Label Studio takes as they are, without escapes

RULES = Rules(text=True, options=("image_url",))


def write(export: Export) -> None:
    """One task an image, one brush region a component, in `tasks-00000.json`, …"""
    export.file("config.xml").write_text(_config(export.classes), encoding="utf-8")
    folder = export.photographs.resolve()
    prefix = _prefix(export.options.image_url, folder)
    tasks = (json.dumps(_task(export.classes, image, prefix), separators=(",", ":")) for image in export.images())
    for number, group in enumerate(_files(tasks)):
        export.file(f"tasks-{number:05d}.json").write_text("[" + ",\n".join(group) + "]", encoding="ascii")
    if not export.options.image_url:
        log.info(
            "Label Studio serves the photographs with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and "
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=%s, and with a local storage of the project at %s",
            folder.parent,
            folder,
        )


def _prefix(given: str, folder: Path) -> str:
    """What stands before the key in a photograph's address: what was given, else the folder below the document root."""
    if not given:
        return f"/data/local-files/?d={quote(os.fsencode(folder.name))}/".replace("=/", "=")
    return given if given.endswith(("/", "=")) else f"{given}/"


def _files(tasks: Iterable[str]) -> Iterator[list[str]]:
    """Tasks in groups, each of one file."""
    group: list[str] = []
    size = 2
    for task in tasks:
        if group and size + len(task) + 2 > _FILE:
            yield group
            group, size = [], 2
        group.append(task)
        size += len(task) + 2
    yield group


def _config(classes: tuple[ExportClass, ...]) -> str:
    """The labelling set-up."""
    labels = "".join(f'    <Label value={quoteattr(c.name)} background="#{bytes(c.colour).hex()}"/>\n' for c in classes)
    head = '<View>\n  <Image name="image" value="$image"/>\n  <BrushLabels name="label" toName="image">\n'
    return f"{head}{labels}  </BrushLabels>\n</View>\n"


def _task(classes: tuple[ExportClass, ...], image: LabelledImage, prefix: str) -> dict[str, Any]:
    """One image with its regions."""
    regions = [
        _region(number, entry.name, mask) for number, (entry, mask) in enumerate(components(classes, image.labels))
    ]
    source = prefix + (image.key if prefix.startswith(_BUCKETS) else quote(image.key))
    return {"data": {"image": source}, "predictions": [{"model_version": "ovlabel", "result": regions}]}


def _region(number: int, name: str, mask: Mask) -> dict[str, Any]:
    """One brush region."""
    height, width = mask.shape
    return {
        "id": f"{number}",
        "type": "brushlabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": brush(mask), "brushlabels": [name]},
    }


def brush(mask: Mask) -> list[int]:
    """A mask as Label Studio's brush runs: the four channels of every pixel, 255 or 0, in the run lengths of thi.ng.

    First 32 bits: how many values there are; 5 bits: bits a value, less 1; four times 4 bits: the sizes that a run's
    length may have, less 1. Then every run: a 1, two bits that pick the size, the length less 1 in so many bits, and
    the value in 8.

    Args:
        mask: bool, H × W.

    Returns:
        Bytes, 0 … 255.
    """
    flat = mask.ravel()
    bounds = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    bits = [f"{4 * flat.size:032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in _SIZES)]
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        bits.append(_run(4 * (end - start), "1" * 8 if flat[start] else "0" * 8))
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def _run(length: int, value: str) -> str:
    """A run as bits; one that is longer than 16 bits can say is written as several."""
    bits = ""
    while length:
        part = min(length, 1 << _SIZES[-1])
        kind = next(i for i, size in enumerate(_SIZES) if part <= 1 << size)
        bits += f"1{kind:02b}{part - 1:0{_SIZES[kind]}b}{value}"
        length -= part
    return bits
