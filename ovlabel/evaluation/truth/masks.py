"""Folders of masks: one file an image, one channel whose values are class indices or ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovlabel.errors import TruthError
from ovlabel.evaluation.truth._pictures import open_picture
from ovlabel.evaluation.truth.mat import read_mat
from ovlabel.evaluation.truth.nouns import IGNORED, OUTSIDE, Convention, Truth, TruthClass
from ovlabel.text.vocabulary import Vocabulary, load_vocabulary

_SUFFIXES = (".mat", ".png", ".PNG", ".tif", ".tiff", ".bmp", ".gif")


def open_at(place: Path, convention: Convention, own: tuple[TruthClass, ...]) -> Truth:
    """Open a folder of one-channel masks, or a single mask; arguments and errors as in `open_truth`."""
    return open_masks(place, convention, own, read_ids)


def open_masks(
    place: Path, convention: Convention, own: tuple[TruthClass, ...], values: Callable[[str, Path], NDArray[Any]]
) -> Truth:
    """Open a folder of masks.

    Args:
        place: the folder, or a single mask.
        convention: its entry of the table.
        own: the classes where the convention has no vocabulary.
        values: how one mask is read; see `Truth.values`.

    Raises:
        TruthError: there is no mask, or an image has two.
    """
    classes, ids = own, list(range(len(own)))
    if convention.vocabulary:
        vocabulary = load_vocabulary(convention.vocabulary)
        classes, ids = classes_of(vocabulary), _ids(vocabulary, convention)
    table = np.full(65536, IGNORED if convention.rest else OUTSIDE, np.uint16)
    table[[*convention.ignored, IGNORED]] = IGNORED
    table[ids] = np.arange(len(ids))
    return Truth(convention.name, classes, _find(place, convention.ending), values, table)


def classes_of(vocabulary: Vocabulary) -> tuple[TruthClass, ...]:
    """The classes of a vocabulary as true classes; what is asked of the model for a class are the names it covers."""
    return tuple(TruthClass(c.name, c.asked, c.kind, c.group) for c in vocabulary.classes)


def _ids(vocabulary: Vocabulary, convention: Convention) -> list[int]:
    """The value that stands for each class of the vocabulary."""
    numbers = [entry.id or 0 for entry in vocabulary.classes]
    if convention.ids == "index":
        numbers = list(range(len(numbers)))
    return [number + convention.shift for number in numbers]


def _find(place: Path, ending: str) -> dict[str, Path]:
    """Every mask by the path, without suffix and ending, of the image it belongs to."""
    root = place if place.is_dir() else place.parent
    found = sorted(p for p in place.rglob("*") if p.suffix in _SUFFIXES) if place.is_dir() else [place]
    masks: dict[str, Path] = {}
    for path in found:
        if not path.stem.endswith(ending):
            continue
        name = path.relative_to(root).with_suffix("").as_posix().removesuffix(ending)
        if name in masks:
            raise TruthError(f"two masks for one image: {masks[name]} and {path}")
        masks[name] = path
    if not masks:
        raise TruthError(f"no masks (*{ending}.png) in {place}")
    return masks


def read_ids(_: str, path: Path) -> NDArray[Any]:
    """The values of a mask, H × W integers, as they are written: a palette is not applied.

    Raises:
        ValueError: the file is no picture of one channel, or no MATLAB file with a LabelMap.
    """
    if path.suffix == ".mat":
        return read_mat(path)
    with open_picture(path) as picture:
        if picture.mode not in ("L", "P", "I", "I;16", "1"):
            raise ValueError(f"it is {picture.mode}, where one channel of ids is wanted")
        values = np.asarray(picture)
    return values.astype(np.uint8) if values.dtype == bool else values
