"""What every stage costs on one 480 × 640 image with 171 queries, and what presets take beside a matrix product.

    python tests/benchmarks/stage_costs.py [--rounds 3] [--presets resclip,resclip:repaired]

ViT-B/16 of random weights, the largest of tests/photographs resized, fp32 on the CPU. A stage's seconds are those
inside its own methods at its defaults; what it calls of other stages (sfr's first pass) is its own. The probe is a
product of two 1024 x 1024 matrices, in GFLOP/s: it makes machines comparable.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import ovlabel
from ovlabel.settings.keys import StageConfig, stage_names
from ovlabel.spine.segmenter import Segmenter
from ovlabel.spine.stack import Stack, make_stage

PHOTOGRAPHS = Path(__file__).parents[1] / "photographs"
WINDOWS = {"encoder.last_block": "attention", "tiling.short_side": 336}
FIELDS = {"sfr, repaired": ("sfr", (("mode", "repaired"),)),
          "propagate, repaired": ("propagate", (("mode", "repaired"),)),
          "crf, not pruned": ("crf", (("prune", False),)), "crf, scale 0.5": ("crf", (("scale", 0.5),))}  # fmt: skip


def probe() -> float:
    """GFLOP/s of a float32 matrix product."""
    one, two = torch.rand(1024, 1024), torch.rand(1024, 1024)
    one @ two
    begun = time.perf_counter()
    for _ in range(20):
        one @ two
    return 20 * 2 * 1024**3 / (time.perf_counter() - begun) / 1e9


def timed(stage: Any, spent: dict[str, float], name: str) -> Any:
    """The stage, its methods timed."""
    cls = type(stage)

    def wrapped(level: str) -> Callable[..., Any]:
        def method(self: Any, value: Any, context: Any) -> Any:
            begun = time.perf_counter()
            out = getattr(cls, level)(self, value, context)
            spent[name] += time.perf_counter() - begun
            return out

        return method

    watched = type(cls.__name__, (cls,), {"__module__": cls.__module__, **{lv: wrapped(lv) for lv in stage.acts_at()}})
    return watched(**{f: getattr(stage, f) for f in (field.name for field in dataclasses.fields(stage))})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--presets", default="sclip,naclip,resclip,resclip:repaired,phase1")
    parser.add_argument("--stages", nargs="*", help="all, or those named; loftup takes --checkpoint")
    parser.add_argument("--checkpoint", default="")
    given = parser.parse_args()
    photograph = max(PHOTOGRAPHS.glob("*.jpg"), key=lambda path: path.stat().st_size)
    image = np.array(Image.open(photograph).convert("RGB").resize((640, 480)))
    keys = {"encoder.weights": "random:0", "encoder.device": "cpu", "text.templates": "simple"}
    print(f"{torch.get_num_threads()} threads, probe {probe():.0f} GFLOP/s")
    for name in given.presets.split(",") if given.presets else []:
        preset, _, mode = name.partition(":")
        made = ovlabel.build(
            ovlabel.load_config(preset, {**keys, **({"sfr.mode": mode} if mode else {})}), offline=True
        )
        made.annotation(image)
        rounds, probes = [], []
        for _ in range(given.rounds):
            begun = time.perf_counter()
            made.annotation(image)
            rounds.append(time.perf_counter() - begun)
            probes.append(probe())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{name:<18}{statistics.median(rounds):7.2f} s ({min(rounds):.2f} to {max(rounds):.2f}), "
              f"probe {statistics.median(probes):.0f}, peak so far {peak:.0f} MB", flush=True)  # fmt: skip
    if given.stages is None:
        return
    base = ovlabel.build(ovlabel.load_config("plain", {**keys, **WINDOWS}))
    entries = {name: (name, ()) for name in stage_names() if name != "loftup"} | FIELDS
    if given.checkpoint:
        for factor in (4, 8, 16):
            fields = (("checkpoint", given.checkpoint), ("factor", factor))
            entries[f"loftup, factor {factor}"] = ("loftup", fields)
    entries = {name: entry for name, entry in entries.items() if not given.stages or entry[0] in given.stages}
    for name, (use, fields) in sorted(entries.items()):
        spent: dict[str, float] = defaultdict(float)
        stage = timed(make_stage(StageConfig(use, fields)), spent, name)
        made = Segmenter(base.encoder, base.bank, Stack((stage,)), base.config)
        made.annotation(image)
        rounds = []
        for _ in range(given.rounds):
            spent.clear()
            made.annotation(image)
            rounds.append(spent[name])
        print(f"{name:<20}{statistics.median(rounds):7.3f} s ({min(rounds):.3f} to {max(rounds):.3f})", flush=True)


if __name__ == "__main__":
    main()
