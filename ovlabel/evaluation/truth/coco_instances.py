"""COCO's instances JSON (Lin et al., ECCV 2014), drawn as one map of classes an image.

Larger instances are drawn first, so that a cup on a table stays a cup. A crowd is drawn as its class.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovlabel.errors import TruthError, short
from ovlabel.evaluation.truth._coco_json import MALFORMED, category_name, check_count, read_table
from ovlabel.evaluation.truth._coco_shapes import draw
from ovlabel.evaluation.truth._pictures import check_size
from ovlabel.evaluation.truth.masks import classes_of
from ovlabel.evaluation.truth.nouns import IGNORED, Convention, Truth, TruthClass
from ovlabel.text.vocabulary import load_vocabulary

_WHAT = "instances JSON (annotations with segmentation)"


@dataclass(frozen=True)
class _Instances:
    """What is taken from the JSON.

    Attributes:
        names: the categories, in the order of the file.
        index_of: 1 + the place of a category in `names`, by the category's id; 0 is left for no instance.
        images: the JSON's entry of every image, by the image's path without suffix.
        annotations: those of every image, by the image's id, the largest first.
    """

    names: list[str]
    index_of: dict[int, int]
    images: dict[str, dict[str, Any]]
    annotations: dict[int, list[dict[str, Any]]]

    def values(self, name: str, _: Path) -> NDArray[np.uint16]:
        """Draw an image's instances: H × W, 0 where there is none."""
        image = self.images[name]
        height, width = int(image["height"]), int(image["width"])
        check_size(height, width)
        indices = np.zeros((height, width), np.uint16)
        for entry in self.annotations[int(image["id"])]:
            indices[_drawn(entry, (height, width))] = self.index_of[int(entry["category_id"])]
        return indices


def _drawn(entry: dict[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """An annotation's mask. Raises ValueError, which names the annotation."""
    try:
        return draw(entry["segmentation"], size)
    except Exception as error:  # pycocotools raises errors of many kinds on a shape of another form
        reason = f"{type(error).__name__} {short(error)}"
        raise ValueError(f"annotation {short(entry.get('id', '?'))}: {reason}") from None


def open_at(place: Path, convention: Convention, own: tuple[TruthClass, ...]) -> Truth:
    """Open an instances JSON; arguments and errors as in `open_truth`."""
    path, table = read_table(place, {"image_id", "segmentation"}, _WHAT)
    try:
        instances = _instances(table)
    except MALFORMED as error:
        raise TruthError(f"{path} is no whole instances JSON: {type(error).__name__} {short(error)}") from None
    check_count(path, len(instances.names))
    if len(instances.images) < len(instances.annotations):
        raise TruthError(f"{path} names an image twice")
    files = dict.fromkeys(instances.images, path)
    background, classes = _classes(instances.names)
    if 0 in convention.ignored:
        without = np.append(IGNORED, np.arange(65535)).astype(np.uint16)
        return Truth(convention.name, classes, files, instances.values, without)
    every = np.arange(65536, dtype=np.uint16)
    return Truth(convention.name, (background, *classes), files, instances.values, every)


def _instances(table: dict[str, Any]) -> _Instances:
    """The parts of the JSON that are used. Raises one of MALFORMED where they are not as they must be."""
    categories = [(int(entry["id"]), category_name(entry["name"])) for entry in table["categories"]]
    index_of = {identity: index for index, (identity, _) in enumerate(categories, start=1)}
    images = {int(image["id"]): image for image in table["images"]}
    annotations: dict[int, list[dict[str, Any]]] = {key: [] for key in images}
    for entry in sorted(table["annotations"], key=lambda entry: -float(entry.get("area", 0))):
        index_of[int(entry["category_id"])]  # a category that is not there is an error now, not when it is drawn
        annotations[int(entry["image_id"])].append(entry)
    by_name = {Path(image["file_name"]).with_suffix("").as_posix(): image for image in images.values()}
    return _Instances([name for _, name in categories], index_of, by_name, annotations)


def _classes(names: list[str]) -> tuple[TruthClass, tuple[TruthClass, ...]]:
    """The background, and the classes; names that they cover and groups come from the vocabulary `coco-object`."""
    known = {entry.name: entry for entry in classes_of(load_vocabulary("coco-object"))}
    background = TruthClass("background", known["background"].covers, "stuff")
    plain = {name: known.get(name, TruthClass(name, (name,))) for name in names}
    return background, tuple(TruthClass(name, plain[name].covers, "thing", plain[name].group) for name in names)
