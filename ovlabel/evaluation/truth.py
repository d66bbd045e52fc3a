"""Ground truth in the layouts in which datasets are published: one convention a dataset, all read as class indices.

A convention says which files hold the masks, what their values mean, and which values do not count. Names come from the
vocabulary of the same dataset, or from the dataset's own JSON.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ovlabel.errors import TruthError, short, shown, unknown
from ovlabel.files import open_regular, read_up_to
from ovlabel.text.vocabulary import Vocabulary, load_vocabulary

IGNORED = 65535  # a pixel that does not count, in what `Truth.read` returns
_JSON_BYTES = 2 * 2**30  # LVIS' training set, the largest that is published, has half of it
_MASK_BYTES, _PIXELS = 16 * 2**20, 2**28  # of one mask: a .mat file, and what it or a picture holds
_MOST = 65_534  # classes, and the background
_OUTLINE = 2_000_000  # pixels that a polygon may be long: pycocotools takes 80 bytes for each
_SUFFIXES = (".mat", ".png", ".PNG", ".tif", ".tiff", ".bmp", ".gif")
_FORMATS = ("PNG", "TIFF", "BMP", "GIF")  # whatever a file is called: Pillow hands others to programs (EPS)
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
        except Exception as error:  # of a damaged file, readers raise whatever comes first
            reason = error.strerror or error if isinstance(error, OSError) else error
            reason = short(reason) or type(error).__name__
            raise TruthError(f"{path} can't be read as ground truth: {reason}") from None
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
    "coco-object": Convention("COCO-Object *_instanceTrainIds.png: 0 background, 1 … 80", "coco-object", "index", ending="_instanceTrainIds"),
    "coco-instances": Convention("COCO instances JSON; pixels of no instance are background, smaller instances lie on top"),
    "coco-instances-only": Convention("COCO instances JSON; pixels of no instance ignored"),
    "voc": Convention("PASCAL VOC SegmentationClass: 0 background, 255 ignored", "voc21", "id", (255,)),
    "voc20": Convention("PASCAL VOC SegmentationClass without background: 0 and 255 ignored", "voc20", "id", (0, 255)),
    "context60": Convention("PASCAL-Context, 0 … 59: 0 background, 255 ignored", "context60", "index", (255,)),
    "context59": Convention("PASCAL-Context, 1 … 59: 0 and 255 ignored", "context59", "index+1", (0, 255)),
    "context-459": Convention("PASCAL-Context's 459 labels, .mat as published or PNGs; the 59 that count", "context59", "id", (0,), rest=True),
    "ade20k": Convention("ADE20K SceneParse150: 1 … 150, 0 ignored", "ade20k", "id", (0,)),
    "cityscapes": Convention("Cityscapes *_gtFine_labelIds.png; the 19 that count", "cityscapes", "id", ending="_gtFine_labelIds", rest=True),
    "cityscapes-train": Convention("Cityscapes " + _TRAIN.format(18), "cityscapes", "index", (255,), ending="_gtFine_labelTrainIds"),
    "camvid": Convention("CamVid, the 11 classes of the SegNet version; 11 ignored", "camvid", "id", (11,)),
    "camvid-rgb": Convention("CamVid as published, *_L.png in colours; its 32 classes as the 11 of the SegNet version", "camvid", "id", (11,), ending="_L"),
}
_CAMVID_COLOURS = (  # by SegNet class: which of the 32 it takes in; the last is void
    "808080",  # Sky
    "008040 800000 40c000 400040 c00080",  # Bridge, Building, Wall, Tunnel, Archway
    "c0c080 000040",  # Column_Pole, TrafficCone
    "804080 8000c0 c00040",  # Road, LaneMkgsDriv, LaneMkgsNonDriv
    "0000c0 40c080 8080c0",  # Sidewalk, ParkingBlock, RoadShoulder
    "808000 c0c000",  # Tree, VegetationMisc
    "c08080 808040 004040",  # SignSymbol, Misc_Text, TrafficLight
    "404080",  # Fence
    "400080 4080c0 c080c0 c04080 804040",  # Car, SUVPickupTruck, Truck_Bus, Train, OtherMoving
    "404000 c08040 4000c0 408040",  # Pedestrian, Child, CartLuggagePram, Animal
    "0080c0 c000c0",  # Bicyclist, MotorcycleScooter
    "000000",
)
# fmt: on
IMAGE_ENDINGS = ("_leftImg8bit",)


def open_truth(place: Path, convention: str, own: Iterable[TruthClass]) -> Truth:
    """The ground truth that lies at `place`.

    Args:
        place: a folder of masks, searched in depth; for COCO's panoptic and instances the JSON, or a folder with it.
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
    if convention.startswith("coco-instances"):
        return _instances(place, convention)
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
    return Truth(
        convention, classes, _masks(place, kind), _camvid if convention == "camvid-rgb" else _one_channel, table
    )


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
    """Ids as they are written: a palette is not applied. Of a .mat, its LabelMap."""
    if path.suffix == ".mat":
        return _label_map(path)
    with _opened(path) as picture:
        if picture.mode not in ("L", "P", "I", "I;16", "1"):
            raise ValueError(f"it is {picture.mode}, where one channel of ids is wanted")
        values = np.asarray(picture)
    return values.astype(np.uint8) if values.dtype == bool else values


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A picture, if it is a file and of a size that masks have."""
    with open_regular(path) as file:
        try:
            picture = Image.open(file, formats=_FORMATS)
        except UnidentifiedImageError:
            raise ValueError("it is no picture in a format that can be read") from None
        with picture:
            _check_size(picture.height, picture.width)
            yield picture


def _check_size(height: int, width: int) -> None:
    if height < 0 or width < 0 or height * width > _PIXELS:
        raise ValueError(f"it is {height} × {width} pixels; {_PIXELS} are the most")


def _label_map(path: Path) -> NDArray[Any]:
    from scipy.io import loadmat, whosmat  # scipy.io takes longer to import than all else here

    file: Any = io.BytesIO(read_up_to(path, _MASK_BYTES))
    try:
        for _, shape, _ in whosmat(file):
            _check_size(math.prod(shape), 1)
        held = loadmat(file, variable_names=["LabelMap"])
    except Exception as error:  # of a damaged file, scipy raises whatever comes first
        raise ValueError(f"no MATLAB file ({error})") from None
    if "LabelMap" not in held:
        raise ValueError("it holds no LabelMap, which PASCAL-Context's files do")
    values = held["LabelMap"]
    if values.ndim != 2 or values.dtype.kind not in "uif":
        raise ValueError(f"its LabelMap is {values.dtype} of {values.shape}, where h × w numbers are wanted")
    if not np.isfinite(values).all():
        raise ValueError("its LabelMap holds values that are no numbers")
    return np.asarray(values).astype(np.int64)


def _camvid(_: str, path: Path) -> NDArray[Any]:
    with _opened(path) as picture:
        if picture.mode not in ("RGB", "P"):
            raise ValueError(f"it is {picture.mode}, where colours are wanted; the SegNet version is --truth camvid")
        packed = np.asarray(picture.convert("RGB")).astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    known = {int(colour, 16): index for index, row in enumerate(_CAMVID_COLOURS) for colour in row.split()}
    colours, where = np.unique(packed, return_inverse=True)
    strange = [f"#{colour:06x}" for colour in colours.tolist() if colour not in known]
    if strange:
        raise ValueError(f"the colour {strange[0]} is none of CamVid's 32")
    return np.array([known[colour] for colour in colours.tolist()])[where].reshape(packed.shape)


def _instances(place: Path, convention: str) -> Truth:
    """A JSON of instances, drawn as classes: larger ones first, so that a cup on a table stays a cup; crowds as one."""
    path, sheet = _only_json(place, {"image_id", "segmentation"}, "instances JSON (annotations with segmentation)")
    try:
        categories = [(int(entry["id"]), _name(entry["name"])) for entry in sheet["categories"]]
        index_of = {identity: index for index, (identity, _) in enumerate(categories, start=1)}
        images = {int(image["id"]): image for image in sheet["images"]}
        files = {Path(image["file_name"]).with_suffix("").as_posix(): path for image in images.values()}
        names = {Path(image["file_name"]).with_suffix("").as_posix(): key for key, image in images.items()}
        drawn: dict[int, list[dict[str, Any]]] = {key: [] for key in images}
        for entry in sorted(sheet["annotations"], key=lambda entry: -float(entry.get("area", 0))):
            index_of[int(entry["category_id"])]
            drawn[int(entry["image_id"])].append(entry)
    except _MALFORMED as error:
        raise TruthError(f"{path} is no whole instances JSON: {type(error).__name__} {short(error)}") from None
    _check_count(path, len(categories))
    if len(files) < len(images):
        raise TruthError(f"{path} names an image twice")

    def values(name: str, _: Path) -> NDArray[Any]:
        image = images[names[name]]
        height, width = int(image["height"]), int(image["width"])
        _check_size(height, width)
        indices = np.zeros((height, width), np.uint16)
        for entry in drawn[names[name]]:
            try:
                indices[_drawn(entry["segmentation"], indices.shape)] = index_of[int(entry["category_id"])]
            except Exception as error:  # of a shape that makes no sense, pycocotools raises whatever comes first
                reason = f"{type(error).__name__} {short(error)}"
                raise ValueError(f"annotation {short(entry.get('id', '?'))}: {reason}") from None
        return indices

    covers = {c.name: c.covers for c in _classes_of(load_vocabulary("coco-object"))}
    classes = [TruthClass(name, covers.get(name, (name,)), "thing", _groups().get(name, "")) for _, name in categories]
    if convention == "coco-instances":
        every = (TruthClass("background", covers["background"], "stuff"), *classes)
        return Truth(convention, every, files, values, np.arange(65536, dtype=np.uint16))
    table = np.append(IGNORED, np.arange(65535)).astype(np.uint16)
    return Truth(convention, tuple(classes), files, values, table)


def _drawn(shape: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Polygons, or runs compressed or not, as a mask."""
    if isinstance(shape, list):
        return _outlined(shape, size)
    runs, claimed = shape["counts"], shape.get("size", size)
    runs = _unpacked(runs.encode()) if isinstance(runs, str) else runs
    if list(claimed) != list(size):
        raise ValueError(f"its runs are for {short(claimed)} pixels, the image has {list(size)}")
    if not all(type(run) is int and run >= 0 for run in runs) or sum(runs) != size[0] * size[1]:
        raise ValueError("its runs are not as long as the image")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(size[1], size[0]).T  # column by column


