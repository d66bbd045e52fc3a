"""Draws the regions of a scene: one function for each class of stuff or material. Used by `scenes`.

The functions of `TEXTURES` have the same arguments: a source of random numbers; h and w, the size of the picture in
pixels; and unit, the short side of the scene in pixels, to which bricks, planks and waves are proportional. Each
returns float32, h × w × 3, RGB, about 0 … 255.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.float32]
Plane = NDArray[np.float32]
_T = TypeVar("_T")


def pick(random: Generator, choices: Sequence[_T]) -> _T:
    """A random element of `choices`, all equally likely."""
    return choices[int(random.integers(len(choices)))]


def noise(random: Generator, h: int, w: int, cell_h: float, cell_w: float | None = None) -> Plane:
    """Smooth noise: random values in −1 … 1 on a coarse grid, enlarged with a bicubic filter (which may overshoot).

    Args:
        random: the source of random numbers.
        h: height in pixels.
        w: width in pixels.
        cell_h: distance of the rows of the grid, in pixels.
        cell_w: distance of its columns; `cell_h` by default.

    Returns:
        float32, h × w.
    """
    cell_w = cell_h if cell_w is None else cell_w
    small = (max(round(h / max(cell_h, 1)), 1) + 1, max(round(w / max(cell_w, 1)), 1) + 1)
    coarse = random.uniform(-1, 1, small).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC), np.float32)


def tinted(plane: Plane, low: tuple[float, ...], high: tuple[float, ...]) -> Picture:
    """Map values (h × w) to colours: 0 to `low`, 1 to `high`, others linearly between and beyond; h × w × 3."""
    start, end = np.array(low, np.float32), np.array(high, np.float32)
    mixed: Picture = start + plane[..., None] * (end - start)
    return mixed


def _axes(h: int, w: int) -> tuple[Plane, Plane]:
    return np.arange(h, dtype=np.float32)[:, None], np.arange(w, dtype=np.float32)[None, :]


def _tones(random: Generator, *choices: tuple[tuple[float, ...], tuple[float, ...]]) -> list[tuple[float, ...]]:
    """A random pair of colours, both shifted a little by the same random amount."""
    shift = random.uniform(-12, 12, 3)
    return [tuple(np.clip(np.array(colour) + shift, 0, 255)) for colour in pick(random, choices)]


def sky(random: Generator, h: int, w: int, unit: float) -> Picture:
    """A vertical gradient with soft clouds: noon, evening or overcast."""
    high, low = _tones(
        random, ((70, 135, 215), (175, 210, 240)), ((110, 160, 225), (205, 222, 240)), ((90, 110, 170), (240, 190, 150))
    )
    rows = np.linspace(0, 1, h, dtype=np.float32)[:, None] * np.ones((1, w), np.float32)
    clouds = noise(random, h, w, 0.10 * unit, 0.22 * unit) + 0.4 * noise(random, h, w, 0.04 * unit, 0.08 * unit)
    cover = np.clip((clouds - random.uniform(0.15, 0.8)) * 1.6, 0, 0.8).astype(np.float32)[..., None]
    return tinted(rows, high, low) * (1 - cover) + 246 * cover


def grass(random: Generator, h: int, w: int, unit: float) -> Picture:
    """Upright blades over soft patches."""
    dark, light = _tones(random, ((45, 100, 30), (125, 180, 70)), ((60, 115, 50), (150, 185, 85)))
    blades = noise(random, h, w, 0.030 * unit, 0.007 * unit) + 0.6 * random.standard_normal((h, w), np.float32)
    return tinted(0.5 + 0.28 * blades + 0.2 * noise(random, h, w, 0.2 * unit), dark, light)


def sand(random: Generator, h: int, w: int, unit: float) -> Picture:
    """Fine grain over wind ripples."""
    dark, light = _tones(random, ((190, 155, 105), (238, 212, 160)), ((200, 170, 125), (245, 225, 180)))
    rows, columns = _axes(h, w)
    ripples = np.sin(rows / (0.012 * unit) + 1.8 * noise(random, h, w, 0.15 * unit) + columns / (0.09 * unit))
    grain = random.standard_normal((h, w), np.float32)
    return tinted(0.5 + 0.17 * ripples + 0.16 * grain + 0.15 * noise(random, h, w, 0.2 * unit), dark, light)


def water(random: Generator, h: int, w: int, unit: float) -> Picture:
    """Flat waves with bright crests."""
    dark, light = _tones(random, ((15, 70, 120), (80, 165, 195)), ((20, 95, 115), (95, 190, 190)))
    rows, _ = _axes(h, w)
    bend = 2.5 * noise(random, h, w, 0.06 * unit, 0.18 * unit)
    waves = np.sin(rows / (0.014 * unit) + bend) + 0.5 * noise(random, h, w, 0.012 * unit, 0.06 * unit)
    picture: Picture = tinted(0.45 + 0.25 * waves, dark, light) + np.clip(waves - 0.95, 0, 1)[..., None] * 160
    return picture


def snow(random: Generator, h: int, w: int, unit: float) -> Picture:
    """Bright, softly shaded, with a few sparkles."""
    dark, light = _tones(random, ((205, 216, 232), (250, 252, 255)), ((215, 218, 226), (252, 252, 252)))
    drifts = 0.65 + 0.5 * noise(random, h, w, 0.10 * unit, 0.3 * unit)
    sparkle = (random.random((h, w), np.float32) > 0.988).astype(np.float32)
    return tinted(drifts + 0.4 * sparkle, dark, light)


def road(random: Generator, h: int, w: int, unit: float) -> Picture:
    """Dark asphalt with a dashed line."""
    dark, light = _tones(random, ((58, 58, 62), (98, 98, 102)), ((75, 75, 80), (112, 112, 115)))
    rows, columns = _axes(h, w)
    picture = tinted(0.5 + 0.32 * random.standard_normal((h, w), np.float32), dark, light)
    line = np.abs(rows - h * random.uniform(0.35, 0.65)) < 0.012 * unit
    dashed = (columns / (0.16 * unit) + random.random()) % 1 < 0.6
    picture[line & dashed] = 225
    return picture


def mountain(random: Generator, h: int, w: int, unit: float) -> Picture:
    """Rock in steep diagonal facets."""
    dark, light = _tones(random, ((75, 72, 82), (150, 145, 150)), ((85, 75, 70), (165, 150, 135)))
    rows, columns = _axes(h, w)
    lean = columns / (0.07 * unit) + 2.2 * noise(random, h, w, 0.14 * unit) + rows / (0.16 * unit)
    facets = np.abs(lean % 2 - 1)
    return tinted(facets + 0.25 * noise(random, h, w, 0.03 * unit), dark, light)


def brick_wall(random: Generator, h: int, w: int, unit: float) -> Picture:
    """Courses of bricks, every other one moved by half a brick."""
    mortar, brick = _tones(random, ((205, 198, 188), (165, 75, 55)), ((185, 180, 175), (140, 85, 65)))
    height, joint = 0.042 * unit * random.uniform(0.85, 1.2), 0.16
    return _courses(random, h, w, height, 2.3 * height, joint, mortar, brick, shift=0.5, spread=0.16)


def tiled_floor(random: Generator, h: int, w: int, unit: float) -> Picture:
    """Square tiles in two tones with light joints."""
    first, second = _tones(random, ((225, 220, 205), (150, 170, 175)), ((235, 235, 230), (175, 150, 130)))
    side = 0.085 * unit * random.uniform(0.85, 1.2)
    rows, columns = _axes(h, w)
    chequer = ((rows // side + columns // side) % 2).astype(np.float32)
    picture = tinted(chequer + 0.06 * noise(random, h, w, 0.1 * unit), first, second)
    joint = ((rows % side) < 0.07 * side) | ((columns % side) < 0.07 * side)
    picture[joint] = 250 if random.random() < 0.5 else 95
    return picture


def wooden_floor(random: Generator, h: int, w: int, unit: float) -> Picture:
    """Long planks, each of its own tone, with grain."""
    dark, light = _tones(random, ((105, 65, 35), (190, 135, 80)), ((125, 85, 50), (210, 160, 105)))
    height = 0.06 * unit * random.uniform(0.85, 1.2)
    planks = _courses(random, h, w, height, 9 * height, 0.06, dark, light, shift=0.37, spread=0.28)
    picture: Picture = planks + 20 * noise(random, h, w, 0.006 * unit, 0.12 * unit)[..., None]
    return picture


def concrete_wall(random: Generator, h: int, w: int, unit: float) -> Picture:
    """Smooth grey slabs with stains and thin seams."""
    dark, light = _tones(random, ((150, 150, 148), (198, 198, 194)), ((165, 160, 152), (208, 204, 196)))
    rows, columns = _axes(h, w)
    stains = 0.5 + 0.4 * noise(random, h, w, 0.12 * unit) + 0.12 * random.standard_normal((h, w), np.float32)
    picture = tinted(stains, dark, light)
    side = 0.32 * unit * random.uniform(0.8, 1.2)
    picture[
        ((rows + random.random() * side) % side < 0.008 * unit) | ((columns + 0.5 * side) % side < 0.008 * unit)
    ] *= 0.72
    return picture


def metal(random: Generator, h: int, w: int, unit: float) -> Picture:
    """Brushed sheet with broad reflections and rows of rivets."""
    dark, light = _tones(random, ((105, 112, 122), (205, 212, 220)), ((125, 125, 128), (215, 215, 215)))
    rows, columns = _axes(h, w)
    shine = 0.5 + 0.35 * np.sin((columns + 0.6 * rows) / (0.09 * unit) + random.uniform(0, 6))
    picture = tinted(shine + 0.14 * noise(random, h, w, 1.2, 0.2 * unit), dark, light)
    side = 0.14 * unit
    rivets = ((rows % side - side / 2) ** 2 + (columns % side - side / 2) ** 2) < (0.011 * unit) ** 2
    picture[rivets] = 70
    return picture


def carpet(random: Generator, h: int, w: int, unit: float) -> Picture:
    """A weave of two muted tones in small diamonds."""
    first, second = _tones(random, ((120, 60, 75), (175, 130, 120)), ((70, 80, 115), (150, 150, 165)))
    rows, columns = _axes(h, w)
    side = 0.026 * unit
    weave = ((np.abs(rows % (2 * side) - side) + np.abs(columns % (2 * side) - side)) < side).astype(np.float32)
    return tinted(weave + 0.12 * random.standard_normal((h, w), np.float32), first, second)


def _courses(
    random: Generator,
    h: int,
    w: int,
    height: float,
    length: float,
    joint: float,
    gap: tuple[float, ...],
    colour: tuple[float, ...],
    shift: float,
    spread: float,
) -> Picture:
    """Rows of blocks with joints between them, each block in a random tone.

    `height`, `length`: of a block, in pixels; `joint`: width of a joint, as a fraction of `height`; `gap`, `colour`: of
    joints and blocks; `shift`: of each row against the row above, as a fraction of `length`; `spread`: of the tones.
    """
    rows, columns = _axes(h, w)
    course = (rows // height).astype(np.int64)
    along = columns + course * shift * length
    block = (along // length).astype(np.int64)
    tones = 1 + spread * random.uniform(-1, 1, (course.max() + 1, block.max() + 1)).astype(np.float32)
    picture: Picture = tones[course, block][..., None] * np.array(colour, np.float32)
    seam = (rows % height < joint * height) | (along % length < joint * height)
    picture[seam] = gap
    return picture


TEXTURES: dict[str, Callable[[Generator, int, int, float], Picture]] = {
    "sky": sky,
    "grass": grass,
    "sand": sand,
    "water": water,
    "snow": snow,
    "road": road,
    "mountain": mountain,
    "brick wall": brick_wall,
    "concrete wall": concrete_wall,
    "wooden floor": wooden_floor,
    "tiled floor": tiled_floor,
    "metal": metal,
    "carpet": carpet,
}
