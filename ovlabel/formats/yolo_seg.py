"""YOLO's segmentation labels: `labels/NAME.txt`, one line a polygon (class index, then x y … as shares of the image).

`data.yaml` names the classes. A polygon has no place for a hole: a component with one becomes several lines. Points are
a quarter of a pixel within theirs, so that readers that cut off and readers that round find the same pixel.
"""

from __future__ import annotations

import json

from ovlabel.formats import Job
from ovlabel.formats._outlines import centres, outlines
from ovlabel.formats.coco_panoptic import components


def write(job: Job) -> None:
    """A text file an image; the photographs belong into `images/`, in the same tree."""
    index_of = {entry.name: index for index, entry in enumerate(job.classes)}
    names = "".join(f"  {index}: {json.dumps(name, ensure_ascii=False)}\n" for name, index in index_of.items())
    job.file("data.yaml").write_text(f"path: .\ntrain: images\nval: images\nnames:\n{names}", encoding="utf-8")
    for sheet in job.sheets():
        height, width = sheet.labels.shape
        lines = []
        for entry, mask in components(job.classes, sheet.labels):
            for corners in outlines(mask):
                points = (centres(corners) + 0.25) / (width, height)
                while len(points) < 3:  # readers want three points, even of a pixel
                    points = points[[0, *range(len(points))]]
                lines.append(f"{index_of[entry.name]} " + " ".join(f"{value:.7g}" for value in points.ravel()))
        job.file(f"labels/{sheet.name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
