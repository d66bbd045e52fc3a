"""Vocabularies: the classes of a run, read from a TOML file, a list of classes of another tool, or names given by hand.

A vocabulary is a list of classes in label order. A class has a name, a kind and at least one query, a name under which
the model looks for it. `prompts` puts queries into templates, `bank` embeds the resulting prompts. Standard library
only, so that vocabularies are listed and compared without importing torch.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from ovlabel.errors import ConfigError, short, shown, unknown
from ovlabel.files import read_toml
from ovlabel.text._class_lines import split_names

KINDS = ("stuff", "thing", "material")
INLINE = "classes:"  # text.vocabulary = "classes:cat, dog, grass"
MOST_CLASSES = 65_534  # labels have 16 bits, and two of their values are no class
_NAME, MOST_OF_SENTENCE = 200, 2000  # most characters of a name and of a sentence (CLIP reads about 300)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")  # not allowed in names
_T = TypeVar("_T")
_KIND_NAMES: dict[type, str] = {bool: "true or false", int: "a whole number", str: "a string in quotes"}
_PACKAGE = Path(__file__).parents[1]
_HEADS = {"ceiling", "door", "floor", "ground", "roof", "wall", "window"}
_LEFTOVERS = {"merged", "other", "stuff"}


@dataclass(frozen=True)
class VocabularyClass:
    """A class of a vocabulary.

    Attributes:
        name: its name, as written in the file.
        kind: "stuff", "thing" or "material"; template sets have sentences for each.
        synonyms: further names under which the model looks for it.
        queries: replace name and synonyms there, such as the words that make up a background.
        phrase: its name as a person says it ("traffic light"), for adaptive templates.
        id: its number in the dataset, or None.
        colour: RGB, each 0 to 255, or None.
        threshold: the least probability, 0 to 1, at which a pixel keeps this label, or None; the run's own threshold
            applies if it is higher.
        group: its supercategory, or "".
        prompts: sentences, or templates with `{}`, that replace those of the template set.
        contexts: where it is found ("on a desk"); each makes a further query, such as "mouse on a desk".
    """

    name: str
    kind: str = "thing"
    synonyms: tuple[str, ...] = ()
    queries: tuple[str, ...] = ()
    phrase: str = ""
    id: int | None = None
    colour: tuple[int, int, int] | None = None
    threshold: float | None = None
    group: str = ""
    prompts: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()

    @property
    def asked(self) -> tuple[str, ...]:
        """The names under which the model looks for it."""
        return self.queries or (self.name, *self.synonyms)


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary.

    Attributes:
        name: its built-in name, the file's name without its ending, or "classes".
        title: one line that describes it.
        source: where its classes come from.
        classes: in label order.
        background: the index of the background class (0), or None.
        remarks: sentences on what was passed over when it was read, for a person to look at.
    """

    name: str
    title: str
    source: str
    classes: tuple[VocabularyClass, ...]
    background: int | None = None
    remarks: tuple[str, ...] = ()

    @property
    def colours(self) -> list[tuple[int, int, int]]:
        """An RGB colour for each class: its own, black for a background, else one that differs much from the others."""
        far = _spread(len(self.classes))
        own = [entry.colour or colour for entry, colour in zip(self.classes, far, strict=True)]
        if self.background is not None and self.classes[self.background].colour is None:
            own[self.background] = (0, 0, 0)
        return own

    def content(self) -> dict[str, Any]:
        """All of it that can change labels or their meaning, as plain JSON values."""
        classes = [
            {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(c).items() if v not in (None, "", ())}
            for c in self.classes
        ]
        return {"background": self.background, "classes": classes}


def vocabulary_names() -> list[str]:
    """Names of the built-in vocabularies."""
    return sorted(p.stem for p in data_folder("vocabularies").glob("*.toml"))


def load_vocabulary(name: str) -> Vocabulary:
    """Load a vocabulary.

    Args:
        name: a built-in name; the path of a TOML file, or of a list of classes in any form that `class_lists` reads;
            or "classes:" and names, separated by commas or semicolons.

    Raises:
        ConfigError: an unknown name, or a file that holds no vocabulary; the message names the file and the class.

    Example:
        >>> [entry.name for entry in load_vocabulary("classes:cat, dog, grass").classes]
        ['cat', 'dog', 'grass']
    """
    if name.startswith(INLINE):
        return _inline(name.removeprefix(INLINE))
    if name in vocabulary_names():
        return _from_toml(data_folder("vocabularies") / f"{name}.toml", name)
    from ovlabel.text.class_lists import holds_toml

    path = Path(os.path.expanduser(name))
    if not os.path.isfile(path):
        raise ConfigError(_no_file(name, path))
    return _from_toml(path, path.stem) if holds_toml(path) else _from_list(path)


