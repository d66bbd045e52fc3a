"""COCO's panoptic ground truth (Kirillov et al., CVPR 2019): a JSON, and RGB PNGs of segments' ids.

The PNGs lie in the folder of the JSON's name, or beside it. A pixel's id is R + 256 G + 256² B; 0 is no segment.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovlabel.errors import TruthError, short
from ovlabel.evaluation.truth._coco_json import MALFORMED, category_name, check_count, read_table
from ovlabel.evaluation.truth._pictures import open_picture
from ovlabel.evaluation.truth.masks import classes_of
from ovlabel.evaluation.truth.nouns import IGNORED, Convention, Truth, TruthClass
from ovlabel.text.vocabulary import load_vocabulary

_WHAT = "panoptic JSON (annotations with segments_info and file_name)"
Segments = Mapping[str, Mapping[int, int]]  # by image: the class index of every segment's id


def open_at(place: Path, convention: Convention, own: tuple[TruthClass, ...]) -> Truth:
    """Open a panoptic JSON and the PNGs that it names; arguments and errors as in `open_truth`."""
    path, table = read_table(place, {"segments_info", "file_name"}, _WHAT)
    folders = [path.with_suffix(""), path.parent]
    try:
        categories = {
            int(entry["id"]): {**entry, "name": category_name(entry["name"])} for entry in table["categories"]
        }
        files, segments = _masks(table, list(categories), folders)
    except MALFORMED as error:
        raise TruthError(f"{path} is no whole panoptic JSON: {type(error).__name__} {short(error)}") from None
    check_count(path, len(categories))
    if not files:
        raise TruthError(f"none of the PNGs that {path} names lies in {folders[0]} or {folders[1]}")
    classes = _classes(list(categories.values()))
    indices = np.append(np.arange(len(classes)), IGNORED).astype(np.uint16)
    return Truth(convention.name, classes, files, _reader(path.name, segments, len(classes)), indices)


def _masks(
    table: dict[str, Any], identities: list[int], folders: list[Path]
) -> tuple[dict[str, Path], dict[str, dict[int, int]]]:
    """The PNG and the segments of every image whose PNG is there. Raises one of MALFORMED."""
    index_of = {identity: index for index, identity in enumerate(identities)}
    files, segments = dict[str, Path](), dict[str, dict[int, int]]()
    for entry in table["annotations"]:
        name = Path(entry["file_name"]).with_suffix("").as_posix()
        found = [path for folder in folders if os.path.isfile(path := folder / entry["file_name"])]
        if found:
            files[name] = found[0]
            segments[name] = {int(s["id"]): index_of[int(s["category_id"])] for s in entry["segments_info"]}
    return files, segments


def _classes(categories: list[dict[str, Any]]) -> tuple[TruthClass, ...]:
    """The JSON's categories as classes; the names that they cover come from the vocabulary `coco-panoptic`."""
    covers = {c.name: c.covers for c in classes_of(load_vocabulary("coco-panoptic"))}
    return tuple(
        TruthClass(
            c["name"],
            covers.get(c["name"], (c["name"],)),
            "thing" if c.get("isthing") else "stuff",
            short(c.get("supercategory", "")),
        )
        for c in categories
    )


def _reader(table: str, segments: Segments, unlabelled: int) -> Callable[[str, Path], NDArray[Any]]:
    """A function that reads an image's PNG as class indices, `unlabelled` where there is no segment."""

    def values(name: str, mask: Path) -> NDArray[np.uint16]:
        with open_picture(mask) as picture:
            channels = np.asarray(picture.convert("RGB")).astype(np.uint32)
        identities, where = np.unique(channels @ np.array([1, 256, 65536], np.uint32), return_inverse=True)
        known = {0: unlabelled, **segments[name]}
        strange = [int(i) for i in identities if int(i) not in known]
        if strange:
            raise ValueError(f"segment {strange[0]} is not in {table}")
        return np.array([known[int(i)] for i in identities], np.uint16)[where].reshape(channels.shape[:2])

    return values
