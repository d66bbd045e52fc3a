"""YOLO's segmentation labels: `labels/NAME.txt`, one line a polygon: class index, then x y … as fractions of the image.

`data.yaml` names the classes. A polygon has no place for a hole: a component with one becomes several lines. Points lie
a quarter of a pixel inside theirs, so that readers that cut off and readers that round find the same pixel.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from ovlabel.formats._components import components
from ovlabel.formats._export import Export, Mask
from ovlabel.formats._outlines import centres, outlines


def write(export: Export) -> None:
    """A text file an image; the photographs belong into `images/`, in the same tree."""
    index_of = {entry.name: index for index, entry in enumerate(export.classes)}
    names = "".join(f"  {index}: {json.dumps(name, ensure_ascii=False)}\n" for name, index in index_of.items())
    header = "path: .\ntrain: images\nval: images\nnames:\n"
    export.file("data.yaml").write_text(header + names, encoding="utf-8")
    for image in export.images():
        regions = components(export.classes, image.labels)
        lines = [f"{index_of[entry.name]} {points}\n" for entry, mask in regions for points in _polygons(mask)]
        export.file(f"labels/{image.name}.txt").write_text("".join(lines), encoding="utf-8")


def _polygons(mask: Mask) -> Iterator[str]:
    """The polygons of a mask as text, x y x y … in fractions of width and height."""
    height, width = mask.shape
    for corners in outlines(mask):
        points = (centres(corners) + 0.25) / (width, height)
        while len(points) < 3:  # readers want three points, even for a single pixel
            points = points[[0, *range(len(points))]]
        yield " ".join(f"{value:.7g}" for value in points.ravel())
