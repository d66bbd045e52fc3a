"""A tiny store without a model: two images of four pixels, annotated, and their ground truth. Examples use it."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ovlabel.store.manifest import Manifest
from ovlabel.store.record import Record
from ovlabel.store.write import writing
from ovlabel.text.vocabulary import Vocabulary, VocabularyClass
from ovlabel.types import Annotation

_CLASSES = {"cat": "thing", "dog": "thing", "grass": "stuff"}
_COLOURS = [[220, 20, 60], [0, 0, 142], [107, 142, 35]]
_LABELS = {"a.png": [[0, 0], [1, 1]], "b.png": [[2, 2], [1, 0]]}
_TRUTH = {"a.png": [[0, 0], [1, 1]], "b.png": [[2, 2], [1, 1]]}
_CONFIDENCE = [[255, 204], [153, 102]]  # in 255ths: 1.0, 0.8, 0.6, 0.4


def write_example(folder: str | Path) -> Path:
    """Write `images/`, `truth/` (masks of the convention "raw") and the store `images.ovlabel.zarr` into a folder.

    The classes are cat, dog and grass; of the eight pixels one is labelled wrong.

    Args:
        folder: where; it is made if need be.

    Returns:
        The folder.
    """
    folder = Path(folder)
    for name in ("images", "truth"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for key, values in _TRUTH.items():
        Image.fromarray(np.array(values, np.uint8)).save(folder / "truth" / key)
        Image.fromarray(np.array(_COLOURS, np.uint8)[values]).save(folder / "images" / key)
    path = folder / "images.ovlabel.zarr"
    run = {"store": {"probabilities": "none"}}
    with writing(path, create=partial(Manifest.new, path, folder / "images", _vocabulary(), run, {})) as store:
        store.commit([_entry(folder / "images" / key) for key in _LABELS])
    return folder


def _vocabulary() -> Vocabulary:
    pairs = zip(_CLASSES.items(), _COLOURS, strict=True)
    classes = (VocabularyClass(name, kind, colour=(red, green, blue)) for (name, kind), (red, green, blue) in pairs)
    return Vocabulary("example", "An example", "", tuple(classes))


def _entry(path: Path) -> tuple[Record, Annotation]:
    """What a store holds of one image."""
    labels, confidence = np.array(_LABELS[path.name], np.uint8), np.array(_CONFIDENCE, np.uint8)
    stat, digest = path.stat(), hashlib.sha256(path.read_bytes()).hexdigest()
    record = Record(path.name, stat.st_size, stat.st_mtime_ns, digest)
    return record, Annotation(labels, confidence, None, None, labels.shape)
