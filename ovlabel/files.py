"""Reading files within limits, writing them durably, and the folder of the cache. Used by every wing.

Files may come from untrusted sources: pipes and devices are refused, and sizes, nesting and numbers have upper bounds.
Uses the standard library only.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import re
import tomllib
import uuid
from collections.abc import Callable
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, BinaryIO

from ovlabel.errors import ConfigError, ordinary, short, shown

log = logging.getLogger("ovlabel")

_VALUES = 2**22  # in JSON data of a store: 65,534 classes with their synonyms and prompts, or 200,000 records


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


# What systems and programs keep beside people's files, in small letters. Names that begin with a dot need no mention.
_OF_THE_SYSTEM = frozenset(
    {
        "lost+found", "lost.dir", "found.000",  # what a check of the disk has found
        "system volume information", "$recycle.bin", "recycler", "recycled",  # Windows
        "thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini",
        "__macosx", "icon\r", "network trash folder", "temporary items", "thevolumesettingsfolder",  # macOS
        "@eadir", "#recycle", "#snapshot", "@tmp", "@sharebin",  # Synology
        "@recycle", "@recently-snapshot", "@__thumb", "~snapshot",  # QNAP, NetApp
    }
)  # fmt: skip


def passed_over(name: str) -> bool:
    """Whether a file or folder is hidden or belongs to a system, and so never counts as what a person has put there.

    Args:
        name: the last part of a path.

    Example:
        >>> [passed_over(name) for name in ("._a.jpg", ".DS_Store", "@eaDir", "LOST+FOUND", "a.jpg")]
        [True, True, True, True, False]
    """
    return name.startswith(".") or name.lower() in _OF_THE_SYSTEM


def occupied(path: Path) -> bool:
    """Whether a path leads to a file, or to a folder that holds anything that is not passed over.

    Raises:
        OSError: the folder can't be read.
    """
    return path.exists() and (not path.is_dir() or not all(passed_over(name) for name in os.listdir(path)))


def read_up_to(path: str | Path, limit: int) -> bytes:
    """The content of a regular file.

    Args:
        path: the file.
        limit: the most bytes that are read.

    Raises:
        OSError: it can't be read, or is no regular file (EINVAL), or is larger than `limit` (EFBIG).
    """
    with open_regular(path) as file:
        return content(file, limit, path)


def content(file: BinaryIO, limit: int, path: str | Path) -> bytes:
    """The content of an open file.

    Args:
        file: the file, open for reading in binary.
        limit: the most bytes that are read.
        path: the file, for messages.

    Raises:
        OSError: it can't be read, or is larger than `limit` (EFBIG).
    """
    size = os.fstat(file.fileno()).st_size
    data = file.read(size + 1) if size <= limit else b""
    if max(size, len(data)) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit / 2**20:g} MiB", str(path))
    return data


def parse_json(data: bytes) -> Any:
    """The content of JSON data that may come from anywhere, if it holds no more than four million values.

    The bound is one of memory: `[],` are three bytes in a file and some seventy once they are read.

    Raises:
        ValueError: it is no JSON, or holds more values, or a number in it is too long.
        RecursionError: it is nested too deeply.
    """
    if sum(map(data.count, (b",", b"[", b"{"))) > _VALUES:
        raise ValueError(f"more than {_VALUES} values")
    return json.loads(data)


def put(path: Path, data: bytes | memoryview, *, new: bool = False, last: Callable[[], None] = lambda: None) -> None:
    """Write a file whole or not at all, and force its content and its name to the disk.

    Args:
        path: the file; its folder must exist.
        data: the content.
        new: leave a file that exists already as it is.
        last: is called when the data are on the disk, just before the file gets its name; what it raises is passed on.

    Raises:
        OSError: the folder does not exist, is full or is not writable. No partial file is left.
    """
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        last()
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
    """The folder of the cache: $OVLABEL_CACHE, else $XDG_CACHE_HOME/ovlabel, else ~/.cache/ovlabel.

    A user without a home folder has one among the temporary files, and a line in the log says so.
    """
    if own := os.environ.get("OVLABEL_CACHE"):
        return Path(own)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "ovlabel"
    settle_home()
    home = Path(os.path.expanduser("~"))
    if home.name == _temporary_name():
        _tell(f"no home folder: the cache lies in {home}; set HOME, or OVLABEL_CACHE and HF_HOME, to folders that stay")
    return home / ".cache" / "ovlabel"


def settle_home() -> None:
    """Set $HOME to a private folder among the temporary files for a user who has neither $HOME nor an entry in passwd.

    Containers and batch systems have such users. Other libraries find their caches there too. Where that folder
    can't be made, or belongs to somebody else, $HOME is set to a place where nothing can be.
    """
    if os.path.expanduser("~") != "~":
        return
    home = Path(os.devnull)
    with contextlib.suppress(OSError):
        import tempfile

        found = Path(tempfile.gettempdir()) / _temporary_name()
        found.mkdir(0o700, exist_ok=True)
        stat = found.lstat()
        if S_ISDIR(stat.st_mode) and stat.st_uid == os.getuid() and not stat.st_mode & 0o022:
            home = found
    os.environ["HOME"] = str(home)


def _temporary_name() -> str:
    """The name of a home folder among the temporary files."""
    return f"ovlabel-home-{os.getuid()}"


@functools.cache
def _tell(message: str) -> None:
    """Log a message, once in a process."""
    log.info("%s", message)


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
TEXT_BYTES = 8 * 2**20
_DEPTH, _KEY, _STRING = 16, 1000, 100_000


def read_text(path: Path, kind: str = "text") -> str:
    """The content of a text file of at most 8 MiB, in UTF-8, or in UTF-16 with a byte order mark.

    Args:
        path: the file.
        kind: the format, as error messages call it.

    Raises:
        ConfigError: it can't be read, is larger, is no regular file, or is in another encoding.
    """
    try:
        data = read_up_to(path, TEXT_BYTES)
        return data.decode("utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not valid {kind}: byte {error.start} is not UTF-8; save it as UTF-8") from None


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
