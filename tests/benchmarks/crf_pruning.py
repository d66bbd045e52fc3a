"""What pruning the CRF's labels gains and changes on five photographs; run by hand.

    python tests/benchmarks/crf_pruning.py PHOTOGRAPHS --model M.json --weights M.safetensors

Takes the first five photographs of 480 × 640 by name, the checkpoint's probabilities over COCO-Stuff's 171 classes
(preset plain, short side 448), and runs the CRF with all labels and with those that can win, in turn.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import ovlabel
from ovlabel.stages.crf import Crf
from ovlabel.types import ImageContext


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--bilateral-weight", type=float, default=10.0)
    given = parser.parse_args()
    keys = {"encoder.model": given.model, "encoder.weights": given.weights, "encoder.positions": "open_clip",
            "encoder.device": "cpu", "tiling.short_side": 448}  # fmt: skip
    segmenter = ovlabel.build(ovlabel.load_config("plain", keys))
    found = []
    for path in sorted(given.photographs.iterdir()):
        with Image.open(path) as picture:
            if picture.size == (640, 480) and len(found) < 5:
                found.append((path.name, np.array(picture.convert("RGB"))))
    ratios, agreed = [], []
    for name, image in found:
        probabilities = torch.from_numpy(segmenter(image).probabilities)
        context = ImageContext(image, None, None, None, 40.0)  # type: ignore[arg-type]
        seconds, labels = [], []
        for prune in (False, True):
            begun = time.perf_counter()
            posterior = Crf(prune=prune, bilateral_weight=given.bilateral_weight).probabilities(probabilities, context)
            seconds.append(time.perf_counter() - begun)
            labels.append(posterior.argmax(0))
        kept = len(torch.unique(probabilities.argmax(0)))
        ratios.append(seconds[0] / seconds[1])
        agreed.append(float((labels[0] == labels[1]).float().mean()))
        print(f"{name}: {kept} of {len(probabilities)} classes, {seconds[0]:.2f} s and {seconds[1]:.2f} s, "
              f"{ratios[-1]:.1f} times, {100 * agreed[-1]:.2f} % equal", flush=True)  # fmt: skip
    print(
        f"mean {np.mean(ratios):.1f} times ({min(ratios):.1f} to {max(ratios):.1f}), "
        f"{100 * np.mean(agreed):.2f} % equal"
    )


if __name__ == "__main__":
    main()
