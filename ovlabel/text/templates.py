"""Template sets: sentences with `{}` in place of the name of a class. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovlabel.errors import ConfigError, short, shown, unknown
from ovlabel.files import read_toml
from ovlabel.text.vocabulary import KINDS, check_sentences, data_folder, typed

_TEMPLATES = 1000  # the most sentences of a kind


@dataclass(frozen=True)
class Templates:
    """A template set.

    Attributes:
        name: the built-in name, or the file's name without its ending.
        title: one line that describes it.
        by_kind: sentences with one `{}` each, for "stuff", "thing" and "material".
        adaptive: put names into the sentences as a person says them ("brick wall" for "wall-brick").
    """

    name: str
    title: str
    by_kind: Mapping[str, tuple[str, ...]]
    adaptive: bool = False


def template_names() -> list[str]:
    """Names of the built-in template sets."""
    return sorted(p.stem for p in data_folder("templates").glob("*.toml"))


def load_templates(name: str) -> Templates:
    """Load a template set.

    Args:
        name: a built-in name, or the path of a TOML file.

    Raises:
        ConfigError: an unknown name, or a file that holds no template set.

    Example:
        >>> load_templates("simple").by_kind["thing"]
        ('a photo of a {}.',)
    """
    path = data_folder("templates") / f"{name}.toml" if name in template_names() else Path(os.path.expanduser(name))
    if not os.path.isfile(path):
        if path.suffix or path.parent != Path("."):
            raise ConfigError(f"no template file {name}")
        raise ConfigError(unknown("template set", short(name), template_names()))
    table = read_toml(path)
    for key in table:
        if key not in ("title", "source", "adaptive", "templates"):
            raise ConfigError(f"{path}: {unknown('key', short(key), ('title', 'source', 'adaptive', 'templates'))}")
    given = table.get("templates")
    by_kind: dict[str, Any] = given if isinstance(given, dict) else dict.fromkeys(KINDS, given)
    for kind in KINDS:
        sentences = by_kind.get(kind)
        if not isinstance(sentences, list) or not sentences:
            raise ConfigError(f"{path}: templates need a list of sentences for '{kind}'")
        if len(sentences) > _TEMPLATES:
            raise ConfigError(f"{path} has {len(sentences)} templates for '{kind}'; the most is {_TEMPLATES}")
        for sentence in sentences:
            if not isinstance(sentence, str) or sentence.count("{}") != 1:
                raise ConfigError(f"{path}: template {shown(sentence)} needs {{}} once, for the name")
        check_sentences(str(path), sentences)
    return Templates(
        name=path.stem,
        title=typed(path, table, "title", str, ""),
        by_kind={kind: tuple(by_kind[kind]) for kind in KINDS},
        adaptive=typed(path, table, "adaptive", bool, False),
    )
