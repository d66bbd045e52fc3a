"""`ovlabel doctor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ovlabel import doctor as examination
from ovlabel.cli.codes import OK, SOME_FAILED
from ovlabel.errors import printable


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(
    path: Annotated[
        Path | None, typer.Argument(metavar="STORE_OR_FOLDER", help="A store, or a folder of images, to look at too.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="As in 'ovlabel annotate'.")] = None,
    weights: Annotated[str | None, typer.Option(help="As in 'ovlabel annotate'; must be on this machine.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False,
) -> None:
    """What there is here to annotate with (versions, devices, weights, caches), and what is wrong.

    Opens no connection and changes nothing. Exits with 3 where it finds a problem, else with 0.
    """
    report = examination.examine(path, model, weights)
    if as_json:
        print(json.dumps({**report.sections, "problems": report.problems}, indent=2))
    else:
        for found in report.sections.values():
            for label, value in found.items():
                print(f"{label:<17}{printable(value)}")
            print()
        for problem in report.problems:
            print(f"problem: {printable(problem)}")
        if not report.problems:
            print("no problems found")
    raise typer.Exit(SOME_FAILED if report.problems else OK)
