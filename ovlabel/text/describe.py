"""Descriptions of classes by a language model: asked of a server that the user names, or read from a file of answers.

Used by `ovlabel vocab describe`. Standard library only.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ovlabel.errors import ConfigError, short
from ovlabel.files import put, read_text
from ovlabel.text.endpoint import Endpoint
from ovlabel.text.vocabulary import MOST_OF_SENTENCE, without_controls

_ASK = (
    "Write {count} short sentences that each describe how {name!r} looks in a photograph: its shape, colour, material, "
    "parts, surroundings. Every sentence names it. Answer with the sentences only, one a line."
)
_SECONDS_BETWEEN = 5.0  # what a crash loses of answers, at the most
Descriptions = dict[str, list[str]]


def ask(
    names: Sequence[str], endpoint: Endpoint, count: int, known: Mapping[str, Sequence[str]], keep: Callable[..., None]
) -> Descriptions:
    """Ask a language model to describe classes.

    Args:
        names: of the classes; each that is not known is asked for in a request of its own.
        endpoint: the server.
        count: the most sentences for each class.
        known: sentences that are there already, by the name of the class.
        keep: called with all sentences so far: every few seconds, and before an error leaves this function.

    Returns:
        The sentences for each name.

    Raises:
        ConfigError: no answer came, or one without sentences.
    """
    found = {name: list(sentences) for name, sentences in known.items()}
    saved = time.monotonic()
    try:
        for name in names:
            if name in found:
                continue
            found[name] = _sentences(endpoint.ask(_ASK.format(count=count, name=name)), name)[:count]
            if time.monotonic() > saved + _SECONDS_BETWEEN:
                keep(found)
                saved = time.monotonic()
    except ConfigError as error:
        kept = f"; the answers for {len(found)} classes are kept, and the same command goes on" if found else ""
        raise ConfigError(f"asked for '{short(name)}': {error}{kept}") from None
    finally:
        if found:
            keep(found)
    return found


def _sentences(text: str, name: str) -> list[str]:
    """The lines of an answer without numbers, bullets and quotation marks around them, each once.

    Characters that no sentence may hold become blanks, several blanks one; lines too long for a sentence are left out.
    """
    plain = (" ".join(without_controls(line).split()) for line in text.splitlines())
    lines = [re.sub(r'^[\s\-*•\d.)"]+|(?<!["\s])["\s]++$', "", line) for line in plain]
    found = [line for line in dict.fromkeys(lines) if line and len(line) <= MOST_OF_SENTENCE]
    if not found:
        raise ConfigError(f"the answer for '{name}' holds no sentence")
    return found


def read_answers(path: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """Read a file of a language model's answers.

    A line is "class: sentence", or the name of a class, or a sentence that belongs to the class named last.

    Args:
        path: the file.
        names: the names of the classes.

    Returns:
        The sentences for each name.

    Raises:
        ConfigError: the file can't be read, has a sentence before any class, or no sentence for some class.
    """
    lines = read_text(path).splitlines()
    found: dict[str, list[str]] = {}
    known, current = set(names), ""
    for number, line in enumerate(lines, start=1):
        head, colon, rest = line.partition(":")
        if head.strip() in known and (colon or not rest):
            current, line = head.strip(), rest
        if not line.strip():
            continue
        if not current:
            raise ConfigError(f"{path}, line {number}: no class before it; write 'class: sentence'")
        found.setdefault(current, []).extend(_sentences(line, current))
    without = [name for name in names if name not in found]
    if without:
        raise ConfigError(f"{path} holds nothing for {', '.join(without[:4])}{', …' * (len(without) > 4)}")
    return found


def write(path: Path, descriptions: Mapping[str, Sequence[str]]) -> None:
    """Write a description file, for the setting `text.descriptions`.

    Args:
        path: the file; replaced as a whole if it exists.
        descriptions: the sentences for each class, by its name.

    Raises:
        ConfigError: it can't be written.
    """
    quoted = {name: [_quoted(sentence) for sentence in sentences] for name, sentences in descriptions.items()}
    blocks = [f"{_quoted(name)} = [\n" + "".join(f"    {s},\n" for s in own) + "]\n" for name, own in quoted.items()]
    try:
        put(path.resolve(), "\n".join(blocks).encode())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def check_writable(path: Path) -> None:
    """Check that a description file can be written, before anything is asked for it.

    Raises:
        ConfigError: it is a folder, a pipe or a device, or its folder does not exist or can't be written.
    """
    if path.exists() and not path.is_file():
        raise ConfigError(f"cannot write {path}: it is no regular file")
    if not os.access(path.resolve().parent, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write {path}: its folder does not exist, or nothing may be written there")


def _quoted(text: str) -> str:
    """A text as TOML writes it."""
    return json.dumps(text, ensure_ascii=False)


def api_key() -> str:
    """The value of $OPENAI_API_KEY; empty if it is not set."""
    return os.environ.get("OPENAI_API_KEY", "")
