"""Only `with writing(…)` writes to a store, and only a store's own parts are ever deleted."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovlabel.errors import BusyError, StoreError
from ovlabel.store.layout import partial_files, remove
from ovlabel.store.manifest import Manifest, read_manifest
from ovlabel.store.read import Store, open_store
from ovlabel.store.verify import repair, verify
from ovlabel.store.write import StoreWriter, writing
from ovlabel.text.vocabulary import load_vocabulary
from tests.store.test_store import failure, new_store, only_chunk, random_annotation, record

WRITES: dict[str, Callable[[Any], Any]] = {
    "commit": lambda store: store.commit([(failure("x"), None)]),
    "adopt": lambda store: store.adopt("00000009-0123abcd", [failure("x")]),
    "remove": lambda store: store.remove(["a"], "no reason"),
    "discard": lambda store: store.discard(only_chunk(store).name),
    "free": lambda store: store.free(),
    "clear_unfinished": lambda store: store.clear_unfinished(),
    "settle": lambda store: store.settle(store.path.parent, load_vocabulary("classes:x"), {"other": 1}),
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store of one image, "a"."""
    store = new_store(tmp_path / "s.zarr")
    with writing(store.path) as held:
        held.commit([(record("a"), random_annotation(np.random.default_rng(0)))])
    store.refresh()
    return store


def content(path: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(path)): p.read_bytes() if p.is_file() else None for p in sorted(path.rglob("*"))}


# ---------------------------------------------------------------- who writes


@pytest.mark.parametrize("name", WRITES)
def test_a_reader_has_no_method_that_writes(name: str, store: Store) -> None:
    before = content(store.path)
    with pytest.raises(AttributeError, match=name):
        WRITES[name](open_store(store.path))
    assert content(store.path) == before


def test_every_method_that_a_writer_adds_is_known_here() -> None:
    added = {name for name in vars(StoreWriter) if not name.startswith("_")}
    assert added - {"next_number", "check_writable"} == WRITES.keys()


@pytest.mark.parametrize("name", WRITES)
def test_nothing_is_written_after_the_block(name: str, store: Store) -> None:
    with writing(store.path) as held:
        pass
    before = content(store.path)
    with pytest.raises(StoreError, match="which is over"):
        WRITES[name](held)
    assert content(store.path) == before
    assert list(held) == ["a"], "reading goes on"


@pytest.mark.parametrize("name", WRITES)
def test_nothing_is_written_once_the_lock_is_lost(name: str, store: Store) -> None:
    with writing(store.path) as held:
        lock = store.path / ".lock"
        own = lock.read_bytes()
        lock.write_text(json.dumps({"token": "another", "pid": 7}))
        before = content(store.path)
        with pytest.raises(BusyError, match="took the lock over"):
            WRITES[name](held)
        assert content(store.path) == before
        lock.write_bytes(own)


def hold(path: Path) -> None:
    with writing(path):
        pass


