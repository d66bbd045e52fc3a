"""The lines that `ovlabel score` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ovlabel.evaluation.scores import Scores

_WITH_INTERVALS = {"miou": "mIoU", "miou_present": "mIoU of classes present", "pixel_accuracy": "pixel accuracy"}
_SINGLE = {
    "mean_accuracy": "mean accuracy",
    "fwiou": "frequency-weighted IoU",
    "image_miou": "mean of images' mIoU",
    "person": "person IoU",
    "boundary_f1": "boundary F1 (2 px)",
    "boundary_iou": "boundary IoU (2 %)",
    "calibration_error": "calibration error (ECE)",
}
_RANKED, _DIFFERENCES = 8, 10  # classes that are named as best and worst; differences that are printed of each kind


def score_lines(values: dict[str, Any], scores: Scores, confusions: int) -> Iterator[str]:
    """All lines, from the number of images to the comparison with another store.

    Args:
        values: of `Scores.to_json`, with those of `compare` where another store was scored.
        scores: the scores themselves.
        confusions: how many confusions of two classes to name.
    """
    pixels = int(scores.counts[:-1].sum())
    yield f"{values['images']} of {values['masks']} images, {pixels / 1e6:.1f} million labelled pixels"
    yield from _measures(values)
    yield from _parts(values)
    ranked = sorted((c for c in values["classes"].items() if c[1]["iou"] is not None), key=lambda c: -c[1]["iou"])
    for title, some in (("best", ranked[:_RANKED]), ("worst", ranked[-_RANKED:])):
        yield f"{title:<26}" + ", ".join(f"{name} {_percent(entry['iou'])}" for name, entry in some)
    for true, found, count, share in scores.confusions(confusions):
        name = true
        yield f"confused: {name} → {found}: {count} pixels, {_percent(share)} of {name}"
    if "compare" in values:
        yield from _differences(values["compare"])


def _measures(values: dict[str, Any]) -> Iterator[str]:
    """The measures of all pixels, of kinds and of groups."""
    for name, title in _WITH_INTERVALS.items():
        low, high = values["intervals"][name]
        yield f"{title:<26}{_percent(values[name])}   (95 % of resamplings: {_percent(low)} … {_percent(high)})"
    for name, title in _SINGLE.items():
        if values.get(name) is not None:
            yield f"{title:<26}{_percent(values[name])}"
    for trait in ("kinds", "groups"):
        for name, value in values[trait].items():
            yield f"{f'mIoU of {trait[:-1]} {name}':<25} {_percent(value)}"


def _parts(values: dict[str, Any]) -> Iterator[str]:
    """The measures of objects by size, and of pixels by confidence."""
    for name, size in values["sizes"].items():
        if size["objects"]:
            title, found, area = (
                f"{name} objects ({size['objects']})",
                _percent(size["found"]),
                _percent(size["recall"]),
            )
            yield f"{title:<25} {found} found by half or more, {area} of their area"
    for step in values["coverage"]:
        if step["kept"]:
            title = f"confidence ≥ {step['confidence']:g}"
            yield f"{title:<26}{_percent(step['kept'])} kept, {_percent(step['accuracy'])} of them right"


def _differences(compared: dict[str, Any]) -> Iterator[str]:
    """The other store's mIoU, and the classes and images that differ most."""
    yield ""
    yield f"the other store: mIoU {_percent(compared['miou'])}; this one less the other, in points:"
    for kind, title in (("classes", "class"), ("images", "image")):
        for name, difference in list(compared[kind].items())[:_DIFFERENCES]:
            yield f"{title} {name:<32}{100 * difference:+7.1f}"


def _percent(value: float | None) -> str:
    return "   –  " if value is None else f"{100 * value:5.1f} %"
