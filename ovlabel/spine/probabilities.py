"""From cosines to PROBABILITIES, and from probabilities to labels and confidence. Pure functions on maps."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ovlabel.ops import bands, lift_rows
from ovlabel.spine.bands import lifted_values
from ovlabel.types import TextBank, below_threshold


def probabilities_of(logits: Tensor, bank: TextBank, logit_scale: float) -> Tensor:
    """Softmax over queries at the logit scale, synonyms merged as the bank says.

    Args:
        logits: q × h × w cosines. They are changed in place: at image size, they are the largest tensor there is.
        bank: which class each query belongs to.
        logit_scale: what cosines are multiplied with.

    Returns:
        c × h × w, 0 … 1.
    """
    scaled = logits.mul_(logit_scale)
    count = len(bank.classes)
    class_of = torch.from_numpy(bank.class_of).to(scaled.device)
    if bank.merge == "logsumexp":
        queries = np.bincount(bank.class_of, minlength=count)
        merged = [scaled[class_of == c].logsumexp(0) - np.log(queries[c]) for c in range(count)]
        return torch.stack(merged).softmax(0)
    probabilities = scaled.sub_(scaled.amax(0)).exp_()
    probabilities /= probabilities.sum(0)
    if np.array_equal(bank.class_of, np.arange(count)):
        return probabilities
    owner = class_of[:, None, None].expand_as(probabilities)
    zeros = probabilities.new_zeros(count, *probabilities.shape[1:])
    return zeros.scatter_reduce_(0, owner, probabilities, "amax")


def drop_small(probabilities: Tensor, bank: TextBank, area_threshold: float) -> Tensor:
    """Probabilities c × h × w, those of small classes set to 0 (SCLIP).

    Args:
        probabilities: c × h × w.
        bank: which class is the background; it is never dropped.
        area_threshold: the fraction of the foreground's pixels, 0 … 1, that a class must win more than; 0 drops none.
    """
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
    """Labels and confidence at image size, thresholds applied.

    Probabilities of another size are enlarged bilinearly, band by band, and decided at image size, so that borders are
    smooth. Only classes that win somewhere on the map are enlarged: one that is second on both sides of a border could
    win between them, and is passed over.

    Args:
        probabilities: c × h × w.
        size: (H, W) of the image.
        bank: background and thresholds of the classes.
        threshold: the least probability of a label, of every class.

    Returns:
        Labels, int64 H × W, and confidence, H × W: the winner's probability.
    """
    if probabilities.shape[1:] == size:
        confidence, labels = probabilities.max(0)
        return _thresholded(labels, confidence, bank, threshold), confidence
    winners = torch.unique(probabilities.argmax(0))
    labels, confidence = winners.new_empty(size), probabilities.new_empty(size)
    for top, bottom in bands(size[0], len(winners) * size[1], lifted_values(probabilities.device)):
        best = lift_rows(probabilities, winners, size, top, bottom).max(0)
        confidence[top:bottom] = best.values
        labels[top:bottom] = _thresholded(winners[best.indices], best.values, bank, threshold)
    return labels, confidence


def _thresholded(labels: Tensor, confidence: Tensor, bank: TextBank, threshold: float) -> Tensor:
    """Pixels under the run's or their class's threshold become background, or below_threshold where there is none."""
    fallback = below_threshold(len(bank.classes)) if bank.background is None else bank.background
    least: float | Tensor = threshold
    if bank.thresholds is not None:
        least = torch.from_numpy(bank.thresholds).to(confidence).clamp_min(threshold)[labels]
    return labels.masked_fill((confidence < least) | (confidence <= 0), fallback)
