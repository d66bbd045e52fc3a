"""The spine: from an image to labels, one way down through the levels. Pure computation, nothing is stored.

    image ─resize→ working image ─cut→ windows ─trace→ TOKENS ─q,k,v→ SCORES ─softmax, Σt→ ATTENTION ─readout→ BLOCK
    ─ln_post, proj→ FEATURES ─cosine→ SIMILARITY ─enlarge→ WINDOW ─stitch, scales, views→ LOGITS
    ─softmax, merge synonyms→ PROBABILITIES ─thresholds, argmax→ LABELS

At every level, the stages of the stack that have a method of its name edit the value, in the stack's order. Windows
travel in batches; every reduction is per window, so a window never sees its batch mates.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NoReturn, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ovlabel.errors import ConfigError, StackError, out_of_memory
from ovlabel.model.clip import Clip, Trace
from ovlabel.ops import bands, normalise, resize, scaled_scores
from ovlabel.settings.keys import Config
from ovlabel.spine.finish import Kept, decide, drop_small, finish_size, label_map, probabilities_of, quantised
from ovlabel.spine.stack import Stack
from ovlabel.spine.windows import (
    Canvas,
    GridCanvas,
    Mosaic,
    Sheet,
    cut,
    enlarge_window,
    flipped_padding,
    seen,
    tile,
    turned,
    working_size,
)
from ovlabel.types import Annotation, Box, ImageContext, LabelMap, Prediction, TextBank, UInt8Image, WindowContext

log = logging.getLogger("ovlabel")

_T = TypeVar("_T")
_TIE = 1e-3  # what the mean cosines weigh beside votes


@dataclass(frozen=True, eq=False)
class Part:
    """One batch of windows on its way down: b e h w features, later b q h w cosines, and what stages may read."""

    maps: Tensor
    context: WindowContext


@dataclass
class _Untraced:
    """Stands for the trace once windows are stitched: there is no single one any more. Asking it raises StackError."""

    grid: tuple[int, int]
    layers: int = 0

    def _refuse(self, *_: object) -> NoReturn:
        raise StackError('a stage asks for the layers of a window, which tiling.stitch = "features" has left behind')

    tokens = qkv = attention = attended = image = read_regions = once = _refuse

    @property
    def unedited(self) -> NoReturn:
        """None either."""
        self._refuse()


@dataclass(frozen=True, eq=False)
class _Shares:
    """Probabilities c h w, where somebody wants them, and their (h, w); labels and confidence, if decided already.

    `kept`: what the store keeps of probabilities that are not there any more.
    """

    probabilities: Tensor | None
    finish: tuple[int, int]
    decided: tuple[Tensor, Tensor] | None = None
    kept: Kept | None = None


@dataclass(frozen=True, eq=False)
class _Prepared:
    """One image before the encoder: normalised 3 H W at each scale, where its logits will live, what stages read."""

    pyramid: list[Tensor]
    finish: tuple[int, int]
    size: tuple[int, int]
    context: ImageContext

    @property
    def working_size(self) -> tuple[int, int]:
        return self.context.pixels.shape[-2], self.context.pixels.shape[-1]


@dataclass(frozen=True, eq=False)
class _Decision:
    """One image's result where it was computed: labels and confidence H W, what they come from, the working size."""

    labels: Tensor
    confidence: Tensor
    shares: _Shares
    working_size: tuple[int, int]


