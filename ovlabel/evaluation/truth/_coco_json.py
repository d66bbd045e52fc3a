"""COCO's annotation files: finding the one JSON of a folder, and reading what its tables have in common within bounds.

JSONs that people make or cut themselves differ from the published ones in details that change nothing: ids written as
text, paths of another system, two categories of one name. They are read as what they mean; what can't be understood is
an error that names the entry.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

from ovlabel.errors import TruthError, printable, short, shown
from ovlabel.evaluation.truth.nouns import MOST_CLASSES, REASON
from ovlabel.files import passed_over, read_up_to

log = logging.getLogger("ovlabel")

Identity: TypeAlias = int | str
_BYTES = 2 * 2**30  # LVIS' training set, the largest that is published, has half of it
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError)  # what a table of another form raises


def read_table(place: Path, fields: Sequence[str], what: str) -> tuple[Path, dict[str, Any]]:
    """The one annotation file at a place whose annotations have certain fields.

    Args:
        place: the JSON, or a folder that holds it beside others.
        fields: names that at least one annotation must have.
        what: how messages call such a file.

    Returns:
        The file and its content.

    Raises:
        TruthError: there is no such file, there are two, or one can't be read.
    """
    tables, reasons = dict[Path, dict[str, Any]](), list[str]()
    for path in _paths(place):
        table = _content(path)
        if lack := _lack(table, fields):
            reasons.append(f"{printable(path.name)} {lack}")
        else:
            tables[path] = table
    if len(tables) != 1:
        names = ", ".join(printable(path.name) for path in tables) or "none"
        why = f" ({'; '.join(reasons[:3])})" if reasons and not tables else ""
        raise TruthError(f"{place} should hold one {what}; it holds {names}{why}")
    return next(iter(tables.items()))


def _paths(place: Path) -> list[Path]:
    """The JSONs of a place."""
    if place.is_file():
        return [place]
    try:
        inside = sorted(place.iterdir())
    except OSError as error:
        raise TruthError(f"{place} can't be read: {error.strerror}") from None
    return [path for path in inside if path.suffix.lower() == ".json" and not passed_over(path.name)]


def _content(path: Path) -> Any:
    """The content of a JSON in UTF-8, UTF-16 or UTF-32, with a byte order mark or without."""
    try:
        return json.loads(read_up_to(path, min(_BYTES, path.stat().st_size)))  # reading sets aside what it may read
    except OSError as error:
        raise TruthError(f"{path} can't be read: {error.strerror}") from None
    except RecursionError:
        raise TruthError(f"{path} can't be read: it is nested too deeply") from None
    except (ValueError, MemoryError) as error:
        raise TruthError(f"{path} can't be read: {short(error) or 'out of memory'}") from None


def _lack(table: Any, fields: Sequence[str]) -> str:
    """What a table needs to be one of annotations with these fields; "" where it needs nothing."""
    if not isinstance(table, dict):
        return "is no table"
    for part in ("annotations", "categories"):
        if not isinstance(table.get(part), list) or not table[part]:
            return f"has no {part}"
    entries = [entry for entry in table["annotations"] if isinstance(entry, dict)]
    if any(all(name in entry for name in fields) for entry in entries):
        return ""
    absent = [name for name in fields if not any(name in entry for entry in entries)]
    return f"has {len(table['annotations'])} annotations without {' and '.join(absent or fields)}"


def not_whole(path: Path, kind: str, error: Exception) -> TruthError:
    """The error for a table that is not as it must be, given one of MALFORMED."""
    reason = short(error, REASON) if type(error) is ValueError else f"{type(error).__name__} {short(error)}"
    return TruthError(f"{path} is no whole {kind} JSON: {reason}")


def value_of(entry: Any, name: str, what: str) -> Any:
    """A field of an entry. Raises ValueError, which says what the entry is, where there is none."""
    if not isinstance(entry, dict):
        raise ValueError(f"{what} is {shown(entry)}")
    if name not in entry:
        raise ValueError(f"{named(entry, what)} has no {name}")
    return entry[name]


def named(entry: dict[str, Any], what: str) -> str:
    """What an entry is, with its id where it has one, for a message."""
    return f"{what} {shown(entry['id'])}" if "id" in entry else what


def list_of(entry: Any, name: str, what: str) -> list[Any]:
    """A list of an entry. Raises ValueError, which says what the entry is, where there is none."""
    value = value_of(entry, name, what)
    if not isinstance(value, list):
        raise ValueError(f"{named(entry, what)}: {name} is {shown(value)}, where a list is wanted")
    return value


def id_of(entry: Any, name: str, what: str) -> Identity:
    """An id that an entry holds. Raises ValueError, which says what the entry is, where there is none."""
    value = value_of(entry, name, what)
    try:
        return identity(value)
    except ValueError as error:
        raise ValueError(f"{what if name == 'id' else named(entry, what)}: {name}: {error}") from None


def identity(value: Any) -> Identity:
    """An id as it is compared: 7, 7.0 and "7" are the same. Raises ValueError for what is no id."""
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdecimal() and len(value) < 20 else value
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise ValueError(f"{shown(value)} is no id")
    return int(value)


def image_name(written: Any) -> str:
    """The path of an image without suffix, as keys are written, from a file name of a JSON.

    Backslashes are slashes, the machine of an address and the drive are left out, and so is the root.

    Raises:
        ValueError: it names no file.

    Example:
        >>> [image_name(name) for name in ("a/b.jpg", "images\\\\b.jpg", "C:\\\\b.jpg", "http://x.org/val/b.jpg")]
        ['a/b', 'images/b', 'b', 'val/b']
    """
    if not isinstance(written, str):
        raise ValueError(f"{shown(written)} is no file's name")
    path = written.replace("\\", "/")
    path = unquote(urlsplit(path).path) if "://" in path else re.sub(r"^[A-Za-z]:", "", path)
    name = PurePosixPath(path.lstrip("/"))
    if name.name in ("", ".."):
        raise ValueError(f"{shown(written)} is no file's name")
    return name.with_suffix("").as_posix()


@dataclass(frozen=True)
class Categories:
    """The categories of a JSON, those of one name as one class.

    Attributes:
        entries: the JSON's entry of each class; the first, where several have its name.
        index_of: the place of a class in `entries`, by the id of the category.
    """

    entries: list[dict[str, Any]]
    index_of: dict[Identity, int]

    @property
    def names(self) -> list[str]:
        """The classes' names, each once."""
        return [category_name(entry["name"]) for entry in self.entries]

    def index(self, entry: Any, what: str) -> int:
        """The class of an annotation or segment. Raises ValueError where its category is not in the JSON."""
        category = id_of(entry, "category_id", what)
        if category not in self.index_of:
            known = f"{shown(entry.get('id', ''))} is of the category {shown(category)}"
            raise ValueError(f"{what} {known}, which is not among the categories")
        return self.index_of[category]


