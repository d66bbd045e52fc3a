"""An ordered list of stages: made by name, its order checked once, then walked level by level."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ovlabel.errors import ConfigError, StackError, unknown
from ovlabel.settings.keys import StageConfig
from ovlabel.types import LEVELS, Stage

# An attention that ignores its input makes the scores before it meaningless, wherever they stand in the list.
_FEEDS = {"attention": "scores"}


@dataclass(frozen=True)
class Stack:
    """Stages in order. Raises StackError if an edit would be lost, naming both stages and the cure."""

    stages: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        for position, stage in enumerate(self.stages):
            if not levels_of(stage):
                raise StackError(f"stage '{name_of(stage)}' acts at no level; there are {', '.join(LEVELS)}")
            for level in stage.replaces:
                self._check_replaces(position, stage, level)
            for level in getattr(stage, "rescales", ()):
                self._check_rescales(position, stage, level)

    def _check_replaces(self, position: int, stage: Stage, level: str) -> None:
        for earlier in self.stages[:position]:
            if level in levels_of(earlier):
                raise StackError(
                    f"stage '{name_of(stage)}' replaces the {level} that '{name_of(earlier)}' edits before it; "
                    f"put '{name_of(stage)}' first, or leave one of them out"
                )
        for other in self.stages:
            if _FEEDS.get(level) in levels_of(other):
                raise StackError(
                    f"stage '{name_of(stage)}' replaces the attention, so the scores of '{name_of(other)}' "
                    "would be ignored; leave one of them out"
                )

    def _check_rescales(self, position: int, stage: Stage, level: str) -> None:
        for earlier in self.stages[:position]:
            if level in levels_of(earlier) and level not in earlier.replaces:
                raise StackError(
                    f"stage '{name_of(stage)}' rescales the {level}, and with them what '{name_of(earlier)}' adds "
                    f"before it; put '{name_of(stage)}' first"
                )

    def __iter__(self) -> Iterator[Stage]:
        return iter(self.stages)

    def acts_at(self, *levels: str) -> bool:
        """Whether any stage edits one of these levels."""
        return any(level in levels_of(stage) for stage in self.stages for level in levels)

    def edit(self, level: str, value: Any, context: Any) -> Any:
        """The value after every stage that acts at this level, in order."""
        for stage in self.stages:
            if level in levels_of(stage):
                value = getattr(stage, level)(value, context)
        return value

    def begin(self, level: str, value: Any, context: Any) -> Callable[[], Any]:
        """`edit` up to a stage that works elsewhere (it has `begin`); the call waits for it and does the rest."""
        for position, stage in enumerate(self.stages):
            if level not in levels_of(stage):
                continue
            if hasattr(stage, "begin"):
                answer, rest = stage.begin(value, context), _unchecked(self.stages[position + 1 :])
                return lambda: rest.edit(level, answer(), context)
            value = getattr(stage, level)(value, context)
        return lambda: value

    @property
    def behind(self) -> int:
        """How many images may wait for a stage that works elsewhere; 0 without one."""
        return max((int(getattr(stage, "behind", 0)) for stage in self.stages), default=0)

    def after(self, stage: Stage) -> Stack:
        """The stages behind `stage` at its own level, for a preview; the check has been made already."""
        position = next(i for i, s in enumerate(self.stages) if s is stage)
        return _unchecked(self.stages[position + 1 :])

    def without(self, name: str) -> Stack:
        """The stack without one stage (an ablation)."""
        return Stack(tuple(s for s in self.stages if name_of(s) != name))


def levels_of(stage: Stage | type[Stage]) -> tuple[str, ...]:
    """The levels at which a stage acts: those it has a method for."""
    return tuple(level for level in LEVELS if callable(getattr(stage, level, None)))


def name_of(stage: Stage) -> str:
    """The stage's name in configs: its file's name."""
    return type(stage).__module__.rpartition(".")[2]


def _unchecked(stages: tuple[Stage, ...]) -> Stack:
    stack = object.__new__(Stack)
    object.__setattr__(stack, "stages", stages)
    return stack


def stage_class(name: str) -> type[Any]:
    """The one dataclass that `stages/NAME.py` defines."""
    module = importlib.import_module(f"ovlabel.stages.{name}")
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and value.__module__ == module.__name__ and dataclasses.is_dataclass(value)
    ]
    if len(found) != 1:
        raise ConfigError(f"ovlabel/stages/{name}.py must define one dataclass, not {len(found)}")
    return found[0]


def make_stage(config: StageConfig) -> Stage:
    """A stage from its config table. Raises ConfigError for an unknown field or a value of another type."""
    cls = stage_class(config.use)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    values = {name: value for name, value in config.fields if name != "optional"}
    for name, value in values.items():
        if name not in fields:
            raise ConfigError(unknown(f"key of stage '{config.use}'", name, fields))
        values[name] = _fitted(f"{config.use}.{name}", value, fields[name].default)
    stage: Stage = cls(**values)
    return stage


def _fitted(key: str, value: Any, default: Any) -> Any:
    """The value in the default's type. Raises ConfigError where it has another."""
    if isinstance(default, tuple):
        if not isinstance(value, list | tuple) or not all(type(part) is int for part in value):
            raise ConfigError(f"{key} takes a list of whole numbers such as [8, 16], not {value!r}")
        return tuple(value)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if type(default) is not type(value) and default is not dataclasses.MISSING and default is not None:
        raise ConfigError(f"{key} takes a {type(default).__name__} such as {default!r}, not {value!r}")
    return value
