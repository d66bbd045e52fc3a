"""Presets and settings from untrusted sources: values out of bounds are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ovlabel.errors import ConfigError
from ovlabel.settings.keys import Config
from ovlabel.settings.reading import load_config, setting
from ovlabel.text.vocabulary import load_vocabulary
from tests.hostile import (
    brief,
    refused,
    written,
)

pytestmark = pytest.mark.usefixtures("no_hang")


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("tiling.short_side", [0, -1, 10**7, 2**70, 1e9, "nan", True]),
        ("tiling.long_side", [10**9, -1]),
        ("tiling.window", [10**9, -1, "inf"]),
        ("tiling.stride", [10**9, 0, -5]),
        ("tiling.scales", [[1e9], [-1.0], ["nan"], ["inf"], [], [True], [1.0] * 1000, ["1e999"]]),
        ("tiling.scale_weights", [["nan"], [0.0], [1e300], [1e-300]]),
        ("tiling.view_weights", [["inf"], [-1.0]]),
        ("tiling.views", [["identity"] * 1000, ["v" * 10_000]]),
        ("text.logit_scale", ["nan", "inf", -1.0, 1e30, 1e-300, True]),
        ("text.centring", ["nan", 2.0]),
        ("text.knowledge", [10**9, -1]),
        ("text.knowledge_temperature", ["nan", "inf", 1e-300, 0]),
        ("text.templates", ["a\\u0000b", "n" * 10_000]),
        ("labels.probability_threshold", ["nan", "inf", 7, True]),
        ("labels.area_threshold", ["nan", -0.5]),
        ("labels.max_finish_pixels", [10**12, 0, -1]),
        ("store.probabilities", ["top" + "9" * 5000, "top99999999", "top-1"]),
        ("encoder.weights", ["random:" + "9" * 5000, "a\\nb"]),
        ("encoder.precision", ["p" * 10_000]),
        ("neighbours.sigma", ["nan", "inf", 2**70, 0]),
        ("neighbours.sigma", [[[1]], [1.0] * 1000, "1979-05-27"]),
        ("unknown" * 1000, [1]),
    ],
)
def test_absurd_settings_are_refused_by_name(tmp_path: Path, key: str, values: list[Any]) -> None:
    for value in values:
        bare = ("nan", "inf", "1e999", "1979-05-27")
        toml = json.dumps(value).replace("\\\\u", "\\u").replace("\\\\n", "\\n")
        for word in bare:
            toml = toml.replace(f'"{word}"', word)
        stack = '[[stages]]\nuse = "neighbours"\n' + (f"sigma = {toml}\n" if key == "neighbours.sigma" else "")
        head, _, name = key.partition(".")
        own = f"[{head}]\n{name} = {toml}\n" if name and head != "neighbours" else ""
        own = f"{key} = {toml}\n" if not name else own
        path = written(tmp_path / "p.toml", own + stack)

        def build(path: Path = path) -> None:
            from ovlabel.spine.stack import make_stage

            for stage in load_config(str(path)).stages:
                make_stage(stage)

        message = refused(ConfigError, build)
        assert key.rpartition(".")[2][:20] in message


@pytest.mark.parametrize("value", [10**5000, -(10**5000), 2**64], ids=brief)
@pytest.mark.parametrize("key", ["tiling.window", "text.logit_scale", "neighbours.sigma", "encoder.model", "stages"])
def test_a_number_too_long_to_print_is_refused(key: str, value: int) -> None:
    refused(ConfigError, lambda: load_config("naclip", {key: value}))
    refused(ConfigError, lambda: Config.from_dict({"stages": ["neighbours"], key: value}))


@pytest.mark.parametrize(
    "typed", ["[" * 5000, "9" * 5000, "0x" + "f" * 5000, "{a = 1}", "inf", "1979-05-27"], ids=brief
)
@pytest.mark.parametrize("key", ["tiling.window", "neighbours.sigma", "tiling.scales"])
def test_values_as_typed_are_held_to_the_same(key: str, typed: str) -> None:
    from ovlabel.spine.stack import make_stage

    refused(
        ConfigError, lambda: [make_stage(s) for s in load_config("naclip", dict([setting(f"{key}={typed}")])).stages]
    )


def test_classes_may_be_written_on_several_lines(tmp_path: Path) -> None:
    path = written(tmp_path / "p.toml", '[text]\nvocabulary = """classes:cat,\n  dog"""\n')
    assert [c.name for c in load_vocabulary(load_config(str(path)).text.vocabulary).classes] == ["cat", "dog"]
