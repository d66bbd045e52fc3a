"""Pure functions on tensors and images that two rooms or stages share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ovlabel.types import UInt8Image

_ONE = 2048  # fixed-point weight of 1 in `resize`


def normalise(vectors: Tensor, dim: int) -> Tensor:
    """Unit length along `dim`, in float32 or finer."""
    return F.normalize(vectors if vectors.dtype == torch.float64 else vectors.float(), dim=dim)


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """b c h w → b c H W, bilinear with half-pixel centres, borders clamped, no antialiasing."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def lift_rows(maps: Tensor, chosen: Tensor, size: tuple[int, int], top: int, bottom: int) -> Tensor:
    """Rows top … bottom−1 of `enlarge(maps[chosen], size)`, without copying the rest: c h w → k (bottom−top) W."""
    low, high, share = (rows.to(maps.device) for rows in rows_under(maps.shape[-2], size[0], top, bottom))
    return between(maps, low, high, share, size[1], chosen[:, None])


def rows_under(height: int, enlarged: int, top: int, bottom: int) -> tuple[Tensor, Tensor, Tensor]:
    """For row top … bottom−1 of `enlarged`, the two of `height` that it lies between, and the second's share."""
    source = ((torch.arange(top, bottom, dtype=torch.float32) + 0.5) * (height / enlarged) - 0.5).clamp_min(0)
    low = source.floor().long().clamp_max(height - 1)
    return low, (low + 1).clamp_max(height - 1), source - low


def between(
    maps: Tensor, low: Tensor, high: Tensor, share: Tensor, width: int, chosen: Tensor | slice = slice(None)
) -> Tensor:
    """Rows between two rows of chosen maps each, enlarged to a width: c h w → k n W."""
    share = share.to(maps.dtype)[:, None]
    return enlarge((maps[chosen, low] * (1 - share) + maps[chosen, high] * share)[None], (len(low), width))[0]


def bands(rows: int, values: int, most: int) -> Iterator[tuple[int, int]]:
    """(top, bottom) of bands of rows that hold at most so many values, where a row holds `values`; a row at least."""
    step = max(1, most // values)
    return ((top, min(top + step, rows)) for top in range(0, rows, step))


def self_scores(one: Tensor) -> Tensor:
    """Scores of a projection with itself: b heads n d → b heads n n, x xᵀ / √d, float32 or finer."""
    return scaled_scores(one, one)


def scaled_scores(queries: Tensor, keys: Tensor) -> Tensor:
    """q kᵀ / √d in float32 or finer: b heads n d → b heads n n."""
    if queries.dtype != torch.float64:
        queries, keys = queries.float(), keys.float()
    scores: Tensor = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-2, -1)
    return scores


def layer_at(layer: int, depth: int) -> int:
    """Where a layer of a model of twelve stands in one of another depth: at the same share of it, from 1."""
    return max(1, round(layer * depth / 12))


def resize(image: UInt8Image, size: tuple[int, int]) -> UInt8Image:
    """uint8 H W 3 → uint8 at (height, width) `size`: bilinear, half-pixel centres, no antialiasing.

    Bit for bit OpenCV's INTER_LINEAR, with which the published protocols resize: weights in 1/2048, columns first,
    then rows, each product shifted before the sum.
    """
    if image.shape[:2] == size:
        return image
    top, bottom, upper, lower = _samples(size[0], image.shape[0])
    left, right, near, far = _samples(size[1], image.shape[1])
    # beyond the borders OpenCV drops the outer column's weight, but keeps both rows'
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
    """For `count` samples of `length` pixels: the two neighbours of each and their weights in 1/2048."""
    place = ((np.arange(count) + 0.5) * (length / count) - 0.5).astype(np.float32)
    low = np.floor(place).astype(np.int64)
    share = place - low.astype(np.float32)
    weights = [np.rint(w * _ONE).astype(np.int32) for w in (np.float32(1) - share, share)]
    return np.clip(low, 0, length - 1), np.clip(low + 1, 0, length - 1), weights[0], weights[1]


def pamr_weights(image: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """What PAMR mixes every pixel from: b 3 H W (any scale) → b 8·len(dilations) H W, adding up to 1 over neighbours.

    softmax over neighbours n of the mean over channels of −|I(p) − I(p+n)| / (1e-8 + 0.1 σ(p)), where σ is the unbiased
    deviation over the 3 × 3 samples of every dilation, the centre among them. Borders are replicated. float32 or finer:
    1e-8 is nothing in half precision. (Araslanov & Roth, CVPR 2020, eq. 4 to 6.)
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
    """Pixel-adaptive mask refinement: m(p) ← Σ_n w(p, n) m(p + n), so many times; changes b c H W in place.

    Every map goes its own way, so a few pass at a time, and of those a band of rows at a time, so that what is added up
    stays in a processor's cache: exact, several times faster than all at once, and hardly any memory.
    (Araslanov & Roth, CVPR 2020, eq. 7.)

    Args:
        maps: b c H W. weights: b n H W, from `pamr_weights` with the same dilations.
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


_CACHED = 2**18  # values of the maps that go through PAMR together on a CPU


class _Shifted:
    """b c H W with replicated borders, seen from every pixel's neighbour."""

    def __init__(self, maps: Tensor, reach: int) -> None:
        self._size, self._reach = maps.shape[-2:], reach
        self._padded = F.pad(maps, (reach, reach, reach, reach), mode="replicate")

    def at(self, offset: tuple[int, int]) -> Tensor:
        """The value `offset` (down, right) away from each pixel: a view."""
        top, left = self._reach + offset[0], self._reach + offset[1]
        return self._padded[..., top : top + self._size[0], left : left + self._size[1]]


def _offsets(dilations: tuple[int, ...]) -> list[tuple[int, int]]:
    steps = (-1, 0, 1)
    return [(down * d, right * d) for d in dilations for down in steps for right in steps if down or right]
