"""Decisions about labels: taken in once, kept with who made them, ended by other labels."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovlabel.errors import BusyError, ConfigError, StoreError
from ovlabel.store.decisions import Decision, read_decisions, sums_of, take_in
from ovlabel.store.example import write_example
from ovlabel.store.read import open_store
from ovlabel.store.write import writing
from ovlabel.types import Annotation
from tests.cli.test_cli import Run, ovlabel

__all__ = ["ovlabel"]  # a fixture


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_example(tmp_path / "example") / "images.ovlabel.zarr"


def decided(store: Path, decision: str = "accept", key: str = "a.png", **more: Any) -> Decision:
    return Decision(key, sums_of(open_store(store)[key].record), decision, **more)


def written(path: Path, about: Path, *decisions: Decision, **more: Any) -> Path:
    held = {"format": "ovlabel-decisions", "version": 1, "store": open_store(about).manifest.id}
    path.write_text(json.dumps(held | {"decisions": [asdict(one) for one in decisions]} | more))
    return path


def test_the_last_decision_counts_and_the_store_keeps_who_made_each(store: Path, tmp_path: Path) -> None:
    first, second = (
        decided(store, "accept", reviewer="Ada", time="2026-11-25T20:00:00Z"),
        decided(store, "reject", reviewer="Bob", note="no", time="2026-11-25T21:30:00+01:00"),
    )
    with writing(store) as opened:
        assert take_in(opened, written(tmp_path / "1.json", store, first)).taken == 1
        assert take_in(opened, written(tmp_path / "2.json", store, second)).taken == 1
        again = take_in(opened, written(tmp_path / "3.json", store, first, second))
    assert (again.taken, again.known, again.refused) == (0, 2, {})
    assert read_decisions(open_store(store)) == {"a.png": second}
    kept = json.loads((store / "decisions.json").read_text())["decisions"]
    assert [(entry["reviewer"], entry["decision"]) for entry in kept] == [("Ada", "accept"), ("Bob", "reject")]


def test_the_latest_decision_counts_in_whatever_order_files_arrive(store: Path, tmp_path: Path) -> None:
    late = decided(store, "reject", time="2026-11-25T20:30:00Z")
    early = decided(store, "accept", time="2026-11-20T08:00:00")
    with writing(store) as opened:
        take_in(opened, written(tmp_path / "1.json", store, late))
        take_in(opened, written(tmp_path / "2.json", store, early, decided(store, "fix")))
    assert read_decisions(open_store(store)) == {"a.png": late}


def test_a_class_that_the_store_does_not_have_is_named(store: Path, tmp_path: Path) -> None:
    with writing(store) as opened:
        result = take_in(opened, written(tmp_path / "1.json", store, decided(store, "fix", classes=("nope",))))
    assert result.refused == {"a.png": "the store has no class 'nope'"}


def test_a_decision_about_other_labels_is_refused_and_ends_with_them(store: Path, tmp_path: Path) -> None:
    with writing(store) as opened:
        take_in(opened, written(tmp_path / "1.json", store, decided(store)))
        record = opened["a.png"].record
        other = Annotation(np.full((2, 2), 2, np.uint8), np.full((2, 2), 9, np.uint8), None, None, (2, 2))
        stale = decided(store, "reject")
        opened.commit([(record, other)])
        result = take_in(opened, written(tmp_path / "2.json", store, stale, Decision("nowhere.png", "", "fix")))
    assert result.taken == 0
    assert result.refused == {
        "a.png": "it has other labels now; look at it again",
        "nowhere.png": "the store holds no labels of this image",
    }
    assert read_decisions(open_store(store)) == {}


def test_a_reader_keeps_nothing_and_a_busy_store_is_left_alone(store: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "1.json", store, decided(store))
    with writing(store) as opened:
        pass
    with pytest.raises(StoreError, match="only inside"):
        take_in(opened, path)
    with writing(store), pytest.raises(BusyError), writing(store) as second:
        take_in(second, path)
    assert not (store / "decisions.json").exists()


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({"format": "other"}, "is no file of decisions"),
        ({"version": 2}, "is no file of decisions"),
        ({"store": "0" * 32}, "holds decisions about another store"),
        ({"store": None}, "it names no store"),
        ({"decisions": {}}, "it names no store, or no list"),
        ({"decisions": [1]}, "decision 1 is no table"),
        ({"decisions": [{"key": "a", "sums": "", "decision": "perhaps"}]}, "decision 1 is none of accept, fix, reject"),
        ({"decisions": [{"key": 1, "sums": "", "decision": "fix"}]}, "decision 1 holds something that is no text"),
        ({"decisions": [{"key": "a", "decision": "fix", "classes": [1]}]}, "decision 1 holds something"),
        ({"decisions": [{"key": "a", "decision": "fix", "time": "yesterday"}]}, "decision 1 has no time"),
    ],
)
def test_what_is_no_file_of_decisions_is_named(held: dict[str, Any], said: str, store: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "1.json", store, **held)
    with writing(store) as opened, pytest.raises(ConfigError, match=said):
        take_in(opened, path)
    assert not (store / "decisions.json").exists()


def test_a_damaged_file_in_the_store_is_named_and_nothing_is_written_over_it(
    store: Path, tmp_path: Path, ovlabel: Run
) -> None:
    (store / "decisions.json").write_text("{")
    said = ovlabel("review", store, written(tmp_path / "1.json", store, decided(store)))
    assert said.code == 4
    assert "decisions.json" in said.refusal
    assert (store / "decisions.json").read_text() == "{"


def test_the_command(store: Path, tmp_path: Path, ovlabel: Run) -> None:
    path = written(
        tmp_path / "1.json", store, decided(store, "reject"), decided(store, "fix", "b.png"), Decision("x", "", "fix")
    )
    said = ovlabel("review", store, path)
    assert said.out.splitlines() == [
        "not taken: x: the store holds no labels of this image",
        "2 decisions taken in, 0 known already, 1 not taken",
        f"2 of 2 images decided (0 accept, 1 fix, 1 reject) in {store}",
    ]
    assert (said.code, said.err) == (3, "")
    assert ovlabel("review", store, "--max-reject", 0.5).code == 0
    said = ovlabel("review", store, "--max-reject", 0.05, "--json")
    assert said.code == json.loads(said.out)["exit_code"] == 6
    assert json.loads(said.out)["decided"] == {"accept": 0, "fix": 1, "reject": 1}
    assert ovlabel("review", store, "--max-reject", 2).code == 2
    assert ovlabel("review", tmp_path / "nowhere").code == 4


def test_verify_leaves_decisions_alone(store: Path, tmp_path: Path, ovlabel: Run) -> None:
    ovlabel("review", store, written(tmp_path / "1.json", store, decided(store)))
    assert ovlabel("verify", store, "--repair").code == 0
    assert set(read_decisions(open_store(store))) == {"a.png"}
