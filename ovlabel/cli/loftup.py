"""`ovlabel loftup`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovlabel.cli.annotate import config_of
from ovlabel.errors import ConfigError
from ovlabel.pictures.read import decode, read_file
from ovlabel.run.listing import list_images


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(loftup)


def loftup(
    images: Annotated[Path, typer.Argument(help="Folder of images; a few are enough.")],
    checkpoint: Annotated[
        str | None, typer.Option(help="A file, or hf-hub:owner/name. [default: LoftUp's own, from the hub]")
    ] = None,
    model: Annotated[str | None, typer.Option(help="As in 'ovlabel annotate'.")] = None,
    weights: Annotated[str | None, typer.Option(help="As in 'ovlabel annotate'.")] = None,
    device: Annotated[str | None, typer.Option(help="As in 'ovlabel annotate'.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Only the first so many images.")] = 8,
    offline: Annotated[bool, typer.Option("--offline", help="Never open a connection.")] = False,
) -> None:
    """Measure which features suit a LoftUp checkpoint, and so which loftup.mode to use."""
    config = config_of("plain", None, model=model, weights=weights, device=device)
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
    print(f"{len(items)} images; r: do features come back as they went in? 1: wholly")
    print(f"{'features':<18}{'input':<12}{'r':>8}   loftup.mode")
    for one in found:
        mode = "features" if one.r >= ENOUGH * found[0].r else "transport"
        print(f"{one.features:<18}{one.constants:<12}{one.r:>8.3f}   {mode}")
