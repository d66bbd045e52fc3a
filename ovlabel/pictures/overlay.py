"""A picture of an annotation: the photograph under its coloured labels, with a legend."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ovlabel.types import LabelMap, UInt8Image, below_threshold, not_annotated

_OPACITY = 0.55
_ROW, _SWATCH, _MARGIN = 22, 14, 8


def overlay(
    image: UInt8Image, labels: LabelMap, classes: list[str], colours: list[tuple[int, int, int]]
) -> Image.Image:
    """The photograph with every class in its colour, thin white borders, and a legend by share of the pixels.

    Pixels below threshold or not annotated keep the photograph's own colours.

    Args:
        image: uint8 H W 3. labels: H W class indices. classes, colours: by class index.
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
    """(name, share of the pixels, colour) of every value that occurs, largest first."""
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
    font = ImageFont.load_default(13)
    least = max(picture.height, 8 * _ROW)
    room = max((least - 2 * _MARGIN) // _ROW, 1)
    lines = [(f"{share:6.1%}  {name}", colour) for name, share, colour in shares]
    if len(lines) > room:
        lines = [*lines[: room - 1], (f"… and {len(lines) - room + 1} more", None)]
    width = round(max(font.getlength(text) for text, _ in lines)) + _SWATCH + 4 * _MARGIN
    sheet = Image.new("RGB", (picture.width + width, least), "white")
    sheet.paste(picture, (0, 0))
    draw = ImageDraw.Draw(sheet)
    for row, (text, colour) in enumerate(lines):
        left, top = picture.width + _MARGIN, _MARGIN + row * _ROW
        if colour:
            draw.rectangle((left, top, left + _SWATCH, top + _SWATCH), fill=colour, outline="black")
        draw.text((left + _SWATCH + _MARGIN, top), text, fill="black", font=font)
    return sheet


def beside(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two pictures in a row."""
    whole = Image.new("RGB", (left.width + right.width, max(left.height, right.height)), "white")
    whole.paste(left, (0, 0))
    whole.paste(right, (left.width, 0))
    return whole


def sheet(pictures: list[Image.Image], height: int = 240, width: int = 2000) -> Image.Image:
    """Pictures of one height in as many rows as it takes."""
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
