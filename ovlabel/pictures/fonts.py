"""Fonts that can draw a text in any script, and what is drawn in place of letters that none of them has.

DejaVu Sans, which comes with matplotlib, has the Latin, Greek, Cyrillic, Arabic, Hebrew and many more scripts. Where it
lacks a letter, the fonts that are installed on the machine are looked through. Used by the commands show, demo and
score.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from matplotlib.ft2font import FT2Font

from ovlabel.errors import printable, short

_BOXES = re.compile(r"last ?resort|notdef|tofu|fallback", re.IGNORECASE)


class Font(NamedTuple):
    """A font file.

    Attributes:
        path: the file.
        family: the name under which matplotlib knows it.
    """

    path: str
    family: str


def drawable(text: str) -> tuple[str, Font]:
    """A text as it can be drawn, and the font for it.

    Args:
        text: of any length, with any characters.

    Returns:
        The text in one line of at most 100 characters, and a font that has all of its letters. A letter that no font
        has is written as its escape, such as \\u732b.

    Example:
        >>> drawable("caf\u00e9")[0] == "caf\u00e9", drawable("a\\nb")[0]
        (True, 'a\\\\nb')
    """
    line = short(printable(text))
    if not (missing := _missing(line, _dejavu().path)):
        return line, _dejavu()
    for font in _installed():
        if not _missing(line, font.path):
            return line, font
    return "".join(_escaped(letter) if letter in missing else letter for letter in line), _dejavu()


def _escaped(letter: str) -> str:
    """A letter as its escape."""
    return letter.encode("unicode_escape").decode()


def _missing(text: str, path: str) -> set[str]:
    """The letters of a text that a font lacks. All, if the font can't be opened."""
    index = _face(path)
    return {letter for letter in text if letter != " " and (index is None or not index.get_char_index(ord(letter)))}


@cache
def _face(path: str) -> FT2Font | None:
    """A font as FreeType opens it; None where Pillow or FreeType can't, as with fonts of coloured bitmaps."""
    from PIL import ImageFont

    try:
        ImageFont.truetype(path, 13)
        return FT2Font(path)
    except (OSError, RuntimeError, ValueError):
        return None


@cache
def _dejavu() -> Font:
    """The font that comes with matplotlib."""
    import matplotlib as mpl

    return Font(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), "DejaVu Sans")


@cache
def _installed() -> tuple[Font, ...]:
    """The other fonts on this machine, upright ones first, without those that draw a box for every letter.

    Matplotlib's own ones are for formulas.
    """
    from matplotlib import font_manager

    entries = sorted(font_manager.fontManager.ttflist, key=lambda e: (e.style != "normal", str(e.weight), e.name))
    fonts = [Font(entry.fname, entry.name) for entry in entries if not _BOXES.search(entry.name)]
    own = str(Path(_dejavu().path).parents[1])
    return tuple(font for font in fonts if not font.path.startswith(own))
