"""Which predicted class counts as which true class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovlabel.errors import ConfigError, TruthError, printable, short, shown, unknown
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

    def table(self) -> NDArray[np.uint16]:
        """uint16, 65536 entries: the true class of every value of a label map, len(true) where it stands for none."""
        table = np.full(65536, len(self.true), np.uint16)
        table[: len(self.index)] = self.index
        return table

    def lines(self) -> Iterator[str]:
        """One line a true class: its index, its name, and the predicted classes that stand for it."""
        for index, name in enumerate(self.true):
            own = [printable(p) for p, i in zip(self.predicted, self.index, strict=True) if i == index]
            yield f"{index:>4}  {printable(name)} ← {', '.join(own) or '(none: never found)'}"
        if self.unmapped:
            yield f"   –  (always wrong) ← {', '.join(map(printable, self.unmapped))}"


def map_classes(
    predicted: Sequence[str], true: Sequence[TruthClass], given: Mapping[str, str] | None = None
) -> ClassMap:
    """Map predicted classes to true ones.

    The same names in the same order are the same classes. Else a predicted class stands for the true class that `given`
    says, else for the one of its name, else for the one that covers its name. Upper and lower case, spaces, hyphens and
    underscores make no difference where no name is exactly the same.

    Args:
        predicted: names, in label order.
        true: the true classes, in index order.
        given: true class by predicted class; the key "*" stands for every class that finds none.

    Raises:
        TruthError: `given` names a class that is not there or names one twice, or names that differ in case, spaces,
            hyphens or underscores alone leave open which class stands for which.

    Example:
        >>> map_classes(["Cat", "wall-brick", "wood"], [TruthClass("wall", ("wall brick",)), TruthClass("cat")]).index
        (1, 0, 2)
    """
    names = [c.name for c in true]
    chosen = _given(predicted, names, given or {})
    if list(predicted) == names:
        return ClassMap(tuple(predicted), tuple(names), tuple(chosen.get(n, i) for i, n in enumerate(names)))
    _check_distinct([name for name in predicted if name not in chosen], names)
    by_name: dict[str, int] = {}
    for form in (str, _plain):
        for index, name in enumerate(names):
            by_name.setdefault(form(name), index)
    for form in (str, _plain):
        for index, entry in enumerate(true):
            for name in entry.covers:
                by_name.setdefault(form(name), index)
    rest = chosen.pop("*", len(names))
    found = (chosen.get(name, by_name.get(name, by_name.get(_plain(name), rest))) for name in predicted)
    return ClassMap(tuple(predicted), tuple(names), tuple(found))


def _check_distinct(predicted: Sequence[str], true: Sequence[str]) -> None:
    """Refuse names that are equal but for case and blanks, unless each has an exact counterpart. Raises TruthError."""
    forms: dict[str, tuple[set[str], set[str]]] = {}
    for side, names in enumerate((predicted, true)):
        for name in names:
            forms.setdefault(_plain(name), (set(), set()))[side].add(name)
    for own, others in forms.values():
        if own and others and own != others and len(own) + len(others) > 2:
            title, several = ("true", others) if len(others) > 1 else ("predicted", own)
            pair = " and ".join(f"'{printable(name)}'" for name in sorted(several)[:2])
            counterpart = printable(min(own if several is others else others))
            raise TruthError(
                f"the {title} classes {pair} differ in case, spaces, hyphens or underscores alone, and '{counterpart}' "
                "fits both; say with --map which predicted class stands for which true class"
            )


def _given(predicted: Sequence[str], names: Sequence[str], given: Mapping[str, str]) -> dict[str, int]:
    """The index of the true class by the name of the predicted one, as the user's map says."""
    chosen: dict[str, int] = {}
    for name, target in given.items():
        own = name if name == "*" else predicted[_index("predicted class", name, predicted)]
        if own in chosen:
            raise TruthError(f"--map: the predicted class '{printable(own)}' is named twice, also as '{short(name)}'")
        chosen[own] = _index("true class", target, names)
    return chosen


def _index(kind: str, name: str, known: Sequence[str]) -> int:
    """The place of a name, else of the only one that differs in case, spaces, hyphens or underscores alone."""
    exact = [index for index, other in enumerate(known) if other == name]
    near = exact or [index for index, other in enumerate(known) if _plain(other) == _plain(name)]
    if not near:
        raise TruthError(f"--map: {unknown(kind, short(name), map(printable, known))}")
    if len(near) > 1:
        both = " and ".join(f"'{printable(known[index])}'" for index in near[:2])
        raise TruthError(f"--map: the {kind} '{short(name)}' may be {both}; write one of them exactly")
    return near[0]


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
            raise ConfigError(f'{path}: write "{short(name)}" = "true class", not {shown(target)}')
    return table
