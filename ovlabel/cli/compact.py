"""`ovlabel compact`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ovlabel.cli.commands import Command
from ovlabel.cli.exit_codes import OK, STORE
from ovlabel.cli.messages import say, say_json
from ovlabel.cli.options import AsJson, StorePath


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
        say_json(asdict(gathered))
    else:
        left = f"; {len(gathered.damaged)} images are damaged (ovlabel verify)" if gathered.damaged else ""
        say(f"{gathered.before} commits became {gathered.after} in {store}{left}")
    raise typer.Exit(STORE if gathered.damaged else OK)
