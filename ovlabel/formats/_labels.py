"""The images and classes of a store, as formats take them: pixels below a confidence have no label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from ovlabel.errors import ConfigError, StoreError, printable, unknown
from ovlabel.formats._export import NO_LABEL, ExportClass, LabelledImage
from ovlabel.store.read import Store


def classes_of(store: Store) -> tuple[ExportClass, ...]:
    """The classes of a store, in label order.

    Raises:
        StoreError: two of them have one name.
    """
    counts = Counter(entry.name for entry in store.classes)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise StoreError(f"{store.path}: class {twice[0]} is there twice; no vocabulary can have written that")
    ids = [entry.id for entry in store.classes if entry.id is not None]
    own = len(set(ids)) == len(store.classes)
    return tuple(
        ExportClass(e.name, e.id if own and e.id is not None else number, e.kind, e.group, e.colour)
        for number, e in enumerate(store.classes, start=1)
    )


def thresholds(names: list[str], least: float, by_class: Mapping[str, float]) -> NDArray[np.float64]:
    """The least confidence of every class, in 255ths.

    Args:
        names: the classes, in label order.
        least: of every class, 0 … 1.
        by_class: of some classes instead, 0 … 1.

    Raises:
        ConfigError: there is no such class, or a value is not 0 … 1.
    """
    for name, value in [("", least), *by_class.items()]:
        if name and name not in names:
            raise ConfigError(unknown("class", name, names))
        if not 0 <= value <= 1:
            raise ConfigError(f"a confidence is 0 … 1, not {value}")
    return np.rint(255 * np.array([by_class.get(name, least) for name in names], np.float64))


def labelled_images(
    store: Store, names: Mapping[str, str], least: NDArray[np.float64], on_image: Callable[[str], None] | None
) -> Iterator[LabelledImage]:
    """Read the images of a store one after another.

    Args:
        store: the store.
        names: key → name, from `checked_names`.
        least: from `thresholds`.
        on_image: called with every key once its image is written.

    Raises:
        StoreError: an image is damaged, or has no pixels.
    """
    for key, name in names.items():
        image = store[key]
        if not image.record.height * image.record.width:
            raise StoreError(f"{store.path}: '{printable(key)}' has no pixels; 'ovlabel verify' checks the store")
        labels = image.labels.astype(np.uint16)
        known = labels < len(least)
        labels[~known] = NO_LABEL
        if least.any():
            keep = np.rint(image.confidence[known] * 255) >= least[labels[known]]
            labels[known] = np.where(keep, labels[known], NO_LABEL)
        yield LabelledImage(key, name, labels)
        if on_image:
            on_image(key)
