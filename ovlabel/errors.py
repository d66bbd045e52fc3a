"""The exceptions that ovlabel raises, and what makes values printable in their messages. Every module uses this one.

Every message is one line that says what happened, where, and what to do about it.

OvlabelError
├── ConfigError    an unknown name, key or value; the message lists the known ones
│   └── StackError stages in an order in which one would undo another's work
├── ImageError     one image file that can't be read; the run records it and goes on
│   └── VanishedError an image file that was deleted after it was listed
├── TruthError     ground truth that can't be read, matched or mapped
├── ClusterError   a cluster whose scheduler was lost, or that has no worker that can work
├── WeightsError   weights that can't be found, downloaded or read, or do not fit the model
└── StoreError     a path that is no store, or a store that can't be used as asked
    ├── RunError   the store was written with other settings; the message names those that differ
    └── BusyError  another process is writing to the store
"""

from __future__ import annotations

import difflib
import math
import reprlib
from collections.abc import Iterable


class OvlabelError(Exception):
    """Base class of all errors that ovlabel raises on purpose; the message is one printable line.

    Example:
        >>> import ovlabel
        >>> try:
        ...     ovlabel.load_config("scilp")
        ... except ovlabel.OvlabelError as error:
        ...     print(error)
        unknown preset 'scilp'; did you mean sclip, scclip, resclip, maskclip?
    """


class ConfigError(OvlabelError):
    """An unknown name, key or value in a config, preset, vocabulary or template file."""


class StackError(ConfigError):
    """Stages in an order in which one would undo or ignore another's work."""


class ImageError(OvlabelError):
    """One image that can't be read; the run records it and goes on."""


class VanishedError(ImageError):
    """An image file that was deleted after it was listed; no record is written for it."""


class TruthError(OvlabelError):
    """Ground truth that can't be read, matched to images, or mapped to classes."""


class WeightsError(OvlabelError):
    """Weights that can't be found, downloaded or read, or that do not fit the model."""


class ClusterError(OvlabelError):
    """A Dask cluster whose scheduler was lost, or on which no worker can work."""


class StoreError(OvlabelError):
    """A path that is no ovlabel store, or one that can't be used as asked."""


class RunError(StoreError):
    """The store was written by a run with other settings."""


class BusyError(StoreError):
    """Another process is writing to the store."""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for an unknown name, in one line.

    Args:
        kind: what is named, such as "preset".
        name: the unknown name.
        known: the known names. The message gives up to four similar ones, in upper or lower case; without any, all if
            they are at most 12, or at most 30 that fit into a few lines.

    Example:
        >>> unknown("preset", "sclib", ["naclip", "sclip"])
        "unknown preset 'sclib'; did you mean sclip, naclip?"
        >>> unknown("preset", "x", ["naclip", "sclip"])
        "unknown preset 'x'; there is naclip, sclip"
    """
    names, cases = sorted(known), dict[str, list[str]]()
    for entry in names:
        cases.setdefault(entry.casefold(), []).append(entry)
    near = [entry for key in difflib.get_close_matches(name.casefold(), cases, n=4, cutoff=0.5) for entry in cases[key]]
    if near:
        return f"unknown {kind} '{name}'; did you mean {', '.join(near[:4])}?"
    if len(names) <= 12 or (len(names) <= 30 and sum(map(len, names)) <= 400):
        return f"unknown {kind} '{name}'; there is {', '.join(names) or 'none'}"
    shown = ", ".join(names[:10])
    return f"unknown {kind} '{name}'; there are {len(names)}: {shown}, …"


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out: Python's own, or torch's on the CPU or on a GPU."""
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error)


def short(text: object, most: int = 100) -> str:
    """A text for use in a message: one line of at most `most` characters, unprintable ones replaced by U+FFFD."""
    line = str(text)
    cut = line if len(line) <= most else f"{line[: most - 1]}…"
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in cut)


def ordinary(number: float) -> bool:
    """Whether a number is finite (a float), or fits into 64 bits with a sign (an integer)."""
    return math.isfinite(number) if isinstance(number, float) else -(2**63) <= number < 2**63


def shown(value: object) -> str:
    """A value for use in a message: as Python writes it, abbreviated to one line of at most 100 characters."""
    if isinstance(value, int) and not ordinary(value):
        return f"an integer of {value.bit_length()} bits"
    return short(reprlib.repr(value))


def printable(key: str) -> str:
    """A key for use in a message: unchanged, except that control characters and undecodable bytes become escapes."""
    if key.isprintable():
        return key
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in key)
