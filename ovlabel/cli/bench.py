"""`ovlabel bench`."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from typing import Annotated

import typer

from ovlabel.cli.commands import Command
from ovlabel.cli.messages import say, say_json
from ovlabel.cli.options import (
    AsJson,
    Classes,
    Device,
    ImageFolder,
    Model,
    Offline,
    Preset,
    Settings,
    Vocab,
    Weights,
    config_from,
)
from ovlabel.cli.progress import duration


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=Command)(bench)


def bench(
    folder: ImageFolder,
    images: Annotated[int, typer.Option(min=1, metavar="N", help="Measure N of them.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Measure N times.")] = 3,
    vocab: Vocab = None,
    classes: Classes = None,
    preset: Preset = "sclip",
    settings: Settings = None,
    model: Model = None,
    weights: Weights = None,
    device: Device = None,
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """How fast your folder would be annotated, what takes the time, and when it would be done.

    What is written is removed again. The floor is open_clip's own forward over the same windows.

    \b
    Example (random weights are as fast as others):
      ovlabel bench ./images --weights random:0
    """
    import torch

    from ovlabel.run.bench import measure
    from ovlabel.run.job import prepare
    from ovlabel.spine.build import build

    config = config_from(preset, settings, vocab=vocab, classes=classes, model=model, weights=weights, device=device)
    items = prepare(folder, config, folder / "none.zarr").plan.items
    segmenter = build(config, offline=offline)
    exact = replace(config, encoder=replace(config.encoder, precision="fp32"))
    reference = None if segmenter.encoder.precision == "fp32" else partial(build, exact, offline=offline)
    found, total = measure(folder, items, segmenter, images, rounds, reference=reference), len(items)
    if as_json:
        say_json({**asdict(found), "folder": total})
        return
    where = f"{segmenter.encoder.device}, {torch.get_num_threads()} threads, {segmenter.encoder.precision}"
    say(f"{config.encoder.model}, {preset}, {where}: {found.images} images, {found.windows} windows")
    alone = sum(found.parts.values())
    for name, seconds in found.parts.items():
        say(f"{name:<9}{seconds:8.3f} s an image  {seconds / alone:5.1%}")
    ratios = f"{found.ratios[0]:.2f} to {found.ratios[-1]:.2f} in {rounds} rounds"
    say(f"run      {found.run:8.3f} s an image, {1 / found.run:.2f} images/s (reads ahead, writes beside it)")
    say(f"floor    {found.floor:8.3f} s an image; the run takes {found.run / found.floor:.2f} times that ({ratios})")
    if found.agreement is not None:
        say(f"labels   {found.agreement:8.2%} as in fp32")
    say(f"memory   {found.peak / 2**30:8.2f} GiB at the highest")
    say(f"store    {found.stored / 2**20:8.3f} MiB an image")
    say(f"folder   {total:8d} images: {duration(total * found.run)}, {total * found.stored / 2**30:.2f} GiB")
