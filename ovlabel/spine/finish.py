"""From cosines to labels: probabilities, thresholds, the decision at image size, and what is kept of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovlabel.ops import bands, between, lift_rows, rows_under
from ovlabel.settings.keys import LabelsConfig
from ovlabel.types import LabelMap, TextBank, below_threshold, label_dtype

_BAND_VALUES, _GPU_BAND_VALUES = 2**20, 2**26  # float32 values lifted to image size at a time: a cache, a GPU


def finish_size(
    labels: LabelsConfig, size: tuple[int, ...], working: tuple[int, int], *, capped: bool = True
) -> tuple[int, int]:
    """Where logits and probabilities live: (height, width) by `labels.finish`, at most `labels.max_finish_pixels`."""
    if labels.finish == "working":
        return working
    height, width = size[0], size[1]
    excess = height * width / labels.max_finish_pixels
    if excess <= 1 or not capped:
        return height, width
    return max(int(height * excess**-0.5), 1), max(int(width * excess**-0.5), 1)


def probabilities_of(logits: Tensor, bank: TextBank, logit_scale: float) -> Tensor:
    """Cosines q h w → probabilities c h w: softmax over queries at the logit scale, synonyms merged as the bank says.

    Works in place as far as it can: at image size, the cosines are the largest thing there is.
    """
    scaled = logits.mul_(logit_scale)
    count = len(bank.classes)
    class_of = torch.from_numpy(bank.class_of).to(scaled.device)
    if bank.merge == "logsumexp":
        queries = np.bincount(bank.class_of, minlength=count)
        merged = [scaled[class_of == c].logsumexp(0) - np.log(queries[c]) for c in range(count)]
        return torch.stack(merged).softmax(0)
    shares = scaled.sub_(scaled.amax(0)).exp_()
    shares /= shares.sum(0)
    if np.array_equal(bank.class_of, np.arange(count)):
        return shares
    owner = class_of[:, None, None].expand_as(shares)
    return shares.new_zeros(count, *shares.shape[1:]).scatter_reduce_(0, owner, shares, "amax")


def drop_small(probabilities: Tensor, bank: TextBank, area_threshold: float) -> Tensor:
    """Zero every class whose share of the foreground's pixels is not above `area_threshold` (SCLIP). c h w → c h w."""
    if not area_threshold:
        return probabilities
    count = len(bank.classes)
    foreground = torch.ones(count, dtype=torch.bool, device=probabilities.device)
    if bank.background is not None:
        foreground[bank.background] = False
    area = torch.bincount(probabilities.argmax(0).flatten(), minlength=count) * foreground
    small = foreground & (area <= area_threshold * area.sum())
    return probabilities.masked_fill(small[:, None, None], 0.0)


def decide(probabilities: Tensor, size: tuple[int, int], bank: TextBank, threshold: float) -> tuple[Tensor, Tensor]:
    """Probabilities c h w → labels (int64 H W) and confidence (H W) at image size, thresholds applied.

    Away from image size, the probabilities are lifted bilinearly, band by band, and decided there, so that borders stay
    smooth. Only classes that win at some point of the map are lifted: one that is second on both sides of a border
    could win between them, and is passed over.
    """
    if probabilities.shape[1:] == size:
        confidence, labels = probabilities.max(0)
        return _give_up(labels, confidence, bank, threshold), confidence
    winners = torch.unique(probabilities.argmax(0))
    labels, confidence = winners.new_empty(size), probabilities.new_empty(size)
    for top, bottom in bands(size[0], len(winners) * size[1], _most(probabilities)):
        best = lift_rows(probabilities, winners, size, top, bottom).max(0)
        confidence[top:bottom] = best.values
        labels[top:bottom] = _give_up(winners[best.indices], best.values, bank, threshold)
    return labels, confidence


def _most(maps: Tensor) -> int:
    return _BAND_VALUES if maps.device.type == "cpu" else _GPU_BAND_VALUES


def _give_up(labels: Tensor, confidence: Tensor, bank: TextBank, threshold: float) -> Tensor:
    """Pixels under the run's or their class' threshold → background, else the value below_threshold."""
    fallback = below_threshold(len(bank.classes)) if bank.background is None else bank.background
    least: float | Tensor = threshold
    if bank.thresholds is not None:
        least = torch.from_numpy(bank.thresholds).to(confidence).clamp_min(threshold)[labels]
    return labels.masked_fill((confidence < least) | (confidence <= 0), fallback)


def label_map(labels: Tensor, classes: int) -> LabelMap:
    """int64 indices → numpy in the smallest type that holds `classes` and the two values kept apart."""
    values: npt.NDArray[np.int64] = labels.cpu().numpy()
    return values.astype(np.uint8) if label_dtype(classes) is np.uint8 else values.astype(np.uint16)


class Kept:
    """What `store.probabilities` keeps of maps c h w that come band by band, at working size.

    Args:
        keep: "full" or "topK". shape: c h w of the maps. working: the size to keep them at. device: theirs.
    """

    def __init__(self, keep: str, shape: tuple[int, int, int], working: tuple[int, int], device: torch.device) -> None:
        self._shape, self._working, self._whole = shape, working, keep == "full"
        self._rows = rows_under(shape[1], working[0], 0, working[0])
        count = shape[0] if self._whole else min(int(keep.removeprefix("top")), shape[0])
        self._values = torch.empty(count, *working, dtype=torch.uint8, device=device)
        self._classes = torch.empty(0 if self._whole else count, *working, dtype=torch.int64, device=device)
        self._done = 0
        self._last: Tensor | None = None

    def put(self, top: int, band: Tensor) -> None:
        """Rows top, top + 1 … of the maps, which follow those before them."""
        bottom = top + band.shape[1]
        if self._last is not None:
            top, band = top - 1, torch.cat((self._last, band), 1)
        self._last = band[:, -1:].clone()
        done, self._done = self._done, int(torch.searchsorted(self._rows[1], bottom))
        if done == self._done:
            return
        low, high, share = (rows[done : self._done].to(band.device) for rows in self._rows)
        maps = between(band, low - top, high - top, share, self._working[1])
        if self._whole:
            self._values[:, done : self._done] = _bytes(maps)
            return
        for place in range(len(self._values)):
            best = maps.max(0)
            self._values[place, done : self._done] = _bytes(best.values)
            self._classes[place, done : self._done] = best.indices
            maps.scatter_(0, best.indices[None], -1)

    def maps(self) -> tuple[LabelMap | None, npt.NDArray[np.uint8]]:
        """Class indices k h w, or None where all classes are kept; 255 × probabilities k h w."""
        values: npt.NDArray[np.uint8] = self._values.cpu().numpy()
        return None if self._whole else label_map(self._classes, self._shape[0]), values


def quantised(probabilities: Tensor) -> npt.NDArray[np.uint8]:
    """0 … 1 → 0 … 255, rounded."""
    rows = bands(len(probabilities), probabilities[:1].numel(), _most(probabilities))
    values: npt.NDArray[np.uint8] = torch.cat([_bytes(probabilities[a:b]) for a, b in rows]).cpu().numpy()
    return values


def _bytes(probabilities: Tensor) -> Tensor:
    return (probabilities.clamp(0, 1) * 255).round_().byte()
