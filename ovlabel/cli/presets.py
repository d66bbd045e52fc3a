"""`ovlabel presets`: the presets, or one in full."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from ovlabel.cli.commands import Command
from ovlabel.cli.messages import say, say_all
from ovlabel.cli.options import complete_presets, complete_vocabularies


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=Command)(presets)


def presets(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Show one in full, as it resolves.", autocompletion=complete_presets),
    ] = None,
    vocab: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Resolve it for this vocabulary.", autocompletion=complete_vocabularies),
    ] = None,
) -> None:
    """The presets; or one in full, as it resolves for a vocabulary: a preset file to start from.

    \b
    Example:
      ovlabel presets naclip --vocab voc21 > mine.toml
    """
    from ovlabel.settings.reading import load_config, preset_names, read_preset
    from ovlabel.text.vocabulary import load_vocabulary

    if name is None:
        for preset in preset_names():
            table = read_preset(preset)
            used = ", ".join(stage["use"] for stage in table.get("stages", [])) or "none"
            say(f"{preset:<12} {table['title']} (stages: {used})")
        return
    if vocab is not None:
        load_vocabulary(vocab)
    config = load_config(name, {"text.vocabulary": vocab} if vocab else {})
    if name not in preset_names():  # a file of the user's own: what its stages take is known to the stages alone
        from ovlabel.spine.stack import make_stage

        for entry in config.stages:
            make_stage(entry)
    values = config.to_dict()
    stack = values.pop("stages")
    tables = [(f"[{section}]", fields) for section, fields in values.items()]
    for title, fields in [*tables, *(("[[stages]]", stage) for stage in stack)]:
        lines = [f"{key} = {_toml(value)}" for key, value in fields.items()]
        say_all([title, *lines, ""])


def _toml(value: Any) -> str:
    """A value as TOML writes it, with TOML's own escapes for what is not printable."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in text)
