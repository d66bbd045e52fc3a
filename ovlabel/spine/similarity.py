"""The level SIMILARITY: cosines of features with the queries of a text bank."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ovlabel.ops import normalise
from ovlabel.types import Encoder, TextBank


@dataclass(frozen=True, eq=False)
class Queries:
    """The queries of a text bank on the run's device.

    Attributes:
        vectors: q × e, unit vectors, float32; float64 where the encoder computes in float64.
        class_of: int64, q: the class of every query.
        logit_scale: what cosines are multiplied with before the softmax.
    """

    vectors: Tensor
    class_of: Tensor
    logit_scale: float

    @classmethod
    def of(cls, bank: TextBank, encoder: Encoder, logit_scale: float) -> Queries:
        """The queries of a bank, on the encoder's device."""
        wide = torch.float64 if encoder.dtype == torch.float64 else torch.float32
        vectors = torch.from_numpy(bank.embeddings).to(encoder.device, wide)
        return cls(vectors, torch.from_numpy(bank.class_of).to(encoder.device, torch.int64), logit_scale)

    def cosines(self, features: Tensor) -> Tensor:
        """b × e × h × w, of any length → b × q × h × w, −1 … 1."""
        return torch.einsum("qe,behw->bqhw", self.vectors, normalise(features, 1))
