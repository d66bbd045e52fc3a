"""What every stage must be, found by walking `stages/`: a new file is under contract at once."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest
import torch

from ovlabel.config import StageConfig, stage_names
from ovlabel.stack import levels_of, make_stage, name_of, stage_class
from ovlabel.types import LEVELS, WindowContext


@pytest.fixture(params=stage_names())
def stage(request: pytest.FixtureRequest) -> Any:
    return make_stage(StageConfig(request.param))


def run(stage: Any, context: WindowContext) -> dict[str, torch.Tensor]:
    """The stage's output at each of its levels, from the plain model's value at that level."""
    queries, keys, _ = context.trace.qkv(context.trace.layers)
    scores = (queries * queries.shape[-1] ** -0.5 @ keys.transpose(-2, -1))[None]
    plain = {"scores": scores, "attention": scores.softmax(-1).sum(0)}
    with torch.inference_mode():
        return {level: getattr(stage, level)(plain[level].clone(), context) for level in levels_of(stage)}


def test_it_is_a_frozen_dataclass_named_after_its_file(stage: Any) -> None:
    assert dataclasses.is_dataclass(stage)
    assert hash(stage) == hash(dataclasses.replace(stage))
    assert type(stage).__name__.lower() == name_of(stage).replace("_", "")
    for field in dataclasses.fields(stage):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(stage, field.name, None)


def test_its_repr_evaluates_back_and_it_pickles(stage: Any) -> None:
    cls = stage_class(name_of(stage))
    assert eval(repr(stage), {cls.__name__: cls}) == stage
    assert pickle.loads(pickle.dumps(stage)) == stage


def test_it_acts_at_a_level_and_says_what_it_replaces(stage: Any) -> None:
    assert levels_of(stage)
    assert set(stage.replaces) <= set(levels_of(stage)) <= set(LEVELS)


def test_it_has_a_source_and_documents_its_fields(stage: Any) -> None:
    text = type(stage).__doc__ or ""
    assert "Source:" in text
    assert all(field.name in text for field in dataclasses.fields(stage))


def test_it_is_deterministic_and_leaves_its_input_alone(stage: Any, context: WindowContext) -> None:
    queries, keys, values = (x.clone() for x in context.trace.qkv(3))
    first, second = run(stage, context), run(stage, context)
    assert all(torch.equal(first[level], second[level]) for level in first)
    assert all(torch.equal(a, b) for a, b in zip((queries, keys, values), context.trace.qkv(3), strict=True))


def test_it_does_not_see_its_batch(stage: Any, context: WindowContext, one_window: WindowContext) -> None:
    both, alone = run(stage, context), run(stage, one_window)
    for level, value in alone.items():
        batch = 1 if level == "scores" else 0
        assert torch.allclose(both[level].select(batch, 1), value.select(batch, 0), atol=1e-12)


def test_removing_it_changes_something(stage: Any, context: WindowContext) -> None:
    queries, keys, _ = context.trace.qkv(3)
    plain = (queries / queries.shape[-1] ** 0.5 @ keys.transpose(-2, -1)).softmax(-1)
    for level, value in run(stage, context).items():
        changed = value.softmax(-1).sum(0) if level == "scores" else value
        assert not torch.allclose(changed, plain, atol=1e-3)