def _outlined(outlines: list[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Polygons as a mask. pycocotools trusts what it is given, so that is looked at first."""
    from pycocotools import mask as coco_mask

    for outline in outlines:
        points = np.array(outline, np.float64).reshape(-1, 2)
        near = bool((np.abs(points) <= _OUTLINE).all())  # not so for what is no number
        if not near or np.abs(np.diff(points, axis=0, append=points[:1])).sum() > _OUTLINE:
            raise ValueError("an outline is longer than any in a photograph")
    if not outlines or not size[0] * size[1]:
        return np.zeros(size, bool)
    return np.asarray(coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(outlines, *size))).astype(bool))


def _unpacked(text: bytes) -> list[int]:
    """COCO's compressed runs: five bits a letter, lowest first, from the third run on less the last but one.

    pycocotools, which reads them in C, writes beyond its memory where they make no sense.
    """
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        bits = letter - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("its runs are no text of COCO's")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits >> 4 & 1) << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("its runs are cut short")
    return runs


_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


def _name(name: Any) -> str:
    """A category's name, which reports print."""
    if not isinstance(name, str | int) or len(str(name)) > 200 or not str(name).isprintable():
        raise ValueError(f"{shown(name)} is no category's name")
    return str(name)


def _check_count(path: Path, categories: int) -> None:
    if categories > _MOST - 1:
        raise TruthError(f"{path} has {categories} categories; {_MOST - 1} are the most")


def _groups() -> dict[str, str]:
    return {c.name: c.group for c in load_vocabulary("coco-object").classes}


def _panoptic(place: Path) -> Truth:
    """A JSON, and RGB PNGs (id = R + 256 G + 256² B) in the folder of its name or beside it."""
    path, sheet = _only_json(
        place, {"segments_info", "file_name"}, "panoptic JSON (annotations with segments_info and file_name)"
    )
    covers = {c.name: c.covers for c in _classes_of(load_vocabulary("coco-panoptic"))}
    files, segments = dict[str, Path](), dict[str, dict[int, int]]()
    folders = [path.with_suffix(""), path.parent]
    try:
        categories = {int(entry["id"]): {**entry, "name": _name(entry["name"])} for entry in sheet["categories"]}
        index_of = {identity: index for index, identity in enumerate(categories)}
        for entry in sheet["annotations"]:
            name = Path(entry["file_name"]).with_suffix("").as_posix()
            found = [place for folder in folders if os.path.isfile(place := folder / entry["file_name"])]
            if found:
                files[name] = found[0]
                segments[name] = {int(s["id"]): index_of[int(s["category_id"])] for s in entry["segments_info"]}
    except _MALFORMED as error:
        raise TruthError(f"{path} is no whole panoptic JSON: {type(error).__name__} {short(error)}") from None
    _check_count(path, len(categories))
    classes = tuple(
        TruthClass(c["name"], covers.get(c["name"], (c["name"],)), "thing" if c.get("isthing") else "stuff",
                   short(c.get("supercategory", ""))) for c in categories.values()
    )  # fmt: skip
    if not files:
        raise TruthError(f"none of the PNGs that {path} names lies in {folders[0]} or {folders[1]}")

    def values(name: str, mask: Path) -> NDArray[Any]:
        with _opened(mask) as picture:
            channels = np.asarray(picture.convert("RGB")).astype(np.uint32)
        identities, where = np.unique(channels @ np.array([1, 256, 65536], np.uint32), return_inverse=True)
        known = {0: len(classes), **segments[name]}
        strange = [int(i) for i in identities if int(i) not in known]
        if strange:
            raise ValueError(f"segment {strange[0]} is not in {path.name}")
        return np.array([known[int(i)] for i in identities], np.uint16)[where].reshape(channels.shape[:2])

    table = np.append(np.arange(len(classes)), IGNORED).astype(np.uint16)
    return Truth("coco-panoptic", classes, files, values, table)


def _only_json(place: Path, fields: set[str], what: str) -> tuple[Path, dict[str, Any]]:
    """The one JSON at `place` whose annotations have the fields."""
    sheets = [place] if place.is_file() else sorted(place.glob("*.json"))
    tables = {path: sheet for path in sheets if (sheet := _coco_json(path, fields)) is not None}
    if len(tables) != 1:
        names = ", ".join(path.name for path in tables) or "none"
        raise TruthError(f"{place} should hold one {what}; it holds {names}")
    return next(iter(tables.items()))


def _coco_json(path: Path, fields: set[str]) -> dict[str, Any] | None:
    try:
        data = read_up_to(path, min(_JSON_BYTES, path.stat().st_size))  # which sets aside as much as it is allowed
        table = json.loads(data.decode("utf-8"))
        first = table["annotations"][0]
        return table if fields <= first.keys() and table["categories"] else None
    except OSError as error:
        raise TruthError(f"{path} can't be read: {error.strerror}") from None
    except RecursionError:
        raise TruthError(f"{path} can't be read: it is nested too deeply") from None
    except (ValueError, MemoryError) as error:
        raise TruthError(f"{path} can't be read: {short(error) or 'out of memory'}") from None
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
