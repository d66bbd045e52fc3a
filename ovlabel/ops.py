"""Functions on tensors and images that the model, the segmenter and several stages use. They keep no state.

Letters in shapes: b images, c maps or channels, h × w and H × W pixels, n tokens, d dimensions of an attention head.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ovlabel.types import UInt8Image

_ONE = 2048  # the weight 1 in the fixed-point arithmetic of `resize`


def normalise(vectors: Tensor, dim: int) -> Tensor:
    """Scale vectors to unit length along `dim`; float64 stays float64, everything else becomes float32."""
    return F.normalize(vectors if vectors.dtype == torch.float64 else vectors.float(), dim=dim)


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge maps bilinearly, with half-pixel centres and clamped borders, without antialiasing.

    Args:
        maps: b × c × h × w.
        size: (H, W).

    Returns:
        b × c × H × W; `maps` itself where it has this size already.
    """
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def lift_rows(maps: Tensor, chosen: Tensor, size: tuple[int, int], top: int, bottom: int) -> Tensor:
    """A band of rows of `enlarge(maps[chosen], size)`, computed without the other rows.

    Args:
        maps: c × h × w.
        chosen: int64, indices of k of the c maps.
        size: (H, W) of the enlarged maps.
        top: first row of the band, 0 … H − 1.
        bottom: the row after its last.

    Returns:
        k × (bottom − top) × W.
    """
    low, high, share = (rows.to(maps.device) for rows in rows_under(maps.shape[-2], size[0], top, bottom))
    return between(maps, low, high, share, size[1], chosen[:, None])


def rows_under(height: int, enlarged: int, top: int, bottom: int) -> tuple[Tensor, Tensor, Tensor]:
    """The source rows of rows top … bottom − 1 in a bilinear enlargement from `height` to `enlarged` rows.

    Returns:
        For each row, the indices of the two source rows around it (int64), and the second's weight (float32, 0 … 1).
    """
    source = ((torch.arange(top, bottom, dtype=torch.float32) + 0.5) * (height / enlarged) - 0.5).clamp_min(0)
    low = source.floor().long().clamp_max(height - 1)
    return low, (low + 1).clamp_max(height - 1), source - low


def between(
    maps: Tensor, low: Tensor, high: Tensor, share: Tensor, width: int, chosen: Tensor | slice = slice(None)
) -> Tensor:
    """Interpolate rows between pairs of source rows, then enlarge them to a width.

    Args:
        maps: c × h × w.
        low: int64, n, the first source row of each row.
        high: int64, n, the second.
        share: n, the weight of the second, 0 … 1.
        width: W of the result.
        chosen: indices of k maps, shaped to broadcast with `low`; all maps by default.

    Returns:
        k × n × W.
    """
    share = share.to(maps.dtype)[:, None]
    return enlarge((maps[chosen, low] * (1 - share) + maps[chosen, high] * share)[None], (len(low), width))[0]


def bands(rows: int, values: int, most: int) -> Iterator[tuple[int, int]]:
    """Divide rows into bands of limited size.

    Args:
        rows: how many rows there are.
        values: how many values a row holds.
        most: the most values of a band; a band has at least one row.

    Returns:
        (top, bottom) of each band, `bottom` being the row after its last.

    Example:
        >>> list(bands(rows=5, values=100, most=250))
        [(0, 2), (2, 4), (4, 5)]
    """
    step = max(1, most // values)
    return ((top, min(top + step, rows)) for top in range(0, rows, step))


def self_scores(one: Tensor) -> Tensor:
    """Attention scores of vectors with themselves, x xᵀ / √d: b × heads × n × d → b × heads × n × n."""
    return scaled_scores(one, one)


def scaled_scores(queries: Tensor, keys: Tensor) -> Tensor:
    """Attention scores q kᵀ / √d in at least float32: b × heads × n × d and b × heads × m × d → b × heads × n × m."""
    if queries.dtype != torch.float64:
        queries, keys = queries.float(), keys.float()
    scores: Tensor = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-2, -1)
    return scores


def layer_at(layer: int, depth: int) -> int:
    """The layer that lies at the same relative depth as a layer of a model of twelve.

    Args:
        layer: of twelve layers, from 1.
        depth: how many layers the model has.

    Returns:
        A layer of the model, from 1.

    Example:
        >>> layer_at(9, 24)
        18
    """
    return max(1, round(layer * depth / 12))


