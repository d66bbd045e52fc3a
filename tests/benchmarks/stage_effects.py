"""What stages add or cost in mIoU, pixel accuracy and boundary F1, alone and together; run by hand.

    python tests/benchmarks/stage_effects.py coco --samples DIR --model M.json --weights M.safetensors [--limit 50]
    python tests/benchmarks/stage_effects.py demo [--limit 100]

Every row is the base stack with the named stages on top; all rows share each image's tokens. `coco`: a folder with
images/ and masks/ of COCO panoptic ids. `demo`: drawn scenes that training never saw, the embedded model.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import ovlabel
from ovlabel.evaluation.ablation import CachedTraces
from ovlabel.evaluation.class_map import map_classes
from ovlabel.evaluation.matching import match
from ovlabel.evaluation.metrics import mean, miou, miou_present, pixel_accuracy
from ovlabel.evaluation.tally import Tally, with_boundaries
from ovlabel.evaluation.truth import TruthClass, open_truth
from ovlabel.pictures.read import decode, read_file
from ovlabel.run.listing import list_images
from ovlabel.settings.keys import StageConfig
from ovlabel.spine.segmenter import Segmenter
from ovlabel.spine.stack import Stack, make_stage
from ovlabel.text.vocabulary import load_vocabulary

ROWS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "(base)": [],
    "rcs": [("rcs", {})],
    "sfr, literal": [("sfr", {})],
    "sfr, repaired": [("sfr", {"mode": "repaired"})],
    "rcs, sfr": [("sfr", {}), ("rcs", {})],
    "pamr": [("pamr", {})],
    "pamr 1, 2, 4, 8": [("pamr", {"dilations": (1, 2, 4, 8)})],
    "propagate": [("propagate", {})],
    "propagate, repaired": [("propagate", {"mode": "repaired"})],
    "propagate, probabilities": [("propagate", {"mode": "repaired", "follows": "probabilities"})],
    "propagate, pamr": [("propagate", {"mode": "repaired"}), ("pamr", {})],
    "crf": [("crf", {})],
    "crf, weight 4": [("crf", {"bilateral_weight": 4.0})],
    "upsample": [("upsample", {})],
    "correlate": [("correlate", {})],
    "pyramid": [("pyramid", {})],
    "regional": [("regional", {})],
    "presence": [("presence", {})],
    "hierarchy": [("hierarchy", {})],
    "smooth": [("smooth", {})],
    "static_calibration": [("static_calibration", {})],
    "pamr, crf": [("pamr", {}), ("crf", {"bilateral_weight": 4.0})],
    "all four": [("sfr", {}), ("rcs", {}), ("pamr", {}), ("crf", {"bilateral_weight": 4.0})],
}


def drawn(folder: Path, count: int) -> None:
    from PIL import Image

    from ovlabel.demo.scenes import draw

    for name in ("images", "masks"):
        (folder / name).mkdir()
    for index in range(count):
        scene = draw((1, index))
        Image.fromarray(scene.image).save(folder / "images" / f"{index:03d}.png")
        Image.fromarray(scene.labels).save(folder / "masks" / f"{index:03d}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=["coco", "demo"])
    parser.add_argument("--samples", type=Path)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--base", default="", help="preset of the base; plain for coco, sclip for demo")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--rows", default=";".join(ROWS))
    given = parser.parse_args()
    keys: dict[str, Any] = {"encoder.model": given.model, "encoder.weights": given.weights, "encoder.device": "cpu"}
    base = given.base or ("plain" if given.data == "coco" else "sclip")
    with tempfile.TemporaryDirectory() as place:
        folder, convention = given.samples, "coco-panoptic-ids"
        if given.data == "coco":
            keys |= {"encoder.positions": "open_clip", "tiling.short_side": 448}
        else:
            folder, convention = Path(place), "raw"
            drawn(folder, given.limit)
            keys |= {"text.vocabulary": "demo"}
        config = ovlabel.load_config(base, keys | dict(ovlabel.settings.reading.setting(text) for text in given.set))
        whole = ovlabel.build(config)
        names = load_vocabulary(config.text.vocabulary).classes
        truth = open_truth(
            folder / "masks", convention, [TruthClass(e.name, (e.name,), e.kind, e.group) for e in names]
        )
        table = map_classes(whole.bank.classes, truth.classes).table()
        encoder = CachedTraces(whole.encoder)
        made = {}
        for row in given.rows.split(";"):
            stages = (*whole.stack, *(make_stage(StageConfig(use, tuple(f.items()))) for use, f in ROWS[row]))
            made[row] = Segmenter(encoder, whole.bank, Stack(stages), config)
        tallies = {row: Tally(len(truth.classes)) for row in made}
        items = {item.key: item for item in list_images(folder / "images")}
        masks = list(match(list(items), truth).items())[: given.limit]
        for index, (key, mask) in enumerate(masks):
            image, true = decode(read_file(items[key].path)[0]), truth.read(mask)
            encoder.forget()
            for row, segmenter in made.items():
                encoder.rewind()
                found = table[segmenter(image).labels]
                tallies[row].add(with_boundaries(true, found, len(truth.classes)))
            print(f"{index + 1}/{len(masks)}", end="\r", flush=True)
        print(f"{len(masks)} images, base {base}")
        print(f"{'':<26}{'mIoU':>8}{'present':>9}{'accuracy':>10}{'boundary F1':>13}{'person':>8}")
        for row, tally in tallies.items():
            scores = tally.scores(truth, tuple(key for key, _ in masks))
            assert scores.boundaries is not None
            edges = mean(scores.boundaries.f1_by_class())
            cells = [miou(scores.counts), miou_present(scores.counts), pixel_accuracy(scores.counts), edges]
            person = scores.person()
            shown = [f"{100 * cell:.1f}" for cell in cells] + ["–" if person is None else f"{100 * person:.1f}"]
            print(f"{row:<26}{shown[0]:>8}{shown[1]:>9}{shown[2]:>10}{shown[3]:>13}{shown[4]:>8}")


if __name__ == "__main__":
    main()
