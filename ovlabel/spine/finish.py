"""From LOGITS to labels: the one sink of an image's cosines, whichever way they were computed.

    put(top, band) ─logits─→ LOGITS ─probabilities.py→ PROBABILITIES ─thresholds, argmax→ LABELS ─→ result()()

Bands are decided as they arrive, so that no map of all probabilities is made, unless something needs the whole map: a
stage at LOGITS or PROBABILITIES, `labels.area_threshold`, or labels of another size than the probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from ovlabel.settings.keys import LabelsConfig
from ovlabel.spine.bands import BandedMap
from ovlabel.spine.probabilities import decide, drop_small, probabilities_of
from ovlabel.spine.scales import PreparedImage
from ovlabel.spine.stack import Stack


class Sink(Protocol):
    """What takes maps of an image in bands of rows."""

    def put(self, top: int, band: Tensor) -> None:
        """Rows top, top + 1 … of the maps, channels × rows × W; bands follow each other from the top."""


@dataclass(frozen=True, eq=False)
class Decision:
    """The labels of one image (int64, H × W) and their confidence (H × W), on the run's device."""

    labels: Tensor
    confidence: Tensor


class Finish:
    """Takes the cosines of one image and decides its labels.

    Args:
        image: the image, with the context that stages may read.
        stack: the stages.
        labels: thresholds.
        kept: takes the final probabilities, c × rows × W at finish size.
    """

    def __init__(self, image: PreparedImage, stack: Stack, labels: LabelsConfig, kept: Sink) -> None:
        self._context, self._stack = image.context, stack
        self._logits = BandedMap(image.finish[0])
        in_bands = image.finish == image.size and not labels.area_threshold and not stack.acts_at("probabilities")
        self._decision = (_InBands if in_bands else _AtOnce)(image, stack, labels, kept)

    def put(self, top: int, band: Tensor) -> None:
        """Rows top, top + 1 … of the cosines, q × rows × W at finish size, from top to bottom; changed in place."""
        if self._stack.acts_at("logits"):
            self._logits.put(top, band)
        else:
            self._decision.put(top, self._probabilities(band))

    def result(self) -> Callable[[], Decision]:
        """Once all bands are there, do what can be done without waiting; the call waits for the rest and returns it.

        A stage at PROBABILITIES may work in another process, and is waited for.
        """
        if self._stack.acts_at("logits"):
            logits = self._stack.edit("logits", self._logits.take(), self._context)
            self._decision.put(0, self._probabilities(logits))
        return self._decision.result()

    def _probabilities(self, logits: Tensor) -> Tensor:
        return probabilities_of(logits, self._context.bank, self._context.logit_scale)


class _InBands:
    """Decides each band of probabilities as it arrives."""

    def __init__(self, image: PreparedImage, stack: Stack, labels: LabelsConfig, kept: Sink) -> None:
        self._image, self._stack, self._settings, self._kept = image, stack, labels, kept
        text = image.context.text
        self._labels = torch.empty(image.finish, dtype=torch.int64, device=text.device)
        self._confidence = text.new_empty(image.finish)

    def put(self, top: int, band: Tensor) -> None:
        """See `Sink`."""
        self._kept.put(top, band)
        rows = slice(top, top + band.shape[1])
        size = (band.shape[1], band.shape[2])
        bank, threshold = self._image.context.bank, self._settings.probability_threshold
        self._labels[rows], self._confidence[rows] = decide(band, size, bank, threshold)

    def result(self) -> Callable[[], Decision]:
        """See `Finish.result`."""
        return lambda: Decision(self._stack.edit("labels", self._labels, self._image.context), self._confidence)


class _AtOnce:
    """Collects the probabilities, lets stages edit them, and decides the whole map."""

    def __init__(self, image: PreparedImage, stack: Stack, labels: LabelsConfig, kept: Sink) -> None:
        self._image, self._stack, self._settings, self._kept = image, stack, labels, kept
        self._probabilities = BandedMap(image.finish[0])

    def put(self, top: int, band: Tensor) -> None:
        """See `Sink`."""
        self._probabilities.put(top, band)

    def result(self) -> Callable[[], Decision]:
        """See `Finish.result`."""
        edited = self._stack.begin("probabilities", self._probabilities.take(), self._image.context)
        return partial(self._decided, edited)

    def _decided(self, edited: Callable[[], Tensor]) -> Decision:
        image, settings = self._image, self._settings
        probabilities = drop_small(edited(), image.context.bank, settings.area_threshold)
        self._kept.put(0, probabilities)
        labels, confidence = decide(probabilities, image.size, image.context.bank, settings.probability_threshold)
        return Decision(self._stack.edit("labels", labels, image.context), confidence)
