"""How much longer an annotation takes than the bare encoder over the same windows; run by hand.

    python tests/benchmarks/encoder_share.py [--preset sclip] [--rounds 7] [--weights random:0]

One 480 × 640 image of noise, ViT-B/16, COCO-Stuff's 171 classes, fp32 on the CPU. Both are timed in turn in one
process; the ratio is taken round by round. Peak memory is the process'.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

import ovlabel
from ovlabel.windows import tile, working_size


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="sclip")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--weights", default="random:0")
    given = parser.parse_args()
    keys = {"encoder.weights": given.weights, "encoder.device": "cpu", "text.templates": "simple"}
    config = ovlabel.load_config(given.preset, keys)
    segmenter = ovlabel.build(config)
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    tiling = config.tiling
    size = working_size((480, 640), tiling.short_side, tiling.long_side, segmenter.clip.patch)
    boxes = tile(size, tiling.window, tiling.stride)
    windows = torch.randn(len(boxes), 3, boxes[0].height, boxes[0].width)

    def bare() -> None:
        with torch.inference_mode():
            trace = segmenter.clip.trace(windows)
            segmenter.clip.readout(trace, trace.attention(trace.layers))

    segmenter.annotation(image), bare()
    pairs = [(seconds(lambda: segmenter.annotation(image)), seconds(bare)) for _ in range(given.rounds)]
    whole, encoder = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratios = sorted(a / b for a, b in pairs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{given.preset}: {len(boxes)} windows, {torch.get_num_threads()} threads, median of {given.rounds} rounds")
    print(f"annotation {whole:.2f} s, encoder {encoder:.2f} s, peak memory {peak:.0f} MB")
    print(f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
