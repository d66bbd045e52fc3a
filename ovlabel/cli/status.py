"""`ovlabel status`: what a store holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ovlabel.cli.commands import Command
from ovlabel.cli.options import StorePath
from ovlabel.errors import StoreError, printable

if TYPE_CHECKING:
    from ovlabel.store.read import Store


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=Command)(status)


def status(store: StorePath) -> None:
    """What a store holds: its run, how much is done, what is pending, what failed and why.

    \b
    Example:
      ovlabel status images.ovlabel.zarr
    """
    from ovlabel.cli.messages import others_line
    from ovlabel.run.listing import Selection, list_folder
    from ovlabel.store.lock import owners
    from ovlabel.store.read import open_store

    opened = open_store(store)
    print(f"store      {printable(str(store))}")
    if opened.folder.is_dir():
        listing = list_folder(opened.folder, Selection())
        items = listing.items
        gone = len(opened.records.keys() - {item.key for item in items})
        left = f", {gone} known ones are not there any more" if gone else ""
        counts = f"{len(items)} images, {len(opened.pending(items))} pending{left}"
        print(f"folder     {printable(str(opened.folder))} ({counts})")
        if listing.others:
            print(f"           {others_line(listing.others)}")
    else:
        print(f"folder     {printable(str(opened.folder))} (not there)")
    print(f"done       {len(opened)}")
    print(f"failed     {len(opened.failed)}")
    print(f"classes    {len(opened.classes)}: {', '.join(opened.class_names[:6])}{', …' * (len(opened.classes) > 6)}")
    try:
        print("\n".join(_run_lines(opened)))
    except (KeyError, TypeError, AttributeError):
        raise StoreError(f"{store}/zarr.json is damaged: what it says of its run can't be read") from None
    print(f"committed  {opened.committed or 'nothing yet'}")
    for owner in owners(store):
        print(f"lock       {owner}, who is writing or died of it")
    for name, reason in opened.damaged.items():
        print(f"damaged: the record of chunk {name}: {reason} (ovlabel verify)")
    for key, record in opened.failed.items():
        times = f"{record.attempts} times, last" if record.attempts > 1 else "on"
        print(f"failed: {printable(key)}: {record.stage}: {record.error} ({record.exception}; {times} {record.time})")


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
