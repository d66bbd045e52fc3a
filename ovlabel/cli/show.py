"""`ovlabel show`: one photograph with its labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from unicodedata import normalize

import typer

from ovlabel.cli.commands import Command
from ovlabel.cli.messages import say
from ovlabel.cli.options import StorePath
from ovlabel.errors import ConfigError, ImageError, StoreError, printable, unknown

if TYPE_CHECKING:
    from ovlabel.store.read import Store


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=Command)(show)


def show(
    store: StorePath,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Its key, or as much of its path as names only one.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="Picture to write.")] = Path("overlay.png"),
) -> None:
    """Draw one photograph with its labels in colour and a legend of classes by share of the pixels.

    \b
    Example:
      ovlabel show images.ovlabel.zarr holiday/beach.jpg -o overlay.png
    """
    from ovlabel.pictures.overlay import overlay
    from ovlabel.pictures.read import decode, read_file
    from ovlabel.store.read import check_outside, open_store

    opened = open_store(store)
    stored = opened[find_key(opened, image)]
    photograph = printable(str(stored.path))
    check_outside(opened, out)
    try:
        data, sha256, _ = read_file(stored.path)
        picture = decode(data)
    except ImageError as error:
        raise ConfigError(f"{photograph}: {error}") from None
    if sha256 != stored.record.sha256:
        raise ConfigError(f"{photograph} has changed since it was annotated; run 'ovlabel annotate' again first")
    labels = stored.labels
    if labels.shape != picture.shape[:2]:
        raise StoreError(f"{photograph} has other than the {labels.shape[1]} × {labels.shape[0]} pixels of its labels")
    try:
        overlay(picture, labels, opened.class_names, [entry.colour for entry in opened.classes]).save(out)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot write {out}: {error}") from None
    say(str(out))


def find_key(store: Store, name: str) -> str:
    """The key that is `name`, or the only one whose path ends in it. Raises ConfigError."""
    if name in store:
        return name
    if name in store.failed:
        raise ConfigError(f"'{printable(name)}' was not annotated: {store.failed[name].error}")
    wanted = Path(normalize("NFC", name))
    found = [key for key in store if printable(key) == name or _ends_in(Path(normalize("NFC", key)), wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(printable(key) for key in found[:4])
        raise ConfigError(f"'{name}' fits {len(found)} images: {shown}; write more of the path")
    raise ConfigError(unknown("image", name, (printable(key) for key in store)))


def _ends_in(path: Path, wanted: Path) -> bool:
    """Whether a path ends in the wanted one, or is a file of that name but for its suffix."""
    alone = len(wanted.parts) == 1 and path.stem == wanted.name
    return alone or path.parts[-len(wanted.parts) :] == wanted.parts
