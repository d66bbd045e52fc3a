"""The tables of the manual that are made from the declarations. `python -m tests.tables` writes them anew.

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->` in a `README.md`; what is between the two
lines is made, and a test fails where it is not what would be made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ovlabel.fields import Declared, declared
from ovlabel.settings.keys import SECTIONS, stage_names
from ovlabel.settings.reading import load_config, preset_names, read_preset
from ovlabel.spine.stack import stage_class

ROOT = Path(__file__).parents[1]
MANUALS = (ROOT / "ovlabel/settings/README.md", ROOT / "ovlabel/stages/README.md")
_PLACE = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def made(manual: str) -> str:
    """The text of a manual with its tables made anew."""
    return _PLACE.sub(lambda place: place[1] + "\n".join(_TABLES[place[2]]()) + "\n" + place[3], manual)


def _keys() -> Iterator[str]:
    yield "| key | default | takes | meaning |"
    yield "|---|---|---|---|"
    for cls in SECTIONS.values():
        yield from _fields(cls)


def _stage_keys() -> Iterator[str]:
    yield "| key | default | takes | meaning |"
    yield "|---|---|---|---|"
    for name in stage_names():
        yield from _fields(stage_class(name))


def _stages() -> Iterator[str]:
    yield "| stage | levels | what it does |"
    yield "|---|---|---|"
    for name in stage_names():
        cls = stage_class(name)
        yield f"| [`{name}`]({name}.py) | {', '.join(cls.acts_at())} | {_cell(cls.title())} |"


def _presets() -> Iterator[str]:
    yield "| preset | stages | last block | what it is |"
    yield "|---|---|---|---|"
    for name in preset_names():
        config = load_config(name)
        stack = ", ".join(stage.use for stage in config.stages) or "none"
        title = read_preset(name)["title"]
        yield f"| [`{name}`](presets/{name}.toml) | {stack} | `{config.encoder.last_block}` | {_cell(title)} |"


def _fields(cls: type[Declared]) -> Iterator[str]:
    for field in declared(cls):
        cells = (f"`{cls.prefix()}.{field.name}`", _code(field.default), field.takes, field.doc)
        yield f"| {' | '.join(map(_cell, cells))} |"


def _code(value: Any) -> str:
    """A default as it is written in TOML; nothing for an empty string."""
    return "" if value == "" else f"`{json.dumps(value, ensure_ascii=False)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


_TABLES = {"keys": _keys, "presets": _presets, "stages": _stages, "stage-keys": _stage_keys}


if __name__ == "__main__":
    for path in MANUALS:
        path.write_text(made(path.read_text(encoding="utf-8")), encoding="utf-8")
