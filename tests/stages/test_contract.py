"""What every stage must be, found by walking `stages/`: a new file is under contract at once."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from ovlabel.fields import declared
from ovlabel.ops import scaled_scores
from ovlabel.settings.keys import StageConfig, stage_names
from ovlabel.spine.stack import make_stage, stage_class
from ovlabel.types import LEVELS, ImageContext, WindowContext
from tests.stages.conftest import drawn

IN_A_WINDOW = LEVELS[: LEVELS.index("window") + 1]


@pytest.fixture(params=stage_names())
def stage(request: pytest.FixtureRequest, loftup_file: Path) -> Any:
    own = {
        "loftup": {"checkpoint": str(loftup_file)},
        "cliptrase": {"radius": 5.0},
    }  # else nothing clusters in 15 patches
    return make_stage(StageConfig(request.param, tuple(own.get(request.param, {}).items())))


def plain(context: WindowContext, image: ImageContext) -> dict[str, torch.Tensor]:
    """A value at each level: in a window what the plain model has there, of the image random maps."""
    trace = context.trace
    queries, keys, values = trace.qkv(trace.layers)
    scores = (queries * queries.shape[-1] ** -0.5 @ keys.transpose(-2, -1))[None]
    attention = scores.softmax(-1).sum(0)
    block = trace.tokens(trace.layers) + (attention @ values).transpose(1, 2).flatten(2)
    features = block[:, 1:, :16].transpose(1, 2).reshape(len(block), 16, *trace.grid)
    cosines = torch.einsum("qe,behw->bqhw", context.text, torch.nn.functional.normalize(features, dim=1))
    height, width = image.image.shape[:2]
    coarse = drawn(5, height // 8, width // 8, seed=2)[None]
    logits = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0] / 20
    probabilities = (40 * logits[:4]).softmax(0)
    labels = torch.where(drawn(height, width) > 2, 1, probabilities.argmax(0))
    window = torch.nn.functional.interpolate(cosines, scale_factor=16)
    made = (
        trace.tokens(trace.layers),
        scores,
        attention,
        block,
        features,
        cosines,
        window,
        logits,
        probabilities,
        labels,
    )
    return dict(zip(LEVELS, made, strict=True))


def run(stage: Any, context: WindowContext, image: ImageContext) -> dict[str, torch.Tensor]:
    """The stage's output at each of its levels."""
    values = plain(context, image)
    with torch.inference_mode():
        return {
            level: getattr(stage, level)(values[level].clone(), context if level in IN_A_WINDOW else image)
            for level in stage.acts_at()
        }


def test_it_is_a_frozen_dataclass_named_after_its_file(stage: Any) -> None:
    assert dataclasses.is_dataclass(stage)
    assert hash(stage) == hash(dataclasses.replace(stage))
    assert type(stage).__name__.lower() == stage.name().replace("_", "")
    for field in dataclasses.fields(stage):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(stage, field.name, None)


def test_its_repr_evaluates_back_and_it_pickles(stage: Any) -> None:
    cls = stage_class(stage.name())
    assert eval(repr(stage), {cls.__name__: cls}) == stage
    assert pickle.loads(pickle.dumps(stage)) == stage


def test_its_fields_have_defaults_and_a_config_of_them_makes_it_again(stage: Any) -> None:
    assert stage_class(stage.name())() is not None
    written = tuple((f, list(v) if isinstance(v, tuple) else v) for f, v in dataclasses.asdict(stage).items())
    assert make_stage(StageConfig(stage.name(), written)) == stage


def test_it_acts_at_known_levels_and_replaces_only_those(stage: Any) -> None:
    assert stage.acts_at()
    assert set(stage.replaces) <= set(stage.acts_at()) <= set(LEVELS)
    assert set(stage.rescales) <= set(stage.acts_at())


def test_it_has_a_source_and_documents_its_fields(stage: Any) -> None:
    text = type(stage).__doc__ or ""
    assert "Source:" in text
    assert all(field.doc and field.takes for field in declared(type(stage)).values())


def test_it_is_deterministic_and_leaves_its_input_alone(
    stage: Any, context: WindowContext, image: ImageContext
) -> None:
    before = {level: value.clone() for level, value in plain(context, image).items()}
    pixels = context.pixels.clone()
    first, second = run(stage, context, image), run(stage, context, image)
    assert all(torch.equal(first[level], second[level]) for level in first)
    assert all(torch.equal(value, before[level]) for level, value in plain(context, image).items())
    assert torch.equal(context.pixels, pixels)
    with torch.inference_mode():
        for level in set(stage.acts_at()) & set(IN_A_WINDOW):  # behind it, maps may be changed in place
            value = before[level].clone()
            getattr(stage, level)(value, context)
            assert torch.equal(value, before[level])


def test_it_does_not_see_its_batch(
    stage: Any, context: WindowContext, one_window: WindowContext, image: ImageContext
) -> None:
    both, alone = run(stage, context, image), run(stage, one_window, image)
    for level, value in alone.items():
        if level in IN_A_WINDOW:
            batch = 1 if level == "scores" else 0
            assert torch.allclose(both[level].select(batch, 1), value.select(batch, 0), atol=1e-12)


def test_removing_it_changes_something(stage: Any, context: WindowContext, image: ImageContext) -> None:
    values = plain(context, image)
    for level, value in run(stage, context, image).items():
        if level == "scores":
            value, values[level] = value.softmax(-1).sum(0), values["attention"]
        assert value.shape != values[level].shape or not torch.allclose(value, values[level], atol=1e-3)


def test_pairs_of_queries_and_keys_are_the_scores(stage: Any, context: WindowContext, image: ImageContext) -> None:
    with torch.inference_mode():
        pairs = stage.pairs(context)
        if pairs is None:
            pytest.skip("makes its scores in another way")
        products = [scaled_scores(queries, keys) for queries, keys in pairs]
    assert torch.equal(torch.stack(products), run(stage, context, image)["scores"])
