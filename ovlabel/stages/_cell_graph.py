"""Maps smoothed on a grid of cells: (trust + L) U = trust · u, where L is the Laplacian of weighted neighbours.

Every cell is pulled to its own value by its trust, and to its four neighbours by the weights of their edges.

Letters in shapes: q maps, h × w cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ovlabel.ops import bands

_CPU_VALUES, _GPU_VALUES = 2**18, 2**26  # of the maps that are solved together


@dataclass(frozen=True, eq=False)
class CellGraph:
    """The weights of a grid of cells.

    Attributes:
        trust: h × w, above 0: how much a cell keeps of its own value.
        across: h × (w − 1), 0 … 1: the edge between a cell and its right neighbour.
        down: (h − 1) × w, 0 … 1: the edge between a cell and the one below.
    """

    trust: Tensor
    across: Tensor
    down: Tensor

    def operator(self, maps: Tensor) -> Tensor:
        """(trust + L) applied to maps, q × h × w. It is symmetric and positive definite."""
        out = self.trust * maps
        flow = self.across * maps.diff(dim=-1)
        out[..., :-1] -= flow
        out[..., 1:] += flow
        flow = self.down * maps.diff(dim=-2)
        out[..., :-1, :] -= flow
        out[..., 1:, :] += flow
        return out

    def total(self) -> Tensor:
        """h × w: trust and edges of each cell together, the diagonal of the operator."""
        total = self.trust.clone()
        total[:, :-1] += self.across
        total[:, 1:] += self.across
        total[:-1] += self.down
        total[1:] += self.down
        return total


def contrast_edges(grey: Tensor) -> tuple[Tensor, Tensor]:
    """exp(−5 |difference| / mean of all such differences) of neighbours in a picture h × w: across, and down.

    A factor and an offset of the picture change nothing.
    """
    apart = (grey.diff(dim=-1).abs(), grey.diff(dim=-2).abs())
    across, down = (torch.exp(-5 * one / (one.mean() + 1e-6)) for one in apart)
    return across, down


def conjugate_gradients(graph: CellGraph, maps: Tensor, steps: int) -> Tensor:
    """A number of steps from the maps towards the solution, whose lengths are those of all maps together.

    A map's result therefore depends on the other maps, until the solution is reached.

    Args:
        graph: the weights.
        maps: q × h × w; left alone.
        steps: how many.

    Returns:
        q × h × w.
    """
    solution = maps.clone()
    residual = graph.trust * maps - graph.operator(maps)
    direction, square = residual.clone(), residual.square().sum()
    for _ in range(steps):
        changed = graph.operator(direction)
        length = square / ((direction * changed).sum() + 1e-12)
        solution += length * direction
        residual -= length * changed
        before, square = square, residual.square().sum()
        direction = residual + square / (before + 1e-12) * direction
    return solution


def solve(graph: CellGraph, maps: Tensor, tolerance: float, least: float) -> Tensor:
    """The solution, each map by itself, by Chebyshev's method on Jacobi's iteration.

    The number of steps follows from the arguments alone. What a cell becomes depends on cells within so many steps, and
    on no other map: any part of the maps, or of the cells with a margin of that width, gives the same values.

    Args:
        graph: the weights.
        maps: q × h × w; left alone.
        tolerance: the share of the distance to the solution that may be left, above 0, at most 1.
        least: a number that no trust is below, above 0.

    Returns:
        q × h × w.
    """
    values = _CPU_VALUES if maps.device.type == "cpu" else _GPU_VALUES
    iteration = _Jacobi(graph)
    solved = torch.empty_like(maps)
    for first, last in bands(len(maps), graph.trust.numel(), values):
        solved[first:last] = _chebyshev(iteration, maps[first:last], tolerance, 4 / (4 + least))
    return solved


class _Jacobi:
    """U → (trust · u + Σ edge · U of the neighbours) / (trust + Σ edge)."""

    def __init__(self, graph: CellGraph) -> None:
        total = graph.total()
        self._own = graph.trust / total
        self._left, self._right = graph.across / total[:, 1:], graph.across / total[:, :-1]
        self._above, self._below = graph.down / total[1:], graph.down / total[:-1]

    def own(self, maps: Tensor) -> Tensor:
        """What stays the same in each iteration."""
        return self._own * maps

    def __call__(self, own: Tensor, maps: Tensor) -> Tensor:
        """The next iterate."""
        out = own.clone()
        out[..., 1:].addcmul_(self._left, maps[..., :-1])
        out[..., :-1].addcmul_(self._right, maps[..., 1:])
        out[..., 1:, :].addcmul_(self._above, maps[..., :-1, :])
        out[..., :-1, :].addcmul_(self._below, maps[..., 1:, :])
        return out


def _chebyshev(iteration: _Jacobi, maps: Tensor, tolerance: float, radius: float) -> Tensor:
    """Golub, Van Loan: Matrix Computations, sec. 11.2.8; `radius` bounds the iteration's eigenvalues, below 1."""
    steps = math.ceil(math.acosh(1 / tolerance) / math.acosh(1 / radius))
    own, before, now, relax = iteration.own(maps), maps, maps, 1.0
    for step in range(steps):
        relax = (1.0, 1 / (1 - radius**2 / 2))[step] if step < 2 else 1 / (1 - radius**2 * relax / 4)
        before, now = now, iteration(own, now).sub_(before).mul_(relax).add_(before)
    return now
