"""What a store reaches on ground truth: the counts of a dataset, and the figures that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ovlabel.evaluation import metrics
from ovlabel.evaluation.truth import TruthClass

_STEPS = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)  # confidences at which the coverage is reported
Mean = Literal["miou", "miou_present", "pixel_accuracy"]
_WITH_INTERVAL: tuple[Mean, ...] = ("miou", "miou_present", "pixel_accuracy")


@dataclass(frozen=True)
class Boundaries:
    """How well borders agree.

    Attributes:
        f1: boundary F1 (2 pixels), 0 … 1, float64, images × classes; NaN where neither map holds the class.
        bands: intersection and union of the boundary bands, pixels of all images: int64, 2 × classes.
    """

    f1: NDArray[np.float64]
    bands: metrics.Counts

    def f1_by_class(self) -> NDArray[np.float64]:
        """Boundary F1 of every class, 0 … 1: the mean over the images that hold it or its prediction; NaN for none."""
        return np.array([metrics.mean(column) for column in self.f1.T])


@dataclass(frozen=True)
class Scores:
    """What a store reaches on ground truth. `ovlabel.score` returns it.

    Attributes:
        classes: the true classes, c of them.
        counts: the confusion of the whole dataset in pixels, int64, (c + 1) × (c + 1); see `metrics.confusion`.
        images: keys of the n images that were scored.
        tallies: right, true and predicted pixels of every image and class: int64, n × 3 × c.
        certainty: pixels by stored confidence (in 255ths) and by whether they are right: int64, 256 × 2.
        masks: how many masks the ground truth has.
        boundaries: how well borders agree, where that was asked for.
        sizes: objects by size, int64, 3 × 4; see `objects.found_by_size`. Objects of every class where the ground truth
            does not say which classes are things.

    Example:
        >>> import numpy as np
        >>> from ovlabel import Scores
        >>> from ovlabel.evaluation.metrics import areas, confusion
        >>> from ovlabel.evaluation.truth import TruthClass
        >>> counts = confusion(np.array([[0, 0, 1, 1]]), np.array([[0, 0, 1, 0]]), classes=2)
        >>> classes = (TruthClass("cat"), TruthClass("dog"))
        >>> scores = Scores(classes, counts, ("a.jpg",), areas(counts)[None], np.zeros((256, 2), int), masks=1)
        >>> figures = scores.to_json()
        >>> figures["pixel_accuracy"], round(figures["miou"], 3), round(figures["classes"]["cat"]["iou"], 3)
        (0.75, 0.583, 0.667)
        >>> scores.confusions(1)  # true class, predicted class, pixels, fraction of the true class
        [('dog', 'cat', 1, 0.5)]
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
        """Mean IoU of every image, 0 … 1, over the classes that it or its prediction holds."""
        hits, true, found = (self.tallies[:, i].astype(np.float64) for i in range(3))
        each = metrics.ratio(hits, true + found - hits)
        return np.array([metrics.mean(row) for row in each])

    def interval(self, name: Mean, samples: int = 1000) -> tuple[float, float]:
        """A 95 % bootstrap interval of a mean over the dataset (Efron, 1979): images are drawn with replacement.

        Args:
            name: "miou", "miou_present" or "pixel_accuracy".
            samples: how many times images are drawn.

        Returns:
            The 2.5th and the 97.5th percentile. The draws are the same in every call.
        """
        random = np.random.default_rng(0)
        count = len(self.images)
        flat = self.tallies.reshape(count, -1).astype(np.float64)
        values = []
        for _ in range(samples):
            weights = np.bincount(random.integers(0, count, count), minlength=count)
            hits, true, found = (weights @ flat).reshape(3, -1)
            values.append(_mean_of(name, hits, true, found))
        low, high = np.nanpercentile(values, [2.5, 97.5])
        return float(low), float(high)

    def by(self, trait: Literal["kind", "group"]) -> dict[str, float]:
        """Mean IoU, 0 … 1, of the classes of every kind or group; classes without one are left out."""
        each = metrics.iou(self.counts)
        traits = np.array([c.kind if trait == "kind" else c.group for c in self.classes])
        return {
            str(t): metrics.mean(each[traits == t])
            for t in dict.fromkeys(traits)
            if t and not np.isnan(each[traits == t]).all()
        }

    def person(self) -> float | None:
        """IoU of the class of people, 0 … 1: "person", "pedestrian", or the only one of the group "person"."""
        own = [i for i, c in enumerate(self.classes) if c.name in ("person", "pedestrian")] or [
            i for i, c in enumerate(self.classes) if c.group == "person"
        ]
        value = float(metrics.iou(self.counts)[own[0]]) if len(own) == 1 else np.nan
        return None if np.isnan(value) else value

    def confusions(self, most: int) -> list[tuple[str, str, int, float]]:
        """Pairs of classes that were confused most.

        Args:
            most: how many pairs, at most.

        Returns:
            True class, predicted class or "none", pixels, and the fraction of the true class' pixels.
        """
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
        """All figures as plain values: fractions 0 … 1 and pixels; None where a figure does not exist."""
        each = self._by_class()
        values = {
            "images": len(self.images),
            "masks": self.masks,
            **self._means(),
            "calibration_error": metrics.calibration_error(self.certainty),
            "coverage": self._coverage(),
            "classes": {
                c.name: {name: column[index].item() for name, column in each.items()}
                for index, c in enumerate(self.classes)
            },
        }
        if self.sizes is not None:
            values["sizes"] = _sizes(self.sizes)
        if self.boundaries:
            values["boundary_f1"] = metrics.mean(each["boundary_f1"])
            values["boundary_iou"] = metrics.mean(each["boundary_iou"])
        plain: dict[str, Any] = _plain(values)
        return plain

    def _by_class(self) -> dict[str, NDArray[Any]]:
        """Every figure that each class has."""
        counts = self.counts
        each: dict[str, NDArray[Any]] = {
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
        return each

    def _means(self) -> dict[str, Any]:
        """Every figure of the dataset as a whole."""
        counts = self.counts
        return {
            "miou": metrics.miou(counts),
            "miou_present": metrics.miou_present(counts),
            "pixel_accuracy": metrics.pixel_accuracy(counts),
            "mean_accuracy": metrics.mean(metrics.recall(counts)),
            "fwiou": metrics.fwiou(counts),
            "image_miou": metrics.mean(self.image_miou()),
            "intervals": {name: list(self.interval(name)) for name in _WITH_INTERVAL},
            "person": self.person(),
            "kinds": self.by("kind"),
            "groups": self.by("group"),
        }

    def _coverage(self) -> list[dict[str, Any]]:
        """What is kept above some confidences, and how accurate it is."""
        kept, accuracy = metrics.coverage(self.certainty)
        levels = {at: round(255 * at) for at in _STEPS}
        return [{"confidence": at, "kept": kept[i], "accuracy": accuracy[i]} for at, i in levels.items()]


def _mean_of(name: Mean, hits: metrics.Fractions, true: metrics.Fractions, found: metrics.Fractions) -> float:
    """One of the means that have an interval, from right, true and predicted pixels by class."""
    if name == "pixel_accuracy":
        return float(metrics.ratio(hits.sum(), true.sum()))
    each = metrics.ratio(hits, true + found - hits)
    return metrics.mean(each[true > 0] if name == "miou_present" else each)


def _sizes(table: metrics.Counts) -> dict[str, dict[str, Any]]:
    """Objects by size: how many, the fraction found by half or more, the fraction of their pixels that was found."""
    return {
        name: {
            "objects": row[0].item(),
            "found": metrics.ratio(row[1], row[0]).item(),
            "recall": metrics.ratio(row[3], row[2]).item(),
        }
        for name, row in zip(("small", "medium", "large"), table, strict=True)
    }


def _plain(value: Any) -> Any:
    """Values of numpy as those of Python; None for NaN."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, float | np.floating):
        return None if np.isnan(value) else float(value)
    return value
