"""COCO's panoptic ground truth (Kirillov et al., CVPR 2019): a JSON, and RGB PNGs of segments' ids.

The PNGs lie in the folder of the JSON's name, or beside it. A pixel's id is R + 256 G + 256² B; 0 is no segment.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovlabel.errors import TruthError, short, shown
from ovlabel.evaluation.truth._coco_json import (
    MALFORMED,
    Categories,
    id_of,
    images_by_name,
    list_of,
    name_of_image,
    not_whole,
    read_categories,
    read_images,
    read_table,
    value_of,
)
from ovlabel.evaluation.truth._pictures import open_picture
from ovlabel.evaluation.truth.masks import classes_of
from ovlabel.evaluation.truth.nouns import IGNORED, Convention, Truth, TruthClass
from ovlabel.text.vocabulary import load_vocabulary

log = logging.getLogger("ovlabel")

_WHAT = "panoptic JSON (annotations with segments_info and file_name)"
Segments = Mapping[str, Mapping[int, int]]  # by image: the class index of every segment's id


def open_at(place: Path, convention: Convention, own: tuple[TruthClass, ...]) -> Truth:
    """Open a panoptic JSON and the PNGs that it names; arguments and errors as in `open_truth`."""
    path, table = read_table(place, ("segments_info", "file_name"), _WHAT)
    try:
        categories = read_categories(path, table)
        files, segments = _masks(path, table, categories)
    except MALFORMED as error:
        raise not_whole(path, "panoptic", error) from None
    classes = _classes(categories)
    indices = np.append(np.arange(len(classes)), IGNORED).astype(np.uint16)
    return Truth(convention.name, classes, files, _reader(path.name, segments, len(classes)), indices)


def _masks(
    path: Path, table: dict[str, Any], categories: Categories
) -> tuple[dict[str, Path], dict[str, dict[int, int]]]:
    """The PNG and the segments of every image whose PNG is there; which are not is logged.

    Raises:
        TruthError: no PNG is there.
        ValueError: an annotation is not as it must be, or two are of one image; other errors of MALFORMED too.
    """
    images = read_images(table) if "images" in table else {}
    name_of = {id(image): name for name, image in images_by_name(images).items()}
    folders = [path.with_suffix(""), path.parent]
    files, segments, absent = dict[str, Path](), dict[str, dict[int, int]](), list[str]()
    for entry in table["annotations"]:
        written = str(value_of(entry, "file_name", "annotation")).replace("\\", "/")
        image = images.get(id_of(entry, "image_id", "annotation")) if "image_id" in entry else None
        own = name_of_image(entry, "annotation")
        name = own if image is None else name_of[id(image)]
        if name in segments:
            raise ValueError(f"two annotations are of the image {shown(name)}")
        segments[name] = _classes_of_segments(entry, categories)
        found = [png for folder in folders if os.path.isfile(png := folder / written)]
        if found:
            files[name] = found[0]
        else:
            absent.append(written)
    if not files:
        raise TruthError(f"none of the PNGs that {path} names lies in {folders[0]} or {folders[1]}: {shown(absent[0])}")
    if absent:
        count = f"{len(absent)} of {len(segments)} PNGs"
        log.warning("%s that %s names are not there and do not count: %s", count, path.name, shown(absent[0]))
    return files, segments


def _classes_of_segments(entry: dict[str, Any], categories: Categories) -> dict[int, int]:
    """The class index of every segment's id of an annotation. Raises ValueError; other errors of MALFORMED too."""
    found: dict[int, int] = {}
    place = f"annotation of {shown(entry['file_name'])}"
    for segment in list_of(entry, "segments_info", place):
        index = categories.index(segment, f"{place}: segment")
        key = id_of(segment, "id", f"{place}: segment")
        if not isinstance(key, int):
            raise ValueError(f"{place}: the id of a segment is {shown(key)}, where a whole number is wanted")
        if found.setdefault(key, index) != index:
            raise ValueError(f"segment {key} of {shown(entry['file_name'])} is of two categories")
    return found


def _classes(categories: Categories) -> tuple[TruthClass, ...]:
    """The JSON's categories as classes; the names that they cover come from the vocabulary `coco-panoptic`."""
    covers = {c.name: c.covers for c in classes_of(load_vocabulary("coco-panoptic"))}
    return tuple(
        TruthClass(
            name,
            covers.get(name, (name,)),
            "thing" if entry.get("isthing") else "stuff",
            short(entry.get("supercategory") or ""),
        )
        for name, entry in zip(categories.names, categories.entries, strict=True)
    )


def _reader(table: str, segments: Segments, unlabelled: int) -> Callable[[str, Path], NDArray[Any]]:
    """A function that reads an image's PNG as class indices, `unlabelled` where there is no segment."""

    def values(name: str, mask: Path) -> NDArray[np.uint16]:
        with open_picture(mask) as picture:
            if picture.mode not in ("RGB", "RGBA", "P"):
                raise ValueError(f"it is {picture.mode}, where the colours of segments are wanted")
            channels = np.asarray(picture.convert("RGB")).astype(np.uint32)
        identities, where = np.unique(channels @ np.array([1, 256, 65536], np.uint32), return_inverse=True)
        known = {0: unlabelled, **segments[name]}
        strange = [int(i) for i in identities if int(i) not in known]
        if strange:
            raise ValueError(f"segment {strange[0]} is not in {table}")
        if absent := segments[name].keys() - set(identities.tolist()):
            raise ValueError(f"it has no pixel of segment {min(absent)}, which {table} lists for it")
        return np.array([known[int(i)] for i in identities], np.uint16)[where].reshape(channels.shape[:2])

    return values
