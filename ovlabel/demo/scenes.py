"""Draws scenes with exact ground truth: regions of stuff and material, things in many colours, light and noise.

A seed always gives the same scene. Every scene has two label maps, for the classes of two built-in vocabularies: `demo`
(regions and things) and `demo-pairs` (the same regions, and a class for every thing in every colour). Used by
`ovlabel demo`, by the training of the embedded model, and by tests.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from ovlabel.demo.textures import TEXTURES, Picture, noise, pick
from ovlabel.demo.things import COLOURS, IN_THE_AIR, THINGS, picture

Pair = tuple[str, str]  # (colour, thing)

REGIONS = tuple(TEXTURES)
CLASSES = REGIONS + tuple(THINGS)
PAIRS: tuple[Pair, ...] = tuple((colour, thing) for thing in THINGS for colour in COLOURS)
PAIR_CLASSES = REGIONS + tuple(f"{colour} {thing}" for colour, thing in PAIRS)
# Pairs that are neither drawn nor named in training: one colour of every thing, every colour once or twice.
HELD_OUT: tuple[Pair, ...] = (
    ("red", "fish"), ("red", "boat"), ("orange", "house"), ("yellow", "car"), ("yellow", "umbrella"), ("green", "box"),
    ("green", "rocket"), ("blue", "flower"), ("blue", "mushroom"), ("purple", "ball"), ("white", "tree"),
    ("black", "star"),
)  # fmt: skip

_GROUNDS = ("grass", "sand", "snow", "water", "road")
_WALLS = ("brick wall", "concrete wall", "metal")
_FLOORS = ("wooden floor", "tiled floor", "carpet")
_PRINT = 0.028  # size of a cell of a thing's print, as a fraction of the scene's short side
_LEAST_VISIBLE = 0.35  # a thing counts as part of the scene if at least this fraction of it is visible


@dataclass(frozen=True)
class Scene:
    """A drawn image and its ground truth.

    Attributes:
        image: uint8, h × w × 3, RGB; sides between 224 and 640 pixels.
        labels: uint8, h × w, indices in CLASSES.
        pairs: uint8, h × w, indices in PAIR_CLASSES.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    pairs: NDArray[np.uint8]


def draw(seed: int | Sequence[int], cast: Sequence[Pair] = (), choose_from: Sequence[Pair] = PAIRS) -> Scene:
    """Draw the scene of a seed.

    Args:
        seed: a whole number, or several; the same seed gives the same scene.
        cast: (colour, thing) pairs that must be in it, each with at least 35 % of its pixels visible.
        choose_from: the pairs from which the other things are chosen.

    Raises:
        ValueError: 100 attempts gave no scene in which all of the cast are visible.

    Example:
        >>> scene = draw(seed=1)
        >>> scene.image.shape == (*scene.labels.shape, 3)
        True
    """
    for attempt in range(100):
        random = np.random.default_rng([*np.atleast_1d(seed).tolist(), attempt])
        scene, seen = _drawn(random, cast, choose_from)
        if all(pair in seen for pair in cast):
            return scene
    raise ValueError(f"no scene shows all of {cast}; ask for fewer things")


def held_out_scene(seed: int | Sequence[int]) -> Scene:
    """Draw a scene with a pair of HELD_OUT, the same thing in another colour, and another thing in the same colour."""
    random = np.random.default_rng([*np.atleast_1d(seed).tolist(), 1000])
    colour, thing = pick(random, HELD_OUT)
    others = [c for c in COLOURS if c != colour], [t for t in THINGS if t != thing]
    cast = [(colour, thing), (pick(random, others[0]), thing), (colour, pick(random, others[1]))]
    return draw(seed, cast)


def write(folder: Path, count: int, seed: int) -> list[str]:
    """Write scenes as `images/scene-00.jpg`, … and their ground truth (indices in CLASSES) as `truth/scene-00.png`, …

    A file that exists already with the same content is left as it is, so that its modification time stays.

    Args:
        folder: where to; missing folders are made.
        count: how many scenes.
        seed: scene number i is that of the seed (seed, i).

    Returns:
        The names of the image files.
    """
    names = [f"scene-{index:02}" for index in range(count)]
    for index, name in enumerate(names):
        scene = draw((seed, index))
        _save(folder / "images" / f"{name}.jpg", Image.fromarray(scene.image), quality=92)
        _save(folder / "truth" / f"{name}.png", Image.fromarray(scene.labels))
    return [f"{name}.jpg" for name in names]


