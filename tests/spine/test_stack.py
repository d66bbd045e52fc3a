"""The order of stages: what has no meaning is refused, with both names and the cure."""

from __future__ import annotations

import pytest

from ovlabel.errors import StackError
from ovlabel.spine.stack import Stack
from ovlabel.stages import Stage
from ovlabel.stages.csa import Csa
from ovlabel.stages.kk import Kk
from ovlabel.stages.neighbours import Neighbours
from ovlabel.stages.value import Value


def test_an_edit_that_would_be_lost_is_refused() -> None:
    with pytest.raises(StackError, match=r"'kk' replaces the scores that 'neighbours' edits before it; put 'kk' first"):
        Stack((Neighbours(), Kk()))
    with pytest.raises(StackError, match="'kk' replaces the scores that 'csa' edits"):
        Stack((Csa(), Kk()))


@pytest.mark.parametrize("order", [(Kk(), Value()), (Value(), Kk())])
def test_scores_under_an_identity_attention_are_refused_in_either_order(order: tuple[object, ...]) -> None:
    with pytest.raises(StackError, match=r"'value' replaces the attention.*'kk'"):
        Stack(order)  # type: ignore[arg-type]


def test_a_stage_that_acts_nowhere_is_refused() -> None:
    class Idle(Stage):
        pass

    with pytest.raises(StackError, match="acts at no level"):
        Stack((Idle(),))


def test_edits_happen_in_the_stacks_order_at_the_named_level_only() -> None:
    class Add(Stage):
        def logits(self, value: list[str], context: str) -> list[str]:
            return [*value, f"add {context}"]

    class Both(Add):
        def labels(self, value: list[str], context: str) -> list[str]:
            return [*value, "labels"]

    stack = Stack((Add(), Both()))
    assert stack.edit("logits", [], "x") == ["add x", "add x"]
    assert stack.edit("labels", [], "x") == ["labels"]
    assert stack.edit("window", ["same"], "x") == ["same"]
    assert stack.acts_at("labels")
    assert not stack.acts_at("window")


def test_without_and_after() -> None:
    kk, near = Kk(), Neighbours()
    stack = Stack((kk, near))
    assert list(stack.without("neighbours")) == [kk]
    assert list(stack.after(kk)) == [near]
    assert list(stack.after(near)) == []


def test_names_and_levels_come_from_the_file_and_its_methods() -> None:
    assert Neighbours().name() == "neighbours"
    assert Neighbours().acts_at() == ("scores",)
    assert Value().acts_at() == ("attention",)
