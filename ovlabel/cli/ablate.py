"""`ovlabel ablate`."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from ovlabel.cli.commands import Command
from ovlabel.cli.messages import say
from ovlabel.cli.options import (
    ClassMapFile,
    ConventionName,
    ImageFolder,
    MaskEnding,
    Model,
    Offline,
    Preset,
    Settings,
    TruthPath,
    Vocab,
    Weights,
    config_from,
)

log = logging.getLogger("ovlabel")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=Command)(ablate)


def ablate(
    images: ImageFolder,
    truth: TruthPath,
    convention: ConventionName = "raw",
    mapping: ClassMapFile = None,
    mask_ending: MaskEnding = None,
    preset: Preset = "sclip",
    vocab: Vocab = None,
    settings: Settings = None,
    model: Model = None,
    weights: Weights = None,
    offline: Offline = False,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the first N images that have a mask.")
    ] = None,
) -> None:
    """Measure what every stage adds: the whole stack, and the stack without each.

    \b
    Example:
      ovlabel ablate ./images ./masks --truth voc --preset naclip --limit 20
    """
    from ovlabel.evaluation.class_map import map_classes, read_map
    from ovlabel.evaluation.matching import check_all_matched, match
    from ovlabel.evaluation.metrics import mean, miou, miou_present
    from ovlabel.evaluation.truth import TruthClass, open_truth
    from ovlabel.run.listing import list_images
    from ovlabel.text.vocabulary import load_vocabulary

    config = config_from(preset, settings, vocab=vocab, model=model, weights=weights)
    entries = load_vocabulary(config.text.vocabulary).classes
    own = [TruthClass(e.name, (e.name,), e.kind, e.group) for e in entries]
    known = open_truth(truth, convention, own, mask_ending)
    classes = map_classes([e.name for e in entries], known.classes, None if mapping is None else read_map(mapping))
    items = {item.key: item for item in list_images(images)}
    masks = list(match(list(items), known).items())[:limit]
    check_all_matched([mask for _, mask in masks], list(items), known, partial=True)
    for line in classes.lines():
        log.info("%s", line)

    from ovlabel.evaluation.ablation import ablate as run
    from ovlabel.spine.build import build

    segmenter = build(config, offline=offline)
    done = 0

    def progress(_: str) -> None:
        nonlocal done
        done += 1
        log.info("%d/%d images", done, len(masks))

    variants, encoder = run(segmenter, [(items[key], mask) for key, mask in masks], known, classes, progress)
    say(f"{len(masks)} images, preset {preset}; seconds per image, the encoder ({encoder:.2f} s) left out")
    say(f"{'without':<18}{'mIoU':>8}{'present':>9}{'boundary F1':>13}{'person':>8}{'seconds':>9}")
    for variant in variants:
        scores = variant.scores
        if scores is None or scores.boundaries is None:
            say(f"{variant.left_out:<18}{variant.refused}")
            continue
        edges = mean(scores.boundaries.f1_by_class())
        cells = [miou(scores.counts), miou_present(scores.counts), edges, scores.person()]
        shown = ["–" if cell is None else f"{100 * cell:.1f}" for cell in cells]
        say(f"{variant.left_out:<18}{shown[0]:>8}{shown[1]:>9}{shown[2]:>13}{shown[3]:>8}{variant.seconds:>9.2f}")
