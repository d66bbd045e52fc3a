"""DenseCRF: labels that agree with those of nearby pixels, and of pixels of like colour farther away."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from torch import Tensor

from ovlabel.fields import Doc
from ovlabel.ops import enlarge, resize
from ovlabel.stages import Stage, _mean_field
from ovlabel.types import ImageContext, UInt8Image

_LEAST = 1e-5  # of a probability, before its logarithm
_WAITING = 2**27  # probabilities that may be sent to another process; more are computed here


@dataclass(frozen=True)
class Crf(Stage):
    """Mean field of a fully connected CRF with Potts costs: one Gaussian kernel over place, one over place and colour.

    CLIP's probabilities over many classes are nearly flat: with a bilateral weight of 10, small objects take the label
    of what is around them.

    Source: Krähenbühl, Koltun: Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials, NeurIPS 2011
    (arXiv 1210.5644), alg. 1, with symmetric normalisation. The defaults (3/3, 80/13/10) are those of
    Pablo García García, "Open-Vocabulary Semantic Segmentation for Generative AI", Master's thesis,
    Universidad de Zaragoza, 2025.
    """

    iterations: Annotated[int, Ge(1), Le(1000), Doc("Iterations of the mean field.")] = 10
    gaussian_width: Annotated[
        float, Gt(0), Le(10_000), Doc("Width of the kernel over place alone, in pixels of the image.")
    ] = 3.0
    gaussian_weight: Annotated[float, Ge(0), Le(10_000), Doc("Weight of the kernel over place alone.")] = 3.0
    bilateral_width: Annotated[
        float, Gt(0), Le(10_000), Doc("Width of the kernel over place and colour, in pixels of the image.")
    ] = 80.0
    bilateral_colour: Annotated[
        float, Gt(0), Le(10_000), Doc("Width of the kernel over place and colour, in grey levels (0 to 255).")
    ] = 13.0
    bilateral_weight: Annotated[float, Ge(0), Le(10_000), Doc("Weight of the kernel over place and colour.")] = 10.0
    prune: Annotated[
        bool,
        Doc(
            "Whether only classes take part that are most probable somewhere. The others become one rest with the "
            "sum of their probabilities, which neighbours do not support, and keep their order within it."
        ),
    ] = True
    scale: Annotated[
        float, Gt(0), Le(1), Doc("The field is computed at this share of height and width; widths shrink with it.")
    ] = 1.0
    backend: Annotated[
        Literal["auto", "pydensecrf", "bilateral"],
        Doc(
            "`pydensecrf` filters on a permutohedral lattice; `bilateral` on a grid, in torch, also on a GPU. `auto` "
            "takes the first where it is installed. They differ by some percent of the pixels; the run records which "
            "one ran."
        ),
    ] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backend == "auto":
            found = "pydensecrf" if importlib.util.find_spec("pydensecrf") else "bilateral"
            object.__setattr__(self, "backend", found)

    def probabilities(self, probabilities: Tensor, context: ImageContext) -> Tensor:
        """c × h × w → the posterior in the same shape, in place."""
        return self._run(probabilities, context, apart=False)()

    @property
    def in_flight(self) -> int:
        """As many images as there are processes, with pydensecrf; else 0."""
        return _mean_field.count() if self.backend == "pydensecrf" else 0

    def begin(self, probabilities: Tensor, context: ImageContext) -> Callable[[], Tensor]:
        """The same in another process, with pydensecrf and where the maps are not too large to be sent."""
        return self._run(probabilities, context, apart=probabilities.numel() <= _WAITING)

    def _run(self, probabilities: Tensor, context: ImageContext, *, apart: bool) -> Callable[[], Tensor]:
        kept, rest = _rivals(probabilities) if self.prune else (torch.arange(len(probabilities)), None)
        kept = kept.to(probabilities.device)
        asked = probabilities[kept] if rest is None else torch.cat([probabilities[kept], rest[None]])
        pull = np.ones(len(asked), np.float32)  # of the kernels, by label
        pull[len(kept) :] = 0
        full = (int(asked.shape[1]), int(asked.shape[2]))
        size = (max(round(full[0] * self.scale), 1), max(round(full[1] * self.scale), 1))
        if size != full:
            asked = F.interpolate(asked[None], size, mode="bilinear", antialias=True)[0]
        shrink = size[0] / context.image.shape[0]
        kernels = (
            (self.gaussian_width * shrink, 0.0, self.gaussian_weight),
            (self.bilateral_width * shrink, self.bilateral_colour, self.bilateral_weight),
        )
        image, least = resize(context.image, size), asked.float().clamp(_LEAST, 1)
        if self.backend == "pydensecrf":
            energy = -np.log(least.cpu().numpy())
            request = (energy, image, tuple(kernel for kernel in kernels if kernel[2]), pull, self.iterations)
            found: Callable[[], object] = _mean_field.begin(*request) if apart else partial(_mean_field.infer, *request)
        else:
            found = partial(self._grid, -least.log(), image, kernels, torch.from_numpy(pull).to(least)[:, None, None])

        def refined() -> Tensor:
            posterior = enlarge(torch.as_tensor(found()).to(probabilities)[None], full)[0]
            if rest is None:
                return posterior
            probabilities.mul_(posterior[-1] / rest.clamp_min(_LEAST))  # the others share what the rest has become
            probabilities[kept] = posterior[:-1]
            return probabilities

        return refined

    def _grid(self, energy: Tensor, image: UInt8Image, kernels: tuple[_mean_field.Kernel, ...], pull: Tensor) -> Tensor:
        filters = [
            (weight, _BilateralGrid(energy, image, width, colour) if colour else _Gaussian(energy, width))
            for width, colour, weight in kernels
            if weight
        ]
        posterior = (-energy).softmax(0)
        for _ in range(self.iterations):
            pulled = -energy
            for weight, near in filters:
                pulled += weight * pull * near(posterior)
            posterior = pulled.softmax(0)
        return posterior


def _rivals(probabilities: Tensor) -> tuple[Tensor, Tensor | None]:
    """Classes that win somewhere, and the probability of all others, h w; None where there are no others."""
    kept = torch.unique(probabilities.argmax(0))
    others = torch.ones(len(probabilities), dtype=torch.bool, device=probabilities.device)
    others[kept] = False
    return kept, probabilities[others].sum(0) if others.any() else None


class _Gaussian:
    """D^−½ K D^−½ with K a Gaussian over place: separable, cut off at 4 σ, zero beyond the border."""

    def __init__(self, like: Tensor, width: float) -> None:
        reach = max(round(4 * width), 1)
        place = torch.arange(-reach, reach + 1, device=like.device, dtype=torch.float32)
        self._taps, self._reach = torch.exp(-(place**2) / (2 * width**2)), reach
        self._scale = self._blur(torch.ones(1, *like.shape[1:], device=like.device)).rsqrt()

    def __call__(self, maps: Tensor) -> Tensor:
        """c × h × w → the same."""
        return self._blur(maps * self._scale) * self._scale

    def _blur(self, maps: Tensor) -> Tensor:
        tall = F.conv2d(maps[:, None], self._taps[None, None, :, None], padding=(self._reach, 0))
        return F.conv2d(tall, self._taps[None, None, None, :], padding=(0, self._reach))[:, 0]


class _BilateralGrid:
    """D^−½ K D^−½ with K a Gaussian over place and colour, on a grid of one cell a width in all five dimensions.

    Pixels are laid on the 32 cells around them and read from there, which blurs by a third of a cell squared; the blur
    between adds the rest. (Chen, Paris, Durand: Real-Time Edge-Aware Image Processing with the Bilateral Grid, 2007.)
    """

    def __init__(self, like: Tensor, image: UInt8Image, width: float, colour: float) -> None:
        height, wide = like.shape[1:]
        y, x = np.meshgrid(np.arange(height) / width, np.arange(wide) / width, indexing="ij")
        place = np.stack([y, x, *(image.astype(np.float64) / colour).transpose(2, 0, 1)], -1).reshape(-1, 5)
        place -= place.min(0)
        low = np.floor(place).astype(np.int64)
        self._sides = tuple((low.max(0) + 2).tolist())
        share = place - low
        index, weight = [], []
        for corner in range(32):
            bits = np.array([corner >> axis & 1 for axis in range(5)])
            index.append(np.ravel_multi_index(tuple((low + bits).T), self._sides))
            weight.append(np.where(bits, share, 1 - share).prod(1))
        pixels, cells = len(place), int(np.prod(self._sides))
        corners, weights = np.stack(index, 1).ravel(), np.stack(weight, 1).astype(np.float32).ravel()
        entries = torch.from_numpy(np.stack([np.arange(pixels).repeat(32), corners]))
        read = torch.sparse_coo_tensor(entries, torch.from_numpy(weights), (pixels, cells), check_invariants=False)
        self._read = read.coalesce().to(like.device)
        self._lay = self._read.t().coalesce()
        self._scale = self._filter(torch.ones(pixels, 1, device=like.device)).rsqrt()

    def __call__(self, maps: Tensor) -> Tensor:
        """c × h × w → the same."""
        flat = maps.flatten(1).T
        return (self._filter(flat * self._scale) * self._scale).T.reshape(maps.shape)

    def _filter(self, values: Tensor) -> Tensor:
        """pixels × c → the same."""
        grid = torch.sparse.mm(self._lay, values).reshape(*self._sides, -1)
        for axis in range(5):
            grid = self._blur(grid, axis)
        read: Tensor = torch.sparse.mm(self._read, grid.reshape(-1, values.shape[1]))
        return read

    def _blur(self, grid: Tensor, axis: int) -> Tensor:
        """Along one axis, a Gaussian of variance 2/3 cells, unit height in all (as the kernel has)."""
        length = grid.shape[axis]
        blurred = grid.clone()
        for offset in range(1, min(4, length)):
            weight = float(np.exp(-(offset**2) / (2 * 2 / 3)))
            blurred.narrow(axis, offset, length - offset).add_(grid.narrow(axis, 0, length - offset), alpha=weight)
            blurred.narrow(axis, 0, length - offset).add_(grid.narrow(axis, offset, length - offset), alpha=weight)
        return blurred
