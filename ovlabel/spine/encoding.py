"""From windows to cosines at their patches: one batch of windows through the encoder.

    windows ─view, pad→ encoder ─trace→ TOKENS ─attention.py→ BLOCK ─ln_post, proj→ FEATURES ─similarity.py→ SIMILARITY

Every reduction is over one window, so that a window's values do not depend on the other windows of its batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NoReturn

import torch.nn.functional as F
from torch import Tensor

from ovlabel.errors import StackError
from ovlabel.spine.attention import LastBlock, on_grid
from ovlabel.spine.windows import Padding, apply_view, padding_around, padding_in_view
from ovlabel.types import Box, Trace, WindowContext


@dataclass(frozen=True, eq=False)
class WindowBatch:
    """One batch of windows: b × e × h × w features or b × q × h × w cosines, and what stages may read."""

    maps: Tensor
    context: WindowContext


class WindowEncoder:
    """Encodes batches of windows.

    Args:
        last_block: the encoder's last block under the run's stack.
        pad: "center" pads windows to whole patches, "none" cuts the remainder off.
    """

    def __init__(self, last_block: LastBlock, pad: str) -> None:
        self.encoder, self.stack, self.queries = last_block.encoder, last_block.stack, last_block.queries
        self._last_block, self._pad = last_block, pad

    def features(self, windows: Tensor, boxes: tuple[Box, ...], view: str) -> WindowBatch:
        """Features b × e × h × w, not yet edited at the level FEATURES.

        Args:
            windows: b × 3 × H × W, normalised, of one shape.
            boxes: their places in the working-size image.
            view: how the encoder is shown them; the features are those of the view.
        """
        padding = padding_around(boxes[0], self.encoder.patch, self._pad)
        windows = apply_view(F.pad(windows, padding) if any(padding) else windows, view)
        trace = self.encoder.trace(windows)
        context = self._context(windows, trace, boxes, padding_in_view(padding, view))
        if self.stack.acts_at("tokens"):
            trace = trace.edited(self.stack.edit("tokens", trace.tokens(trace.layers), context))
            context = replace(context, trace=trace)
        joint = self.encoder.project(self._last_block.output(trace, context))
        return WindowBatch(on_grid(joint, trace.grid), replace(context, cls=joint[:, 0]))

    def stitched(self, features: Tensor, pixels: Tensor) -> WindowBatch:
        """Features of a whole image that were stitched from windows, as one batch of one window without a trace.

        Args:
            features: e × h × w, of every patch of the image, the last one in part.
            pixels: 3 × H × W, normalised.
        """
        size, patch = (pixels.shape[-2], pixels.shape[-1]), self.encoder.patch
        padding = (0, -size[1] % patch, 0, -size[0] % patch)
        trace = _NoTrace((features.shape[-2], features.shape[-1]))
        context = self._context(F.pad(pixels, padding)[None], trace, (Box(0, 0, *size),), padding)
        return WindowBatch(features[None], context)

    def similarity(self, features: WindowBatch) -> WindowBatch:
        """Features → cosines b × q × h × w, both edited at their levels."""
        edited = self.stack.edit("features", features.maps, features.context)
        cosines = self.queries.cosines(edited)
        return replace(features, maps=self.stack.edit("similarity", cosines, features.context))

    def _context(self, pixels: Tensor, trace: Trace, boxes: tuple[Box, ...], padding: Padding) -> WindowContext:
        queries = self.queries
        return WindowContext(pixels, queries.vectors, queries.class_of, queries.logit_scale, trace, boxes, padding)


@dataclass
class _NoTrace:
    """Stands for a trace where features were stitched: there is no single one. Every question raises StackError."""

    grid: tuple[int, int]
    layers: int = 0

    def _refuse(self, *_: object) -> NoReturn:
        raise StackError('a stage asks for the layers of a window, which tiling.stitch = "features" has left behind')

    tokens = qkv = attention = attended = image = read_regions = once = edited = _refuse

    @property
    def unedited(self) -> NoReturn:
        """There is none either."""
        self._refuse()
