"""Names of classes that are nearly the same: exact ones come first, and what is open is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovlabel.errors import ConfigError, OvlabelError, TruthError
from ovlabel.evaluation.class_map import map_classes, read_map
from ovlabel.evaluation.truth import TruthClass
from ovlabel.text.vocabulary import load_vocabulary, vocabulary_names

NEARLY = ("T-shirt", "tshirt", "Grass", "grass", "sky")


def index(predicted: tuple[str, ...], true: tuple[str, ...], given: dict[str, str] | None = None) -> tuple[int, ...]:
    return map_classes(predicted, [TruthClass(name, (name,)) for name in true], given).index


def test_the_same_names_in_the_same_order_are_the_same_classes() -> None:
    assert index(NEARLY, NEARLY) == (0, 1, 2, 3, 4)
    assert index(NEARLY, NEARLY, {"sky": "grass"}) == (0, 1, 2, 3, 3)


@pytest.mark.parametrize(
    ("predicted", "true", "expected"),
    [
        (NEARLY, NEARLY[::-1], (4, 3, 2, 1, 0)),
        (("Grass", "SKY"), ("sky", "grass"), (1, 0)),
        (("traffic light",), ("Traffic-Light",), (0,)),
        (("traffic_light",), ("x", "trafficlight"), (1,)),
        (("sky",), ("Grass", "grass"), (2,)),
        (("Grass", "grass"), ("sky",), (1, 1)),
    ],
)
def test_exact_names_come_before_those_that_nearly_fit(
    predicted: tuple[str, ...], true: tuple[str, ...], expected: tuple[int, ...]
) -> None:
    assert index(predicted, true) == expected


@pytest.mark.parametrize(
    ("predicted", "true", "words"),
    [
        (("grass", "sky"), ("Grass", "grass"), "true classes 'Grass' and 'grass'"),
        (("GRASS",), ("Grass", "grass"), "true classes 'Grass' and 'grass'"),
        (("Grass", "grass"), ("grass",), "predicted classes 'Grass' and 'grass'"),
        (("t shirt", "t-shirt"), ("tshirt",), "predicted classes 't shirt' and 't-shirt'"),
    ],
)
def test_names_that_fall_together_are_refused_by_both(
    predicted: tuple[str, ...], true: tuple[str, ...], words: str
) -> None:
    with pytest.raises(TruthError, match=f"{words} differ in case, spaces, hyphens or underscores alone"):
        index(predicted, true)


def test_a_given_map_says_what_names_leave_open() -> None:
    assert index(("Grass", "grass"), ("grass", "sky"), {"Grass": "grass"}) == (0, 0)
    assert index(("GRASS",), ("Grass", "grass"), {"grass": "grass"}) == (1,)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('"grass" = "sky"\n"Grass" = "grass"', "predicted class 'grass' is named twice, also as 'Grass'"),
        ('"tree" = "sky"', "unknown predicted class 'tree'"),
        ('"grass" = "tree"', "unknown true class 'tree'"),
        ('"*" = "tree"', "unknown true class 'tree'"),
        ('"grass" = "T shirt"', "true class 'T shirt' may be 'T-shirt' and 'tshirt'"),
        ('"grass" = 1', 'write "grass" = "true class", not 1'),
        ('grass.a = "sky"', "true class"),
        ('"grass" = "sky"\n"grass" = "sky"', "is not valid TOML"),
        ('"\\u001b[31m" = "sky"', "unknown predicted class"),
    ],
)
def test_a_map_that_makes_no_sense_is_refused_in_one_printable_line(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "m.toml").write_text(line)
    with pytest.raises((TruthError, ConfigError)) as refused:
        index(("grass", "sky"), ("grass", "sky", "T-shirt", "tshirt"), read_map(tmp_path / "m.toml"))
    assert words in str(refused.value)
    assert str(refused.value).isprintable()


def test_no_built_in_vocabulary_has_names_that_fall_together() -> None:
    for name in vocabulary_names():
        classes = [TruthClass(entry.name, entry.asked) for entry in load_vocabulary(name).classes]
        try:
            found = map_classes([entry.name.upper() for entry in classes], classes).index
        except OvlabelError as error:
            pytest.fail(f"{name}: {error}")
        assert found == tuple(range(len(classes)))
