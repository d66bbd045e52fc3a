"""Which mask belongs to which image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from ovlabel.errors import TruthError, printable
from ovlabel.evaluation.truth import Truth
from ovlabel.evaluation.truth.table import IMAGE_ENDINGS


def match(keys: Sequence[str], truth: Truth) -> dict[str, str]:
    """Find the mask of every image: by the image's path, else by its file name alone.

    Args:
        keys: the images' keys.
        truth: the ground truth.

    Returns:
        The mask's name (a key of `truth.files`) by the image's key; images without a mask are left out.

    Raises:
        TruthError: two images fit one mask, or two masks fit one image.
    """
    by_name: dict[str, list[str]] = {}
    for name in truth.files:
        by_name.setdefault(PurePosixPath(name).name, []).append(name)
    mask_of, image_of = dict[str, str](), dict[str, str]()
    for key in keys:
        path = _mask_path(key)
        near = [path] if path in truth.files else by_name.get(PurePosixPath(path).name, [])
        if len(near) > 1:
            raise TruthError(
                f"image {printable(key)} fits two masks: {truth.files[near[0]]} and {truth.files[near[1]]}"
            )
        for name in near:
            if name in image_of:
                both = f"{printable(image_of[name])} and {printable(key)}"
                raise TruthError(f"mask {truth.files[name]} fits two images: {both}")
            mask_of[key], image_of[name] = name, key
    return mask_of


def _mask_path(key: str) -> str:
    """The path of an image's mask: the key without suffix and without the endings that only images have."""
    name = PurePosixPath(key).with_suffix("").as_posix()
    for ending in IMAGE_ENDINGS:
        name = name.removesuffix(ending)
    return name


def check_all_matched(masks: Mapping[str, str], truth: Truth) -> None:
    """Refuse ground truth of which some masks have no annotated image. Raises TruthError.

    Args:
        masks: from `match`.
        truth: the ground truth.
    """
    missing = sorted(truth.files.keys() - set(masks.values()))
    if missing:
        names = ", ".join(printable(name) for name in missing[:4]) + ", …" * (len(missing) > 4)
        raise TruthError(
            f"{len(missing)} of {len(truth.files)} masks have no annotated image ({names}); annotate the folder first, "
            "or score what there is with --allow-partial"
        )