def _no_file(name: str, path: Path) -> str:
    """What is wrong with a name that is neither built in nor a file."""
    if os.path.isdir(path):
        return f"{name} is a folder, no vocabulary; name a file in it"
    if os.path.exists(path):
        return f"{name} is a pipe or a device, no vocabulary; write the classes into a file"
    if "," in name or ";" in name:
        return (
            f'no vocabulary file {short(name)}; names are given with --classes (text.vocabulary = "{INLINE}cat, dog")'
        )
    if path.suffix or path.parent != Path("."):
        return f"no vocabulary file {name}"
    return unknown("vocabulary", short(name), vocabulary_names())


def check_names(where: str, names: Iterable[str]) -> None:
    """Check that names are short and printable, because exports write them into files of many formats.

    Args:
        where: where the names are from, for messages.
        names: the names.

    Raises:
        ConfigError: a name that is too long or contains a control character.
    """
    for name in names:
        if len(name) > _NAME:
            raise ConfigError(f"{where}: {short(name)} has {len(name)} letters; the most for a name is {_NAME}")
        if _CONTROL.search(name):
            raise ConfigError(f"{where}: {shown(name)} holds a line break, a tab or a control character; take it out")


def check_sentences(where: str, sentences: Iterable[str]) -> None:
    """Check that sentences are short and printable. Unlike a name, a sentence may have line breaks and tabs.

    Args:
        where: where the sentences are from, for messages.
        sentences: the sentences.

    Raises:
        ConfigError: a sentence that is too long or contains another control character.
    """
    for sentence in sentences:
        if len(sentence) > MOST_OF_SENTENCE:
            raise ConfigError(
                f"{where}: a sentence has {len(sentence)} letters ({short(sentence)}), not {MOST_OF_SENTENCE}"
            )
        if _CONTROL.search(re.sub(r"[\t\n\r]", " ", sentence)):
            raise ConfigError(f"{where}: {shown(sentence)} holds a control character; take it out")


def without_controls(text: str) -> str:
    """A text in which every character that no name may hold is a blank."""
    return _CONTROL.sub(" ", text)


def _checked(where: object, vocabulary: Vocabulary) -> Vocabulary:
    """The vocabulary, if labels of 16 bits have room for its classes, and its names are valid and differ."""
    count = len(vocabulary.classes)
    if count > MOST_CLASSES:
        raise ConfigError(f"{where} holds {count} classes; labels of 16 bits have room for {MOST_CLASSES}")
    for entry in vocabulary.classes:
        place = f"{where}, class {short(entry.name)}"
        check_names(place, (entry.name, entry.phrase, entry.group, *entry.synonyms, *entry.queries, *entry.contexts))
        check_sentences(place, entry.prompts)
    twice = sorted(name for name, times in Counter(entry.name for entry in vocabulary.classes).items() if times > 1)
    if twice:
        raise ConfigError(f"{where}: class {', '.join(twice[:4])}{', …' * (len(twice) > 4)} is there twice")
    return vocabulary


def doubts(vocabulary: Vocabulary) -> list[str]:
    """Look for signs that a vocabulary was read in another way than it was meant.

    Returns:
        A sentence for each: its remarks, names that hardly are names, a background that is asked like any other class.
    """
    from ovlabel.text.oddities import odd_names

    found = [*vocabulary.remarks, *odd_names(name for entry in vocabulary.classes for name in entry.asked)]
    return found + [
        f"'{short(entry.name)}' is asked like any other class; a background is first in a list, or [background]"
        for index, entry in enumerate(vocabulary.classes)
        if _means_background((entry.name,)) and index != vocabulary.background
    ]


def check(vocabulary: Vocabulary) -> list[str]:
    """Look for classes that the model can't tell apart.

    Returns:
        A sentence for each problem: what `doubts` finds, a query of two classes, queries that differ only in spelling,
        a name with several meanings, an id that occurs twice.
    """
    owners: dict[str, list[str]] = {}
    for entry in vocabulary.classes:
        for name in entry.asked:
            owners.setdefault(name.lower(), []).append(entry.name)
    found = doubts(vocabulary)
    for query, names in owners.items():
        if len(names) > 1:
            found.append(f"'{query}' is asked for {' and '.join(names)}: the first of them wins every tie")
    alike: dict[str, list[str]] = {}
    for query in owners:
        alike.setdefault(_stem(query), []).append(query)
    found += [f"{', '.join(map(repr, names))} are nearly the same to ask" for names in alike.values() if len(names) > 1]
    for entry in vocabulary.classes:
        if entry.asked == (entry.name,) and not entry.contexts and entry.name.lower() in _AMBIGUOUS:
            meaning = _AMBIGUOUS[entry.name.lower()]
            found.append(f"'{entry.name}' has several meanings ({meaning}): say which with queries = [\"…\"]")
    ids = [entry.id for entry in vocabulary.classes if entry.id is not None]
    if len(set(ids)) < len(ids):
        found.append("two classes have the same id")
    return found


