"""The spine: from an image to labels, one way down through the levels. Pure computation, nothing is stored.

    image ─resize→ working image ─cut→ windows ─trace→ TOKENS ─q,k,v→ SCORES ─softmax, Σt→ ATTENTION ─readout→ BLOCK
    ─ln_post, proj→ FEATURES ─cosine→ SIMILARITY ─enlarge→ WINDOW ─stitch, scales, views→ LOGITS
    ─softmax, merge synonyms→ PROBABILITIES ─thresholds, argmax→ LABELS

At every level, the stages of the stack that have a method of its name edit the value, in the stack's order. Windows
travel in batches; every reduction is per window, so a window never sees its batch mates.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ovlabel.clip import Clip, Trace
from ovlabel.config import LabelsConfig, TilingConfig
from ovlabel.errors import StackError
from ovlabel.ops import enlarge, lift_rows, normalise, scaled_scores
from ovlabel.stack import Stack, name_of
from ovlabel.types import (
    Annotation,
    Box,
    ImageContext,
    LabelMap,
    Prediction,
    TextBank,
    UInt8Image,
    WindowContext,
    below_threshold,
    label_dtype,
)
from ovlabel.windows import Canvas, GridCanvas, cut, enlarge_window, resize, tile, working_size

log = logging.getLogger("ovlabel")

_FLIPS = {"identity": (), "hflip": (-1,), "vflip": (-2,)}
_BAND_VALUES = 2**26  # float32 values lifted to image size at a time (256 MiB)


@dataclass(frozen=True, eq=False)
class Part:
    """One batch of windows on its way down.

    Attributes:
        maps: b e h w features, later b q h w cosines. context: what stages may read.
        padding: (left, right, top, bottom) zeros around each window. padded: its (height, width) with them.
    """

    maps: Tensor
    context: WindowContext
    padding: tuple[int, int, int, int]
    padded: tuple[int, int]


class Segmenter:
    """Annotates images: `segmenter(image) -> Prediction`.

    Args:
        clip: the encoder. bank: what is asked. stack: the stages.
        tiling, labels: settings of the run. logit_scale: softmax multiplier.
        batch_size: windows that go through the encoder together; never changes a result beyond rounding.

    Raises:
        StackError: a stage acts at `window`, where `tiling.enlarge = "direct"` has no window pixels.
    """

    def __init__(
        self,
        clip: Clip,
        bank: TextBank,
        stack: Stack,
        tiling: TilingConfig,
        labels: LabelsConfig,
        logit_scale: float,
        keep: str = "top5",
        batch_size: int = 16,
    ) -> None:
        self.clip, self.bank, self.stack = clip, bank.merged(), stack
        self.tiling, self.settings, self.logit_scale = tiling, labels, logit_scale
        self.keep, self.batch_size = keep, batch_size
        self._direct = tiling.enlarge == "direct" and tiling.window == 0
        if self._direct and stack.acts_at("window"):
            raise StackError('a stage acts at the level window, which needs tiling.enlarge = "two-step"')
        wide = torch.float64 if clip.dtype == torch.float64 else torch.float32
        self.text = torch.from_numpy(self.bank.embeddings).to(clip.device, wide)
        self._class_of = torch.from_numpy(self.bank.class_of).to(clip.device)

    def __call__(self, image: UInt8Image) -> Prediction:
        """Labels, confidence and probabilities of a uint8 H W 3 RGB image. Raises ValueError for another shape."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise ValueError(f"an image is uint8 H W 3, not {image.dtype} {image.shape}")
        size = (image.shape[0], image.shape[1])
        target = working_size(size, self.tiling.short_side, self.tiling.long_side, self.clip.patch)
        return self.segment_resized(resize(image, target), size, image)

    def segment_resized(
        self, resized: UInt8Image, size: tuple[int, int], image: UInt8Image | None = None
    ) -> Prediction:
        """The prediction for an image that has been resized already.

        Args:
            resized: uint8 h w 3 RGB at working size; it is not resized again.
            size: (height, width) of the labels to make: the photograph's.
            image: the photograph, for stages that read it from `logits` on; by default `resized`, enlarged to `size`.
        """
        with torch.inference_mode():
            pixels = self.clip.pixels(_channels_first(resized))
            target = self._finish_size(size, (pixels.shape[-2], pixels.shape[-1]))
            logits = self.logits(pixels, target)
            context = ImageContext(
                resize(resized, size) if image is None else image, pixels, self.text, self.logit_scale
            )
            logits = self.stack.edit("logits", logits, context)
            probabilities = self._probabilities(logits)
            del logits
            probabilities = self.stack.edit("probabilities", probabilities, context)
            probabilities = self._drop_small(probabilities)
            labels, confidence = self._decide(probabilities, size)
            labels = self.stack.edit("labels", labels, context)
        dtype = label_dtype(len(self.bank.classes))
        return Prediction(
            labels=labels.cpu().numpy().astype(dtype),
            confidence=confidence.float().cpu().numpy(),
            probabilities=probabilities.float().cpu().numpy(),
            working_size=(pixels.shape[-2], pixels.shape[-1]),
        )

    def annotation(self, image: UInt8Image) -> Annotation:
        """What the store keeps of `segmenter(image)`; `store.probabilities` says how much."""
        prediction = self(image)
        classes, probabilities = _kept(prediction, self.keep)
        wanted = self._finish_size(prediction.labels.shape, prediction.working_size, capped=False)
        return Annotation(
            prediction.labels,
            _quantised(prediction.confidence),
            classes,
            probabilities,
            prediction.working_size,
            reduced=prediction.probabilities.shape[1:] != wanted,
        )

    # ------------------------------------------------------------------ image → LOGITS

    def logits(self, pixels: Tensor, target: tuple[int, int]) -> Tensor:
        """3 H W normalised → q h w mean cosines at `target` size, averaged over scales and views; before any edit."""
        base = (pixels.shape[-2], pixels.shape[-1])
        total: Tensor | None = None
        for scale in self.tiling.scales:
            size = working_size(base, round(min(base) * scale), round(max(base) * scale) + 1, self.clip.patch)
            scaled = pixels if scale == 1.0 else enlarge(pixels[None], size)[0]
            for view in self.tiling.views:
                flips = _FLIPS[view]
                maps = self._view(scaled.flip(flips) if flips else scaled, target)
                maps = maps.flip(flips) if flips else maps
                total = maps if total is None else total.add_(maps)
        assert total is not None
        count = len(self.tiling.scales) * len(self.tiling.views)
        return total if count == 1 else total.div_(count)

    def _view(self, pixels: Tensor, target: tuple[int, int]) -> Tensor:
        """One view at one scale: q h w cosines at `target` size."""
        size = (pixels.shape[-2], pixels.shape[-1])
        boxes = tile(size, self.tiling.window, self.tiling.stride)
        if self.tiling.stitch == "features":
            return self._stitch_features(pixels, boxes, size, target)
        canvas: Canvas | None = None
        for part in self.features(pixels, boxes):
            part = self._similarity(self._edit_features(part))
            if self._direct:
                return enlarge(part.maps, target)[0]
            for maps, box in self._window_maps(part):
                canvas = canvas or Canvas(len(maps), size, maps)
                canvas.add(maps, box)
        assert canvas is not None
        return enlarge(canvas.mean()[None], target)[0]

    def _stitch_features(
        self, pixels: Tensor, boxes: tuple[Box, ...], size: tuple[int, int], target: tuple[int, int]
    ) -> Tensor:
        """`tiling.stitch = "features"`: average unit features on one patch grid, then finish the image as a whole."""
        canvas: GridCanvas | None = None
        for part in self.features(pixels, boxes):
            unit = normalise(part.maps, 1)
            canvas = canvas or GridCanvas(unit.shape[1], size, self.clip.patch, unit)
            for features, box in zip(unit, part.context.boxes, strict=True):
                canvas.add(features, box, _covered(box, part.padding))
        assert canvas is not None
        padded = (canvas.grid[0] * self.clip.patch, canvas.grid[1] * self.clip.patch)
        whole = Box(0, 0, *size)
        context = replace(part.context, pixels=pixels[None], boxes=(whole,), cls=None, preview=None, rerun=None)
        padding = (0, padded[1] - size[1], 0, padded[0] - size[0])
        part = self._similarity(self._edit_features(Part(canvas.mean()[None], context, padding, padded)))
        maps, _ = next(self._window_maps(part))
        return enlarge(maps[None], target)[0]

    def features(self, pixels: Tensor, boxes: tuple[Box, ...]) -> Iterator[Part]:
        """Batches of windows, tiled, through the encoder: b e h w, not yet edited at `features`."""
        for start in range(0, len(boxes), self.batch_size):
            batch = boxes[start : start + self.batch_size]
            windows = cut(pixels, batch)
            padding = self._padding(batch[0])
            padded = F.pad(windows, padding) if any(padding) else windows
            trace = self.clip.trace(padded)
            context = WindowContext(windows, self.text, self.logit_scale, trace, batch)
            if self.stack.acts_at("tokens"):
                tokens = self.stack.edit("tokens", trace.tokens(trace.layers), context)
                trace = trace.edited(tokens)
                context = replace(context, trace=trace)
            block = self._last_block(trace, context)
            joint = self.clip.project(block)
            context = replace(context, cls=joint[:, 0])
            yield Part(_on_grid(joint, trace.grid), context, padding, (padded.shape[-2], padded.shape[-1]))

    def _padding(self, box: Box) -> tuple[int, int, int, int]:
        """Zeros (of the normalised image) around a window up to whole patches; the odd pixel right and bottom."""
        patch = self.clip.patch
        tall, wide = -box.height % patch, -box.width % patch
        if self.tiling.pad == "none":
            return 0, 0, 0, 0
        return wide // 2, wide - wide // 2, tall // 2, tall - tall // 2

    # ------------------------------------------------------------------ SCORES → BLOCK

    def _last_block(self, trace: Trace, context: WindowContext) -> Tensor:
        """The last block under the stack's attention: b n width at the level BLOCK."""
        context = replace(context, rerun=partial(self._rerun, trace, self.stack, context))
        block = self._attend(trace, self._scores(trace), self.stack, self.stack, context)
        edited: Tensor = self.stack.edit("block", block, context)
        return edited

    def _scores(self, trace: Trace) -> Tensor:
        """The last block's own scores, t = 1: softmaxed they are its plain attention."""
        queries, keys, _ = trace.qkv(trace.layers)
        return scaled_scores(queries, keys)[None]

    def _attend(self, trace: Trace, scores: Tensor, rest: Stack, whole: Stack, context: WindowContext) -> Tensor:
        """SCORES → ATTENTION → the block's output, unedited.

        `rest` edits the scores: the whole stack, or what stands behind a stage that previews. A preview runs without
        the previewing stage (`whole` less it), so stages that preview and stages that rerun end in each other's calls.
        """
        for stage in rest:
            if hasattr(stage, "scores"):
                preview = partial(self._preview, trace, rest.after(stage), whole.without(name_of(stage)), context)
                scores = stage.scores(scores, replace(context, preview=preview))
        attention = self.stack.edit("attention", scores.softmax(-1).sum(0), context)
        return self.clip.readout(trace, attention)

    def _preview(self, trace: Trace, rest: Stack, whole: Stack, context: WindowContext, scores: Tensor) -> Tensor:
        """A stage's scores → b q h w cosines, through the stages behind it, then all attention and block edits."""
        context = replace(context, rerun=partial(self._rerun, trace, whole, context))
        block = self.stack.edit("block", self._attend(trace, scores, rest, whole, context), context)
        return self._cosines(_on_grid(self.clip.project(block), trace.grid))

    def _rerun(self, trace: Trace, whole: Stack, context: WindowContext, tokens: Tensor) -> Tensor:
        """Other tokens through the last block under the stack's attention."""
        again = trace.edited(tokens)
        return self._attend(again, self._scores(again), whole, whole, replace(context, trace=again, rerun=None))

    # ------------------------------------------------------------------ FEATURES → WINDOW

    def _edit_features(self, part: Part) -> Part:
        return replace(part, maps=self.stack.edit("features", part.maps, part.context))

    def _similarity(self, part: Part) -> Part:
        cosines = self._cosines(part.maps)
        return replace(part, maps=self.stack.edit("similarity", cosines, part.context))

    def _cosines(self, features: Tensor) -> Tensor:
        """b e h w → b q h w."""
        return torch.einsum("qe,behw->bqhw", self.text, normalise(features, 1))

    def _window_maps(self, part: Part) -> Iterator[tuple[Tensor, Box]]:
        """Each window's q H W cosines at its own pixels; one by one where no stage wants the batch."""
        boxes = part.context.boxes
        if self.stack.acts_at("window"):
            maps = enlarge_window(part.maps, boxes[0], part.padding, part.padded)
            yield from zip(self.stack.edit("window", maps, part.context), boxes, strict=True)
            return
        for one, box in zip(part.maps, boxes, strict=True):
            yield enlarge_window(one[None], box, part.padding, part.padded)[0], box

    # ------------------------------------------------------------------ LOGITS → LABELS

    def _finish_size(self, size: tuple[int, ...], working: tuple[int, int], *, capped: bool = True) -> tuple[int, int]:
        """Where logits and probabilities live: `labels.finish`, at most `labels.max_finish_pixels`."""
        if self.settings.finish == "working":
            return working
        height, width = size[0], size[1]
        excess = height * width / self.settings.max_finish_pixels
        if excess <= 1 or not capped:
            return height, width
        return max(int(height * excess**-0.5), 1), max(int(width * excess**-0.5), 1)

    def _probabilities(self, logits: Tensor) -> Tensor:
        """q h w cosines → c h w: softmax over queries at the logit scale, synonyms merged (`text.merge`)."""
        scaled = logits * self.logit_scale
        count = len(self.bank.classes)
        if self.bank.merge == "logsumexp":
            merged = [
                scaled[self._class_of == c].logsumexp(0) - np.log(int((self.bank.class_of == c).sum()))
                for c in range(count)
            ]
            return torch.stack(merged).softmax(0)
        shares = scaled.softmax(0)
        if np.array_equal(self.bank.class_of, np.arange(count)):
            return shares
        owner = self._class_of[:, None, None].expand_as(shares)
        return shares.new_zeros(count, *shares.shape[1:]).scatter_reduce_(0, owner, shares, "amax")

    def _decide(self, probabilities: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """c h w → labels (int64 H W) and confidence (H W) at image size, the probability threshold applied.

        Away from image size, the probabilities of the classes that win somewhere are lifted bilinearly, band by band,
        and decided there, so that borders stay smooth.
        """
        if probabilities.shape[1:] == size:
            confidence, labels = probabilities.max(0)
            return self._threshold(labels, confidence), confidence
        winners = torch.unique(probabilities.argmax(0))
        small = probabilities[winners]
        rows = max(1, _BAND_VALUES // (len(winners) * size[1]))
        bands = [lift_rows(small, size, top, min(top + rows, size[0])).max(0) for top in range(0, size[0], rows)]
        confidence = torch.cat([band.values for band in bands])
        labels = winners[torch.cat([band.indices for band in bands])]
        return self._threshold(labels, confidence), confidence

    def _drop_small(self, probabilities: Tensor) -> Tensor:
        """Zero every class whose share of the foreground's pixels is not above `labels.area_threshold` (SCLIP)."""
        if not self.settings.area_threshold:
            return probabilities
        count = len(self.bank.classes)
        foreground = torch.ones(count, dtype=torch.bool, device=probabilities.device)
        if self.bank.background is not None:
            foreground[self.bank.background] = False
        area = torch.bincount(probabilities.argmax(0).flatten(), minlength=count) * foreground
        small = foreground & (area <= self.settings.area_threshold * area.sum())
        return probabilities.masked_fill(small[:, None, None], 0.0)

    def _threshold(self, labels: Tensor, confidence: Tensor) -> Tensor:
        """Pixels under the run's or their class' threshold → background, else the value below_threshold."""
        background = self.bank.background
        fallback = below_threshold(len(self.bank.classes)) if background is None else background
        least: float | Tensor = self.settings.probability_threshold
        if self.bank.thresholds is not None:
            least = torch.from_numpy(self.bank.thresholds).to(confidence).clamp_min(least)[labels]
        return labels.masked_fill(confidence < least, fallback)


def _channels_first(image: UInt8Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _on_grid(joint: Tensor, grid: tuple[int, int]) -> Tensor:
    """b n e → b e h w, [CLS] dropped."""
    return joint[:, 1:].transpose(1, 2).reshape(len(joint), -1, *grid)


def _covered(box: Box, padding: tuple[int, int, int, int]) -> tuple[float, float, float, float]:
    """What a window's grid spans in the working image: (top, left, bottom, right), its padding included."""
    left, right, top, bottom = padding
    return box.top - top, box.left - left, box.top + box.height + bottom, box.left + box.width + right


def _kept(prediction: Prediction, keep: str) -> tuple[LabelMap | None, npt.NDArray[np.uint8] | None]:
    """The probability maps that the store keeps, at working size: (classes, 255 × probabilities)."""
    if keep == "none":
        return None, None
    maps = enlarge(torch.from_numpy(prediction.probabilities)[None], prediction.working_size)[0]
    if keep == "full":
        return None, _quantised(maps.numpy())
    values, classes = maps.topk(min(int(keep.removeprefix("top")), len(maps)), dim=0)
    indices: npt.NDArray[np.int64] = classes.numpy()
    small = indices.astype(np.uint8) if label_dtype(len(maps)) is np.uint8 else indices.astype(np.uint16)
    return small, _quantised(values.numpy())


def _quantised(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return np.rint(np.clip(probabilities, 0, 1) * 255).astype(np.uint8)
