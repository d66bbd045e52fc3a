"""Every option acts: neutral, it changes no label; at its default, a share of the pixels of a drawn scene."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest

import ovlabel
from ovlabel.demo.scenes import draw
from ovlabel.settings.keys import stage_names
from ovlabel.spine.stack import stage_class

KEYS = {"encoder.model": "demo", "encoder.device": "cpu", "text.templates": "simple"}
NEUTRAL: dict[str, dict[str, Any]] = {
    "closing": {"side": 1},
    "correlate": {"weight": 0.0},
    "crf": {"gaussian_weight": 0.0, "bilateral_weight": 0.0},
    "hierarchy": {"exponent": 0.0},
    "layer_mean": {"weight": 0.0},
    "min_area": {"pixels": 0},
    "pamr": {"iterations": 0},
    "presence": {"weight": 0.0},
    "pyramid": {"weight": 1.0},
    "rcs": {"weight": 0.0, "temperature": 1.0},
    "regional": {"weight": 0.0},
    "sfr": {"weight": 0.0, "temperature": 1.0},
    "sharpen": {"target": 0.0},
    "smooth": {"entropy": 1.0},
}
# Stages are tried on scene 4 with the vocabulary `demo`, after the stage `csa`, with the whole last block. Here are
# those that are tried otherwise: (scene, vocabulary, the stages before it, `encoder.last_block`).
PLACES: dict[str, tuple[int, str, tuple[str, ...], str]] = {
    "calibrate": (4, "demo", (), "attention"),
    "cliptrase": (4, "demo", (), "full"),
    "csa": (4, "demo", (), "full"),
    "hierarchy": (1, "coco-stuff", ("csa",), "full"),
    "kk": (4, "demo", (), "attention"),
    "neighbours": (2, "demo", ("kk",), "attention"),
    "procrustes": (4, "demo", (), "attention"),
    "qq": (4, "demo", (), "attention"),
    "smooth": (1, "coco-stuff", ("csa",), "full"),
    "value": (4, "demo", (), "attention"),
}
FEW = {"closing", "min_area"}  # by design they change fewer than a hundredth of the labels: specks, 0.01 to 0.1 %
SILENT = {"sharpen"}  # by themselves they can't change a label; their docstrings say so, in these words
OUTSIDE = {"loftup"}  # it needs a checkpoint that can't be here; tests/stages/test_loftup.py


@lru_cache(maxsize=64)
def labels(scene: int, vocabulary: str, last_block: str, *stages: Any, **keys: Any) -> np.ndarray:
    config = {**KEYS, "text.vocabulary": vocabulary, "encoder.last_block": last_block}
    stack = [{"use": use, **dict(fields)} for use, fields in stages]
    made = ovlabel.build(ovlabel.load_config("plain", {**config, **keys, "stages": stack}), offline=True)
    return made(draw((1, scene)).image).labels


def both(name: str, fields: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Labels without the stage and with it."""
    scene, vocabulary, below, last_block = PLACES.get(name, (4, "demo", ("csa",), "full"))
    base = tuple((use, ()) for use in below)
    stage = (name, tuple(fields.items()))
    return labels(scene, vocabulary, last_block, *base), labels(scene, vocabulary, last_block, *base, stage)


@pytest.mark.parametrize("name", NEUTRAL)
def test_a_stage_at_its_neutral_value_changes_nothing(name: str) -> None:
    without, neutral = both(name, NEUTRAL[name])
    assert np.array_equal(without, neutral)


@pytest.mark.parametrize("name", sorted(set(stage_names()) - FEW - SILENT - OUTSIDE))
def test_a_stage_at_its_default_changes_a_hundredth_of_the_pixels(name: str) -> None:
    without, default = both(name, {})
    changed = (without != default).mean()
    assert changed >= 0.01, f"{changed:.2%} of the labels; if {name} changes few or none by design: FEW, SILENT, PLACES"


@pytest.mark.parametrize("name", sorted(FEW))
def test_specks_are_changed(name: str) -> None:
    without, default = both(name, {})
    assert 0 < (without != default).mean() < 0.01


@pytest.mark.parametrize("name", sorted(SILENT))
def test_what_cannot_change_a_label_says_so(name: str) -> None:
    without, default = both(name, {})
    assert np.array_equal(without, default)
    assert "can't change a label" in " ".join((stage_class(name).__doc__ or "").split())


@pytest.mark.parametrize(
    ("neutral", "acting"),
    [
        ({"tiling.scales": [1.0], "tiling.scale_weights": [2.0]}, {"tiling.scales": [1.0, 1.5]}),
        ({"tiling.view_weights": [3.0]}, {"tiling.views": ["identity", "hflip", "grey"]}),
        ({"tiling.combine": "vote"}, {"tiling.combine": "vote", "tiling.views": ["identity", "hflip", "grey"]}),
        ({"text.centring": 0.0}, {"text.centring": 0.8, "text.templates": "adaptive"}),
    ],
)
def test_options_of_tiling_and_text_act(neutral: dict[str, Any], acting: dict[str, Any]) -> None:
    """Neutral: one scale, one view, one vote, no centring. Acting: a hundredth of the pixels."""

    def made(keys: dict[str, Any]) -> np.ndarray:
        config = ovlabel.load_config("sclip", {**KEYS, "text.vocabulary": "demo", **keys})
        return ovlabel.build(config)(draw((1, 4)).image).labels

    without = made({})
    assert np.array_equal(without, made(neutral))
    assert (without != made(acting)).mean() >= 0.01
