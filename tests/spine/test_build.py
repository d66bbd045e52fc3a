"""From a config to a segmenter, and what makes two runs the same run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ovlabel import TextBank, build, load_config
from ovlabel.errors import ConfigError, WeightsError
from ovlabel.run.identity import RunIdentity, differences
from tests.stages.conftest import loftup_tensors

WORDS = '[[class]]\nname = "cat"\nkind = "thing"\n[[class]]\nname = "grass"\nkind = "stuff"\n'


@pytest.fixture
def run_of(tiny: dict[str, Any], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The run as resolved, for a vocabulary file's content and further overrides."""

    def run(words: str = WORDS, **keys: Any) -> dict[str, Any]:
        file = tmp_path / "words.toml"
        file.write_text(words)
        overrides = {**tiny, "text.vocabulary": str(file), "text.templates": "adaptive"}
        overrides |= {key.replace("__", "."): value for key, value in keys.items()}
        config = load_config("sclip", overrides)
        return RunIdentity.read(config).resolved(build(config))

    return run


@pytest.mark.parametrize(
    "words",
    [
        WORDS + "colour = [1, 2, 3]\n",
        WORDS + 'group = "plant"\n',
        WORDS + "id = 7\n",
        'title = "mine"\n' + WORDS,
    ],
)
def test_what_changes_no_result_makes_no_other_run(words: str, run_of: Callable[..., dict[str, Any]]) -> None:
    assert run_of(words) == run_of(WORDS)


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (WORDS + "threshold = 0.5\n", "text.vocabulary.thresholds"),
        (WORDS + 'synonyms = ["lawn"]\n', "text.prompts"),
        (WORDS.replace('"stuff"', '"thing"'), "text.prompts"),
        (WORDS.replace('"cat"', '"dog"'), "text.vocabulary.classes"),
        ('[background]\nname = "background"\nqueries = ["sky"]\n' + WORDS, "text.vocabulary.background"),
    ],
)
def test_what_changes_results_is_another_run(words: str, field: str, run_of: Callable[..., dict[str, Any]]) -> None:
    found = differences(run_of(WORDS), run_of(words))
    assert any(line.startswith(f"{field}: ") for line in found)


def test_settings_that_count_and_one_that_does_not(run_of: Callable[..., dict[str, Any]]) -> None:
    plain = run_of()
    assert run_of(encoder__device="cpu") == plain
    for key, value in (
        ("encoder__weights", "random:1"),
        ("encoder__precision", "bf16"),
        ("tiling__stride", 16),
        ("labels__finish", "working"),
        ("store__probabilities", "none"),
        ("text__logit_scale", 50.0),
        ("stages", [{"use": "kk"}]),
    ):
        name = key.replace("__", ".")
        assert [line.partition(":")[0] for line in differences(plain, run_of(**{key: value}))] == [name]


def test_fields_of_a_stage_count_whether_written_or_left_to_their_default(
    run_of: Callable[..., dict[str, Any]],
) -> None:
    bare, same, other = (
        run_of(stages=["kk", {"use": "neighbours", **fields}]) for fields in ({}, {"sigma": 5.0}, {"sigma": 4.0})
    )
    assert bare == same
    assert differences(bare, other) == [
        "stages: [kk, neighbours sigma=5.0] in the store, [kk, neighbours sigma=4.0] here"
    ]


def test_the_run_is_plain_json_and_names_its_weights(run_of: Callable[..., dict[str, Any]]) -> None:
    run = run_of()
    assert json.loads(json.dumps(run)) == run
    assert run["encoder"]["weights"] == "random:0"
    assert run["encoder"]["model"]["vision_cfg"]["patch_size"] == 16
    assert len(run["encoder"]["mean"]) == 3


def test_a_bank_of_ones_own_is_told_from_another_in_everything(tiny: dict[str, Any]) -> None:
    vectors = np.random.default_rng(0).standard_normal((3, 32))
    names, kinds = ("a", "b"), ("thing", "thing")

    def run(**changes: Any) -> dict[str, Any]:
        values = {"embeddings": vectors, "class_of": [0, 0, 1], "classes": names, "kinds": kinds} | changes
        config = load_config("sclip", tiny)
        bank = TextBank(**values)
        return RunIdentity.read(config, bank).resolved(build(config, text=bank))

    plain = run()
    assert run() == plain
    for changes in (
        {"embeddings": vectors[::-1]},
        {"class_of": [0, 1, 1]},
        {"thresholds": [0.1, 0.2]},
        {"background": 0},
        {"merge": "logsumexp"},
        {"classes": ("a", "c")},
    ):
        assert differences(plain, run(**changes))


