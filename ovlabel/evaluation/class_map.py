"""Which predicted class counts as which true class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovlabel.errors import ConfigError, TruthError, unknown
from ovlabel.evaluation.truth import TruthClass
from ovlabel.files import read_toml


@dataclass(frozen=True)
class ClassMap:
    """The true class that every predicted class stands for.

    Attributes:
        predicted: names of the predicted classes, in label order.
        true: names of the true classes, in index order.
        index: one a predicted class: the index of the true class that it stands for, len(true) where there is none.
    """

    predicted: tuple[str, ...]
    true: tuple[str, ...]
    index: tuple[int, ...]

    @property
    def unmapped(self) -> list[str]:
        """Predicted classes that stand for no true class; they are wrong on every labelled pixel."""
        return [name for name, index in zip(self.predicted, self.index, strict=True) if index == len(self.true)]

    @property
    def unreachable(self) -> list[str]:
        """True classes that no predicted class stands for; they are never found."""
        return [name for index, name in enumerate(self.true) if index not in self.index]

    def table(self) -> NDArray[np.uint16]:
        """uint16, 65536 entries: the true class of every value of a label map, len(true) where it stands for none."""
        table = np.full(65536, len(self.true), np.uint16)
        table[: len(self.index)] = self.index
        return table

    def lines(self) -> Iterator[str]:
        """One line a true class: its index, its name, and the predicted classes that stand for it."""
        for index, name in enumerate(self.true):
            own = [p for p, i in zip(self.predicted, self.index, strict=True) if i == index]
            yield f"{index:>4}  {name} ← {', '.join(own) or '(none: never found)'}"
        if self.unmapped:
            yield f"   –  (always wrong) ← {', '.join(self.unmapped)}"


def map_classes(
    predicted: Sequence[str], true: Sequence[TruthClass], given: Mapping[str, str] | None = None
) -> ClassMap:
    """Map predicted classes to true ones by name.

    A predicted class stands for the true class that `given` says, else for the one of its name, else for the one that
    covers its name. Upper and lower case, spaces, hyphens and underscores make no difference.

    Args:
        predicted: names, in label order.
        true: the true classes, in index order.
        given: true class by predicted class; the key "*" stands for every class that finds none.

    Raises:
        TruthError: `given` names a class that is not there.
    """
    names = [c.name for c in true]
    chosen = _given(predicted, names, given or {})
    by_name: dict[str, int] = {}
    for index, entry in enumerate(true):
        for name in entry.covers:
            by_name.setdefault(_plain(name), index)
    by_name.update((_plain(name), index) for index, name in enumerate(names))
    rest = chosen.pop("*", len(names))
    index_of = tuple(chosen.get(name, by_name.get(name, rest)) for name in map(_plain, predicted))
    return ClassMap(tuple(predicted), tuple(names), index_of)


def _given(predicted: Sequence[str], names: Sequence[str], given: Mapping[str, str]) -> dict[str, int]:
    """The index of the true class by the plain name of the predicted one, as the user's map says."""
    own, known = {"*", *map(_plain, predicted)}, {_plain(name): index for index, name in enumerate(names)}
    chosen = {}
    for name, target in given.items():
        if _plain(name) not in own:
            raise TruthError(f"--map: {unknown('predicted class', name, predicted)}")
        if _plain(target) not in known:
            raise TruthError(f"--map: {unknown('true class', target, names)}")
        chosen[_plain(name)] = known[_plain(target)]
    return chosen


def _plain(name: str) -> str:
    """A name as it is compared: without case, spaces, hyphens and underscores."""
    return "".join(letter for letter in name.casefold() if letter not in " -_")


def read_map(path: Path) -> dict[str, str]:
    """Read a file of a class map: TOML lines `"wall-brick" = "wall"`.

    Returns:
        True class by predicted class.

    Raises:
        ConfigError: the file can't be read, is no TOML, or holds something else.
    """
    table = read_toml(path)
    for name, target in table.items():
        if not isinstance(target, str):
            raise ConfigError(f'{path}: write "{name}" = "true class", not {target!r}')
    return table
