"""`ovlabel compact`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from ovlabel.cli.commands import Command
from ovlabel.cli.exit_codes import OK, STORE
from ovlabel.cli.options import AsJson, StorePath
from ovlabel.errors import printable


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=Command)(compact)


def compact(
    store: StorePath,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for a run that is writing there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Gather many small commits of a store into few large ones.

    Every run adds a commit, so that years of nightly runs make thousands of
    them, and each is read when the store is opened. Nothing else changes, and
    nothing is lost if it is stopped.

    \b
    Example:
      ovlabel compact images.ovlabel.zarr
    """
    from ovlabel.store.compact import compact as gather

    gathered = gather(store, wait=wait)
    if as_json:
        print(json.dumps(asdict(gathered)))
    else:
        left = f"; {len(gathered.damaged)} images are damaged (ovlabel verify)" if gathered.damaged else ""
        print(f"{gathered.before} commits became {gathered.after} in {printable(str(store))}{left}")
    raise typer.Exit(STORE if gathered.damaged else OK)
