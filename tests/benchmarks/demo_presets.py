"""What every shipped preset reaches with the embedded model on drawn scenes it was never trained on; run by hand.

    python tests/benchmarks/demo_presets.py [--scenes 200] [--presets sclip,naclip] [--weights FILE]

Prints a table: mIoU over the 25 classes of `demo`, seconds per image (one process, the segmenter alone), then mIoU over
the held-out colour-thing pairs on scenes that need them (`demo-pairs`: 109 classes), with synonyms in place of names,
with random weights, and with shuffled names. Seeds start where training never was.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import ovlabel
from ovlabel.demo.captions import SYNONYMS
from ovlabel.demo.scenes import CLASSES, HELD_OUT, PAIR_CLASSES, PAIRS, REGIONS, Scene, draw, held_out_scene
from ovlabel.evaluation.metrics import confusion, iou, miou
from ovlabel.settings.reading import preset_names
from ovlabel.spine.segmenter import Segmenter

SEED = 1  # training draws from 0

Score = np.ndarray


def segmenter(preset: str, weights: str, vocabulary: str = "demo") -> Segmenter:
    keys = {"encoder.model": "demo", "encoder.weights": weights, "text.vocabulary": vocabulary, "encoder.device": "cpu"}
    return ovlabel.build(ovlabel.load_config(preset, keys))


def scored(segment: Segmenter, scenes: list[Scene], truth: str, names: tuple[str, ...]) -> tuple[Score, float]:
    """Confusion over all scenes, and seconds per image."""
    counts = np.zeros((len(names) + 1,) * 2, np.int64)
    segment(scenes[0].image)
    begun = time.perf_counter()
    for scene in scenes:
        counts += confusion(getattr(scene, truth), segment(scene.image).labels, len(names))
    return counts, (time.perf_counter() - begun) / len(scenes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--presets", default=",".join(preset_names()))
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--controls", default="sclip", help="preset of the controls, or nothing")
    given = parser.parse_args()
    scenes = [draw((SEED, index)) for index in range(given.scenes)]
    paired = [held_out_scene((SEED + 1, index)) for index in range(given.scenes)]
    held = [len(REGIONS) + PAIRS.index(pair) for pair in HELD_OUT]
    print(f"{'preset':<12}{'mIoU':>8}{'things':>8}{'regions':>8}{'s/image':>9}{'held-out':>10}{'other pairs':>13}")
    for preset in given.presets.split(","):
        counts, seconds = scored(segmenter(preset, given.weights), scenes, "labels", CLASSES)
        pairs, _ = scored(segmenter(preset, given.weights, "demo-pairs"), paired, "pairs", PAIR_CLASSES)
        each, both = iou(counts), iou(pairs)
        others = np.setdiff1d(np.arange(len(REGIONS), len(PAIR_CLASSES)), held)
        print(
            f"{preset:<12}{100 * miou(counts):>8.1f}{100 * np.nanmean(each[len(REGIONS) :]):>8.1f}"
            f"{100 * np.nanmean(each[: len(REGIONS)]):>8.1f}{seconds:>9.3f}"
            f"{100 * np.nanmean(both[held]):>10.1f}{100 * np.nanmean(both[others]):>13.1f}",
            flush=True,
        )
    if not given.controls:
        return
    order = np.random.default_rng(SEED).permutation(len(CLASSES))
    controls = {
        "synonyms": (given.weights, [SYNONYMS.get(name, name) for name in CLASSES]),
        "random weights": ("random:0", list(CLASSES)),
        "shuffled names": (given.weights, [CLASSES[index] for index in order]),
    }
    print(f"\n{given.controls}, mIoU (a constant answer reaches {100 * constant(scenes):.1f} at best):")
    for name, (weights, names) in controls.items():
        counts, _ = scored(segmenter(given.controls, weights, "classes:" + ", ".join(names)), scenes, "labels", CLASSES)
        print(f"{name:<20}{100 * miou(counts):>8.1f}")


def constant(scenes: list[Scene]) -> float:
    """mIoU of one and the same class everywhere, the best there is."""
    pixels = np.bincount(np.concatenate([scene.labels.ravel() for scene in scenes]), minlength=len(CLASSES))
    return float(pixels.max() / pixels.sum() / (pixels > 0).sum())


if __name__ == "__main__":
    main()
