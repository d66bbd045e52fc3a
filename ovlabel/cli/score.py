"""`ovlabel score`."""

from __future__ import annotations

import csv
import logging
import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovlabel.cli.commands import Command
from ovlabel.cli.exit_codes import BELOW, OK
from ovlabel.cli.messages import say_all, say_json
from ovlabel.cli.options import AsJson, ClassMapFile, ConventionName, MaskEnding, StorePath, TruthPath
from ovlabel.cli.score_lines import score_lines
from ovlabel.errors import ConfigError
from ovlabel.files import spreadsheet_cell

if TYPE_CHECKING:
    from ovlabel.evaluation.scores import Scores
    from ovlabel.evaluation.truth import Truth
    from ovlabel.store.read import Store

log = logging.getLogger("ovlabel")


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
    mask_ending: MaskEnding = None,
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
    """Score a store against ground truth; prints which class counts as which too.

    \b
    Example:
      ovlabel score images.ovlabel.zarr masks --truth coco-stuff
    """
    from ovlabel.evaluation.scoring import own_classes
    from ovlabel.evaluation.truth import open_truth
    from ovlabel.store.read import check_outside, open_store

    if min_miou is not None and not 0 <= min_miou <= 1:
        raise ConfigError(f"--min-miou {min_miou}: write a fraction, 0 … 1")
    opened = open_store(store)
    for target in filter(None, (table, figures)):
        check_outside(opened, target, truth)
    known = open_truth(truth, convention, own_classes(opened), mask_ending)
    reached, mapped = _scored(opened, known, mapping, allow_partial, boundaries)
    values = reached.to_json()
    if compare is not None:
        other, more = _scored(open_store(compare), known, mapping, allow_partial, boundaries)
        values["compare"] = _comparison(values, reached, other)
        mapped += more
    if table is not None:
        _write_table(table, values["classes"])
    if figures is not None:
        from ovlabel.evaluation.figures import draw

        draw(reached, figures)
    if as_json:
        say_json(values, indent=1)
        for line in filter(None, mapped):
            log.info("%s", line)
    else:
        say_all([*score_lines(values, reached, confusions), *mapped])
    if min_miou is not None and (values["miou"] is None or values["miou"] < min_miou):
        log.error(
            "mIoU %s is below --min-miou %s", "–" if values["miou"] is None else f"{values['miou']:.4f}", min_miou
        )
        raise typer.Exit(BELOW)
    raise typer.Exit(OK)


def _scored(
    store: Store, truth: Truth, mapping: Path | None, allow_partial: bool, boundaries: bool
) -> tuple[Scores, list[str]]:
    """The scores of a store, and the lines that say which of its classes counts as which."""
    from ovlabel.evaluation.class_map import map_classes, read_map
    from ovlabel.evaluation.scoring import score_labels

    classes = map_classes(store.class_names, truth.classes, None if mapping is None else read_map(mapping))
    reached = score_labels(store, truth, classes, allow_partial=allow_partial, boundaries=boundaries)
    if len(reached.images) < reached.masks:
        log.warning("only %d of %d masks were scored", len(reached.images), reached.masks)
    title = f"true class ← predicted classes ({truth.convention} ← {store.path})"
    return reached, ["", title, *classes.lines()]


def _comparison(ours: dict[str, Any], one: Scores, other: Scores) -> dict[str, Any]:
    """The other's measures, and by how much this one is better, most first."""
    theirs = other.to_json()
    classes = {
        name: ours["classes"][name]["iou"] - theirs["classes"][name]["iou"]
        for name in ours["classes"]
        if None not in (ours["classes"][name]["iou"], theirs["classes"][name]["iou"])
    }
    first, second = (dict(zip(s.images, s.image_miou().tolist(), strict=True)) for s in (one, other))
    pairs = {key: first[key] - second[key] for key in first if key in second}
    images = {key: difference for key, difference in pairs.items() if not math.isnan(difference)}
    return {
        **{name: theirs[name] for name in ("miou", "miou_present", "pixel_accuracy")},
        "classes": dict(sorted(classes.items(), key=lambda c: -abs(c[1]))),
        "images": dict(sorted(images.items(), key=lambda c: -abs(c[1]))),
    }


def _write_table(path: Path, classes: dict[str, dict[str, Any]]) -> None:
    """Write a CSV file with a row for each class. Raises ConfigError."""
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            columns = list(next(iter(classes.values())))
            writer = csv.writer(file)
            writer.writerow(["class", *columns])
            for name, entry in classes.items():
                values = [name, *(entry[column] for column in columns)]
                writer.writerow([spreadsheet_cell(value) if isinstance(value, str) else value for value in values])
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