class Segmenter:
    """Annotates images: `segmenter(image) -> Prediction`. `ovlabel.build` makes one.

    Example:
        >>> import numpy as np, ovlabel
        >>> config = ovlabel.load_config("sclip", {"encoder.model": "demo", "text.vocabulary": "classes:ball, sky"})
        >>> segmenter = ovlabel.build(config, offline=True)  # the embedded model, which knows drawings
        >>> segmenter(np.zeros((48, 64, 3), np.uint8)).labels.shape
        (48, 64)

    Args:
        clip: the encoder.
        bank: what is asked.
        stack: the stages.
        config: `tiling`, `labels`, `store.probabilities` and `text.logit_scale` are read.
        batch_size: windows that go through the encoder together; by default as many as there is room for (`Clip.room`).
            Never changes a result beyond rounding.

    Attributes:
        literal: make every map and enlarge every window by itself, as the published code does, instead of fused
            attention and all windows at once. The values are the same up to rounding.

    Raises:
        StackError: a stage acts at `window`, where `tiling.enlarge = "direct"` has no window pixels.
        ConfigError: windows under one patch without padding.
    """

    def __init__(self, clip: Clip, bank: TextBank, stack: Stack, config: Config, batch_size: int | None = None) -> None:
        self.clip, self.bank, self.stack, self.config = clip, bank.merged(), stack, config
        self.batch_size = batch_size or clip.room()
        self._together = 0  # the most windows of a batch since somebody asked
        tiling = config.tiling
        self._direct = tiling.enlarge == "direct" and tiling.window == 0
        if self._direct and stack.acts_at("window"):
            raise StackError('a stage acts at the level window, which needs tiling.enlarge = "two-step"')
        if 0 < tiling.window < clip.patch and tiling.pad == "none":
            raise ConfigError(
                f'tiling.window = {tiling.window}: under a patch of {clip.patch} it needs tiling.pad = "center"'
            )
        wide = torch.float64 if clip.dtype == torch.float64 else torch.float32
        self.literal = False
        self.text = torch.from_numpy(self.bank.embeddings).to(clip.device, wide)
        self.class_of = torch.from_numpy(self.bank.class_of).to(clip.device, torch.int64)

    def __call__(self, image: UInt8Image) -> Prediction:
        """Labels, confidence and probabilities of a uint8 H W 3 RGB image. Raises ValueError for another shape."""
        resized, size = self.resized(image)
        return self.segment_resized(resized, size, image)

    def segment_resized(
        self, resized: UInt8Image, size: tuple[int, int], image: UInt8Image | None = None
    ) -> Prediction:
        """The prediction for an image that has been resized already.

        Args:
            resized: uint8 h w 3 RGB at working size; it is not resized again.
            size: (height, width) of the labels to make: the photograph's.
            image: the photograph, for other scales and for stages that read it; by default `resized`.
        """
        with torch.inference_mode():
            prepared = self._prepared(resized, size, image)
            (sheets,) = self._seen([prepared.pyramid])
            shares = self._shares(prepared, sheets, whole=True)
            return self._prediction(self._decided(self._edited(shares, prepared.context)(), prepared))

    def annotation(self, image: UInt8Image) -> Annotation:
        """What the store keeps of `segmenter(image)`; `store.probabilities` says how much."""
        return self.begin(image)()

    @property
    def behind(self) -> int:
        """How many images may be begun before the first of them is finished; 0 where that gains nothing."""
        return self.stack.behind

    @property
    def together(self) -> int:
        """How many images are best begun at once: on a GPU, so many that their windows fill a batch."""
        if self.clip.device.type == "cpu":
            return 1
        tiling = self.config.tiling
        usual = working_size((480, 640), tiling.short_side, tiling.long_side, self.clip.patch)
        return max(1, self.batch_size // len(tile(usual, tiling.window, tiling.stride)))

    def begin(self, image: UInt8Image) -> Callable[[], Annotation]:
        """`annotation(image)` as far as nobody else is waited for; the call waits and does the rest."""
        return self.begin_all([image])[0]

    def begin_all(self, images: Sequence[UInt8Image]) -> list[Callable[[], Annotation]]:
        """`begin` for several images, whose windows of one shape share batches; they never see each other."""
        return self._fitted(lambda: self._begun(images))

    def _begun(self, images: Sequence[UInt8Image]) -> list[Callable[[], Annotation]]:
        with torch.inference_mode():
            every = [self._prepared(*self.resized(image), image) for image in images]
            begun: list[Callable[[], Annotation]] = []
            for prepared, sheets in zip(every, self._seen([prepared.pyramid for prepared in every]), strict=True):
                answer = self._edited(self._shares(prepared, sheets), prepared.context)
                begun.append(partial(self._finished, answer, prepared))
            return begun

    def _finished(self, answer: Callable[[], _Shares], prepared: _Prepared) -> Annotation:
        with torch.inference_mode():
            return self._annotation(self._decided(answer(), prepared))

    def _edited(self, shares: _Shares, context: ImageContext) -> Callable[[], _Shares]:
        """The level `probabilities`; the call waits for a stage that works elsewhere."""
        if shares.probabilities is None or not self.stack.acts_at("probabilities"):
            return lambda: shares
        answer = self.stack.begin("probabilities", shares.probabilities, context)
        return lambda: replace(shares, probabilities=answer())

    def _fitted(self, work: Callable[[], _T]) -> _T:
        """`work()`, with batches half as large each time the machine has no room for them.

        A smaller size stays for the images that follow, unless one window alone was too much: that is the image's own.
        """
        before = self.batch_size
        while True:
            self._together = 0
            try:
                return work()
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error) or self._together <= 1:
                    self.batch_size = before
                    raise
            self.batch_size = self._together // 2  # the error, and with it what its frames held, is gone by now
            if self.clip.device.type == "cuda":
                torch.cuda.empty_cache()
            log.warning("out of memory: %d windows at a time from here on", self.batch_size)

    def _annotation(self, decision: _Decision) -> Annotation:
        working = decision.working_size
        classes, probabilities = self._kept(decision.shares, working)
        labels = label_map(decision.labels, len(self.bank.classes))
        wanted = finish_size(self.config.labels, labels.shape, working, capped=False)
        return Annotation(
            labels,
            quantised(decision.confidence),
            classes,
            probabilities,
            working,
            reduced=decision.shares.finish != wanted,
        )

    def resized(self, image: UInt8Image) -> tuple[UInt8Image, tuple[int, int]]:
        """The working image, and the photograph's (height, width)."""
        image = np.asarray(image)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise ValueError(f"an image is uint8 H W 3, not {image.dtype} {image.shape}")
        size = (image.shape[0], image.shape[1])
        tiling = self.config.tiling
        return resize(image, working_size(size, tiling.short_side, tiling.long_side, self.clip.patch)), size

    def _prepared(self, resized: UInt8Image, size: tuple[int, int], image: UInt8Image | None) -> _Prepared:
        source = resized if image is None else image
        working = (resized.shape[0], resized.shape[1])
        pixels = self.pixels(resized)
        pyramid = self.pyramid(pixels, source)
        whole = resize(source, size) if self.stack.acts_at("logits", "probabilities", "labels") else source
        context = ImageContext(whole, pixels, self.bank, self.text, self.config.text.logit_scale)
        return _Prepared(pyramid, finish_size(self.config.labels, size, working), size, context)

    def pyramid(self, pixels: Tensor, source: UInt8Image) -> list[Tensor]:
        """An image at each of `tiling.scales`, normalised 3 H W: `pixels` at scale 1, else resized from `source`."""
        working = (pixels.shape[-2], pixels.shape[-1])
        return [
            pixels if scale == 1 else self.pixels(resize(source, self._scaled(working, scale)))
            for scale in self.config.tiling.scales
        ]

    def _shares(self, prepared: _Prepared, sheets: Iterator[Sheet], *, whole: bool = False) -> _Shares:
        """Not yet edited at `probabilities`. `whole`: the maps are wanted, whatever is decided along the way."""
        if self.config.tiling.combine == "mean" and not self.stack.acts_at("logits"):
            return self._by_bands(sheets, prepared, whole=whole)
        logits = self.stack.edit("logits", self._combined(sheets, prepared.finish), prepared.context)
        return _Shares(probabilities_of(logits, self.bank, prepared.context.logit_scale), prepared.finish)

    def _by_bands(self, looks: Iterator[Sheet], prepared: _Prepared, *, whole: bool) -> _Shares:
        """From cosines to probabilities, in bands of rows that stay in the cache.

        Where that is all, to labels and to what is kept, too, and no map of probabilities is ever made.
        """
        settings, finish = self.config.labels, prepared.finish
        decide_here = finish == prepared.size and not settings.area_threshold
        decide_here = decide_here and not self.stack.acts_at("probabilities")
        shares = self.text.new_empty(len(self.bank.classes), *finish) if whole or not decide_here else None
        kept = self._keeping(finish, prepared.working_size) if decide_here and not whole else None
        labels, confidence = self.class_of.new_empty(finish), self.text.new_empty(finish)
        for top, bottom, logits in self._rows(looks, finish):
            band = probabilities_of(logits, self.bank, self.config.text.logit_scale)
            if shares is not None:
                shares[:, top:bottom] = band
            if kept is not None:
                kept.put(top, band)
            if decide_here:
                size = (bottom - top, finish[1])
                labels[top:bottom], confidence[top:bottom] = decide(
                    band, size, self.bank, settings.probability_threshold
                )
        return _Shares(shares, finish, (labels, confidence) if decide_here else None, kept)

    def _keeping(self, finish: tuple[int, int], working: tuple[int, int]) -> Kept | None:
        keep = self.config.store.probabilities
        shape = (len(self.bank.classes), *finish)
        return None if keep == "none" else Kept(keep, shape, working, self.text.device)

    def _kept(self, shares: _Shares, working: tuple[int, int]) -> tuple[LabelMap | None, npt.NDArray[np.uint8] | None]:
        """Class indices and bytes for the store."""
        kept = shares.kept or self._keeping(shares.finish, working)
        if kept is None:
            return None, None
        if shares.kept is None:
            maps = _there(shares.probabilities)
            for top, bottom in bands(shares.finish[0], maps[:, 0].numel(), self._band_values):
                kept.put(top, maps[:, top:bottom])
        return kept.maps()

    @property
    def _band_values(self) -> int:
        """float32 values of a band: what a CPU's cache holds, what keeps a GPU busy."""
        return 2**18 if self.clip.device.type == "cpu" else 2**26

    def _decided(self, shares: _Shares, prepared: _Prepared) -> _Decision:
        if shares.decided is not None:
            labels, confidence = shares.decided
        else:
            settings = self.config.labels
            probabilities = drop_small(_there(shares.probabilities), self.bank, settings.area_threshold)
            labels, confidence = decide(probabilities, prepared.size, self.bank, settings.probability_threshold)
            shares = replace(shares, probabilities=probabilities)
        labels = self.stack.edit("labels", labels, prepared.context)
        return _Decision(labels, confidence, shares, prepared.working_size)

    def _prediction(self, decision: _Decision) -> Prediction:
        return Prediction(
            labels=label_map(decision.labels, len(self.bank.classes)),
            confidence=decision.confidence.float().cpu().numpy(),
            probabilities=_there(decision.shares.probabilities).float().cpu().numpy(),
            working_size=decision.working_size,
        )

    # ------------------------------------------------------------------ image → LOGITS

    def pixels(self, image: UInt8Image) -> Tensor:
        """uint8 H W 3 → normalised 3 H W on the run's device."""
        return self.clip.pixels(torch.from_numpy(np.array(image)).permute(2, 0, 1))

    def logits(self, pyramid: Sequence[Tensor], target: tuple[int, int]) -> Tensor:
        """Mean cosines q h w at `target` size over scales and views, before any edit.

        With `tiling.combine = "vote"` each scale and view votes for its best query instead; see `_voted`.

        Args:
            pyramid: 3 H W normalised, the image at each of `tiling.scales`.
        """
        (sheets,) = self._seen([pyramid])
        return self._combined(sheets, target)

    def _combined(self, looks: Iterator[Sheet], target: tuple[int, int]) -> Tensor:
        if self.config.tiling.combine == "vote":
            return self._votes(looks, target)
        total = self.text.new_empty(len(self.text), *target)
        for top, bottom, logits in self._rows(looks, target):
            total[:, top:bottom] = logits
        return total

    def _rows(self, looks: Iterator[Sheet], target: tuple[int, int]) -> Iterator[tuple[int, int, Tensor]]:
        """(top, bottom, mean cosines q h W over scales and views) of one band of rows after the other."""
        sheets, whole = self._sheets(looks)
        rows = [sheet.rows(target) for sheet in sheets]
        for top, bottom in bands(target[0], len(self.text) * target[1], self._band_values):
            logits = rows[0](top, bottom)
            for more in rows[1:]:
                logits.add_(more(top, bottom))
            yield top, bottom, logits if whole == 1 else logits.div_(whole)

    def _weighted(self, looks: Iterator[Sheet]) -> Iterator[tuple[int, Sheet, float]]:
        """(number of the scale, cosines, weight) of every scale and view."""
        tiling = self.config.tiling
        for number, more in enumerate(tiling.scale_weights or (1.0,) * len(tiling.scales)):
            for own in tiling.view_weights or (1.0,) * len(tiling.views):
                if (sheet := next(looks, None)) is not None:
                    yield number, sheet, more * own

    def _sheets(self, looks: Iterator[Sheet]) -> tuple[list[Sheet], float]:
        """Each scale's cosines, weighted, its views added up before they are enlarged; and all weights together."""
        sheets: list[Sheet] = []
        whole = 0.0
        for number, sheet, weight in self._weighted(looks):
            whole += weight
            if number < len(sheets):
                sheets[number].add(sheet, weight)
            else:
                sheet.scale(weight)
                sheets.append(sheet)
        if not sheets:
            raise ValueError("an image at one scale or more is needed")
        return sheets, whole

    def _votes(self, looks: Iterator[Sheet], target: tuple[int, int]) -> Tensor:
        """`logits` by votes of every scale and view; see `_voted`."""
        votes, mean = self.text.new_zeros(len(self.text), *target), self.text.new_zeros(len(self.text), *target)
        whole = 0.0
        for _, sheet, weight in self._weighted(looks):
            maps = sheet.at(target)
            best = maps.argmax(0, keepdim=True)
            votes.scatter_add_(0, best, torch.full_like(best, weight, dtype=votes.dtype))
            mean.add_(maps, alpha=weight)
            whole += weight
        return self._voted(mean.div_(whole), votes.div_(whole))

    def _voted(self, mean: Tensor, votes: Tensor) -> Tensor:
        """Votes q h w (shares) → logits whose softmax are the votes; where they are equal, the mean cosines decide."""
        scale = self.config.text.logit_scale
        shares = (1 - _TIE) * votes + _TIE * (scale * mean).softmax(0)
        return shares.clamp_min_(1e-12).log_().div_(scale)

    def _scaled(self, working: tuple[int, int], scale: float) -> tuple[int, int]:
        """The working size at another of `tiling.scales`."""
        return max(round(working[0] * scale), self.clip.patch), max(round(working[1] * scale), self.clip.patch)

    def _seen(self, pyramids: Sequence[Sequence[Tensor]]) -> list[Iterator[Sheet]]:
        """Of every image, its cosines at every scale in every view, scales first, still to be enlarged."""
        views, tiling = self.config.tiling.views, self.config.tiling
        every = [[(pixels, view) for pixels in pyramid for view in views] for pyramid in pyramids]
        if self._direct or self.literal or tiling.stitch == "features" or self.stack.acts_at("window"):
            return [(self._view(pixels, view) for pixels, view in looks) for looks in every]
        mosaics = iter(self._mosaics([look for looks in every for look in looks]))
        return [iter([next(mosaics) for _ in looks]) for looks in every]

    def _view(self, pixels: Tensor, view: str) -> Sheet:
        """One view at one scale, by itself: q h w cosines of the whole image."""
        size = (pixels.shape[-2], pixels.shape[-1])
        boxes = tile(size, self.config.tiling.window, self.config.tiling.stride)
        if self.config.tiling.stitch == "features":
            return Sheet(self._stitch_features(pixels, boxes, view))
        parts = (self._similarity(self._edit_features(part)) for part in self.features(pixels, boxes, view))
        if self._direct:
            return Sheet(turned(next(parts).maps[0], view))
        return self._canvas(parts, size, view)

    def _mosaics(self, looks: Sequence[tuple[Tensor, str]]) -> list[Mosaic]:
        """(pixels, view) → windows as patch maps, side by side; those of one shape and view share batches."""
        tiling = self.config.tiling
        alike: dict[tuple[str, int, int], list[tuple[int, Box]]] = {}
        made: dict[int, Mosaic] = {}
        boxes = [tile((pixels.shape[-2], pixels.shape[-1]), tiling.window, tiling.stride) for pixels, _ in looks]
        for number, (_, view) in enumerate(looks):
            for box in boxes[number]:
                alike.setdefault((view, box.height, box.width), []).append((number, box))
        for (view, *_), windows in alike.items():
            for start in range(0, len(windows), self.batch_size):
                batch = windows[start : start + self.batch_size]
                cuts = torch.cat([cut(looks[number][0], (box,)) for number, box in batch])
                part = self._part(cuts, tuple(box for _, box in batch), view)
                part = self._similarity(self._edit_features(part))
                padding, padded = flipped_padding(part.context.padding, view), part.context.pixels.shape[-2:]
                for maps, (number, box) in zip(part.maps, batch, strict=True):
                    if number not in made:
                        size = (looks[number][0].shape[-2], looks[number][0].shape[-1])
                        made[number] = Mosaic(size, boxes[number], padding, (padded[0], padded[1]))
                    made[number].put(turned(maps, view), box)
        return [made[number] for number in range(len(looks))]

    def _canvas(self, parts: Iterator[Part], size: tuple[int, int], view: str) -> Sheet:
        """Windows enlarged one by one, edited at `window`, and added up."""
        canvas: Canvas | None = None
        for part in parts:
            for maps, box in self._window_maps(part):
                canvas = canvas or Canvas(len(maps), size, maps)
                canvas.add(turned(maps, view), box)
        return Sheet(_filled(canvas).mean())

    def _stitch_features(self, pixels: Tensor, boxes: tuple[Box, ...], view: str) -> Tensor:
        """`tiling.stitch = "features"`: average unit features on one patch grid, then finish the image as a whole."""
        size, patch = (pixels.shape[-2], pixels.shape[-1]), self.clip.patch
        canvas: GridCanvas | None = None
        for part in self.features(pixels, boxes, view):
            canvas = canvas or GridCanvas(part.maps.shape[1], size, patch, part.maps)
            padding = flipped_padding(part.context.padding, view)
            for one, box in zip(part.maps, part.context.boxes, strict=True):
                canvas.add(normalise(turned(one, view), 0), box, _covered(box, padding))
        stitched = _filled(canvas).mean()[None]
        padding = (0, -size[1] % patch, 0, -size[0] % patch)
        context = WindowContext(
            pixels=F.pad(pixels, padding)[None],
            text=self.text,
            class_of=self.class_of,
            logit_scale=self.config.text.logit_scale,
            trace=_Untraced((stitched.shape[-2], stitched.shape[-1])),
            boxes=(Box(0, 0, *size),),
            padding=padding,
        )
        part = self._similarity(self._edit_features(Part(stitched, context)))
        maps, _ = next(self._window_maps(part))
        return maps

    def features(self, pixels: Tensor, boxes: tuple[Box, ...], view: str = "identity") -> Iterator[Part]:
        """Batches of windows, as a view shows them, through the encoder: b e h w, not yet edited at `features`."""
        for start in range(0, len(boxes), self.batch_size):
            batch = boxes[start : start + self.batch_size]
            yield self._part(cut(pixels, batch), batch, view)

    def _part(self, windows: Tensor, boxes: tuple[Box, ...], view: str) -> Part:
        """One batch of windows of one shape, b 3 h w, as a view shows them, through the encoder."""
        self._together = max(self._together, len(boxes))
        padding = self._padding(boxes[0])
        windows = seen(F.pad(windows, padding) if any(padding) else windows, view)
        padding = flipped_padding(padding, view)
        trace = self.clip.trace(windows)
        context = WindowContext(windows, self.text, self.class_of, self.config.text.logit_scale, trace, boxes, padding)
        if self.stack.acts_at("tokens"):
            tokens = self.stack.edit("tokens", trace.tokens(trace.layers), context)
            trace = trace.edited(tokens)
            context = replace(context, trace=trace)
        joint = self.clip.project(self._last_block(trace, context))
        return Part(_on_grid(joint, trace.grid), replace(context, cls=joint[:, 0]))

    def _padding(self, box: Box) -> tuple[int, int, int, int]:
        """Zeros (of the normalised image) around a window up to whole patches; the odd pixel right and bottom."""
        patch = self.clip.patch
        tall, wide = -box.height % patch, -box.width % patch
        if self.config.tiling.pad == "none":
            return 0, 0, 0, 0
        return wide // 2, wide - wide // 2, tall // 2, tall - tall // 2

    # ------------------------------------------------------------------ SCORES → BLOCK

    def _last_block(self, trace: Trace, context: WindowContext) -> Tensor:
        """The last block under the stack's attention: b n width at the level BLOCK."""
        context = replace(context, rerun=partial(self._rerun, trace, self.stack, context))
        pairs = self._pairs(trace, context)
        if pairs is None:
            block = self._attend(trace, self._scores(trace), self.stack, self.stack, context)
        else:
            block = self.clip.readout_of(trace, pairs)
        edited: Tensor = self.stack.edit("block", block, context)
        return edited

    def _pairs(self, trace: Trace, context: WindowContext) -> Sequence[tuple[Tensor, Tensor]] | None:
        """The queries and keys whose attention the block reads out, where no stage needs the map itself."""
        acting = [stage for stage in self.stack if {"scores", "attention"}.intersection(stage.acts_at())]
        if self.literal or len(acting) > 1:
            return None
        if acting:
            return acting[0].pairs(context)
        queries, keys, _ = trace.qkv(trace.layers)
        return ((queries, keys),)

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
            if "scores" in stage.acts_at():
                preview = partial(self._preview, trace, rest.after(stage), whole.without(stage.name()), context)
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
        context = part.context
        size = (context.pixels.shape[-2], context.pixels.shape[-1])
        if self.stack.acts_at("window"):
            maps = enlarge_window(part.maps, context.boxes[0], context.padding, size)
            yield from zip(self.stack.edit("window", maps, context), context.boxes, strict=True)
            return
        for one, box in zip(part.maps, context.boxes, strict=True):
            yield enlarge_window(one[None], box, context.padding, size)[0], box


def _on_grid(joint: Tensor, grid: tuple[int, int]) -> Tensor:
    """b n e → b e h w, [CLS] dropped."""
    return joint[:, 1:].transpose(1, 2).reshape(len(joint), -1, *grid)


def _covered(box: Box, padding: tuple[int, int, int, int]) -> tuple[float, float, float, float]:
    """What a window's grid spans in the working image: (top, left, bottom, right), its padding included."""
    left, right, top, bottom = padding
    return box.top - top, box.left - left, box.top + box.height + bottom, box.left + box.width + right


def _there(maps: Tensor | None) -> Tensor:
    if maps is None:
        raise RuntimeError("probabilities that nobody asked for")
    return maps


def _filled(canvas: _T | None) -> _T:
    if canvas is None:
        raise RuntimeError("an image without windows")
    return canvas
