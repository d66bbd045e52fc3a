"""The table of ground-truth conventions: one entry a layout in which a dataset is published.

A new convention of mask files is one more entry here. One with files of another kind is an entry and a file beside this
one, named by the entry's `reader`, with a function `open_at(place, convention, own)`.
"""

from __future__ import annotations

from ovlabel.evaluation.truth.nouns import Convention

IMAGE_ENDINGS = ("_leftImg8bit",)  # ends of image names that the masks' names do not have (Cityscapes)
_TRAIN = "*_labelTrainIds.png: 0 … {}, 255 ignored"

_ENTRIES = (
    Convention(
        "raw",
        "indices of the store's own vocabulary; 255 and 65535 ignored, as far as they are no class",
        ignored=(255,),
    ),
    Convention(
        "coco-stuff",
        "COCO-Stuff 164k " + _TRAIN.format(170),
        vocabulary="coco-stuff",
        ignored=(255,),
        ending="_labelTrainIds",
    ),
    Convention(
        "coco-stuff-raw",
        "COCO-Stuff 164k stuffthingmaps: official id − 1, 255 ignored",
        vocabulary="coco-stuff",
        ids="id",
        shift=-1,
        ignored=(255,),
    ),
    Convention("coco-panoptic", "COCO panoptic: JSON and RGB PNGs; unlabelled ignored", reader="coco_panoptic"),
    Convention(
        "coco-panoptic-ids",
        "COCO panoptic category ids in 8-bit PNGs; 0 ignored",
        vocabulary="coco-panoptic",
        ids="id",
        ignored=(0,),
    ),
    Convention(
        "coco-object",
        "COCO-Object *_instanceTrainIds.png: 0 background, 1 … 80",
        vocabulary="coco-object",
        ending="_instanceTrainIds",
    ),
    Convention(
        "coco-instances",
        "COCO instances JSON; pixels of no instance are background, smaller instances lie on top",
        reader="coco_instances",
    ),
    Convention(
        "coco-instances-only",
        "COCO instances JSON; pixels of no instance ignored",
        reader="coco_instances",
        ignored=(0,),
    ),
    Convention(
        "voc",
        "PASCAL VOC SegmentationClass: 0 background, 255 ignored",
        vocabulary="voc21",
        ids="id",
        ignored=(255,),
    ),
    Convention(
        "voc20",
        "PASCAL VOC SegmentationClass without background: 0 and 255 ignored",
        vocabulary="voc20",
        ids="id",
        ignored=(0, 255),
    ),
    Convention(
        "context60", "PASCAL-Context, 0 … 59: 0 background, 255 ignored", vocabulary="context60", ignored=(255,)
    ),
    Convention(
        "context59", "PASCAL-Context, 1 … 59: 0 and 255 ignored", vocabulary="context59", shift=1, ignored=(0, 255)
    ),
    Convention(
        "context-459",
        "PASCAL-Context's 459 labels, .mat as published or PNGs; the 59 that count",
        vocabulary="context59",
        ids="id",
        ignored=(0,),
        rest=True,
    ),
    Convention("ade20k", "ADE20K SceneParse150: 1 … 150, 0 ignored", vocabulary="ade20k", ids="id", ignored=(0,)),
    Convention(
        "cityscapes",
        "Cityscapes *_gtFine_labelIds.png; the 19 that count",
        vocabulary="cityscapes",
        ids="id",
        ending="_gtFine_labelIds",
        rest=True,
    ),
    Convention(
        "cityscapes-train",
        "Cityscapes " + _TRAIN.format(18),
        vocabulary="cityscapes",
        ignored=(255,),
        ending="_gtFine_labelTrainIds",
    ),
    Convention(
        "camvid",
        "CamVid, the 11 classes of the SegNet version; 11 ignored",
        vocabulary="camvid",
        ids="id",
        ignored=(11,),
    ),
    Convention(
        "camvid-rgb",
        "CamVid as published, *_L.png in colours; its 32 classes as the 11 of the SegNet version",
        reader="camvid",
        vocabulary="camvid",
        ids="id",
        ignored=(11,),
        ending="_L",
    ),
)
CONVENTIONS: dict[str, Convention] = {entry.name: entry for entry in _ENTRIES}
