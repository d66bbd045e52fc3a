"""A run's settings: the sections, the stack of stages, and how layers of them become one `Config`.

A `Config` comes from four layers, later ones winning: the defaults declared in `ovlabel.settings.sections`, a preset
file, the preset's `[protocol.<vocabulary>]` table, and the caller's overrides. Nothing here imports torch, so that a
rerun that has nothing to do stays fast.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovlabel.errors import ConfigError, ordinary, short, shown, unknown
from ovlabel.fields import LIST, check_string, declared, loose, read
from ovlabel.settings.sections import SECTIONS, EncoderConfig, LabelsConfig, StoreConfig, TextConfig, TilingConfig

__all__ = [
    "SECTIONS",
    "Config",
    "EncoderConfig",
    "LabelsConfig",
    "StageConfig",
    "StoreConfig",
    "TextConfig",
    "TilingConfig",
    "assemble",
    "flat",
    "flatten",
    "section_keys",
    "stage_names",
]

STAGES = Path(__file__).parents[1] / "stages"


@dataclass(frozen=True)
class StageConfig:
    """One stage of the stack: the name of its file in `stages/`, and the fields that are set for it.

    The field `optional = true` beside them leaves the stage out where its checkpoint can't be had.
    """

    use: str
    fields: tuple[tuple[str, Any], ...] = ()

    @property
    def optional(self) -> bool:
        """Whether a run goes on without the stage."""
        return dict(self.fields).get("optional") is True


@dataclass(frozen=True)
class Config:
    """The settings of a run. Hashable and picklable; `to_dict` and `from_dict` are JSON-safe inverses.

    Example:
        >>> import ovlabel
        >>> config = ovlabel.Config.from_dict({"tiling.short_side": 448, "stages": ["csa"]})
        >>> config.tiling.short_side, config.stages[0].use
        (448, 'csa')
        >>> ovlabel.Config.from_dict(config.to_dict()) == config
        True
    """

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    text: TextConfig = field(default_factory=TextConfig)
    tiling: TilingConfig = field(default_factory=TilingConfig)
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    stages: tuple[StageConfig, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The settings as a nested dict of plain JSON values."""
        out = dataclasses.asdict(self)
        out["stages"] = [{"use": stage.use, **dict(stage.fields)} for stage in self.stages]
        plain: dict[str, Any] = json.loads(json.dumps(out))
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        """The inverse of `to_dict`.

        Args:
            values: nested tables or dotted keys; what is missing keeps its default.

        Raises:
            ConfigError: an unknown key or stage, or a value that its key does not take.
        """
        return assemble([values])


def stage_names() -> list[str]:
    """The names of the stages: of the files in `stages/`, without those that serve one stage alone."""
    return sorted(path.stem for path in STAGES.glob("*.py") if not path.stem.startswith("_"))


def section_keys() -> list[str]:
    """The dotted keys of all sections, in the order of their declaration."""
    return [f"{section}.{one.name}" for section, cls in SECTIONS.items() for one in declared(cls)]


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A nested dict as one of dotted keys; lists are values."""
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
    """The config of layers laid over the defaults.

    Args:
        layers: nested tables or dotted keys; later layers win.

    Raises:
        ConfigError: an unknown key or stage, or a value that its key does not take.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged.update(flatten(layer))
    stages = _stages(merged.pop("stages", []))
    sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    known = set(section_keys())
    for key, value in merged.items():
        head, _, name = key.partition(".")
        if key in known:
            sections[head][name] = value
        elif name and head in stages:
            stages[head][name] = _plain(key, value)
        else:
            raise ConfigError(_unknown_key(key, stages))
    read_sections: dict[str, Any] = {section: read(cls, sections[section]) for section, cls in SECTIONS.items()}
    stack = tuple(StageConfig(use, tuple(sorted(fields.items()))) for use, fields in stages.items())
    return Config(**read_sections, stages=stack)


def _unknown_key(key: str, stages: Mapping[str, Any]) -> str:
    """The message about a key that is neither of a section nor of a stage in the stack."""
    head, dot, name = key.partition(".")
    if name and head in stage_names():
        return f"'{short(key)}': the stage '{head}' is not in the stack ({', '.join(stages) or 'empty'})"
    near = [f"{stage}.{name}" for stage in stage_names()] if dot and head not in SECTIONS else []
    return unknown("key", short(key), [*section_keys(), "stages", *near])


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
        stages[use] = {name: _plain(f"{use}.{name}", value) for name, value in fields.items()}
    return stages


def _plain(key: str, value: Any) -> Any:
    """A stage's value: plain, or a list of plain ones. The stage's declaration is read when the stage is made."""
    value = loose(value)
    parts = value if isinstance(value, tuple) else (value,)
    if len(parts) > LIST:
        raise ConfigError(f"{short(key)} has {len(parts)} values; the most is {LIST}")
    for part in parts:
        if isinstance(part, str):
            check_string(key, part)
        elif isinstance(part, int | float) and not ordinary(part):
            raise ConfigError(f"{short(key)} takes a finite number of 64 bits at the most, not {shown(part)}")
        elif part is not None and not isinstance(part, int | float):
            raise ConfigError(f"{short(key)} takes a plain value, not {shown(part)}")
    return value
