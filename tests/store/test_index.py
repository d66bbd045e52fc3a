"""The index of a large store: it changes what opening costs, and nothing that is seen."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovlabel.errors import StoreError
from ovlabel.store import records as records_module
from ovlabel.store.index import FAILED
from ovlabel.store.layout import INDEX, Shard, partial_files
from ovlabel.store.read import Store, open_store
from ovlabel.store.record import Record
from ovlabel.store.verify import repair, verify
from ovlabel.store.write import StoreWriter, writing
from ovlabel.types import Annotation, ImageItem, ImageList
from tests.store.test_store import failure, new_store, random_annotation, record

KEYS = ["a", "b/c", "d", "e\udcff.png", "f\n", "ü", "z" * 200]


@pytest.fixture(autouse=True)
def small_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three images are a large store here."""
    monkeypatch.setattr(records_module, "FRESH_IMAGES", 3)
    monkeypatch.setattr(records_module, "FRESH_COMMITS", 3)


def annotation(seed: int = 0) -> Annotation:
    return random_annotation(np.random.default_rng(seed))


def filled(path: Path, keys: list[str] = KEYS) -> Store:
    """A store with an index that covers it; the last key has failed."""
    store = new_store(path)
    with writing(store.path) as held:
        held.commit([(record(key), annotation(place)) for place, key in enumerate(keys[:-1])])
        held.commit([(failure(keys[-1]), None)])
    (path / INDEX).unlink()
    with writing(store.path):
        pass
    assert open_store(path).records.index is not None
    return open_store(path)


def seen(store: Store) -> dict[str, Any]:
    """Everything that a store says of its images."""
    items = ImageList.of(store.folder, [(key, 10, 20) for key in sorted({*KEYS, *"pqrstuvwxyz", "0"})])
    return {
        "records": dict(store.records),
        "done": list(store),
        "failed": store.failed,
        "lengths": (len(store), len(store.records)),
        "pending": [[item.key for item in store.pending(items, retry_failed=again)] for again in (False, True)],
        "tally": store.records.tally(items),
        "damaged": store.damaged,
        "unfinished": store.unfinished,
        "labels": {key: image.labels.tolist() for key, image in store.items()},
    }


def assert_same(path: Path) -> None:
    """With the index and without it the store says the same."""
    plain = open_store(path)
    plain.refresh(everything=True)
    indexed = open_store(path)
    assert seen(indexed) == seen(plain)
    for kept in plain.records.values():
        twin = indexed.like(kept.sha256)
        assert (twin is None) == (plain.like(kept.sha256) is None)
        assert twin is None or (twin.sha256, twin.outcome) == (kept.sha256, "done")


# ---------------------------------------------------------------- the same with it as without it

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["done", "done", "failed", "removed", "twin", "free", "open", "refresh"]),
        st.lists(st.sampled_from("pqrstuvwxyz0"), min_size=1, max_size=4, unique=True),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=20)