@pytest.mark.parametrize("work", [hold, repair])
def test_a_path_without_a_store_gets_no_folder(work: Callable[[Path], Any], tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        work(tmp_path / "deep" / "s.zarr")
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_made_once_the_lock_is_held(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"

    def make() -> Manifest:
        assert (path / ".lock").exists()
        return Manifest.new(path, tmp_path, load_vocabulary("classes:x"), {"store": {"probabilities": "none"}}, {})

    with writing(path, create=make) as held:
        identity = held.manifest.id
    with writing(path, create=make) as held:
        assert held.manifest.id == identity, "a store that is there is taken"


@pytest.mark.parametrize("kind", [str, Path, open_store])
def test_verify_and_repair_take_a_store_or_its_path(kind: Callable[[Path], Any], store: Store) -> None:
    assert verify(kind(store.path)).images == 1
    assert repair(kind(store.path)).repaired


# ---------------------------------------------------------------- what is deleted


OTHER_NAMES = [
    *("", ".", "..", "../s.zarr", "/etc", "zarr.json", "notes.partial", ".lockfile"),
    *("chunks/", "chunks/..", "chunks/zarr.json", "chunks/notes.txt", "chunks/my.partial"),
    *("chunks/00000001-5f0c3a9e/labels", "chunks/00000001-5f0c3a9e/..", "chunks/00000001-5F0C3A9E"),
]


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_what_is_no_part_of_a_store_is_not_removed(name: str, store: Store) -> None:
    before = content(store.path.parent)
    with pytest.raises(StoreError, match="no part of a store"):
        remove(store.path, name)
    assert content(store.path.parent) == before


def test_the_parts_of_a_store_are_removed(store: Store) -> None:
    chunk = only_chunk(store)
    for name in (
        "zarr.json.0123abcd.partial",
        "zarr.0123.partial",
        "chunks/zarr.json.0.partial",
        ".lock",
        ".lock-2of4",
    ):
        (store.path / name).write_text("x")
        remove(store.path, name)
        assert not (store.path / name).exists()
    remove(store.path, "chunks")
    assert chunk.is_dir(), "a folder that holds something stays"
    remove(store.path, f"chunks/{chunk.name}")
    remove(store.path, f"chunks/{chunk.name}")
    assert not chunk.exists()


@pytest.mark.parametrize("name", ["chunks", "chunks/00000009-0123abcd", "zarr.0.partial", ".lock"])
def test_nothing_is_removed_through_a_link(name: str, store: Store, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "00000009-0123abcd"
    elsewhere.mkdir(parents=True)
    (elsewhere / "zarr.json").write_text("precious")
    if name == "chunks":
        (store.path / "chunks").rename(tmp_path / "chunks")
        name = "chunks/00000009-0123abcd"
        (store.path / "chunks").symlink_to(elsewhere.parent)
    else:
        (store.path / name).symlink_to(elsewhere if "chunks" in name else elsewhere / "zarr.json")
    with pytest.raises(StoreError, match="is a link"):
        remove(store.path, name)
    assert (elsewhere / "zarr.json").read_text() == "precious"


def test_unfinished_files_are_cleared_and_those_of_others_are_left(store: Store) -> None:
    mine, left = store.path / "mine.partial", store.path / "chunks" / "zarr.json.0a.partial"
    mine.write_text("mine")
    left.write_text("left")
    assert partial_files(store.path) == ["chunks/zarr.json.0a.partial"]
    with writing(store.path) as held:
        held.clear_unfinished()
    assert mine.read_text() == "mine"
    assert not left.exists()


# ---------------------------------------------------------------- the manifest


def test_attributes_of_other_programs_are_kept(store: Store) -> None:
    root = store.path / "zarr.json"
    node = json.loads(root.read_text())
    node["attributes"]["reviewed by"] = ["me"]
    root.write_text(json.dumps(node))
    with writing(store.path) as held:
        held.settle(held.folder, load_vocabulary("classes:x"), {"other": 1})
    attributes = json.loads(root.read_text())["attributes"]
    assert attributes["reviewed by"] == ["me"]
    assert attributes["written"] == {"other": 1}
    assert read_manifest(store.path).others == {"reviewed by": ["me"]}


def test_a_manifest_can_not_be_changed_in_place(store: Store) -> None:
    for name in ("id", "classes", "run"):
        with pytest.raises(AttributeError):
            setattr(store.manifest, name, None)
    with pytest.raises(AttributeError):
        store.classes[0].name = "dog"  # type: ignore[misc]


@pytest.mark.parametrize("number", [True, False, 0.0, "", None])
def test_an_id_that_is_no_whole_number_is_none(number: Any, store: Store) -> None:
    attributes = store.manifest.to_json()
    entries = [{**entry, "id": number} for entry in attributes["vocabulary"]]
    made = partial(Manifest.from_json, store.path, {**attributes, "vocabulary": entries})
    if number is True:
        with pytest.raises(StoreError, match="vocabulary missing or not what they must be"):
            made()
    else:
        assert {entry.id for entry in made().classes} == {None}
