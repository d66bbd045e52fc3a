"""Reading files within limits, writing them durably, and the folder of the cache. Used by every wing.

Files may come from untrusted sources: pipes and devices are refused, and sizes, nesting and numbers have upper bounds.
Uses the standard library only.
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
    """Open a regular file for reading in binary.

    Args:
        path: the file; a link is followed.

    Raises:
        OSError: it can't be opened; EINVAL for a pipe, a device or a folder, reading which could block for ever.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(handle, "rb")


def read_up_to(path: str | Path, limit: int) -> bytes:
    """The content of a regular file.

    Args:
        path: the file.
        limit: the most bytes that are read.

    Raises:
        OSError: it can't be read, or is no regular file (EINVAL), or is larger than `limit` (EFBIG).
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(size + 1) if size <= limit else b""
    if max(size, len(data)) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit / 2**20:g} MiB", str(path))
    return data


def put(path: Path, data: bytes, *, new: bool = False) -> None:
    """Write a file whole or not at all, and force its content and its name to the disk.

    Args:
        path: the file; its folder must exist.
        data: the content.
        new: leave a file that exists already as it is.

    Raises:
        OSError: the folder does not exist, is full or is not writable. No partial file is left.
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
    """Link `path` to the partial file; whether `path` exists afterwards. False where hard links are not supported."""
    try:
        os.link(partial, path)
    except FileExistsError:
        return True
    except OSError:
        return path.exists()
    return True


def sync_tree(folder: Path) -> None:
    """Force the content and the names of all files below a folder to the disk.

    Raises:
        OSError: a file or folder can't be opened or synchronised.
    """
    for where, _, files in os.walk(folder, topdown=False):
        for name in files:
            with open(os.path.join(where, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(where))


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk. Does nothing on file systems that can't synchronise folders.

    Raises:
        OSError: the folder can't be opened, or the disk reports an error.
    """
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
    """The folder of the cache: $OVLABEL_CACHE, else $XDG_CACHE_HOME/ovlabel, else ~/.cache/ovlabel."""
    if own := os.environ.get("OVLABEL_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ovlabel"


def write_atomic(path: Path, data: bytes) -> bool:
    """Write a file of the cache whole or not at all, without forcing it to the disk.

    Args:
        path: the file; missing folders are made.
        data: the content.

    Returns:
        Whether it could be written. A cache that can't be written is no error.
    """
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
    """The sha256 of a file's content, in hex.

    The cache remembers it by path, size and modification time, so that large files are read once.

    Raises:
        OSError: the file can't be read.
    """
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


_FORMULA = re.compile(r"'*\s*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")  # what a spreadsheet computes, or has been escaped


def spreadsheet_cell(text: str) -> str:
    """A text as a cell of a CSV file that may be opened in a spreadsheet.

    A spreadsheet takes a cell that begins with `=`, `+`, `-`, `@` or a tab for a formula, which can run programs. Such
    a cell gets an apostrophe before it, which spreadsheets take for the mark of a text.

    Args:
        text: of any origin.

    Example:
        >>> spreadsheet_cell("=1+1"), spreadsheet_cell("cat"), from_spreadsheet_cell(spreadsheet_cell("=1+1"))
        ("'=1+1", 'cat', '=1+1')
    """
    return f"'{text}" if _FORMULA.match(text) else text


def from_spreadsheet_cell(cell: str) -> str:
    """The inverse of `spreadsheet_cell`.

    Args:
        cell: of a CSV file.
    """
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


# Upper bounds of text files: bytes (65,534 classes of 120 characters each, which tomllib parses in 10 s), levels of
# nesting, characters of a key, characters of a string value.
_TEXT_BYTES = 8 * 2**20
_DEPTH, _KEY, _STRING = 16, 1000, 100_000


def read_text(path: Path, kind: str = "text") -> str:
    """The content of a text file in UTF-8, of at most 8 MiB.

    Args:
        path: the file.
        kind: the format, as error messages call it.

    Raises:
        ConfigError: it can't be read, is larger, is no regular file, or is not UTF-8.
    """
    try:
        return read_up_to(path, _TEXT_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid {kind}: {error}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        ConfigError: it can't be read, is no valid TOML (the message names the line), or exceeds a limit on its size,
            nesting, numbers or strings.
    """
    table: dict[str, Any] = _parsed(path, "TOML", _toml)
    return table


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ConfigError: it can't be read, is no valid JSON (the message names the line), or exceeds a limit on its size,
            nesting, numbers or strings.
    """
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


_QUOTED = re.compile(  # strings and comments of TOML; without a closing quote, up to the end of the line or of the text
    r""""{3}(?:[^"\\]++|\\.?|"(?!""))*+(?:"{3,5}|\Z)|"(?:[^"\\\n]++|\\.?)*+"?|\#[^\n]*+"""
    r"""|'{3}(?:[^']++|'(?!''))*+(?:'{3,5}|\Z)|'[^'\n]*+'?""",
    re.DOTALL,
)
_CHAIN = re.compile(r"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){16}")


def _toml(text: str) -> dict[str, Any]:
    """Parse TOML, but refuse keys of more than 16 parts, for which tomllib needs time and memory in their square."""
    if chain := _CHAIN.search(_QUOTED.sub("s", text)):
        raise tomllib.TOMLDecodeError(f"the key {chain.group()[:20]}… is nested too deeply")
    return tomllib.loads(text)


def _check_content(path: Path, content: Any) -> None:
    """Refuse integers beyond 64 bits, overlong strings and keys, and deep nesting, before anything is made of them."""
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
