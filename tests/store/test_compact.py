"""Gathering small commits: the store says what it said, and no moment of it loses anything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovlabel.cli import main
from ovlabel.errors import BusyError, StoreError
from ovlabel.store import compact as compact_module
from ovlabel.store import records as records_module
from ovlabel.store.compact import compact
from ovlabel.store.layout import chunk_names
from ovlabel.store.read import Store, open_store
from ovlabel.store.verify import verify
from ovlabel.store.write import writing
from tests.conftest import commit
from tests.store.test_store import KINDS_OF_STORE, failure, new_store, random_annotation, record


def years(path: Path, keep: str = "top5", nights: int = 8) -> Store:
    """A store of small commits: images that were replaced, removed, failed, renamed, and twins across commits."""
    store, rng = new_store(path, keep=keep), np.random.default_rng(0)
    for night in range(nights):
        size = (4 + night, 7)
        commit(store, [(record(f"{night}.png", f"content {night}"), random_annotation(rng, size, keep=keep))])
    with writing(path) as held:
        held.commit([(replace(held["2.png"].record, key="twin of 2.png"), None)])
        held.commit([(failure("bad.png"), None), (failure("4.png"), None)])
        held.commit([(record("0.png", "new content"), random_annotation(rng, keep=keep))])
        held.remove(["1.png"], "no longer in the folder")
        held.commit([(replace(held["2.png"].record, key="2.png", mtime_ns=99), None)])
    store.refresh()
    return store


def said(store: Store) -> dict[str, Any]:
    """All that a store says, without the places of the arrays."""
    records = {key: replace(r, chunk="", pixel=0, map=0) for key, r in store.records.items()}
    arrays = {key: (i.labels.tolist(), i.confidence.tolist(), _maps(i.probabilities)) for key, i in store.items()}
    return {"records": records, "arrays": arrays, "order": list(store)}


def _maps(kept: Any) -> Any:
    return (
        None if kept is None else [np.asarray(part).tolist() for part in (kept if isinstance(kept, tuple) else [kept])]
    )


@pytest.mark.parametrize("keep", KINDS_OF_STORE)
@pytest.mark.parametrize("indexed", [False, True])
def test_a_gathered_store_says_what_it_said(
    keep: str, indexed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if indexed:
        monkeypatch.setattr(records_module, "FRESH_IMAGES", 2)
    store = years(tmp_path / "s.zarr", keep)
    before = said(store)
    gathered = compact(store.path)
    assert (gathered.before, gathered.after, gathered.damaged) == (13, 1, {})
    for refreshed in (store, open_store(store.path)):
        refreshed.refresh()
        assert said(refreshed) == before
    assert len(chunk_names(store.path)) == 1
    report = verify(store.path)
    assert (report.clean, report.unfinished) == (True, [])
    assert compact(store.path).after == 1, "there is nothing left to gather"
    with writing(store.path) as held:
        held.commit([(record("1.png"), random_annotation(np.random.default_rng(1), keep=keep))])
    assert "1.png" in open_store(store.path), "later commits count"


def test_commits_are_bounded_and_large_ones_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact_module, "SMALL", 3)
    monkeypatch.setattr(compact_module, "MOST_IMAGES", 4)
    store, rng = new_store(tmp_path / "s.zarr"), np.random.default_rng(0)
    commit(store, [(record(f"large {n}"), random_annotation(rng)) for n in range(3)])
    (large,) = chunk_names(store.path)
    for number in range(9):
        commit(store, [(record(f"{number}"), random_annotation(rng))])
    with writing(store.path) as held:
        held.commit([(replace(held["large 1"].record, key="twin"), None)])
    store.refresh()
    before = said(store)
    assert compact(store.path).after == 4
    assert large in chunk_names(store.path)
    assert said(open_store(store.path)) == before
    assert open_store(store.path)["twin"].record.chunk == large, "its arrays stay where they are"
    monkeypatch.setattr(compact_module, "MOST_BYTES", 1)
    names = chunk_names(store.path)
    compact(store.path)
    assert chunk_names(store.path) == names, "what would be too large together stays"


def test_a_removal_stays_while_an_earlier_record_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact_module, "SMALL", 3)
    store, rng = new_store(tmp_path / "s.zarr"), np.random.default_rng(0)
    commit(store, [(record(f"large {n}"), random_annotation(rng)) for n in range(3)])
    commit(store, [(record("small"), random_annotation(rng))])
    with writing(store.path) as held:
        held.remove(["large 1"], "gone")
        held.remove(["small"], "gone")
    compact(store.path)
    assert list(open_store(store.path)) == ["large 0", "large 2"]
    kept = open_store(store.path).records.commits.records
    assert [r.key for records in kept.values() for r in records if r.outcome == "removed"] == ["large 1"]


def test_a_damaged_image_keeps_its_commit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = years(tmp_path / "s.zarr")
    holder = store["3.png"].record.chunk
    (shard,) = (store.path / "chunks" / holder / "labels" / "c").glob("*")
    data = shard.read_bytes()
    shard.write_bytes(bytes([data[0] ^ 255, *data[1:]]))
    assert main(["compact", str(store.path)]) == 4
    assert "1 images are damaged" in capsys.readouterr().out
    assert holder in chunk_names(store.path)
    assert list(verify(store.path).bad) == ["3.png"]
    assert len(chunk_names(store.path)) == 2


def test_a_reader_gets_the_right_data_or_is_told_to_refresh(tmp_path: Path) -> None:
    store = years(tmp_path / "s.zarr")
    expected = {key: image.labels.tolist() for key, image in store.items()}
    fresh = open_store(store.path)
    compact(store.path)
    for opened in (store, fresh):
        for key, image in opened.items():
            try:
                assert image.labels.tolist() == expected[key]
            except StoreError:
                continue
        opened.refresh()
        assert {key: image.labels.tolist() for key, image in opened.items()} == expected


def test_while_another_process_writes_nothing_is_gathered(tmp_path: Path) -> None:
    store = years(tmp_path / "s.zarr")
    with writing(store.path), pytest.raises(BusyError):
        compact(store.path)


KILLED = """
import os, sys
from pathlib import Path
from ovlabel import files
from ovlabel.store import layout, write
from ovlabel.store.compact import compact

left = [int(sys.argv[2])]

def dying(whole):
    def call(*values, **named):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), 9)
        return whole(*values, **named)
    return call

files.put, files.sync_folder, write.remove = dying(files.put), dying(files.sync_folder), dying(write.remove)
compact(sys.argv[1])
"""


def test_a_kill_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    store = years(tmp_path / "s.zarr", nights=3)
    before = said(store)
    for moment in range(0, 40, 6):
        line = [sys.executable, "-c", KILLED, str(store.path), str(moment)]
        ended = subprocess.run(line, cwd=Path(__file__).parents[2], check=False, stderr=subprocess.DEVNULL)
        assert said(open_store(store.path)) == before
        assert verify(store.path).clean
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL
    assert len(chunk_names(store.path)) == 1


def test_the_command_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = years(tmp_path / "s.zarr")
    assert main(["compact", str(store.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"before": 13, "after": 1, "damaged": {}}
    assert main(["compact", str(store.path)]) == 0
    assert capsys.readouterr().out == f"1 commits became 1 in {store.path}\n"
    assert main(["compact", str(tmp_path / "nowhere")]) == 4
    assert os.listdir(tmp_path) == ["photographs", "s.zarr"] or sorted(os.listdir(tmp_path)) == [
        "photographs",
        "s.zarr",
    ]
