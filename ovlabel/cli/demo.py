"""`ovlabel demo`: the whole job on drawn scenes, with the embedded model, offline."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovlabel.cli.commands import Command
from ovlabel.cli.exit_codes import OK, SOME_FAILED
from ovlabel.cli.options import Preset
from ovlabel.cli.progress import annotate_pending
from ovlabel.errors import ConfigError, RunError, printable
from ovlabel.files import occupied

if TYPE_CHECKING:
    from ovlabel.store.read import Store

_SEED = 2  # training draws from 0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=Command)(demo)


def demo(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to draw; made if need be.")] = Path(
        "ovlabel-demo"
    ),
    preset: Preset = "sclip",
    scenes: Annotated[int, typer.Option(min=1, max=99, metavar="N", help="How many to draw.")] = 24,
) -> None:
    """Draw scenes, annotate them with the embedded model, score them, show them. Needs no network.

    The embedded model knows these drawings and no photographs: it shows that everything works, and how.

    \b
    Example:
      ovlabel demo
    """
    from ovlabel.demo.scenes import write
    from ovlabel.run.job import prepare
    from ovlabel.run.options import RunOptions
    from ovlabel.settings.reading import load_config
    from ovlabel.store.read import open_store

    if occupied(folder) and not (folder / "truth").is_dir():
        raise ConfigError(f"{folder} holds something else; name a folder that is empty or not there yet")
    keys = {"encoder.model": "demo", "text.vocabulary": "demo"}
    config = load_config(preset, keys)
    name = Path(preset).stem
    drawn = write(folder, scenes, _SEED)
    job = prepare(folder / "images", config, folder / f"{name}.zarr", options=RunOptions(offline=True))
    logging.getLogger("ovlabel").info("%d drawn scenes, preset %s, embedded model", scenes, name)
    try:
        annotate_pending(job)
    except RunError as error:
        raise RunError(f"{error}; or name another folder: ovlabel demo FOLDER") from None
    _report(open_store(job.plan.out), drawn, folder, name)
    raise typer.Exit(SOME_FAILED if job.failures() else OK)


def _report(store: Store, drawn: list[str], folder: Path, preset: str) -> None:
    """Score what was annotated, write overlays, and print where everything lies and what to do next."""
    _print_scores(store, folder)
    _write_overlays(store, drawn, folder, preset)
    where = printable(str(folder))
    print(f"scenes   {where}/images, ground truth in {where}/truth")
    print(f"labels   {where}/{preset}.zarr; all figures: ovlabel score {where}/{preset}.zarr {where}/truth")
    print(f"look at  {where}/{preset}-overlays.png, one by one in {where}/{preset}-overlays")
    print("The embedded model knows drawings only. Your own photographs (fetches CLIP, some 600 MB, once):")
    print("  ovlabel annotate ./photographs --vocab coco-stuff")


def _print_scores(store: Store, folder: Path) -> None:
    """Print the main measures, and the best and the worst classes."""
    import numpy as np

    from ovlabel.demo.scenes import CLASSES
    from ovlabel.evaluation.class_map import map_classes
    from ovlabel.evaluation.metrics import iou, miou, pixel_accuracy
    from ovlabel.evaluation.scoring import score_labels
    from ovlabel.evaluation.truth import TruthClass, open_truth

    truth = open_truth(folder / "truth", "raw", [TruthClass(name) for name in CLASSES])
    scores = score_labels(store, truth, map_classes(store.class_names, truth.classes), allow_partial=True)
    each = iou(scores.counts)
    order = [i for i in np.argsort(-np.nan_to_num(each, nan=-1)) if not np.isnan(each[i])]
    mean, accuracy = 100 * miou(scores.counts), 100 * pixel_accuracy(scores.counts)
    print(f"mIoU {mean:.1f} % over {len(order)} classes, pixel accuracy {accuracy:.1f} %")
    for word, some in (("best", order[:4]), ("worst", order[-4:])):
        print(f"  {word:<6} " + ", ".join(f"{CLASSES[i]} {100 * each[i]:.0f}" for i in some))


def _write_overlays(store: Store, drawn: list[str], folder: Path, preset: str) -> None:
    """Write each scene beside its labels, and all of them on one sheet."""
    from PIL import Image

    from ovlabel.pictures.overlay import beside, contact_sheet, overlay
    from ovlabel.pictures.read import decode, read_file

    overlays = folder / f"{preset}-overlays"
    overlays.mkdir(exist_ok=True)
    pictures = []
    for key in filter(store.__contains__, drawn):
        scene = decode(read_file(store[key].path)[0])
        coloured = overlay(scene, store[key].labels, store.class_names, [entry.colour for entry in store.classes])
        pictures.append(beside(Image.fromarray(scene), coloured))
        pictures[-1].save(overlays / f"{Path(key).stem}.png")
    contact_sheet(pictures).save(folder / f"{preset}-overlays.png")
