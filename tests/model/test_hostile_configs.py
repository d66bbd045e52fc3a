"""Model configs from untrusted sources: a model too large for any machine is refused before it is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ovlabel.errors import ConfigError
from ovlabel.model import load as loading
from ovlabel.model.load import load_clip
from ovlabel.settings.keys import EncoderConfig
from tests.conftest import TINY_MODEL
from tests.hostile import (
    COPIES,
    mutated,
    reads_or_refuses,
    refusal,
    refused,
    written,
)

pytestmark = pytest.mark.usefixtures("no_hang")


@pytest.mark.parametrize(
    ("tower", "values"),
    [
        ("vision_cfg", {"layers": [10**9, -1, 0, True, "3", 2.5, None, 1e999]}),
        ("vision_cfg", {"width": [10**9, 10**30]}),
        ("vision_cfg", {"image_size": [10**9, [64, 10**9], [64, 64, 64], "64"]}),
        ("vision_cfg", {"patch_size": [0, 10**9]}),
        ("vision_cfg", {"mlp_ratio": [1e9, -1, float("nan"), "4"]}),
        ("vision_cfg", {"head_width": [0], "attn_pooler_queries": [10**9]}),
        ("text_cfg", {"vocab_size": [10**12], "context_length": [10**9], "heads": [0, 10**9], "width": [10**9]}),
        ("text_cfg", {"tokenizer_kwargs": [{"bpe_path": "/dev/zero"}, {"clean": "x"}, [1], {"clean": []}, "bpe"]}),
        ("text_cfg", {"tokenizer_kwargs": [{"additional_special_tokens": ["(a+)+$"]}]}),
    ],
)
def test_a_model_that_no_machine_holds_is_refused_before_it_is_made(
    tmp_path: Path, tower: str, values: dict[str, list[Any]]
) -> None:
    for key, odd in values.items():
        for value in odd:
            model = {**TINY_MODEL, tower: {**TINY_MODEL[tower], key: value}}
            assert key in refusal(tmp_path, "model config", json.dumps(model))


def test_a_model_of_sizes_that_pass_one_by_one_is_counted(tmp_path: Path) -> None:
    model = {**TINY_MODEL, "vision_cfg": {**TINY_MODEL["vision_cfg"], "width": 16384, "layers": 256}}
    assert "parameters" in refusal(tmp_path, "model config", json.dumps(model))


@pytest.mark.parametrize(
    "constants",
    [5, [1], {"mean": [float("nan")] * 3}, {"std": [0, 1, 1]}, {"mean": [1e999] * 3}, {"mean": [10**300] * 3}],
)
def test_odd_constants_are_refused(tmp_path: Path, constants: Any) -> None:
    path = written(tmp_path / "m.json", json.dumps({"model_cfg": TINY_MODEL, "preprocess_cfg": constants}))
    refused(ConfigError, lambda: load_clip(EncoderConfig(str(path), "random:0")))


def test_every_architecture_of_open_clip_may_be_written_as_a_file(tmp_path: Path) -> None:
    import open_clip

    for name in open_clip.list_models():
        path = written(tmp_path / "m.json", json.dumps(open_clip.get_model_config(name)))
        try:
            loading._model_config(str(path))
        except ConfigError as error:
            if "not a plain ViT" not in str(error) and "text tower of another library" not in str(error):
                raise


def test_mutated_model_configs_are_read_or_refused(tmp_path: Path) -> None:
    """As far as the file goes: what it describes is not made."""
    source = json.dumps({"model_cfg": TINY_MODEL, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3]}}).encode()
    path = tmp_path / "m.json"
    for seed in range(COPIES):
        path.write_bytes(mutated(source, seed))
        reads_or_refuses(ConfigError, lambda: loading._model_config(str(path)))
