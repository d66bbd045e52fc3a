"""How many labels another way of computing changes; run by hand.

    python tests/benchmarks/agreement.py FOLDER [--preset sclip] [--model … --weights …] [--images 10]

Against fp32 as it runs: the literal way (every map made, every window enlarged by itself), and bf16. Equal pixels, over
all images, and the ratio of the seconds; then that of open_clip's own forward in both precisions.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

import ovlabel
from ovlabel.pictures.read import decode, read_file
from ovlabel.run.listing import list_images
from ovlabel.settings.reading import setting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", default="sclip")
    parser.add_argument("--vocab", default="coco-stuff")
    parser.add_argument("--model")
    parser.add_argument("--weights", default="random:0")
    parser.add_argument("--templates", default="simple")
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--window", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    keys = {"text.vocabulary": given.vocab, "encoder.weights": given.weights, "text.templates": given.templates}
    keys |= {"encoder.model": given.model} if given.model else {}
    keys |= dict(setting(pair) for pair in given.set)
    config = ovlabel.load_config(given.preset, keys)
    half = replace(config, encoder=replace(config.encoder, precision="bf16"))
    ways = {"fp32": ovlabel.build(config), "bf16": ovlabel.build(half)}
    exact = ways["fp32"]
    ways["literal"] = ovlabel.Segmenter(exact.encoder, exact.bank, exact.stack, config, literal=True)
    equal, seconds, pixels = dict.fromkeys(ways, 0), dict.fromkeys(ways, 0.0), 0
    for item in list_images(given.folder)[: given.images]:
        image = decode(read_file(item.path).data)
        labels = {}
        for name, segmenter in ways.items():
            begun = time.perf_counter()
            labels[name] = segmenter.annotation(image).labels
            seconds[name] += time.perf_counter() - begun
            equal[name] += int(np.count_nonzero(labels[name] == labels["fp32"]))
        pixels += labels["fp32"].size
    windows = torch.randn(16, 3, given.window, given.window)
    bare(ways["fp32"], windows), bare(ways["bf16"], windows)
    for name in ways:
        share, ratio = equal[name] / pixels, seconds["fp32"] / seconds[name]
        print(f"{name:<8} {share:9.4%} equal labels, {seconds[name] / given.images:.2f} s an image, {ratio:.2f} x fp32")
    ratios = sorted(bare(ways["fp32"], windows) / bare(ways["bf16"], windows) for _ in range(given.rounds))
    print(f"encoder  bf16 {median(ratios):.2f} x fp32 ({ratios[0]:.2f} to {ratios[-1]:.2f}), {len(windows)} windows")


def bare(segmenter: ovlabel.Segmenter, windows: torch.Tensor) -> float:
    """Seconds of open_clip's own forward, in the run's batches."""
    begun = time.perf_counter()
    with torch.inference_mode():
        for batch in windows.split(segmenter.batches.size):
            segmenter.encoder.plain(batch)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
