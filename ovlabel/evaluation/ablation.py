"""What every stage of a stack adds: the whole stack and the stack without each, on the same tokens."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ovlabel.errors import StackError
from ovlabel.evaluation.class_map import ClassMap
from ovlabel.evaluation.matching import read_mask
from ovlabel.evaluation.scores import Scores
from ovlabel.evaluation.tally import Tally, with_boundaries
from ovlabel.evaluation.truth import Truth
from ovlabel.model.wrapper import EncoderWrapper
from ovlabel.pictures.read import decode, read_file
from ovlabel.settings.keys import Config
from ovlabel.spine.segmenter import Segmenter
from ovlabel.text.bank import text_bank
from ovlabel.types import Encoder, ImageItem, Trace

WHOLE, ENCODER = "(whole stack)", "(encoder)"


@dataclass(frozen=True)
class Variant:
    """A stack and what it reaches.

    Attributes:
        left_out: the stage or the option that is missing, or WHOLE.
        scores: of the images, with boundaries.
        seconds: per image, without the encoder, which all variants share.
        refused: why this stack can't be run, in which case the scores are None.
    """

    left_out: str
    scores: Scores | None
    seconds: float
    refused: str = ""


_PLAIN: dict[str, dict[str, Any]] = {  # an option, and what leaves it out
    "text.templates": {"templates": "simple"},
    "text.descriptions": {"descriptions": "", "knowledge": 0},
    "text.knowledge": {"knowledge": 0},
    "text.centring": {"centring": 0.0},
    "tiling.views": {"views": ("identity",), "view_weights": ()},
    "tiling.scales": {"scales": (1.0,), "scale_weights": ()},
}


def without_options(config: Config) -> dict[str, Config]:
    """The config without each option of text and tiling that it makes use of, by the option's key."""
    found = {}
    for key, plain in _PLAIN.items():
        section, _, name = key.partition(".")
        held = getattr(config, section)
        if getattr(held, name) != plain[name]:
            found[key] = dataclasses.replace(config, **{section: dataclasses.replace(held, **plain)})
    return found


class CachedTraces(EncoderWrapper):
    """An encoder that keeps the traces of one image: all variants cut the same windows in the same order.

    Attributes:
        seconds: spent in the encoder so far.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder)
        self.seconds = 0.0
        self._known: list[tuple[Tensor, Trace]] = []
        self._next = 0

    def forget(self) -> None:
        """Drop the traces: another image follows."""
        self._known.clear()
        self._next = 0

    def rewind(self) -> None:
        """Begin with the first trace again: another variant follows, on the same image."""
        self._next = 0

    def trace(self, windows: Tensor) -> Trace:
        """As `Encoder.trace`; windows that were traced before are not traced again."""
        if self._next < len(self._known) and torch.equal(self._known[self._next][0], windows):
            trace = self._known[self._next][1]
        else:
            begun = time.perf_counter()
            trace = self._encoder.trace(windows)
            self.seconds += time.perf_counter() - begun
            self._known[self._next :] = [(windows, trace)]
        self._next += 1
        return trace


def ablate(
    segmenter: Segmenter,
    items: Sequence[tuple[ImageItem, str]],
    truth: Truth,
    classes: ClassMap,
    on_image: Callable[[str], None] | None = None,
) -> tuple[list[Variant], float]:
    """Segment every image with the whole stack and without each of its stages; the encoder runs once a window.

    Args:
        segmenter: of the whole stack.
        items: the images, each with its mask's name.
        classes: as `class_map.map_classes` gives them.

    Returns:
        The variants, the whole stack first, and the encoder's seconds per image.

    Raises:
        TruthError, ImageError: a mask or an image that can't be used.
    """
    encoder = CachedTraces(segmenter.encoder)
    names = [WHOLE, *(stage.name() for stage in segmenter.stack)]
    made: dict[str, Segmenter | str] = {}
    for name in names:
        try:
            stack = segmenter.stack if name == WHOLE else segmenter.stack.without(name)
            made[name] = Segmenter(encoder, segmenter.bank, stack, segmenter.config, segmenter.batches.size)
        except StackError as error:
            made[name] = str(error)
    for name, config in without_options(segmenter.config).items():
        bank = text_bank(config.text, segmenter.encoder) if name.startswith("text.") else segmenter.bank
        made[name] = Segmenter(encoder, bank, segmenter.stack, config, segmenter.batches.size)
    tallies = {name: Tally(len(truth.classes)) for name, variant in made.items() if isinstance(variant, Segmenter)}
    seconds = dict.fromkeys(tallies, 0.0)
    table = classes.table()
    for item, mask in items:
        image = decode(read_file(item.path)[0])
        true = read_mask(truth, mask, item.key, image.shape[:2])
        encoder.forget()
        for name, tally in tallies.items():
            encoder.rewind()
            begun, before = time.perf_counter(), encoder.seconds
            prediction = cast(Segmenter, made[name])(image)
            seconds[name] += time.perf_counter() - begun - (encoder.seconds - before)
            tally.add(with_boundaries(true, table[prediction.labels], len(truth.classes)))
        if on_image:
            on_image(item.key)
    keys = tuple(item.key for item, _ in items)
    variants = [
        Variant(name, tallies[name].scores(truth, keys), seconds[name] / len(items))
        if name in tallies
        else Variant(name, None, 0.0, str(made[name]))
        for name in made
    ]
    return variants, encoder.seconds / len(items)
