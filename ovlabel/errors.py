"""The error tree. Every message says what happened, where, and what to do.

OvlabelError
├── ConfigError    an unknown name, key or value; lists what there is
│   └── StackError stages in an order that has no meaning
├── ImageError     one file that can't be read: recorded, never fatal
│   └── VanishedError a file that is not there any more
├── TruthError     ground truth that can't be read, matched or mapped
├── WeightsError   weights that can't be had, or do not fit the model
└── StoreError     a folder that is no store
    ├── RunError   the store belongs to another run; names the fields that differ
    └── BusyError  another process is writing to the store
"""

from __future__ import annotations

import difflib
import math
import reprlib
from collections.abc import Iterable


class OvlabelError(Exception):
    """Anything that ovlabel refuses to do. Its message is one line that says what, where, and what to do.

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
    """Stages in an order that has no meaning."""


class ImageError(OvlabelError):
    """One image that can't be read; the run records it and goes on."""


class VanishedError(ImageError):
    """A file that is not there any more; nothing is recorded of it."""


class TruthError(OvlabelError):
    """Ground truth that can't be read, matched to images, or mapped to classes."""


class WeightsError(OvlabelError):
    """Weights that can't be had, or that do not fit the model."""


class StoreError(OvlabelError):
    """A path that is no ovlabel store, or one that can't be used as asked."""


class RunError(StoreError):
    """The store was written by a run with other settings."""


class BusyError(StoreError):
    """Another process is writing to the store."""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """One line for an unknown name: the nearest names first, all of them if they are few."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=4, cutoff=0.5)
    if near:
        return f"unknown {kind} '{name}'; did you mean {', '.join(near)}?"
    if len(names) <= 12:
        return f"unknown {kind} '{name}'; there is {', '.join(names) or 'none'}"
    shown = ", ".join(names[:10])
    return f"unknown {kind} '{name}'; there are {len(names)}: {shown}, …"


def out_of_memory(error: BaseException) -> bool:
    """Whether something was too large for the machine: Python's, torch's CPU and its devices' ways to say so."""
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error)


def short(text: object) -> str:
    """For messages: one line of 100 letters at the most."""
    line = str(text)
    cut = line if len(line) <= 100 else f"{line[:99]}…"
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in cut)


def ordinary(number: float) -> bool:
    """Finite, and of 64 bits where it is an integer."""
    return math.isfinite(number) if isinstance(number, float) else -(2**63) <= number < 2**63


def shown(value: object) -> str:
    """For messages: a value as it is written in Python, in one line of 100 letters at the most."""
    if isinstance(value, int) and not ordinary(value):
        return f"an integer of {value.bit_length()} bits"
    return short(reprlib.repr(value))


def printable(key: str) -> str:
    """A key on one line of any terminal: control characters and undecodable bytes as escapes."""
    if key.isprintable():
        return key
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in key)
