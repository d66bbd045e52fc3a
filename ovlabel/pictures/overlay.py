"""Draws label maps over their images, with a legend, and arranges such pictures. Used by the commands show and demo."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ovlabel.pictures.fonts import drawable
from ovlabel.types import LabelMap, UInt8Image, below_threshold, not_annotated

_OPACITY = 0.55
_ROW, _SWATCH, _MARGIN, _LETTERS = 22, 14, 8, 13  # of the legend, in pixels: row, side of a colour sample, margin, size


def overlay(
    image: UInt8Image, labels: LabelMap, classes: list[str], colours: list[tuple[int, int, int]]
) -> Image.Image:
    """An image with every class in its colour, thin white borders between classes, and a legend, largest class first.

    Pixels that are below the threshold or not annotated keep the image's own colours.

    Args:
        image: uint8, H × W × 3, RGB.
        labels: uint8 or uint16, H × W, class indices.
        classes: the name of each class.
        colours: the colour of each class, RGB, 0 to 255.

    Returns:
        The picture in RGB, wider than the image by the legend.

    Example:
        >>> image, labels = np.zeros((200, 100, 3), np.uint8), np.zeros((200, 100), np.uint8)
        >>> picture = overlay(image, labels, ["cat"], [(255, 0, 0)])
        >>> picture.getpixel((50, 50))
        (140, 0, 0)
    """
    table = np.zeros((not_annotated(len(classes)) + 1, 3), np.float32)
    table[: len(colours)] = colours
    covered = labels < len(classes)
    mixed = image.astype(np.float32)
    mixed[covered] = (1 - _OPACITY) * mixed[covered] + _OPACITY * table[labels[covered]]
    mixed[_borders(labels)] = 255
    picture = Image.fromarray(mixed.round().astype(np.uint8))
    return _with_legend(picture, _shares(labels, classes, colours))


def _borders(labels: LabelMap) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    border = np.zeros(labels.shape, bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    return border


def _shares(
    labels: LabelMap, classes: list[str], colours: list[tuple[int, int, int]]
) -> list[tuple[str, float, tuple[int, int, int] | None]]:
    """(name, share of the pixels in 0 … 1, colour) of every value that occurs, largest share first."""
    values, counts = np.unique(labels, return_counts=True)
    named = {not_annotated(len(classes)): "not annotated", below_threshold(len(classes)): "below threshold"}
    order = np.argsort(-counts, kind="stable")
    return [
        (
            named.get(int(values[i])) or classes[values[i]],
            float(counts[i] / labels.size),
            colours[values[i]] if values[i] < len(classes) else None,
        )
        for i in order
    ]


def _with_legend(picture: Image.Image, shares: list[tuple[str, float, tuple[int, int, int] | None]]) -> Image.Image:
    least = max(picture.height, 8 * _ROW)
    room = max((least - 2 * _MARGIN) // _ROW, 1)
    lines = [(f"{share:.1%}", *_written(name), colour) for name, share, colour in shares[:room]]
    if len(shares) > room:
        lines[-1] = ("", *_written(f"… and {len(shares) - room + 1} more"), None)
    figures = _opened(drawable("0")[1].path)
    column = round(figures.getlength("100.0%")) + _MARGIN
    width = round(max(font.getlength(name) for _, name, font, _ in lines)) + column + _SWATCH + 4 * _MARGIN
    canvas = Image.new("RGB", (picture.width + width, least), "white")
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for row, (share, name, font, colour) in enumerate(lines):
        left, top = picture.width + _MARGIN, _MARGIN + row * _ROW
        if colour:
            draw.rectangle((left, top, left + _SWATCH, top + _SWATCH), fill=colour, outline="black")
        begin = left + _SWATCH + _MARGIN + column
        draw.text((begin - _MARGIN, top), share, fill="black", font=figures, anchor="ra")
        draw.text((begin, top), name, fill="black", font=font)
    return canvas


def _written(text: str) -> tuple[str, ImageFont.FreeTypeFont]:
    """A text as it can be drawn, and the font for it."""
    line, font = drawable(text)
    return line, _opened(font.path)


@cache
def _opened(path: str) -> ImageFont.FreeTypeFont:
    """A font in the legend's size."""
    return ImageFont.truetype(path, _LETTERS)


def beside(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two pictures beside each other, the upper edges aligned, on white."""
    whole = Image.new("RGB", (left.width + right.width, max(left.height, right.height)), "white")
    whole.paste(left, (0, 0))
    whole.paste(right, (left.width, 0))
    return whole


def contact_sheet(pictures: list[Image.Image], height: int = 240, width: int = 2000) -> Image.Image:
    """Scale pictures to one height and arrange them in rows, on white.

    Args:
        pictures: one or more.
        height: of each, in pixels.
        width: the most pixels of a row that holds more than one picture.
    """
    rows: list[list[Image.Image]] = [[]]
    for picture in pictures:
        small = picture.resize((round(picture.width * height / picture.height), height), Image.Resampling.LANCZOS)
        if sum(other.width + _MARGIN for other in rows[-1]) + small.width > width and rows[-1]:
            rows.append([])
        rows[-1].append(small)
    widest = max(sum(picture.width + _MARGIN for picture in row) for row in rows)
    whole = Image.new("RGB", (widest, len(rows) * (height + _MARGIN)), "white")
    for number, row in enumerate(rows):
        left = 0
        for picture in row:
            whole.paste(picture, (left, number * (height + _MARGIN)))
            left += picture.width + _MARGIN
    return whole
