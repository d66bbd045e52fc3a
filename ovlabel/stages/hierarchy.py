"""Groups of classes decide first: what a group gathers, its classes gain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_doc import Doc
from annotated_types import Ge, Le
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from ovlabel.ops import bands
from ovlabel.stages import Stage
from ovlabel.types import ImageContext, TextBank

_GROUPS = ("vocabulary", "clustered")
_BAND_VALUES = 2**24  # cosines looked at together


@dataclass(frozen=True)
class Hierarchy(Stage):
    """p(c) ∝ p(c) · P(group of c)^η, where P is the sum of the softmax over the group.

    Source: García García: Open-Vocabulary Semantic Segmentation for Generative AI, Master's thesis, Universidad de
    Zaragoza, 2025, whose gate on raw cosines never opened; this is the exact marginal at the logit scale. There is no
    published evidence for it; no published preset uses it.
    """

    exponent: Annotated[float, Ge(0), Le(100), Doc("η; 0 changes nothing.")] = 0.5
    groups: Annotated[
        Literal["vocabulary", "clustered"],
        Doc(
            "those of the vocabulary, a class without one being alone; or classes joined by their text embeddings "
            "(average linkage, cosine)."
        ),
    ] = "vocabulary"
    distance: Annotated[float, Ge(0), Le(2), Doc("up to which classes are joined, a cosine distance.")] = 0.3

    def logits(self, logits: Tensor, context: ImageContext) -> Tensor:
        """q H W cosines → the same, in place."""
        if not self.exponent:
            return logits
        owner = torch.from_numpy(self.group_of(context.bank)).to(logits.device)
        count = int(owner.max()) + 1
        for top, bottom in bands(logits.shape[1], logits.shape[0] * logits.shape[2], _BAND_VALUES):
            band = logits[:, top:bottom]
            shares = (context.logit_scale * band).softmax(0)
            gathered = shares.new_zeros(count, *band.shape[1:]).index_add_(0, owner, shares)
            band += self.exponent / context.logit_scale * gathered.clamp_min(1e-12).log()[owner]
        return logits

    def group_of(self, bank: TextBank) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The group of every query: int64 q, from 0."""
        names = [*bank.classes] if bank.groups is None else [g or f"= {c}" for g, c in zip(bank.groups, bank.classes)]
        if self.groups == "clustered" and len(names) > 1:
            sums = np.zeros((len(names), bank.embeddings.shape[1]))
            np.add.at(sums, bank.class_of, bank.embeddings)
            tree = linkage(sums, "average", "cosine")
            names = [str(label) for label in fcluster(tree, self.distance, "distance")]
        _, index = np.unique(names, return_inverse=True)
        return index.astype(np.int64)[bank.class_of]
