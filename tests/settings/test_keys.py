"""Config: four layers, one list of keys, and errors that name what there is."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovlabel.errors import ConfigError
from ovlabel.settings.keys import Config, EncoderConfig, StageConfig, TilingConfig, flat
from ovlabel.settings.reading import load_config, preset_names, setting
from ovlabel.spine.stack import make_stage
from ovlabel.text.vocabulary import vocabulary_names


def typed(*texts: str) -> dict[str, Any]:
    return dict(setting(text) for text in texts)


# Layers


def test_each_layer_wins_over_the_one_before_it(tmp_path: Path) -> None:
    preset = tmp_path / "mine.toml"
    preset.write_text(
        'stages = ["kk"]\n[tiling]\nwindow = 160\nstride = 80\nshort_side = 320\n'
        "[protocol.voc21]\ntiling.stride = 40\ntiling.short_side = 480\n"
    )
    config = load_config(str(preset), {"text.vocabulary": "voc21", "tiling.short_side": 640})
    assert config.tiling.long_side == TilingConfig.long_side  # nobody sets it
    assert config.tiling.window == 160  # the preset
    assert config.tiling.stride == 40  # the protocol of voc21
    assert config.tiling.short_side == 640  # the caller
    assert config.stages == (StageConfig("kk"),)


def test_a_protocol_does_not_touch_other_vocabularies() -> None:
    assert load_config("sclip", {"text.vocabulary": "voc21"}).text.logit_scale == 65
    assert load_config("sclip", {"text.vocabulary": "voc20"}).text.logit_scale == 40


def test_the_protocol_follows_the_vocabulary_that_the_preset_names(tmp_path: Path) -> None:
    preset = tmp_path / "mine.toml"
    preset.write_text('[text]\nvocabulary = "voc20"\n[protocol.voc20]\ntiling.short_side = 500\n')
    assert load_config(str(preset)).tiling.short_side == 500
    assert load_config(str(preset), {"text.vocabulary": "voc21"}).tiling.short_side == TilingConfig.short_side


def test_without_a_vocabulary_the_protocol_of_the_default_one_counts() -> None:
    assert load_config("sclip").tiling.short_side == 448


@pytest.mark.parametrize("overrides", [{"text": {"vocabulary": "voc21"}}, typed("text.vocabulary=voc21")])
def test_the_protocol_follows_a_vocabulary_however_it_is_given(overrides: dict[str, Any]) -> None:
    assert load_config("sclip", overrides).text.logit_scale == 65


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_loads_for_every_vocabulary(preset: str) -> None:
    for vocabulary in vocabulary_names():
        config = load_config(preset, {"text.vocabulary": vocabulary})
        assert config.text.vocabulary == vocabulary
        assert [make_stage(stage) for stage in config.stages] or preset == "plain"


# Columns: short side, window, stride, logit scale, probability threshold, area threshold (techniques, table of 2.1).
PROTOCOLS = {
    "sclip": {
        "voc20": (336, 224, 112, 40, 0, 0),
        "voc21": (336, 224, 112, 65, 0.1, 0.1),
        "context59": (336, 224, 112, 40, 0, 0),
        "context60": (336, 224, 112, 50, 0.1, 0),
        "coco-object": (336, 224, 112, 50, 0.1, 0),
        "coco-stuff": (448, 224, 112, 40, 0, 0),
        "cityscapes": (560, 224, 112, 40, 0, 0),
        "ade20k": (336, 224, 112, 40, 0, 0),
    },
    "naclip": {
        "voc20": (336, 0, 112, 40, 0, 0),
        "voc21": (336, 0, 112, 40, 0.1, 0),
        "context59": (336, 224, 112, 40, 0, 0),
        "context60": (336, 224, 112, 40, 0.1, 0),
        "coco-object": (336, 224, 112, 40, 0.1, 0),
        "coco-stuff": (336, 224, 112, 40, 0, 0),
        "cityscapes": (560, 224, 112, 40, 0, 0),
        "ade20k": (336, 224, 112, 40, 0, 0),
    },
    "clearclip": {
        "voc20": (448, 448, 224, 50, 0, 0),
        "voc21": (448, 448, 224, 50, 0.5, 0),
        "context59": (448, 448, 224, 50, 0, 0),
        "context60": (448, 448, 224, 50, 0.15, 0),
        "coco-object": (448, 448, 224, 50, 0.4, 0),
        "coco-stuff": (448, 448, 224, 50, 0, 0),
        "cityscapes": (448, 224, 224, 50, 0, 0),
        "ade20k": (448, 448, 224, 50, 0, 0),
    },
    "pearl": {
        "voc20": (336, 0, 112, 40, 0, 0),
        "voc21": (336, 0, 112, 40, 0.1, 0),
        "context59": (336, 224, 112, 40, 0, 0),
        "context60": (336, 224, 112, 40, 0.1, 0),
        "coco-object": (336, 224, 112, 40, 0.1, 0),
        "coco-stuff": (336, 224, 112, 40, 0, 0),
        "cityscapes": (560, 224, 112, 40, 0, 0),
        "ade20k": (336, 224, 112, 40, 0, 0),
    },
}


@pytest.mark.parametrize(
    ("preset", "vocabulary", "published"), [(p, v, row) for p, rows in PROTOCOLS.items() for v, row in rows.items()]
)
def test_presets_hold_the_published_protocols(preset: str, vocabulary: str, published: tuple[float, ...]) -> None:
    config = load_config(preset, {"text.vocabulary": vocabulary})
    tiling, labels = config.tiling, config.labels
    assert published == (
        tiling.short_side,
        tiling.window,
        tiling.stride,
        config.text.logit_scale,
        labels.probability_threshold,
        labels.area_threshold,
    )
    assert tiling.long_side == 2048
    assert config.text.templates == "imagenet80"


@pytest.mark.parametrize(
    ("preset", "last_block", "stages"),
    [
        ("plain", "full", []),
        ("sclip", "full", ["csa"]),
        ("naclip", "attention", ["kk", "neighbours", "pamr"]),
        ("resclip", "attention", ["kk", "sfr", "neighbours", "rcs"]),
        ("clearclip", "attention", ["qq"]),
        ("maskclip", "attention", ["value"]),
        ("pearl", "attention", ["procrustes", "propagate"]),
    ],
)
def test_presets_rewire_the_last_block_as_published(preset: str, last_block: str, stages: list[str]) -> None:
    config = load_config(preset)
    assert config.encoder.last_block == last_block
    assert [stage.use for stage in config.stages] == stages


@pytest.mark.parametrize(
    ("vocabulary", "weight", "grid"),
    [("voc20", 0.08, 80), ("coco-stuff", 0.08, 80), ("ade20k", 0.3, 80), ("cityscapes", 0.3, 224)],
)
def test_pearl_holds_the_published_weights_and_grids(vocabulary: str, weight: float, grid: int) -> None:
    align, propagate = map(make_stage, load_config("pearl", {"text.vocabulary": vocabulary}).stages)
    assert (align.weight, propagate.grid, propagate.mode) == (weight, grid, "literal")  # type: ignore[attr-defined]


# Overrides


@pytest.mark.parametrize("overrides", [{"tiling.window": 0}, {"tiling": {"window": 0}}, typed("tiling.window=0")])
def test_overrides_are_dotted_or_nested_or_typed(overrides: dict[str, Any]) -> None:
    assert load_config("sclip", overrides).tiling.window == 0


@pytest.mark.parametrize(
    "overrides",
    [
        {"neighbours.sigma": 2.5},
        {"neighbours": {"sigma": 2.5}},
        typed("neighbours.sigma=2.5"),
        {"stages": ["kk", {"use": "neighbours", "sigma": 2.5}]},
        typed('stages=["kk", {use = "neighbours", sigma = 2.5}]'),
    ],
)
def test_a_stage_field_can_be_set(overrides: dict[str, Any]) -> None:
    config = load_config("naclip", overrides)
    assert config.stages[:2] == (StageConfig("kk"), StageConfig("neighbours", (("sigma", 2.5),)))
    assert make_stage(config.stages[1]).sigma == 2.5  # type: ignore[attr-defined]


def test_a_whole_number_serves_where_a_stage_takes_a_float() -> None:
    stage = load_config("naclip", typed("neighbours.sigma=3")).stages[1]
    sigma = make_stage(stage).sigma  # type: ignore[attr-defined]
    assert sigma == 3
    assert isinstance(sigma, float)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("text.templates=1e3", "1e3"),
        ("text.vocabulary=classes:a=b, no", "classes:a=b, no"),
        ("encoder.model = true", "true"),
        ("text.logit_scale=65", 65.0),
        ("labels.max_finish_pixels=1_000", 1000),
        ("encoder.precision=bf16", "bf16"),
        ("tiling.scales=[1.0, 0.75]", (1.0, 0.75)),
        ("tiling.scales=0.5", (0.5,)),
        ('tiling.views=["identity", "hflip"]', ("identity", "hflip")),
        ("tiling.views=hflip", ("hflip",)),
    ],
)
def test_the_type_of_the_key_decides_how_a_setting_is_read(text: str, value: Any) -> None:
    key = text.partition("=")[0].strip()
    section, name = key.split(".")
    read = getattr(getattr(load_config("plain", typed(text)), section), name)
    assert read == value
    assert type(read) is type(value)


def test_a_setting_without_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tiling.window: write it as key=value"):
        setting("tiling.window")


# Round trips

LINE = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1)
SOME = st.fixed_dictionaries(
    {},
    optional={
        "encoder.model": LINE,
        "encoder.precision": st.sampled_from(["fp32", "bf16", "fp16", "fp64"]),
        "text.vocabulary": LINE,
        "text.logit_scale": st.floats(0.001, 1000),
        "tiling.short_side": st.integers(1, 2048),
        "tiling.window": st.one_of(st.just(0), st.integers(112, 4096)),
        "tiling.scales": st.lists(st.floats(0.1, 4), min_size=1),
        "tiling.views": st.lists(st.sampled_from(["identity", "hflip", "vflip"]), min_size=1),
        "labels.probability_threshold": st.floats(0, 1),
        "store.probabilities": st.sampled_from(["none", "full", "top1", "top12"]),
        "stages": st.lists(st.sampled_from(["csa", "kk", "qq"]), unique=True),
    },
)


@settings(deadline=None, database=None)
@given(SOME)
def test_to_dict_and_from_dict_are_inverse_through_json(overrides: dict[str, Any]) -> None:
    config = load_config("plain", overrides)
    again = Config.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize("preset", preset_names())
def test_presets_survive_the_round_trip_nested_and_dotted(preset: str) -> None:
    config = load_config(preset)
    assert Config.from_dict(config.to_dict()) == config
    assert Config.from_dict(flat(config.to_dict())) == config


def test_configs_can_be_members_of_a_set() -> None:
    configs = {load_config("naclip"), load_config("naclip"), load_config("naclip", {"neighbours.sigma": 4.0})}
    assert len(configs) == 2


# Errors


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"tiling.windw": 1}, r"unknown key 'tiling.windw'; did you mean tiling.window"),
        ({"tiling": {"strides": 1}}, r"unknown key 'tiling.strides'; did you mean tiling.stride"),
        ({"encoder.precision": "fp8"}, r"encoder.precision = fp8: .*fp"),
        ({"text.merge": "maximum"}, r"text.merge = maximum: unknown value 'maximum'; did you mean max"),
        ({"tiling.views": ["identity", "flip"]}, r"tiling.views = flip: .*hflip"),
        ({"stages": ["neighbors"]}, r"unknown stage 'neighbors'; did you mean neighbours"),
        ({"stages": [{"sigma": 2}]}, r"unknown stage"),
        ({"stages": 3}, r"stages must be a list"),
        ({"stages": ["kk", "kk"]}, r"stage 'kk' is in the stack twice"),
        ({"neighbours.sigma": 2.0}, r"'neighbours.sigma': the stage 'neighbours' is not in the stack \(csa\)"),
        ({"tiling.window": "224"}, r"tiling.window takes an integer, not '224'"),
        ({"tiling.window": 224.5}, r"tiling.window takes an integer, not 224.5"),
        ({"tiling.window": True}, r"tiling.window takes an integer, not True"),
        (typed("text.logit_scale=forty"), r"text.logit_scale takes a number, not 'forty'"),
        ({"text.templates": 1e3}, r"text.templates takes a string, not 1000.0"),
        ({"tiling.stride": 0}, r"tiling.stride = 0: it must be at least 1"),
        ({"tiling.stride": 225}, r"tiling.stride = 225: it must be at most tiling.window"),
        ({"tiling.window": -1}, r"tiling.window = -1"),
        ({"tiling.short_side": 0}, r"tiling.short_side = 0"),
        ({"tiling.long_side": 100}, r"tiling.long_side = 100: it must be at least tiling.short_side"),
        ({"tiling.scales": []}, r"tiling.scales = \(\): it must be one number or more"),
        ({"tiling.scales": [1.0, 0.0]}, r"tiling.scales"),
        ({"tiling.views": []}, r"tiling.views = \(\)"),
        ({"text.logit_scale": 0}, r"text.logit_scale = 0.0: it must be positive"),
        ({"text.logit_scale": float("nan")}, r"text.logit_scale = nan"),
        ({"labels.probability_threshold": 2}, r"labels.probability_threshold = 2.0: it must be between 0 and 1"),
        ({"labels.area_threshold": -0.1}, r"labels.area_threshold = -0.1"),
        ({"labels.max_finish_pixels": 0}, r"labels.max_finish_pixels = 0"),
        ({"store.probabilities": "top0"}, r"store.probabilities = top0: it must be none, full, or top1"),
        ({"store.probabilities": "5"}, r"store.probabilities = 5"),
    ],
)
def test_a_bad_override_is_refused_by_name(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("sclip", overrides)


def test_a_whole_image_may_have_any_stride() -> None:
    assert load_config("sclip", {"tiling.window": 0, "tiling.stride": 500}).tiling.stride == 500


def test_enlarging_in_one_step_is_refused_where_it_has_no_meaning() -> None:
    whole = {"tiling.window": 0, "tiling.enlarge": "direct"}
    with pytest.raises(ConfigError, match=r"tiling.pad"):
        load_config("plain", {**whole, "tiling.pad": "center"})
    with pytest.raises(ConfigError, match=r"tiling.stitch"):
        load_config("plain", {**whole, "tiling.pad": "none", "tiling.stitch": "features"})


def test_bad_values_are_refused_in_a_config_made_by_hand() -> None:
    with pytest.raises(ConfigError, match=r"tiling.stride = 0"):
        Config(encoder=EncoderConfig(), tiling=TilingConfig(stride=0))


def test_a_stage_that_is_taken_out_takes_no_fields() -> None:
    with pytest.raises(ConfigError, match=r"'neighbours' is not in the stack \(kk\)"):
        load_config("naclip", {"stages": ["kk"], "neighbours.sigma": 2.0})


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            StageConfig("neighbours", (("sgima", 2.0),)),
            r"unknown key of stage 'neighbours' 'sgima'; did you mean sigma",
        ),
        (StageConfig("csa", (("sigma", 2.0),)), r"unknown key of stage 'csa' 'sigma'"),
        (StageConfig("neighbours", (("sigma", "wide"),)), r"neighbours.sigma takes a float such as 5.0, not 'wide'"),
        (StageConfig("neighbours", (("sigma", True),)), r"neighbours.sigma takes a float such as 5.0, not True"),
        (StageConfig("neighbours", (("sigma", 0.0),)), r"neighbours.sigma = 0.0: it must be positive"),
    ],
)
def test_a_stage_refuses_fields_it_does_not_have_and_values_of_another_type(stage: StageConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_stage(stage)


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown preset 'scilp'; did you mean sclip"):
        load_config("scilp")


def test_a_preset_file_of_ones_own_is_taken_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_text('title = "mine"\n[tiling]\nshort_side = 300\n[[stages]]\nuse = "qq"\n')
    monkeypatch.chdir(tmp_path)
    for name in ("mine.toml", "./mine.toml", str(tmp_path / "mine.toml")):
        config = load_config(name)
        assert config.tiling.short_side == 300
        assert config.stages == (StageConfig("qq"),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[tiling\nwindow = 1", r"line 1"),
        (b"[tiling]\nwindow = \nstride = 1", r"line 2"),
        (b"[tiling]\nwindow = 1\nwindow = 2", r"Cannot overwrite a value"),
        (b"title = '\xff'", r"not valid TOML"),
    ],
)
def test_broken_toml_names_the_file_and_the_place(tmp_path: Path, content: bytes, message: str) -> None:
    preset = tmp_path / "broken.toml"
    preset.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(str(preset))
    assert str(preset) in str(caught.value)


def test_a_preset_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none.toml: No such file"):
        load_config(str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"stages": [1]}, "a stage is a table with 'use', or its name, not 1"),
        ({"stages": [["csa"]]}, "a stage is a table"),
        ({"neighbors.sigma": 3.0}, "did you mean neighbours.sigma"),
        ({"tilng": {}}, "unknown key 'tilng'"),
        ({3: 4}, "a key is a string"),
        ({"text.logit_scale": float("inf")}, "positive and finite"),
        ({"stages": [{"use": "neighbours", "sigma": {"a": 1}}]}, "neighbours.sigma takes a plain value"),
    ],
)
def test_odd_overrides_are_answered_in_one_line(overrides: dict[Any, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config("plain", overrides)
    assert "\n" not in str(caught.value)