def read_categories(path: Path, table: dict[str, Any]) -> Categories:
    """The categories of a JSON. Those of one name are merged, which is logged.

    Raises:
        TruthError: there are more than a label map holds.
        ValueError: an entry is not as it must be, or one id has two names.
    """
    entries, place_of, index_of = list[dict[str, Any]](), dict[str, int](), dict[Identity, int]()
    for entry in table["categories"]:
        key = id_of(entry, "id", "a category")
        name = _name_of_category(entry)
        if name not in place_of:
            place_of[name] = len(entries)
            entries.append(entry)
        if index_of.setdefault(key, place_of[name]) != place_of[name]:
            raise ValueError(f"two categories have the id {shown(key)}; one is '{name}'")
    if len(entries) > MOST_CLASSES - 1:
        raise TruthError(f"{path} has {len(entries)} categories; {MOST_CLASSES - 1} are the most")
    _say_merged(place_of, index_of)
    return Categories(entries, index_of)


def _say_merged(place_of: dict[str, int], index_of: dict[Identity, int]) -> None:
    """Log which names several categories have."""
    ids: dict[int, list[str]] = {}
    for key, index in index_of.items():
        ids.setdefault(index, []).append(shown(key))
    for name, index in place_of.items():
        if len(own := ids[index]) > 1:
            log.warning("%d categories are called '%s' (ids %s); they are one class", len(own), name, ", ".join(own))


def _name_of_category(entry: dict[str, Any]) -> str:
    """A category's name. Raises ValueError, which gives its id, where it has none that can be printed."""
    try:
        return category_name(value_of(entry, "name", "the category"))
    except ValueError as error:
        raise ValueError(str(error) if "name" not in entry else f"{named(entry, 'category')}: name: {error}") from None


def category_name(name: Any) -> str:
    """A category's name, which reports print. Raises ValueError for one that can't be printed on a line."""
    if not isinstance(name, str | int) or len(str(name)) > 200 or not str(name).isprintable() or not str(name).strip():
        raise ValueError(f"{shown(name)} is no category's name")
    return str(name).strip()


def read_images(table: dict[str, Any]) -> dict[Identity, dict[str, Any]]:
    """The entries of the images by their ids. Raises ValueError where one is not as it must be, or two have one id."""
    images = dict[Identity, dict[str, Any]]()
    for entry in list_of(table, "images", "it"):
        key = id_of(entry, "id", "an image")
        if images.setdefault(key, entry) != entry:
            names = " and ".join(shown(image.get("file_name")) for image in (images[key], entry))
            raise ValueError(f"two images have the id {shown(key)}: {names}")
    return images


def images_by_name(images: dict[Identity, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The images by their paths without suffix. Raises ValueError where two have one path, or one has none."""
    found: dict[str, dict[str, Any]] = {}
    for image in images.values():
        first = found.setdefault(name_of_image(image), image)
        if first is not image:
            ids = f"{shown(first['id'])} and {shown(image['id'])}"
            raise ValueError(
                f"it names an image twice, but for the suffix: {shown(image.get('file_name'))} (ids {ids})"
            )
    return found


def name_of_image(image: dict[str, Any], what: str = "the image") -> str:
    """The path of an image without suffix. LVIS gives addresses in place of file names. Raises ValueError."""
    written = image.get("file_name") or image.get("coco_url") or value_of(image, "file_name", what)
    try:
        return image_name(written)
    except ValueError as error:
        raise ValueError(f"{named(image, what)}: file_name: {error}") from None
