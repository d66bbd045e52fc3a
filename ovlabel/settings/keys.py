"""The settings of a run: one list of keys, for TOML files, `--set` and the Python API alike.

A `Config` comes from four layers, the later winning: the defaults below, a preset file, the preset's
`[protocol.<vocabulary>]` table, the caller's overrides. torch is not imported: what type a stage's field has is checked
when the stage is made (`spine.stack.make_stage`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_doc import Doc
from annotated_types import Ge, Gt, Le, MinLen

from ovlabel.errors import ConfigError, ordinary, short, shown, unknown
from ovlabel.fields import LIST, Form, Long, check, check_text, declared, loose, read_field

STAGES = Path(__file__).parents[1] / "stages"
EMBEDDED = Path(__file__).parents[1] / "demo" / "model"
_FACTOR = "positive and finite, between 0.0001 and 10000"
Factor = Annotated[float, Ge(1e-4), Le(1e4)]  # far beyond what single precision tells apart
Share = Annotated[float, Ge(0), Le(1)]


@dataclass(frozen=True)
class EncoderConfig:
    """The frozen CLIP image tower."""

    model: Annotated[
        str, Doc("an open_clip architecture, the path of its JSON model config, or `demo`, the embedded model.")
    ] = "ViT-B-16-quickgelu"
    weights: Annotated[
        str, Doc("a pretrained tag, `hf-hub:owner/name`, a file, or `random:SEED`; `auto` takes the model's own.")
    ] = "auto"
    precision: Annotated[
        Literal["fp32", "bf16", "fp16", "fp64", "auto"],
        Doc(
            "of the encoder. `auto` is bf16 where the GPU or the CPU computes in it, else fp16 on GPUs and fp32 on "
            "CPUs. Softmax and cosines are never below float32. A store belongs to the precision it was begun with."
        ),
    ] = "fp32"
    device: Annotated[
        str, Doc("`auto` (CUDA, Apple's GPU, CPU), `cpu`, `cuda`, `cuda:N` or `mps`; it makes no other run.")
    ] = "auto"
    last_block: Annotated[
        Literal["full", "residual", "attention"],
        Doc("what is kept of the last block: all; no feed-forward; neither residual nor feed-forward."),
    ] = "full"
    positions: Annotated[
        Literal["clip", "open_clip"],
        Doc(
            "how the positional table is resampled: bicubic with 0.1 added to the sizes, as the published methods do, "
            "or bicubic and antialiased, as open_clip does."
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
class TextConfig:
    """What is asked of the model."""

    vocabulary: Annotated[
        str, Long(1_000_000), Doc("a built-in name, a file, or the classes themselves: `classes:cat, dog, grass`.")
    ] = "coco-stuff"
    templates: Annotated[str, Doc("a built-in name or a file.")] = "imagenet80"
    logit_scale: Annotated[Factor, Doc("what cosines are multiplied with before the softmax over queries.")] = 40.0
    merge: Annotated[
        Literal["max", "mean", "logsumexp"],
        Doc(
            "how synonyms become one class: the largest of their probabilities (SCLIP), the mean of their embeddings, "
            "or the logsumexp of their logits less the logarithm of their number."
        ),
    ] = "max"
    descriptions: Annotated[
        str, Doc("a file of sentences for each class (`ovlabel vocab describe` writes one), asked beside the names.")
    ] = ""
    knowledge: Annotated[
        int,
        Ge(0),
        Le(10_000),
        Doc(
            "ExCEL's enrichment: so many clusters of all descriptions, added to each name by likeness, in place of "
            "asking the descriptions; 0 is off."
        ),
    ] = 0
    knowledge_temperature: Annotated[
        Factor, Doc("of the likeness in that enrichment; the paper has none (1.0), which makes it nearly uniform.")
    ] = 0.02
    centring: Annotated[
        Share,
        Doc(
            "the share of the templates' own direction that is taken away from each embedding, so that classes asked "
            "with other templates stand at one height."
        ),
    ] = 0.0


@dataclass(frozen=True)
class TilingConfig:
    """How the image is resized and cut into windows."""

    short_side: Annotated[
        int, Ge(1), Le(16_384), Doc("pixels of the short side to which the image is resized, as OpenCV does it.")
    ] = 336
    long_side: Annotated[int, Ge(1), Le(65_536), Doc("the most pixels of the long side.")] = 2048
    window: Annotated[
        int, Ge(0), Le(65_536), Doc("pixels of the side of a window; 0 encodes the whole image at once.")
    ] = 224
    stride: Annotated[int, Ge(1), Le(65_536), Doc("pixels between the starts of two windows.")] = 112
    pad: Annotated[
        Literal["center", "none"],
        Doc(
            "windows that are not whole patches: pad with zeros on all sides and cut the padding off, or drop the "
            "remainder and stretch, as SCLIP and NACLIP do."
        ),
    ] = "center"
    enlarge: Annotated[
        Literal["two-step", "direct"],
        Doc("of a whole image: from the patch grid to working size to the image, or in one step (SCLIP)."),
    ] = "two-step"
    stitch: Annotated[
        Literal["similarity", "features"],
        Doc("what windows average where they overlap: cosines, or features on one patch grid of the image."),
    ] = "similarity"
    scales: Annotated[
        tuple[Annotated[float, Gt(0), Le(16)], ...],
        MinLen(1),
        Doc("the image is also encoded at these factors of the working size."),
    ] = (1.0,)
    scale_weights: Annotated[tuple[Factor, ...], Doc("of the scales; none: equal.")] = ()
    views: Annotated[
        tuple[Literal["identity", "hflip", "vflip", "grey", "blur"], ...],
        MinLen(1),
        Doc("of every window: as it is, flipped, in grey, blurred (ITACLIP); results are turned back."),
    ] = ("identity",)
    view_weights: Annotated[tuple[Factor, ...], Doc("of the views; none: equal.")] = ()
    combine: Annotated[
        Literal["mean", "vote"],
        Doc(
            "of cosines over scales and views: their mean, or a vote of each for its best query, whose share of votes "
            "is the confidence."
        ),
    ] = "mean"


@dataclass(frozen=True)
class LabelsConfig:
    """From probabilities to labels."""

    probability_threshold: Annotated[
        Share, Doc("pixels of less become background, or `below threshold` in a vocabulary without background.")
    ] = 0.0
    area_threshold: Annotated[
        Share, Doc("classes with no larger share of the foreground's pixels are dropped (SCLIP).")
    ] = 0.0
    finish: Annotated[
        Literal["working", "image"],
        Doc("the size at which logits and probabilities live; labels are lifted to image size at the end."),
    ] = "image"
    max_finish_pixels: Annotated[
        int, Ge(1), Le(1_000_000_000), Doc("above so many, `image` falls back to that many, and the summary says so.")
    ] = 2_000_000


@dataclass(frozen=True)
class StoreConfig:
    """What is kept beside the labels and the confidence."""

    probabilities: Annotated[
        str,
        Form(r"none|full|top[1-9][0-9]{0,4}", "none, full, or top1, top2, top5, …"),
        Doc("probability maps of no class, of every pixel's most probable classes, or of all."),
    ] = "top5"


@dataclass(frozen=True)
class StageConfig:
    """One stage of the stack: the name of its file in `stages/`, and the fields set for it.

    `optional = true` beside them leaves the stage out where its checkpoint can't be had.
    """

    use: str
    fields: tuple[tuple[str, Any], ...] = ()

    @property
    def optional(self) -> bool:
        """Whether a run goes on without it."""
        return dict(self.fields).get("optional") is True


@dataclass(frozen=True)
class Config:
    """The settings of a run: hashable and picklable. `ovlabel.load_config` makes one.

    Attributes:
        encoder: the frozen CLIP image tower.
        text: what is asked of the model.
        tiling: how the image is resized and cut into windows.
        labels: from probabilities to labels.
        store: what is kept beside labels and confidence.
        stages: the stack, in order.

    Raises:
        ConfigError: a value out of bounds, or one that has no meaning beside another.

    Example:
        >>> from ovlabel import Config
        >>> config = Config.from_dict({"tiling.short_side": 448})
        >>> config.tiling.short_side, Config.from_dict(config.to_dict()) == config
        (448, True)
    """

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    text: TextConfig = field(default_factory=TextConfig)
    tiling: TilingConfig = field(default_factory=TilingConfig)
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    stages: tuple[StageConfig, ...] = ()

    def __post_init__(self) -> None:
        _check_values(self)

    def to_dict(self) -> dict[str, Any]:
        """Nested dict of plain JSON values."""
        out: dict[str, Any] = {s: dataclasses.asdict(getattr(self, s)) for s in SECTIONS}
        out["stages"] = [{"use": stage.use, **dict(stage.fields)} for stage in self.stages]
        plain: dict[str, Any] = json.loads(json.dumps(out))
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        """The inverse of `to_dict`; takes dotted keys too. Raises ConfigError."""
        return assemble([values])


SECTIONS = {
    "encoder": EncoderConfig,
    "text": TextConfig,
    "tiling": TilingConfig,
    "labels": LabelsConfig,
    "store": StoreConfig,
}
FIELDS = {f"{section}.{name}": field for section, cls in SECTIONS.items() for name, field in declared(cls).items()}


def stage_names() -> list[str]:
    """Names of the files in `stages/`."""
    return sorted(p.stem for p in STAGES.glob("*.py") if not p.stem.startswith("_"))


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A nested dict as dotted keys; lists are values."""
    return dict(flatten(config))


def flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf of nested tables; lists are values. Raises ConfigError."""
    for key, value in table.items():
        if not isinstance(key, str):
            raise ConfigError(f"a key is a string, not {shown(key)}")
        if isinstance(value, Mapping) and not value:
            yield from flatten({prefix + key: None}) if prefix + key not in SECTIONS else ()
        elif isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def assemble(layers: list[Mapping[str, Any]]) -> Config:
    """Lay the layers over the defaults, later ones winning."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged.update(flatten(layer))
    stages = _stages(merged.pop("stages", []))
    sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for key, value in merged.items():
        head, _, name = key.partition(".")
        if key in FIELDS:
            sections[head][name] = read_field(key, FIELDS[key], value)
        elif name and head in stages:
            stages[head][name] = _field(key, value)
        elif name and head in stage_names():
            stack = ", ".join(stages) or "empty"
            raise ConfigError(f"'{short(key)}': the stage '{head}' is not in the stack ({stack})")
        else:
            raise ConfigError(unknown("key", short(key), [*FIELDS, "stages", *_stage_keys(key)]))
    return Config(
        **{section: cls(**sections[section]) for section, cls in SECTIONS.items()},
        stages=tuple(StageConfig(use, tuple(sorted(f.items()))) for use, f in stages.items()),
    )


