"""Draws the things of a scene: one function for each class of thing. Used by `scenes`.

The functions of `THINGS` have the same arguments: a pen whose coordinates run from 0 to 1 (y points down), the colour
of the thing, and a source of random numbers.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Iterable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Plane = NDArray[np.float32]
Picture = NDArray[np.float32]
RGB = tuple[int, int, int]
Point = tuple[float, float]

# Ranges of hue, saturation and value, in 0 … 1; hue is cyclic.
COLOURS: dict[str, tuple[Point, Point, Point]] = {
    "red": ((0.975, 1.01), (0.80, 0.98), (0.68, 0.92)),
    "orange": ((0.065, 0.090), (0.85, 1.00), (0.90, 1.00)),
    "yellow": ((0.140, 0.165), (0.75, 0.98), (0.90, 1.00)),
    "green": ((0.300, 0.400), (0.65, 0.95), (0.40, 0.75)),
    "blue": ((0.590, 0.650), (0.70, 0.98), (0.55, 0.92)),
    "purple": ((0.760, 0.810), (0.55, 0.90), (0.45, 0.75)),
    "white": ((0.000, 1.000), (0.00, 0.04), (0.93, 1.00)),
    "black": ((0.000, 1.000), (0.00, 0.20), (0.06, 0.16)),
}
DARK, GREY, LIGHT, WOOD, GLASS = (45, 42, 48), (128, 128, 132), (238, 236, 230), (112, 76, 48), (172, 208, 226)


def body_colour(random: Generator, name: str) -> RGB:
    """A random RGB colour, 0 … 255, of a name in COLOURS."""
    hue, saturation, value = (random.uniform(*span) for span in COLOURS[name])
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def shade(colour: RGB, factor: float) -> RGB:
    """A colour made darker (`factor` below 1) or lighter (from 1 to 2, which is white)."""
    if factor <= 1:
        return tuple(round(v * factor) for v in colour)  # type: ignore[return-value]
    return tuple(round(255 - (255 - v) * (2 - factor)) for v in colour)  # type: ignore[return-value]


class Pen:
    """Draws on a transparent square of `size` pixels, in coordinates of 0 … 1 (y points down).

    Attributes:
        tile: the square, RGBA.
    """

    def __init__(self, size: int) -> None:
        self.tile = Image.new("RGBA", (size, size))
        self._draw, self._size = ImageDraw.Draw(self.tile), size

    def polygon(self, points: Iterable[Point], colour: RGB) -> None:
        """A filled polygon."""
        self._draw.polygon([(x * self._size, y * self._size) for x, y in points], fill=(*colour, 255))

    def ellipse(self, left: float, top: float, right: float, bottom: float, colour: RGB) -> None:
        """A filled ellipse within its box."""
        self._draw.ellipse([v * self._size for v in (left, top, right, bottom)], fill=(*colour, 255))

    def half(self, left: float, top: float, right: float, bottom: float, colour: RGB, start: float = 180) -> None:
        """A filled half of an ellipse, clockwise from `start` degrees (180: the upper half)."""
        self._draw.pieslice([v * self._size for v in (left, top, right, bottom)], start, start + 180, (*colour, 255))

    def cut(self, left: float, top: float, right: float, bottom: float) -> None:
        """Make an ellipse transparent again."""
        self._draw.ellipse([v * self._size for v in (left, top, right, bottom)], fill=(0, 0, 0, 0))

    def box(self, left: float, top: float, right: float, bottom: float, colour: RGB) -> None:
        """A filled rectangle."""
        self._draw.rectangle([v * self._size for v in (left, top, right, bottom)], fill=(*colour, 255))

    def line(self, points: Iterable[Point], colour: RGB, width: float) -> None:
        """A polyline; `width` is in the same unit as the coordinates."""
        scaled = [(x * self._size, y * self._size) for x, y in points]
        self._draw.line(scaled, fill=(*colour, 255), width=max(round(width * self._size), 1), joint="curve")


def ball(pen: Pen, colour: RGB, random: Generator) -> None:
    """A shaded sphere, with or without a stripe."""
    pen.ellipse(0.05, 0.05, 0.95, 0.95, shade(colour, 0.72))
    pen.ellipse(0.07, 0.05, 0.88, 0.86, colour)
    if random.random() < 0.4:
        pen.line([(0.10, 0.62), (0.32, 0.72), (0.68, 0.72), (0.90, 0.62)], LIGHT if sum(colour) < 500 else GREY, 0.07)
    pen.ellipse(0.24, 0.18, 0.46, 0.38, shade(colour, 1.55))


def box(pen: Pen, colour: RGB, random: Generator) -> None:
    """A cube seen from above a corner, taped shut."""
    depth = random.uniform(0.18, 0.30)
    front, right = 0.95 - depth, 0.95 - depth
    pen.polygon([(0.05, depth), (0.05 + depth, 0.05), (0.95, 0.05), (right, depth)], shade(colour, 1.3))
    pen.polygon([(right, depth), (0.95, 0.05), (0.95, front), (right, 0.95)], shade(colour, 0.6))
    pen.box(0.05, depth, right, 0.95, colour)
    middle = (0.05 + right) / 2
    pen.box(middle - 0.04, depth, middle + 0.04, 0.95, shade(colour, 0.78))
    pen.line([(0.05, depth), (right, depth), (right, 0.95), (0.05, 0.95), (0.05, depth)], shade(colour, 0.5), 0.015)


def tree(pen: Pen, colour: RGB, random: Generator) -> None:
    """A brown trunk under a crown: round, or of three fir tiers."""
    pen.polygon([(0.44, 0.60), (0.56, 0.60), (0.60, 0.98), (0.40, 0.98)], WOOD)
    if random.random() < 0.5:
        for top, half in ((0.30, 0.36), (0.16, 0.29), (0.02, 0.22)):
            pen.polygon(
                [(0.5, top), (0.5 - half, top + 0.42), (0.5 + half, top + 0.42)], shade(colour, 0.7 + 0.3 * (top < 0.2))
            )
            pen.polygon([(0.5, top), (0.5 - half, top + 0.42), (0.52, top + 0.42)], shade(colour, 1.1))
        return
    for _ in range(11):
        angle, reach = random.uniform(0, 2 * math.pi), random.uniform(0.10, 0.20)
        x, y = 0.5 + reach * 1.2 * math.cos(angle), 0.36 + reach * math.sin(angle)
        pen.ellipse(x - 0.19, y - 0.17, x + 0.19, y + 0.17, shade(colour, random.uniform(0.65, 1.2)))


def house(pen: Pen, colour: RGB, random: Generator) -> None:
    """A wall in the colour, a grey roof, a door and two windows."""
    if random.random() < 0.5:
        pen.box(0.68, 0.10, 0.78, 0.36, DARK)
    pen.box(0.12, 0.42, 0.88, 0.97, colour)
    pen.box(0.66, 0.42, 0.88, 0.97, shade(colour, 0.8))
    pen.polygon([(0.02, 0.44), (0.5, 0.06), (0.98, 0.44)], shade(GREY, random.uniform(0.5, 0.85)))
    pen.box(0.43, 0.66, 0.57, 0.97, WOOD)
    for left in (0.20, 0.66):
        pen.box(left, 0.54, left + 0.14, 0.70, LIGHT)
        pen.box(left + 0.02, 0.56, left + 0.12, 0.68, GLASS)


def fish(pen: Pen, colour: RGB, random: Generator) -> None:
    """A body with scales, a forked tail, fins and an eye."""
    pen.polygon([(0.70, 0.50), (0.97, 0.24), (0.90, 0.50), (0.97, 0.76)], shade(colour, 0.75))
    pen.polygon([(0.32, 0.32), (0.52, 0.13), (0.60, 0.34)], shade(colour, 0.75))
    pen.polygon([(0.40, 0.68), (0.52, 0.86), (0.58, 0.66)], shade(colour, 0.75))
    pen.ellipse(0.03, 0.26, 0.79, 0.74, colour)
    for x in (0.36, 0.47, 0.58):
        pen.line([(x, 0.38), (x + 0.05, 0.50), (x, 0.62)], shade(colour, 0.65), 0.022)
    pen.ellipse(0.13, 0.38, 0.25, 0.50, LIGHT)
    pen.ellipse(0.16, 0.41, 0.22, 0.47, DARK)


def star(pen: Pen, colour: RGB, random: Generator) -> None:
    """Five points, folded along its rays."""
    inner = random.uniform(0.18, 0.23)
    tips = [_polar(0.48, 72 * k) for k in range(5)]
    dents = [_polar(inner, 72 * k + 36) for k in range(5)]
    for k in range(5):
        pen.polygon([(0.5, 0.5), dents[k - 1], tips[k]], shade(colour, 1.15))
        pen.polygon([(0.5, 0.5), tips[k], dents[k]], shade(colour, 0.75))


def _polar(radius: float, degrees: float) -> Point:
    return 0.5 + radius * math.sin(math.radians(degrees)), 0.5 - radius * math.cos(math.radians(degrees))


def car(pen: Pen, colour: RGB, random: Generator) -> None:
    """Seen from the side: cabin with windows, two wheels, a light."""
    pen.polygon([(0.22, 0.48), (0.34, 0.26), (0.66, 0.26), (0.80, 0.48)], colour)
    pen.polygon([(0.28, 0.47), (0.37, 0.31), (0.49, 0.31), (0.49, 0.47)], GLASS)
    pen.polygon([(0.53, 0.47), (0.53, 0.31), (0.63, 0.31), (0.73, 0.47)], GLASS)
    pen.box(0.03, 0.47, 0.97, 0.70, colour)
    pen.box(0.03, 0.61, 0.97, 0.70, shade(colour, 0.7))
    pen.box(0.91, 0.51, 0.97, 0.57, (250, 235, 160))
    for x in (0.25, 0.75):
        pen.ellipse(x - 0.125, 0.575, x + 0.125, 0.825, DARK)
        pen.ellipse(x - 0.06, 0.64, x + 0.06, 0.76, GREY)


def boat(pen: Pen, colour: RGB, random: Generator) -> None:
    """A hull in the colour under a mast with two sails of it."""
    pen.box(0.475, 0.04, 0.515, 0.70, WOOD)
    pen.polygon([(0.54, 0.08), (0.54, 0.62), (0.92, 0.62)], shade(colour, 1.25))
    pen.polygon([(0.45, 0.16), (0.45, 0.62), (0.14, 0.62)], shade(colour, 1.05))
    pen.polygon([(0.03, 0.68), (0.97, 0.68), (0.80, 0.94), (0.20, 0.94)], shade(colour, 0.8))
    pen.polygon([(0.03, 0.68), (0.97, 0.68), (0.93, 0.75), (0.07, 0.75)], shade(colour, 0.55))


def mushroom(pen: Pen, colour: RGB, random: Generator) -> None:
    """A pale stem under a dotted cap."""
    pen.polygon([(0.41, 0.45), (0.59, 0.45), (0.64, 0.96), (0.36, 0.96)], (232, 220, 196))
    pen.polygon([(0.53, 0.45), (0.59, 0.45), (0.64, 0.96), (0.55, 0.96)], (206, 190, 162))
    pen.half(0.04, 0.06, 0.96, 1.00, colour)
    pen.half(0.04, 0.46, 0.96, 0.60, shade(colour, 0.7), start=0)
    dots = LIGHT if sum(colour) < 600 else GREY
    for x, y, r in ((0.30, 0.36, 0.06), (0.52, 0.22, 0.07), (0.72, 0.38, 0.055), (0.47, 0.43, 0.04)):
        pen.ellipse(x - r, y - 0.8 * r, x + r, y + 0.8 * r, dots)


def umbrella(pen: Pen, colour: RGB, random: Generator) -> None:
    """An open canopy in gores over a hooked handle."""
    pen.half(0.03, 0.08, 0.97, 0.98, shade(colour, 0.72))
    pen.half(0.20, 0.08, 0.80, 0.98, colour)
    pen.half(0.38, 0.08, 0.62, 0.98, shade(colour, 1.3))
    for k in range(4):
        left = 0.03 + 0.235 * k
        pen.cut(left, 0.475, left + 0.235, 0.60)
    pen.line([(0.5, 0.46), (0.5, 0.86), (0.46, 0.93), (0.39, 0.93), (0.36, 0.86)], DARK, 0.035)
    pen.line([(0.5, 0.02), (0.5, 0.10)], DARK, 0.03)


def flower(pen: Pen, colour: RGB, random: Generator) -> None:
    """Petals around a yellow centre on a stem with a leaf."""
    pen.line([(0.5, 0.45), (0.5, 0.98)], (70, 120, 50), 0.045)
    pen.polygon([(0.5, 0.86), (0.66, 0.68), (0.80, 0.70), (0.68, 0.84)], (82, 138, 58))
    petals = int(random.integers(6, 9))
    for k in range(petals):
        x, y = _polar(0.21, 360 * k / petals)
        y -= 0.15
        pen.ellipse(x - 0.125, y - 0.125, x + 0.125, y + 0.125, shade(colour, 0.8 if k % 2 else 1.1))
    heart = (150, 96, 40) if colour[0] > 200 and colour[1] > 140 and colour[2] < 110 else (236, 190, 60)
    pen.ellipse(0.39, 0.24, 0.61, 0.46, heart)


def rocket(pen: Pen, colour: RGB, random: Generator) -> None:
    """A hull with a pointed nose, a porthole, fins and a flame."""
    pen.polygon([(0.41, 0.80), (0.5, 0.99), (0.59, 0.80)], (252, 190, 70))
    pen.polygon([(0.36, 0.52), (0.20, 0.84), (0.36, 0.78)], shade(colour, 0.6))
    pen.polygon([(0.64, 0.52), (0.80, 0.84), (0.64, 0.78)], shade(colour, 0.6))
    pen.polygon([(0.5, 0.02), (0.36, 0.28), (0.36, 0.80), (0.64, 0.80), (0.64, 0.28)], colour)
    pen.polygon([(0.5, 0.02), (0.56, 0.28), (0.56, 0.80), (0.64, 0.80), (0.64, 0.28)], shade(colour, 0.75))
    pen.polygon([(0.5, 0.02), (0.36, 0.28), (0.64, 0.28)], shade(GREY, 0.8))
    pen.ellipse(0.42, 0.36, 0.58, 0.52, LIGHT)
    pen.ellipse(0.45, 0.39, 0.55, 0.49, GLASS)


THINGS: dict[str, Callable[[Pen, RGB, Generator], None]] = {
    "ball": ball,
    "box": box,
    "tree": tree,
    "house": house,
    "fish": fish,
    "star": star,
    "car": car,
    "boat": boat,
    "mushroom": mushroom,
    "umbrella": umbrella,
    "flower": flower,
    "rocket": rocket,
}
IN_THE_AIR = {"star", "rocket", "fish", "ball"}  # placed anywhere; the others mostly stand on the ground


def _stripes(along: Plane) -> Plane:
    return (along % 1 < 0.5).astype(np.float32)


def _dots(x: Plane, y: Plane) -> Plane:
    return ((x % 1 - 0.5) ** 2 + (y % 1 - 0.5) ** 2 < 0.09).astype(np.float32)


def _scales(x: Plane, y: Plane) -> Plane:
    odd = np.floor(y) % 2
    return (np.abs(np.hypot((x + odd / 2) % 1 - 0.5, y % 1) - 0.55) < 0.16).astype(np.float32)


def _leaves(x: Plane, y: Plane) -> Plane:
    leaves: Plane = (np.sin(5.1 * x + 2 * np.sin(3.3 * y)) * np.sin(4.7 * y + 2 * np.sin(2.9 * x)) > 0.1).astype(
        np.float32
    )
    return leaves


# The pattern on each thing: its strength in 0 … 1 at position (x, y), counted in cells of the pattern.
PRINTS: dict[str, Callable[[Plane, Plane], Plane]] = {
    "ball": lambda x, y: np.zeros_like(x + y),
    "box": lambda x, y: np.maximum(0.6 * _stripes((x + y) / 1.4), _stripes((x - y) / 1.4)),
    "tree": _leaves,
    "house": lambda x, y: _stripes(1.2 * y + 0 * x),
    "fish": _scales,
    "star": lambda x, y: _dots(2 * x, 2 * y),
    "car": lambda x, y: np.abs(_stripes(x / 1.4) - _stripes(y / 1.4)),
    "boat": lambda x, y: _stripes(1.2 * x + 0 * y),
    "mushroom": lambda x, y: _dots(x / 1.5, y / 1.5),
    "umbrella": lambda x, y: _stripes(y + 1.2 * np.abs(x % 1 - 0.5)),
    "flower": lambda x, y: _stripes(np.hypot(x, y)),
    "rocket": lambda x, y: _stripes((x + y) / 1.2),
}
_PRINTED_LIGHTER, _PRINT_DEPTH = ("black", "blue", "purple"), 42


def picture(random: Generator, name: str, colour: str, size: int, tilt: float, cell: float) -> tuple[Picture, Plane]:
    """Draw a thing with its pattern, lit from one side and cropped to its outline.

    Args:
        random: the source of random numbers.
        name: a key of THINGS.
        colour: a key of COLOURS.
        size: its approximate height, in pixels.
        tilt: by which it is rotated, in degrees, counterclockwise.
        cell: size of a cell of its pattern, in pixels.

    Returns:
        Its colours (float32, h × w × 3, RGB, about 0 … 255), and how far it covers each pixel (float32, h × w, 0 … 1).
    """
    pen = Pen(2 * size)
    THINGS[name](pen, body_colour(random, colour), random)
    tile = pen.tile
    if random.random() < 0.5:
        tile = tile.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    width = max(round(size * random.uniform(0.8, 1.2)), 8)
    tile = tile.rotate(tilt, Image.Resampling.BILINEAR, expand=True)
    scale = (round(tile.width * width / (2 * size)), round(tile.height / 2))
    drawn: Picture = np.asarray(tile.resize(scale, Image.Resampling.BOX), np.float32)
    cover: Plane = drawn[..., 3] / np.float32(255)
    rows, columns = np.flatnonzero(cover.max(1) > 0.5), np.flatnonzero(cover.max(0) > 0.5)
    crop = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    drawn, cover = drawn[crop], cover[crop]
    height, width = cover.shape
    down, across = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)
    printed = PRINTS[name](across * width / 2 / cell, down * height / 2 / cell)[..., None]
    light = 1 + random.uniform(-0.15, 0.15) * across - random.uniform(0, 0.15) * down
    colours = drawn[..., :3] + (_PRINT_DEPTH if colour in _PRINTED_LIGHTER else -_PRINT_DEPTH) * printed
    lit: Picture = colours * light[..., None].astype(np.float32)
    return lit, cover
