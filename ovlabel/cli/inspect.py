"""`ovlabel status` and `ovlabel show`: what is in a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovlabel.errors import ConfigError, ImageError, StoreError, printable, unknown
from ovlabel.pictures.read import decode, read_file
from ovlabel.run.listing import list_images
from ovlabel.store.lock import owners
from ovlabel.store.read import Store, open_store


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(status)
    app.command()(show)


def status(store: Annotated[Path, typer.Argument(help="Store made by 'ovlabel annotate'.")]) -> None:
    """What a store holds: its run, how much is done, what is pending, what failed and why."""
    opened = open_store(store)
    print(f"store      {printable(str(store))}")
    if opened.folder.is_dir():
        items = list_images(opened.folder)
        gone = len(opened.records.keys() - {item.key for item in items})
        left = f", {gone} known ones are not there any more" if gone else ""
        counts = f"{len(items)} images, {len(opened.pending(items))} pending{left}"
        print(f"folder     {printable(str(opened.folder))} ({counts})")
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


def show(
    store: Annotated[Path, typer.Argument(help="Store made by 'ovlabel annotate'.")],
    image: Annotated[str, typer.Argument(help="Its key, or as much of its path as names only one.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Picture to write.")] = Path("overlay.png"),
) -> None:
    """Draw one photograph with its labels in colour and a legend of classes by share of the pixels."""
    from ovlabel.pictures.overlay import overlay

    opened = open_store(store)
    stored = opened[find_key(opened, image)]
    photograph = printable(str(stored.path))
    if out.resolve().is_relative_to(opened.folder.resolve()):
        raise ConfigError(f"{out} would lie among the photographs of {opened.folder}; pass -o with another folder")
    try:
        data, sha256, _ = read_file(stored.path)
        picture = decode(data)
    except ImageError as error:
        raise ConfigError(f"{photograph}: {error}") from None
    if sha256 != stored.record.sha256:
        raise ConfigError(f"{photograph} has changed since it was annotated; run 'ovlabel annotate' again first")
    labels = stored.labels
    try:
        overlay(picture, labels, opened.class_names, [entry.colour for entry in opened.classes]).save(out)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot write {out}: {error}") from None
    print(out)


def find_key(store: Store, name: str) -> str:
    """The key that is `name`, or the only one whose path ends in it. Raises ConfigError."""
    if name in store:
        return name
    if name in store.failed:
        raise ConfigError(f"'{printable(name)}' was not annotated: {store.failed[name].error}")
    wanted = Path(name)
    found = [
        key
        for key in store
        if printable(key) == name
        or Path(key).parts[-len(wanted.parts) :] == wanted.parts
        or (len(wanted.parts) == 1 and Path(key).stem == name)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(printable(key) for key in found[:4])
        raise ConfigError(f"'{name}' fits {len(found)} images: {shown}; write more of the path")
    raise ConfigError(unknown("image", name, (printable(key) for key in store)))
