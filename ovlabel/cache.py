"""Where ovlabel keeps what can be computed again, and file hashes that are taken once. Standard library only."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from pathlib import Path

from ovlabel.disk import read_up_to

_MEMO_BYTES = 2**16


def cache_dir() -> Path:
    """$OVLABEL_CACHE, else $XDG_CACHE_HOME/ovlabel, else ~/.cache/ovlabel."""
    if own := os.environ.get("OVLABEL_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ovlabel"


def write_atomic(path: Path, data: bytes) -> bool:
    """Write a cache file whole or not at all; whether it could be written."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        return False
    return True


def file_sha256(path: Path) -> str:
    """sha256 of a file's content, in hex; remembered by path, size and modification time. Raises OSError."""
    real = path.resolve()
    stat = real.stat()
    name = hashlib.sha256(os.fsencode(real)).hexdigest()[:32]
    memo = cache_dir() / "hashes" / f"{name}.json"
    stamp = [str(real), stat.st_size, stat.st_mtime_ns]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        known = json.loads(read_up_to(memo, _MEMO_BYTES))
        if known["stamp"] == stamp:
            return str(known["sha256"])
    with real.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    write_atomic(memo, json.dumps({"stamp": stamp, "sha256": digest}).encode())
    return digest
