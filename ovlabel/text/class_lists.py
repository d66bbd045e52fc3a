"""Reads lists of classes in the forms of other tools: plain and numbered lines, YAML, JSON, CSV, label maps.

The form is told by a file's content, and by its suffix only where the content leaves it open. What is of no known form
is refused by name. Files may be hostile: nothing in them is run, and aliases of YAML are refused. Used by `vocabulary`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ovlabel.errors import ConfigError
from ovlabel.files import TEXT_BYTES, open_regular, read_text
from ovlabel.text._class_lines import NO_BACKGROUND, from_lines
from ovlabel.text._class_tables import from_table, is_table
from ovlabel.text._class_trees import from_json, from_yaml
from ovlabel.text._listed import ClassList

__all__ = ["NO_BACKGROUND", "holds_toml", "read_class_list", "text_of"]
_HEAD = 512  # bytes that are looked at to tell a format
_BINARY = {
    b"\x89PNG": "a PNG image", b"\xff\xd8\xff": "a JPEG image", b"GIF8": "a GIF image", b"RIFF": "a WebP image",
    b"II*\0": "a TIFF image", b"MM\0*": "a TIFF image", b"BM": "a BMP image", b"%PDF": "a PDF",
    b"PK\x03\x04": "a zip file (.xlsx and .docx are such)", b"\xd0\xcf\x11\xe0": "a file of Microsoft Office",
    b"\x1f\x8b": "a gzip file", b"BZh": "a bzip2 file", b"\xfd7zXZ": "an xz file", b"\x28\xb5\x2f\xfd": "a zstd file",
    b"SQLite format 3": "a database", b"\x93NUMPY": "a NumPy array", b"\x80": "a pickle", b"PAR1": "a Parquet file",
    b"\x89HDF": "an HDF5 file", b"{\\rtf": "a rich-text document",
}  # fmt: skip
_IGNORED = ("__ignore__", "_ignore_")
_BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")
_MARKUP = re.compile(r"\s*<(!doctype|html|\?xml|annotation|svg|head|body)\b", re.IGNORECASE)
_PYTHON = re.compile(r"^[ \t]*+(from [\w.]+ import |def \w+\(|class \w+[(:]|\w+[ \t]*+=[ \t]*+[\[({])", re.MULTILINE)
_PROTOBUF = re.compile(r"^[ \t]*+(item|entry)[ \t]*+\{", re.MULTILINE)
_TOML = re.compile(r"^[ \t]*+(\[\[class\]\]|\[background\])[ \t]*+(#.*)?$", re.MULTILINE)
_KEYS = re.compile(
    r"^(names|classes|labels|categories|id2label|label2id)[ \t]*+:[ \t]*+(\[.*|\{.*|#.*)?$", re.MULTILINE
)


def holds_toml(path: Path) -> bool:
    """Whether a file is a vocabulary in TOML: by its suffix, or because its text begins a class as TOML does.

    Raises:
        ConfigError: it can't be read, or is no text.
    """
    return path.suffix.lower() == ".toml" or bool(_TOML.search(text_of(path)))


def read_class_list(path: Path) -> ClassList:
    """Read a list of classes in any known form.

    Args:
        path: the file.

    Raises:
        ConfigError: it can't be read, or is of no known form (the message names the form and what to do), or its
            numbers have gaps.
    """
    text = text_of(path)
    _refuse_others(path, text)
    suffix = path.suffix.lower()
    if suffix == ".json":
        found = from_json(path, text)
    elif suffix in (".yaml", ".yml") or _KEYS.search(text):
        found = from_yaml(path, text)
    elif text.lstrip()[:1] in ("[", "{"):
        found = _from_brackets(path, text)
    elif suffix in (".csv", ".tsv") or is_table(text):
        found = from_table(path, text)
    else:
        found = from_lines(path, text)
    kept = tuple(entry for entry in found.classes if entry.name not in _IGNORED)
    if not kept:
        raise ConfigError(f"{path} holds no class")
    if len(kept) < len(found.classes):
        said = f"{_IGNORED[0]} is labelme's mark for what is not labelled; it is no class here"
        return ClassList(kept, (*found.remarks, said))
    return found


def _from_brackets(path: Path, text: str) -> ClassList:
    """A list in brackets, in a file of any suffix: JSON, or the like in single quotes, which YAML reads."""
    try:
        return from_json(path, text)
    except ConfigError as error:
        try:
            return from_yaml(path, text)
        except ConfigError:
            raise error from None


def text_of(path: Path) -> str:
    """The text of a file that should hold a vocabulary.

    Raises:
        ConfigError: it can't be read, or is a binary file; the message says of which kind.
    """
    try:
        with open_regular(path) as file:
            head, size = file.read(_HEAD), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    kind = next((kind for start, kind in _BINARY.items() if head.startswith(start)), "")
    if not kind and size <= TEXT_BYTES and b"\0" in head and not head.startswith(_BYTE_ORDER_MARKS):
        kind = "a binary file, or UTF-16 without a byte order mark (save it as UTF-8)"
    if kind:
        raise ConfigError(f"{path} is {kind}, no vocabulary; write the classes one a line into a text file")
    return read_text(path)


def _refuse_others(path: Path, text: str) -> None:
    """Refuse text of a known form that is not read."""
    kind = ""
    if _MARKUP.match(text):
        kind = "a page of HTML or XML"
    elif _PROTOBUF.search(text):
        kind = "a label map of TensorFlow (.pbtxt)"
    elif path.suffix.lower() in (".py", ".ipynb") or _PYTHON.search(text):
        kind = "Python code"
    if kind:
        raise ConfigError(f"{path} is {kind}, no list of classes; write their names one a line into a text file")
