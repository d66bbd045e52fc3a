"""An ordered list of stages: made by name, its order checked once, then walked level by level."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ovlabel.errors import ConfigError, StackError, unknown
from ovlabel.fields import declared, read_field
from ovlabel.settings.keys import StageConfig
from ovlabel.stages import Stage
from ovlabel.types import LEVELS

# An attention that ignores its input makes the scores before it meaningless, wherever they stand in the list.
_FEEDS = {"attention": "scores"}


@dataclass(frozen=True)
class Stack:
    """Stages in order. Raises StackError if an edit would be lost, naming both stages and the cure."""

    stages: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        for position, stage in enumerate(self.stages):
            if not stage.acts_at():
                raise StackError(f"stage '{stage.name()}' acts at no level; there are {', '.join(LEVELS)}")
            for level in stage.replaces:
                self._check_replaces(position, stage, level)
            for level in stage.rescales:
                self._check_rescales(position, stage, level)

    def _check_replaces(self, position: int, stage: Stage, level: str) -> None:
        for earlier in self.stages[:position]:
            if level in earlier.acts_at():
                raise StackError(
                    f"stage '{stage.name()}' replaces the {level} that '{earlier.name()}' edits before it; "
                    f"put '{stage.name()}' first, or leave one of them out"
                )
        for other in self.stages:
            if _FEEDS.get(level) in other.acts_at():
                raise StackError(
                    f"stage '{stage.name()}' replaces the attention, so the scores of '{other.name()}' "
                    "would be ignored; leave one of them out"
                )

    def _check_rescales(self, position: int, stage: Stage, level: str) -> None:
        for earlier in self.stages[:position]:
            if level in earlier.acts_at() and level not in earlier.replaces:
                raise StackError(
                    f"stage '{stage.name()}' rescales the {level}, and with them what '{earlier.name()}' adds "
                    f"before it; put '{stage.name()}' first"
                )

    def __iter__(self) -> Iterator[Stage]:
        return iter(self.stages)

    def acts_at(self, *levels: str) -> bool:
        """Whether any stage edits one of these levels."""
        return any(level in stage.acts_at() for stage in self.stages for level in levels)

    def edit(self, level: str, value: Any, context: Any) -> Any:
        """The value after every stage that acts at this level, in order."""
        for stage in self.stages:
            if level in stage.acts_at():
                value = stage.edit(level, value, context)
        return value

    def begin(self, level: str, value: Any, context: Any) -> Callable[[], Any]:
        """`edit` up to a stage that works elsewhere (it has `begin`); the call waits for it and does the rest."""
        for position, stage in enumerate(self.stages):
            if level not in stage.acts_at():
                continue
            if stage.elsewhere:
                answer, rest = stage.begin(value, context), _unchecked(self.stages[position + 1 :])
                return lambda: rest.edit(level, answer(), context)
            value = stage.edit(level, value, context)
        return lambda: value

    @property
    def behind(self) -> int:
        """How many images may wait for a stage that works elsewhere; 0 without one."""
        return max((stage.behind for stage in self.stages), default=0)

    def after(self, stage: Stage) -> Stack:
        """The stages behind `stage` at its own level, for a preview; the check has been made already."""
        position = next(i for i, s in enumerate(self.stages) if s is stage)
        return _unchecked(self.stages[position + 1 :])

    def without(self, name: str) -> Stack:
        """The stack without one stage (an ablation)."""
        return Stack(tuple(s for s in self.stages if s.name() != name))


def _unchecked(stages: tuple[Stage, ...]) -> Stack:
    stack = object.__new__(Stack)
    object.__setattr__(stack, "stages", stages)
    return stack


def stage_class(name: str) -> type[Stage]:
    """The stage that `stages/NAME.py` defines. Raises ConfigError where it does not define one."""
    module = importlib.import_module(f"ovlabel.stages.{name}")
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and value.__module__ == module.__name__ and issubclass(value, Stage)
    ]
    if len(found) != 1:
        raise ConfigError(f"ovlabel/stages/{name}.py must define one subclass of Stage, not {len(found)}")
    return found[0]


def make_stage(config: StageConfig) -> Stage:
    """A stage from its table in the settings.

    Args:
        config: the stage's name, and values of its fields.

    Raises:
        ConfigError: an unknown field, a value of another type or out of its bounds.
    """
    cls = stage_class(config.use)
    known, values = declared(cls), {}
    for name, value in config.fields:
        if name == "optional":
            continue
        if name not in known:
            raise ConfigError(unknown(f"key of stage '{config.use}'", name, known))
        values[name] = read_field(f"{config.use}.{name}", known[name], value, strict=True)
    return cls(**values)
