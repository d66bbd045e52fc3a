"""Descriptions of classes by a language model: asked of a server that the user names, or read from a file of answers.

Used by `ovlabel vocab describe`. Standard library only.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from ovlabel.errors import ConfigError, short
from ovlabel.files import read_text

_ASK = (
    "Write {count} short sentences that each describe how {name!r} looks in a photograph: its shape, colour, material, "
    "parts, surroundings. Every sentence names it. Answer with the sentences only, one a line."
)
_SECONDS = 60
_ANSWER = 2**20  # the most bytes that are read of a server's answer
_FAILED = (OSError, http.client.HTTPException, ValueError, KeyError, IndexError, TypeError, RecursionError)


def ask(names: Sequence[str], endpoint: str, model: str, count: int, key: str = "") -> dict[str, list[str]]:
    """Ask a language model to describe classes.

    Args:
        names: of the classes; each is asked for in a request of its own.
        endpoint: the URL of an API compatible with OpenAI's, such as "http://localhost:8000/v1".
        model: the name of the model there.
        count: the most sentences for each class.
        key: sent as a bearer token, unless empty.

    Returns:
        The sentences for each name.

    Raises:
        ConfigError: no answer came, or one without sentences.
    """
    return {name: _asked(name, endpoint, model, count, key) for name in names}


def _asked(name: str, endpoint: str, model: str, count: int, key: str) -> list[str]:
    question = {"role": "user", "content": _ASK.format(count=count, name=name)}
    body = json.dumps({"model": model, "messages": [question]}).encode()
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    url = f"{endpoint.rstrip('/')}/chat/completions"
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"--endpoint {endpoint}: write it with http:// or https://")
    try:
        request = urllib.request.Request(url, body, headers)
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            text = json.loads(answer.read(_ANSWER))["choices"][0]["message"]["content"]
    except _FAILED as error:
        raise ConfigError(f"{url} gave no answer for '{name}': {type(error).__name__} {short(error)}") from None
    return _sentences(str(text), name)[:count]


def _sentences(text: str, name: str) -> list[str]:
    """The lines of an answer without numbers, bullets and quotation marks around them, each once."""
    lines = [re.sub(r'^[\s\-*•\d.)"]+|(?<!["\s])["\s]++$', "", line) for line in text.splitlines()]
    found = [line for line in dict.fromkeys(lines) if line]
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


def write(path: Path, descriptions: dict[str, list[str]]) -> None:
    """Write a description file, for the setting `text.descriptions`.

    Args:
        path: the file; replaced if it exists.
        descriptions: the sentences for each class, by its name.

    Raises:
        ConfigError: it can't be written.
    """
    quoted = {name: [json.dumps(s, ensure_ascii=False) for s in sentences] for name, sentences in descriptions.items()}
    blocks = [
        f"{json.dumps(name, ensure_ascii=False)} = [\n" + "".join(f"    {s},\n" for s in sentences) + "]\n"
        for name, sentences in quoted.items()
    ]
    try:
        path.write_text("\n".join(blocks), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def api_key() -> str:
    """The value of $OPENAI_API_KEY; empty if it is not set."""
    return os.environ.get("OPENAI_API_KEY", "")
