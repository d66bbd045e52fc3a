"""Declared fields: what is taken, what is refused and in which words, what tables say."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Le, Len, Lt
from hypothesis import given
from hypothesis import strategies as st

from ovlabel.errors import ConfigError
from ovlabel.fields import Declared, Doc, Raw, declared, read


@dataclass(frozen=True)
class ToyConfig(Declared):
    width: Annotated[float, Gt(0), Le(10), Doc("How wide.")] = 2.0
    share: Annotated[float, Ge(0), Lt(1), Doc("How much.")] = 0.5
    count: Annotated[int, Ge(1), Le(8), Doc("How many.")] = 3
    sides: Annotated[tuple[Annotated[int, Ge(1), Le(9)], ...], Len(1, 3), Doc("Which sides.")] = (1, 2)
    mode: Annotated[Literal["soft", "hard"], Doc("In which way.")] = "soft"
    on: Annotated[bool, Doc("Whether at all.")] = True
    name: Annotated[str, Doc("Its name.")] = "toy"

    def check(self) -> None:
        if self.count > self.width * 4:
            raise ConfigError(f"toy.count = {self.count}: it must be at most 4 toy.width")


def test_fields_say_what_they_are() -> None:
    takes = {field.name: field.takes for field in declared(ToyConfig)}
    assert takes == {
        "width": "number, above 0, at most 10",
        "share": "number, at least 0, below 1",
        "count": "integer, 1 to 8",
        "sides": "list of 1 to 3: integer, 1 to 9",
        "mode": "`soft`, `hard`",
        "on": "true or false",
        "name": "string",
    }
    assert [field.doc for field in declared(ToyConfig)][:2] == ["How wide.", "How much."]
    assert declared(ToyConfig)[2].default == 3


@pytest.mark.parametrize("strict", [False, True])
def test_values_come_in_their_fields_type(strict: bool) -> None:
    made = read(ToyConfig, {"width": 3, "sides": [4, 5], "mode": "hard", "on": False, "name": "x"}, strict=strict)
    assert made == ToyConfig(3.0, 0.5, 3, (4, 5), "hard", False, "x")
    assert type(made.width) is float
    assert hash(made) == hash(
        read(ToyConfig, {"width": 3.0, "sides": (4, 5), "mode": "hard", "on": False, "name": "x"})
    )


def test_values_as_typed_are_read_by_the_type_of_the_field() -> None:
    typed = {"width": "3", "sides": "[4, 5]", "mode": "hard", "on": "false", "name": "1e3"}
    assert read(ToyConfig, {name: Raw(text) for name, text in typed.items()}) == ToyConfig(
        3.0, 0.5, 3, (4, 5), "hard", False, "1e3"
    )


def test_one_value_stands_for_a_list_unless_lists_are_strict() -> None:
    assert read(ToyConfig, {"sides": 4}).sides == (4,)
    with pytest.raises(ConfigError, match=r"^toy\.sides takes a list of whole numbers such as \[8, 16\], not 4$"):
        read(ToyConfig, {"sides": 4}, strict=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 0.0}, "toy.width = 0.0: it must be positive and finite, at most 10"),
        ({"width": math.nan}, "toy.width = nan: it must be positive and finite, at most 10"),
        ({"width": math.inf}, "toy.width = inf: it must be positive and finite, at most 10"),
        ({"share": 1.0}, "toy.share = 1.0: it must be at least 0 and below 1"),
        ({"count": 9}, "toy.count = 9: it must be at least 1 and at most 8"),
        ({"count": 2.5}, "toy.count takes an integer, not 2.5"),
        ({"count": True}, "toy.count takes an integer, not True"),
        ({"count": 2**70}, "toy.count takes an integer, not an integer of 71 bits"),
        ({"width": "wide"}, "toy.width takes a number, not 'wide'"),
        ({"width": None}, "toy.width takes a number, not None"),
        ({"sides": []}, "toy.sides = (): it must be one number or more, at most 3, each at least 1 and at most 9"),
        ({"sides": [1, 10]}, "toy.sides = (1, 10): it must be one number or more, at most 3, each at least 1"),
        ({"sides": [1] * 4}, "toy.sides = (1, 1, 1, 1): it must be one number or more, at most 3"),
        ({"sides": [1] * 65}, "toy.sides has 65 values; the most is 64"),
        ({"mode": "sofd"}, "toy.mode = sofd: unknown value 'sofd'; did you mean soft?"),
        ({"mode": 3}, "toy.mode = 3: unknown value '3'"),
        ({"on": 1}, "toy.on takes true or false, not 1"),
        ({"name": 1}, "toy.name takes a string, not 1"),
        ({"name": "a\nb"}, "toy.name = 'a\\nb' holds a control character"),
        ({"name": "a" * 5000}, "toy.name has 5000 letters; the most is 4096"),
        ({"widht": 1.0}, "'widht'; did you mean width"),
        ({"count": 8, "width": 1.0}, "toy.count = 8: it must be at most 4 toy.width"),
    ],
)
def test_a_refusal_is_one_line_that_names_the_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(ToyConfig, values)
    assert message in str(caught.value).replace("\ufffd", "\\n")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values", [{"width": 11.0}, {"width": "2"}, {"sides": (0,)}, {"sides": 3}, {"mode": "none"}, {"count": 2.0}]
)
def test_an_object_made_by_hand_is_held_to_the_same(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"toy\."):
        ToyConfig(**values)


PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9))


@given(st.sampled_from([field.name for field in declared(ToyConfig)]), st.one_of(PLAIN, st.lists(PLAIN, max_size=4)))
def test_any_value_is_taken_or_refused_in_one_line(name: str, value: Any) -> None:
    for strict in (False, True):
        made, said = None, ""
        try:
            made = read(ToyConfig, {name: value}, strict=strict)
        except ConfigError as error:
            said = str(error)
        assert said.isprintable()
        assert made is None or read(ToyConfig, {name: getattr(made, name)}, strict=strict) == made
