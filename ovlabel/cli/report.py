"""`ovlabel report`: a folder of web pages about a store."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from ovlabel.cli.commands import Command
from ovlabel.cli.exit_codes import OK, SOME_FAILED
from ovlabel.cli.messages import say
from ovlabel.cli.options import StorePath

log = logging.getLogger("ovlabel")

_NAMED = 10  # photographs that could not be drawn, and why


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=Command)(report)


def report(
    store: StorePath,
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="FOLDER", help="Folder to write; an earlier report is brought up to date."),
    ],
    truth: Annotated[
        tuple[str, Path] | None,
        typer.Option(metavar="NAME PATH", help="Ground truth: how masks are written (voc, …), and where they are."),
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(metavar="STORE", help="Another store of these images, to see where they differ.")
    ] = None,
    top: Annotated[
        int, typer.Option(min=0, metavar="N", help="Make pictures of the first N images of each queue.")
    ] = 200,
) -> None:
    """Write pages that show what to look at first: they open from the disk.

    Which images are likely to be wrong comes first. Decide there, save the
    decisions, and give them to 'ovlabel review'.

    \b
    Examples:
      ovlabel report images.ovlabel.zarr -o report
      ovlabel report images.ovlabel.zarr -o report --truth voc masks
    """
    from ovlabel.report import ReportOptions, make_report

    convention, ground_truth = truth or ("raw", None)
    made = make_report(store, out, ReportOptions(ground_truth, convention, compare, top))
    for key, reason in list(made.missing.items())[:_NAMED]:
        log.warning("%s: %s", key, reason)
    if made.missing:
        log.warning("%d photographs could not be drawn; the same command tries again", len(made.missing))
    say(str(made.page))
    raise typer.Exit(SOME_FAILED if made.missing else OK)