def _stage_keys(key: str) -> list[str]:
    """For messages: the key, with each stage's name in place of its head."""
    head, dot, field_name = key.partition(".")
    return [f"{name}.{field_name}" for name in stage_names()] if dot and head not in SECTIONS else []


def _stages(entries: Any) -> dict[str, dict[str, Any]]:
    """The stack as {name: fields}; entries are names or tables with `use`."""
    entries = loose(entries)
    if not isinstance(entries, list | tuple):
        raise ConfigError(f"stages must be a list of tables with 'use', not {shown(entries)}")
    stages: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if not isinstance(entry, str | Mapping):
            raise ConfigError(f"a stage is a table with 'use', or its name, not {shown(entry)}")
        fields = {"use": entry} if isinstance(entry, str) else dict(entry)
        use = fields.pop("use", None)
        if use not in stage_names():
            raise ConfigError(unknown("stage", short(use), stage_names()))
        if use in stages:
            raise ConfigError(f"stage '{use}' is in the stack twice; its fields could not be told apart")
        stages[use] = {name: _field(f"{use}.{name}", value) for name, value in fields.items()}
    return stages


def _field(key: str, value: Any) -> Any:
    """A stage's value: plain, or a list of plain ones; whether its type fits is checked when the stage is made."""
    value = loose(value)
    parts = value if isinstance(value, tuple) else (value,)
    if len(parts) > LIST:
        raise ConfigError(f"{short(key)} has {len(parts)} values; the most is {LIST}")
    for part in parts:
        if isinstance(part, str):
            check_text(key, part)
        elif isinstance(part, int | float) and not ordinary(part):
            raise ConfigError(f"{short(key)} takes a finite number of 64 bits at the most, not {shown(part)}")
        elif part is not None and not isinstance(part, int | float):
            raise ConfigError(f"{short(key)} takes a plain value, not {shown(part)}")
    return value


def _check_values(config: Config) -> None:
    """Refuse values out of bounds, and values that have no meaning beside each other."""
    for section in SECTIONS:
        check(getattr(config, section), section)
    tiling, clusters, said = config.tiling, config.text.knowledge, config.text.descriptions
    least, few = tiling.short_side, f"one number {_FACTOR} for every"
    checks = [
        ("tiling.long_side", tiling.long_side, tiling.long_side >= least, "at least tiling.short_side"),
        (
            "tiling.stride",
            tiling.stride,
            tiling.window == 0 or tiling.stride <= tiling.window,
            "at most tiling.window, or pixels are left out",
        ),
        ("tiling.scale_weights", tiling.scale_weights, _fit(tiling.scale_weights, tiling.scales), f"{few} scale"),
        ("tiling.view_weights", tiling.view_weights, _fit(tiling.view_weights, tiling.views), f"{few} view"),
        (
            "text.knowledge",
            clusters,
            not clusters or bool(said),
            "0 without text.descriptions",
        ),
    ]
    for key, value, good, wanted in checks:
        if not good:
            raise ConfigError(f"{key} = {short(value)}: it must be {wanted}")
    if tiling.enlarge == "direct" and tiling.window == 0 and tiling.pad == "center":
        raise ConfigError('tiling.enlarge = "direct" stretches the whole grid: it needs tiling.pad = "none"')
    if tiling.enlarge == "direct" and tiling.window == 0 and tiling.stitch == "features":
        raise ConfigError('tiling.stitch = "features" lays its own grid: it needs tiling.enlarge = "two-step"')


def _fit(weights: tuple[float, ...], what: tuple[Any, ...]) -> bool:
    return not weights or len(weights) == len(what)
