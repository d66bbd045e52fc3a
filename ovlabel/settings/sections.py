"""The sections of a config: every key, its bounds and what it means. How a key is declared is in `ovlabel.fields`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Len

from ovlabel.errors import ConfigError, short
from ovlabel.fields import LIST, Declared, Doc, Lines

EMBEDDED = Path(__file__).parents[1] / "demo" / "model"
_SIDE, _WINDOW = 16_384, 65_536  # pixels: of a short side, of a window
_LEAST, _MOST = 1e-4, 10_000  # of a factor: far beyond what single precision tells apart
_NAMES = 1_000_000  # letters of text.vocabulary = "classes:…"

_Weight = Annotated[float, Ge(_LEAST), Le(_MOST)]


@dataclass(frozen=True)
class EncoderConfig(Declared):
    """The frozen CLIP image tower."""

    model: Annotated[
        str,
        Doc(
            "An open_clip architecture, the path of a JSON model config, or `demo`, the embedded model. The "
            "constants of preprocessing come from it."
        ),
    ] = "ViT-B-16-quickgelu"
    weights: Annotated[
        str,
        Doc(
            "A pretrained tag of open_clip, `hf-hub:owner/name`, a file, or `random:SEED`; `auto` takes the model's "
            "own weights: the embedded file for `demo`, else the tag `openai`."
        ),
    ] = "auto"
    precision: Annotated[
        Literal["fp32", "bf16", "fp16", "fp64", "auto"],
        Doc(
            "Arithmetic of the encoder. `auto` takes bf16 where the GPU or CPU computes in it, else fp16 on a GPU "
            "and fp32 on a CPU. Softmax and cosines are never below float32. A store keeps the precision it was "
            "begun with."
        ),
    ] = "fp32"
    device: Annotated[
        str,
        Doc(
            "`auto` (CUDA, then Apple's GPU, then the CPU), `cpu`, `cuda`, `cuda:N` or `mps`. It does not count as a "
            "difference between runs."
        ),
    ] = "auto"
    last_block: Annotated[
        Literal["full", "residual", "attention"],
        Doc(
            "What of the last block is computed: all of it, no feed-forward (`residual`), or neither feed-forward "
            "nor residual (`attention`)."
        ),
    ] = "full"
    positions: Annotated[
        Literal["clip", "open_clip"],
        Doc(
            "How the positional table is resampled to another grid: bicubic with an offset of 0.1, as the published "
            "methods do (`clip`), or bicubic and antialiased (`open_clip`)."
        ),
    ] = "clip"

    @property
    def source(self) -> tuple[str, str]:
        """(model, weights) with their names resolved: "demo" is the embedded model, "auto" its file, else "openai"."""
        if self.model == "demo":
            own = EMBEDDED / "open_clip_model.safetensors"
            return str(EMBEDDED / "open_clip_config.json"), str(own) if self.weights == "auto" else self.weights
        return self.model, "openai" if self.weights == "auto" else self.weights


@dataclass(frozen=True)
class TextConfig(Declared):
    """What is asked of the model."""

    vocabulary: Annotated[
        str, Lines(_NAMES), Doc("The classes: a built-in name, a file, or `classes:cat, dog, grass`.")
    ] = "coco-stuff"
    templates: Annotated[str, Doc("The sentences around the names: a built-in name or a file.")] = "imagenet80"
    logit_scale: Annotated[
        float, Ge(_LEAST), Le(_MOST), Doc("The factor of the cosines before the softmax over queries.")
    ] = 40.0
    merge: Annotated[
        Literal["max", "mean", "logsumexp"],
        Doc(
            "How the synonyms of a class become one: `max` of their probabilities (SCLIP), `mean` of their "
            "embeddings, or `logsumexp` of their logits less the logarithm of their number."
        ),
    ] = "max"
    descriptions: Annotated[
        str, Doc("A file of sentences for each class (`ovlabel vocab describe` writes one), asked beside the names.")
    ] = ""
    knowledge: Annotated[
        int,
        Ge(0),
        Le(10_000),
        Doc(
            "ExCEL's enrichment in place of asking the descriptions: so many clusters of all of them, added to each "
            "name by likeness; 0 is off."
        ),
    ] = 0
    knowledge_temperature: Annotated[
        float,
        Ge(_LEAST),
        Le(_MOST),
        Doc("Temperature of that likeness. The paper has none (1.0), which makes it nearly the same for every class."),
    ] = 0.02
    centring: Annotated[
        float,
        Ge(0),
        Le(1),
        Doc(
            "Share of the templates' own direction that is taken away, so that classes asked with other templates "
            "can be compared."
        ),
    ] = 0.0

    def check(self) -> None:
        """The enrichment needs descriptions."""
        if self.knowledge and not self.descriptions:
            raise ConfigError(f"text.knowledge = {self.knowledge}: it must be 0 without text.descriptions")


@dataclass(frozen=True)
class TilingConfig(Declared):
    """How the image is resized and cut into windows."""

    short_side: Annotated[
        int,
        Ge(1),
        Le(_SIDE),
        Doc("The image is resized to this short side, in pixels, bilinear, bit for bit as OpenCV does."),
    ] = 336
    long_side: Annotated[int, Ge(1), Le(_WINDOW), Doc("Upper bound of the resized long side, in pixels.")] = 2048
    window: Annotated[
        int, Ge(0), Le(_WINDOW), Doc("Side of the sliding window, in pixels; 0 takes the whole image at once.")
    ] = 224
    stride: Annotated[int, Ge(1), Le(_WINDOW), Doc("Distance from one window to the next, in pixels.")] = 112
    pad: Annotated[
        Literal["center", "none"],
        Doc(
            "Windows that are not whole patches: `center` pads with zeros and cuts them off again, `none` drops the "
            "remainder and stretches the maps, as SCLIP and NACLIP do."
        ),
    ] = "center"
    enlarge: Annotated[
        Literal["two-step", "direct"],
        Doc("Whole images only: from the patch grid to working size to the image, or in one step, as SCLIP does."),
    ] = "two-step"
    stitch: Annotated[
        Literal["similarity", "features"],
        Doc("What overlapping windows average: their cosines, or their features on one patch grid of the image."),
    ] = "similarity"
    scales: Annotated[
        tuple[Annotated[float, Gt(0), Le(16)], ...],
        Len(1, LIST),
        Doc("The image is labelled at each of these multiples of the short side."),
    ] = (1.0,)
    scale_weights: Annotated[
        tuple[_Weight, ...], Len(0, LIST), Doc("The weight of each scale in the mean; empty: all alike.")
    ] = ()
    views: Annotated[
        tuple[Literal["identity", "hflip", "vflip", "grey", "blur"], ...],
        Len(1, LIST),
        Doc("Each window is encoded in each of these views: as it is, mirrored, grey or blurred (ITACLIP)."),
    ] = ("identity",)
    view_weights: Annotated[
        tuple[_Weight, ...], Len(0, LIST), Doc("The weight of each view in the mean; empty: all alike.")
    ] = ()
    combine: Annotated[
        Literal["mean", "vote"],
        Doc(
            "How scales and views become one: the mean of their cosines, turned back; or each votes for its best "
            "query, and the confidence is the share of votes."
        ),
    ] = "mean"

    def check(self) -> None:
        """Sizes and lists that belong together."""
        if self.long_side < self.short_side:
            raise ConfigError(
                f"tiling.long_side = {self.long_side}: it must be at least tiling.short_side and at most {_WINDOW}"
            )
        if self.window and self.stride > self.window:
            raise ConfigError(
                f"tiling.stride = {self.stride}: it must be at most tiling.window, or pixels are left out"
            )
        for weights, of in (("scale_weights", "scale"), ("view_weights", "view")):
            given = self.scale_weights if of == "scale" else self.view_weights
            if given and len(given) != len(self.scales if of == "scale" else self.views):
                raise ConfigError(f"tiling.{weights} = {short(given)}: it must be one number for every {of}, or empty")
        self._check_enlarge()

    def _check_enlarge(self) -> None:
        """Enlarging in one step needs one grid over the whole image, without padding."""
        if self.enlarge != "direct" or self.window:
            return
        if self.pad == "center":
            raise ConfigError('tiling.enlarge = "direct" stretches the whole grid: it needs tiling.pad = "none"')
        if self.stitch == "features":
            raise ConfigError('tiling.stitch = "features" lays its own grid: it needs tiling.enlarge = "two-step"')


@dataclass(frozen=True)
class LabelsConfig(Declared):
    """From probabilities to labels."""

    probability_threshold: Annotated[
        float,
        Ge(0),
        Le(1),
        Doc('Pixels of less probability become background, or "below threshold" in a vocabulary without background.'),
    ] = 0.0
    area_threshold: Annotated[
        float, Ge(0), Le(1), Doc("Classes whose share of the foreground is no larger are dropped (SCLIP).")
    ] = 0.0
    finish: Annotated[
        Literal["working", "image"],
        Doc("Where logits and probabilities live: at `working` size, enlarged at the end, or at `image` size."),
    ] = "image"
    max_finish_pixels: Annotated[
        int,
        Ge(1),
        Le(10**9),
        Doc("Above it, `image` falls back to that many pixels, and the summary says so."),
    ] = 2_000_000


@dataclass(frozen=True)
class StoreConfig(Declared):
    """What is kept beside the labels and the confidence."""

    probabilities: Annotated[
        str, Doc("Probability maps that are kept: `none`, the most probable classes (`top1`, `top5`, …), or `full`.")
    ] = "top5"

    def check(self) -> None:
        """The word is one of those that can be kept."""
        if re.fullmatch(r"none|full|top[1-9][0-9]{0,4}", self.probabilities) is None:
            raise ConfigError(
                f"store.probabilities = {short(self.probabilities)}: it must be none, full, or top1, top2, top5, …"
            )


SECTIONS: dict[str, type[Declared]] = {
    "encoder": EncoderConfig,
    "text": TextConfig,
    "tiling": TilingConfig,
    "labels": LabelsConfig,
    "store": StoreConfig,
}