_AMBIGUOUS = {  # names of things of several kinds, and what these kinds are
    "bat": "animal, sports", "bank": "river, money", "base": "of a column, sports", "bow": "ribbon, weapon, ship",
    "case": "luggage, cabinet", "club": "golf, place", "counter": "kitchen, device", "crane": "bird, machine",
    "fan": "device, person", "glass": "material, vessel", "jam": "food, traffic", "kite": "toy, bird",
    "mouse": "computer, animal", "nail": "finger, metal", "organ": "instrument, body", "palm": "tree, hand",
    "pen": "writing, animals", "pitcher": "vessel, player", "plant": "botany, factory", "pole": "post, place",
    "remote": "control, far", "ring": "jewel, boxing", "seal": "animal, stamp", "sign": "traffic, gesture",
    "sink": "basin, to go down", "spring": "water, coil, season", "tie": "clothing, draw", "track": "rails, sports",
    "trunk": "tree, elephant, car",
}  # fmt: skip


def _stem(name: str) -> str:
    """A name without case, accents, hyphens, spaces, articles and the s of a plural."""
    letters = re.sub(r"^(a|an|the) ", "", unicodedata.normalize("NFKD", name).lower())
    return re.sub(r"[^a-z0-9]", "", letters).removesuffix("s") or name


def read_name(name: str) -> str:
    """A compound name as a person says it: "wall-brick" → "brick wall", "sky-other" → "sky", "hot_dog" → "hot dog"."""
    head, dash, rest = name.replace("_", " ").partition("-")
    if dash and rest in _LEFTOVERS:
        return head
    if dash and head in _HEADS:
        return f"{rest} {head}"
    return name.replace("_", " ")


def data_folder(folder: str) -> Path:
    """The folder `vocabularies` or `templates`: inside the package if installed, beside it in a checkout."""
    inside = _PACKAGE / folder
    return inside if inside.is_dir() else _PACKAGE.parent / folder


def _from_toml(path: Path, name: str) -> Vocabulary:
    table = read_toml(path)
    for key in table:
        if key not in ("title", "source", "background", "class"):
            raise ConfigError(f"{path}: {unknown('key', short(key), ('title', 'source', '[background]', '[[class]]'))}")
    background, entries = table.get("background"), table.get("class", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f"{path}: write each class as a table of its own under [[class]]")
    if background is not None and not isinstance(background, dict):
        raise ConfigError(f"{path}: write the background as a table [background] with name and queries")
    entries = ([{"kind": "stuff", **background}] if background is not None else []) + entries
    if not entries:
        raise ConfigError(f"{path} holds no [[class]]")
    title, source = typed(path, table, "title", str, name), typed(path, table, "source", str, "")
    check_sentences(str(path), (title, source))
    classes = tuple(_entry(path, i, entry) for i, entry in enumerate(entries))
    return _checked(path, Vocabulary(name, title, source, classes, None if background is None else 0))


def _entry(path: Path, index: int, table: Mapping[str, Any]) -> VocabularyClass:
    known = {f.name for f in fields(VocabularyClass)}
    label = short(table.get("name", f"number {index}"))
    for key in table:
        if key not in known:
            raise ConfigError(f"{path}, class {label}: {unknown('key', short(key), known)}")
    if not isinstance(table.get("name"), str) or not table["name"].strip():
        raise ConfigError(f"{path}, class {label}: name must be a string in quotes")
    for key in ("kind", "phrase", "group"):
        typed(f"{path}, class {label}", table, key, str, "")
    if typed(f"{path}, class {label}", table, "id", int, 0) < 0:
        raise ConfigError(f"{path}, class {label}: id must be 0 or more, not {shown(table['id'])}")
    if table.get("kind", "thing") not in KINDS:
        raise ConfigError(f"{path}, class {label}: {unknown('kind', short(table['kind']), KINDS)}")
    values = dict(table)
    for key in ("synonyms", "queries", "prompts", "contexts"):
        strings = values.get(key, [])
        if not isinstance(strings, list) or not all(isinstance(s, str) and s.strip() for s in strings):
            raise ConfigError(f"{path}, class {label}: {key} must be a list of strings in quotes")
        values[key] = tuple(strings)
    colour = values.get("colour")
    if colour is not None:
        rgb = colour if isinstance(colour, list) else []
        if len(rgb) != 3 or not all(type(v) is int and 0 <= v <= 255 for v in rgb):
            raise ConfigError(f"{path}, class {label}: colour must be [red, green, blue], each 0 to 255")
        values["colour"] = tuple(rgb)
    threshold = values.get("threshold")
    if threshold is not None and not (type(threshold) in (int, float) and 0 <= threshold <= 1):
        raise ConfigError(f"{path}, class {label}: threshold must be between 0 and 1")
    return VocabularyClass(**values)


