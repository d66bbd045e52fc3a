"""From an image to labels: `Segmenter` composes the steps of this folder. Nothing is stored here.

    step          file                      value
    ───────────   ───────────────────────   ──────────────────────────────────────────────────────────
    resize        scales.py                 image → working image, the image at other scales
    cut           windows.py, views.py      → windows, in batches (batches.py), in every view
    trace         encoding.py               → TOKENS
    last block    attention.py              → SCORES → ATTENTION → BLOCK
    project       encoding.py               → FEATURES
    cosines       similarity.py             → SIMILARITY
    stitch        views.py                  → WINDOW → the whole image (cosine_maps.py, stitching.py)
    combine       combine.py                all scales and views → LOGITS, in bands of rows (bands.py)
    softmax       probabilities.py          → PROBABILITIES
    decide        finish.py                 → LABELS, and what is kept of probabilities (kept.py)
    hand out      results.py                → Prediction, or Annotation for the store

At every level (in capitals), the stages of the stack that have a method of its name edit the value, in the stack's
order (stack.py). `build.py` makes a segmenter from settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from ovlabel.settings.keys import Config
from ovlabel.spine.attention import LastBlock
from ovlabel.spine.bands import BandedMap
from ovlabel.spine.batches import Batches
from ovlabel.spine.combine import combined
from ovlabel.spine.cosine_maps import CosineMaps
from ovlabel.spine.encoding import WindowBatch, WindowEncoder
from ovlabel.spine.finish import Decision, Finish, Sink
from ovlabel.spine.kept import KeptMaps, kept_maps
from ovlabel.spine.results import annotation, prediction
from ovlabel.spine.scales import PreparedImage, Scales
from ovlabel.spine.similarity import Queries
from ovlabel.spine.stack import Stack
from ovlabel.spine.views import View, Views
from ovlabel.types import Annotation, Box, Encoder, Prediction, TextBank, UInt8Image


class Segmenter:
    """Annotates images: `segmenter(image) -> Prediction`. `ovlabel.build` makes one.

    Example:
        >>> import numpy as np, ovlabel
        >>> config = ovlabel.load_config("sclip", {"encoder.model": "demo", "text.vocabulary": "classes:ball, sky"})
        >>> segmenter = ovlabel.build(config, offline=True)  # the embedded model, which knows drawings
        >>> segmenter(np.zeros((48, 64, 3), np.uint8)).labels.shape
        (48, 64)

    Args:
        encoder: the frozen CLIP.
        bank: what is asked.
        stack: the stages.
        config: `tiling`, `labels`, `store.probabilities` and `text.logit_scale` are read.
        batch_size: windows that go through the encoder together; 0: as many as `encoder.room()` says. Results do not
            depend on it beyond rounding.
        literal: make every attention map and enlarge every window by itself, as the published code does, instead of
            fused attention and all windows at once. The values are the same up to rounding.

    Attributes:
        queries: the queries of the bank on the run's device.
        batches: how many windows go through the encoder together.

    Raises:
        StackError: a stage acts at the level WINDOW, and `tiling.enlarge = "direct"` makes no window pixels.
        ConfigError: windows under one patch without padding.
    """

    def __init__(
        self,
        encoder: Encoder,
        bank: TextBank,
        stack: Stack,
        config: Config,
        batch_size: int = 0,
        *,
        literal: bool = False,
    ) -> None:
        self.encoder, self.bank, self.stack, self.config = encoder, bank.merged(), stack, config
        self.queries = Queries.of(self.bank, encoder, config.text.logit_scale)
        self.batches = Batches(batch_size or encoder.room(), encoder.device)
        self._scales = Scales(encoder, self.bank, self.queries, stack, config)
        windows = WindowEncoder(LastBlock(encoder, stack, self.queries, literal), config.tiling.pad)
        self._views = Views(windows, config.tiling, self.batches, literal=literal)

    def __call__(self, image: UInt8Image) -> Prediction:
        """Labels, confidence and probabilities of an image: uint8, H × W × 3, RGB. Raises ValueError for others."""
        return self._prediction(self.prepare(image))

    def segment_resized(
        self, resized: UInt8Image, size: tuple[int, int], image: UInt8Image | None = None
    ) -> Prediction:
        """The prediction for an image that has been resized already.

        Args:
            resized: uint8, h × w × 3, RGB, at working size; it is not resized again.
            size: (height, width) of the labels to make: those of the original image.
            image: the original image, for other scales and for stages that read it; by default `resized`.
        """
        with torch.inference_mode():
            source = resized if image is None else image
            return self._prediction(self._scales.prepare_resized(resized, size, source))

    def annotation(self, image: UInt8Image) -> Annotation:
        """What the store keeps of `segmenter(image)`; `store.probabilities` says how much."""
        return self.begin(image)()

    @property
    def in_flight(self) -> int:
        """How many images may be begun before the first of them is finished; 0 where that gains nothing."""
        return self.stack.in_flight

    @property
    def together(self) -> int:
        """How many images are best begun at once: on a GPU, so many that their windows fill a batch."""
        if self.encoder.device.type == "cpu":
            return 1
        return max(1, self.batches.size // self._views.usual_windows)

    def begin(self, image: UInt8Image) -> Callable[[], Annotation]:
        """Begin `annotation(image)`, as far as nothing is waited for; the call waits and does the rest."""
        return self.begin_all([image])[0]

    def begin_all(self, images: Sequence[UInt8Image]) -> list[Callable[[], Annotation]]:
        """`begin` for several images, whose windows of one shape share batches; no image changes another's result."""
        return self.begin_prepared([self.prepare(image) for image in images])

    def begin_prepared(self, images: Sequence[PreparedImage]) -> list[Callable[[], Annotation]]:
        """`begin_all` for images that `prepare` has made."""
        return self.batches.fitted(partial(self._begun, images))

    def prepare(self, image: UInt8Image) -> PreparedImage:
        """An image resized and normalised, as the encoder takes it. Raises ValueError for an array of another kind."""
        with torch.inference_mode():
            return self._scales.prepare(image)

    def logits(self, scales: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Logits of an image, q × H × W at `size`, before any edit at LOGITS; `scales` as in `PreparedImage`."""
        whole = BandedMap(size[0])
        (cosines,) = self._views.cosines([scales])
        for top, band in self._combined(cosines, size):
            whole.put(top, band)
        return whole.take()

    def features(self, pixels: Tensor, boxes: tuple[Box, ...], view: str = "identity") -> Iterator[WindowBatch]:
        """Features b × e × h × w of windows, a batch at a time, before any edit at the level FEATURES.

        Args:
            pixels: an image, normalised 3 × H × W.
            boxes: its windows.
            view: how the encoder is shown them.
        """
        return self._views.features(View(pixels, view), boxes)

    def _combined(self, cosines: Iterable[CosineMaps], size: tuple[int, int]) -> Iterator[tuple[int, Tensor]]:
        return combined(cosines, self.config.tiling, size, self.queries.logit_scale)

    def _decided(self, image: PreparedImage, cosines: Iterable[CosineMaps], kept: Sink) -> Callable[[], Decision]:
        finish = Finish(image, self.stack, self.config.labels, kept)
        for top, band in self._combined(cosines, image.finish):
            finish.put(top, band)
        return finish.result()

    def _prediction(self, image: PreparedImage) -> Prediction:
        probabilities = BandedMap(image.finish[0])
        with torch.inference_mode():
            (cosines,) = self._views.cosines([image.scales])
            decision = self._decided(image, cosines, probabilities)()
            return prediction(image, decision, probabilities.take())

    def _begun(self, images: Sequence[PreparedImage]) -> list[Callable[[], Annotation]]:
        begun: list[Callable[[], Annotation]] = []
        with torch.inference_mode():
            for image, cosines in zip(images, self._views.cosines([image.scales for image in images]), strict=True):
                shape = (len(self.bank.classes), *image.finish)
                kept = kept_maps(self.config.store.probabilities, shape, image.working_size, self.encoder.device)
                begun.append(partial(self._annotation, image, self._decided(image, cosines, kept), kept))
        return begun

    def _annotation(self, image: PreparedImage, decided: Callable[[], Decision], kept: KeptMaps) -> Annotation:
        with torch.inference_mode():
            return annotation(image, decided(), kept, self.config.labels)
