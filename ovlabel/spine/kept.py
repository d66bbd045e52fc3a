"""What the store keeps of an image's probabilities, found band by band: small integers at working size."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovlabel.ops import bands, between, rows_under
from ovlabel.spine.bands import band_values
from ovlabel.types import LabelMap, label_dtype

Bytes = npt.NDArray[np.uint8]


class KeptMaps(Protocol):
    """What `store.probabilities` keeps of an image's probabilities, which arrive in bands of rows."""

    def put(self, top: int, band: Tensor) -> None:
        """Rows top, top + 1 … of the probabilities, c × rows × W; bands follow each other from the top."""

    def maps(self) -> tuple[LabelMap | None, Bytes | None]:
        """Class indices k × h × w, None where all classes are kept; 255 × probabilities k × h × w, None if not kept."""


def kept_maps(keep: str, shape: tuple[int, int, int], working: tuple[int, int], device: torch.device) -> KeptMaps:
    """What keeps the probabilities of one image.

    Args:
        keep: "none", "full", or "topK" for the K most probable classes of each pixel.
        shape: c × H × W of the probabilities that will arrive.
        working: (h, w) of the maps to keep.
        device: where the probabilities lie.
    """
    if keep == "none":
        return _Nothing()
    rows = _WorkingRows(shape[1], working)
    if keep == "full":
        return _Every(rows, shape[0], device)
    return _MostProbable(rows, int(keep.removeprefix("top")), shape[0], device)


class _Nothing:
    """Keeps nothing."""

    def put(self, top: int, band: Tensor) -> None:
        """See `KeptMaps`."""

    def maps(self) -> tuple[None, None]:
        """See `KeptMaps`."""
        return None, None


class _WorkingRows:
    """Turns bands of maps into the rows at working size that lie in them.

    Args:
        height: rows of the maps.
        working: (h, w) of the maps to make.
    """

    def __init__(self, height: int, working: tuple[int, int]) -> None:
        self.working = working
        self._rows = rows_under(height, working[0], 0, working[0])
        self._done = 0
        self._last = torch.empty(0)  # the last row that has arrived; a row at working size may lie below it

    def of(self, top: int, band: Tensor) -> tuple[slice, Tensor] | None:
        """The rows of the result that can be made now, c × rows × w, and where they belong; None if there are none."""
        bottom = top + band.shape[1]
        if top:
            top, band = top - 1, torch.cat((self._last, band), 1)
        self._last = band[:, -1:].clone()
        done, self._done = self._done, int(torch.searchsorted(self._rows[1], bottom))
        if done == self._done:
            return None
        low, high, weight = (rows[done : self._done].to(band.device) for rows in self._rows)
        return slice(done, self._done), between(band, low - top, high - top, weight, self.working[1])


class _Every:
    """Keeps the probabilities of every class."""

    def __init__(self, rows: _WorkingRows, classes: int, device: torch.device) -> None:
        self._rows = rows
        self._values = torch.empty(classes, *rows.working, dtype=torch.uint8, device=device)

    def put(self, top: int, band: Tensor) -> None:
        """See `KeptMaps`."""
        for first, part in _parts(top, band):
            if made := self._rows.of(first, part):
                where, maps = made
                self._values[:, where] = to_bytes(maps)

    def maps(self) -> tuple[None, Bytes]:
        """See `KeptMaps`."""
        return None, self._values.cpu().numpy()


class _MostProbable:
    """Keeps the most probable classes of each pixel, in order."""

    def __init__(self, rows: _WorkingRows, count: int, classes: int, device: torch.device) -> None:
        self._rows, self._classes = rows, classes
        shape = (min(count, classes), *rows.working)
        self._values = torch.empty(shape, dtype=torch.uint8, device=device)
        self._indices = torch.empty(shape, dtype=torch.int64, device=device)

    def put(self, top: int, band: Tensor) -> None:
        """See `KeptMaps`."""
        for first, part in _parts(top, band):
            if made := self._rows.of(first, part):
                self._put(*made)

    def _put(self, where: slice, maps: Tensor) -> None:
        for place in range(len(self._values)):
            best = maps.max(0)
            self._values[place, where] = to_bytes(best.values)
            self._indices[place, where] = best.indices
            maps.scatter_(0, best.indices[None], -1)

    def maps(self) -> tuple[LabelMap, Bytes]:
        """See `KeptMaps`."""
        return label_map(self._indices, self._classes), self._values.cpu().numpy()


def _parts(top: int, band: Tensor) -> list[tuple[int, Tensor]]:
    """A band in bands that a cache holds."""
    rows = bands(band.shape[1], band[:, 0].numel(), band_values(band.device))
    return [(top + first, band[:, first:last]) for first, last in rows]


def label_map(labels: Tensor, classes: int) -> LabelMap:
    """Class indices, int64, in numpy's smallest type that holds `classes` and the two values that are no class."""
    values: npt.NDArray[np.int64] = labels.cpu().numpy()
    return values.astype(np.uint8) if label_dtype(classes) is np.uint8 else values.astype(np.uint16)


def to_bytes(probabilities: Tensor) -> Tensor:
    """0 … 1 → uint8, 0 … 255, rounded."""
    return (probabilities.clamp(0, 1) * 255).round_().byte()
