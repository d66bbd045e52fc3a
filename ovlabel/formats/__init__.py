"""Stores in formats that others read: one file a format, found by its name. Works from the store alone."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ovlabel.errors import ConfigError, printable, unknown
from ovlabel.store.read import Store

DROPPED = 65535  # a pixel without a label, in `Sheet.labels`


@dataclass(frozen=True)
class Sheet:
    """One image to export: its key, its name without suffix, uint16 h w class indices, DROPPED where there is none."""

    key: str
    name: str
    labels: NDArray[np.uint16]


@dataclass(frozen=True)
class ExportClass:
    """One class: name, dataset id (its own, else index + 1), kind, group, RGB colour."""

    name: str
    id: int
    kind: str
    group: str
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class Job:
    """What a format is handed: the classes, the images as they are asked for, and the folder to write to."""

    classes: tuple[ExportClass, ...]
    sheets: Callable[[], Iterator[Sheet]]
    out: Path

    def file(self, relative: str) -> Path:
        """A file within the folder, its folders made. Raises ConfigError for a name that would leave it."""
        if PurePosixPath(relative).is_absolute() or ".." in PurePosixPath(relative).parts:
            raise ConfigError(f"'{printable(relative)}' would be written outside {self.out}")
        path = self.out / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def format_names() -> list[str]:
    """Names of the formats: the files beside this one."""
    return sorted(path.stem.replace("_", "-") for path in Path(__file__).parent.glob("[a-z]*.py"))


def export(
    store: Store,
    out: Path,
    form: str,
    *,
    min_confidence: float = 0.0,
    by_class: Mapping[str, float] | None = None,
    on_image: Callable[[str], None] | None = None,
) -> int:
    """Write every annotated image in a format; the folder tree is kept.

    Args:
        out: a folder that is empty or not there yet. form: a name of `format_names()`.
        min_confidence: pixels of less have no label; by_class: the same by class name, in its place.
        on_image: called with every key.

    Returns:
        How many images.

    Raises:
        ConfigError: an unknown format or class, a folder that holds something, or two images that would share a file.
    """
    if form not in format_names():
        raise ConfigError(unknown("format", form, format_names()))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} holds something already; name a folder that is empty or not there yet")
    least = _thresholds(store, min_confidence, by_class or {})
    names = _names(sorted(store))

    def sheets() -> Iterator[Sheet]:
        for key, name in names.items():
            image = store[key]
            labels = image.labels.astype(np.uint16)
            known = labels < len(store.classes)
            labels[~known] = DROPPED
            if least.any():
                keep = np.rint(image.confidence[known] * 255) >= least[labels[known]]
                labels[known] = np.where(keep, labels[known], DROPPED)
            yield Sheet(key, name, labels)
            if on_image:
                on_image(key)

    out.mkdir(parents=True, exist_ok=True)
    module = importlib.import_module(f"ovlabel.formats.{form.replace('-', '_')}")
    module.write(Job(_classes(store), sheets, out))
    return len(names)


def _classes(store: Store) -> tuple[ExportClass, ...]:
    ids = [entry.id for entry in store.classes if entry.id is not None]
    own = len(set(ids)) == len(store.classes)
    return tuple(
        ExportClass(e.name, e.id if own and e.id is not None else number, e.kind, e.group, e.colour)
        for number, e in enumerate(store.classes, start=1)
    )


def _thresholds(store: Store, least: float, by_class: Mapping[str, float]) -> NDArray[np.float64]:
    """The least confidence of every class, in 255ths."""
    for name, value in [("", least), *by_class.items()]:
        if name and name not in store.class_names:
            raise ConfigError(unknown("class", name, store.class_names))
        if not 0 <= value <= 1:
            raise ConfigError(f"a confidence is 0 … 1, not {value}")
    return np.rint(255 * np.array([by_class.get(name, least) for name in store.class_names], np.float64))


def _names(keys: list[str]) -> dict[str, str]:
    """Keys without suffix; two that no file system (or not every one) tells apart are refused."""
    names, taken = dict[str, str](), dict[str, str]()
    for key in keys:
        name = PurePosixPath(key).with_suffix("").as_posix()
        if (other := taken.setdefault(name.casefold(), key)) != key:
            raise ConfigError(
                f"{printable(other)} and {printable(key)} would be written to one file; rename one of them"
            )
        names[key] = name
    return names
