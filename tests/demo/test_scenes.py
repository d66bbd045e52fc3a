"""Drawn scenes: from a seed alone, with ground truth that is exact."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ovlabel.demo import captions
from ovlabel.demo.scenes import CLASSES, HELD_OUT, PAIR_CLASSES, PAIRS, REGIONS, Scene, draw, held_out_scene, write
from ovlabel.demo.textures import TEXTURES
from ovlabel.demo.things import COLOURS, THINGS, picture
from ovlabel.text.vocabulary import load_vocabulary


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw((3, index)) for index in range(60)]


def colours_of(scene: Scene) -> set[tuple[str, str]]:
    return {PAIRS[index - len(REGIONS)] for index in np.unique(scene.pairs) if index >= len(REGIONS)}


def test_the_vocabularies_are_the_scenes_classes() -> None:
    assert tuple(entry.name for entry in load_vocabulary("demo").classes) == CLASSES
    assert tuple(entry.name for entry in load_vocabulary("demo-pairs").classes) == PAIR_CLASSES
    kinds = {entry.name: entry.kind for entry in load_vocabulary("demo").classes}
    assert [kinds[name] == "thing" for name in CLASSES] == [name in THINGS for name in CLASSES]


def test_a_seed_draws_the_same_scene_and_another_seed_another() -> None:
    first, again, other = draw((3, 5)), draw((3, 5)), draw((3, 6))
    for name in ("image", "labels", "pairs"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert first.image.shape != other.image.shape or (first.image != other.image).any()


def test_scenes_have_valid_sizes_and_types_and_show_all_classes(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert 224 <= min(scene.labels.shape) <= max(scene.labels.shape) <= 640
        assert scene.image.shape == (*scene.labels.shape, 3)
        assert scene.image.dtype == scene.labels.dtype == scene.pairs.dtype == np.uint8
    assert set(np.unique(np.concatenate([s.labels.ravel() for s in scenes]))) == set(range(len(CLASSES)))


def test_both_ground_truths_agree(scenes: list[Scene]) -> None:
    thing_of = [*REGIONS, *(thing for _, thing in PAIRS)]
    to_class = np.array([CLASSES.index(name) for name in thing_of])
    for scene in scenes:
        np.testing.assert_array_equal(to_class[scene.pairs], scene.labels)


def test_the_ground_truth_covers_the_pixels_of_the_thing() -> None:
    """A scene with a thing differs from the same scene without it inside the thing's label, and in its shadow only."""
    for seed in range(8):
        cover = picture(np.random.default_rng(seed), "ball", "red", 60, 0.0, 9)[1]
        assert (cover >= 0.5).sum() == pytest.approx(np.pi / 4 * cover.shape[0] * cover.shape[1], rel=0.05)
    for scene in (draw((4, i), [("red", "ball")], [("blue", "box")]) for i in range(6)):
        ball = scene.pairs == len(REGIONS) + PAIRS.index(("red", "ball"))
        red, green, blue = scene.image[ball].astype(float).mean(0)
        assert red > 1.5 * max(green, blue)


@pytest.mark.parametrize("colour", COLOURS)
def test_colours_look_like_their_names(colour: str) -> None:
    """The mean of a ball (nearly all of it in the colour) is nearest to the colour's own name."""
    plain = {
        "red": (205, 20, 25), "orange": (245, 125, 10), "yellow": (245, 225, 30), "green": (30, 150, 40),
        "blue": (30, 75, 190), "purple": (110, 40, 155), "white": (245, 245, 245), "black": (28, 26, 28),
    }  # fmt: skip
    for seed in range(10):
        drawn, cover = picture(np.random.default_rng(seed), "ball", colour, 60, 0.0, 9)
        mean = np.median(drawn[cover > 0.9], axis=0)
        assert min(plain, key=lambda name: float(np.abs(mean - plain[name]).sum())) == colour


@pytest.mark.parametrize("thing", THINGS)
def test_every_thing_fills_its_tile_at_any_size(thing: str) -> None:
    for size in (12, 40, 150):
        drawn, cover = picture(np.random.default_rng(size), thing, "blue", size, 20.0, 9)
        assert drawn.shape == (*cover.shape, 3)
        assert cover.max() > 0.9
        assert (cover >= 0.5).mean() > 0.15


@pytest.mark.parametrize("name", TEXTURES)
def test_every_texture_takes_any_size(name: str) -> None:
    for h, w in ((1, 1), (3, 40), (200, 7), (120, 160)):
        drawn = TEXTURES[name](np.random.default_rng(0), h, w, 300.0)
        assert drawn.shape == (h, w, 3)
        assert np.isfinite(drawn).all()


def test_held_out_scenes_show_the_pair_and_what_it_may_be_taken_for() -> None:
    seen = set()
    for index in range(40):
        there = colours_of(held_out_scene((5, index)))
        held = [
            (colour, thing)
            for colour, thing in there.intersection(HELD_OUT)
            if any(t == thing and c != colour for c, t in there) and any(c == colour and t != thing for c, t in there)
        ]
        assert held
        seen.update(held)
    assert len(seen) >= 10


def test_what_is_held_out_is_never_drawn_or_named_in_training() -> None:
    assert {thing for _, thing in HELD_OUT} == set(THINGS)
    assert {colour for colour, _ in HELD_OUT} == set(COLOURS)
    random = np.random.default_rng(0)
    kept = [f"{colour} {name}" for colour, thing in HELD_OUT for name in (thing, captions.SYNONYMS.get(thing, thing))]
    said = []
    for index in range(40):
        scene = draw((0, 0, index), choose_from=captions.TRAINED_PAIRS)
        assert not colours_of(scene) & set(HELD_OUT)
        said += [captions.caption(random, scene.pairs), *captions.class_prompts(random)]
        said += [*captions.pair_prompts(random), *captions.colour_prompts(random)]
    assert not [text for text in said for words in kept if re.search(rf"\b{words}\b", text)]
    unseen = [c for c in COLOURS if c not in captions.SYNONYM_COLOURS]
    other = [f"{c} {name}" for c in unseen for t, name in captions.SYNONYMS.items() if t in THINGS]
    assert not [text for text in said for words in other if re.search(rf"\b{words}\b", text)]


def test_written_scenes_can_be_read_back(tmp_path: Path) -> None:
    from PIL import Image

    write(tmp_path, 3, 7)
    assert sorted(p.name for p in (tmp_path / "images").iterdir()) == [f"scene-{i:02}.jpg" for i in range(3)]
    for index in range(3):
        scene = draw((7, index))
        np.testing.assert_array_equal(Image.open(tmp_path / "truth" / f"scene-{index:02}.png"), scene.labels)
        image = np.asarray(Image.open(tmp_path / "images" / f"scene-{index:02}.jpg")).astype(float)
        assert np.abs(image - scene.image).mean() < 8
