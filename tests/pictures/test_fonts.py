"""Names of any script in pictures: a font that has them, or their escapes."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image

from ovlabel.evaluation.class_map import map_classes
from ovlabel.evaluation.figures import draw
from ovlabel.evaluation.scoring import score_labels
from ovlabel.pictures import fonts
from ovlabel.pictures.fonts import Font, drawable
from ovlabel.pictures.overlay import overlay
from tests.evaluation.test_scores import annotated, masks, truth_of

DEJAVU = "DejaVu Sans"


@pytest.fixture
def no_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without fonts of its own."""
    monkeypatch.setattr(fonts, "_installed", lambda: ())


@pytest.fixture
def cats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A font of ASCII and \u732b that is installed, after a file that is none."""
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for point in ((900, 0), (900, 900), (100, 900)):
        pen.lineTo(point)
    pen.closePath()
    letters = dict.fromkeys([*range(33, 127), 29483], "box")
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "box"])
    builder.setupCharacterMap(letters)
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "box": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "box": (1000, 100)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Cats", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "cats.ttf")
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    installed = (Font(str(tmp_path / "broken.ttf"), "Broken"), Font(str(tmp_path / "cats.ttf"), "Cats"))
    monkeypatch.setattr(fonts, "_installed", lambda: installed)
    yield tmp_path / "cats.ttf"
    fonts._face.cache_clear()


@pytest.mark.parametrize(
    "text",
    [
        "cat",
        "caf\u00e9 cr\u00e8me",
        "\u00e4\u00f6\u00fc\u00df",
        "\u03ba\u03cc",
        "\u043a\u043e\u0442",
        "\u0642\u0637\u0629",
        "\u05d7",
        "\u2026",
    ],
)
def test_the_font_of_matplotlib_has_most_scripts(text: str, no_fonts: None) -> None:
    line, font = drawable(text)
    assert (line, font.family) == (text, DEJAVU)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\u732b cat", r"\u732b cat"),
        ("\U0001f9a9", r"\U0001f9a9"),
        ("a\nb\x1b", r"a\nb\x1b"),
        ("\ud800", r"\ud800"),
        ("", ""),
    ],
)
def test_letters_that_no_font_has_become_escapes(text: str, line: str, no_fonts: None) -> None:
    assert drawable(text) == (line, fonts._dejavu())


def test_a_font_of_the_machine_is_taken_where_it_has_all_letters(cats: Path) -> None:
    assert drawable("cat \u732b") == ("cat \u732b", Font(str(cats), "Cats"))
    assert drawable("caf\u00e9 \u732b") == ("caf\u00e9 \\u732b", fonts._dejavu())


def test_fonts_that_draw_a_box_for_every_letter_are_passed_over() -> None:
    """Matplotlib brings one, Last Resort."""
    assert not [font for font in fonts._installed() if "resort" in font.family.lower()]


def test_a_long_name_is_cut() -> None:
    assert len(drawable("x" * 5000)[0]) == 100


def legend(names: list[str]) -> Image.Image:
    """An overlay of so many classes, in stripes."""
    labels = np.arange(len(names), dtype=np.uint8).repeat(40)[:, None].repeat(40, 1)
    image = np.zeros((*labels.shape, 3), np.uint8)
    return overlay(image, labels, names, [(255, 0, 0)] * len(names))


def test_a_legend_shows_no_boxes(no_fonts: None) -> None:
    """Two letters that no font has would be drawn as the same box."""
    assert legend(["\u732b"]).tobytes() != legend(["\u72ac"]).tobytes()
    assert legend(["\u00e9"]).tobytes() != legend(["\u00e8"]).tobytes()
    assert legend(["caf\u00e9", "\u732b", "\u0642\u0637\u0629"] * 10).size[0] > 40


def test_figures_show_names_of_any_script_without_a_warning(tmp_path: Path, no_fonts: None) -> None:
    names = ("caf\u00e9", "\u732b", "\u0642\u0637\u0629", r"$\frac{a$")
    values = np.arange(4).repeat(5)[None].repeat(4, 0)
    store = annotated(tmp_path, {"a.png": values}, names)
    truth = truth_of(masks(tmp_path, {"a.png": values}), names)
    scores = score_labels(store, truth, map_classes(names, truth.classes))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(draw(scores, tmp_path / "figures")) == 6


def test_figures_take_a_font_of_the_machine(tmp_path: Path, cats: Path) -> None:
    from matplotlib import font_manager

    font_manager.fontManager.addfont(str(cats))
    names = ("\u732b", "dog")
    values = np.arange(2).repeat(5)[None].repeat(4, 0)
    store = annotated(tmp_path, {"a.png": values}, names)
    truth = truth_of(masks(tmp_path, {"a.png": values}), names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(score_labels(store, truth, map_classes(names, truth.classes)), tmp_path / "figures")


def test_a_home_that_cant_be_written_is_not_spoken_of(tmp_path: Path) -> None:
    store = annotated(tmp_path, {"a.png": np.zeros((4, 5), int)})
    command = [sys.executable, "-m", "ovlabel", "show", str(store.path), "a.png", "-o", str(tmp_path / "o.png")]
    said = subprocess.run(command, env={**os.environ, "HOME": "/proc"}, capture_output=True, text=True, check=True)
    assert (said.stdout, said.stderr) == (f"{tmp_path / 'o.png'}\n", "")
