"""Joint bilateral upsampling: cosines between patches follow the window's colours; no weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_doc import Doc
from annotated_types import Ge, Gt, Le
from torch import Tensor

from ovlabel.stages import Stage
from ovlabel.types import WindowContext


@dataclass(frozen=True)
class Upsample(Stage):
    """Each cell of a finer grid takes the mean of the patches around it, nearer and more alike in colour counting more.

    Source: Kopf, Cohen, Lischinski, Uyttendaele: Joint Bilateral Upsampling, SIGGRAPH 2007, eq. 3.
    """

    factor: Annotated[int, Ge(1), Le(64), Doc("how much finer the new grid is.")] = 4
    radius: Annotated[int, Ge(1), Le(64), Doc("patches looked at on each side.")] = 2
    sigma_space: Annotated[float, Gt(0), Le(10_000), Doc("width of the Gaussian over distance, in patches.")] = 0.75
    sigma_colour: Annotated[
        float,
        Gt(0),
        Le(10_000),
        Doc("width of the Gaussian over colour, in the model's normalised units (0.25 is some 17 grey levels)."),
    ] = 0.25

    def similarity(self, cosines: Tensor, context: WindowContext) -> Tensor:
        """b q h w → b q h·factor w·factor."""
        height, width = cosines.shape[-2:]
        fine = F.interpolate(context.pixels, (height * self.factor, width * self.factor), mode="area")
        coarse = F.avg_pool2d(fine, self.factor)
        reach = (self.radius,) * 4
        maps, colours = F.pad(cosines, reach, mode="replicate"), F.pad(coarse, reach, mode="replicate")
        total = torch.zeros(*cosines.shape[:2], *fine.shape[-2:], dtype=cosines.dtype, device=cosines.device)
        weights = total.new_zeros(len(cosines), 1, *fine.shape[-2:])
        within = (torch.arange(self.factor, dtype=cosines.dtype, device=cosines.device) + 0.5) / self.factor - 0.5
        for down in range(-self.radius, self.radius + 1):
            for right in range(-self.radius, self.radius + 1):
                rows = slice(self.radius + down, self.radius + down + height)
                columns = slice(self.radius + right, self.radius + right + width)
                apart = (down - within)[:, None] ** 2 + (right - within)[None, :] ** 2
                near = torch.exp(-apart / (2 * self.sigma_space**2)).repeat(height, width)
                unlike = (self._repeat(colours[..., rows, columns]) - fine).square().sum(1, keepdim=True)
                weight = near * torch.exp(-unlike / (2 * self.sigma_colour**2)) + 1e-12
                total += weight * self._repeat(maps[..., rows, columns])
                weights += weight
        return total / weights

    def _repeat(self, maps: Tensor) -> Tensor:
        return maps.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)
