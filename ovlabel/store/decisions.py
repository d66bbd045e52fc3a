"""What people decided about the labels of single images: accepted, to be fixed, rejected. Kept beside the labels.

Decisions come from the pages of `ovlabel report`, in a file of JSON; the store keeps them in a file of the same format,
`decisions.json`. A decision names the checksums of the labels that were seen, so that it ends with these labels.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ovlabel import files
from ovlabel.errors import ConfigError, StoreError, printable, short
from ovlabel.store.layout import naming_failures
from ovlabel.store.read import Store
from ovlabel.store.record import Record
from ovlabel.store.write import StoreWriter

FILE = "decisions.json"
FORMAT, VERSION = "ovlabel-decisions", 1
ACCEPT, FIX, REJECT = DECISIONS = ("accept", "fix", "reject")
_LONGEST = 10_000  # characters of a note, a name or a time


@dataclass(frozen=True)
class Decision:
    """What somebody decided about the labels of one image.

    Attributes:
        key: of the image.
        sums: checksums of the labels and confidences that were seen, 16 hex digits (`sums_of`).
        decision: "accept", "fix" or "reject".
        classes: names of the classes that are wrong.
        note: free text.
        reviewer: who decided.
        time: when, ISO 8601, or "" where that is not known.
    """

    key: str
    sums: str
    decision: str
    classes: tuple[str, ...] = ()
    note: str = ""
    reviewer: str = ""
    time: str = ""


@dataclass(frozen=True)
class Taken:
    """What became of the decisions of a file.

    Attributes:
        taken: how many the store keeps now that it did not keep before.
        known: how many it kept already.
        refused: key → why its decision does not count.
    """

    taken: int
    known: int
    refused: Mapping[str, str]


def sums_of(record: Record) -> str:
    """The checksums of an image's labels and confidences as decisions name them: 16 hex digits."""
    return "".join(f"{value:08x}" for value in record.sums[:2])


def read_decisions(store: Store) -> dict[str, Decision]:
    """The decisions that count: of each image the latest one that was made about the labels that the store holds.

    Args:
        store: the store.

    Returns:
        The decision by key.

    Raises:
        StoreError: the file of decisions is damaged.
    """
    counting = dict[str, Decision]()
    for decision in sorted(_kept(store), key=lambda decision: _moment(decision.time)):
        record = store.records.get(decision.key)
        if record is not None and record.outcome == "done" and sums_of(record) == decision.sums:
            counting[decision.key] = decision
    return counting


def read_file(path: Path) -> tuple[str, list[Decision]]:
    """Read a file of decisions.

    Args:
        path: the file.

    Returns:
        The id of the store that it is about, and the decisions.

    Raises:
        ConfigError: it can't be read, or holds something else.
    """
    held = files.read_json(path)
    if not isinstance(held, dict) or (held.get("format"), held.get("version")) != (FORMAT, VERSION):
        raise ConfigError(f"{path} is no file of decisions; the pages of 'ovlabel report' save one")
    entries, store = held.get("decisions"), held.get("store")
    if not isinstance(entries, list) or not isinstance(store, str):
        raise ConfigError(f"{path}: it names no store, or no list of decisions")
    return store, [_decision(path, number, entry) for number, entry in enumerate(entries, 1)]


def take_in(store: StoreWriter, path: Path) -> Taken:
    """Keep the decisions of a file in a store.

    Args:
        store: the store, open for writing.
        path: the file.

    Raises:
        ConfigError: the file can't be read, or is about another store.
        StoreError: the store can't be written.
    """
    about, decisions = read_file(path)
    if about != store.manifest.id:
        raise ConfigError(f"{path} holds decisions about another store ({printable(about)}), not about {store.path}")
    kept = _kept(store)
    held, refused, new = set(kept), {}, []
    for decision in decisions:
        reason = _refusal(store, decision)
        if reason:
            refused[decision.key] = reason
        elif decision not in held:
            new.append(decision)
    if new:
        store.check_writable()
        with naming_failures(store.path):
            files.put(store.path / FILE, _packed(store, [*kept, *new]))
    return Taken(len(new), len(decisions) - len(new) - len(refused), refused)


def count(decisions: Iterable[Decision]) -> dict[str, int]:
    """How many there are of each kind, every kind named."""
    found = Counter(decision.decision for decision in decisions)
    return {kind: found[kind] for kind in DECISIONS}


def _refusal(store: Store, decision: Decision) -> str:
    """Why a decision does not count in a store; "" if it does."""
    record = store.records.get(decision.key)
    if record is None or record.outcome != "done":
        return "the store holds no labels of this image"
    if sums_of(record) != decision.sums:
        return "it has other labels now; look at it again"
    strange = set(decision.classes).difference(store.class_names)
    return f"the store has no class '{short(min(strange))}'" if strange else ""


def _kept(store: Store) -> list[Decision]:
    """All decisions that a store keeps, the oldest first."""
    path = store.path / FILE
    if not path.exists():
        return []
    try:
        return read_file(path)[1]
    except ConfigError as error:
        raise StoreError(f"{error}; move the file away to go on without these decisions") from None


def _packed(store: Store, decisions: list[Decision]) -> bytes:
    """The file of decisions."""
    entries = [asdict(decision) for decision in decisions]
    held = {"format": FORMAT, "version": VERSION, "store": store.manifest.id, "decisions": entries}
    return (json.dumps(held, indent=1) + "\n").encode()


def _decision(path: Path, number: int, entry: Any) -> Decision:
    """One decision of a file. Raises ConfigError."""
    if not isinstance(entry, dict):
        raise ConfigError(f"{path}: decision {number} is no table")
    texts = {name: entry.get(name, "") for name in ("key", "sums", "decision", "note", "reviewer", "time")}
    classes = entry.get("classes", [])
    sound = all(isinstance(text, str) and len(text) <= _LONGEST for text in texts.values())
    if not sound or not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ConfigError(f"{path}: decision {number} holds something that is no text")
    if texts["decision"] not in DECISIONS or not texts["key"]:
        raise ConfigError(f"{path}: decision {number} is none of {', '.join(DECISIONS)}, or names no image")
    try:
        _moment(texts["time"])
    except ValueError:
        raise ConfigError(f"{path}: decision {number} has no time of the form 2026-11-25T20:30:00Z") from None
    return Decision(**texts, classes=tuple(classes))


def _moment(text: str) -> datetime:
    """A time of ISO 8601; one without a zone is one of UTC, and none is before all others. Raises ValueError."""
    found = datetime.fromisoformat(text) if text else datetime.min
    return found if found.tzinfo else found.replace(tzinfo=UTC)
