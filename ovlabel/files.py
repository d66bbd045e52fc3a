"""Files: bounded reading of regular files, durable writing, and a cache of what can be made again.

Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import tomllib
import uuid
from collections.abc import Callable
from pathlib import Path
from stat import S_ISREG
from typing import Any, BinaryIO

from ovlabel.errors import ConfigError, ordinary, short, shown


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading; a pipe or a device, which could block for ever, is an OSError (EINVAL)."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(handle, "rb")


def read_up_to(path: str | Path, limit: int) -> bytes:
    """The content of a regular file of `limit` bytes at the most. Raises OSError (EFBIG for a larger one)."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(size + 1) if size <= limit else b""
    if max(size, len(data)) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit / 2**20:g} MiB", str(path))
    return data


def put(path: Path, data: bytes, *, new: bool = False) -> None:
    """Write a file whole or not at all, and force it and its name to the disk.

    Args:
        new: leave a file that is there as it is.

    Raises:
        OSError: the folder is gone, full, not writable …; nothing is left behind.
    """
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if not (new and _linked(partial, path)):
            partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def _linked(partial: Path, path: Path) -> bool:
    """Whether `path` is there now, by this call or before it; False where the file system knows no links."""
    try:
        os.link(partial, path)
    except FileExistsError:
        return True
    except OSError:
        return path.exists()
    return True


def sync_tree(folder: Path) -> None:
    """Force every file below a folder to the disk, and the names of all of them. Raises OSError."""
    for where, _, files in os.walk(folder, topdown=False):
        for name in files:
            with open(os.path.join(where, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(where))


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk; a file system that can't do that for folders is let off."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


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


_TEXT_BYTES = 8 * 2**20  # of a text file: 65,534 classes with 120 letters each, which tomllib takes 10 s for
_DEPTH, _KEY, _STRING = 16, 1000, 100_000  # of a file's tables: nesting, letters of a key and of a value


def read_text(path: Path, kind: str = "text") -> str:
    """A text file of 8 MiB at the most, in UTF-8; a pipe or a device is refused. Raises ConfigError."""
    try:
        return read_up_to(path, _TEXT_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid {kind}: {error}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dict; ConfigError names the file and the line."""
    table: dict[str, Any] = _parsed(path, "TOML", _toml)
    return table


def read_json(path: Path) -> Any:
    """A JSON file's content; ConfigError names the file and the line."""
    return _parsed(path, "JSON", json.loads)


def _parsed(path: Path, kind: str, parse: Callable[[str], Any]) -> Any:
    text = read_text(path, kind)
    try:
        content = parse(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} is not valid {kind}: {short(error)}") from None
    except RecursionError:
        raise ConfigError(f"{path} is not valid {kind}: it is nested too deeply") from None
    except ValueError:
        raise ConfigError(f"{path} is not valid {kind}: a number in it is too long") from None
    _check_content(path, content)
    return content


_QUOTED = re.compile(  # strings and comments, to the end of the line or of the text where nothing closes them
    r""""{3}(?:[^"\\]++|\\.?|"(?!""))*+(?:"{3,5}|\Z)|"(?:[^"\\\n]++|\\.?)*+"?|\#[^\n]*+"""
    r"""|'{3}(?:[^']++|'(?!''))*+(?:'{3,5}|\Z)|'[^'\n]*+'?""",
    re.DOTALL,
)
_CHAIN = re.compile(r"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){16}")


def _toml(text: str) -> dict[str, Any]:
    """Parsed, unless a key has so many dots that tomllib, which takes their square of time and memory, would hang."""
    if chain := _CHAIN.search(_QUOTED.sub("s", text)):
        raise tomllib.TOMLDecodeError(f"the key {chain.group()[:20]}… is nested too deeply")
    return tomllib.loads(text)


def _check_content(path: Path, content: Any) -> None:
    """Refuse what no file of ours has a use for, before anything is made of it."""
    parts = [("", content)]
    for _ in range(_DEPTH):
        for name, part in parts:
            if isinstance(part, int) and not ordinary(part):
                raise ConfigError(f"{path}: {short(name)} is {shown(part)}; the most is 64")
            if isinstance(part, str) and len(part) > _STRING:
                raise ConfigError(f"{path}: {short(name)} has {len(part)} letters; the most is {_STRING}")
            if isinstance(part, dict) and (long := next((key for key in part if len(key) > _KEY), "")):
                raise ConfigError(f"{path}: a key has {len(long)} letters ({short(long)}); the most is {_KEY}")
        held = [(name, part) for name, part in parts if isinstance(part, dict | list)]
        parts = [
            (f"{name}.{key}".strip("."), part)
            for name, container in held
            for key, part in (container.items() if isinstance(container, dict) else (("", p) for p in container))
        ]
        if not parts:
            return
    raise ConfigError(f"{path} is nested too deeply: {_DEPTH} levels are the most")
