"""Pickles from untrusted sources: nothing in them is run, and reading takes no more memory than their size allows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ovlabel.errors import WeightsError
from ovlabel.model.pickles import read
from tests.hostile import (
    MIB,
    refused,
)
from tests.model.hostile_weights import FOUR, archive, of, old_file, tensor_of

pytestmark = pytest.mark.usefixtures("no_hang")


def test_old_instructions_that_call_are_refused(tmp_path: Path) -> None:
    sentinel = tmp_path / "executed"
    for pickled in (
        f"(S'touch {sentinel}'\nios\nsystem\n.".encode(),
        f"(cos\nsystem\nS'touch {sentinel}'\no.".encode(),
        b"\x80\x02\x82\x01.",
        f"cos\nsystem\n(S'touch {sentinel}'\ntR.".encode(),
        b"cbuiltins\ngetattr\n(cos\nsystem\nS'x'\ntR.",
        b"(dS'a'\nc__torch__\nM\n)\x81}S'__class__'\ncos\nsystem\nsbs.",
    ):
        message = refused(WeightsError, lambda: read(archive(tmp_path / "w.pt", pickled)))  # noqa: B023
        assert "nothing is run" in message or "which torch's do not" in message
    assert not sentinel.exists()


def test_the_pickle_of_these_tests_is_one_that_is_read(tmp_path: Path) -> None:
    tensors, openai = read(archive(tmp_path / "w.pt", tensor_of(), FOUR))
    assert tensors["a"].tolist() == [1, 2, 3, 4]
    assert not openai
    same = read(archive(tmp_path / "w.pt", tensor_of(offset=1, size=(2, 1), stride=(2, 9)), FOUR))[0]
    assert same["a"].tolist() == [[2], [4]]
    assert read(archive(tmp_path / "w.pt", tensor_of(count=0, size=(0, 10**12), stride=(1, 1)), {"0": b""}))


@pytest.mark.parametrize(
    "claim",
    [
        {"offset": 1},
        {"offset": -1},
        {"offset": 2**62},
        {"offset": 2**70},
        {"offset": 1.0},
        {"offset": None},
        {"size": (5,)},
        {"size": (10**15,)},
        {"size": (2**63,)},
        {"size": (2**40, 2**40)},
        {"size": (10**15,), "stride": (0,)},
        {"size": (-1,)},
        {"size": (-2, -2), "stride": (1, 1)},
        {"size": (True,)},
        {"size": "4"},
        {"size": 4},
        {"size": ("4",)},
        {"size": (1,) * 100, "stride": (1,) * 100},
        {"size": (1,) * 100_000, "stride": (1,) * 100_000},
        {"stride": (2,)},
        {"stride": (-1,)},
        {"stride": (2**62,)},
        {"stride": (1, 1)},
        {"stride": (10**4000,)},
        {"count": 10**15},
        {"count": 10**4000},
        {"count": -4},
        {"count": 3},
        {"count": "4"},
        {"count": True},
        {"storage": "DoubleStorage"},
        {"storage": "ByteStorage"},
        {"key": "../0"},
        {"key": "/etc/passwd"},
        {"key": "1"},
        {"key": "0" * 100_000},
        {"key": "a\nb\x1b"},
    ],
    ids=" ".join,
)
def test_a_tensor_lies_inside_its_storage(tmp_path: Path, claim: dict[str, Any]) -> None:
    refused(WeightsError, lambda: read(archive(tmp_path / "w.pt", tensor_of(**claim), FOUR)))


def text(letters: str) -> bytes:
    return b"X" + len(letters).to_bytes(4, "little") + letters.encode()


def many(count: int, value: bytes) -> bytes:
    return b"".join(text(f"{index:06d}") + value for index in range(count))


MODULE = b"c__torch__\nM\nq\x00"  # and what follows makes one of memo 0

PAIRED = b"".join(b"h\x01h\x01\x86q\x01" for _ in range(64))  # a tuple of two, of two, of two …

HUGE: dict[str, Callable[[], bytes]] = {
    "a memo of two thousand million": lambda: of(b"]r", (2**31 - 1).to_bytes(4, "little")),
    "a text longer than the file": lambda: of(b"X", (2**31).to_bytes(4, "little"), b"a"),
    "a text of eight bytes' length": lambda: of(b"\x8d", (2**62).to_bytes(8, "little")),
    "bytes of eight bytes' length": lambda: of(b"\x8e", (2**40).to_bytes(8, "little")),
    "bytes to write on": lambda: of(b"\x96", (2**40).to_bytes(8, "little")),
    "a number longer than the file": lambda: of(b"\x8b", (2**31 - 1).to_bytes(4, "little")),
    "lists in lists": lambda: of(b"](" * 50_000, b"e" * 50_000),
    "tuples in tuples": lambda: of(b")", b"\x85" * 50_000),
    "modules in modules": lambda: of(MODULE, b")\x81", b"}X\x01\0\0\0ah\0)\x81" * 20_000, b"sb" * 20_000),
    "a table that holds itself": lambda: of(b"}q\0", text("a"), b"h\0s"),
    "a list that holds itself": lambda: of(b"]q\0h\0a"),
    "a key of tuples of tuples": lambda: of(b"})q\x01", PAIRED, b"K\x01s"),
    "a name of tuples of tuples": lambda: of(b")q\x01", PAIRED, b"h\x01\x93"),
    "a size of tuples of tuples": lambda: tensor_of(size=1).replace(b"K\x01", b")q\x01" + PAIRED, 1),
    "marks and nothing": lambda: of(b"(" * 100_000),
    "nothing on the stack": lambda: of(b"0R"),
    "an unknown memo": lambda: of(b"h\x07"),
    "no end": lambda: b"\x80\x02}",
    "one list in many tables": lambda: of(
        b"ccollections\nOrderedDict\nq\0](", b"K\x01K\x02\x86" * 2000, b"e\x85q\x01", b"h\0h\x01R" * 10_000
    ),
    "one table in many modules": lambda: of(
        MODULE, b"}(", many(2000, b"h\0)\x81"), b"uq\x01", b"h\0)\x81}(", many(2000, b"h\0)\x81h\x01b"), b"ub"
    ),
    "very many entries": lambda: of(b"}(", many(150_000, b"N"), b"u"),
    "very many tensors": lambda: of(tensor_of()[2:-3], b"q\x01}(", many(110_000, b"h\x01"), b"u"),
    "more than its limit": lambda: of(b"N0" * 9_000_000),
}


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
@pytest.mark.parametrize("name", HUGE)
def test_a_pickle_takes_no_more_than_its_size(tmp_path: Path, name: str, old: bool) -> None:
    path = (old_file if old else archive)(tmp_path / "w.pt", HUGE[name]())
    refused(WeightsError, lambda: read(path), 40 * MIB + 40 * path.stat().st_size)


def test_a_module_that_holds_itself_is_walked_once(tmp_path: Path) -> None:
    inner = tensor_of()[2:-2].replace(b"}", b"}(", 1) + b""
    root = of(MODULE, b")\x81q\x02", inner, text("me"), b"h\x02ub")
    tensors, _ = read(archive(tmp_path / "w.pt", root, FOUR))
    assert list(tensors) == ["a"]
