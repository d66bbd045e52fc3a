"""What the readers of class lists hand over, and the rules they share: names, numbers, colours."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ovlabel.errors import ConfigError, shown

Colour = tuple[int, int, int]
_NUMBER = re.compile(r"[0-9]{1,9}")
_IDS = "numbers of a data set are written into a TOML vocabulary as `id`"
_HEX = re.compile(r"#?([0-9a-fA-F]{6})")


@dataclass(frozen=True)
class Listed:
    """A class as a list of classes names it.

    Attributes:
        name: its name.
        synonyms: further names on its line.
        id: its number, where the list is not counted from 0.
        colour: RGB, each 0 to 255, or None.
        kind: "stuff", "thing", "material", or "" if the list does not say.
        group: its supercategory, or "".
    """

    name: str
    synonyms: tuple[str, ...] = ()
    id: int | None = None
    colour: Colour | None = None
    kind: str = ""
    group: str = ""


@dataclass(frozen=True)
class ClassList:
    """A list of classes.

    Attributes:
        classes: in label order.
        remarks: sentences on what was passed over, for a person to look at.
    """

    classes: tuple[Listed, ...]
    remarks: tuple[str, ...] = ()


def number(text: object) -> int | None:
    """The whole number from 0 that a text writes, or None."""
    return int(text) if isinstance(text, str) and _NUMBER.fullmatch(text.strip()) else None


def colour_of(text: object) -> Colour | None:
    """The RGB colour that "#aabbcc", "1,2,3", or a list of three numbers as texts writes; None for anything else."""
    if isinstance(text, str) and (found := _HEX.fullmatch(text.strip())):
        red, green, blue = bytes.fromhex(found.group(1))
        return red, green, blue
    parts = text.split(",") if isinstance(text, str) else text
    values = [number(part) for part in parts] if isinstance(parts, list) else []
    channels = [value for value in values if value is not None and value <= 255]
    return (channels[0], channels[1], channels[2]) if len(channels) == len(values) == 3 else None


def name_of(path: Path, value: object, place: int) -> str:
    """The name of the class at a place of a list, counted from 0.

    Raises:
        ConfigError: the value is no text, or empty.
    """
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{path}: class {place} of the list is {shown(value)}, not a name; write names in quotes")
    return value.strip()


def by_number(path: Path, numbers: Sequence[int], classes: Sequence[Listed]) -> tuple[Listed, ...]:
    """Put classes into the order of their numbers. Numbers from 1 are kept as ids; numbers from 0 are class indices.

    Args:
        path: the file, for messages.
        numbers: one a class.
        classes: as listed.

    Raises:
        ConfigError: a number is there twice, the first is neither 0 nor 1, or one is missing.
    """
    twice = [value for value, count in Counter(numbers).items() if count > 1]
    if twice:
        raise ConfigError(f"{path}: the number {twice[0]} is there twice; give every class a number of its own")
    first = min(numbers)
    if first > 1:
        raise ConfigError(f"{path}: its numbers begin with {first}, not with 0 or 1; {_IDS}")
    held = set(numbers)
    gap = next((value for value in range(first, first + len(numbers)) if value not in held), None)
    if gap is not None:
        raise ConfigError(f"{path}: the number {gap} is missing, though higher ones are there; {_IDS}")
    found = [entry for _, entry in sorted(zip(numbers, classes), key=lambda pair: pair[0])]
    if first == 0:
        return tuple(found)
    return tuple(replace(entry, id=value) for value, entry in enumerate(found, start=first))
