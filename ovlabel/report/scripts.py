"""Data as scripts. A page that is opened from the disk may load scripts, and nothing else, from beside itself."""

from __future__ import annotations

import json
from typing import Any


def call(name: str, *arguments: Any) -> bytes:
    r"""A script that hands values to the page.

    Every character beyond ASCII is escaped, so that no text of a store can end the script or change its reading.

    Args:
        name: of the page's function: `report.NAME`.
        arguments: plain JSON values.

    Example:
        >>> call("items", 0, {"key": ["a</script>\u2028.jpg"]})
        b'report.items(0,{"key":["a<\\/script>\\u2028.jpg"]});\n'
    """
    values = ",".join(json.dumps(value, separators=(",", ":"), allow_nan=False) for value in arguments)
    return f"report.{name}({values});\n".replace("</", "<\\/").encode("ascii")
