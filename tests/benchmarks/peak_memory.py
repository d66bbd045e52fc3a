"""Peak memory of one image against the README's formula; run by hand, once for each case.

    python tests/benchmarks/peak_memory.py HEIGHT WIDTH [PRESET] [--model … --weights …] [--set KEY=VALUE]

Resident memory of a fresh process once the model is there, at the highest after one image of coloured squares, and what
the formula allows on top of the model: 1 GiB + 6 bytes x classes x finish pixels + 20 bytes x image pixels.
"""

from __future__ import annotations

import argparse
import resource
import sys

import numpy as np

import ovlabel
from ovlabel.config import setting

_SQUARE = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("height", type=int)
    parser.add_argument("width", type=int)
    parser.add_argument("preset", nargs="?", default="sclip")
    parser.add_argument("--vocab", default="coco-stuff")
    parser.add_argument("--model")
    parser.add_argument("--weights", default="random:0")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    keys = {"text.vocabulary": given.vocab, "encoder.weights": given.weights, "text.templates": "simple"}
    keys |= {"encoder.model": given.model} if given.model else {}
    config = ovlabel.load_config(given.preset, keys | dict(setting(pair) for pair in given.set))
    segmenter = ovlabel.build(config)
    squares = np.random.default_rng(0).integers(0, 256, (-(-given.height // _SQUARE), -(-given.width // _SQUARE), 3))
    image = squares.astype(np.uint8).repeat(_SQUARE, 0).repeat(_SQUARE, 1)[: given.height, : given.width]
    before = peak()
    made = segmenter.annotation(image)
    area = given.height * given.width
    where = made.working_size[0] * made.working_size[1] if config.labels.finish == "working" else area
    finish = min(where, config.labels.max_finish_pixels)
    most = 1 + (6 * len(segmenter.bank.classes) * finish + 20 * area) / 2**30
    print(
        f"{given.preset}, {given.height} x {given.width}: {before:.2f} GiB with the model, {peak():.2f} at the highest"
    )
    print(f"{peak() - before:.2f} GiB for the image; the formula allows {most:.2f}")


def peak() -> float:
    """GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**30


if __name__ == "__main__":
    main()
