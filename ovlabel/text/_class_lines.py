"""Lists of classes with a class on each line: plain, with synonyms, numbered, with bullets, with colours."""

from __future__ import annotations

import re
from pathlib import Path

from ovlabel.errors import ConfigError, shown
from ovlabel.text._listed import ClassList, Listed, by_number, colour_of

_COMMENT = re.compile(r"(?:#|//)(?P<blank>[\s#/]|\Z)?")
_TRAILING = re.compile(r"(?<!\s)\s++(?:#|//)\s.*\Z")
_ITEM = re.compile(r"""\s*+(?:"([^"]*)"\s*+(?=[,;]|\Z)|'([^']*)'\s*+(?=[,;]|\Z)|([^,;]*))[,;]?""")
_COLOUR_FIRST = re.compile(r"(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3})[\s,:]+(\D.*)")
_MARK = r"\s*+(?:[:)=|,;\]]|\.(?!\d))\s*+"  # what stands between a number and a name
_NUMBERED = re.compile(rf"(?P<number>\d{{1,9}})(?:(?P<mark>{_MARK})|\s++)(?P<name>\S.*)")
_NUMBER_LAST = re.compile(r"(?P<name>.*?\S)(?:(?P<mark>\s*+[:=|,;]\s*+)|\s++)(?P<number>\d{1,9})")
_BULLET = re.compile(r"[-*•]\s++\S.*")
_WORDNET = re.compile(r"n\d{8}\s")
NO_BACKGROUND = "# the background is no class: it stands for pixels without a label"  # a line of our own label maps
_UNLABELLED = Listed("background", colour=(0, 0, 0))


def from_lines(path: Path, text: str) -> ClassList:
    """Read a list of classes with a class on each line.

    Synonyms follow commas or semicolons; double quotes hold a name with a comma together. Lines that begin with # or //
    are comments.

    Args:
        path: the file, for messages.
        text: its content.

    Raises:
        ConfigError: its numbers have gaps, or its lines begin with numbers of WordNet.
    """
    lines, remarks = _without_comments(text.splitlines())
    if lines and all(_WORDNET.match(line) for line in lines):
        raise ConfigError(f"{path}: its lines begin with numbers of WordNet (n01440764); leave them out")
    if classes := _colour_first(lines) or _with_numbers(path, lines):
        return ClassList(classes, remarks)
    if classes := _label_map(lines):
        none = NO_BACKGROUND in text
        return ClassList(tuple(entry for entry in classes if not (none and entry == _UNLABELLED)), remarks)
    if lines and all(_BULLET.fullmatch(line) for line in lines):
        lines = [line[1:] for line in lines]
    entries = [_named(line) for line in lines]
    return ClassList(tuple(entry for entry in entries if entry is not None), remarks)


def split_names(line: str) -> list[str]:
    """The names on a line, between commas or semicolons; quotes around a name hold its commas together."""
    found, at = [], 0
    while at < len(line) and (item := _ITEM.match(line, at)):
        found.append(next((part for part in item.groups() if part is not None), "").strip())
        at = item.end()
    return [name for name in found if name]


def _named(line: str) -> Listed | None:
    names = split_names(line)
    return Listed(names[0], tuple(names[1:])) if names else None


def _without_comments(lines: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """The lines that are no comments and not empty, and a remark on comments that may have been meant as names."""
    kept, doubtful = [], []
    for line in map(str.strip, lines):
        comment = _COMMENT.match(line)
        if comment is not None:
            doubtful += [line] if comment.group("blank") is None else []
        elif line:
            kept.append(_TRAILING.sub("", line))
    if not doubtful:
        return kept, ()
    return kept, (f"{len(doubtful)} lines such as {shown(doubtful[0])} begin with # or // and are taken for comments",)


def _label_map(lines: list[str]) -> tuple[Listed, ...] | None:
    """CVAT's and VOC's `labelmap.txt`: name:r,g,b:parts:actions."""
    rows = [line.split(":") for line in lines]
    if not all(2 <= len(row) <= 4 and (colour_of(row[1]) or not row[1].strip()) for row in rows):
        return None
    if not any(row[1].strip() for row in rows):
        return None
    return tuple(Listed(row[0].strip(), colour=colour_of(row[1])) for row in rows)


def _colour_first(lines: list[str]) -> tuple[Listed, ...] | None:
    """CamVid's `label_colors.txt`: r g b name."""
    found = [_COLOUR_FIRST.fullmatch(line) for line in lines]
    rows = [(match[4].strip(), colour_of(",".join(match.group(1, 2, 3)))) for match in found if match is not None]
    if len(rows) < len(lines) or any(colour is None for _, colour in rows):
        return None
    return tuple(Listed(name, colour=colour) for name, colour in rows)


def _with_numbers(path: Path, lines: list[str]) -> tuple[Listed, ...] | None:
    """0: name, 1. name, 2<tab>name; name 0, name: 1."""
    first = _counted(path, [_NUMBERED.fullmatch(line) for line in lines])
    return first or _counted(path, [_NUMBER_LAST.fullmatch(line) for line in lines])


def _counted(path: Path, found: list[re.Match[str] | None]) -> tuple[Listed, ...] | None:
    """The classes of numbered rows, or None where some line has no number or the numbers are part of the names."""
    rows = [match for match in found if match is not None]
    numbers = [int(row["number"]) for row in rows]
    names = [_named(row["name"]) for row in rows]
    classes = [entry for entry in names if entry is not None]
    if not found or len(classes) < len(found):
        return None
    marked = all(row["mark"] is not None for row in rows)
    apart = len({entry.name for entry in classes}) == len(classes) > 1 and min(numbers) in (0, 1)
    return by_number(path, numbers, classes) if marked or apart else None
