"""`ovlabel verify`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovlabel.cli.commands import Command
from ovlabel.cli.exit_codes import OK, STORE
from ovlabel.cli.messages import say, say_json
from ovlabel.cli.options import AsJson, StorePath

if TYPE_CHECKING:
    from ovlabel.store.verify import Report


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=Command)(verify)


def verify(
    store: StorePath,
    mend: Annotated[bool, typer.Option("--repair", help="Take out what is damaged; it is pending then.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Repair: wait for a run that is writing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare every array of a store with its recorded length and checksum.

    Exits with 0 if all is well, or repaired, and with 4 if something is damaged. After a repair, 'ovlabel annotate'
    does exactly the images again that were damaged.

    \b
    Example:
      ovlabel verify images.ovlabel.zarr --repair
    """
    from ovlabel.store.read import open_store
    from ovlabel.store.verify import repair
    from ovlabel.store.verify import verify as check

    opened = open_store(store)
    report = repair(store, wait=wait) if mend else check(opened)
    if as_json:
        say_json({**asdict(report), "clean": report.clean})
    else:
        _print(store, report)
    raise typer.Exit(OK if report.clean or report.repaired else STORE)


def _print(store: Path, report: Report) -> None:
    for key, reason in report.bad.items():
        say(f"damaged: {key}: {reason}")
    for name, reason in report.records.items():
        say(f"damaged: the record of chunk {name}: {reason}")
    damage = f"{len(report.bad)} damaged" + (f", {len(report.records)} records damaged" if report.records else "")
    unfinished = f", {len(report.unfinished)} chunks unfinished" if report.unfinished and not report.repaired else ""
    say(f"{report.images} images checked, {damage}{unfinished} in {store}")
    if not report.clean:
        again = "annotate the folder again" if report.repaired else "--repair takes it out"
        say(f"{'repaired' if report.repaired else 'not repaired'}: {again}; nothing else is touched")