@given(steps=STEPS, name=st.uuids())
def test_a_store_says_the_same_with_an_index_and_without(
    steps: list[tuple[str, list[str]]], name: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("s") / "s.zarr"
    new_store(path)
    number = 0
    rest = iter(steps)
    more = True
    while more:
        more = False
        with writing(path) as held:
            for what, keys in rest:
                if what == "open":
                    more = True
                    break
                number += 1
                step(held, what, keys, number)
        assert_same(path)


def step(held: StoreWriter, what: str, keys: list[str], number: int) -> None:
    if what == "done":
        held.commit([(record(key, f"{key} {number}"), annotation(number)) for key in keys])
    elif what == "failed":
        held.commit([(failure(key), None) for key in keys])
    elif what == "removed":
        held.remove(keys, "gone")
    elif what == "twin" and len(held):
        first = held[next(iter(held))].record
        held.commit([(replace(first, key=key), None) for key in keys])
    elif what == "free":
        held.free()
    elif what == "refresh":
        held.refresh()
    assert held.records.keys() >= {*held}


def test_shards_side_by_side_lose_nothing(tmp_path: Path) -> None:
    path = new_store(tmp_path / "s.zarr").path
    with writing(path, Shard(1, 2)) as one, writing(path, Shard(2, 2)) as two:
        one.commit([(record("a"), annotation()), (record("b"), annotation())])
        two.commit([(record("c"), annotation()), (failure("d"), None), (record("e"), annotation())])
        two.commit([(record("f"), annotation())])
        one.commit([(record("g"), annotation())])
        one.commit([(record("h"), annotation())])
    assert list(open_store(path)) == ["a", "b", "c", "e", "f", "g", "h"]
    assert_same(path)


def test_the_order_of_commits_decides_also_where_a_late_one_has_a_lower_number(tmp_path: Path) -> None:
    path = new_store(tmp_path / "s.zarr").path
    with writing(path, Shard(1, 2)) as late:
        late.next_number()  # 1
        with writing(path, Shard(2, 2)) as held:
            for seed in range(3):
                held.commit([(record("a", f"a {seed}"), annotation(seed)), (record(f"b{seed}"), annotation(seed))])
            held.remove(["b0"], "gone")
        late.commit([(record("a", "old"), annotation(9)), (record("b0"), annotation(9)), (record("n"), annotation(9))])
    assert open_store(path).records.index is not None
    assert open_store(path)["a"].record.sha256 == "a 2"
    assert list(open_store(path)) == ["a", "b1", "b2", "n"]
    assert_same(path)


def test_a_record_whose_arrays_come_back_counts_again(tmp_path: Path) -> None:
    store = filled(tmp_path / "s.zarr")
    first = min(path.name for path in (store.path / "chunks").iterdir() if path.is_dir())
    with writing(store.path) as held:
        held.commit([(replace(held["a"].record, key="t"), None), (record("u"), annotation()), (failure("v"), None)])
    shutil.move(store.path / "chunks" / first, tmp_path / first)
    with writing(store.path):
        pass
    assert list(open_store(store.path)) == ["u"]
    assert_same(store.path)
    shutil.move(tmp_path / first, store.path / "chunks" / first)
    assert "t" in open_store(store.path)
    assert_same(store.path)


# ---------------------------------------------------------------- stale, damaged, hostile


def rewritten(path: Path, change: Callable[[dict[str, Any]], Any], save: Callable[..., None] = np.savez) -> None:
    with np.load(path) as archive:
        parts = dict(archive)
    change(parts)
    with path.open("wb") as file:
        save(file, **parts)


def saved(path: Path, save: Callable[..., None], values: Any) -> None:
    with path.open("wb") as file:
        save(file, values)


def shaped(parts: dict[str, Any], name: str, values: Any) -> None:
    parts[name] = values


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("nothing"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "array": lambda path: saved(path, np.save, np.zeros(3)),
    "pickle": lambda path: saved(path, np.savez, np.array([{}], object)),
    "compressed": lambda path: rewritten(path, lambda parts: None, np.savez_compressed),
    "bomb": lambda path: saved(path, np.savez_compressed, np.zeros(2**27, np.uint8)),
    "sparse": lambda path: os.truncate(path, 2**40),
    "device": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
    "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "unsorted": lambda path: rewritten(path, lambda p: shaped(p, "keys", p["keys"][::-1].copy())),
    "no keys": lambda path: rewritten(path, lambda p: shaped(p, "keys", p["keys"][:0])),
    "astray": lambda path: rewritten(path, lambda p: shaped(p, "commits", p["commits"] + 9)),
    "below": lambda path: rewritten(path, lambda p: shaped(p, "arrays", p["arrays"] - 9)),
    "types": lambda path: rewritten(path, lambda p: shaped(p, "sizes", p["sizes"].astype(np.float32))),
    "short": lambda path: rewritten(path, lambda p: shaped(p, "times", p["times"][1:])),
    "deep": lambda path: rewritten(path, lambda p: shaped(p, "about", np.full(10**5, ord("["), np.uint8))),
    "latin": lambda path: rewritten(path, lambda p: shaped(p, "keys", np.full(9, 255, np.uint8))),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.usefixtures("no_hang")
def test_an_index_that_is_damaged_or_hostile_is_passed_over(name: str, tmp_path: Path) -> None:
    store = filled(tmp_path / "s.zarr")
    HOSTILE[name](store.path / INDEX)
    assert open_store(store.path).records.index is None
    assert_same(store.path)
    if name != "folder":
        with writing(store.path):
            pass
        assert open_store(store.path).records.index is not None, "the next writer replaces it"


def test_a_flipped_bit_anywhere_changes_nothing(tmp_path: Path) -> None:
    store = filled(tmp_path / "s.zarr")
    index, expected = store.path / INDEX, seen(store)
    data = index.read_bytes()
    for place in range(0, len(data), 13):
        index.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        opened = open_store(store.path)
        assert (list(opened), dict(opened.records)) == (expected["done"], expected["records"])


def test_the_index_of_another_store_is_passed_over(tmp_path: Path) -> None:
    store, other = filled(tmp_path / "s.zarr"), filled(tmp_path / "t.zarr", ["x", "y", "z", "w"])
    shutil.copy(other.path / INDEX, store.path / INDEX)
    assert_same(store.path)


def test_what_lies_about_a_place_is_an_error_and_no_other_image(tmp_path: Path) -> None:
    store = filled(tmp_path / "s.zarr")
    rewritten(store.path / INDEX, lambda parts: shaped(parts, "lines", parts["lines"][::-1].copy()))
    with pytest.raises(StoreError, match="does not fit the commits; remove that file"):
        dict(open_store(store.path).records)


@pytest.mark.parametrize("change", ["touched", "damaged", "removed", "unfinished"])
def test_a_commit_that_changed_makes_the_index_stale(change: str, tmp_path: Path) -> None:
    store = filled(tmp_path / "s.zarr")
    first = min(path for path in (store.path / "chunks").iterdir() if path.is_dir())
    metadata = first / "zarr.json"
    if change == "touched":
        os.utime(metadata, ns=(1, 1))
    elif change == "damaged":
        metadata.write_bytes(metadata.read_bytes().replace(b'"crc32": ', b'"crc32": 1'))
    elif change == "removed":
        shutil.rmtree(first)
    else:
        metadata.unlink()
    assert open_store(store.path).records.index is None
    assert_same(store.path)


def test_damage_that_keeps_size_and_time_is_found_when_the_commit_is_read(tmp_path: Path) -> None:
    store = filled(tmp_path / "s.zarr")
    first = min(path for path in (store.path / "chunks").iterdir() if path.is_dir())
    metadata, stat = first / "zarr.json", (first / "zarr.json").stat()
    metadata.write_bytes(metadata.read_bytes().replace(b'"size": 10', b'"size": 11', 1))
    os.utime(metadata, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    opened = open_store(store.path)
    with pytest.raises(StoreError, match=r"was removed or damaged .*checksum.*; open it again"):
        opened["a"]
    assert list(verify(store.path).records) == [first.name], "verify reads the commits themselves"
    repair(store.path)
    assert_same(store.path)
    assert list(open_store(store.path)) == []


def test_a_store_that_can_not_be_written_to_is_read_without_an_index(tmp_path: Path) -> None:
    store = filled(tmp_path / "s.zarr")
    (store.path / INDEX).unlink()
    (store.path / INDEX).mkdir()
    with writing(store.path) as held:
        held.commit([(record("new"), annotation())])
    assert "new" in open_store(store.path)
    assert partial_files(store.path) == []


def test_an_index_that_was_never_finished_is_cleared_away(tmp_path: Path) -> None:
    store = filled(tmp_path / "s.zarr")
    (store.path / f"{INDEX}.0123abcd.partial").write_bytes(b"half")
    assert partial_files(store.path) == [f"{INDEX}.0123abcd.partial"]
    with writing(store.path) as held:
        held.clear_unfinished()
    assert partial_files(store.path) == []
    assert (store.path / INDEX).exists()


@pytest.mark.parametrize("kept", [Record("a", 2**62, 0), Record("a", 1, 2**63 + 5), Record("a", 1, -5)])
def test_numbers_of_any_size_are_the_same_with_an_index(kept: Record, tmp_path: Path) -> None:
    path = new_store(tmp_path / "s.zarr").path
    with writing(path) as held:
        held.commit([(kept, annotation()), (record("b"), annotation()), (record("c"), annotation())])
    assert_same(path)
    item = ImageItem("a", Path("a"), kept.size, kept.mtime_ns)
    assert list(open_store(path).pending([item])) == []


# ---------------------------------------------------------------- what it saves


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of all records that are made from commits."""
    keys: list[str] = []
    whole = Record.from_json.__func__  # type: ignore[attr-defined]

    def noted(cls: type[Record], values: dict[str, Any]) -> Record:
        keys.append(values["key"])
        return whole(cls, values)  # type: ignore[no-any-return]

    monkeypatch.setattr(Record, "from_json", classmethod(noted))
    return keys


def test_no_record_is_made_before_it_is_asked_for(tmp_path: Path, made: list[str]) -> None:
    store = filled(tmp_path / "s.zarr")
    items = [ImageItem(key, store.folder / key, 10, 20) for key in KEYS]
    made.clear()
    opened = open_store(store.path)
    assert (len(opened), opened.records.count(FAILED), opened.pending(items)) == (len(KEYS) - 1, 1, [])
    assert opened.records.tally(ImageList.of(store.folder, [(i.key, i.size, i.mtime_ns) for i in items])).done == 6
    assert list(opened) == sorted(KEYS[:-1])
    opened.refresh()
    with writing(store.path, known=opened):
        pass
    assert made == []
    assert opened["a"].record.key == "a"
    assert len(made) == len(KEYS) - 1, "the commit that holds it"


def test_a_small_store_has_no_index(tmp_path: Path) -> None:
    path = new_store(tmp_path / "s.zarr").path
    with writing(path) as held:
        held.commit([(record("a"), annotation())])
    assert not (path / INDEX).exists()


# ---------------------------------------------------------------- threads


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.usefixtures("no_hang")
def test_threads_read_while_the_store_is_refreshed(indexed: bool, tmp_path: Path) -> None:
    store = filled(tmp_path / "s.zarr")
    if not indexed:
        (store.path / INDEX).unlink()
        store.refresh(everything=True)
    expected, ended, failures, reads = seen(store), threading.Event(), list[BaseException](), [0]

    def read() -> None:
        try:
            while not ended.is_set():
                assert list(store) == expected["done"]
                assert store["a"].labels.tolist() == expected["labels"]["a"]
                assert (len(store), list(store.failed)) == (len(KEYS) - 1, KEYS[-1:])
                reads[0] += 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        store.refresh()
    ended.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert reads[0] > 4


@pytest.mark.usefixtures("no_hang")
def test_threads_read_while_a_writer_commits(tmp_path: Path) -> None:
    store = filled(tmp_path / "s.zarr")
    failures, ended = list[BaseException](), threading.Event()
    with writing(store.path) as held:

        def read() -> None:
            try:
                while not ended.is_set():
                    assert {*KEYS[:-1]} <= {*held}
                    assert held.records["a"].key == "a"
                    assert len(held.records) >= len(KEYS)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(12):
            held.commit([(failure(f"new {number}"), None)])
        ended.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert len(open_store(store.path).failed) == 13