def typed(where: object, table: Mapping[str, Any], key: str, kind: type[_T], default: _T) -> _T:
    """A value of a table that was read from a file.

    Args:
        where: what is read, for messages.
        table: the content of the file, or a part of it.
        key: of the value.
        kind: the type that it must have: bool, int or str.
        default: the value if the table does not have the key.

    Raises:
        ConfigError: it has another type.
    """
    value = table.get(key, default)
    if type(value) is not kind:
        raise ConfigError(f"{where}: {key} must be {_KIND_NAMES[kind]}, not {shown(value)}")
    return value


def _from_list(path: Path) -> Vocabulary:
    from ovlabel.text.class_lists import read_class_list

    found = read_class_list(path)
    classes = [
        VocabularyClass(
            e.name, e.kind or _known_kinds().get(e.name, "thing"), e.synonyms, (), "", e.id, e.colour, None, e.group
        )
        for e in found.classes
    ]
    words = _background_words(classes[0].asked)
    if words:
        classes[0] = replace(classes[0], name="background", kind="stuff", synonyms=(), queries=words)
    place = 0 if words else None
    return _checked(path, Vocabulary(path.stem, path.name, str(path), tuple(classes), place, found.remarks))


def _background_words(asked: tuple[str, ...]) -> tuple[str, ...]:
    """What is asked for the background that the first class of a list is, by its names; () if it is none."""
    if _means_background(asked):
        return ("background",)
    words = set(load_vocabulary("voc21").classes[0].queries)
    return asked if len(asked) > 4 and set(asked) <= words else ()


def _means_background(asked: tuple[str, ...]) -> bool:
    return len(asked) == 1 and asked[0].lower().strip("_") == "background"


def _inline(text: str) -> Vocabulary:
    names = split_names(text)
    if not names:
        raise ConfigError("no class given: write --classes 'cat, dog, grass'")
    kinds = _known_kinds()
    classes = [VocabularyClass(name, kinds.get(name, "thing")) for name in names]
    background = 0 if _means_background((names[0],)) else None
    if background == 0:
        classes[0] = replace(classes[0], name="background")
    remarks = tuple(
        f"'{short(name)}' is a vocabulary of its own: --vocab {short(name)}"
        for name in names
        if name in vocabulary_names() or ((os.sep in name or "." in name) and os.path.isfile(name))
    )
    title = f"{len(names)} classes given by hand"
    return _checked("--classes", Vocabulary("classes", title, "", tuple(classes), background, remarks))


@cache
def _known_kinds() -> dict[str, str]:
    """The kinds of the names in two built-in vocabularies, for vocabularies that state no kinds."""
    kinds: dict[str, str] = {}
    for name in ("coco-stuff", "ade20k"):
        for entry in load_vocabulary(name).classes:
            for word in (entry.name, entry.phrase, read_name(entry.name)):
                kinds.setdefault(word, entry.kind)
    return kinds


@cache
def _spread(count: int) -> tuple[tuple[int, int, int], ...]:
    """Colours that differ much from each other, black and white; each is the farthest from all before it."""
    levels = (0, 50, 100, 155, 205, 255)
    free = [(r, g, b) for r in levels for g in levels for b in levels]
    distance = {colour: min(_apart(colour, (0, 0, 0)), _apart(colour, (255, 255, 255))) for colour in free}
    chosen: list[tuple[int, int, int]] = []
    for _ in range(min(count, len(free))):
        best = max(distance, key=lambda colour: distance[colour])
        chosen.append(best)
        del distance[best]
        for colour in distance:
            distance[colour] = min(distance[colour], _apart(colour, best))
    return tuple(chosen[i % len(chosen)] for i in range(count))


def _apart(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    """How different two colours look: the weighted RGB distance of T. Riemersma, "Colour metric" (compuphase.com)."""
    red = (one[0] + other[0]) / 2
    squares = [(a - b) ** 2 for a, b in zip(one, other, strict=True)]
    return (2 + red / 256) * squares[0] + 4 * squares[1] + (2 + (255 - red) / 256) * squares[2]
