"""COCO's instances JSON (Lin et al., ECCV 2014), drawn as one map of classes an image.

Larger instances are drawn first, so that a cup on a table stays a cup. A crowd is drawn as its class.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovlabel.errors import short, shown
from ovlabel.evaluation.truth._coco_json import (
    MALFORMED,
    Categories,
    Identity,
    id_of,
    identity,
    images_by_name,
    named,
    not_whole,
    read_categories,
    read_images,
    read_table,
    value_of,
)
from ovlabel.evaluation.truth._coco_shapes import draw, in_fractions, is_empty
from ovlabel.evaluation.truth._pictures import check_size
from ovlabel.evaluation.truth.masks import classes_of
from ovlabel.evaluation.truth.nouns import IGNORED, REASON, Convention, Truth, TruthClass
from ovlabel.text.vocabulary import load_vocabulary

log = logging.getLogger("ovlabel")

_WHAT = "instances JSON (annotations with segmentation)"
_SLIVER = 4  # pixels: an object as small may hold the centre of none


@dataclass(frozen=True)
class _Instances:
    """What is taken from the JSON.

    Attributes:
        categories: the categories.
        images: the JSON's entry of every image, by the image's path without suffix.
        annotations: those of every image, by the image's id.
    """

    categories: Categories
    images: dict[str, dict[str, Any]]
    annotations: dict[Identity, list[dict[str, Any]]]

    def values(self, name: str, _: Path) -> NDArray[np.uint16]:
        """Draw an image's instances: H × W, 1 + the index of the category, 0 where there is none."""
        image = self.images[name]
        size = _size(image)
        indices = np.zeros(size, np.uint16)
        entries = self.annotations[identity(image["id"])]
        areas = [_area(entry) or int(_drawn(entry, size).sum()) for entry in entries]
        for place in sorted(range(len(entries)), key=lambda place: -areas[place]):
            index = self.categories.index(entries[place], "annotation")
            indices[_drawn(entries[place], size)] = 1 + index
        return indices


def _size(image: dict[str, Any]) -> tuple[int, int]:
    """Height and width of an image, pixels. Raises ValueError where the JSON does not say."""
    height, width = (_side(image, name) for name in ("height", "width"))
    check_size(height, width)
    if not height * width:
        raise ValueError(f"the image {shown(image['id'])} is {height} × {width} pixels")
    return height, width


def _side(image: dict[str, Any], name: str) -> int:
    """Height or width of an image, pixels. Raises ValueError where the JSON does not say."""
    value = value_of(image, name, "the image")
    try:
        side = int(value)
    except (TypeError, ValueError, OverflowError):
        side = -1
    if side < 0:
        raise ValueError(f"{named(image, 'the image')}: {name} is {shown(value)}, which is no number of pixels")
    return side


def _area(entry: dict[str, Any]) -> float:
    """The area that an annotation claims, pixels; 0 where it claims none. Raises ValueError for what is no number."""
    try:
        area = float(entry.get("area") or 0)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{named(entry, 'annotation')}: area is {shown(entry['area'])}, which is no number") from None
    return area if math.isfinite(area) and area > 0 else 0.0


def _may_be_empty(entry: dict[str, Any]) -> bool:
    """Whether an annotation says that its object is as small as nothing."""
    return entry.get("area") is not None and _area(entry) <= _SLIVER


