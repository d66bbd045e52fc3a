"""`ovlabel score`."""

from __future__ import annotations

import csv
import json
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovlabel.cli.commands import Command
from ovlabel.cli.exit_codes import BELOW, OK
from ovlabel.cli.options import AsJson, ClassMapFile, ConventionName, StorePath, TruthPath
from ovlabel.errors import ConfigError, printable

if TYPE_CHECKING:
    from ovlabel.evaluation.scores import Scores
    from ovlabel.evaluation.truth import Truth
    from ovlabel.store.read import Store


def register(app: typer.Typer) -> None:
    """Add the command."""
    from ovlabel.evaluation.truth.table import CONVENTIONS

    names = textwrap.fill(f"Names of --truth: {', '.join(CONVENTIONS)}.", 76, break_on_hyphens=False)
    app.command("score", cls=Command, epilog=f"\b\n{names}")(score_store)


def score_store(
    store: StorePath,
    truth: TruthPath,
    convention: ConventionName = "raw",
    mapping: ClassMapFile = None,
    allow_partial: Annotated[bool, typer.Option("--allow-partial", help="Score what there is.")] = False,
    boundaries: Annotated[bool, typer.Option("--boundaries", help="Boundary F1 and IoU too; slower.")] = False,
    confusions: Annotated[
        int, typer.Option(min=0, metavar="N", help="Show the N largest confusions of two classes.")
    ] = 0,
    compare: Annotated[Path | None, typer.Option(metavar="STORE", help="Another store: what differs.")] = None,
    min_miou: Annotated[float | None, typer.Option(metavar="P", help="Exit with 6 below it; 0 … 1.")] = None,
    table: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write every class' measures there.")
    ] = None,
    figures: Annotated[Path | None, typer.Option(metavar="DIR", help="Draw figures there, as SVG and PNG.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score a store against ground truth; prints first which class counts as which.

    \b
    Example:
      ovlabel score images.ovlabel.zarr masks --truth coco-stuff
    """
    from ovlabel.evaluation.scoring import own_classes
    from ovlabel.evaluation.truth import open_truth
    from ovlabel.store.read import open_store

    if min_miou is not None and not 0 <= min_miou <= 1:
        raise ConfigError(f"--min-miou {min_miou}: write a fraction, 0 … 1")
    opened = open_store(store)
    known = open_truth(truth, convention, own_classes(opened))
    reached = _scored(opened, known, mapping, allow_partial, boundaries, as_json)
    other = None
    if compare is not None:
        other = _scored(open_store(compare), known, mapping, allow_partial, boundaries, as_json)
    values = reached.to_json()
    if other is not None:
        values["compare"] = _comparison(values, reached, other)
    if table is not None:
        _write_table(table, values["classes"])
    if figures is not None:
        from ovlabel.evaluation.figures import draw

        draw(reached, figures)
    if as_json:
        print(json.dumps(values, indent=1))
    else:
        _print(values, reached, confusions)
    if min_miou is not None and not values["miou"] >= min_miou:
        print(f"ovlabel: mIoU {values['miou']:.4f} is below --min-miou {min_miou}", file=sys.stderr)
        raise typer.Exit(BELOW)
    raise typer.Exit(OK)


def _scored(
    store: Store, truth: Truth, mapping: Path | None, allow_partial: bool, boundaries: bool, quiet: bool
) -> Scores:
    """Print the mapping, then score."""
    from ovlabel.evaluation.class_map import map_classes, read_map
    from ovlabel.evaluation.scoring import score_labels

    classes = map_classes(store.class_names, truth.classes, None if mapping is None else read_map(mapping))
    to = sys.stderr if quiet else sys.stdout
    print(f"true class ← predicted classes ({truth.convention} ← {printable(str(store.path))})", file=to)
    for line in classes.lines():
        print(line, file=to)
    reached = score_labels(store, truth, classes, allow_partial=allow_partial, boundaries=boundaries)
    if len(reached.images) < reached.masks:
        print(f"ovlabel: only {len(reached.images)} of {reached.masks} masks were scored", file=sys.stderr)
    return reached


def _print(values: dict[str, Any], scores: Scores, confusions: int) -> None:
    pixels = int(scores.counts[:-1].sum())
    print(f"\n{values['images']} of {values['masks']} images, {pixels / 1e6:.1f} million labelled pixels")
    first = {"miou": "mIoU", "miou_present": "mIoU of classes present", "pixel_accuracy": "pixel accuracy"}
    for name, title in first.items():
        low, high = values["intervals"][name]
        print(f"{title:<26}{_percent(values[name])}   (95 % of resamplings: {_percent(low)} … {_percent(high)})")
    titles = {
        "mean_accuracy": "mean accuracy",
        "fwiou": "frequency-weighted IoU",
        "image_miou": "mean of images' mIoU",
        "person": "person IoU",
        "boundary_f1": "boundary F1 (2 px)",
        "boundary_iou": "boundary IoU (2 %)",
        "calibration_error": "calibration error (ECE)",
    }
    for name, title in titles.items():
        if values.get(name) is not None:
            print(f"{title:<26}{_percent(values[name])}")
    for trait in ("kinds", "groups"):
        for name, value in values[trait].items():
            print(f"{f'mIoU of {trait[:-1]} {name}':<26}{_percent(value)}")
    for name, size in values["sizes"].items():
        if size["objects"]:
            title = f"{name} objects ({size['objects']})"
            print(
                f"{title:<26}{_percent(size['found'])} found by half or more, {_percent(size['recall'])} of their area"
            )
    for step in values["coverage"]:
        if step["kept"]:
            title = f"confidence ≥ {step['confidence']:g}"
            print(f"{title:<26}{_percent(step['kept'])} kept, {_percent(step['accuracy'])} of them right")
    ranked = sorted((c for c in values["classes"].items() if c[1]["iou"] is not None), key=lambda c: -c[1]["iou"])
    for title, some in (("best", ranked[:8]), ("worst", ranked[-8:])):
        print(f"{title:<26}" + ", ".join(f"{name} {_percent(entry['iou'])}" for name, entry in some))
    for true, found, count, share in scores.confusions(confusions):
        print(f"confused: {true} → {found}: {count} pixels, {_percent(share)} of {true}")
    if "compare" in values:
        print(f"\nthe other store: mIoU {_percent(values['compare']['miou'])}; this one less the other, in points:")
        for kind in ("classes", "images"):
            for name, difference in list(values["compare"][kind].items())[:10]:
                print(f"{kind[:-1] if kind == 'images' else 'class'} {printable(name):<32}{100 * difference:+7.1f}")


def _percent(value: float | None) -> str:
    return "   –  " if value is None else f"{100 * value:5.1f} %"


def _comparison(ours: dict[str, Any], one: Scores, other: Scores) -> dict[str, Any]:
    """The other's measures, and by how much this one is better, most first."""
    theirs = other.to_json()
    classes = {
        name: ours["classes"][name]["iou"] - theirs["classes"][name]["iou"]
        for name in ours["classes"]
        if None not in (ours["classes"][name]["iou"], theirs["classes"][name]["iou"])
    }
    first, second = (dict(zip(s.images, s.image_miou().tolist(), strict=True)) for s in (one, other))
    images = {key: first[key] - second[key] for key in first if key in second}
    return {
        **{name: theirs[name] for name in ("miou", "miou_present", "pixel_accuracy")},
        "classes": dict(sorted(classes.items(), key=lambda c: -abs(c[1]))),
        "images": dict(sorted(images.items(), key=lambda c: -abs(c[1]))),
    }


def _write_table(path: Path, classes: dict[str, dict[str, Any]]) -> None:
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            columns = list(next(iter(classes.values())))
            writer = csv.writer(file)
            writer.writerow(["class", *columns])
            writer.writerows([name, *(entry[column] for column in columns)] for name, entry in classes.items())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
