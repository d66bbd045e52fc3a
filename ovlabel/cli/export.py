"""`ovlabel export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovlabel.errors import ConfigError, printable
from ovlabel.formats import export, format_names
from ovlabel.store.read import open_store


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export")(export_store)


def export_store(
    store: Annotated[Path, typer.Argument(help="Store made by 'ovlabel annotate'.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; empty or not there yet.")],
    form: Annotated[str, typer.Option("--format", help=", ".join(format_names()) + ".")] = "png",
    min_confidence: Annotated[float, typer.Option(help="Pixels of less get no label; 0 … 1.")] = 0.0,
    by_class: Annotated[
        list[str] | None,
        typer.Option("--class-confidence", metavar="NAME=P", help="The same for one class; may repeat."),
    ] = None,
) -> None:
    """Write every annotated image of a store in a format that other tools read."""
    least = {}
    for text in by_class or []:
        name, _, value = text.rpartition("=")
        try:
            least[name.strip()] = float(value)
        except ValueError:
            raise ConfigError(f'--class-confidence {text}: write it as "class name=0.7"') from None
    count = export(open_store(store), out, form, min_confidence=min_confidence, by_class=least)
    print(f"{count} images as {form} in {printable(str(out))}")
