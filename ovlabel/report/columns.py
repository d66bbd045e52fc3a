"""What the pages know of every image of a store: one value an image in each column."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ovlabel.report.truth import Measured
from ovlabel.store.decisions import sums_of
from ovlabel.store.read import Store

_AHEAD = 256  # images that may be read before they are noted
NO_VALUE = -1  # in a column of thousandths


@dataclass(frozen=True)
class Share:
    """One class in one image.

    Attributes:
        index: of the class.
        pixels: how many have it.
        confidence: their mean confidence, 0 … 1.
    """

    index: int
    pixels: int
    confidence: float


@dataclass(frozen=True)
class Columns:
    """The images of a store in the order of their keys; figures in thousandths, NO_VALUE where there is none.

    Attributes:
        keys: of the images.
        names: of their pictures in the report: 16 hex digits that change with key and labels.
        sums: checksums of labels and confidence, 16 hex digits an image.
        sizes: height and width of each, in pixels: int32, n × 2.
        shares: the classes of each image.
        mean: mean confidence of all pixels. Low values find large mistakes.
        by_class: confidence averaged class by class, every class equal. Low values find mistakes in small objects.
        differ: share of the pixels whose label the other store does not have; NO_VALUE without one.
        miou: mean IoU with the ground truth; NO_VALUE without one.
        accuracy: share of right pixels; NO_VALUE without ground truth.
    """

    keys: list[str]
    names: list[str]
    sums: list[str]
    sizes: NDArray[np.int32]
    shares: list[tuple[Share, ...]]
    mean: NDArray[np.int32]
    by_class: NDArray[np.int32]
    differ: NDArray[np.int32]
    miou: NDArray[np.int32]
    accuracy: NDArray[np.int32]

    def queues(self) -> dict[str, NDArray[np.int32]]:
        """The columns by which images are put in order, the first to look at having the least value."""
        found = {"mean": self.mean, "by_class": self.by_class}
        if (self.differ >= 0).any():
            found["differ"] = np.where(self.differ < 0, 2000, 1000 - self.differ).astype(np.int32)
        if (self.miou >= 0).any():
            found["miou"] = np.where(self.miou < 0, 2000, self.miou).astype(np.int32)
        return found

    def chosen(self, top: int) -> list[int]:
        """The images of which pictures are made: the first of every queue, and those of the galleries.

        Args:
            top: how many of each queue.
        """
        taken: dict[int, None] = {}
        for column in self.queues().values():
            taken.update(dict.fromkeys(np.argsort(column, kind="stable")[:top].tolist()))
        return list(taken)


def read_columns(store: Store, other: Store | None = None, measured: Measured | None = None) -> Columns:
    """Read the labels and confidences of every image once.

    Args:
        store: the store.
        other: a store to compare with.
        measured: what the ground truth says.

    Raises:
        StoreError: an image is damaged.
    """
    keys = list(store)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        seen: list[tuple[tuple[Share, ...], float | None]] = []
        for start in range(0, len(keys), _AHEAD):
            seen += pool.map(lambda key: _seen(store, other, key), keys[start : start + _AHEAD])
    shares = [share for share, _ in seen]
    records = [store[key].record for key in keys]
    sums = [sums_of(record) for record in records]
    miou, accuracy = ({}, {}) if measured is None else (measured.miou, measured.accuracy)
    return Columns(
        keys,
        [
            hashlib.sha256(f"{key}\0{total}".encode(errors="surrogatepass")).hexdigest()[:16]
            for key, total in zip(keys, sums)
        ],
        sums,
        np.array([(record.height, record.width) for record in records], np.int32).reshape(-1, 2),
        shares,
        _thousandths(
            [sum(s.pixels * s.confidence for s in own) / max(1, sum(s.pixels for s in own)) for own in shares]
        ),
        _thousandths([float(np.mean([s.confidence for s in own])) if own else 0.0 for own in shares]),
        _thousandths([differ for _, differ in seen]),
        _thousandths([miou.get(key) for key in keys]),
        _thousandths([accuracy.get(key) for key in keys]),
    )


def class_shares(labels: NDArray[np.integer], confidence: NDArray[np.floating], classes: int) -> tuple[Share, ...]:
    """The classes of an image, the largest first.

    Args:
        labels: class indices, H × W.
        confidence: of the same pixels, 0 … 1.
        classes: how many there are; pixels with any other value have no class.
    """
    flat = labels.ravel()
    pixels = np.bincount(flat, minlength=classes)[:classes]
    total = np.bincount(flat, confidence.ravel(), minlength=classes)[:classes]
    order = np.argsort(-pixels, kind="stable")[: int((pixels > 0).sum())]
    return tuple(Share(int(i), int(pixels[i]), float(total[i] / pixels[i])) for i in order)


def _seen(store: Store, other: Store | None, key: str) -> tuple[tuple[Share, ...], float | None]:
    """The classes of one image, and the share of its pixels that the other store labels differently."""
    labels = store[key].labels
    differ = None
    if other is not None and key in other:
        theirs = other[key].labels
        differ = float(np.mean(labels != theirs)) if theirs.shape == labels.shape else 1.0
    return class_shares(labels, store[key].confidence, len(store.classes)), differ


def _thousandths(values: list[float | None]) -> NDArray[np.int32]:
    """Fractions as thousandths; NO_VALUE for None."""
    return np.array(
        [NO_VALUE if value is None or value != value else round(1000 * value) for value in values], np.int32
    )
