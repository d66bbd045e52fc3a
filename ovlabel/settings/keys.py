"""The run's settings: one list of keys, for TOML files, `--set` and the Python API alike.

A `Config` comes from four layers, the later winning: the defaults below, a preset file, the preset's
`[protocol.<vocabulary>]` table, the caller's overrides. Standard library only: a rerun that has nothing to do
never imports torch.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ovlabel.errors import ConfigError, ordinary, short, shown, unknown

STAGES = Path(__file__).parents[1] / "stages"
EMBEDDED = Path(__file__).parents[1] / "demo" / "model"
_VALUE, _LIST = 4096, 64  # of a setting: letters, numbers in a list
_NAMES = 1_000_000  # letters of text.vocabulary = "classes:…"
_ODD_LINE, _ODD_LINES = re.compile(r"[\x00-\x1f\x7f]"), re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SIDE, _WINDOW = 16_384, 65_536  # pixels: of a short side, of a window
_LEAST, _MOST = 1e-4, 1e4  # of a factor: far beyond what single precision tells apart
_RANGE = "between 0.0001 and 10000"


class Raw(str):
    """A value as typed behind `--set key=`; the key's own type decides how it is read."""


@dataclass(frozen=True)
class EncoderConfig:
    """The frozen CLIP image tower."""

    model: str = "ViT-B-16-quickgelu"  # open_clip architecture, path to its JSON model config, or "demo"
    weights: str = "auto"  # pretrained tag, hf-hub:owner/name, file, or random:SEED; auto: the model's own
    precision: Literal["fp32", "bf16", "fp16", "fp64", "auto"] = "fp32"
    device: str = "auto"  # auto | cpu | cuda | cuda:N | mps
    last_block: Literal["full", "residual", "attention"] = "full"
    positions: Literal["clip", "open_clip"] = "clip"

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

    vocabulary: str = "coco-stuff"  # built-in name, file, or "classes:cat, dog, grass"
    templates: str = "imagenet80"  # built-in name or file
    logit_scale: float = 40.0
    merge: Literal["max", "mean", "logsumexp"] = "max"
    descriptions: str = ""  # file of sentences per class, asked beside the names
    knowledge: int = 0  # ExCEL's enrichment: clusters of all descriptions, in place of asking them; 0: off
    knowledge_temperature: float = 0.02
    centring: float = 0.0  # share of the templates' own direction that is taken away, 0 … 1


@dataclass(frozen=True)
class TilingConfig:
    """How the image is resized and cut into windows."""

    short_side: int = 336
    long_side: int = 2048  # upper bound
    window: int = 224  # 0: whole image
    stride: int = 112
    pad: Literal["center", "none"] = "center"
    enlarge: Literal["two-step", "direct"] = "two-step"
    stitch: Literal["similarity", "features"] = "similarity"
    scales: tuple[float, ...] = (1.0,)
    scale_weights: tuple[float, ...] = ()  # equal
    views: tuple[Literal["identity", "hflip", "vflip", "grey", "blur"], ...] = ("identity",)
    view_weights: tuple[float, ...] = ()  # equal
    combine: Literal["mean", "vote"] = "mean"


@dataclass(frozen=True)
class LabelsConfig:
    """From probabilities to labels."""

    probability_threshold: float = 0.0
    area_threshold: float = 0.0
    finish: Literal["working", "image"] = "image"
    max_finish_pixels: int = 2_000_000


@dataclass(frozen=True)
class StoreConfig:
    """What is kept beside the labels and the confidence."""

    probabilities: str = "top5"  # none | top1, top2, … | full


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
    """A run. Hashable and picklable; `to_dict` and `from_dict` are JSON-safe inverses."""

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
_TYPES = {f"{section}.{name}": hint for section, cls in SECTIONS.items() for name, hint in get_type_hints(cls).items()}


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
        if key in _TYPES:
            sections[head][name] = _coerce(key, _TYPES[key], value)
        elif name and head in stages:
            stages[head][name] = _field(key, value)
        elif name and head in stage_names():
            stack = ", ".join(stages) or "empty"
            raise ConfigError(f"'{short(key)}': the stage '{head}' is not in the stack ({stack})")
        else:
            raise ConfigError(unknown("key", short(key), [*_TYPES, "stages", *_stage_keys(key)]))
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
    entries = _loose(entries)
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
    """A stage's value: plain, or a list of plain ones; whether its type fits is the stage's to say."""
    value = _loose(value)
    parts = value if isinstance(value, tuple) else (value,)
    if len(parts) > _LIST:
        raise ConfigError(f"{short(key)} has {len(parts)} values; the most is {_LIST}")
    for part in parts:
        if isinstance(part, str):
            _check_string(key, part)
        elif isinstance(part, int | float) and not ordinary(part):
            raise ConfigError(f"{short(key)} takes a finite number of 64 bits at the most, not {shown(part)}")
        elif part is not None and not isinstance(part, int | float):
            raise ConfigError(f"{short(key)} takes a plain value, not {shown(part)}")
    return value


