"""How long an image takes to be scored, beside torchmetrics' MeanIoU; run by hand.

    python tests/benchmarks/score_speed.py [--rounds 7]

480 × 640 arrays in memory, 171 classes; both in turn in one process, each round of one image. torchmetrics gets index
maps (`input_format="index"`), and only its update is timed. First both must give the same IoU for every class.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torchmetrics.segmentation import MeanIoU

from ovlabel.evaluation.metrics import confusion, iou

CLASSES = 171


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    random = np.random.default_rng(0)
    truth, other = (random.integers(0, CLASSES, (60, 80), np.uint8).repeat(8, 0).repeat(8, 1) for _ in range(2))
    labels = np.where(random.random(truth.shape) < 0.3, other, truth)
    theirs = MeanIoU(num_classes=CLASSES, include_background=True, per_class=True, input_format="index")
    batch = [torch.from_numpy(m.astype(np.int64))[None] for m in (labels, truth)]
    np.testing.assert_allclose(iou(confusion(truth, labels, CLASSES)), theirs(*batch).numpy(), rtol=1e-6)
    rounds = [
        (seconds(lambda: confusion(truth, labels, CLASSES)), seconds(lambda: theirs.update(*batch)))
        for _ in range(given.rounds + 1)
    ]
    ours, peer = (statistics.median(times) for times in zip(*rounds[1:], strict=True))
    ratios = sorted(b / a for a, b in rounds[1:])
    print(f"ours {1000 * ours:.2f} ms, torchmetrics {1000 * peer:.1f} ms per image, medians of {given.rounds}")
    print(f"ratio {statistics.median(ratios):.0f} ({ratios[0]:.0f} to {ratios[-1]:.0f})")


if __name__ == "__main__":
    main()
