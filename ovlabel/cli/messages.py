"""What the command line writes: results on stdout, messages on stderr as plain lines or as JSON lines.

This file is the only door. Names, reasons and classes come from stores, images and other files, and may hold what a
terminal obeys (escape sequences, line breaks, letters that turn the direction of writing): each line that leaves here
has escapes in their place. No command calls `print`.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from ovlabel.errors import printable

_KINDS_NAMED = 5


def say(line: str = "") -> None:
    """Print one line of a result on stdout; what is not printable in it, a line break too, becomes an escape.

    Args:
        line: the line.

    Raises:
        OSError: stdout can't be written.
    """
    print(printable(line))


def say_all(lines: Iterable[str]) -> None:
    """Print several lines of a result on stdout, each as `say` does."""
    for line in lines:
        say(line)


def say_json(value: Any, indent: int | None = None) -> None:
    """Print a result on stdout as JSON, in ASCII.

    Args:
        value: plain JSON values.
        indent: spaces for each level of nesting; None prints one line.

    Raises:
        OSError: stdout can't be written.
    """
    print(json.dumps(value, indent=indent))


SEVERAL_LINES = {"several_lines": True}  # `extra` of a message that is meant to have line breaks: a traceback


def printable_lines(text: str) -> str:
    """A text of several lines in which every line is printable."""
    return "\n".join(map(printable, text.split("\n")))


class _Text(logging.Formatter):
    """One line a message."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        lines = printable_lines if "several_lines" in record.__dict__ else printable
        return f"ovlabel: {lines(record.getMessage())}"


class _Json(logging.Formatter):
    """One JSON object a line: time (ISO 8601, UTC), level, message, and the fields of a progress line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        return json.dumps(fields | getattr(record, "fields", {}))


def send_to_stderr(form: str = "text") -> None:
    """Send the library's messages to stderr; what a stream can't encode becomes escapes, never a traceback.

    Args:
        form: "text" or "json".
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    log = logging.getLogger("ovlabel")
    log.setLevel(logging.INFO)
    log.handlers[:] = [handler]
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of a home folder that can't be written


def open_streams() -> None:
    """Occupy the descriptors 0 to 2 where the caller closed them, lest a file that is opened later gets their numbers.

    Writing to a stdout that was closed fails then, as to one that is full; what goes to a closed stderr is lost.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY)  # takes the lowest number that is free
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 (Python leaves None there)
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def stdout_failure() -> OSError | None:
    """Write out what is left of stdout; the failure, if it can't be written. Python's own attempt is forestalled."""
    try:
        sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError):
            sys.stdout.close()
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        return error
    return None


def others_line(others: Mapping[str, int]) -> str:
    """What to say of the files of a folder that were not looked at; nothing where there are none.

    Args:
        others: how many there are by suffix, most first; "" stands for those without one.

    Example:
        >>> others_line({".mov": 2, "": 1})
        '3 files of other kinds were not looked at (.mov 2, without suffix 1)'
    """
    if not others:
        return ""
    many = sum(others.values())
    named = [f"{printable(suffix) or 'without suffix'} {count}" for suffix, count in others.items()]
    shown = named[:_KINDS_NAMED] + ["…"] * (len(named) > _KINDS_NAMED)
    files = "1 file of another kind was" if many == 1 else f"{many} files of other kinds were"
    hint = "; pip install 'ovlabel[heif]' for .heic" if others.keys() & {".heic", ".heif", ".hif"} else ""
    return f"{files} not looked at ({', '.join(shown)}){hint}"
