"""Real photographs through a checkpoint that knows them; skipped where `shared/` is not beside the project.

The checkpoint is a DINOv2 in open_clip's format, its head fitted on its plain last block; its README has the figures.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ovlabel
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


def panoptic(classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """From labels and from ground-truth ids to common indices: predictions of no panoptic class are -2, void is -1."""
    table = json.loads((SAMPLES / "classes.json").read_text())
    labels, truth = np.full(256, -2), np.full(256, -1)
    for index, (identity, entry) in enumerate(table.items()):
        truth[int(identity)] = index
        for name in entry["coco_stuff"]:
            labels[classes.index(name)] = index
    return labels, truth


def pixel_accuracy(predictions: Iterator[tuple[Path, np.ndarray]], classes: list[str]) -> float:
    of_label, of_truth = panoptic(classes)
    right = total = 0
    for path, labels in predictions:
        truth = of_truth[np.asarray(Image.open(SAMPLES / "masks" / f"{path.stem}.png"))]
        right += int(((of_label[labels] == truth) & (truth >= 0)).sum())
        total += int((truth >= 0).sum())
    return right / total


def test_windows_on_fifty_photographs_reach_the_checkpoints_own_figure(tmp_path: Path) -> None:
    """README row 2: windows of 224 every 112, short side 448: .628."""
    config = ovlabel.load_config("plain", KEYS)
    reports = list(ovlabel.annotate(SAMPLES / "images", config, tmp_path / "out.zarr", offline=True))
    store = ovlabel.open_store(tmp_path / "out.zarr")
    assert sum(len(report.done) for report in reports) == len(store) == 50
    accuracy = pixel_accuracy(((store[key].path, store[key].labels) for key in store), store.classes)
    assert abs(accuracy - 0.628) <= 0.005


def test_squashed_photographs_reach_the_figure_of_the_saved_file() -> None:
    """README row 4, the one made with the saved file and its text tower: whole image squashed to 448 × 448: .630."""
    segmenter = ovlabel.build(ovlabel.load_config("plain", {**KEYS, "tiling.window": 0}), offline=True)

    def predictions() -> Iterator[tuple[Path, np.ndarray]]:
        for path in sorted((SAMPLES / "images").glob("*.jpg")):
            image = Image.open(path).convert("RGB")
            small = np.array(image.resize((448, 448), Image.Resampling.BICUBIC))
            yield path, segmenter.segment_resized(small, (image.height, image.width)).labels

    assert abs(pixel_accuracy(predictions(), list(segmenter.bank.classes)) - 0.630) <= 0.005
