"""Messages of the command line on stderr: plain lines, or JSON lines for machines."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

from ovlabel.errors import printable

_KINDS_NAMED = 5


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
    """Send the library's messages to stderr; what a stream can't encode becomes escapes, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else logging.Formatter("ovlabel: %(message)s"))
    log = logging.getLogger("ovlabel")
    log.setLevel(logging.INFO)
    log.handlers[:] = [handler]


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
