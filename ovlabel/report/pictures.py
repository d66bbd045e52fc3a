"""The pictures of a report: a photograph to look at, a thumbnail, and its label maps as run lengths."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovlabel.errors import ImageError
from ovlabel.pictures.read import decode, read_file
from ovlabel.report.scripts import call
from ovlabel.report.truth import Measured
from ovlabel.store.read import Store, StoredImage

_LONG, _THUMB = 960, 176  # longest side of a picture and of a thumbnail, in pixels
_OPACITY = 0.45  # of the labels on a thumbnail
_ENDINGS = (".jpg", "-small.jpg", "-confidence.png")
_OURS = re.compile(r"([0-9a-f]{16})(\.js|\.jpg|-small\.jpg|-confidence\.png)")


class Pictures:
    """Makes the pictures of single images, and keeps those that an earlier report has made.

    Args:
        out: the folder of the report.
        store: the store.
        other: a store to compare with, or None.
        measured: the ground truth, or None.

    Attributes:
        missing: key → why its photograph can't be shown; a later report tries again.
    """

    def __init__(self, out: Path, store: Store, other: Store | None, measured: Measured | None) -> None:
        self._folder, self._store, self._other, self._measured = out / "images", store, other, measured
        self._folder.mkdir(parents=True, exist_ok=True)
        self.missing: dict[str, str] = {}
        self._colours = np.zeros((65536, 3), np.uint8)
        self._colours[: len(store.classes)] = [entry.colour for entry in store.classes]

    def make(self, key: str, name: str) -> None:
        """Write the pictures of one image.

        Args:
            key: of the image.
            name: of its pictures.
        """
        stored = self._store[key]
        labels = stored.labels
        size = _fitted(labels.shape, _LONG)
        small = {"labels": _nearest(labels, size)}
        if self._other is not None and key in self._other:
            small["other"] = _nearest(self._other[key].labels, size)
        if self._measured is not None and (compared := self._measured.compared(key, labels)) is not None:
            small["truth"], small["wrong"] = _nearest(compared[0], size), _nearest(compared[1], size)
        runs = {what: run_lengths(values) for what, values in small.items()}
        if not all((self._folder / f"{name}{ending}").is_file() for ending in _ENDINGS):
            self._draw(stored, name, small["labels"])
        about = {"height": size[0], "width": size[1], "missing": self.missing.get(key, "")}
        (self._folder / f"{name}.js").write_bytes(call("image", name, about | runs))

    def drop_others(self, names: set[str]) -> None:
        """Remove the pictures of images that are no longer in the store, or have other labels now.

        Args:
            names: of the pictures that may stay.
        """
        for path in self._folder.iterdir():
            found = _OURS.fullmatch(path.name)
            if found and found[1] not in names:
                path.unlink()

    def _draw(self, stored: StoredImage, name: str, labels: NDArray[Any]) -> None:
        """Write the photograph, its thumbnail and the picture of its confidence."""
        size = (labels.shape[0], labels.shape[1])
        photograph = Image.new("RGB", (size[1], size[0]), (128, 128, 128))
        try:
            photograph = _photograph(stored, size)
            photograph.save(self._folder / f"{name}.jpg", quality=85)
        except ImageError as error:
            self.missing[stored.key] = str(error)
        grey = Image.fromarray(np.rint(stored.confidence * 255).astype(np.uint8))
        half = (max(1, size[1] // 2), max(1, size[0] // 2))
        grey.resize(half, Image.Resampling.BOX).quantize(16).save(self._folder / f"{name}-confidence.png")
        coloured = Image.fromarray(self._colours[labels])
        thumb = Image.blend(photograph, coloured, _OPACITY)
        thumb.resize(_fitted(size, _THUMB)[::-1], Image.Resampling.BOX).save(
            self._folder / f"{name}-small.jpg", quality=80
        )


def run_lengths(values: NDArray[Any]) -> list[int]:
    """A map as value, length, value, length …, row by row.

    Example:
        >>> run_lengths(np.array([[7, 7], [7, 0]]))
        [7, 3, 0, 1]
    """
    flat = values.ravel().astype(np.int64)
    starts = np.flatnonzero(np.diff(flat, prepend=flat[:1] - 1))
    lengths = np.diff(starts, append=len(flat))
    runs: list[int] = np.stack([flat[starts], lengths], 1).ravel().tolist()
    return runs


def _photograph(stored: StoredImage, size: tuple[int, int]) -> Image.Image:
    """The photograph at a size. Raises ImageError where it is gone, has changed or can't be read."""
    data, sha256, _ = read_file(stored.path)
    if sha256 != stored.record.sha256:
        raise ImageError("it has changed since it was annotated")
    return Image.fromarray(decode(data)).resize((size[1], size[0]), Image.Resampling.BOX)


def _fitted(size: tuple[int, ...], longest: int) -> tuple[int, int]:
    """Height and width, at most `longest`, in the same proportion."""
    factor = min(1.0, longest / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _nearest(values: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """A map at another size, by the value of the nearest pixel."""
    if values.shape == size:
        return values
    rows = ((np.arange(size[0]) + 0.5) * values.shape[0] / size[0]).astype(np.int64)
    columns = ((np.arange(size[1]) + 0.5) * values.shape[1] / size[1]).astype(np.int64)
    near: NDArray[Any] = values[rows[:, None], columns]
    return near
