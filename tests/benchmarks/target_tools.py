"""Every export, opened by the tool that it is meant for; run by hand.

    pip install ultralytics cityscapesscripts
    python tests/benchmarks/target_tools.py [FOLDER]

Makes a store of six images with Cityscapes' classes, in a tree as YOLO's datasets have it, exports it in every format,
and prints what the tool's own loader or evaluator finds: labels for every image, and a score of 100 % for an export
against itself. A tool that is not installed is said to be so. panopticapi is only on GitHub; where it is missing,
cityscapesScripts' evaluation of panoptic JSON, which was made from it, stands in.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import ovlabel
from ovlabel.store.manifest import Manifest
from ovlabel.store.read import Store
from ovlabel.store.record import Record
from ovlabel.store.write import writing
from ovlabel.text.vocabulary import load_vocabulary
from ovlabel.types import Annotation

KEYS = [
    *(f"train/images/frankfurt_000000_{frame:06d}_leftImg8bit.png" for frame in (294, 576, 1016)),
    *(f"valid/images/lindau_000000_{frame:06d}_leftImg8bit.png" for frame in (0, 1, 2)),
]


def made(folder: Path) -> Store:
    """A store of blocks of random labels, in every class of Cityscapes."""
    vocabulary = load_vocabulary("cityscapes")
    random, entries = np.random.default_rng(0), []
    for key in KEYS:
        path = folder / "photos" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        labels = random.integers(0, len(vocabulary.classes), (8, 16)).repeat(12, 0).repeat(12, 1).astype(np.uint8)
        Image.fromarray(np.array(vocabulary.colours, np.uint8)[labels]).save(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        record = Record(key, path.stat().st_size, path.stat().st_mtime_ns, digest)
        entries.append((record, Annotation(labels, np.full_like(labels, 255), None, None, labels.shape)))
    place, run = folder / "photos.ovlabel.zarr", {"store": {"probabilities": "none"}}
    with writing(place, create=partial(Manifest.new, place, folder / "photos", vocabulary, run, {})) as store:
        store.commit(entries)
    return ovlabel.open_store(place)


def linked(store: Store, folder: Path) -> None:
    """Link the photographs into an export, as its manual says."""
    for key in store:
        place = folder / "images" / key
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(store[key].path.resolve())


def yolo_seg(store: Store, out: Path) -> str:
    """Ultralytics' dataset, loaded from another folder."""
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    linked(store, out)
    data, found = check_det_dataset(str(out / "data.yaml")), {}
    for split in ("train", "val"):
        dataset = YOLODataset(img_path=data[split], data=data, task="segment", augment=False, batch_size=1)
        found[split] = [len(entry["segments"]) for entry in dataset.labels]
    assert all(min(counts) > 0 and len(counts) == 3 for counts in found.values()), found
    return f"polygons of every image, by split: {found}"


def cityscapes(store: Store, out: Path) -> str:
    """Cityscapes' evaluation at pixel level, of the export against a copy of it in the published layout."""
    from importlib import import_module

    evaluation = import_module("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")

    truths = sorted(map(str, out.rglob("*_gtFine_labelIds.png")))
    evaluation.args.predictionPath, evaluation.args.predictionWalk = str(out), None
    evaluation.args.JSONOutput = evaluation.args.evalInstLevelScore = False
    predictions = [evaluation.getPrediction(evaluation.args, truth) for truth in truths]
    result = evaluation.evaluateImgLists(predictions, truths, evaluation.args)
    assert len(truths) == len(KEYS)
    assert result["averageScoreClasses"] == 1
    return f"IoU {result['averageScoreClasses']:.3f} over classes, of {len(truths)} images"


def coco_panoptic(store: Store, out: Path) -> str:
    """The panoptic quality of the export against itself."""
    files, folder = out / "panoptic.json", out / "panoptic"
    try:
        from panopticapi.evaluation import pq_compute

        value, name = pq_compute(str(files), str(files), str(folder), str(folder))["All"]["pq"], "panopticapi"
    except ImportError:
        from cityscapesscripts.evaluation.evalPanopticSemanticLabeling import evaluatePanoptic

        result = evaluatePanoptic(str(files), str(folder), str(files), str(folder), str(out.parent / "panoptic-result"))
        value, name = result["All"]["pq"], "cityscapesScripts"
    assert value == 1
    return f"PQ {100 * value:.1f} by {name}"


def coco_instances(store: Store, out: Path) -> str:
    """COCO's average precision of the export against itself."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO(str(out / "instances.json"))
    found = truth.loadRes([{**entry, "score": 1.0} for entry in truth.dataset["annotations"]])
    judge = COCOeval(truth, found, "segm")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    assert judge.stats[0] > 0.999
    return f"AP {judge.stats[0]:.3f}, {len(truth.imgs)} images, {len(truth.anns)} objects"


def label_studio(store: Store, out: Path) -> str:
    """Label Studio's converter to masks."""
    from label_studio_converter import Converter

    tasks = json.loads((out / "tasks-00000.json").read_text(encoding="utf-8"))
    done = [{**task, "id": i, "annotations": [{"id": i, **task["predictions"][0]}]} for i, task in enumerate(tasks)]
    (out.parent / "annotated.json").write_text(json.dumps(done), encoding="utf-8")
    (out.parent / "brush").mkdir()
    converter = Converter(str(out / "config.xml"), str(out.parent), upload_dir=str(store.folder))
    converter.convert(str(out.parent / "annotated.json"), str(out.parent / "brush"), "BRUSH_TO_PNG", is_dir=False)
    masks = list((out.parent / "brush").rglob("*.png"))
    assert masks
    return f"{len(masks)} masks of {len(tasks)} tasks"


def cvat_masks(store: Store, out: Path) -> str:
    """datumaro's reader, which CVAT imports with."""
    import datumaro

    data = datumaro.Dataset.import_from(str(out), "voc_segmentation")
    counts = [len(item.annotations) for item in data]
    assert len(counts) == len(KEYS)
    assert min(counts) > 0
    return f"masks of every image: {counts}"


def parquet(store: Store, out: Path) -> str:
    """Hugging Face datasets."""
    import datasets

    with tempfile.TemporaryDirectory() as cache:
        data = datasets.load_dataset("parquet", data_files=f"{out}/*.parquet", cache_dir=cache)["train"]
        sizes = {row["label"].size for row in data}
    assert len(data) == len(KEYS)
    return f"{len(data)} rows, labels of {sizes}"


TOOLS: dict[str, Callable[[Store, Path], str]] = {
    "yolo-seg": yolo_seg,
    "cityscapes": cityscapes,
    "coco-panoptic": coco_panoptic,
    "coco-instances": coco_instances,
    "coco-polygons": coco_instances,
    "label-studio": label_studio,
    "cvat-masks": cvat_masks,
    "parquet": parquet,
}


def tried(store: Store, name: str, folder: Path) -> str:
    """Export in one format and open it; what was found, or that the tool is not installed."""
    out = folder / name / "export"
    options: dict[str, Any] = {"image_url": "images"} if name == "label-studio" else {}
    ovlabel.export(store, out, name, **options)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return TOOLS[name](store, out.resolve())
    except ImportError as error:
        return f"not tried: {error.name} is not installed"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="where to write; empty or not there yet")
    parser.add_argument("--formats", default=",".join(TOOLS))
    given = parser.parse_args()
    os.environ.setdefault("YOLO_VERBOSE", "false")
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        store = made(folder)
        for name in given.formats.split(","):
            print(f"{name:<16}{tried(store, name, folder)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
