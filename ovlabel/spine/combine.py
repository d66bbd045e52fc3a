"""From the cosines of every scale and view to the LOGITS of an image, in bands: their weighted mean, or votes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ovlabel.ops import bands
from ovlabel.settings.keys import TilingConfig
from ovlabel.spine.bands import band_values
from ovlabel.spine.cosine_maps import CosineMaps

_TIE = 1e-3  # weight of the mean cosines beside the votes: it decides where votes are equal


def combined(
    maps: Iterable[CosineMaps], tiling: TilingConfig, size: tuple[int, int], logit_scale: float
) -> Iterator[tuple[int, Tensor]]:
    """Logits of an image, as (top, q × rows × W) bands from top to bottom.

    Args:
        maps: the image's cosines at every scale in every view, scales first.
        tiling: the weights, and whether scales and views are averaged or vote.
        size: (H, W) of the logits.
        logit_scale: what logits are multiplied with later.

    Raises:
        ValueError: there are no cosines.
    """
    if tiling.combine == "vote":
        yield 0, _voted(maps, tiling, size, logit_scale)
    else:
        yield from _mean(maps, tiling, size)


def _weights(tiling: TilingConfig) -> Iterator[tuple[int, float]]:
    """(number of the scale, weight) of every scale and view, in the order of their cosines."""
    for number, of_scale in enumerate(tiling.scale_weights or (1.0,) * len(tiling.scales)):
        for of_view in tiling.view_weights or (1.0,) * len(tiling.views):
            yield number, of_scale * of_view


def _mean(maps: Iterable[CosineMaps], tiling: TilingConfig, size: tuple[int, int]) -> Iterator[tuple[int, Tensor]]:
    """The weighted mean, band by band."""
    scales, total = _scales(maps, tiling)
    rows = [one.rows(size) for one in scales]
    for top, bottom in bands(size[0], scales[0].queries * size[1], band_values(scales[0].device)):
        logits = rows[0](top, bottom)
        for more in rows[1:]:
            logits.add_(more(top, bottom))
        yield top, logits if total == 1 else logits.div_(total)


def _scales(maps: Iterable[CosineMaps], tiling: TilingConfig) -> tuple[list[CosineMaps], float]:
    """The weighted cosines of each scale, its views added up before they are enlarged; and the sum of all weights."""
    scales: list[CosineMaps] = []
    total = 0.0
    for (number, weight), one in zip(_weights(tiling), maps):
        total += weight
        if number < len(scales):
            scales[number].add(one, weight)
        else:
            one.scale(weight)
            scales.append(one)
    if not scales:
        raise ValueError("an image at one scale or more is needed")
    return scales, total


def _voted(maps: Iterable[CosineMaps], tiling: TilingConfig, size: tuple[int, int], logit_scale: float) -> Tensor:
    """Every scale and view votes, with its weight, for its best query: q × H × W logits whose softmax are the votes.

    Where votes are equal, the mean cosines decide.
    """
    votes, mean, total = torch.empty(0), torch.empty(0), 0.0
    for (_, weight), one in zip(_weights(tiling), maps):
        cosines = one.at(size)
        if not total:
            votes, mean = torch.zeros_like(cosines), torch.zeros_like(cosines)
        best = cosines.argmax(0, keepdim=True)
        votes.scatter_add_(0, best, torch.full_like(best, weight, dtype=votes.dtype))
        mean.add_(cosines, alpha=weight)
        total += weight
    if not total:
        raise ValueError("an image at one scale or more is needed")
    votes, mean = votes.div_(total), mean.div_(total)
    probabilities = (1 - _TIE) * votes + _TIE * (logit_scale * mean).softmax(0)
    return probabilities.clamp_min_(1e-12).log_().div_(logit_scale)
