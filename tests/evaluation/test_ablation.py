"""An ablation is the whole stack and the stack without each stage, scored as if each had been run alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ovlabel as package
from ovlabel.demo.scenes import CLASSES, draw, write
from ovlabel.evaluation.ablation import WHOLE, ablate
from ovlabel.evaluation.class_map import map_classes
from ovlabel.evaluation.matching import match
from ovlabel.evaluation.metrics import confusion
from ovlabel.evaluation.truth import TruthClass, open_truth
from ovlabel.model.clip import Clip
from ovlabel.run.listing import list_images
from tests.cli.test_cli import Run, ovlabel

__all__ = ["ovlabel"]
KEYS = {"encoder.model": "demo", "encoder.device": "cpu", "text.vocabulary": "demo", "text.templates": "simple"}


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    write(tmp_path, 2, 8)
    return tmp_path


def test_variants_score_as_if_run_alone_and_the_encoder_runs_once(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = package.build(package.load_config("naclip", KEYS | {"tiling.short_side": 224}))
    truth = open_truth(drawn / "truth", "raw", [TruthClass(name) for name in CLASSES])
    items = list(list_images(drawn / "images"))
    masks = match([item.key for item in items], truth)
    traced = 0
    trace = Clip.trace

    def counted(self: Clip, windows: object) -> object:
        nonlocal traced
        traced += 1
        return trace(self, windows)  # type: ignore[arg-type]

    monkeypatch.setattr(Clip, "trace", counted)
    segmenter(draw((8, 0)).image)
    segmenter(draw((8, 1)).image)
    alone, traced = traced, 0
    pairs = [(item, masks[item.key]) for item in items]
    variants, seconds = ablate(segmenter, pairs, truth, map_classes(CLASSES, truth.classes))
    assert traced == alone
    assert seconds > 0
    assert [variant.left_out for variant in variants] == [WHOLE, "kk", "neighbours", "pamr"]
    for variant in variants:
        stages = [use for use in ("kk", "neighbours", "pamr") if use != variant.left_out]
        own = package.build(package.load_config("naclip", KEYS | {"tiling.short_side": 224, "stages": stages}))
        counts = 0
        for index, item in enumerate(items):
            from ovlabel.pictures.read import decode, read_file

            labels = own(decode(read_file(item.path)[0])).labels
            counts = counts + confusion(draw((8, index)).labels, labels, len(CLASSES))
        assert variant.scores is not None
        np.testing.assert_array_equal(variant.scores.counts, counts)
        assert variant.seconds > 0


def test_the_command_prints_a_row_a_stage(drawn: Path, ovlabel: Run) -> None:
    keys = ["--set", "text.templates=simple", "--set", "encoder.device=cpu", "--limit", "1"]
    said = ovlabel("ablate", drawn / "images", drawn / "truth", "--vocab", "demo", "--model", "demo", *keys)
    assert said.code == 0, said.err
    title, _, whole, without = said.out.splitlines()[:4]
    assert "1 images, preset sclip" in title
    assert whole.startswith("(whole stack)")
    assert without.split()[0] == "csa"
    assert 0 < float(whole.split()[2]) <= 100
    assert "sky ← sky" in said.err


def test_options_of_text_and_tiling_are_left_out_too(drawn: Path, tmp_path: Path, ovlabel: Run) -> None:
    """Each that the preset makes use of, by its key."""
    preset = tmp_path / "mine.toml"
    preset.write_text(
        'title = "mine"\n[text]\ncentring = 0.5\ntemplates = "adaptive"\n[tiling]\nviews = ["identity", "hflip"]\n'
    )
    keys = ["--vocab", "demo", "--model", "demo", "--set", "encoder.device=cpu", "--limit", "1"]
    said = ovlabel("ablate", drawn / "images", drawn / "truth", "--preset", preset, *keys)
    assert said.code == 0, said.err
    rows = [line.split()[0] for line in said.out.splitlines()[2:]]
    assert rows == ["(whole", "text.templates", "text.centring", "tiling.views"]


def test_images_without_masks_are_refused(drawn: Path, ovlabel: Run) -> None:
    (drawn / "truth" / "scene-00.png").rename(drawn / "truth" / "other.png")
    (drawn / "truth" / "scene-01.png").unlink()
    said = ovlabel("ablate", drawn / "images", drawn / "truth", "--vocab", "demo", "--model", "demo")
    assert said.code == 2
    assert "no image has a mask of its name: images scene-00.jpg" in said.refusal
    assert "masks other (1)" in said.refusal
