"""Declared fields: bounds on both sides, one reader, and words that help and messages share."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_doc import Doc
from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen

from ovlabel.errors import ConfigError
from ovlabel.fields import Form, Raw, check, declared, read_field
from ovlabel.settings.keys import SECTIONS, StageConfig, stage_names
from ovlabel.settings.reading import load_config
from ovlabel.spine.stack import make_stage, stage_class


@dataclasses.dataclass(frozen=True)
class Example:
    share: Annotated[float, Ge(0), Le(1), Doc("of something.")] = 0.5
    count: Annotated[int, Ge(2), Le(9), Doc("of something else.")] = 3
    width: Annotated[float, Gt(0), Lt(4), Doc("in pixels.")] = 1.0
    kind: Annotated[Literal["one", "two"], Doc("of two.")] = "one"
    steps: Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1), MaxLen(2), Doc("in order.")] = (1,)
    form: Annotated[str, Form("a+", "one a or more"), Doc("of letters.")] = "a"


def every_class() -> list[tuple[str, type]]:
    return [*SECTIONS.items(), *((name, stage_class(name)) for name in stage_names())]


@pytest.mark.parametrize(("name", "cls"), every_class())
def test_every_field_says_what_it_means_and_has_bounds_on_both_sides(name: str, cls: type) -> None:
    for field in declared(cls).values():
        assert field.doc.endswith("."), f"{name}.{field.name}"
        if field.kind in (int, float):
            low = [b for b in field.bounds if isinstance(b, Gt | Ge)]
            high = [b for b in field.bounds if isinstance(b, Lt | Le)]
            assert len(low) == len(high) == 1, f"{name}.{field.name}"


@pytest.mark.parametrize("name", stage_names())
def test_no_field_of_a_stage_takes_a_billion(name: str) -> None:
    for field in declared(stage_class(name)).values():
        if field.kind not in (int, float):
            continue
        for value in (10**9, -(10**9)):
            given: Any = [value] if field.many else field.kind(value)
            with pytest.raises(ConfigError, match=rf"{name}\.{field.name} = .*: it must be "):
                make_stage(StageConfig(name, ((field.name, given),)))


def test_a_stranger_cannot_ask_for_a_billion_iterations(tmp_path: Path) -> None:
    preset = tmp_path / "theirs.toml"
    preset.write_text('title = "x"\n[[stages]]\nuse = "pamr"\niterations = 1000000000\n')
    (entry,) = load_config(str(preset)).stages
    with pytest.raises(ConfigError, match=r"pamr\.iterations = 1000000000: it must be at least 0 and at most 1000"):
        make_stage(entry)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share": 1.5}, "x.share = 1.5: it must be between 0 and 1"),
        ({"share": math.nan}, "x.share = nan: it must be between 0 and 1"),
        ({"count": 1}, "x.count = 1: it must be at least 2 and at most 9"),
        ({"width": 0.0}, "x.width = 0.0: it must be positive and below 4"),
        ({"width": 4.0}, "x.width = 4.0: it must be positive and below 4"),
        ({"kind": "three"}, "unknown x.kind 'three'; there is one, two"),
        ({"steps": (1, 0)}, r"x.steps = \(1, 0\): it must be at least 1"),
        ({"steps": ()}, r"x.steps = \(\): it must be one number or more"),
        ({"steps": (1, 2, 3)}, r"x.steps = \(1, 2, 3\): it must be one number or more and 2 numbers at the most"),
        ({"form": "b"}, "x.form = b: it must be one a or more"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(Example(**changes), "x")
    check(Example(), "x")


def test_what_a_field_takes_is_said_in_words() -> None:
    assert {name: field.takes for name, field in declared(Example).items()} == {
        "share": "a number, between 0 and 1",
        "count": "an integer, at least 2 and at most 9",
        "width": "a number, positive and below 4",
        "kind": "one or two",
        "steps": "a list of integers, at least 1, one number or more and 2 numbers at the most",
        "form": "a string, one a or more",
    }


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("share", Raw("1"), 1.0),
        ("share", 1, 1.0),
        ("count", Raw("4"), 4),
        ("kind", Raw("two"), "two"),
        ("steps", Raw("[3, 4]"), (3, 4)),
        ("steps", Raw("3"), (3,)),
        ("form", Raw("aaa"), "aaa"),
    ],
)
def test_a_value_from_set_is_read_in_the_declared_type(name: str, given: Any, value: Any) -> None:
    read = read_field(f"x.{name}", declared(Example)[name], given)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("share", True, "x.share takes a number, not True"),
        ("count", 4.5, "x.count takes an integer, not 4.5"),
        ("count", 2**70, "x.count takes an integer, not an integer of 71 bits"),
        ("kind", "tow", "x.kind = tow: unknown value 'tow'; did you mean two"),
        ("steps", list(range(65)), "x.steps has 65 values; the most is 64"),
        ("form", "a\nb", "holds a control character"),
        ("form", 3, "x.form takes a string, not 3"),
    ],
)
def test_a_value_of_another_type_is_refused_in_one_line(name: str, given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_field(f"x.{name}", declared(Example)[name], given)
    assert "\n" not in str(caught.value)