def resize(image: UInt8Image, size: tuple[int, int]) -> UInt8Image:
    """Resize an image bilinearly, with half-pixel centres, without antialiasing.

    The result equals that of OpenCV's INTER_LINEAR bit for bit, with which the published evaluation protocols resize:
    weights in units of 1/2048, columns first, then rows, each product shifted before the sum.

    Args:
        image: uint8, H × W × 3.
        size: (height, width) of the result.
    """
    if image.shape[:2] == size:
        return image
    top, bottom, upper, lower = _samples(size[0], image.shape[0])
    left, right, near, far = _samples(size[1], image.shape[1])
    # beyond the borders OpenCV drops the weight of the outer column, but keeps the weights of both rows
    near, far = np.where(left == right, _ONE, near), np.where(left == right, 0, far)

    def columns(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        source = image[rows].astype(np.int32)
        mixed = source[:, left] * near[None, :, None] + source[:, right] * far[None, :, None]
        return (mixed >> 4).astype(np.int32)

    total = ((columns(top) * upper[:, None, None]) >> 16) + ((columns(bottom) * lower[:, None, None]) >> 16)
    resized: UInt8Image = np.clip((total + 2) >> 2, 0, 255).astype(np.uint8)
    return resized


def _samples(
    count: int, length: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """For `count` samples along `length` pixels: the two neighbours of each, and their weights in units of 1/2048."""
    place = ((np.arange(count) + 0.5) * (length / count) - 0.5).astype(np.float32)
    low = np.floor(place).astype(np.int64)
    share = place - low.astype(np.float32)
    weights = [np.rint(w * _ONE).astype(np.int32) for w in (np.float32(1) - share, share)]
    return np.clip(low, 0, length - 1), np.clip(low + 1, 0, length - 1), weights[0], weights[1]


def pamr_weights(image: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """The weights with which pixel-adaptive mask refinement (PAMR) mixes each pixel from its neighbours.

    The softmax over neighbours n of the mean over channels of −|I(p) − I(p+n)| / (1e-8 + 0.1 σ(p)), where σ is the
    unbiased standard deviation over the 3 × 3 samples of every dilation, the centre among them. Borders are replicated.
    (Araslanov & Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020, eq. 4 to 6.)

    Args:
        image: b × 3 × H × W, in any range of values. Computed in at least float32: in half precision, 1e-8 is 0.
        dilations: distances of the neighbours, in pixels.

    Returns:
        b × 8·len(dilations) × H × W, adding up to 1 over the neighbours.
    """
    image = image if image.dtype == torch.float64 else image.float()
    samples = _Shifted(image, max(dilations))
    offsets = _offsets(dilations)
    count = len(offsets) + len(dilations)
    mean = image * len(dilations)
    for offset in offsets:
        mean = mean.add_(samples.at(offset))
    mean /= count
    deviation = (image - mean).square_().mul_(len(dilations))
    for offset in offsets:
        deviation += (samples.at(offset) - mean).square_()
    scale = deviation.div_(count - 1).sqrt_().mul_(0.1).add_(1e-8)
    nearness = torch.stack([(samples.at(n) - image).abs_().div_(scale).mean(1).neg_() for n in offsets], 1)
    return nearness.softmax(1)


def pamr(maps: Tensor, weights: Tensor, dilations: tuple[int, ...], iterations: int) -> Tensor:
    """Pixel-adaptive mask refinement (PAMR): m(p) ← Σ_n w(p, n) m(p + n), repeated.

    Maps do not depend on each other, so a few are computed at a time, and of those a band of rows at a time: the sums
    then stay in the processor's cache, which is several times faster than all at once and takes little memory. The
    result is the same. (Araslanov & Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020, eq. 7.)

    Args:
        maps: b × c × H × W; changed in place.
        weights: b × n × H × W, from `pamr_weights` with the same dilations.
        dilations: distances of the neighbours, in pixels.
        iterations: how many times.

    Returns:
        `maps`.
    """
    offsets = _offsets(dilations)
    height, width = maps.shape[-2:]
    values = _CACHED if maps.device.type == "cpu" else _CACHED * 256
    block = max(1, values // (height * width))
    for one, shares in zip(maps, weights.to(maps.dtype), strict=True):
        for start in range(0, len(one), block):
            some = one[start : start + block]
            for _ in range(iterations):
                samples = _Shifted(some[None], max(dilations))
                views = [samples.at(offset)[0] for offset in offsets]
                for top, bottom in bands(height, len(some) * width, values):
                    band = some[:, top:bottom].zero_()
                    for share, view in zip(shares, views, strict=True):
                        band.addcmul_(share[top:bottom], view[:, top:bottom])
    return maps


_CACHED = 2**18  # values of the maps that PAMR refines together on a CPU


class _Shifted:
    """Maps, b × c × H × W, with replicated borders, that can be shifted by an offset."""

    def __init__(self, maps: Tensor, reach: int) -> None:
        self._size, self._reach = maps.shape[-2:], reach
        self._padded = F.pad(maps, (reach, reach, reach, reach), mode="replicate")

    def at(self, offset: tuple[int, int]) -> Tensor:
        """b × c × H × W, a view: at each pixel, the value of the pixel `offset` (down, right) away from it."""
        top, left = self._reach + offset[0], self._reach + offset[1]
        return self._padded[..., top : top + self._size[0], left : left + self._size[1]]


def _offsets(dilations: tuple[int, ...]) -> list[tuple[int, int]]:
    steps = (-1, 0, 1)
    return [(down * d, right * d) for d in dilations for down in steps for right in steps if down or right]
