"""Specks of a label give way to the label beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_doc import Doc
from annotated_types import Ge, Le
from scipy import ndimage
from torch import Tensor

from ovlabel.stages import Stage
from ovlabel.types import ImageContext


@dataclass(frozen=True)
class MinArea(Stage):
    """Connected parts (8 neighbours) of fewer pixels take the label of the nearest pixel of a larger part.

    The stored confidence stays that of the label a pixel had before. An image that is all specks stays as it is.

    Source: none; the usual removal of small components.
    """

    pixels: Annotated[int, Ge(0), Le(2**28), Doc("the smallest part that stays, at image size.")] = 64

    def labels(self, labels: Tensor, context: ImageContext) -> Tensor:
        """int64 H W → the same."""
        values = labels.cpu().numpy()
        _, index = np.unique(values, return_inverse=True)
        index = index.reshape(values.shape) + 1
        small = np.zeros(values.shape, bool)
        for number, box in enumerate(ndimage.find_objects(index), start=1):
            parts, _ = ndimage.label(index[box] == number, np.ones((3, 3), bool))
            few = np.bincount(parts.ravel()) < self.pixels
            few[0] = False
            small[box] |= few[parts]
        if not small.any() or small.all():
            return labels.clone()
        rows, columns = ndimage.distance_transform_edt(small, return_distances=False, return_indices=True)
        return torch.from_numpy(values[rows, columns]).to(labels.device)
