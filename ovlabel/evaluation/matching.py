"""Which mask belongs to which image, and whether it fits.

Names are compared in passes, the strictest first; what one pass has paired is left out of the next. A pass in which a
mask fits two images, or an image two masks, is an error.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ovlabel.errors import TruthError, printable
from ovlabel.evaluation.truth import Truth
from ovlabel.evaluation.truth.table import IMAGE_ENDINGS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger("ovlabel")


def match(keys: Sequence[str], truth: Truth) -> dict[str, str]:
    """Find the mask of every image.

    Paths are compared without suffix, or with that of the image (`x.jpg.png`), accents however they are written; then
    paths of which one has folders that the other lacks; then file names alone. Where no mask fits any image, an ending
    that all masks have (`x_mask.png`) is taken off. What is paired in one of the last two ways is logged.

    Args:
        keys: the images' keys.
        truth: the ground truth.

    Returns:
        The mask's name (a key of `truth.files`) by the image's key; images without a mask are left out.

    Raises:
        TruthError: two images fit one mask, or two masks fit one image.
    """
    pairs = _Pairs(keys, truth, "")
    for ending in () if pairs.mask_of else _endings(truth.files):
        pairs = _Pairs(keys, truth, ending)
        if pairs.mask_of:
            log.warning("the masks' names end in '%s', which their images' names do not", printable(ending))
            break
    if pairs.elsewhere:
        first = f"{printable(pairs.elsewhere[0])} with {printable(pairs.mask_of[pairs.elsewhere[0]])}"
        log.warning("%d images were paired with masks of another folder by name alone: %s", len(pairs.elsewhere), first)
    return {key: pairs.mask_of[key] for key in keys if key in pairs.mask_of}


class _Pairs:
    """Pairs images with masks, from whose names an ending is taken off.

    Attributes:
        mask_of: the mask's name by the image's key.
        elsewhere: the keys of images that were paired by file name alone although their folders differ.
    """

    def __init__(self, keys: Sequence[str], truth: Truth, ending: str) -> None:
        self.mask_of: dict[str, str] = {}
        self._truth = truth
        self._images = {key: _path(key) for key in keys}
        self._masks = {name: name.removesuffix(ending) for name in truth.files}
        self._compare(str)
        self._compare(_plain)
        self._compare(_last, joined=True)
        before = len(self.mask_of)
        self._compare(_last)
        self.elsewhere = list(self.mask_of)[before:]

    def _compare(self, form: Callable[[str], str], joined: bool = False) -> None:
        """Pair what has no partner yet and the same name in some form; `joined`: and one path ends in the other."""
        taken, near = set(self.mask_of.values()), dict[str, list[str]]()
        for mask, name in self._masks.items():
            if mask not in taken:
                near.setdefault(form(name), []).append(mask)
        image_of: dict[str, str] = {}
        for key, path in self._images.items() if near else ():
            if key in self.mask_of:
                continue
            found = near.get(form(path)) or near.get(form(key)) or []
            for mask in [mask for mask in found if not joined or _ends(self._masks[mask], path, key)]:
                self._take(key, mask, image_of)

    def _take(self, key: str, mask: str, image_of: dict[str, str]) -> None:
        """Pair two. Raises TruthError where one of them has a partner."""
        files = self._truth.files
        if key in self.mask_of:
            raise TruthError(f"image {printable(key)} fits two masks: {files[self.mask_of[key]]} and {files[mask]}")
        if mask in image_of:
            both = f"{printable(image_of[mask])} and {printable(key)}"
            raise TruthError(f"mask {files[mask]} fits two images: {both}")
        self.mask_of[key], image_of[mask] = mask, key


def _path(key: str) -> str:
    """The path of an image without suffix and without the endings that only images have."""
    name = PurePosixPath(key).with_suffix("").as_posix()
    for ending in IMAGE_ENDINGS:
        name = name.removesuffix(ending)
    return name


def _plain(name: str) -> str:
    """A path in the one way to write it: accents as one letter (NFC), slashes, no ending that only images have."""
    name = unicodedata.normalize("NFC", name).replace("\\", "/")
    for ending in IMAGE_ENDINGS:
        name = name.removesuffix(ending)
    return name


def _last(name: str) -> str:
    """The last part of a path."""
    return _plain(name).rpartition("/")[2]


def _ends(mask: str, *images: str) -> bool:
    """Whether the mask's path ends in that of the image, or the other way round."""
    paths = [(f"/{_plain(mask)}", f"/{_plain(image)}") for image in images]
    return any(own.endswith(other) or other.endswith(own) for own, other in paths)


def _endings(names: Iterable[str]) -> list[str]:
    """The endings that all of these names have, the shortest first: letters behind a dot, blank, hyphen or underscore.

    Example:
        >>> _endings(["scene-a_pixel_mask", "scene-b_pixel_mask"])
        ['_mask', '_pixel_mask']
    """
    every = [PurePosixPath(name).name for name in names]
    starts = [found.start() for found in re.finditer(r"(?<=.)[._ -](?=[^\W\d])", every[0])] if every else []
    endings = [every[0][start:] for start in reversed(starts)]
    letters = [ending for ending in endings if not re.search(r"\d", ending)]
    return [ending for ending in letters if all(len(n) > len(ending) and n.endswith(ending) for n in every)]


def check_all_matched(masks: Collection[str], keys: Sequence[str], truth: Truth, partial: bool) -> None:
    """Refuse ground truth that fits no image, and ground truth of which some masks have no image.

    Args:
        masks: the names of those that have one, from `match`.
        keys: the images' keys.
        truth: the ground truth.
        partial: masks without an image are allowed, as long as there is one with.

    Raises:
        TruthError: as above; the message has examples of the names that were compared.
    """
    missing = sorted(truth.files.keys() - set(masks))
    if not masks:
        raise TruthError(
            f"no image has a mask of its name: images {_some(keys)} ({len(keys)}), masks {_some(missing)} "
            f"({len(missing)}), compared without suffix; --mask-ending takes an ending like _mask off the masks' names"
            if keys
            else "there is no annotated image; nothing can be scored"
        )
    if missing and not partial:
        raise TruthError(
            f"{len(missing)} of {len(truth.files)} masks have no annotated image ({_some(missing)}); annotate the "
            "folder first, or score what there is with --allow-partial"
        )


def read_mask(truth: Truth, name: str, key: str, shape: tuple[int, ...]) -> NDArray[np.uint16]:
    """The mask of an image, as `Truth.read` gives it.

    Args:
        truth: the ground truth.
        name: the mask's name, a key of `truth.files`.
        key: the image's key.
        shape: height and width of the image, pixels.

    Raises:
        TruthError: the mask can't be read, or has another size than its image.
    """
    true = truth.read(name)
    if true.shape != shape:
        sizes = f"is {shape[0]} × {shape[1]}, its mask {true.shape[0]} × {true.shape[1]}"
        raise TruthError(f"{printable(key)} {sizes} ({truth.files[name]}); labels are never resized to be scored")
    return true


def _some(names: Collection[str]) -> str:
    """A few names, for a message."""
    shown = [printable(name) for name, _ in zip(names, range(4), strict=False)]
    return ", ".join(shown) + ", …" * (len(names) > 4)
