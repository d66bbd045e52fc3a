"""Messages on unknown names: which known ones they give."""

from __future__ import annotations

import pytest

from ovlabel.errors import unknown
from ovlabel.evaluation.truth import CONVENTIONS


@pytest.mark.parametrize("name", ["VOC", "Voc", "vOc"])
def test_similar_names_are_found_in_upper_and_lower_case(name: str) -> None:
    assert unknown("convention", name, CONVENTIONS).startswith(f"unknown convention '{name}'; did you mean voc, voc20")


def test_names_that_differ_in_case_alone_are_both_given() -> None:
    assert unknown("class", "GRASS", ["Grass", "grass", "sky"]) == "unknown class 'GRASS'; did you mean Grass, grass?"


def test_every_convention_is_named_where_none_is_similar() -> None:
    names = ", ".join(sorted(CONVENTIONS))
    assert unknown("convention", "!!!!", CONVENTIONS) == f"unknown convention '!!!!'; there is {names}"


def test_many_names_and_long_ones_are_cut() -> None:
    assert unknown("x", "?", [f"n{index}" for index in range(31)]).endswith("n15, n16, n17, …")
    assert unknown("x", "?", ["n" * 40 + str(index) for index in range(30)]).endswith(", …")
