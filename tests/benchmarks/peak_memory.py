"""Peak memory of one image against the README's formula; run by hand, once for each case.

    python tests/benchmarks/peak_memory.py HEIGHT WIDTH [PRESET] [--model … --weights …] [--set KEY=VALUE]

Resident memory of a fresh process once the model is there, at the highest after one image of coloured squares, and what
the formula allows on top of the model: 1 GiB + 6 bytes x classes x finish pixels + 20 bytes x image pixels.
"""

from __future__ import annotations

import argparse

import numpy as np

import ovlabel
from ovlabel.run.bench import peak_resident
from ovlabel.settings.reading import setting
from ovlabel.spine.scales import finish_size

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
    before = peak_resident() / 2**30
    made = segmenter.annotation(image)
    after = peak_resident() / 2**30
    height, width = finish_size(config.labels, image.shape, made.working_size)
    most = 1 + (6 * len(segmenter.bank.classes) * height * width + 20 * given.height * given.width) / 2**30
    print(
        f"{given.preset}, {given.height} x {given.width}: {before:.2f} GiB with the model, {after:.2f} at the highest"
    )
    print(f"{after - before:.2f} GiB for the image; the formula allows {most:.2f}")


if __name__ == "__main__":
    main()