def _drawn(entry: dict[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """An annotation's mask. Raises ValueError, which names the annotation."""
    try:
        drawn = draw(entry["segmentation"], size)
        if isinstance(entry["segmentation"], dict) and not drawn.any() and not _may_be_empty(entry):
            size_of = (
                "" if "size" in entry["segmentation"] else f"; it has no size, so the image's {list(size)} is taken"
            )
            raise ValueError(f"segmentation: its runs hold no pixel{size_of}")
        return drawn
    except Exception as error:  # pycocotools raises errors of many kinds on a shape of another form
        reason = short(error, REASON) if type(error) is ValueError else f"{type(error).__name__} {short(error)}"
        raise ValueError(f"annotation {shown(entry.get('id', '?'))}: {reason}") from None


def open_at(place: Path, convention: Convention, own: tuple[TruthClass, ...]) -> Truth:
    """Open an instances JSON; arguments and errors as in `open_truth`."""
    path, table = read_table(place, ("image_id", "segmentation"), _WHAT)
    only = 0 in convention.ignored
    try:
        categories = read_categories(path, table)
        images = read_images(table)
        annotations = _with_shapes(_annotations(table, categories, images), only)
        instances = _Instances(categories, _by_name(images), annotations)
    except MALFORMED as error:
        raise not_whole(path, "instances", error) from None
    background, classes = _classes(categories.names)
    values = np.append(IGNORED, np.arange(65535)).astype(np.uint16)
    if not only:
        values, classes = _on_background(background, classes)
    return Truth(convention.name, classes, dict.fromkeys(instances.images, path), instances.values, values)


def _annotations(
    table: dict[str, Any], categories: Categories, images: dict[Identity, dict[str, Any]]
) -> dict[Identity, list[dict[str, Any]]]:
    """The annotations of every image that the JSON lists; how many others it has is logged.

    Raises:
        ValueError: an annotation is not as it must be, or none is of such an image.
    """
    found: dict[Identity, list[dict[str, Any]]] = {key: [] for key in images}
    strays: list[dict[str, Any]] = []
    for entry in table["annotations"]:
        own = found.get(id_of(entry, "image_id", "annotation"))
        (strays if own is None else own).append(entry)
        categories.index(entry, "annotation")
        _area(entry)
    if strays:
        first = f"annotation {shown(strays[0].get('id', '?'))} is of the image {shown(strays[0]['image_id'])}"
        if len(strays) == len(table["annotations"]):
            raise ValueError(f"none of its annotations is of an image that it lists: {first}")
        count = f"{len(strays)} of {len(table['annotations'])} annotations"
        log.warning("%s are of images that the JSON does not list, and are passed over: %s", count, first)
    return found


def _with_shapes(annotations: dict[Identity, list[dict[str, Any]]], only: bool) -> dict[Identity, list[dict[str, Any]]]:
    """The annotations that have a mask. Where pixels of no instance do not count, it is logged how many have none.

    Raises:
        ValueError: one has no mask, and its object would count as background; or all coordinates are fractions.
    """
    every = [entry for entries in annotations.values() for entry in entries]
    empty = [entry for entry in every if is_empty(entry.get("segmentation"))]
    if empty:
        first = (
            f"annotation {shown(empty[0].get('id', '?'))}: it has no mask, as {len(empty)} of {len(every)} have none"
        )
        if not only:
            raise ValueError(f"{first}; the objects would be background, so take these annotations or their images out")
        log.warning("%s; the objects do not count", first)
    _check_pixels(every)
    without = {id(entry) for entry in empty}
    return {key: [entry for entry in own if id(entry) not in without] for key, own in annotations.items()}


def _check_pixels(entries: list[dict[str, Any]]) -> None:
    """Log how many polygons lie within one pixel, where the areas say so too.

    Raises:
        ValueError: polygons lie within 0 … 1 and the area does not say that they are as small, or all polygons do.
    """
    small = [entry for entry in entries if in_fractions(entry.get("segmentation"))]
    if small and len(small) == len(entries):
        raise ValueError("all its polygons lie within 0 … 1; COCO's are in pixels")
    for entry in small:
        if not 0 < _area(entry) <= 1:
            first = f"{named(entry, 'annotation')}: segmentation: its polygons lie within 0 … 1"
            raise ValueError(f"{first}, as {len(small)} of {len(entries)} do; COCO's are in pixels")
    if small:
        first = f"{named(small[0], 'annotation')} lies within 0 … 1"
        log.warning("%s, as %d of %d do; COCO's polygons are in pixels", first, len(small), len(entries))


def _by_name(images: dict[Identity, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The images by their paths without suffix. Raises ValueError where two have one path, or one is not whole."""
    for image in images.values():
        _size(image)
    return images_by_name(images)


def _classes(names: list[str]) -> tuple[TruthClass, tuple[TruthClass, ...]]:
    """The background, and the classes; names that they cover and groups come from the vocabulary `coco-object`."""
    known = {entry.name: entry for entry in classes_of(load_vocabulary("coco-object"))}
    background = TruthClass("background", known["background"].covers, "stuff")
    plain = {name: known.get(name, TruthClass(name, (name,))) for name in names}
    return background, tuple(TruthClass(name, plain[name].covers, "thing", plain[name].group) for name in names)


def _on_background(
    background: TruthClass, classes: tuple[TruthClass, ...]
) -> tuple[NDArray[np.uint16], tuple[TruthClass, ...]]:
    """`Truth.table` and the classes, the background first. A category of its name is one class with it."""
    others = tuple(entry for entry in classes if entry.name.casefold() != background.name)
    if len(others) < len(classes):
        log.warning("the category '%s' and pixels of no instance are one class", background.name)
    table = np.arange(65536, dtype=np.uint16)
    place_of = {entry: index for index, entry in enumerate(others, start=1)}
    table[1 : len(classes) + 1] = [place_of.get(entry, 0) for entry in classes]
    return table, (background, *others)
