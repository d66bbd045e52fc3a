"""`ovlabel review`: what people decided about the labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovlabel.cli.commands import Command
from ovlabel.cli.exit_codes import BELOW, OK, SOME_FAILED
from ovlabel.cli.messages import say, say_json
from ovlabel.cli.options import AsJson, StorePath
from ovlabel.errors import ConfigError

_NAMED = 10  # refused decisions that are named


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=Command)(review)


def review(
    store: StorePath,
    decisions: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help="Files that the pages of 'report' have saved.")
    ] = None,
    max_reject: Annotated[
        float | None,
        typer.Option(metavar="P", help="Exit with 6 if more than this part of what was decided is rejected; 0 … 1."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for a run that is writing there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take decisions into a store, and count them.

    A decision counts for the labels that were seen: it ends when an image is
    annotated anew. Without a file, what the store keeps is counted.
    Exits with 3 if decisions were not taken.

    \b
    Example:
      ovlabel review images.ovlabel.zarr decisions.json
    """
    from ovlabel.store.decisions import count, read_decisions, take_in
    from ovlabel.store.read import open_store
    from ovlabel.store.write import writing

    if max_reject is not None and not 0 <= max_reject <= 1:
        raise ConfigError(f"--max-reject {max_reject}: write a part from 0 to 1")
    refused: dict[str, str] = {}
    taken = known = 0
    if decisions:
        with writing(store, wait=wait) as opened:
            for path in decisions:
                result = take_in(opened, path)
                taken, known = taken + result.taken, known + result.known
                refused |= result.refused
    reader = open_store(store)
    counting = read_decisions(reader)
    counts = count(counting.values())
    rejected = counts["reject"] / max(1, len(counting))
    code = SOME_FAILED if refused else OK
    if max_reject is not None and rejected > max_reject:
        code = BELOW
    if as_json:
        told = {"images": len(reader), "decided": counts, "taken": taken, "known": known, "refused": refused}
        say_json(told | {"rejected": rejected, "exit_code": code})
        raise typer.Exit(code)
    for key, reason in list(refused.items())[:_NAMED]:
        say(f"not taken: {key}: {reason}")
    if len(refused) > _NAMED:
        say(f"not taken: … and {len(refused) - _NAMED} more")
    if decisions:
        say(f"{taken} decisions taken in, {known} known already, {len(refused)} not taken")
    shown = ", ".join(f"{number} {kind}" for kind, number in counts.items())
    say(f"{len(counting)} of {len(reader)} images decided ({shown}) in {store}")
    if code == BELOW:
        say(f"{rejected:.1%} of them are rejected, more than {max_reject:.1%} (--max-reject)")
    raise typer.Exit(code)
