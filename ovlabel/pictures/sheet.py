"""A sheet of pictures in rows and columns, each column with a title."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_GAP, _SIZE = 8, 15  # between pictures, and of the letters, in pixels


def titled_sheet(titles: Sequence[str], rows: Sequence[Sequence[Image.Image]], height: int = 260) -> Image.Image:
    """Arrange pictures in rows under titles, on white.

    Args:
        titles: of the columns; a line break begins another line.
        rows: as many pictures each as there are titles.
        height: of every picture, in pixels; widths follow.

    Returns:
        The sheet in RGB.

    Example:
        >>> pictures = [Image.new("RGB", (40, 30)), Image.new("RGB", (20, 30))]
        >>> titled_sheet(["photograph", "sclip"], [pictures], height=60).mode
        'RGB'
    """
    font = ImageFont.load_default(_SIZE)
    small = [[_scaled(picture, height) for picture in row] for row in rows]
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    boxes = [measure.multiline_textbbox((0, 0), title, font=font) for title in titles]
    widths = [max([round(box[2]), *(row[column].width for row in small)]) + _GAP for column, box in enumerate(boxes)]
    top = max(round(box[3]) for box in boxes) + 2 * _GAP
    whole = Image.new("RGB", (sum(widths) + _GAP, top + len(small) * (height + _GAP)), "white")
    draw, left = ImageDraw.Draw(whole), _GAP
    for column, (title, width) in enumerate(zip(titles, widths, strict=True)):
        draw.multiline_text((left, _GAP), title, fill="black", font=font)
        for number, row in enumerate(small):
            whole.paste(row[column], (left, top + number * (height + _GAP)))
        left += width
    return whole


def _scaled(picture: Image.Image, height: int) -> Image.Image:
    """The picture at a height, in the same proportion."""
    return picture.resize((max(1, round(picture.width * height / picture.height)), height), Image.Resampling.LANCZOS)
