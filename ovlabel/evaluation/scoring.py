"""Scoring a store against ground truth: one pass over the images, which are read in threads."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovlabel.errors import TruthError
from ovlabel.evaluation import metrics
from ovlabel.evaluation.class_map import ClassMap, map_classes, read_map
from ovlabel.evaluation.matching import check_all_matched, match, read_mask
from ovlabel.evaluation.objects import found_by_size
from ovlabel.evaluation.scores import Scores
from ovlabel.evaluation.tally import ImageCounts, Tally, with_boundaries
from ovlabel.evaluation.truth import IGNORED, Truth, TruthClass, open_truth
from ovlabel.store.read import Store, open_store, warn_of_damage

_AHEAD = 256  # images that may be read before they are added up


def score(
    store: str | Path | Store,
    ground_truth: str | Path,
    convention: str = "raw",
    *,
    class_map: Mapping[str, str] | str | Path | None = None,
    mask_ending: str | None = None,
    allow_partial: bool = False,
    boundaries: bool = False,
    on_image: Callable[[str], None] | None = None,
) -> Scores:
    """Score a store against ground truth.

    Images and masks are matched by path, else by file name. A predicted class counts as the true class of its name,
    else as the one that covers its name; one that finds none is wrong on every labelled pixel. What was passed over,
    merged or paired loosely in the ground truth is logged.

    Args:
        store: the store, or its path.
        ground_truth: a folder of masks; for COCO's panoptic and instances the JSON, or a folder that holds it.
        convention: how masks are written: "raw" (indices of the store's own classes), "coco-stuff", "voc", "ade20k", …
        class_map: true class by predicted class where names do not fit, or a TOML file of such lines; the key "*"
            stands for every class that finds none.
        mask_ending: what the names of masks end in and those of their images do not, such as "_mask"; None for the
            convention's own ending.
        allow_partial: score the images that have a mask although some masks have no annotated image.
        boundaries: boundary F1 and boundary IoU too; they take longer than all else together.
        on_image: called with the key of every image that is done.

    Returns:
        The counts of the whole dataset; `Scores.to_json` has all figures.

    Raises:
        StoreError: there is no store, or an image in it is damaged.
        TruthError: there is no such convention or ground truth, a mask has no annotated image or another size than its
            image, or holds a value that the convention does not have, or an annotation has no mask, or it is open which
            class stands for which.
        ConfigError: the file of the class map can't be read.

    Example:
        >>> import tempfile
        >>> import ovlabel
        >>> from ovlabel.store.example import write_example
        >>> folder = write_example(tempfile.mkdtemp())  # two annotated images of four pixels, and their masks
        >>> scores = ovlabel.score(folder / "images.ovlabel.zarr", folder / "truth")
        >>> scores.to_json()["pixel_accuracy"]
        0.875
    """
    opened = store if isinstance(store, Store) else open_store(store)
    own = own_classes(opened)
    truth = open_truth(Path(ground_truth), convention, own, mask_ending)
    given = read_map(Path(class_map)) if isinstance(class_map, str | Path) else class_map
    classes = map_classes([c.name for c in own], truth.classes, given)
    return score_labels(opened, truth, classes, allow_partial=allow_partial, boundaries=boundaries, on_image=on_image)


def own_classes(store: Store) -> list[TruthClass]:
    """The classes of a store as true classes, in label order: the ground truth of the convention "raw"."""
    return [TruthClass(entry.name, (entry.name,), entry.kind, entry.group) for entry in store.classes]


def score_labels(
    store: Store,
    truth: Truth,
    classes: ClassMap,
    *,
    allow_partial: bool = False,
    boundaries: bool = False,
    on_image: Callable[[str], None] | None = None,
) -> Scores:
    """Score every annotated image of a store that has a mask.

    Args:
        store: the store.
        truth: the ground truth.
        classes: from `map_classes`.
        allow_partial: as in `score`.
        boundaries: as in `score`.
        on_image: as in `score`.

    Raises:
        StoreError: an image in the store is damaged.
        TruthError: as in `score`.
    """
    warn_of_damage(store)
    keys = sorted(store)
    masks = match(keys, truth)
    check_all_matched(masks.values(), keys, truth, allow_partial)
    total = Tally(len(truth.classes))
    for key, image in _counted(_Task(store, truth, masks, classes.table(), boundaries)):
        total.add(image)
        if on_image:
            on_image(key)
    scores = total.scores(truth, tuple(masks))
    if not scores.counts.any():
        raise TruthError(
            f"no pixel of the {len(masks)} masks counts in '{truth.convention}'; is --truth the right one?"
        )
    return scores


@dataclass(frozen=True)
class _Task:
    """What is scored: the store's images that have masks, and `table`, the true class of every label."""

    store: Store
    truth: Truth
    masks: Mapping[str, str]
    table: NDArray[np.uint16]
    boundaries: bool

    def count(self, key: str) -> ImageCounts:
        """Count one image."""
        image = self.store[key]
        labels = image.labels
        true = read_mask(self.truth, self.masks[key], key, labels.shape)
        found, counted, classes = self.table[labels], true != IGNORED, self.truth.classes
        confidence = np.rint(image.confidence * 255).astype(np.uint8)
        things = np.array([entry.kind == "thing" for entry in classes])
        if self.boundaries:
            counts = with_boundaries(true, found, len(classes))
        else:
            counts = ImageCounts(metrics.confusion(true, found, len(classes), IGNORED))
        return dataclasses.replace(
            counts,
            certainty=metrics.calibration(confidence[counted], (found == true)[counted]),
            sizes=found_by_size(true, found, things if things.any() else ~things, IGNORED),
        )


def _counted(task: _Task) -> Iterator[tuple[str, ImageCounts]]:
    """Every image's key and counts, in the order of the masks; threads work some hundred images ahead."""
    keys = list(task.masks)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(keys), _AHEAD):
            some = keys[start : start + _AHEAD]
            yield from zip(some, pool.map(task.count, some), strict=True)
