"""Ground truth in the layouts in which datasets are published, all read as maps of class indices.

`table.py` lists the conventions: which files hold the masks, what their values mean, which values do not count. Each
is read by one of the files beside it: `masks` (folders of one-channel masks), `mat` (PASCAL-Context's MATLAB files),
`camvid` (colours), `coco_panoptic` and `coco_instances` (JSON). Names of classes come from the built-in vocabulary of
the same dataset, or from the dataset's own JSON.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from ovlabel.errors import TruthError, unknown
from ovlabel.evaluation.truth.nouns import IGNORED, Convention, Truth, TruthClass
from ovlabel.evaluation.truth.table import CONVENTIONS

__all__ = ["CONVENTIONS", "IGNORED", "Convention", "Truth", "TruthClass", "open_truth"]


def open_truth(place: Path, convention: str, own: Iterable[TruthClass], ending: str | None = None) -> Truth:
    """Open the ground truth that lies at a place. Masks are found now, and read when they are asked for.

    Args:
        place: a folder of masks, searched in depth, or one mask. For COCO's panoptic and instances: the JSON, or a
            folder that holds it.
        convention: a name of CONVENTIONS.
        own: the classes of the store's vocabulary in label order, which "raw" takes.
        ending: what the masks' names end in and those of their images do not; None for the convention's own.

    Raises:
        TruthError: there is no such convention, nothing is there, or an image has two masks; an ending is given for a
            JSON, which names the images itself.
    """
    if convention not in CONVENTIONS:
        raise TruthError(unknown("ground-truth convention", convention, CONVENTIONS))
    if not os.path.exists(place):  # Path.exists raises for some paths
        raise TruthError(f"no ground truth at {place}")
    entry = CONVENTIONS[convention]
    if ending is not None:
        if entry.reader.startswith("coco_"):
            raise TruthError(f"--mask-ending is for folders of masks; the JSON of '{convention}' names the images")
        entry = dataclasses.replace(entry, ending=ending)
    reader = import_module(f"ovlabel.evaluation.truth.{entry.reader}")
    truth: Truth = reader.open_at(place, entry, tuple(own))
    return truth
