"""The attributes of a store's root: its classes, its folder of photographs, and the run that it belongs to."""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ovlabel import files
from ovlabel.errors import StoreError
from ovlabel.store import inside
from ovlabel.store.layout import FORMAT, METADATA, METADATA_BYTES, MOST_CLASSES, group, naming_failures, why
from ovlabel.store.record import now
from ovlabel.text.vocabulary import Vocabulary
from ovlabel.types import below_threshold, not_annotated

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class StoredClass:
    """One class of a store.

    Attributes:
        name: as in the vocabulary.
        id: the dataset's own number for the class, or None where the vocabulary gives none.
        kind: "stuff", "thing" or "material"; "" where the store names none.
        group: the supercategory, or "" where the vocabulary gives none.
        colour: red, green and blue, 0 to 255 each.
    """

    name: str
    id: int | None
    kind: str
    group: str
    colour: Colour


@dataclass(frozen=True)
class Manifest:
    """The attributes of a store's root, checked once and frozen.

    Attributes:
        id: of the store, 32 hex digits; its commit records name it.
        created: when it was made, ISO 8601 in UTC.
        folder: the photographs, as an absolute path at the time of the last run.
        folder_from_store: the same as seen from the store's own folder, so that both can move together.
        classes: in label order.
        background: index of the background class, or None.
        vocabulary: the whole entry of every class in its vocabulary, as plain JSON values, in label order.
        labels: "dtype", and the values of labels that are no class: "not_annotated", "below_threshold".
        written: the run as written (`RunIdentity.written`).
        run: the run as resolved (`RunIdentity.resolved`).
        versions: of Python, ovlabel and the packages that results depend on, when the store was made.
        others: attributes that ovlabel does not know, added by other programs; they are kept as they are.

    Example:
        >>> from pathlib import Path
        >>> from ovlabel.text.vocabulary import load_vocabulary
        >>> words, run = load_vocabulary("classes:cat, dog"), {"store": {"probabilities": "top5"}}
        >>> manifest = Manifest.new(Path("s.zarr"), Path("images"), words, run, written={})
        >>> manifest.classes[1].name, manifest.probabilities, manifest.labels["not_annotated"]
        ('dog', 'top5', 255)
        >>> Manifest.from_json(Path("s.zarr"), manifest.to_json()) == manifest
        True
    """

    id: str
    created: str
    folder: str
    folder_from_store: str
    classes: tuple[StoredClass, ...]
    background: int | None
    vocabulary: tuple[Mapping[str, Any], ...]
    labels: Mapping[str, Any]
    written: Mapping[str, Any]
    run: Mapping[str, Any]
    versions: Mapping[str, str]
    others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def probabilities(self) -> str:
        """Which probability maps are kept: "none", "full", or "top" and a number (`store.probabilities`)."""
        return str(self.run["store"]["probabilities"])

    @classmethod
    def new(
        cls, path: Path, folder: Path, vocabulary: Vocabulary, run: Mapping[str, Any], written: Mapping[str, Any]
    ) -> Manifest:
        """The manifest of a new store.

        Args:
            path: where the store will lie.
            folder: the photographs.
            vocabulary: the classes.
            run: as resolved.
            written: as written.
        """
        count, background = len(vocabulary.classes), vocabulary.background
        empty = cls(uuid.uuid4().hex, now(), "", "", (), None, (), {}, written, run, _versions())
        labels = {
            "dtype": "uint8" if not_annotated(count) == 255 else "uint16",
            "not_annotated": not_annotated(count),
            "below_threshold": below_threshold(count) if background is None else background,
        }
        return replace(empty, labels=labels).settled(path, folder, vocabulary, written)

    def settled(self, path: Path, folder: Path, vocabulary: Vocabulary, written: Mapping[str, Any]) -> Manifest:
        """The same with what may change from run to run: places, the run as written, and how classes are drawn.

        Args:
            path: the store.
            folder: the photographs.
            vocabulary: the classes.
            written: the run as written.
        """
        real = folder.resolve()
        entries = vocabulary.content()["classes"]
        return replace(
            self,
            folder=str(real),
            folder_from_store=os.path.relpath(real, path.resolve().parent),
            classes=tuple(_class_of(entry, colour) for entry, colour in zip(entries, vocabulary.colours, strict=True)),
            background=vocabulary.background,
            vocabulary=tuple(entries),
            written=written,
        )

    @classmethod
    def from_json(cls, path: Path, attributes: Any) -> Manifest:
        """The manifest in the attributes of a store's root, which may come from anywhere.

        Args:
            path: of the store, for messages.
            attributes: plain JSON values.

        Raises:
            StoreError: no store of this version's format, or attributes that are not what they must be.
        """
        found = attributes.get("ovlabel_format") if isinstance(attributes, dict) else None
        if found != FORMAT:
            reason = f"has format {found}, this version reads {FORMAT}" if found else "was not made by ovlabel"
            raise StoreError(f"{path} {reason}")
        if wrong := sorted(_wrong(attributes)):
            raise StoreError(f"{path}/{METADATA} is damaged: {', '.join(wrong)} missing or not what they must be")
        own = {name: attributes[name] for name in _PLAIN}
        pairs = zip(attributes["vocabulary"], attributes["colours"], strict=True)
        classes = tuple(_class_of(entry, (c[0], c[1], c[2])) for entry, c in pairs)
        manifest = cls(**own, classes=classes, vocabulary=tuple(attributes["vocabulary"]))
        known = manifest.to_json().keys()
        return replace(manifest, others={name: value for name, value in attributes.items() if name not in known})

    def to_json(self) -> dict[str, Any]:
        """The attributes of the root, as plain JSON values; the inverse of `from_json`."""
        return {
            "ovlabel_format": FORMAT,
            "id": self.id,
            "created": self.created,
            "folder": self.folder,
            "folder_from_store": self.folder_from_store,
            "classes": [entry.name for entry in self.classes],
            "colours": [list(entry.colour) for entry in self.classes],
            "background": self.background,
            "vocabulary": list(self.vocabulary),
            "labels": self.labels,
            "written": self.written,
            "run": self.run,
            "versions": self.versions,
            **self.others,
        }

    def write(self, path: Path, *, new: bool = False) -> None:
        """Write the metadata file of the store's root.

        Args:
            path: the store.
            new: leave a file that is there as it is.

        Raises:
            StoreError: it can't be written.
        """
        with naming_failures(path):
            files.put(path / METADATA, group(self.to_json()), new=new)


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of a store.

    Args:
        path: the store.

    Raises:
        StoreError: there is no store at the path, or its manifest is damaged or of another format.
    """
    try:
        node = files.parse_json(inside.read_up_to(path, METADATA, METADATA_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        what = f"holds no {METADATA}" if path.is_dir() else "does not exist" if not path.exists() else "is a file"
        raise StoreError(f"{path} {what}; an ovlabel store ends in .zarr and is made by 'ovlabel annotate'") from None
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path}/{METADATA} can't be read: {why(error)}") from None
    return Manifest.from_json(path, (node.get("attributes") or {}) if isinstance(node, dict) else {})


_PLAIN = ("id", "created", "folder", "folder_from_store", "background", "labels", "written", "run", "versions")


def _class_of(entry: Mapping[str, Any], colour: Colour) -> StoredClass:
    """A class from its entry in the vocabulary."""
    number = entry.get("id")
    own = number if type(number) is int else None
    return StoredClass(entry["name"], own, entry.get("kind") or "", entry.get("group") or "", colour)


def _wrong(attributes: dict[str, Any]) -> list[str]:
    """The attributes that are not what `Manifest.to_json` writes."""

    def holds(name: str, *keys: str) -> bool:
        value: Any = attributes.get(name)
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return isinstance(value, str if keys else dict)

    classes, colours, background = attributes.get("classes"), attributes.get("colours"), attributes.get("background")
    entries, names = attributes.get("vocabulary"), classes if isinstance(classes, list) else []
    count = len(names)
    right = {
        **{name: isinstance(attributes.get(name), str) for name in ("id", "created", "folder", "folder_from_store")},
        "classes": 0 < count < MOST_CLASSES and all(isinstance(c, str) and c and c.isprintable() for c in names),
        "colours": isinstance(colours, list) and len(colours) == count and all(map(_is_colour, colours)),
        "background": background is None or (type(background) is int and 0 <= background < count),
        "vocabulary": isinstance(entries, list) and len(entries) == count and all(map(_is_entry, entries, names)),
        "labels": holds("labels"),
        "written": holds("written"),
        "versions": holds("versions", "ovlabel"),
        "run": holds("run") and holds("run", "store", "probabilities"),
    }
    return [name for name, is_right in right.items() if not is_right]


def _is_entry(value: Any, name: str) -> bool:
    """Whether this is a class of that name, as a vocabulary writes it."""
    if not isinstance(value, dict) or value.get("name") != name:
        return False
    words = all(isinstance(value.get(key) or "", str) for key in ("kind", "group"))
    return words and type(value.get("id") or 0) is int


def _is_colour(value: Any) -> bool:
    """Whether this is a list of three whole numbers from 0 to 255."""
    return isinstance(value, list) and len(value) == 3 and all(type(part) is int and 0 <= part <= 255 for part in value)


def _versions() -> dict[str, str]:
    """Versions of what the results depend on."""
    from importlib.metadata import version

    names = ("ovlabel", "torch", "open_clip_torch", "numpy", "pillow", "zarr")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
