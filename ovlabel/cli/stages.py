"""`ovlabel stages`: the techniques; `ovlabel stages loftup`: which features suit a LoftUp checkpoint."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ovlabel.cli.commands import Command
from ovlabel.cli.messages import say
from ovlabel.cli.options import Device, ImageFolder, Model, Offline, Weights, config_from
from ovlabel.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the command and its subcommand."""
    app.callback(invoke_without_command=True)(stages)
    app.command(cls=Command, short_help="Test which features suit a LoftUp checkpoint.")(loftup)


def stages(context: typer.Context) -> None:
    """The stages: the levels at which each acts, what it does, its keys with their defaults and bounds.

    \b
    Example:
      ovlabel stages
    """
    if context.invoked_subcommand is not None:
        return
    from ovlabel.fields import declared
    from ovlabel.settings.keys import stage_names
    from ovlabel.spine.stack import stage_class

    for name in stage_names():
        cls = stage_class(name)
        say(f"{name:<20}{', '.join(cls.acts_at()):<27}{cls.title()}")
        for field in declared(cls):
            say(f"{'':<20}{name}.{field.name} = {json.dumps(field.default, ensure_ascii=False)}  ({field.takes})")
            say(f"{'':<24}{field.doc}")


def loftup(
    images: ImageFolder,
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="A file, or hf-hub:owner/name. [default: LoftUp's own, from the hub]"),
    ] = None,
    model: Model = None,
    weights: Weights = None,
    device: Device = None,
    offline: Offline = False,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Only the first N images; a few are enough.")] = 8,
) -> None:
    """Measure which features suit a LoftUp checkpoint, and so which loftup.mode to use.

    \b
    Example:
      ovlabel stages loftup ./images --checkpoint loftup.bin
    """
    from ovlabel.pictures.read import decode, read_file
    from ovlabel.run.listing import list_images

    config = config_from("plain", None, model=model, weights=weights, device=device)
    items = list_images(images)[:limit]
    if not items:
        raise ConfigError(f"no images in {images}")

    from ovlabel.evaluation.consistency import ENOUGH, rank_features
    from ovlabel.model.load import load_clip
    from ovlabel.stages._loftup_network import CHECKPOINT, load, locate

    checkpoint = checkpoint or CHECKPOINT
    network = load(locate(checkpoint, offline=offline))
    clip = load_clip(config.encoder, offline=offline)
    if network.dim != clip.identity.model["embed_dim"]:
        raise ConfigError(f"{checkpoint} is for {network.dim} channels, {config.encoder.model} has another number")
    found = rank_features(clip, config, network, [decode(read_file(item.path)[0]) for item in items])
    say(f"{len(items)} images; r: do features come back as they went in? 1: wholly")
    say(f"{'features':<18}{'input':<12}{'r':>8}   loftup.mode")
    for one in found:
        mode = "features" if one.r >= ENOUGH * found[0].r else "transport"
        say(f"{one.features:<18}{one.constants:<12}{one.r:>8.3f}   {mode}")
