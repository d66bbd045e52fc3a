"""Ground truth in the layouts in which datasets are published: one convention a dataset, all read as class indices.

A convention says which files hold the masks, what their values mean, and which values do not count. Names come from the
vocabulary of the same dataset, or from the dataset's own JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovlabel.errors import TruthError, unknown
from ovlabel.vocabulary import Vocabulary, load_vocabulary

IGNORED = 65535  # a pixel that does not count, in what `Truth.read` returns
_SUFFIXES = (".png", ".PNG", ".tif", ".tiff", ".bmp", ".gif")
Indices = NDArray[np.uint16]


@dataclass(frozen=True)
class TruthClass:
    """A true class: its name, further names that mean it, its kind and group."""

    name: str
    covers: tuple[str, ...] = ()
    kind: str = ""
    group: str = ""


@dataclass(frozen=True)
class Truth:
    """Ground truth of a folder of images.

    Attributes:
        convention: its name. classes: in index order.
        files: the mask of every image, by the image's path without suffix.
    """

    convention: str
    classes: tuple[TruthClass, ...]
    files: Mapping[str, Path]
    _values: Callable[[str, Path], NDArray[Any]]
    _table: NDArray[np.uint16]

    def read(self, name: str) -> Indices:
        """uint16 h w: class indices, IGNORED where a pixel does not count. Raises TruthError."""
        path = self.files[name]
        try:
            values = self._values(name, path)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise TruthError(f"{path} can't be read as ground truth: {error}") from None
        if values.min(initial=0) < 0 or values.max(initial=0) > IGNORED:
            raise TruthError(f"{path} holds values beyond 0 … {IGNORED}; no convention has such ids")
        indices: Indices = self._table[values]
        if (indices == _OUTSIDE).any():
            outside = values[indices == _OUTSIDE]
            raise TruthError(
                f"{path} holds the id {outside[0]} ({len(outside)} pixels), which '{self.convention}' does not have; "
                "is --truth the right one?"
            )
        return indices


_OUTSIDE = 65534


@dataclass(frozen=True)
class Convention:
    """How a dataset writes its masks.

    Attributes:
        title: one line. vocabulary: whose names and ids it has; "" for the dataset's own JSON.
        ids: "index" (0, 1, …), "id" (the vocabulary's ids) or "id-1" (one less).
        ignored: values that do not count. ending: of mask names, taken off to find the image.
        rest: every other value does not count either.
    """

    title: str
    vocabulary: str = ""
    ids: str = "index"
    ignored: tuple[int, ...] = ()
    ending: str = ""
    rest: bool = False


_TRAIN = "*_labelTrainIds.png: 0 … {}, 255 ignored"
# fmt: off
CONVENTIONS: dict[str, Convention] = {
    "raw": Convention("indices of the store's own vocabulary; 255 and 65535 ignored, as far as they are no class", "", "index", (255,)),
    "coco-stuff": Convention("COCO-Stuff 164k " + _TRAIN.format(170), "coco-stuff", "index", (255,), ending="_labelTrainIds"),
    "coco-stuff-raw": Convention("COCO-Stuff 164k stuffthingmaps: official id − 1, 255 ignored", "coco-stuff", "id-1", (255,)),
    "coco-panoptic": Convention("COCO panoptic: JSON and RGB PNGs; unlabelled ignored"),
    "coco-panoptic-ids": Convention("COCO panoptic category ids in 8-bit PNGs; 0 ignored", "coco-panoptic", "id", (0,)),
    "voc": Convention("PASCAL VOC SegmentationClass: 0 background, 255 ignored", "voc21", "id", (255,)),
    "voc20": Convention("PASCAL VOC SegmentationClass without background: 0 and 255 ignored", "voc20", "id", (0, 255)),
    "context60": Convention("PASCAL-Context, 0 … 59: 0 background, 255 ignored", "context60", "index", (255,)),
    "context59": Convention("PASCAL-Context, 1 … 59: 0 and 255 ignored", "context59", "index+1", (0, 255)),
    "context-459": Convention("PASCAL-Context's 459 labels in PNGs; the 59 that count", "context59", "id", (0,), rest=True),
    "ade20k": Convention("ADE20K SceneParse150: 1 … 150, 0 ignored", "ade20k", "id", (0,)),
    "cityscapes": Convention("Cityscapes *_gtFine_labelIds.png; the 19 that count", "cityscapes", "id", ending="_gtFine_labelIds", rest=True),
    "cityscapes-train": Convention("Cityscapes " + _TRAIN.format(18), "cityscapes", "index", (255,), ending="_gtFine_labelTrainIds"),
    "camvid": Convention("CamVid, the 11 classes of the SegNet version; 11 ignored", "camvid", "id", (11,)),
}
# fmt: on
IMAGE_ENDINGS = ("_leftImg8bit",)


def open_truth(place: Path, convention: str, own: Iterable[TruthClass]) -> Truth:
    """The ground truth that lies at `place`.

    Args:
        place: a folder of masks, searched in depth; for coco-panoptic the JSON, or a folder that holds it.
        convention: a name of CONVENTIONS. own: the classes of the store's vocabulary, for "raw".

    Raises:
        TruthError: no such convention, nothing there, or two masks for one image.
    """
    if convention not in CONVENTIONS:
        raise TruthError(unknown("ground-truth convention", convention, CONVENTIONS))
    if not place.exists():
        raise TruthError(f"no ground truth at {place}")
    if convention == "coco-panoptic":
        return _panoptic(place)
    kind = CONVENTIONS[convention]
    if kind.vocabulary:
        vocabulary = load_vocabulary(kind.vocabulary)
        classes = _classes_of(vocabulary)
        ids = _ids(vocabulary, kind.ids)
    else:
        classes = tuple(own)
        ids = list(range(len(classes)))
    table = np.full(65536, IGNORED if kind.rest else _OUTSIDE, np.uint16)
    table[[*kind.ignored, IGNORED]] = IGNORED
    table[ids] = np.arange(len(ids))
    return Truth(convention, classes, _masks(place, kind), _one_channel, table)


def _classes_of(vocabulary: Vocabulary) -> tuple[TruthClass, ...]:
    return tuple(TruthClass(c.name, c.asked, c.kind, c.group) for c in vocabulary.classes)


def _ids(vocabulary: Vocabulary, rule: str) -> list[int]:
    if rule.startswith("index"):
        first = int(rule.removeprefix("index") or 0)
        return [first + index for index in range(len(vocabulary.classes))]
    less = int(rule.removeprefix("id") or 0)
    return [int(entry.id or 0) + less for entry in vocabulary.classes]


def _masks(place: Path, kind: Convention) -> dict[str, Path]:
    """Every mask by the path, without suffix and ending, of the image it belongs to."""
    root = place if place.is_dir() else place.parent
    found = sorted(p for p in place.rglob("*") if p.suffix in _SUFFIXES) if place.is_dir() else [place]
    found = [path for path in found if path.stem.endswith(kind.ending)]
    masks: dict[str, Path] = {}
    for path in found:
        name = path.relative_to(root).with_suffix("").as_posix().removesuffix(kind.ending)
        if name in masks:
            raise TruthError(f"two masks for one image: {masks[name]} and {path}")
        masks[name] = path
    if not masks:
        raise TruthError(f"no masks (*{kind.ending}.png) in {place}")
    return masks


def _one_channel(_: str, path: Path) -> NDArray[Any]:
    """Ids as they are written: a palette is not applied."""
    with Image.open(path) as picture:
        if picture.mode not in ("L", "P", "I", "I;16", "1"):
            raise ValueError(f"it is {picture.mode}, where one channel of ids is wanted")
        values = np.asarray(picture)
    return values.astype(np.uint8) if values.dtype == bool else values


def _panoptic(place: Path) -> Truth:
    """A JSON, and RGB PNGs (id = R + 256 G + 256² B) in the folder of its name or beside it."""
    sheets = [place] if place.is_file() else sorted(place.glob("*.json"))
    tables = {path: sheet for path in sheets if (sheet := _panoptic_json(path)) is not None}
    if len(tables) != 1:
        names = ", ".join(path.name for path in tables) or "none"
        raise TruthError(
            f"{place} should hold one panoptic JSON (annotations with segments_info and file_name); it holds {names}"
        )
    ((path, sheet),) = tables.items()
    categories = {int(entry["id"]): entry for entry in sheet["categories"]}
    covers = {c.name: c.covers for c in _classes_of(load_vocabulary("coco-panoptic"))}
    classes = tuple(
        TruthClass(str(c["name"]), covers.get(c["name"], (str(c["name"]),)), "thing" if c.get("isthing") else "stuff",
                   str(c.get("supercategory", ""))) for c in categories.values()
    )  # fmt: skip
    index_of = {identity: index for index, identity in enumerate(categories)}
    files, segments = dict[str, Path](), dict[str, dict[int, int]]()
    folders = [path.with_suffix(""), path.parent]
    for entry in sheet["annotations"]:
        name = Path(entry["file_name"]).with_suffix("").as_posix()
        found = [folder / entry["file_name"] for folder in folders if (folder / entry["file_name"]).is_file()]
        if found:
            files[name] = found[0]
            segments[name] = {int(s["id"]): index_of[int(s["category_id"])] for s in entry["segments_info"]}
    if not files:
        raise TruthError(f"none of the PNGs that {path} names lies in {folders[0]} or {folders[1]}")

    def values(name: str, mask: Path) -> NDArray[Any]:
        with Image.open(mask) as picture:
            channels = np.asarray(picture.convert("RGB")).astype(np.uint32)
        identities, where = np.unique(channels @ np.array([1, 256, 65536], np.uint32), return_inverse=True)
        known = {0: len(classes), **segments[name]}
        strange = [int(i) for i in identities if int(i) not in known]
        if strange:
            raise ValueError(f"segment {strange[0]} is not in {path.name}")
        return np.array([known[int(i)] for i in identities], np.uint16)[where].reshape(channels.shape[:2])

    table = np.append(np.arange(len(classes)), IGNORED).astype(np.uint16)
    return Truth("coco-panoptic", classes, files, values, table)


def _panoptic_json(path: Path) -> dict[str, Any] | None:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        first = table["annotations"][0]
        return table if {"segments_info", "file_name"} <= first.keys() and table["categories"] else None
    except (OSError, ValueError) as error:
        raise TruthError(f"{path} can't be read: {error}") from None
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
