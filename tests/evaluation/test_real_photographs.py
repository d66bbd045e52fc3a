"""Real photographs through a checkpoint that knows them; skipped where `shared/` is not beside the project.

The checkpoint is a DINOv2 in open_clip's format, its head fitted on its plain last block; its README has the figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ovlabel
from ovlabel.evaluation import metrics
from ovlabel.evaluation.class_map import map_classes
from ovlabel.evaluation.truth import IGNORED, open_truth
from ovlabel.run.options import RunOptions
from tests.conftest import SHARED

SAMPLES = SHARED / "samples" / "coco"
MODEL = SHARED / "models" / "dinov2s14-cocostuff"
KEYS: dict[str, Any] = {
    "encoder.model": f"{MODEL}.json",
    "encoder.weights": f"{MODEL}.safetensors",
    "encoder.positions": "open_clip",
    "text.templates": "simple",
    "store.probabilities": "none",
}

pytestmark = pytest.mark.skipif(not SAMPLES.is_dir() or not MODEL.with_suffix(".json").is_file(), reason="no shared/")


def agreement(predictions: Iterator[tuple[Path, np.ndarray]], classes: list[str]) -> metrics.Counts:
    truth = open_truth(SAMPLES / "masks", "coco-panoptic-ids", [])
    table, count = map_classes(classes, truth.classes).table(), len(truth.classes)
    own = (metrics.confusion(truth.read(path.stem), table[labels], count, IGNORED) for path, labels in predictions)
    return sum(own, np.zeros((count + 1, count + 1), np.int64))


def test_windows_on_fifty_photographs_reach_the_checkpoints_own_figure(tmp_path: Path) -> None:
    """README row 2: windows of 224 every 112, short side 448: .628."""
    config = ovlabel.load_config("plain", KEYS)
    reports = list(
        ovlabel.annotate(SAMPLES / "images", config, tmp_path / "out.zarr", options=RunOptions(offline=True))
    )
    store = ovlabel.open_store(tmp_path / "out.zarr")
    assert sum(len(report.done) for report in reports) == len(store) == 50
    counts = agreement(((store[key].path, store[key].labels) for key in store), store.class_names)
    assert abs(metrics.pixel_accuracy(counts) - 0.628) <= 0.005


def test_squashed_photographs_reach_the_figure_of_the_saved_file() -> None:
    """README row 4, of the saved file and its text tower: whole image squashed to 448 × 448: .630 / .288."""
    segmenter = ovlabel.build(ovlabel.load_config("plain", {**KEYS, "tiling.window": 0}), offline=True)

    def predictions() -> Iterator[tuple[Path, np.ndarray]]:
        for path in sorted((SAMPLES / "images").glob("*.jpg")):
            image = Image.open(path).convert("RGB")
            small = np.array(image.resize((448, 448), Image.Resampling.BICUBIC))
            yield path, segmenter.segment_resized(small, (image.height, image.width)).labels

    counts = agreement(predictions(), list(segmenter.bank.classes))
    assert abs(metrics.pixel_accuracy(counts) - 0.630) <= 0.005
    assert abs(metrics.miou_present(counts) - 0.288) <= 0.005
