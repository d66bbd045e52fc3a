"""What every preset and template set reaches and costs; run by hand.

    python tests/benchmarks/preset_table.py coco --samples DIR --model M.json --weights M.safetensors [--limit 50]
    python tests/benchmarks/preset_table.py demo [--limit 60] [--templates simple,openai7,adaptive]

Rows are presets with their own protocols, or `--preset` with each of the template sets. A row `sclip:csa+pamr` is the
preset with these stages in place of its own; `propagate.repaired` is a stage with that `mode`. Seconds are the
segmenter's alone, one process. itaclip's stride of 28 is set to `--stride` (112), which `--stride 0` leaves alone.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from stage_effects import drawn

import ovlabel
from ovlabel.evaluation.class_map import map_classes
from ovlabel.evaluation.matching import match
from ovlabel.evaluation.metrics import mean, miou, miou_present, pixel_accuracy
from ovlabel.evaluation.tally import Tally, with_boundaries
from ovlabel.evaluation.truth import TruthClass, open_truth
from ovlabel.pictures.read import decode, read_file
from ovlabel.run.listing import list_images
from ovlabel.settings.reading import preset_names
from ovlabel.text.vocabulary import load_vocabulary


def row_of(name: str) -> tuple[str, dict[str, Any]]:
    """A preset, and the overrides that give it other stages."""
    preset, _, stages = name.partition(":")
    if not stages:
        return preset, {}
    parts = [part.partition(".") for part in stages.split("+")]
    return preset, {"stages": [{"use": use, "mode": mode} if mode else {"use": use} for use, _, mode in parts]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=["coco", "demo"])
    parser.add_argument("--samples", type=Path)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--presets", default=",".join(preset_names()))
    parser.add_argument("--preset", default="sclip")
    parser.add_argument("--templates", default="")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--stride", type=int, default=112)
    given = parser.parse_args()
    keys: dict[str, Any] = {"encoder.model": given.model, "encoder.weights": given.weights, "encoder.device": "cpu"}
    keys |= {"encoder.positions": "open_clip"} if given.data == "coco" else {"text.vocabulary": "demo"}
    keys |= dict(ovlabel.settings.reading.setting(text) for text in given.set)
    rows = {name: row_of(name) for name in given.presets.split(",")}
    if given.templates:
        rows = {name: (given.preset, {"text.templates": name}) for name in given.templates.split(",")}
    with tempfile.TemporaryDirectory() as place:
        folder, convention = given.samples, "coco-panoptic-ids"
        if given.data == "demo":
            folder, convention = Path(place), "raw"
            drawn(folder, given.limit)
        print(f"{'':<34}{'mIoU':>8}{'present':>9}{'accuracy':>10}{'boundary F1':>13}{'person':>8}{'s/image':>9}")
        for row, (preset, more) in rows.items():
            own = {"tiling.stride": given.stride} if preset == "itaclip" and given.stride else {}
            config = ovlabel.load_config(preset, keys | more | own)
            names = load_vocabulary(config.text.vocabulary).classes
            known = [TruthClass(e.name, (e.name,), e.kind, e.group) for e in names]
            truth = open_truth(folder / "masks", convention, known)
            items = {item.key: item for item in list_images(folder / "images")}
            masks = list(match(list(items), truth).items())[: given.limit]
            made = ovlabel.build(config, offline=True)
            table = map_classes(made.bank.classes, truth.classes).table()
            tally, spent = Tally(len(truth.classes)), 0.0
            for key, mask in masks:
                image, true = decode(read_file(items[key].path)[0]), truth.read(mask)
                begun = time.perf_counter()
                labels = made(image).labels
                spent += time.perf_counter() - begun
                tally.add(with_boundaries(true, table[labels], len(truth.classes)))
            scores = tally.scores(truth, tuple(key for key, _ in masks))
            assert scores.boundaries is not None
            edges, person = mean(scores.boundaries.f1_by_class()), scores.person()
            cells = [miou(scores.counts), miou_present(scores.counts), pixel_accuracy(scores.counts), edges]
            shown = [f"{100 * cell:.1f}" for cell in cells] + ["–" if person is None else f"{100 * person:.1f}"]
            print(f"{row:<34}{shown[0]:>8}{shown[1]:>9}{shown[2]:>10}{shown[3]:>13}{shown[4]:>8}"
                  f"{spent / len(masks):>9.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
