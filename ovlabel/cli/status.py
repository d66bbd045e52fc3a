"""`ovlabel status`: what a store holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ovlabel.cli.commands import Command
from ovlabel.cli.messages import others_line, say, say_all
from ovlabel.cli.options import StorePath
from ovlabel.errors import StoreError, printable

if TYPE_CHECKING:
    from ovlabel.store.read import Store


_MANY = 256  # small commits, which together take some 50 ms to read
_BY_NAME = 100_000  # images in a store; the size and time of every file would take most of the command's time


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=Command)(status)


def status(store: StorePath) -> None:
    """What a store holds: its run, how much is done, what is pending, what failed and why.

    \b
    Example:
      ovlabel status images.ovlabel.zarr
    """
    from ovlabel.store.lock import owners
    from ovlabel.store.read import open_store

    opened = open_store(store)
    say(f"store      {printable(str(store))}")
    if opened.folder.is_dir():
        compared, others = _compared(opened)
        say(f"folder     {printable(str(opened.folder))} ({compared})")
        if others:
            say(f"           {others}")
    else:
        say(f"folder     {printable(str(opened.folder))} (not there)")
    say(f"done       {len(opened)}")
    say(f"failed     {len(opened.failed)}")
    say(f"classes    {len(opened.classes)}: {', '.join(opened.class_names[:6])}{', …' * (len(opened.classes) > 6)}")
    try:
        say_all(_run_lines(opened))
    except (KeyError, TypeError, AttributeError):
        raise StoreError(f"{store}/zarr.json is damaged: what it says of its run can't be read") from None
    say(f"committed  {opened.committed or 'nothing yet'}")
    if (small := opened.records.small_commits) > _MANY:
        say(f"commits    {small} of few images make it slow to open: 'ovlabel compact' gathers them")
    for owner in owners(store):
        say(f"lock       {owner}, who is writing or died of it")
    for name, reason in opened.damaged.items():
        say(f"damaged: the record of chunk {name}: {reason} (ovlabel verify)")
    for key, record in opened.failed.items():
        times = f"{record.attempts} times, last" if record.attempts > 1 else "on"
        say(f"failed: {printable(key)}: {record.stage}: {record.error} ({record.exception}; {times} {record.time})")


def _compared(store: Store) -> tuple[str, str]:
    """How folder and store differ (where the store is large, by the names alone), and what else lies in the folder."""
    from ovlabel.run.listing import Selection, list_folder

    known = store.records
    by_name = len(known) > _BY_NAME
    listing = list_folder(store.folder, Selection(), by_name=by_name)
    images = listing.items
    pending = len(set(images.keys).difference(known)) if by_name else len(store.pending(images))
    gone = len(set(known).difference(images.keys))
    left = f", {gone} known ones are not there any more" if gone else ""
    alone = " by their names alone (annotate compares sizes and times)" if by_name else ""
    return f"{len(images)} images, {pending} pending{alone}{left}", others_line(listing.others)


def _run_lines(store: Store) -> list[str]:
    """How the run was written, and what it resolved to."""
    config, run = store.manifest.written["config"], store.manifest.run
    tiling = run["tiling"]
    window = f"windows of {tiling['window']} every {tiling['stride']}" if tiling["window"] else "whole images"
    return [
        f"asked      vocabulary {config['text']['vocabulary']}, templates {config['text']['templates']}",
        f"model      {config['encoder']['model']}, weights {config['encoder']['weights']}",
        f"stages     {', '.join(stage['use'] for stage in run['stages']) or 'none'}",
        f"tiling     short side {tiling['short_side']}, {window}",
        f"sha256     {run['encoder']['weights']}",
        f"kept       labels, confidence, probabilities: {run['store']['probabilities']}",
        f"made       {store.manifest.created} by ovlabel {store.manifest.versions['ovlabel']}",
    ]
