"""Bands of rows: maps of a whole image are too large for a processor's cache, so they are computed a band at a time."""

from __future__ import annotations

import torch
from torch import Tensor

CPU_VALUES, GPU_VALUES = (
    2**18,
    2**26,
)  # of a band that is computed from all queries: what a cache holds, what a GPU needs
CPU_LIFTED, GPU_LIFTED = 2**20, 2**26  # of a band that is only enlarged


def band_values(device: torch.device) -> int:
    """How many values a band may hold that several operations go over."""
    return CPU_VALUES if device.type == "cpu" else GPU_VALUES


def lifted_values(device: torch.device) -> int:
    """How many values a band may hold that is enlarged and read once."""
    return CPU_LIFTED if device.type == "cpu" else GPU_LIFTED


class BandedMap:
    """Maps c × H × W that arrive in bands of rows, from the top to the bottom.

    Args:
        height: H, of all bands together.
    """

    def __init__(self, height: int) -> None:
        self._height = height
        self._maps = torch.empty(0)

    def put(self, top: int, band: Tensor) -> None:
        """Rows top, top + 1 … of the maps. A band that holds all rows is kept as it is, without a copy."""
        if band.shape[1] == self._height:
            self._maps = band
            return
        if top == 0:
            self._maps = band.new_empty(len(band), self._height, band.shape[2])
        self._maps[:, top : top + band.shape[1]] = band

    def take(self) -> Tensor:
        """All rows, once every band has arrived. They are handed over: no reference is kept here."""
        maps, self._maps = self._maps, torch.empty(0)
        return maps
