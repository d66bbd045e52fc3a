"""Writes the pages: the fixed page, and the data that it shows, as scripts."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from importlib.resources import files as packaged
from pathlib import Path
from typing import Any

import numpy as np

from ovlabel.evaluation import metrics
from ovlabel.report.columns import Columns
from ovlabel.report.scripts import call
from ovlabel.report.truth import Measured
from ovlabel.store.read import Store

MARK = ".ovlabel-report"  # the file that marks a folder as a report
_PAGE = 5000  # images in one script
_GALLERY = 24  # images of a class at either end
_LEAST_SHARE = 0.002  # of an image's pixels, for a class to be shown in its gallery
_BINS = 15
_SAMPLES = 300  # draws for the intervals of single classes
_QUEUES = {
    "miou": ("Worst by ground truth", "mean IoU of the image, lowest first"),
    "mean": ("Large mistakes", "mean confidence of all pixels, lowest first"),
    "by_class": ("Small objects", "confidence averaged class by class, every class equal, lowest first"),
    "differ": ("Disagreement", "share of pixels that the other store labels differently, highest first"),
}


def write_pages(out: Path, store: Store, columns: Columns, measured: Measured | None, other: Store | None) -> Path:
    """Write the page and its data; the pictures are made apart.

    Args:
        out: the folder of the report.
        store: the store.
        columns: what is known of its images.
        measured: what the ground truth says, or None.
        other: a store to compare with, or None.

    Returns:
        The page to open.
    """
    data = out / "data"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir()
    pages = -(-len(columns.keys) // _PAGE)
    for page in range(pages):
        script = call("items", _items(out, columns, slice(page * _PAGE, (page + 1) * _PAGE)))
        (data / f"items-{page:04}.js").write_bytes(script)
    (data / "store.js").write_bytes(call("store", _about(store, columns, measured, other) | {"pages": pages}))
    (data / "classes.js").write_bytes(call("classes", _gallery(store, columns)))
    (data / "statistics.js").write_bytes(call("statistics", _statistics(store, columns)))
    for entry in packaged("ovlabel.report").joinpath("page").iterdir():
        if entry.name.endswith((".html", ".css", ".js")):
            (out / entry.name).write_bytes(entry.read_bytes())
    return out / "index.html"


def _items(out: Path, columns: Columns, part: slice) -> dict[str, Any]:
    """The columns of some images."""
    names = columns.names[part]
    return {
        "key": columns.keys[part],
        "name": names,
        "sums": columns.sums[part],
        "drawn": [int((out / "images" / f"{name}.js").is_file()) for name in names],
        "height": columns.sizes[part, 0].tolist(),
        "width": columns.sizes[part, 1].tolist(),
        "largest": [own[0].index if own else -1 for own in columns.shares[part]],
        "mean": columns.mean[part].tolist(),
        "by_class": columns.by_class[part].tolist(),
        "differ": columns.differ[part].tolist(),
        "miou": columns.miou[part].tolist(),
        "accuracy": columns.accuracy[part].tolist(),
    }


def _about(store: Store, columns: Columns, measured: Measured | None, other: Store | None) -> dict[str, Any]:
    """What the store is, what failed, and the scores."""
    present = columns.queues()
    failed = store.failed
    about: dict[str, Any] = {
        "id": store.manifest.id,
        "path": str(store.path.absolute()),
        "folder": str(store.folder),
        "committed": store.committed,
        "run": dict(store.manifest.run),
        "written": dict(store.manifest.written),
        "classes": [{"name": c.name, "colour": list(c.colour), "group": c.group} for c in store.classes],
        "images": len(columns.keys),
        "failed": [[key, record.stage, record.error] for key, record in list(failed.items())[:1000]],
        "failures": len(failed),
        "other": None if other is None else str(other.path.absolute()),
        "queues": [[name, *_QUEUES[name]] for name in _QUEUES if name in present],
        "scores": None if measured is None else _scores(measured),
    }
    return about


def _scores(measured: Measured) -> dict[str, Any]:
    """The score card, the confusion, and how far confidence can be trusted."""
    scores = measured.scores
    low, high = _class_intervals(measured)
    certainty = scores.certainty
    level = np.minimum((np.arange(256) / 255 * _BINS).astype(int), _BINS - 1)
    bins = np.stack([np.bincount(level, certainty[:, column], _BINS) for column in (0, 1)], 1)
    return {
        "figures": scores.to_json(),
        "classes": [entry.name for entry in scores.classes],
        "low": _plain(low),
        "high": _plain(high),
        "confusion": scores.counts.tolist(),
        "reliability": bins.astype(int).tolist(),
        "truth": str(next(iter(measured.truth.files.values()))),
    }


def _class_intervals(measured: Measured) -> tuple[metrics.Fractions, metrics.Fractions]:
    """2.5th and 97.5th percentile of every class' IoU when images are drawn anew with replacement."""
    tallies = measured.scores.tallies.astype(np.float64)
    random, count = np.random.default_rng(0), len(tallies)
    drawn = []
    for _ in range(_SAMPLES):
        weights = np.bincount(random.integers(0, count, count), minlength=count)
        hits, true, found = np.tensordot(weights, tallies, 1)
        drawn.append(metrics.ratio(hits, true + found - hits))
    held = ~np.isnan(drawn).all(0)
    low, high = np.full((2, tallies.shape[2]), np.nan)
    if held.any():
        low[held], high[held] = np.nanpercentile(np.array(drawn)[:, held], [2.5, 97.5], axis=0)
    return low, high


def _gallery(store: Store, columns: Columns) -> list[dict[str, Any]]:
    """Of every class: in how many images it is, its share of all pixels, and where it is surest and least sure."""
    found: list[list[tuple[float, int]]] = [[] for _ in store.classes]
    pixels = np.zeros(len(store.classes))
    for index, shares in enumerate(columns.shares):
        least = _LEAST_SHARE * float(columns.sizes[index].prod())
        for share in shares:
            pixels[share.index] += share.pixels
            if share.pixels >= least:
                found[share.index].append((share.confidence, index))
    total = max(1.0, float(columns.sizes.prod(1).sum()))
    gallery = []
    for own, part in zip(found, pixels, strict=True):
        own.sort()
        ends = {"least": own[:_GALLERY], "surest": own[::-1][:_GALLERY]}
        shown = {name: [[i, round(1000 * sure)] for sure, i in end] for name, end in ends.items()}
        gallery.append({"images": len(own), "share": float(part / total), **shown})
    return gallery


def _statistics(store: Store, columns: Columns) -> dict[str, Any]:
    """Which classes lie together, which files have the same content, how large the images are."""
    pairs: Counter[tuple[int, int]] = Counter()
    for shares in columns.shares:
        own = sorted(share.index for share in shares)
        pairs.update((a, b) for i, a in enumerate(own) for b in own[i + 1 :])
    same: dict[str, list[str]] = {}
    for key in columns.keys:
        same.setdefault(store[key].record.sha256, []).append(key)
    sizes = Counter(f"{width} × {height}" for height, width in columns.sizes.tolist())
    doubled = [keys[:20] for keys in same.values() if len(keys) > 1]
    return {
        "together": [[a, b, count] for (a, b), count in pairs.most_common(60)],
        "duplicates": doubled[:500],
        "sizes": sizes.most_common(30),
        "megapixels": json.loads(json.dumps(np.histogram(columns.sizes.prod(1) / 1e6, bins=12)[0].tolist())),
    }


def _plain(values: metrics.Fractions) -> list[float | None]:
    """Plain values, None for NaN."""
    return [None if np.isnan(value) else float(value) for value in values]
