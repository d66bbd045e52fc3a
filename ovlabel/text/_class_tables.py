"""Lists of classes in CSV: a row a class, below a line that names the columns; or one column of names."""

from __future__ import annotations

import csv
from pathlib import Path

from ovlabel.errors import ConfigError
from ovlabel.files import from_spreadsheet_cell
from ovlabel.text._listed import ClassList, Colour, Listed, by_number, colour_of, name_of, number

_NAMES = ("name", "class_name", "class", "label", "label_name", "category", "names", "classes", "labels")
_INDICES = ("index", "idx")
_IDS = ("id", "class_id", "label_id", "category_id", "pixel value", "value")
_COLOURS = (("red", "green", "blue"), ("r", "g", "b"))
_KINDS = ("stuff", "thing", "material")
Rows = list[list[str]]


def is_table(text: str) -> bool:
    """Whether the first line of a text names the columns of a table with a class a row."""
    first = _rows(text.lstrip().partition("\n")[0])
    head = [cell.lower() for cell in first[0]] if first else []
    known = (*_INDICES, *_IDS, *sum(_COLOURS, ()), "colour", "color", "kind", "group", "supercategory")
    return _column(head, _NAMES) is not None and _column(head, known) is not None


def from_table(path: Path, text: str) -> ClassList:
    """Read CSV, separated by commas, semicolons, tabs or bars.

    Args:
        path: the file, for messages.
        text: its content.

    Raises:
        ConfigError: no column holds names, a row has none, or the column `index` has gaps.
    """
    rows = _rows(text)
    head = [cell.lower() for cell in rows[0]] if rows else []
    if max(map(len, rows), default=0) <= 1:
        names = rows[1:] if _column(head, _NAMES) is not None else rows
        return ClassList(
            tuple(Listed(name_of(path, from_spreadsheet_cell(row[0]), place)) for place, row in enumerate(names))
        )
    if _column(head, _NAMES) is None:
        rows, head = _headed(path, rows)
    table = [dict(zip(head, row)) for row in rows[1:]]
    classes = tuple(_row(path, row, place) for place, row in enumerate(table))
    indices = [number(row.get(head[at], "")) for row in table] if (at := _column(head, _INDICES)) is not None else []
    counted = [value for value in indices if value is not None]
    if not counted or (_column(head, _IDS) is not None and counted == list(range(len(classes)))):
        return ClassList(classes)
    if len(counted) < len(classes):
        raise ConfigError(f"{path}: a row has no number in the column {head[at or 0]}")
    return ClassList(by_number(path, counted, classes))


def _rows(text: str) -> Rows:
    """The rows that hold anything, each cell without blanks around it."""
    first = text.lstrip().partition("\n")[0]
    mark = max(",;\t|", key=first.count)
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=mark)]
    except csv.Error:  # a cell of more than 131,072 letters: no line of names
        return []
    return [row for row in rows if any(cell.strip("-:") for cell in row)]  # and not the rule below a head


def _headed(path: Path, rows: Rows) -> tuple[Rows, list[str]]:
    """Rows of a number and a name in any order, below a head of our own."""
    if all(len(row) == 2 for row in rows):
        for place in (0, 1):
            if all(number(row[place]) is not None and number(row[1 - place]) is None for row in rows):
                head = ["index", "name"] if place == 0 else ["name", "index"]
                return [head, *rows], head
    raise ConfigError(f"{path}: its first line names no column of names; write a first line such as id,name")


def _row(path: Path, row: dict[str, str], place: int) -> Listed:
    name = name_of(path, from_spreadsheet_cell(next((row[key] for key in _NAMES if key in row), "")), place)
    ids = next((number(row[key]) for key in _IDS if key in row), None)
    kind = row.get("kind", "")
    group = row.get("group", "") or row.get("supercategory", "")
    return Listed(name, (), ids, _colour(row), kind if kind in _KINDS else "", from_spreadsheet_cell(group))


def _colour(row: dict[str, str]) -> Colour | None:
    parts = next((",".join(row[key] for key in keys) for keys in _COLOURS if all(key in row for key in keys)), "")
    return colour_of(parts or row.get("colour", "") or row.get("color", ""))


def _column(head: list[str], names: tuple[str, ...]) -> int | None:
    return next((head.index(name) for name in names if name in head), None)
