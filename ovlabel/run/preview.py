"""A few images of a folder under several settings, before a long run: the encoder runs once an image where it can."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ovlabel.errors import ConfigError, ImageError
from ovlabel.evaluation.ablation import CachedTraces
from ovlabel.model.load import load_clip
from ovlabel.pictures.overlay import overlay
from ovlabel.pictures.read import decode, read_file
from ovlabel.pictures.sheet import titled_sheet
from ovlabel.run.listing import list_images
from ovlabel.settings.keys import Config
from ovlabel.settings.sections import EncoderConfig
from ovlabel.spine.build import build
from ovlabel.spine.segmenter import Segmenter
from ovlabel.text.vocabulary import Vocabulary, load_vocabulary
from ovlabel.types import Encoder, Trace, UInt8Image


class SharedEncoder(CachedTraces):
    """An encoder that several variants share, which also knows what each of them would have cost alone.

    Attributes:
        asked: seconds of all that was asked for, whether it was computed or known.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder)
        self.asked = 0.0
        self._costs: list[float] = []

    def trace(self, windows: Tensor) -> Trace:
        """As `CachedTraces.trace`."""
        at, before = self._next, self.seconds
        trace = super().trace(windows)
        if self.seconds > before:
            self._costs[at:] = [self.seconds - before]
        self.asked += self._costs[at]
        return trace


@dataclass
class Variant:
    """One way of annotating, and what it cost.

    Attributes:
        name: how it is called on the sheet.
        segmenter: its segmenter.
        encoder: the encoder of the segmenter.
        vocabulary: its classes.
        seconds: of every image, as if it were the only variant: its share of the encoder's time included.
    """

    name: str
    segmenter: Segmenter
    encoder: SharedEncoder
    vocabulary: Vocabulary
    seconds: list[float] = field(default_factory=list)

    @property
    def mean_seconds(self) -> float:
        """Seconds an image; the first one is left out where there are others, since it warms everything up."""
        return float(np.mean(self.seconds[1:] or self.seconds))


def preview(
    folder: Path,
    configs: Mapping[str, Config],
    images: int = 6,
    *,
    offline: bool = False,
    on_image: Callable[[str], None] | None = None,
) -> tuple[Image.Image, list[Variant]]:
    """Annotate a few images in several ways.

    Args:
        folder: photographs, in any depth of folders.
        configs: settings by name.
        images: how many; they are spread evenly over the sorted folder.
        offline: open no connection for weights.
        on_image: called with the key of every image that is done.

    Returns:
        A sheet with a row for each image and a column for each variant, and the variants with their seconds.

    Raises:
        ConfigError: the folder holds no image that can be read, or a setting is wrong.
        WeightsError: weights that can't be had.
    """
    variants = _variants(configs, offline)
    rows = []
    for key, image in _spread(folder, images):
        rows.append([Image.fromarray(image), *_annotated(image, variants)])
        if on_image:
            on_image(key)
    titles = ["photograph", *(f"{v.name}\n{v.mean_seconds:.2f} s an image" for v in variants)]
    return titled_sheet(titles, rows), variants


def _variants(configs: Mapping[str, Config], offline: bool) -> list[Variant]:
    """A segmenter for each of the settings; those with the same encoder share it."""
    encoders: dict[EncoderConfig, SharedEncoder] = {}
    variants = []
    for name, config in configs.items():
        if config.encoder not in encoders:
            encoders[config.encoder] = SharedEncoder(load_clip(config.encoder, offline=offline))
        encoder = encoders[config.encoder]
        segmenter = build(config, encoder=encoder, offline=offline)
        variants.append(Variant(name, segmenter, encoder, load_vocabulary(config.text.vocabulary)))
    return variants


def _spread(folder: Path, images: int) -> list[tuple[str, UInt8Image]]:
    """Some images of a folder, spread evenly; those that can't be read are passed over."""
    items = list_images(folder)
    chosen = [items[i] for i in sorted({round(i) for i in np.linspace(0, len(items) - 1, images)})] if items else []
    found = []
    for item in chosen:
        try:
            found.append((item.key, decode(read_file(item.path)[0])))
        except ImageError:
            continue
    if not found:
        raise ConfigError(f"{folder} holds no image that can be read" if items else f"no images in {folder}")
    return found


def _annotated(image: UInt8Image, variants: list[Variant]) -> list[Image.Image]:
    """The image under every variant; windows that several of them cut alike are encoded once."""
    pictures = []
    for variant in variants:
        variant.encoder.forget()
    for variant in variants:
        encoder = variant.encoder
        encoder.rewind()
        begun, spent, asked = time.perf_counter(), encoder.seconds, encoder.asked
        prediction = variant.segmenter(image)
        own = time.perf_counter() - begun - (encoder.seconds - spent)
        variant.seconds.append(own + encoder.asked - asked)
        names = [entry.name for entry in variant.vocabulary.classes]
        pictures.append(overlay(image, prediction.labels, names, list(variant.vocabulary.colours)))
    return pictures
