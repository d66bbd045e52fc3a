"""Scores as pictures: the confusion matrix, bars by class, and the reliability diagram; each as SVG and as PNG."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ovlabel.errors import ConfigError, short
from ovlabel.evaluation import metrics
from ovlabel.evaluation.scores import Scores
from ovlabel.pictures.fonts import drawable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BINS = 15  # of confidence, in the reliability diagram
_MOST = 400  # classes that a picture shows, those of most pixels; more would be too small to read, and need gigabytes
_LETTERS, _LETTER = 40, 0.1  # of a class' name: how many are written, and inches that one takes at most
_BLUE, _RED = "#3b6ea5", "#c8553d"


def draw(scores: Scores, folder: Path) -> list[Path]:
    """Draw scores: `confusion`, `classes` and `reliability`, each as `.svg` and `.png`.

    The same scores give the same SVG, byte for byte.

    Args:
        scores: from `ovlabel.score`.
        folder: where to write; it is made if need be.

    Returns:
        The files.

    Raises:
        ConfigError: the folder can't be written to.
    """
    pictures = {"confusion": _confusion(scores), "classes": _classes(scores), "reliability": _reliability(scores)}
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            for ending in ("svg", "png"):
                path = folder / f"{name}.{ending}"
                picture.savefig(path, dpi=150, metadata={"Date": None} if ending == "svg" else None)
                written.append(path)
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror}") from None
    return written


def _figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "ovlabel"  # ids in the SVG do not change from run to run
    return Figure(figsize=(width, height), layout="constrained")


def _written(scores: Scores, indices: Iterable[int]) -> tuple[list[str], dict[str, Any]]:
    """The names of classes as they can be drawn, long ones cut, and the properties of text for them: `$` as it is."""
    drawn = [drawable(short(scores.classes[i].name)[:_LETTERS]) for i in indices]
    families = dict.fromkeys(["DejaVu Sans", *(font.family for _, font in drawn)])
    return [text for text, _ in drawn], {"fontsize": 7, "fontfamily": list(families), "parse_math": False}


def _confusion(scores: Scores) -> Figure:
    """What the pixels of every true class were predicted as: a row a true class, each of 100 %."""
    counts = scores.counts[:-1]
    kept = largest(scores)
    columns = [*kept, counts.shape[1] - 1]
    fractions = 100 * np.nan_to_num(metrics.ratio(counts, counts.sum(1, keepdims=True)))[np.ix_(kept, columns)]
    names, style = _written(scores, kept)
    side = 3.14 + 0.14 * len(names) + _room(names)
    figure = _figure(side + 1, side)
    axes = figure.add_subplot()
    picture = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    axes.set_xticks(range(len(columns)), [*names, "none"], rotation=90, **style)
    axes.set_yticks(range(len(kept)), names, **style)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    _say_left_out(axes, scores, len(kept))
    figure.colorbar(picture, label="% of the true class' pixels", shrink=0.6)
    return figure


def _classes(scores: Scores) -> Figure:
    """IoU, precision and recall of every class; the best is on top."""
    each = metrics.iou(scores.counts)
    kept = largest(scores)
    order = kept[np.argsort(each[kept], kind="stable")]
    names, style = _written(scores, order)
    figure = _figure(7 + _room(names), 1.2 + 0.17 * len(order))
    axes = figure.add_subplot()
    axes.barh(range(len(order)), 100 * each[order], color=_BLUE, label="IoU")
    for values, mark, name in ((metrics.precision, "|", "precision"), (metrics.recall, ".", "recall")):
        axes.plot(100 * values(scores.counts)[order], range(len(order)), mark, color=_RED, label=name)
    axes.set_yticks(range(len(order)), names, **style)
    axes.set_xlim(0, 100)
    axes.set_ylim(-1, len(order))
    axes.set_xlabel(f"%   (mIoU {100 * metrics.miou(scores.counts):.1f} %)")
    axes.legend(loc="lower right", fontsize=7)
    _say_left_out(axes, scores, len(order))
    return figure


def largest(scores: Scores) -> NDArray[np.intp]:
    """The indices of the classes with pixels, in order; those of most pixels where a picture can't show all."""
    pixels = scores.counts[:-1].sum(1) + scores.counts[:, :-1].sum(0)
    most = np.argsort(-pixels, kind="stable")[:_MOST]
    return np.sort(most[pixels[most] > 0])


def _room(names: list[str]) -> float:
    """Inches that a picture needs more where names are longer than most are."""
    return _LETTER * max(max(map(len, names), default=0) - 12, 0)


def _say_left_out(axes: Axes, scores: Scores, shown: int) -> None:
    """Write above a picture how many classes it does not show."""
    if shown == _MOST:
        axes.set_title(f"the {shown} classes of most pixels, of {len(scores.classes)}", fontsize=9)


def _reliability(scores: Scores) -> Figure:
    """Accuracy by confidence, and how many pixels have it (Guo et al., ICML 2017, figure 1)."""
    levels = np.arange(256) / 255
    bins = np.minimum((levels * _BINS).astype(int), _BINS - 1)
    total, right, confident = (
        np.bincount(bins, weights, _BINS)
        for weights in (scores.certainty.sum(1), scores.certainty[:, 1], scores.certainty.sum(1) * levels)
    )
    figure = _figure(5, 5.5)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], "--", color="grey", linewidth=1)
    upper.plot(metrics.ratio(confident, total), metrics.ratio(right, total), "o-", color=_BLUE)
    upper.set_ylabel("accuracy")
    upper.set_ylim(0, 1)
    upper.set_title(f"calibration error {100 * metrics.calibration_error(scores.certainty, _BINS):.1f} %", fontsize=9)
    lower.bar((np.arange(_BINS) + 0.5) / _BINS, metrics.ratio(total, total.sum()), 0.9 / _BINS, color=_BLUE)
    lower.set_xlim(0, 1)
    lower.set_xlabel("confidence")
    lower.set_ylabel("share of pixels")
    return figure
