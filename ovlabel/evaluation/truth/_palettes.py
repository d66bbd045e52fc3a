"""Palettes of masks: whether a pixel's place in the palette is still the id that was written.

An image tool that makes a file smaller drops the colours that no pixel has, and counts the others anew. What was id 16
may be place 2 then, and only the palette shows it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_ADVICE = "save it as a PNG of one channel of ids"


class Palettes:
    """Checks the palettes of one folder of masks, which give an id the same colour in every file.

    Args:
        voc: whether they must be those of PASCAL VOC.
    """

    def __init__(self, voc: bool) -> None:
        self._voc = voc
        self._first: dict[int, tuple[str, Path]] = {}

    def check(self, picture: Image.Image, values: NDArray[Any], path: Path) -> None:
        """Refuse a mask whose values have been counted anew.

        Args:
            picture: of mode "P".
            values: its places in the palette, H × W.
            path: its file.

        Raises:
            ValueError: it is a GIF, or its palette is one of greys in another order than their own, or of VOC's colours
                in another order than VOC's, or gives a place another colour than an earlier file does.
        """
        if picture.format == "GIF":
            raise ValueError(f"it is a GIF with a palette, which saving sorts anew, so its ids are lost; {_ADVICE}")
        palette = np.array(picture.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
        used = [place for place in np.flatnonzero(np.bincount(values.ravel())).tolist() if place < len(palette)]
        colours = {place: tuple(palette[place].tolist()) for place in used}
        if all(r == g == b for r, g, b in colours.values()) and any(r != place for place, (r, _, _) in colours.items()):
            raise ValueError(f"its palette is of greys, so ids may be its places or its greys; {_ADVICE}")
        if self._voc:
            _check_voc(colours)
        for place, colour in colours.items():
            shown = "#{:02x}{:02x}{:02x}".format(*colour)
            first, where = self._first.setdefault(place, (shown, path))
            if first != shown:
                raise ValueError(
                    f"its palette shows {place} as {shown}, that of {where} as {first}: an image tool has counted one "
                    f"of them anew; {_ADVICE}"
                )


def _check_voc(colours: dict[int, tuple[int, ...]]) -> None:
    """Refuse the colours of VOC at other places than VOC's. Raises ValueError."""
    of_voc: dict[tuple[int, ...], int] = {_voc_colour(place): place for place in range(256)}
    wrong = [place for place, colour in colours.items() if of_voc.get(colour, place) != place]
    if wrong and all(colour in of_voc for colour in colours.values()):
        own = of_voc[colours[wrong[0]]]
        raise ValueError(f"its palette has the colour of id {own} at place {wrong[0]}: it was counted anew; {_ADVICE}")


def _voc_colour(place: int) -> tuple[int, int, int]:
    """The colour of an id in PASCAL VOC: every third bit of it belongs to one channel, the lowest to red's highest."""
    red, green, blue = (sum((place >> 3 * step + channel & 1) << 7 - step for step in range(3)) for channel in range(3))
    return red, green, blue
