"""Folders of masks: one file an image, one channel whose values are class indices or ids."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovlabel.errors import TruthError, printable
from ovlabel.evaluation.truth._palettes import Palettes
from ovlabel.evaluation.truth._pictures import open_picture
from ovlabel.evaluation.truth.mat import as_ids, read_mat
from ovlabel.evaluation.truth.nouns import IGNORED, OUTSIDE, Convention, Truth, TruthClass
from ovlabel.files import passed_over
from ovlabel.text.vocabulary import Vocabulary, load_vocabulary

log = logging.getLogger("ovlabel")

_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".mat")


def open_at(place: Path, convention: Convention, own: tuple[TruthClass, ...]) -> Truth:
    """Open a folder of one-channel masks, or a single mask; arguments and errors as in `open_truth`."""
    palettes = Palettes(convention.vocabulary.startswith("voc"))
    return open_masks(place, convention, own, lambda _, path: read_ids(path, palettes))


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
    found = sorted(path for path in _files(place) if path.stem.endswith(ending)) if place.is_dir() else [place]
    masks: dict[str, Path] = {}
    others: Counter[str] = Counter()
    for path in found:
        if path.suffix.lower() not in _SUFFIXES and path != place:
            others[path.suffix.lower() or "without suffix"] += 1
            continue
        name = path.relative_to(root).with_suffix("").as_posix().removesuffix(ending)
        if name in masks:
            raise TruthError(f"two masks for one image: {masks[name]} and {path}")
        masks[name] = path
    held = ", ".join(f"{printable(suffix)} {count}" for suffix, count in others.most_common(5))
    if not masks:
        wanted = ", ".join(f"*{ending}{suffix}" for suffix in _SUFFIXES)
        raise TruthError(f"no masks ({wanted}) in {place}" + (f"; it holds {held}" if held else ""))
    if held:
        log.warning("%d files of %s are no masks by their suffix: %s", others.total(), printable(str(place)), held)
    return masks


def _files(folder: Path) -> Iterator[Path]:
    """The files in a folder and its subfolders but hidden ones and those of a system.

    Raises:
        TruthError: a folder can't be read.
    """

    def refuse(error: OSError) -> None:
        raise TruthError(f"cannot read the folder {error.filename}: {error.strerror}")

    for where, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not passed_over(name)]
        yield from (Path(where, name) for name in names if not passed_over(name))


def read_ids(path: Path, palettes: Palettes) -> NDArray[Any]:
    """The values of a mask, H × W integers, as they are written: a palette is not applied.

    Args:
        path: the file.
        palettes: those of its folder.

    Raises:
        ValueError: the file is no picture of one channel of integers, or no MATLAB file with a LabelMap, or its palette
            has been counted anew.
    """
    if path.suffix.lower() == ".mat":
        return read_mat(path)
    with open_picture(path) as picture:
        if picture.mode not in ("L", "P", "1", "I", "F") and not picture.mode.startswith("I;16"):
            raise ValueError(f"it is {picture.mode}, where one channel of ids is wanted")
        values = np.asarray(picture)
        if picture.mode == "P":
            palettes.check(picture, values, path)
    return as_ids(values)