def _save(path: Path, picture: Image.Image, **options: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO()
    picture.save(data, "JPEG" if path.suffix == ".jpg" else "PNG", **options)
    if not path.is_file() or path.read_bytes() != data.getvalue():
        path.write_bytes(data.getvalue())


def _drawn(random: Generator, cast: Sequence[Pair], choose_from: Sequence[Pair]) -> tuple[Scene, set[Pair]]:
    """A scene, and the pairs in it of which enough is visible."""
    unit = int(random.integers(224, 481))
    long = min(round(unit * random.uniform(1.0, 1.5)), 640)
    h, w = (unit, long) if random.random() < 0.75 else (long, unit)
    labels, horizon = _regions(random, h, w)
    image = _textured(random, labels, unit)
    pairs = labels.copy()
    count = int(random.integers(3, 8))
    everything = [*cast, *(pick(random, choose_from) for _ in range(count - len(cast)))]
    things = sorted((_placed(random, pair, horizon) for pair in everything), key=lambda placed: placed[3])
    areas = [
        (pair, _paste(random, image, labels, pairs, pair, size, x * w, y * h, unit)) for pair, size, x, y in things
    ]
    seen = {pair for pair, area in areas if (pairs == _pair_index(pair)).sum() >= _LEAST_VISIBLE * area > 0}
    return Scene(_lit(random, image, unit), labels, pairs), seen


def _pair_index(pair: Pair) -> int:
    return len(REGIONS) + PAIRS.index(pair)


def _regions(random: Generator, h: int, w: int) -> tuple[NDArray[np.uint8], float]:
    """The region of every pixel (uint8, h × w, indices in REGIONS), and the height of the horizon in 0 … 1."""
    labels = Image.new("L", (w, h))
    pen = ImageDraw.Draw(labels)
    horizon = random.uniform(0.28, 0.58)

    def edge(height: float, rough: float) -> list[tuple[float, float]]:
        line = height * h + rough * h * noise(random, 1, w, 0.15 * w)[0]
        return [(float(x), float(y)) for x, y in zip(range(0, w, 4), line[::4], strict=True)] + [
            (float(w), float(line[-1]))
        ]

    def below(line: list[tuple[float, float]], name: str) -> None:
        pen.polygon([*line, (w, h), (0, h)], fill=CLASSES.index(name))

    if random.random() < 0.62:  # outdoors
        pen.rectangle((0, 0, w, h), fill=CLASSES.index("sky"))
        if random.random() < 0.4:
            peaks = np.sort(random.uniform(0, w, 7))
            heights = np.where(np.arange(7) % 2, random.uniform(0.08, 0.28, 7), random.uniform(-0.04, 0.03, 7))
            ridge = [(float(x), float((horizon - up) * h)) for x, up in zip(peaks, heights, strict=True)]
            below([(0, horizon * h), *ridge, (w, horizon * h)], "mountain")
        first = pick(random, _GROUNDS)
        below(edge(horizon, 0.02), first)
        if random.random() < 0.55:
            second = pick(random, [name for name in _GROUNDS if name != first])
            below(edge(random.uniform(horizon + 0.15, 0.85), 0.06), second)
        if random.random() < 0.3:  # a wall in the field
            left, width, top = random.uniform(-0.1, 0.7), random.uniform(0.25, 0.6), random.uniform(0.08, 0.25)
            box = (left * w, (horizon - top) * h, (left + width) * w, (horizon + 0.08) * h)
            pen.rectangle(box, fill=CLASSES.index(pick(random, _WALLS)))
    else:  # indoors
        pen.rectangle((0, 0, w, h), fill=CLASSES.index(pick(random, _WALLS)))
        if random.random() < 0.35:
            corner = random.uniform(0.3, 0.7) * w
            pen.rectangle((corner, 0, w, h), fill=CLASSES.index(pick(random, _WALLS)))
        if random.random() < 0.35:  # a window
            left, top = random.uniform(0.05, 0.6) * w, random.uniform(0.03, 0.1) * h
            right, low = left + random.uniform(0.2, 0.35) * w, random.uniform(0.7, 0.9) * horizon * h
            pen.rectangle((left, top, right, low), fill=CLASSES.index("sky"))
            pen.rectangle(
                (left, random.uniform(top + 0.6 * (low - top), low), right, low),
                fill=CLASSES.index(pick(random, _GROUNDS)),
            )
        floor = pick(random, _FLOORS)
        tilt = random.uniform(-0.06, 0.06) * h
        below([(0, horizon * h - tilt), (w, horizon * h + tilt)], floor)
        if floor != "carpet" and random.random() < 0.35:
            x, y = random.uniform(0.3, 0.7) * w, random.uniform(horizon + 0.2, 0.9) * h
            rx, ry = random.uniform(0.2, 0.4) * w, random.uniform(0.08, 0.16) * h
            pen.ellipse((x - rx, y - ry, x + rx, y + ry), fill=CLASSES.index("carpet"))
    return np.array(labels), horizon


def _textured(random: Generator, labels: NDArray[np.uint8], unit: int) -> Picture:
    image = np.zeros((*labels.shape, 3), np.float32)
    for index in np.unique(labels):
        inside = labels == index
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        part = inside[window]
        image[window][part] = TEXTURES[REGIONS[index]](random, part.shape[0], part.shape[1], float(unit))[part]
    return image


def _placed(random: Generator, pair: Pair, horizon: float) -> tuple[Pair, float, float, float]:
    """(pair, size as a fraction of the short side, centre x, foot y); x and y in 0 … 1. The lower, the larger."""
    x = random.uniform(0.06, 0.94)
    if pair[1] in IN_THE_AIR or random.random() < 0.2:
        return pair, random.uniform(0.14, 0.36), x, random.uniform(0.22, 0.97)
    foot = random.uniform(horizon + 0.06, 1.0)
    near = (foot - horizon) / (1 - horizon)
    return pair, (0.16 + 0.22 * near) * random.uniform(0.8, 1.25), x, foot


def _paste(
    random: Generator,
    image: Picture,
    labels: NDArray[np.uint8],
    pairs: NDArray[np.uint8],
    pair: Pair,
    size: float,
    x: float,
    y: float,
    unit: int,
) -> int:
    """Draw a thing into a scene, its foot at (x, y) pixels, with a soft shadow; the number of pixels that it covers."""
    lively = pair[1] in IN_THE_AIR
    tilt = random.uniform(-50, 50) if lively else random.uniform(-9, 9)
    colours, cover = picture(random, pair[1], pair[0], max(round(size * unit), 12), tilt, _PRINT * unit)
    height, width = cover.shape
    top, left = round(y - height), round(x - width / 2)
    if not lively:
        _shadow(image, x, y, width)
    rows = slice(max(top, 0), min(top + height, labels.shape[0]))
    columns = slice(max(left, 0), min(left + width, labels.shape[1]))
    inner = np.s_[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    if rows.stop <= rows.start or columns.stop <= columns.start:
        return 0
    alpha, solid = cover[inner][..., None], cover[inner] >= 0.5
    image[rows, columns] = image[rows, columns] * (1 - alpha) + colours[inner] * alpha
    labels[rows, columns][solid] = CLASSES.index(pair[1])
    pairs[rows, columns][solid] = _pair_index(pair)
    return int(solid.sum())


def _shadow(image: Picture, x: float, y: float, width: int) -> None:
    h, w = image.shape[:2]
    reach, depth = 0.7 * width, 0.12 * width
    rows = slice(max(round(y - depth), 0), min(round(y + depth) + 1, h))
    columns = slice(max(round(x - reach), 0), min(round(x + reach) + 1, w))
    down = (np.arange(rows.start, rows.stop, dtype=np.float32) - y) / depth
    across = (np.arange(columns.start, columns.stop, dtype=np.float32) - x) / reach
    dark = 0.45 * np.clip(1 - down[:, None] ** 2 - across[None, :] ** 2, 0, 1)
    image[rows, columns] *= 1 - dark[..., None]


def _lit(random: Generator, image: Picture, unit: int) -> NDArray[np.uint8]:
    """Add light from one side, a tint, sometimes blur, and noise: uint8, h × w × 3."""
    h, w = image.shape[:2]
    towards = random.uniform(-1, 1, 2) * 0.14
    down, across = np.linspace(-1, 1, h, dtype=np.float32)[:, None], np.linspace(-1, 1, w, dtype=np.float32)[None, :]
    gain = random.uniform(0.82, 1.1) * (1 + towards[0] * down + towards[1] * across)
    warmth = 1 + random.uniform(-0.05, 0.05) * np.array([1, 0, -1], np.float32)
    lit = image * gain[..., None] * warmth
    if random.random() < 0.3:
        picture = Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))
        blurred = picture.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 1.1) * unit / 400))
        lit = np.asarray(blurred, np.float32)
    lit = lit + random.uniform(1, 7) * random.standard_normal((h, w, 1), np.float32)
    done: NDArray[np.uint8] = np.clip(lit, 0, 255).astype(np.uint8)
    return done
