"""The embedded model: its labels mean something, its controls do not, and it was trained as it says."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ovlabel
from ovlabel.demo import captions, train
from ovlabel.demo.scenes import CLASSES, HELD_OUT, PAIR_CLASSES, PAIRS, REGIONS, Scene, draw, held_out_scene, write
from ovlabel.demo.things import COLOURS
from ovlabel.evaluation.metrics import confusion, iou, miou
from ovlabel.run.options import RunOptions
from ovlabel.settings.keys import EncoderConfig
from ovlabel.settings.sections import EMBEDDED
from ovlabel.spine.segmenter import Segmenter

WEIGHTS = EMBEDDED / "open_clip_model.safetensors"


LabelMaps = Callable[..., list[np.ndarray]]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw((6, index)) for index in range(16)]


@pytest.fixture(scope="module")
def text_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("text")


@pytest.fixture(autouse=True)
def shared_cache(own_cache: None, text_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests of this file share a cache, so that the text of a vocabulary is encoded once."""
    monkeypatch.setenv("OVLABEL_CACHE", str(text_cache))


@pytest.fixture(scope="module")
def label_maps(scenes: list[Scene]) -> LabelMaps:
    """The label maps of the scenes, by preset; made once, because several tests compare them."""

    @functools.cache
    def labels(preset: str, stages: tuple[str, ...] | None = None) -> list[np.ndarray]:
        segment = segmenter(preset) if stages is None else segmenter(preset, stages=list(stages))
        return [segment(scene.image).labels for scene in scenes]

    return labels


def segmenter(preset: str = "sclip", **keys: object) -> Segmenter:
    """A preset on the embedded model."""
    given = {"encoder.model": "demo", "encoder.device": "cpu", "text.vocabulary": "demo"}
    return ovlabel.build(ovlabel.load_config(preset, given | {k.replace("__", "."): v for k, v in keys.items()}))


def score(maps: list[np.ndarray], scenes: list[Scene]) -> float:
    """Mean IoU in percent."""
    counts = sum(confusion(scene.labels, labels, len(CLASSES)) for scene, labels in zip(scenes, maps, strict=True))
    return 100 * miou(counts)


@pytest.mark.parametrize("preset", ["sclip", "naclip"])
def test_presets_score_at_least_50_on_drawn_scenes(preset: str, scenes: list[Scene], label_maps: LabelMaps) -> None:
    assert score(label_maps(preset), scenes) >= 50


def test_maskclip_scores_at_least_70_because_its_value_path_was_trained(
    scenes: list[Scene], label_maps: LabelMaps
) -> None:
    assert score(label_maps("maskclip"), scenes) >= 70


def test_held_out_colour_thing_pairs_score_at_least_35() -> None:
    """Colour-thing pairs that training neither drew nor named, each beside what it may be taken for."""
    segment = segmenter(text__vocabulary="demo-pairs")
    pictures = [held_out_scene((7, index)) for index in range(24)]
    counts = sum(confusion(p.pairs, segment(p.image).labels, len(PAIR_CLASSES)) for p in pictures)
    held = [len(REGIONS) + PAIRS.index(pair) for pair in HELD_OUT]
    assert 100 * np.nanmean(iou(counts)[held]) >= 35


def test_random_weights_and_shuffled_names_score_near_chance(scenes: list[Scene]) -> None:
    shuffled = [CLASSES[index] for index in np.random.default_rng(0).permutation(len(CLASSES))]
    for most, segment in (
        (8, segmenter(encoder__weights="random:0")),
        (15, segmenter(text__vocabulary="classes:" + ", ".join(shuffled))),
    ):
        assert score([segment(scene.image).labels for scene in scenes], scenes) < most


def test_leaving_out_the_stage_changes_labels_and_score(scenes: list[Scene], label_maps: LabelMaps) -> None:
    """Without its stage, SCLIP's stack is CLIP as it was trained: another map, of nearly the same objects."""
    whole, without = label_maps("sclip"), label_maps("sclip", ())
    changed = np.mean([(one != other).mean() for one, other in zip(whole, without, strict=True)])
    assert 0.005 < changed < 0.2
    assert abs(score(whole, scenes) - score(without, scenes)) > 0.1


def test_a_run_that_was_stopped_ends_with_the_same_labels(tmp_path: Path) -> None:
    write(tmp_path, 5, 6)
    keys = {"encoder.model": "demo", "encoder.device": "cpu", "text.vocabulary": "demo"}
    config = ovlabel.load_config("sclip", keys)
    for _ in ovlabel.annotate(tmp_path / "images", config, tmp_path / "whole.zarr"):
        pass
    for _ in ovlabel.annotate(tmp_path / "images", config, tmp_path / "parts.zarr", options=RunOptions(chunk_size=2)):
        break
    parts, whole = ovlabel.open_store(tmp_path / "parts.zarr"), ovlabel.open_store(tmp_path / "whole.zarr")
    assert 0 < len(parts) < 5
    for _ in ovlabel.annotate(tmp_path / "images", config, tmp_path / "parts.zarr", options=RunOptions(chunk_size=1)):
        pass
    parts.refresh()
    assert sorted(parts) == sorted(whole)
    for key in whole:
        np.testing.assert_array_equal(parts[key].labels, whole[key].labels)
        assert (whole[key].labels == draw((6, int(key[6:8]))).labels).mean() > 0.6


