"""The use case: a store and ground truth → scores. One pass, images read in threads, everything added up in int64."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovlabel.errors import ConfigError, TruthError, printable, unknown
from ovlabel.evaluation import metrics
from ovlabel.evaluation.truth import IGNORED, IMAGE_ENDINGS, Truth, TruthClass
from ovlabel.files import read_toml
from ovlabel.store.read import Store

_SAMPLES = 1000
_AHEAD = 256  # images that may be read before their turn


@dataclass(frozen=True)
class ClassMap:
    """Which true class a predicted one stands for.

    Attributes:
        predicted, true: names. index: of the true class for every predicted one; len(true) where there is none.
    """

    predicted: tuple[str, ...]
    true: tuple[str, ...]
    index: tuple[int, ...]

    @property
    def unmapped(self) -> list[str]:
        """Predicted classes that stand for no true class: always wrong on labelled pixels."""
        return [name for name, index in zip(self.predicted, self.index, strict=True) if index == len(self.true)]

    @property
    def unreachable(self) -> list[str]:
        """True classes that no predicted class stands for: never found."""
        return [name for index, name in enumerate(self.true) if index not in self.index]

    def table(self) -> NDArray[np.uint16]:
        """The true class of every value that a label map may hold: 65536; len(true) where it stands for none."""
        table = np.full(65536, len(self.true), np.uint16)
        table[: len(self.index)] = self.index
        return table

    def lines(self) -> Iterator[str]:
        """One line a true class: its index, its name, the predicted classes that stand for it."""
        for index, name in enumerate(self.true):
            own = [p for p, i in zip(self.predicted, self.index, strict=True) if i == index]
            yield f"{index:>4}  {name} ← {', '.join(own) or '(none: never found)'}"
        if self.unmapped:
            yield f"   –  (always wrong) ← {', '.join(self.unmapped)}"


def map_classes(
    predicted: Sequence[str], true: Sequence[TruthClass], given: Mapping[str, str] | None = None
) -> ClassMap:
    """By name: a class stands for the true one of its name, else for the one that covers its name; `given` comes first.

    Case, spaces, hyphens and underscores do not count. `given["*"]` is what every class stands for that finds none.

    Raises:
        TruthError: `given` names a class that is not there.
    """
    names = [c.name for c in true]
    by_name: dict[str, int] = {}
    for index, entry in enumerate(true):
        for name in entry.covers:
            by_name.setdefault(_plain(name), index)
    by_name.update((_plain(name), index) for index, name in enumerate(names))
    chosen = {}
    own, known = {"*", *map(_plain, predicted)}, {_plain(name): index for index, name in enumerate(names)}
    for name, target in (given or {}).items():
        if _plain(name) not in own:
            raise TruthError(f"--map: {unknown('predicted class', name, predicted)}")
        if _plain(target) not in known:
            raise TruthError(f"--map: {unknown('true class', target, names)}")
        chosen[_plain(name)] = known[_plain(target)]
    rest = chosen.pop("*", len(names))
    index_of = tuple(chosen.get(name, by_name.get(name, rest)) for name in map(_plain, predicted))
    return ClassMap(tuple(predicted), tuple(names), index_of)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter not in " -_")


def read_map(path: Path) -> dict[str, str]:
    """A mapping file: TOML lines `"wall-brick" = "wall"`. Raises ConfigError."""
    table = read_toml(path)
    for name, target in table.items():
        if not isinstance(target, str):
            raise ConfigError(f'{path}: write "{name}" = "true class", not {target!r}')
    return table


def match(keys: Sequence[str], truth: Truth) -> dict[str, str]:
    """The mask's name of every annotated image that has one: by path, else by the file's own name.

    Raises:
        TruthError: two images for one mask, or two masks for one image.
    """
    by_name: dict[str, list[str]] = {}
    for name in truth.files:
        by_name.setdefault(PurePosixPath(name).name, []).append(name)
    mask_of, image_of = dict[str, str](), dict[str, str]()
    for key in keys:
        path = _stripped(PurePosixPath(key).with_suffix("").as_posix())
        near = [path] if path in truth.files else by_name.get(PurePosixPath(path).name, [])
        if len(near) > 1:
            raise TruthError(
                f"image {printable(key)} fits two masks: {truth.files[near[0]]} and {truth.files[near[1]]}"
            )
        for name in near:
            if name in image_of:
                both = f"{printable(image_of[name])} and {printable(key)}"
                raise TruthError(f"mask {truth.files[name]} fits two images: {both}")
            mask_of[key], image_of[name] = name, key
    return mask_of


def _stripped(name: str) -> str:
    for ending in IMAGE_ENDINGS:
        name = name.removesuffix(ending)
    return name


@dataclass(frozen=True)
class Boundaries:
    """Boundary F1 (2 px) of every image and class, n × c, NaN where neither map holds it; the bands' counts, 2 × c."""

    f1: NDArray[np.float64]
    bands: metrics.Counts

    def f1_by_class(self) -> NDArray[np.float64]:
        """Mean over the images that hold the class or its prediction, 0 … 1; NaN where none does."""
        return np.array([metrics.mean(column) for column in self.f1.T])


