"""How many windows go through the encoder together, and fewer of them where memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from ovlabel.errors import out_of_memory

log = logging.getLogger("ovlabel")

_T = TypeVar("_T")


class Batches:
    """The size of batches of windows. It never changes a result beyond rounding.

    Args:
        size: windows of a batch.
        device: where they are encoded.

    Attributes:
        size: windows of a batch from here on.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.size, self._device = size, device
        self._largest = 0  # of the batches that `fitted` has tried

    def split(self, windows: Sequence[_T]) -> Iterator[Sequence[_T]]:
        """Windows (or what stands for them), a batch at a time."""
        for start in range(0, len(windows), self.size):
            batch = windows[start : start + self.size]
            self._largest = max(self._largest, len(batch))
            yield batch

    def fitted(self, work: Callable[[], _T]) -> _T:
        """Do some work, with batches half as large each time the machine has no memory for them.

        A smaller size is kept for the images that follow, unless one window alone was too much: then the image itself
        is too large.

        Args:
            work: splits its windows with `split`; called again from the start with smaller batches.

        Raises:
            MemoryError, RuntimeError: one window alone does not fit; any other error of `work`.
        """
        before = self.size
        while True:
            self._largest = 0
            try:
                return work()
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error) or self._largest <= 1:
                    self.size = before
                    raise
            self.size = self._largest // 2  # outside the handler: the error, and what its frames held, is gone by now
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            log.warning("out of memory: %d windows at a time from here on", self.size)
