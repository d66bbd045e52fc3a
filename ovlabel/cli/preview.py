"""`ovlabel preview`: a few images under several settings."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from ovlabel.cli.commands import Command
from ovlabel.cli.messages import say
from ovlabel.cli.options import Classes, Device, ImageFolder, Model, Offline, Settings, Templates, Weights, config_from
from ovlabel.errors import ConfigError

log = logging.getLogger("ovlabel")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=Command)(preview)


def preview(
    folder: ImageFolder,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="Picture to write.")] = Path("preview.png"),
    presets: Annotated[str, typer.Option(metavar="NAMES", help="Presets, separated by commas.")] = "sclip",
    vocabs: Annotated[str | None, typer.Option(metavar="NAMES", help="Vocabularies, separated by commas.")] = None,
    classes: Classes = None,
    templates: Templates = None,
    settings: Settings = None,
    model: Model = None,
    weights: Weights = None,
    device: Device = None,
    offline: Offline = False,
    images: Annotated[int, typer.Option(min=1, max=100, metavar="N", help="How many images.")] = 6,
) -> None:
    """Draw a few images under several presets and vocabularies, with seconds.

    The images are spread evenly over the folder. Nothing is kept but the
    picture.

    \b
    Example:
      ovlabel preview ./images --presets sclip,naclip --vocabs voc21,voc20
    """
    if out.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"{out} would lie among the photographs of {folder}; pass -o with another folder")
    if not out.parent.is_dir() or out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ConfigError(f"cannot write {out}: name a .png, .jpg or .webp in a folder that is there")
    names = [name.strip() for name in presets.split(",") if name.strip()]
    words = [None] if vocabs is None else [name.strip() for name in vocabs.split(",") if name.strip()]
    if not names or not words:
        raise ConfigError("--presets and --vocabs: write names separated by commas, like sclip,naclip")
    options = {"classes": classes, "templates": templates, "model": model, "weights": weights, "device": device}
    configs = {
        name if word is None else f"{name}, {word}": config_from(name, settings, vocab=word, **options)
        for name in names
        for word in words
    }

    from ovlabel.run.preview import preview as run

    done = 0

    def progress(_: str) -> None:
        nonlocal done
        done += 1
        log.info("%d of at most %d images", done, images)

    sheet, variants = run(folder, configs, images, offline=offline, on_image=progress)
    try:
        sheet.save(out)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot write {out}: {error}") from None
    for variant in variants:
        say(f"{variant.name:<40} {variant.mean_seconds:7.2f} s an image")
    say(str(out))
