"""Messages of the command line on stderr: plain lines, or JSON lines for machines."""

from __future__ import annotations

import io
import json
import logging
import sys
from datetime import UTC, datetime


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
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns where HOME can't be written
    log = logging.getLogger("ovlabel")
    log.setLevel(logging.INFO)
    log.handlers[:] = [handler]
