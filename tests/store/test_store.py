"""The Zarr store: what is written comes back, what was never committed never counts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from ovlabel import files
from ovlabel.cli import main
from ovlabel.errors import BusyError, RunError, StoreError
from ovlabel.run.identity import check_run, differences
from ovlabel.store.layout import exists
from ovlabel.store.manifest import Manifest
from ovlabel.store.read import Store, TopProbabilities, open_store
from ovlabel.store.record import Record
from ovlabel.store.write import create_store
from ovlabel.text.vocabulary import Vocabulary, VocabularyClass
from ovlabel.types import Annotation, ImageItem
from tests.conftest import commit, writing

RUN: dict[str, Any] = {
    "encoder": {"model": {"embed_dim": 32}, "weights": "abc"},
    "text": {"vocabulary": {"classes": [{"name": "cat"}], "background": None}, "templates": "x"},
    "tiling": {"short_side": 336, "scales": [1.0]},
    "store": {"probabilities": "top5"},
    "stages": [{"use": "qq"}],
}
KINDS_OF_STORE = ["none", "top1", "top5", "full"]


def new_store(path: Path, classes: int = 3, keep: str = "top5", folder: Path | None = None) -> Store:
    folder = folder or path.parent / "photographs"
    folder.mkdir(exist_ok=True)
    entries = (VocabularyClass(f"class {i}", colour=(i % 256, 0, 0)) for i in range(classes))
    vocabulary = Vocabulary("given", "given", "", tuple(entries))
    run = {**RUN, "store": {"probabilities": keep}}
    create_store(path, Manifest.new(path, folder, vocabulary, run, {"version": "0"}))
    return open_store(path)


def random_annotation(
    rng: np.random.Generator,
    size: tuple[int, int] = (6, 8),
    working: tuple[int, int] = (4, 5),
    classes: int = 3,
    keep: str = "top5",
) -> Annotation:
    dtype = np.uint8 if classes <= 254 else np.uint16
    k = {"none": 0, "full": classes}.get(keep) if not keep.startswith("top") else min(int(keep[3:]), classes)
    shape = (k, *working)
    return Annotation(
        labels=rng.integers(0, classes, size).astype(dtype),
        confidence=rng.integers(0, 256, size, dtype=np.uint8),
        classes=rng.integers(0, classes, shape).astype(dtype) if keep.startswith("top") else None,
        probabilities=rng.integers(0, 256, shape, dtype=np.uint8) if k else None,
        working_size=working,
    )


def record(key: str, sha256: str = "") -> Record:
    return Record(key, 10, 20, sha256 or f"hash of {key!r}")


def failure(key: str) -> Record:
    return Record(key, 10, 20, outcome="failed", stage="read", error="the file is empty")


def assert_kept(store: Store, key: str, annotation: Annotation) -> None:
    image = store[key]
    assert image.labels.dtype == annotation.labels.dtype
    np.testing.assert_array_equal(image.labels, annotation.labels)
    np.testing.assert_array_equal(image.confidence, annotation.confidence.astype(np.float32) / np.float32(255))
    kept = image.probabilities
    if annotation.probabilities is None:
        assert kept is None
        return
    values = annotation.probabilities.astype(np.float32) / np.float32(255)
    if annotation.classes is None:
        assert isinstance(kept, np.ndarray)
        np.testing.assert_array_equal(kept, values)
    else:
        assert isinstance(kept, TopProbabilities)
        assert kept.classes.dtype == annotation.classes.dtype
        np.testing.assert_array_equal(kept.classes, annotation.classes)
        np.testing.assert_array_equal(kept.values, values)


def only_chunk(store: Store) -> Path:
    (chunk,) = (path for path in (store.path / "chunks").iterdir() if path.is_dir())
    return chunk


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return new_store(tmp_path / "s.zarr")


# ---------------------------------------------------------------- round trip


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=4),
    working=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    classes=st.sampled_from([1, 3, 254, 255, 300]),
    keep=st.sampled_from(KINDS_OF_STORE),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_is_committed_comes_back_exactly(
    sizes: list[tuple[int, int]],
    working: tuple[int, int],
    classes: int,
    keep: str,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    rng = np.random.default_rng(seed)
    written = new_store(tmp_path_factory.mktemp("roundtrip") / "s.zarr", classes, keep)
    made = {f"{i}.jpg": random_annotation(rng, size, working, classes, keep) for i, size in enumerate(sizes)}
    with writing(written) as held:
        held.commit([(record(key), annotation) for key, annotation in made.items()])
    for opened in (held, open_store(written.path)):
        assert list(opened) == sorted(made)
        for key, annotation in made.items():
            assert_kept(opened, key, annotation)


def test_images_larger_than_an_inner_chunk_come_back_exactly(store: Store, rng: np.random.Generator) -> None:
    made = {name: random_annotation(rng, (300, 251), (60, 50)) for name in ("a", "b", "c")}
    commit(store, [(record(name), annotation) for name, annotation in made.items()])
    for name, annotation in made.items():
        assert_kept(open_store(store.path), name, annotation)


@pytest.mark.parametrize(("classes", "dtype", "nothing"), [(254, np.uint8, 255), (255, np.uint16, 65535)])
def test_labels_are_as_wide_as_the_vocabulary_needs(
    classes: int, dtype: type, nothing: int, tmp_path: Path, rng: np.random.Generator
) -> None:
    store = new_store(tmp_path / "s.zarr", classes)
    commit(store, [(record("a"), random_annotation(rng, classes=classes))])
    array = zarr.open_array(only_chunk(store) / "labels", mode="r")
    assert array.dtype == dtype
    assert array.fill_value == nothing
    assert store.manifest.labels == {
        "dtype": np.dtype(dtype).name,
        "not_annotated": nothing,
        "below_threshold": nothing - 1,
    }


HOSTILE_KEYS = [
    "two\nlines.jpg",
    os.fsdecode(b"caf\xe9\xff.jpg"),
    "x.jpg",
    "x.jpg/y.jpg",
    "a.jpg",
    "A.jpg",
    "größe 写真 🐈.jpg",
    "zarr.json",
    "labels",
    "c/0",
    "__proto__",
    "a" * 250 + ".jpg",
]


def test_any_key_is_kept_as_it_is(store: Store, rng: np.random.Generator) -> None:
    made = {key: random_annotation(rng) for key in HOSTILE_KEYS}
    with writing(store) as held:
        for start in range(0, len(HOSTILE_KEYS), 3):
            held.commit([(record(key), made[key]) for key in HOSTILE_KEYS[start : start + 3]])
    opened = open_store(store.path)
    assert set(opened) == set(HOSTILE_KEYS)
    assert [image.key for image in opened.values()] == sorted(HOSTILE_KEYS)
    for key in HOSTILE_KEYS:
        assert_kept(opened, key, made[key])
    assert sorted(path.name for path in store.path.iterdir()) == ["chunks", "zarr.json"]


@settings(max_examples=20, deadline=None)
@given(names=st.sets(st.text(min_size=1).map(lambda text: text.replace("\0", "")), min_size=1, max_size=5))
def test_any_text_is_a_key(names: set[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    store = new_store(tmp_path_factory.mktemp("keys") / "s.zarr", keep="none")
    commit(store, [(record(name), random_annotation(np.random.default_rng(0), keep="none")) for name in names])
    assert set(open_store(store.path)) == names


@given(
    made=st.builds(
        Record,
        key=st.lists(st.text("ab \n\udc80.é", min_size=3), min_size=1).map("/".join),
        size=st.integers(0),
        mtime_ns=st.integers(0),
        sha256=st.text(),
        outcome=st.just("done"),
        stage=st.text(),
        exception=st.text(),
        error=st.text(),
        time=st.text(),
        attempts=st.integers(0),
        more_frames=st.booleans(),
        height=st.integers(0),
        width=st.integers(0),
        working=st.tuples(st.integers(0), st.integers(0)),
        chunk=st.text(),
        pixel=st.integers(0),
        map=st.integers(0),
        maps=st.integers(0),
        sums=st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=4).map(tuple),
        reduced=st.booleans(),
    )
)
def test_a_record_survives_json(made: Record) -> None:
    assert Record.from_json(json.loads(json.dumps(made.to_json()))) == made


@pytest.mark.parametrize("key", ["../up.jpg", "a/../../b.jpg", "/etc/passwd", "", ".", "a\0b"])
def test_a_key_that_leads_out_of_the_folder_is_no_record(key: str, store: Store, rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="leads out of the folder"):
        Record.from_json({**record("a").to_json(), "key": key, "sums": [1, 2]})
    commit(store, [(record(key), random_annotation(rng)), (record("a"), random_annotation(rng))])
    (reason,) = open_store(store.path).damaged.values()
    assert "leads out of the folder" in reason
    assert len(open_store(store.path)) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": "1"}, {"height": -1}, {"working": [1]}, {"working": [1, "2"]}, {"sums": [1]}, {"sums": [1, True]},
        {"key": 3}, {"outcome": None}, {"maps": 1.5}, {"pixel": -5},
    ],
)  # fmt: skip
def test_what_is_no_record_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Record.from_json({**record("a").to_json(), "sums": [1, 2], **wrong})


def test_plain_zarr_reads_a_store(store: Store, rng: np.random.Generator) -> None:
    made = {name: random_annotation(rng, size) for name, size in [("a", (3, 4)), ("b", (5, 2)), ("c", (1, 1))]}
    commit(store, [(record("a"), made["a"]), (failure("bad"), None), (record("b"), made["b"])])
    commit(store, [(record("c"), made["c"])])

    root = zarr.open_group(store.path, mode="r")
    seen = {}
    for name, chunk in root["chunks"].groups():
        for line in chunk.attrs["images"]:
            if line["outcome"] != "done":
                continue
            holder = root["chunks"][line.get("chunk", name)]
            height, width = line["height"], line["width"]
            start = line.get("pixel", 0)
            labels = holder["labels"][start : start + height * width].reshape(height, width)
            k, (h, w) = line["maps"], line["working"]
            start = line.get("map", 0)
            classes = holder["classes"][start : start + k * h * w].reshape(k, h, w)
            probabilities = holder["probabilities"][start : start + k * h * w].reshape(k, h, w) / 255
            seen[line["key"]] = (labels, classes, probabilities)

    assert sorted(seen) == ["a", "b", "c"]
    for name, (labels, classes, probabilities) in seen.items():
        np.testing.assert_array_equal(labels, made[name].labels)
        np.testing.assert_array_equal(classes, made[name].classes)
        np.testing.assert_array_equal(np.rint(probabilities * 255), made[name].probabilities)
    assert root.attrs["classes"] == ["class 0", "class 1", "class 2"]


# ---------------------------------------------------------------- what counts


def damage_none(chunk: Path) -> None:
    (chunk / "zarr.json").unlink()


def damage_torn(chunk: Path) -> None:
    record_file = chunk / "zarr.json"
    record_file.write_bytes(record_file.read_bytes()[:40])


def damage_empty(chunk: Path) -> None:
    (chunk / "zarr.json").write_bytes(b"")


def damage_without_images(chunk: Path) -> None:
    (chunk / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')


def damage_other_json(chunk: Path) -> None:
    (chunk / "zarr.json").write_text("[1, 2]")


def damage_partial(chunk: Path) -> None:
    (chunk / "zarr.json").rename(chunk / "zarr.0123.partial")


DAMAGES = [damage_none, damage_torn, damage_empty, damage_without_images, damage_other_json, damage_partial]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_chunk_without_a_whole_record_never_happened(damage: Any, store: Store, rng: np.random.Generator) -> None:
    kept = random_annotation(rng)
    commit(store, [(record("lost.jpg"), random_annotation(rng))])
    torn = only_chunk(store)
    commit(store, [(record("kept.jpg"), kept)])
    damage(torn)

    opened = open_store(store.path)
    assert list(opened) == ["kept.jpg"]
    item = ImageItem("lost.jpg", Path("lost.jpg"), 10, 20)
    assert opened.pending([item]) == [item]
    assert torn.is_dir()

    recorded = (torn / "zarr.json").exists()
    with writing(opened) as held:
        assert torn.exists() == recorded  # a damaged record is left to look at, an unfinished commit is cleared away
        again = random_annotation(rng)
        held.commit([(record("lost.jpg"), again)])
    assert_kept(open_store(store.path), "kept.jpg", kept)
    assert_kept(open_store(store.path), "lost.jpg", again)


def test_reading_never_removes_anything(store: Store, rng: np.random.Generator) -> None:
    commit(store, [(record("a"), random_annotation(rng))])
    damage_torn(only_chunk(store))
    opened = open_store(store.path)
    opened.refresh()
    assert only_chunk(store).is_dir()


def test_folders_that_are_no_chunks_are_left_alone(store: Store) -> None:
    mine = store.path / "chunks" / "my notes"
    mine.mkdir()
    (mine / "note.txt").write_text("mine")
    with writing(store):
        pass
    assert (mine / "note.txt").read_text() == "mine"


def test_failures_are_kept_apart_with_their_reason(store: Store, rng: np.random.Generator) -> None:
    commit(store, [(record("good"), random_annotation(rng)), (failure("bad"), None)])
    opened = open_store(store.path)
    assert list(opened) == ["good"]
    assert len(opened) == 1
    assert "bad" not in opened
    assert {key: (r.stage, r.error) for key, r in opened.failed.items()} == {"bad": ("read", "the file is empty")}
    with pytest.raises(KeyError, match="the file is empty"):
        opened["bad"]


def test_a_chunk_of_failures_alone_counts(store: Store) -> None:
    commit(store, [(failure("bad"), None), (failure("worse"), None)])
    with writing(open_store(store.path)):
        pass
    assert list(open_store(store.path).failed) == ["bad", "worse"]


def test_a_later_record_replaces_an_earlier_one(store: Store, rng: np.random.Generator) -> None:
    first, second = random_annotation(rng, (3, 3)), random_annotation(rng, (5, 7))
    commit(store, [(record("a"), first), (failure("b"), None)])
    commit(store, [(failure("a"), None), (record("b"), second)])
    for opened in (store, open_store(store.path)):
        assert list(opened) == ["b"]
        assert list(opened.failed) == ["a"]
        assert_kept(opened, "b", second)


def test_commits_go_on_behind_the_last_one_of_an_earlier_process(store: Store, rng: np.random.Generator) -> None:
    commit(store, [(record("a"), random_annotation(rng))])
    opened = open_store(store.path)
    newest = random_annotation(rng)
    with writing(opened) as held:
        held.commit([(record("a"), newest)])
    assert_kept(open_store(store.path), "a", newest)


def test_what_no_record_covers_is_pending_in_the_given_order(store: Store, rng: np.random.Generator) -> None:
    commit(store, [(record("b"), random_annotation(rng)), (failure("d"), None)])
    items = [ImageItem(key, Path(key), 10, 20) for key in ("e", "d", "c", "b", "a")]
    assert [item.key for item in store.pending(items)] == ["e", "c", "a"]


def test_twins_share_the_arrays_of_the_first(store: Store, rng: np.random.Generator) -> None:
    first, other = random_annotation(rng), random_annotation(rng)
    commit(store, [(record("other"), other), (record("a", "same"), first)])
    holder = only_chunk(store).name
    twin = store.like("same")
    assert twin is not None
    assert store.like("unseen") is None
    own = random_annotation(rng)
    commit(store, [(record("own"), own), (replace(twin, key="b"), None)])
    opened = open_store(store.path)
    assert opened["b"].record.chunk == holder
    for key, annotation in {"other": other, "a": first, "b": first, "own": own}.items():
        assert_kept(opened, key, annotation)


def test_a_chunk_of_twins_alone_holds_no_arrays(store: Store, rng: np.random.Generator) -> None:
    first = random_annotation(rng)
    commit(store, [(record("a", "same"), first)])
    twin = open_store(store.path).like("same")
    assert twin is not None
    commit(store, [(replace(twin, key="b"), None)])
    twins = [path for path in (store.path / "chunks").iterdir() if path.name.startswith("00000002-")]
    assert [child.name for child in twins[0].iterdir()] == ["zarr.json"]
    assert_kept(open_store(store.path), "b", first)


def test_pixels_that_were_never_written_are_not_annotated(store: Store, rng: np.random.Generator) -> None:
    commit(store, [(record("a"), random_annotation(rng, (4, 4)))])
    (only_chunk(store) / "labels" / "c" / "0").unlink()
    assert (store["a"].labels == 255).all()
    assert 255 not in range(len(store.classes))


def test_arrays_that_are_gone_are_a_store_error_with_the_key(store: Store, rng: np.random.Generator) -> None:
    commit(store, [(record("a/b.jpg"), random_annotation(rng))])
    shutil.rmtree(only_chunk(store) / "labels")
    with pytest.raises(StoreError, match=r"labels of 'a/b\.jpg'"):
        _ = store["a/b.jpg"].labels


def test_a_flipped_bit_is_noticed(store: Store, rng: np.random.Generator) -> None:
    commit(store, [(record("a"), random_annotation(rng, (60, 60)))])
    shard = only_chunk(store) / "confidence" / "c" / "0"  # noise, which lies in the file as it is
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreError, match="confidence of 'a'"):
        _ = open_store(store.path)["a"].confidence


# ---------------------------------------------------------------- one writer

HOLD = """
import sys
from pathlib import Path
from ovlabel.store.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(store: Store) -> Iterator[subprocess.Popen[str]]:
    """Another process that is writing to the store."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_a_second_writer_is_refused(store: Store, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(BusyError, match=f"process {holder.pid} ") as caught, writing(store):
        pass
    assert str(store.path) in str(caught.value)
    assert len(open_store(store.path)) == 0, "reading goes on"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_writer_lets_go_of_the_store(
    how: signal.Signals, store: Store, holder: subprocess.Popen[str], rng: np.random.Generator
) -> None:
    holder.send_signal(how)
    holder.wait()
    with writing(store) as held:
        held.commit([(record("a"), random_annotation(rng))])
    assert list(open_store(store.path)) == ["a"]


def test_the_store_is_free_again_after_an_error_inside(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), writing(store):
        raise ZeroDivisionError
    with writing(store):
        pass


def test_a_writer_sees_what_was_committed_before_it_got_the_store(store: Store, rng: np.random.Generator) -> None:
    late = open_store(store.path)
    commit(store, [(record("a"), random_annotation(rng))])
    with writing(late) as held:
        assert list(held) == ["a"]
        late.refresh()
        assert list(late) == ["a"]


# ---------------------------------------------------------------- opening


def one_line(error: pytest.ExceptionInfo[StoreError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text


def test_nothing_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as error:
        open_store(tmp_path / "nothing.zarr")
    one_line(error, "nothing.zarr", "does not exist")
    assert not exists(tmp_path / "nothing.zarr")


def test_a_folder_of_something_else_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(StoreError) as error:
        open_store(tmp_path)
    one_line(error, str(tmp_path), "zarr.json")
    with pytest.raises(StoreError) as error:
        exists(tmp_path)
    one_line(error, str(tmp_path), "--out")


@pytest.mark.parametrize("name", [".DS_Store", "@eaDir/a/b.jpg", ".ipynb_checkpoints/x", "lost+found/1", "Thumbs.db"])
def test_what_a_system_keeps_in_a_folder_is_in_no_stores_way(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    assert not exists(tmp_path)


def test_a_file_is_no_store(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"x")
    with pytest.raises(StoreError) as error:
        open_store(path)
    one_line(error, "photo.jpg")
    with pytest.raises(StoreError) as error:
        exists(path)
    one_line(error, "photo.jpg")


def test_a_plain_zarr_group_is_no_store(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "plain.zarr", attributes={"mine": 1})
    with pytest.raises(StoreError) as error:
        open_store(tmp_path / "plain.zarr")
    one_line(error, "plain.zarr", "not made by ovlabel")


def test_a_plain_zarr_array_is_no_store(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "array.zarr", shape=(3,), dtype="u1")
    with pytest.raises(StoreError) as error:
        open_store(tmp_path / "array.zarr")
    one_line(error, "array.zarr", "not made by ovlabel")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"3", b"{}"])
def test_a_damaged_root_is_a_store_error(content: bytes, store: Store) -> None:
    (store.path / "zarr.json").write_bytes(content)
    with pytest.raises(StoreError) as error:
        open_store(store.path)
    one_line(error, str(store.path))


def test_a_store_of_another_format_says_which(store: Store) -> None:
    node = json.loads((store.path / "zarr.json").read_text())
    node["attributes"]["ovlabel_format"] = 99
    (store.path / "zarr.json").write_text(json.dumps(node))
    with pytest.raises(StoreError) as error:
        open_store(store.path)
    one_line(error, "99", "2")


def test_an_empty_folder_is_free_to_become_a_store(tmp_path: Path) -> None:
    (tmp_path / "s.zarr").mkdir()
    assert not exists(tmp_path / "s.zarr")
    assert len(new_store(tmp_path / "s.zarr")) == 0
    assert exists(tmp_path / "s.zarr")


def test_store_and_photographs_move_together(tmp_path: Path, rng: np.random.Generator) -> None:
    home = tmp_path / "home"
    home.mkdir()
    store = new_store(home / "photographs.ovlabel.zarr")
    (home / "photographs" / "a.jpg").write_bytes(b"x")
    commit(store, [(record("a.jpg"), random_annotation(rng))])
    home.rename(tmp_path / "away")
    moved = open_store(tmp_path / "away" / "photographs.ovlabel.zarr")
    assert moved.folder.samefile(tmp_path / "away" / "photographs")
    assert moved["a.jpg"].path.read_bytes() == b"x"


def test_a_store_moved_alone_still_finds_the_photographs(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr")
    (tmp_path / "far" / "away").mkdir(parents=True)
    moved = store.path.rename(tmp_path / "far" / "away" / "s.zarr")
    assert open_store(moved).folder.samefile(tmp_path / "photographs")


def test_opening_and_looking_needs_neither_torch_nor_zarr(store: Store, rng: np.random.Generator) -> None:
    commit(store, [(record("a"), random_annotation(rng)), (failure("b"), None)])
    code = (
        "import sys\nfrom ovlabel.store.read import open_store\ns = open_store(sys.argv[1])\n"
        "print(list(s), list(s.failed), [c.name for c in s.classes], s['a'].record.height)\n"
        "print([m for m in ('torch', 'zarr', 'open_clip', 'dask', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store.path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["['a'] ['b'] ['class 0', 'class 1', 'class 2'] 6", "[]"]


# ---------------------------------------------------------------- runs


def test_the_same_run_differs_in_nothing() -> None:
    assert differences(RUN, json.loads(json.dumps(RUN))) == []


def test_differences_name_the_field_and_both_values() -> None:
    other = {
        **RUN,
        "tiling": {"short_side": 448, "scales": [1.0]},
        "stages": [{"use": "neighbours", "sigma": 5.0}],
        "text": {"vocabulary": {"classes": [{"name": "dog"}, {"name": "cow"}]}, "templates": "x"},
    }
    found = differences(RUN, other)
    assert found[0].startswith("text.vocabulary.classes: ")
    assert "cat" in found[0]
    assert "dog" in found[0]
    assert found[1:] == [
        "tiling.short_side: 336 in the store, 448 here",
        "stages: [qq] in the store, [neighbours sigma=5.0] here",
    ]


def test_a_field_that_only_one_run_has_is_a_difference() -> None:
    new = {**RUN, "tiling": {**RUN["tiling"], "views": ["hflip"]}}
    assert differences(RUN, new) == ['tiling.views: null in the store, ["hflip"] here']
    assert differences(new, RUN) == ['tiling.views: ["hflip"] in the store, null here']


def test_another_run_is_refused_with_the_fields(store: Store) -> None:
    check_run(store, store.manifest.run)
    with pytest.raises(RunError, match=r"tiling\.short_side: 336 in the store, 1 here") as error:
        check_run(store, {**store.manifest.run, "tiling": {"short_side": 1, "scales": [1.0]}})
    one_line(error, str(store.path), "--out")


# ---------------------------------------------------------------- a disk that errs


def test_a_read_error_that_may_pass_deletes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = new_store(tmp_path / "s.zarr")
    commit(store, [(record("a"), random_annotation(np.random.default_rng(0)))])
    chunk = only_chunk(store)
    real = files.read_up_to

    def flaky(path: Path, limit: int) -> bytes:
        if path.parent == chunk:
            raise OSError(5, "Input/output error")
        return real(path, limit)

    monkeypatch.setattr(files, "read_up_to", flaky)
    with pytest.raises(StoreError, match="Input/output error"):
        open_store(store.path)
    assert (chunk / "labels").exists()


def test_the_twin_of_a_lost_chunk_is_not_done(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr")
    commit(store, [(record("a", "same"), random_annotation(np.random.default_rng(0)))])
    holder = only_chunk(store)
    commit(store, [(replace(store.like("same"), key="b"), None)])
    damage_torn(holder)
    opened = open_store(store.path)
    with writing(opened):
        assert list(opened) == []


def test_a_zarr_json_without_attributes_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_text('{"attributes": null}')
    with pytest.raises(StoreError, match="was not made by ovlabel"):
        open_store(tmp_path)


def test_a_long_list_names_the_first_place_that_differs() -> None:
    names = [f"class {i}" for i in range(20)]
    old = {"text": {"vocabulary": {"classes": names}}}
    new = {"text": {"vocabulary": {"classes": [*names[:7], "other", *names[8:]]}}}
    assert differences(old, new) == ['text.vocabulary.classes[7]: "class 7" in the store, "other" here']


# ---------------------------------------------------------------- stores from strangers

JUNK = [None, 3, "x", [], {}, [3], {"a": {}}, ["two\nlines"], [[0, 0, 999]], [{"name": "x", "id": "y"}], -1, [[]] * 9]


@pytest.mark.parametrize("name", ["id", "classes", "colours", "background", "vocabulary", "labels", "written", "run"])
def test_whatever_a_root_says_no_command_breaks(
    name: str, tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    store = new_store(tmp_path / "s.zarr")
    commit(store, [(record("a.png"), random_annotation(rng))])
    root = store.path / "zarr.json"
    good = json.loads(root.read_text())
    for number, junk in enumerate(JUNK):
        root.write_text(json.dumps({**good, "attributes": {**good["attributes"], name: junk}}))
        for command in (
            ["status", str(store.path)],
            ["verify", str(store.path)],
            ["export", str(store.path), str(tmp_path / f"{number}")],
            ["show", str(store.path), "a.png"],
            ["score", str(store.path), str(tmp_path)],
        ):
            assert main(command) in (0, 2, 4), (command, junk)
            assert "Traceback" not in capsys.readouterr().err


def test_an_export_stays_in_its_folder(tmp_path: Path, rng: np.random.Generator) -> None:
    store = new_store(tmp_path / "s.zarr")
    commit(store, [(record("../../out.png"), random_annotation(rng))])
    before = sorted(path for path in tmp_path.rglob("*") if "labels" not in path.parts)
    main(["export", str(store.path), str(tmp_path / "labels")])
    assert sorted(path for path in tmp_path.rglob("*") if "labels" not in path.parts) == before


def test_a_planted_array_of_another_kind_is_not_read(tmp_path: Path, rng: np.random.Generator) -> None:
    """Zarr's second format can hold pickled objects: it is not even looked at."""
    store = new_store(tmp_path / "s.zarr")
    commit(store, [(record("a"), random_annotation(rng))])
    labels = only_chunk(store) / "labels"
    shutil.rmtree(labels)
    zarr.create_array(labels, shape=(9,), chunks=(9,), dtype="uint8", zarr_format=2)
    with pytest.raises(StoreError, match="can't be read"):
        _ = open_store(store.path)["a"].labels
