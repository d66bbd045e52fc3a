"""COCO's annotation files: finding the one JSON of a folder, and reading it within bounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ovlabel.errors import TruthError, short, shown
from ovlabel.evaluation.truth.nouns import MOST_CLASSES
from ovlabel.files import read_up_to

_BYTES = 2 * 2**30  # LVIS' training set, the largest that is published, has half of it
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError)  # what a table of another form raises


def read_table(place: Path, fields: set[str], what: str) -> tuple[Path, dict[str, Any]]:
    """The one annotation file at a place whose annotations have certain fields.

    Args:
        place: the JSON, or a folder that holds it beside others.
        fields: names that the first annotation must have.
        what: how messages call such a file.

    Returns:
        The file and its content.

    Raises:
        TruthError: there is no such file, there are two, or one can't be read.
    """
    paths = [place] if place.is_file() else sorted(place.glob("*.json"))
    tables = {path: table for path in paths if (table := _table(path, fields)) is not None}
    if len(tables) != 1:
        names = ", ".join(path.name for path in tables) or "none"
        raise TruthError(f"{place} should hold one {what}; it holds {names}")
    return next(iter(tables.items()))


def _table(path: Path, fields: set[str]) -> dict[str, Any] | None:
    """The content of a JSON; None where its annotations do not have the fields."""
    try:
        data = read_up_to(path, min(_BYTES, path.stat().st_size))  # reading sets aside as much as it is allowed
        table = json.loads(data.decode("utf-8"))
        first = table["annotations"][0]
        return table if fields <= first.keys() and table["categories"] else None
    except OSError as error:
        raise TruthError(f"{path} can't be read: {error.strerror}") from None
    except RecursionError:
        raise TruthError(f"{path} can't be read: it is nested too deeply") from None
    except (ValueError, MemoryError) as error:
        raise TruthError(f"{path} can't be read: {short(error) or 'out of memory'}") from None
    except (KeyError, IndexError, TypeError, AttributeError):
        return None


def category_name(name: Any) -> str:
    """A category's name, which reports print. Raises ValueError for one that can't be printed on a line."""
    if not isinstance(name, str | int) or len(str(name)) > 200 or not str(name).isprintable():
        raise ValueError(f"{shown(name)} is no category's name")
    return str(name)


def check_count(path: Path, categories: int) -> None:
    """Refuse more categories than a label map and the background hold. Raises TruthError."""
    if categories > MOST_CLASSES - 1:
        raise TruthError(f"{path} has {categories} categories; {MOST_CLASSES - 1} are the most")