def test_files_beside_the_weights_belong_to_the_settings_as_written(tiny: dict[str, Any], tmp_path: Path) -> None:
    weights = tmp_path / "weights" / "tiny.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"not read here")
    config = load_config("sclip", {**tiny, "encoder.weights": str(weights)})
    before = RunIdentity.read(config).written
    (weights.parent / "open_clip_config.json").write_text("{}")
    assert RunIdentity.read(config).written != before


def test_weights_in_another_place_are_the_same_run(golden_model: dict[str, Any], tmp_path: Path) -> None:
    copy = shutil.copy(golden_model["encoder.weights"], tmp_path / "elsewhere.safetensors")
    bank = TextBank(np.eye(2, 64), [0, 1], ("a", "b"), ("thing", "thing"))
    runs = []
    for path in (golden_model["encoder.weights"], str(copy)):
        config = load_config("sclip", {**golden_model, "encoder.weights": path})
        runs.append(RunIdentity.read(config, bank).resolved(build(config, text=bank)))
    assert runs[0] == runs[1]
    assert len(runs[0]["encoder"]["weights"]) == 64


def test_a_device_that_is_not_there_is_refused_before_weights_are_looked_for(tiny: dict[str, Any]) -> None:
    for device in ("gpu", "meta", "cuda:99"):
        config = load_config("sclip", {**tiny, "encoder.device": device, "encoder.weights": "/nowhere.pt"})
        with pytest.raises(ConfigError, match=f"encoder.device = {device}"):
            build(config)


def test_an_optional_stage_without_its_checkpoint_is_left_out_and_said(
    tiny: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ovlabel")
    stages = [{"use": "csa"}, {"use": "loftup", "checkpoint": str(tmp_path / "loftup.bin"), "optional": True}]
    config = load_config("plain", {**tiny, "text.vocabulary": "classes:cat, grass", "stages": stages})
    made = build(config, offline=True)
    assert [stage["use"] for stage in RunIdentity.read(config).resolved(made)["stages"]] == ["csa"]
    assert "the stage 'loftup' is left out: no weights file" in caplog.text
    torch.save(loftup_tensors(32), tmp_path / "loftup.bin")
    there = RunIdentity.read(config).resolved(build(config, offline=True))["stages"]
    assert [stage["use"] for stage in there] == ["csa", "loftup"]
    shutil.move(tmp_path / "loftup.bin", tmp_path / "moved.bin")
    stages[1]["checkpoint"] = str(tmp_path / "moved.bin")
    config = load_config("plain", {**tiny, "text.vocabulary": "classes:cat, grass", "stages": stages})
    moved = RunIdentity.read(config).resolved(build(config, offline=True))["stages"]
    assert moved == there  # what is in it counts, not where it lies
    del stages[1]["optional"]
    stages[1]["checkpoint"] = "nowhere.bin"
    with pytest.raises(WeightsError, match="no weights file"):
        build(load_config("plain", {**tiny, "text.vocabulary": "classes:cat, grass", "stages": stages}), offline=True)


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ({"use": "pamr", "dilations": 8}, r"pamr\.dilations takes a list of whole numbers such as \[8, 16\], not 8"),
        ({"use": "pamr", "dilations": [1.5]}, "list of whole numbers"),
        ({"use": "crf", "prune": 1}, "crf.prune takes a bool such as True"),
    ],
)
def test_a_stages_value_of_another_type_is_refused(stage: dict[str, Any], words: str, tiny: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=words):
        build(load_config("plain", {**tiny, "stages": [stage]}))


@pytest.mark.parametrize("preset", ["resclip", "phase1", "naclip"])
def test_presets_of_many_stages_annotate(preset: str, tiny: dict[str, Any]) -> None:
    made = build(load_config(preset, {**tiny, "text.vocabulary": "classes:cat, grass, sky"}), offline=True)
    image = np.random.default_rng(0).integers(0, 255, (60, 90, 3)).astype(np.uint8)
    assert made(image).labels.shape == (60, 90)
