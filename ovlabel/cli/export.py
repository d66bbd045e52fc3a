"""`ovlabel export`."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated

import typer

from ovlabel.cli.commands import Command
from ovlabel.cli.messages import say
from ovlabel.cli.options import StorePath, complete_formats
from ovlabel.errors import ConfigError, short
from ovlabel.formats import export, format_names


def register(app: typer.Typer) -> None:
    """Add the command."""
    formats = textwrap.fill(f"Formats: {', '.join(format_names())}.", 76, break_on_hyphens=False)
    app.command("export", cls=Command, epilog=f"\b\n{formats}")(export_store)


def export_store(
    store: StorePath,
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write; empty or not there yet.")],
    form: Annotated[
        str, typer.Option("--format", metavar="NAME", help="One of those below.", autocompletion=complete_formats)
    ] = "png",
    min_confidence: Annotated[float, typer.Option(metavar="P", help="Pixels of less get no label; 0 … 1.")] = 0.0,
    by_class: Annotated[
        list[str] | None,
        typer.Option("--class-confidence", metavar="NAME=P", help="The same for one class; may repeat."),
    ] = None,
    ids_from: Annotated[
        Path | None, typer.Option(metavar="JSON", help="COCO: image ids of the same file names, from this file.")
    ] = None,
    image_url: Annotated[
        str, typer.Option(metavar="PREFIX", help="Label Studio: stands before the photographs' names.")
    ] = "",
) -> None:
    """Write every annotated image of a store in a format that other tools read.

    \b
    Example:
      ovlabel export images.ovlabel.zarr labels --format coco-panoptic
    """
    least = {}
    for text in by_class or []:
        name, _, value = text.rpartition("=")
        try:
            least[name.strip()] = float(value)
        except ValueError:
            raise ConfigError(f'--class-confidence {short(text)}: write it as "class name=0.7"') from None
    count = export(
        store, out, form, min_confidence=min_confidence, by_class=least, ids_from=ids_from, image_url=image_url
    )
    say(f"{count} images as {form} in {out}")
