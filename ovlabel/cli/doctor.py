"""`ovlabel doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovlabel.cli.commands import Command
from ovlabel.cli.exit_codes import OK, SOME_FAILED
from ovlabel.cli.messages import say, say_json
from ovlabel.cli.options import AsJson, Model, Weights


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=Command)(doctor)


def doctor(
    path: Annotated[
        Path | None, typer.Argument(metavar="STORE_OR_FOLDER", help="A store, or a folder of images, to look at too.")
    ] = None,
    model: Model = None,
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    """What there is here to annotate with (versions, devices, weights, caches), and what is wrong.

    Opens no connection and changes nothing. Exits with 3 where it finds a problem, else with 0.
    Weights that are named must be on this machine.

    \b
    Example:
      ovlabel doctor ./images
    """
    from ovlabel.doctor import examine

    report = examine(path, model, weights)
    if as_json:
        say_json({**report.sections, "problems": report.problems}, indent=2)
    else:
        for found in report.sections.values():
            for label, value in found.items():
                say(f"{label:<17}{value}")
            say()
        for problem in report.problems:
            say(f"problem: {problem}")
        if not report.problems:
            say("no problems found")
    raise typer.Exit(SOME_FAILED if report.problems else OK)
