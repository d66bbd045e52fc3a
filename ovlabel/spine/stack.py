"""An ordered list of stages: made by name, its order checked once, then walked level by level."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ovlabel.errors import ConfigError, StackError
from ovlabel.fields import read
from ovlabel.settings.keys import StageConfig
from ovlabel.stages import Stage
from ovlabel.types import LEVELS

# An attention that ignores its input makes the scores before it meaningless, wherever they stand in the list.
_FEEDS = {"attention": "scores"}


@dataclass(frozen=True)
class Stack:
    """Stages in order.

    Raises:
        StackError: an edit would be lost; the message names both stages and what to do.
    """

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
        """Refuse an edit that a later stage ignores."""
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
        """Refuse an addition that a later stage multiplies."""
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

    def edit(self, level: str, value: Tensor, context: Any) -> Tensor:
        """The value after every stage that acts at a level, in order.

        Args:
            level: one of LEVELS.
            value: the value there; `Stage` says its shape.
            context: a `WindowContext` up to the level `window`, an `ImageContext` from `logits` on.
        """
        for stage in self.stages:
            if level in stage.acts_at():
                value = _method(stage, level)(value, context)
        return value

    def begin(self, level: str, value: Tensor, context: Any) -> Callable[[], Tensor]:
        """`edit` up to the first stage that works in another process.

        Returns:
            A function that waits for that stage, lets the later ones edit what it gives, and returns the result.
        """
        for position, stage in enumerate(self.stages):
            if level not in stage.acts_at():
                continue
            if stage.in_flight:
                answer, rest = stage.begin(value, context), _unchecked(self.stages[position + 1 :])
                return lambda: rest.edit(level, answer(), context)
            value = _method(stage, level)(value, context)
        return lambda: value

    @property
    def in_flight(self) -> int:
        """How many images may wait for a stage that works in other processes; 0 without such a stage."""
        return max((stage.in_flight for stage in self.stages), default=0)

    def after(self, stage: Stage) -> Stack:
        """The stages that follow `stage`, for a preview. The order has been checked already."""
        position = next(i for i, s in enumerate(self.stages) if s is stage)
        return _unchecked(self.stages[position + 1 :])

    def without(self, name: str) -> Stack:
        """The stack without one stage, for an ablation."""
        return Stack(tuple(s for s in self.stages if s.name() != name))


def _method(stage: Stage, level: str) -> Callable[[Tensor, Any], Tensor]:
    """The method of a stage for a level."""
    methods: dict[str, Callable[[Tensor, Any], Tensor]] = {
        "tokens": stage.tokens,
        "scores": stage.scores,
        "attention": stage.attention,
        "block": stage.block,
        "features": stage.features,
        "similarity": stage.similarity,
        "window": stage.window,
        "logits": stage.logits,
        "probabilities": stage.probabilities,
        "labels": stage.labels,
    }
    return methods[level]


def _unchecked(stages: tuple[Stage, ...]) -> Stack:
    """A part of a stack whose order has been checked."""
    stack = object.__new__(Stack)
    object.__setattr__(stack, "stages", stages)
    return stack


def stage_class(name: str) -> type[Stage]:
    """The stage that `stages/NAME.py` defines.

    Raises:
        ConfigError: the file defines none, or several.
    """
    module = importlib.import_module(f"ovlabel.stages.{name}")
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and value.__module__ == module.__name__ and issubclass(value, Stage)
    ]
    if len(found) != 1 or "__dataclass_fields__" not in vars(found[0]):
        raise ConfigError(f"ovlabel/stages/{name}.py must define one frozen dataclass that derives from Stage")
    return found[0]


def make_stage(config: StageConfig) -> Stage:
    """A stage from its table in a config.

    Raises:
        ConfigError: an unknown field, a value of another type, or one out of bounds; the message names the key.
    """
    values = {name: value for name, value in config.fields if name != "optional"}
    return read(stage_class(config.use), values, strict=True)