def test_the_embedded_model_is_small_and_in_half_precision() -> None:
    assert WEIGHTS.stat().st_size <= 20_000_000
    tensors = load_file(WEIGHTS)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert sum(tensor.numel() for tensor in tensors.values()) <= 9_500_000
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    config = json.loads((EMBEDDED / "open_clip_config.json").read_text())["model_cfg"]
    assert (config["quick_gelu"], config["vision_cfg"]["patch_size"], config["text_cfg"]["width"]) == (True, 16, 128)


def test_the_model_card_states_the_sha256_of_the_file() -> None:
    card = (EMBEDDED / "README.md").read_text()
    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() in card
    for words in ("photograph", "python -m ovlabel.demo.train", "held out"):
        assert words in card.lower()


def test_open_clip_loads_the_model_and_gives_the_same_text_embeddings() -> None:
    """The folder is what open_clip calls a local-dir model; its features are ours."""
    import open_clip

    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{EMBEDDED}")
    clip = ovlabel.model.load.load_clip(EncoderConfig(model="demo", device="cpu"))
    tokens = clip.tokenise(["a red ball.", "the snow"])
    torch.testing.assert_close(clip.encode_text(tokens), model.eval().encode_text(tokens), atol=1e-5, rtol=0)


@pytest.mark.parametrize("last_block", ["full", "attention"])
def test_training_reads_the_value_path_that_the_segmenter_reads(last_block: str) -> None:
    """`train.readouts` against the segmenter's encoder with identity attention, on the very same weights."""
    clip = ovlabel.model.load.load_clip(EncoderConfig(model="demo", device="cpu", last_block=last_block))  # type: ignore[arg-type]
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        trace = clip.trace(pixels)
        count = 1 + trace.grid[0] * trace.grid[1]
        ours = clip.project(clip.readout(trace, torch.eye(count).expand(2, 3, -1, -1)))
        whole, full, value = train.readouts(clip._model, pixels)
        plain = clip.project(clip.readout(trace, trace.attention(clip.layers)))
    torch.testing.assert_close(full if last_block == "full" else value, ours[:, 1:], atol=1e-4, rtol=0)
    if last_block == "full":
        torch.testing.assert_close(whole, plain[:, 0], atol=1e-4, rtol=0)


def test_training_is_reproducible_and_depends_on_the_seed(tmp_path: Path) -> None:
    runs = [train.train(3, seed, 4, torch.device("cpu"), 0) for seed in (1, 1, 2)]
    for name, tensor in runs[0].items():
        torch.testing.assert_close(tensor, runs[1][name], rtol=0, atol=0)
    assert any((tensor != runs[2][name]).any() for name, tensor in runs[0].items())


def test_tokens_that_training_did_not_use_have_zero_embeddings() -> None:
    table = load_file(WEIGHTS)["token_embedding.weight"]
    clip = ovlabel.model.load.load_clip(EncoderConfig(model="demo", device="cpu"))
    said, unsaid = clip.tokenise(["umbrella"])[0, 1], clip.tokenise(["zebra"])[0, 1]
    assert table[said].abs().max() > 0
    assert table[unsaid].abs().max() == 0


def test_batches_have_as_many_patches_at_every_crop_size() -> None:
    shapes = []
    for pixels, pairs, said in train.Crops(0, 16, 8):
        assert pixels.dtype == pairs.dtype == np.uint8
        assert pairs.shape == (len(pixels), pixels.shape[1] // 4, pixels.shape[2] // 4)
        assert len(said) == len(pixels)
        shapes.append(pixels.shape[:3])
    assert shapes == [(16, 112, 112)] * 6 + [(4, 224, 224), (1, 448, 448)]


def test_targets_are_the_things_pairs_and_colours_of_every_pair() -> None:
    names = [*REGIONS, *(f"{colour} {thing}" for colour, thing in captions.TRAINED_PAIRS)]
    for index, name in enumerate(PAIR_CLASSES):
        colour, _, thing = name.rpartition(" ")
        region = name in REGIONS
        assert CLASSES[train.CLASS_OF[index]] == (name if region else thing)
        assert region == (train.COLOUR_OF[index] == -1)
        assert region or list(COLOURS)[train.COLOUR_OF[index]] == colour
        held = not region and (colour, thing) in HELD_OUT
        assert (train.TRAINED_OF[index] == -1) == held
        assert held or names[train.TRAINED_OF[index]] == name


def test_the_loss_is_lowest_for_the_true_pair_maps() -> None:
    """Each patch against the crop's own map, against its mirror, and against another crop's."""
    model = ovlabel.model.load.load_clip(EncoderConfig(model="demo", device="cpu"))
    random = np.random.default_rng(0)
    prompts = [captions.class_prompts(random), captions.pair_prompts(random), captions.colour_prompts(random)]
    pixels, pairs, said = next(iter(train.Crops(9, 16, 4)))
    texts = [model.tokenise(part) for part in (said, *prompts, prompts[0] + prompts[2])]
    inputs = train._normalised(pixels, torch.device("cpu"))
    maps = torch.as_tensor(pairs)
    with torch.no_grad():
        true, mirrored, other = (
            {name: float(loss) for name, loss in train.loss_of(model._model, inputs, truth, texts).items()}
            for truth in (maps, maps.flip(2), maps.roll(1, 0))
        )
    for name in ("full/class", "full/pair", "full/colour", "value/class", "value/pair", "value/colour"):
        assert true[name] < 0.6 * mirrored[name]
        assert true[name] < 0.6 * other[name]
    assert true["contrast"] < np.log(len(said)) - 0.7
