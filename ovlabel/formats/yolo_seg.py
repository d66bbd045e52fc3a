"""YOLO's segmentation labels: a text file an image, one line a polygon: class index, then x y … as fractions.

`data.yaml` names the classes. A polygon has no place for a hole: a component with one becomes several lines. Points lie
a quarter of a pixel inside theirs, so that readers that cut off and readers that round find the same pixel.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from ovlabel.formats._components import components
from ovlabel.formats._export import Export, Mask, Rules
from ovlabel.formats._outlines import centres, outlines

_SPLITS = {"train": r"train(ing)?", "val": r"val(id(ation)?)?", "test": r"test(ing)?"}  # and a year, as in val2017


def _file(name: str) -> str:
    """An image's labels; readers look for them where the last `/images/` of the photograph's path is `/labels/`."""
    return "/labels/".join(f"/images/{name}".rsplit("/images/", 1)).removeprefix("/") + ".txt"


RULES = Rules(_file, ("data.yaml",))


def write(export: Export) -> None:
    """A text file an image; the photographs belong into `images/`, in the same tree."""
    index_of = {entry.name: index for index, entry in enumerate(export.classes)}
    export.file("data.yaml").write_text(_table(export), encoding="utf-8")
    for image in export.images():
        regions = components(export.classes, image.labels)
        lines = [f"{index_of[entry.name]} {points}\n" for entry, mask in regions for points in _polygons(mask)]
        export.file(_file(image.name)).write_text("".join(lines), encoding="utf-8")


def _table(export: Export) -> str:
    """`data.yaml`. It names no `path`: without one, readers take the folder in which the file lies."""
    splits = _splits(export.keys)
    places = {split: folders[0] if len(folders) == 1 else folders for split, folders in splits.items()}
    lines = [f"{split}: {json.dumps(place, ensure_ascii=False)}\n" for split, place in places.items()]
    names = [f"  {i}: {json.dumps(c.name, ensure_ascii=False)}\n" for i, c in enumerate(export.classes)]
    return "".join([*lines, "names:\n", *names])


def _splits(keys: Sequence[str]) -> dict[str, list[str]]:
    """The folders of photographs for training and validation: all for both, unless every image lies in one of them."""
    splits: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
    for key in keys:
        if (place := _split_of(PurePosixPath(key))) is None:
            return {"train": ["images"], "val": ["images"]}
        splits[place[0]].add(f"images/{place[1]}")
    if not (splits["train"] and splits["val"]):
        return {"train": ["images"], "val": ["images"]}
    return {split: sorted(folders) for split, folders in splits.items() if folders}


def _split_of(path: PurePosixPath) -> tuple[str, str] | None:
    """The split that an image belongs to by the name of a folder, and that folder; None without such a folder."""
    for depth, part in enumerate(path.parts[:-1], start=1):
        for split, pattern in _SPLITS.items():
            if re.fullmatch(rf"{pattern}[-_]?(\d{{4}})?", part, re.IGNORECASE):
                folder = "/".join(path.parts[:depth])
                return (split, folder) if folder.isprintable() else None
    return None


def _polygons(mask: Mask) -> Iterator[str]:
    """The polygons of a mask as text, x y x y … in fractions of width and height."""
    height, width = mask.shape
    for corners in outlines(mask):
        points = (centres(corners) + 0.25) / (width, height)
        while len(points) < 3:  # readers want three points, even for a single pixel
            points = points[[0, *range(len(points))]]
        yield " ".join(f"{value:.7g}" for value in points.ravel())