def _check_string(key: str, value: str) -> None:
    """A path or a name, on one line; the classes of "classes:…" may be written on several."""
    most, odd = (_NAMES, _ODD_LINES) if key == "text.vocabulary" else (_VALUE, _ODD_LINE)
    if len(value) > most:
        raise ConfigError(f"{short(key)} has {len(value)} letters; the most is {most}")
    if odd.search(value):
        raise ConfigError(f"{short(key)} = {shown(value)} holds a control character")


def _loose(value: Any) -> Any:
    """A value whose type only the stage knows: TOML if it reads as TOML, else the string."""
    if isinstance(value, Raw):
        try:
            value = tomllib.loads(f"v = {value}")["v"]
        except (ValueError, RecursionError):
            return str(value)
    return tuple(_loose(part) for part in value) if isinstance(value, list) and not _tables(value) else value


def _tables(values: list[Any]) -> bool:
    return any(isinstance(value, Mapping) for value in values)


def _coerce(key: str, hint: Any, value: Any) -> Any:
    """The value in the key's type, or a ConfigError that says what the key takes."""
    if get_origin(hint) is tuple:
        value = _loose(value)
        parts = value if isinstance(value, list | tuple) else [value]
        if len(parts) > _LIST:
            raise ConfigError(f"{key} has {len(parts)} values; the most is {_LIST}")
        return tuple(_coerce(key, get_args(hint)[0], part) for part in parts)
    if get_origin(hint) is Literal:
        if str(value) not in get_args(hint):
            raise ConfigError(f"{key} = {short(value)}: {unknown('value', short(value), get_args(hint))}")
        return str(value)
    if hint is str:
        if not isinstance(value, str):
            raise ConfigError(f"{key} takes a string, not {shown(value)}")
        _check_string(key, value)
        return str(value)
    value = _loose(value)
    number = int if hint is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, number) or (isinstance(value, int) and not ordinary(value)):
        raise ConfigError(f"{key} takes {'an integer' if hint is int else 'a number'}, not {shown(value)}")
    return hint(value)


def _check_values(config: Config) -> None:
    """Refuse values that have no meaning, naming the key."""
    tiling, labels = config.tiling, config.labels
    checks = [
        ("tiling.short_side", 1 <= tiling.short_side <= _SIDE, f"at least 1 pixel and at most {_SIDE}"),
        (
            "tiling.long_side",
            tiling.short_side <= tiling.long_side <= _WINDOW,
            f"at least tiling.short_side and at most {_WINDOW}",
        ),
        ("tiling.window", 0 <= tiling.window <= _WINDOW, f"0 (whole image) or more, and at most {_WINDOW}"),
        ("tiling.stride", 1 <= tiling.stride <= _WINDOW, f"at least 1 and at most {_WINDOW}"),
        (
            "tiling.stride",
            tiling.window == 0 or tiling.stride <= tiling.window,
            "at most tiling.window, or pixels are left out",
        ),
        (
            "tiling.scales",
            bool(tiling.scales) and all(0 < scale <= 16 for scale in tiling.scales),
            "one number or more between 0 and 16, as [1.0, 1.5]",
        ),
        ("tiling.views", bool(tiling.views), "one view or more"),
        ("tiling.scale_weights", _weighs(tiling.scale_weights, tiling.scales), f"one number {_RANGE} for every scale"),
        ("tiling.view_weights", _weighs(tiling.view_weights, tiling.views), f"one number {_RANGE} for every view"),
        ("text.knowledge", 0 <= config.text.knowledge <= 10_000, "0 (off) or a number of clusters, at most 10000"),
        ("text.knowledge", not config.text.knowledge or bool(config.text.descriptions), "0 without text.descriptions"),
        ("text.knowledge_temperature", _between(config.text.knowledge_temperature), _RANGE),
        ("text.centring", 0 <= config.text.centring <= 1, "between 0 and 1"),
        ("text.logit_scale", _between(config.text.logit_scale), f"positive and finite, {_RANGE}"),
        ("labels.probability_threshold", 0 <= labels.probability_threshold <= 1, "between 0 and 1"),
        ("labels.area_threshold", 0 <= labels.area_threshold <= 1, "between 0 and 1"),
        ("labels.max_finish_pixels", 1 <= labels.max_finish_pixels <= 10**9, "at least 1 and at most 1000000000"),
        (
            "store.probabilities",
            re.fullmatch(r"none|full|top[1-9][0-9]{0,4}", config.store.probabilities) is not None,
            "none, full, or top1, top2, top5, …",
        ),
    ]
    for key, good, wanted in checks:
        if not good:
            value = flat({s: dataclasses.asdict(getattr(config, s)) for s in SECTIONS})[key]
            raise ConfigError(f"{key} = {short(value)}: it must be {wanted}")
    if tiling.enlarge == "direct" and tiling.window == 0 and tiling.pad == "center":
        raise ConfigError('tiling.enlarge = "direct" stretches the whole grid: it needs tiling.pad = "none"')
    if tiling.enlarge == "direct" and tiling.window == 0 and tiling.stitch == "features":
        raise ConfigError('tiling.stitch = "features" lays its own grid: it needs tiling.enlarge = "two-step"')


def _weighs(weights: tuple[float, ...], what: tuple[Any, ...]) -> bool:
    return not weights or (len(weights) == len(what) and all(map(_between, weights)))


def _between(value: float) -> bool:
    return _LEAST <= value <= _MOST
