"""From TOKENS to BLOCK: the last block of the image tower, under the attention that a stack of stages decides.

    tokens ─q, k, v→ SCORES ─softmax, Σ terms→ ATTENTION ─readout→ BLOCK

Where no stage needs the attention as a map, the block is computed from queries and keys by fused attention instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from ovlabel.ops import scaled_scores
from ovlabel.spine.similarity import Queries
from ovlabel.spine.stack import Stack
from ovlabel.types import Encoder, Trace, WindowContext


@dataclass(frozen=True, eq=False)
class LastBlock:
    """The last block of an encoder, edited by a stack.

    Attributes:
        encoder: the frozen CLIP.
        stack: the stages.
        queries: what a stage's preview compares features with.
        literal: make every attention map, as the published code does, instead of fused attention. The values are the
            same up to rounding.
    """

    encoder: Encoder
    stack: Stack
    queries: Queries
    literal: bool = False

    def output(self, trace: Trace, context: WindowContext) -> Tensor:
        """b × n × width, the value at the level BLOCK after all edits.

        Args:
            trace: the windows' layers; its last layer holds the tokens as edited at the level TOKENS.
            context: what stages may read.
        """
        context = replace(context, rerun=partial(self._rerun, trace, self.stack, context))
        pairs = self._pairs(trace, context)
        if pairs is None:
            block = self._attend(trace, _own_scores(trace), self.stack, self.stack, context)
        else:
            block = self.encoder.readout_of(trace, pairs)
        edited: Tensor = self.stack.edit("block", block, context)
        return edited

    def _pairs(self, trace: Trace, context: WindowContext) -> Sequence[tuple[Tensor, Tensor]] | None:
        """The queries and keys of the block's attention; None where a stage needs the attention as a map."""
        acting = [stage for stage in self.stack if {"scores", "attention"}.intersection(stage.acts_at())]
        if self.literal or len(acting) > 1:
            return None
        if acting:
            return acting[0].pairs(context)
        queries, keys, _ = trace.qkv(trace.layers)
        return ((queries, keys),)

    def _attend(self, trace: Trace, scores: Tensor, rest: Stack, whole: Stack, context: WindowContext) -> Tensor:
        """SCORES → the block's output, not yet edited at BLOCK.

        `rest` edits the scores: the whole stack, or in a preview what follows the stage that asked for it. A preview
        runs without that stage (`whole` less it), so that previews and reruns in each other's calls come to an end.
        """
        for stage in rest:
            if "scores" in stage.acts_at():
                preview = partial(self._preview, trace, rest.after(stage), whole.without(stage.name()), context)
                scores = stage.scores(scores, replace(context, preview=preview))
        attention = self.stack.edit("attention", scores.softmax(-1).sum(0), context)
        return self.encoder.readout(trace, attention)

    def _preview(self, trace: Trace, rest: Stack, whole: Stack, context: WindowContext, scores: Tensor) -> Tensor:
        """Scores → b × q × h × w cosines, through the stages of `rest` and all edits at ATTENTION and BLOCK."""
        context = replace(context, rerun=partial(self._rerun, trace, whole, context))
        block = self.stack.edit("block", self._attend(trace, scores, rest, whole, context), context)
        return self.queries.cosines(on_grid(self.encoder.project(block), trace.grid))

    def _rerun(self, trace: Trace, whole: Stack, context: WindowContext, tokens: Tensor) -> Tensor:
        """Other tokens through the last block under the stack's attention."""
        again = trace.edited(tokens)
        return self._attend(again, _own_scores(again), whole, whole, replace(context, trace=again, rerun=None))


def on_grid(joint: Tensor, grid: tuple[int, int]) -> Tensor:
    """b × n × e → b × e × h × w: the patches on their grid, without the [CLS] token."""
    return joint[:, 1:].transpose(1, 2).reshape(len(joint), -1, *grid)


def _own_scores(trace: Trace) -> Tensor:
    """1 × b × heads × n × n, the last block's own scores: their softmax is its own attention."""
    queries, keys, _ = trace.qkv(trace.layers)
    return scaled_scores(queries, keys)[None]