@dataclass(frozen=True)
class Scores:
    """What a store reaches on ground truth.

    Attributes:
        classes: the true classes. counts: the confusion of the whole dataset, int64 (c + 1) × (c + 1).
        images: keys. tallies: intersection, true and predicted pixels of every image and class: int64 n × 3 × c.
        certainty: pixels by stored confidence and by whether they are right: int64 256 × 2.
        masks: how many masks the ground truth has. boundaries: where they were asked for.
        sizes: `metrics.found_by_size` of the things, of every class where no kinds are known.
    """

    classes: tuple[TruthClass, ...]
    counts: metrics.Counts
    images: tuple[str, ...]
    tallies: NDArray[np.int64]
    certainty: metrics.Counts
    masks: int
    boundaries: Boundaries | None = None
    sizes: metrics.Counts | None = None

    def image_miou(self) -> NDArray[np.float64]:
        """mIoU of every image over the classes that it or its prediction holds, 0 … 1."""
        hits, true, found = (self.tallies[:, i].astype(np.float64) for i in range(3))
        each = metrics.ratio(hits, true + found - hits)
        return np.array([metrics.mean(row) for row in each])

    def interval(self, measure: str, samples: int = _SAMPLES) -> tuple[float, float]:
        """95 % bootstrap interval over images of "miou", "miou_present" or "pixel_accuracy"."""
        random = np.random.default_rng(0)
        count = len(self.images)
        flat = self.tallies.reshape(count, -1).astype(np.float64)
        values = []
        for _ in range(samples):
            weights = np.bincount(random.integers(0, count, count), minlength=count)
            hits, true, found = (weights @ flat).reshape(3, -1)
            if measure == "pixel_accuracy":
                values.append(float(metrics.ratio(hits.sum(), true.sum())))
            else:
                each = metrics.ratio(hits, true + found - hits)
                values.append(metrics.mean(each[true > 0] if measure == "miou_present" else each))
        low, high = np.nanpercentile(values, [2.5, 97.5])
        return float(low), float(high)

    def by(self, trait: str) -> dict[str, float]:
        """Mean IoU of the classes of every kind or group ("kind", "group"); those without one are left out."""
        each = metrics.iou(self.counts)
        traits = np.array([getattr(c, trait) for c in self.classes])
        return {
            str(t): metrics.mean(each[traits == t])
            for t in dict.fromkeys(traits)
            if t and not np.isnan(each[traits == t]).all()
        }

    def person(self) -> float | None:
        """IoU of the class of people, where there is one: of that name, or alone in the group "person"."""
        own = [i for i, c in enumerate(self.classes) if c.name in ("person", "pedestrian")] or [
            i for i, c in enumerate(self.classes) if c.group == "person"
        ]
        value = float(metrics.iou(self.counts)[own[0]]) if len(own) == 1 else np.nan
        return None if np.isnan(value) else value

    def confusions(self, most: int) -> list[tuple[str, str, int, float]]:
        """The most pixels that went wrong: (true class, predicted class or "none", pixels, share of the true class)."""
        wrong = self.counts[:-1].copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        names = [*(c.name for c in self.classes), "none"]
        totals = self.counts[:-1].sum(1)
        rows, columns = np.unravel_index(order, wrong.shape)
        return [
            (names[t], names[p], int(wrong[t, p]), float(wrong[t, p] / totals[t]))
            for t, p in zip(rows, columns, strict=True)
            if wrong[t, p]
        ]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values: fractions, pixels; null where a value does not exist."""
        counts = self.counts
        kept, accuracy = metrics.coverage(self.certainty)
        steps = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99]
        each = {
            "iou": metrics.iou(counts),
            "precision": metrics.precision(counts),
            "recall": metrics.recall(counts),
            "f1": metrics.f1(counts),
            "true_pixels": counts[:-1].sum(1),
            "predicted_pixels": counts[:, :-1].sum(0),
        }
        if self.boundaries:
            each["boundary_f1"] = self.boundaries.f1_by_class()
            each["boundary_iou"] = metrics.ratio(*self.boundaries.bands)
        values: dict[str, Any] = {
            "images": len(self.images),
            "masks": self.masks,
            "miou": metrics.miou(counts),
            "miou_present": metrics.miou_present(counts),
            "pixel_accuracy": metrics.pixel_accuracy(counts),
            "mean_accuracy": metrics.mean(metrics.recall(counts)),
            "fwiou": metrics.fwiou(counts),
            "image_miou": metrics.mean(self.image_miou()),
            "intervals": {name: list(self.interval(name)) for name in ("miou", "miou_present", "pixel_accuracy")},
            "person": self.person(),
            "kinds": self.by("kind"),
            "groups": self.by("group"),
            "calibration_error": metrics.calibration_error(self.certainty),
            "coverage": [
                {"confidence": at, "kept": kept[round(255 * at)], "accuracy": accuracy[round(255 * at)]} for at in steps
            ],
            "classes": {
                c.name: {name: column[index].item() for name, column in each.items()}
                for index, c in enumerate(self.classes)
            },
        }
        if self.sizes is not None:
            values["sizes"] = {
                name: {"objects": row[0].item(), "found": metrics.ratio(row[1], row[0]).item(),
                       "recall": metrics.ratio(row[3], row[2]).item()}
                for name, row in zip(("small", "medium", "large"), self.sizes, strict=True)
            }  # fmt: skip
        if self.boundaries:
            values["boundary_f1"] = metrics.mean(each["boundary_f1"])
            values["boundary_iou"] = metrics.mean(each["boundary_iou"])
        plain: dict[str, Any] = _plain_values(values)
        return plain


def _plain_values(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain_values(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain_values(entry) for entry in value]
    if isinstance(value, float | np.floating):
        return None if np.isnan(value) else float(value)
    return value


def score(
    store: Store,
    truth: Truth,
    classes: ClassMap,
    *,
    allow_partial: bool = False,
    boundaries: bool = False,
    on_image: Callable[[str], None] | None = None,
) -> Scores:
    """Score every annotated image that has a mask.

    Args:
        classes: from `map_classes`. allow_partial: score what there is, though some masks have no annotated image.
        boundaries: boundary F1 and boundary IoU too; they take longer than all else together.
        on_image: called with every key when it is done.

    Raises:
        TruthError: masks without an annotated image, a mask of another size than its image, an id that is unknown.
    """
    masks = match(sorted(store), truth)
    missing = sorted(truth.files.keys() - set(masks.values()))
    if missing and not allow_partial:
        names = ", ".join(printable(name) for name in missing[:4]) + ", …" * (len(missing) > 4)
        raise TruthError(
            f"{len(missing)} of {len(truth.files)} masks have no annotated image ({names}); annotate the folder first, "
            "or score what there is with --allow-partial"
        )
    if not masks:
        raise TruthError(f"no annotated image has a mask of its name (an image: {next(iter(sorted(store)), 'none')}, "
                         f"a mask: {next(iter(truth.files))})")  # fmt: skip
    count = len(truth.classes)
    table = classes.table()
    counts = np.zeros((count + 1, count + 1), np.int64)
    certainty, bands = np.zeros((256, 2), np.int64), np.zeros((2, count), np.int64)
    tallies, contours, sizes = [], [], np.zeros((3, 4), np.int64)
    work = partial(_image, store, truth, masks, table, boundaries)
    keys = list(masks)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = (
            result for start in range(0, len(keys), _AHEAD) for result in pool.map(work, keys[start : start + _AHEAD])
        )
        for key, (own, sure, objects, edges) in zip(keys, results, strict=True):
            counts += own
            certainty += sure
            sizes += objects
            tallies.append(metrics.areas(own))
            if edges:
                contours.append(edges[0])
                bands += edges[1]
            if on_image:
                on_image(key)
    found = Boundaries(np.array(contours), bands) if boundaries else None
    return Scores(truth.classes, counts, tuple(masks), np.array(tallies), certainty, len(truth.files), found, sizes)


def _image(
    store: Store, truth: Truth, masks: Mapping[str, str], table: NDArray[np.uint16], boundaries: bool, key: str
) -> tuple[metrics.Counts, metrics.Counts, metrics.Counts, tuple[NDArray[np.float64], metrics.Counts] | None]:
    """One image: its confusion, its calibration, its objects by size, its boundaries."""
    image, true = store[key], truth.read(masks[key])
    labels = image.labels
    if labels.shape != true.shape:
        sizes = f"is {labels.shape[0]} × {labels.shape[1]}, its mask {true.shape[0]} × {true.shape[1]}"
        raise TruthError(f"{printable(key)} {sizes} ({truth.files[masks[key]]}); labels are never resized to be scored")
    found = table[labels]
    count = len(truth.classes)
    counted = true != IGNORED
    sure = np.rint(image.confidence * 255).astype(np.uint8)
    edges = None
    if boundaries:
        edges = (
            metrics.boundary_f1_by_class(true, found, count, ignored=IGNORED),
            metrics.boundary_counts(true, found, count, IGNORED),
        )
    right = (found == true)[counted]
    things = np.array([c.kind == "thing" for c in truth.classes])
    objects = metrics.found_by_size(true, found, things if things.any() else ~things, IGNORED)
    own = metrics.confusion(true, found, count, IGNORED)
    return own, metrics.calibration(sure[counted], right), objects, edges
