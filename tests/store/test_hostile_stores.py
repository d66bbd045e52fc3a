"""Stores from strangers: links, pipes, devices, bombs. Commands end soon with one line, and harm no other store."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numcodecs import Zstd
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from ovlabel.cli import main
from ovlabel.errors import StoreError
from ovlabel.pictures import read as pictures
from ovlabel.store import inside, layout, lock
from ovlabel.store.example import write_example
from ovlabel.store.layout import chunk_names, partial_files, remove
from ovlabel.store.read import open_store
from ovlabel.store.record import Record, pack
from ovlabel.store.verify import repair, verify
from ovlabel.store.write import writing
from tests.hostile import refused

pytestmark = pytest.mark.usefixtures("no_hang")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store of two images of four pixels."""
    return write_example(tmp_path / "mine") / "images.ovlabel.zarr"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A store of somebody else."""
    return write_example(tmp_path / "theirs") / "images.ovlabel.zarr"


def chunk(path: Path) -> Path:
    return path / "chunks" / chunk_names(path)[0]


def content(path: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(path)): p.read_bytes() if p.is_file() else None for p in sorted(path.rglob("*"))}


def linked(part: Path, target: Path) -> None:
    """Put a link in the place of a part of a store."""
    shutil.rmtree(part) if part.is_dir() else part.unlink()
    part.symlink_to(target)


def commands(path: Path, tmp_path: Path) -> dict[str, list[str]]:
    folder = path.parent
    return {
        "status": ["status", str(path)],
        "show": ["show", str(path), "a.png", "-o", str(tmp_path / "shown.png")],
        "score": ["score", str(path), str(folder / "truth"), "--truth", "raw"],
        "export": ["export", str(path), str(tmp_path / "exported")],
        "verify": ["verify", str(path)],
        "doctor": ["doctor", str(path)],
        "repair": ["verify", str(path), "--repair"],
    }


def told(command: list[str], capsys: pytest.CaptureFixture[str], codes: tuple[int, ...] = (4,)) -> str:
    """What a command says that ends with one of these codes, without a traceback."""
    code = main(command)
    out, err = capsys.readouterr()
    assert code in codes, (command, out, err)
    assert "Traceback" not in out + err
    return out + err


ANY = (0, 2, 3, 4)  # it does not read what is odd


# ---------------------------------------------------------------- links to another store

LINKS: dict[str, Callable[[Path], Path]] = {
    "chunks": lambda path: path / "chunks",
    "chunk": chunk,
    "array": lambda path: chunk(path) / "confidence",
    "folder of the shard": lambda path: chunk(path) / "labels" / "c",
    "shard": lambda path: chunk(path) / "labels" / "c" / "0",
    "metadata of the array": lambda path: chunk(path) / "labels" / "zarr.json",
    "record": lambda path: chunk(path) / "zarr.json",
}


@pytest.mark.parametrize("name", LINKS)
def test_nothing_behind_a_link_is_read_or_removed(
    name: str, path: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    linked(LINKS[name](path), LINKS[name](other))
    (other / "chunks" / "00000002-0123abcd").mkdir()  # a run is writing there
    mine, theirs = content(path), content(other)
    for command in commands(path, tmp_path).values():
        reads = name != "record" and command[0] not in ("doctor", "status")
        said = told(command, capsys, (4,) if reads or command[0] == "verify" else ANY)
        assert not reads or "is a link" in said
    assert content(other) == theirs
    assert content(path) == mine


@pytest.mark.parametrize("name", ["chunks", "chunk", "array"])
def test_a_store_with_a_linked_folder_is_not_opened(name: str, path: Path, other: Path) -> None:
    linked(LINKS[name](path), LINKS[name](other))
    for opening in (open_store, verify, repair, partial_files if name == "chunks" else open_store):
        with pytest.raises(StoreError, match="is a link"):
            opening(path)
    with pytest.raises(StoreError, match="is a link"), writing(path):
        pass


def test_annotate_removes_nothing_behind_a_link(path: Path, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (other / "chunks" / "00000002-0123abcd").mkdir()
    theirs = content(other)
    linked(path / "chunks", other / "chunks")
    annotate = ["annotate", str(path.parent / "images"), "--out", str(path), "--model", "demo", "--vocab", "demo"]
    assert "is a link" in told(annotate, capsys)
    assert content(other) == theirs


@pytest.mark.parametrize("name", ["array", "shard", "folder of the shard"])
def test_a_chunk_that_holds_a_link_is_not_removed(name: str, path: Path, other: Path) -> None:
    node, mine = chunk(path), content(other)
    linked(LINKS[name](path), LINKS[name](other))
    with pytest.raises(StoreError, match="is a link"):
        remove(path, f"chunks/{node.name}")
    assert (node / "zarr.json").exists()
    assert content(other) == mine


@pytest.mark.parametrize("moment", ["refuse_links", "rmtree", "unlink"])
def test_a_link_that_is_made_during_a_removal_leads_nowhere(
    moment: str, path: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of the chunks gives way to a link at the last moment; the other store has a chunk of that name."""
    name = chunk_names(path)[0]
    chunk(other).rename(other / "chunks" / name)
    theirs = content(other)
    place = {"refuse_links": inside, "rmtree": shutil, "unlink": os}[moment]
    real = getattr(place, moment)

    def swapped(*arguments: Any, **named: Any) -> Any:
        if not (path / "chunks").is_symlink():
            (path / "chunks").rename(path / "aside")
            (path / "chunks").symlink_to(other / "chunks")
        return real(*arguments, **named)

    monkeypatch.setattr(place, moment, swapped)
    with contextlib.suppress(StoreError):
        remove(path, f"chunks/{name}")
    assert (path / "chunks").is_symlink()
    assert content(other) == theirs


def test_a_store_that_links_to_itself_is_not_opened(path: Path) -> None:
    (path / "chunks" / "00000002-0123abcd").symlink_to(chunk(path))
    with pytest.raises(StoreError, match="is a link"):
        repair(path)


def test_a_link_to_a_store_is_a_store(path: Path, tmp_path: Path) -> None:
    (tmp_path / "link.zarr").symlink_to(path)
    assert verify(tmp_path / "link.zarr").images == 2
    assert repair(tmp_path / "link.zarr").repaired


def test_a_store_that_shares_its_files_is_removed_alone(path: Path, tmp_path: Path) -> None:
    """Hard links, as `cp -al` makes them: also of a lock that was left."""
    (path / ".lock").write_text('{"token": "x", "boot": "' + lock._boot() + '"}')
    shutil.copytree(path, tmp_path / "copy.zarr", copy_function=os.link)
    before = content(path)
    with writing(tmp_path / "copy.zarr") as held:
        held.remove(list(held), "no reason")
        held.free()
    assert len(open_store(tmp_path / "copy.zarr")) == 0
    assert content(path) == before


def test_nothing_is_made_behind_a_link(tmp_path: Path, path: Path, other: Path) -> None:
    """A folder in which a store was begun, and its `chunks` leads elsewhere."""
    manifest, theirs = open_store(path).manifest, content(other)
    begun = tmp_path / "begun.zarr"
    begun.mkdir()
    (begun / "chunks").symlink_to(other / "chunks")
    with pytest.raises(StoreError, match="is a link"), writing(begun, create=lambda: manifest):
        pass
    assert content(other) == theirs


# ---------------------------------------------------------------- what is no file

ODD: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "device": lambda part: part.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "socket": lambda part: os.mknod(part, 0o140600),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", ["shard", "metadata of the array", "record", "root", "chunks"])
def test_what_is_no_file_is_not_waited_for(
    name: str, odd: str, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = {**LINKS, "root": lambda path: path / "zarr.json"}[name](path)
    shutil.rmtree(part) if part.is_dir() else part.unlink()
    ODD[odd](part)
    for kind, command in commands(path, tmp_path).items():
        reads = kind in ("show", "score", "export", "verify") and name not in ("record", "chunks")
        told(command, capsys, (4,) if reads else ANY)


# ---------------------------------------------------------------- bombs


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """The metadata of the labels, changed."""
    file = chunk(path) / "labels" / "zarr.json"
    node = json.loads(file.read_text())
    change(node)
    file.write_text(json.dumps(node))


def refuses_labels(path: Path, *words: str) -> None:
    message = refused(StoreError, lambda: open_store(path)["a.png"].labels, 20 * 2**20)
    assert "labels of 'a.png' can't be read" in message
    assert all(word in message for word in words), message
    assert sorted(verify(path).bad) == ["a.png", "b.png"]


@pytest.mark.parametrize("size", [2**16 + 1, 2**30, 2**50])
def test_a_frame_that_claims_more_than_an_inner_chunk_is_not_decoded(size: int, path: Path) -> None:
    shard = chunk(path) / "labels" / "c" / "0"
    frame = b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little") + b"\x03\x00\x00\x00"
    put_frame(shard, frame)
    refuses_labels(path)


def test_a_frame_that_holds_more_than_an_inner_chunk_is_not_decoded(path: Path) -> None:
    put_frame(chunk(path) / "labels" / "c" / "0", Zstd(level=3).encode(bytes(2**26)))
    refuses_labels(path)


def put_frame(shard: Path, frame: bytes) -> None:
    """A shard file of one inner chunk."""
    import google_crc32c

    index = (0).to_bytes(8, "little") + len(frame).to_bytes(8, "little")
    shard.write_bytes(frame + index + google_crc32c.value(index).to_bytes(4, "little"))


@pytest.mark.parametrize("codec", [GzipCodec(), BloscCodec(), ZstdCodec(level=1), None])
def test_another_codec_is_not_run(codec: Any, path: Path) -> None:
    """Only Zstandard inside of a shard is; of whatever level."""
    labels = np.array([0, 0, 1, 1, 2, 2, 1, 0], np.uint8)
    shutil.rmtree(chunk(path) / "labels")
    place = chunk(path) / "labels"
    array = zarr.create_array(place, shape=(8,), dtype="u1", chunks=(2**16,), shards=(2**16,), compressors=codec)
    array[:] = labels
    if isinstance(codec, ZstdCodec):
        assert verify(path).clean
    else:
        refuses_labels(path, "metadata")


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "length": lambda node: node.update(shape=[2**60]),
    "no whole length": lambda node: node.update(shape=[1e3]),
    "two dimensions": lambda node: node.update(shape=[4, 2]),
    "data type": lambda node: node.update(data_type="float64"),
    "fill": lambda node: node.update(fill_value=300),
    "no shard": lambda node: node.update(codecs=[{"name": "bytes"}]),
    "inner chunk": lambda node: node["codecs"][0]["configuration"].update(chunk_shape=[2**40]),
    "index elsewhere": lambda node: node["codecs"][0]["configuration"].update(index_location="start"),
    "transformers": lambda node: node.update(storage_transformers=[{"name": "x"}]),
    "codecs are a word": lambda node: node.update(codecs="zstd"),
    "grid": lambda node: node["chunk_grid"]["configuration"].update(chunk_shape=[1]),
    "separator": lambda node: node["chunk_key_encoding"]["configuration"].update(separator="."),
    "another key": lambda node: node.update(must_understand={"name": "x"}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_metadata_of_another_array_are_refused(name: str, path: Path) -> None:
    rewritten(path, CHANGES[name])
    refuses_labels(path, "metadata")


def test_what_does_not_matter_to_reading_may_differ(path: Path) -> None:
    rewritten(path, lambda node: node.update(attributes={"mine": 1}, dimension_names=["pixel"]))
    assert verify(path).clean


MANY = b"[" + b"[]," * (100 * 2**20 // 3) + b"[]]"


@pytest.mark.parametrize("name", ["metadata of the array", "record", "root"])
@pytest.mark.parametrize("kind", ["many", "large", "deep", "long number"])
def test_metadata_that_swell_when_they_are_read_are_not_read(
    name: str, kind: str, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = {**LINKS, "root": lambda path: path / "zarr.json"}[name](path)
    if kind == "large":
        with part.open("wb") as file:
            file.truncate(10**12)  # takes no room
    else:
        part.write_bytes({"many": MANY, "deep": b"[" * 10**6, "long number": b"9" * 10**6}[kind])
    for command in ("status", "verify"):
        told(commands(path, tmp_path)[command], capsys, (0, 4))
    if name == "root":
        refused(StoreError, lambda: open_store(path), 150 * 2**20)
    else:
        assert not verify(path).clean


@pytest.mark.parametrize(
    "numbers",
    [
        {"height": 60_000, "width": 60_000},
        {"height": 1, "width": 2**19},
        {"working": [60_000, 60_000], "maps": 5},
        {"maps": 10**6},
        {"pixel": 2**70},
        {"size": 2**64},
        {"mtime_ns": -(2**70)},
        {"sums": [1, 2**64]},
    ],
)
def test_a_record_beyond_any_image_does_not_count(numbers: dict[str, Any], path: Path) -> None:
    said = {**Record("a.png", 1, 1, height=2, width=2, sums=(1, 2)).to_json(), **numbers}
    with pytest.raises(ValueError, match=r"describe no image|beyond those of any image"):
        Record.from_json(said)


def test_the_bounds_are_those_of_images_that_are_decoded() -> None:
    assert (layout.MOST_PIXELS, layout.MOST_SIDE) == (pictures.MAX_PIXELS, pictures.MAX_SIDE)


def test_the_largest_image_takes_no_memory_until_its_shard_is_there(path: Path) -> None:
    store, node = open_store(path), chunk(path)
    lines = [Record("a.png", 1, 1, height=2**14, width=2**14, sums=(1, 2))]
    (node / "zarr.json").write_bytes(pack(store.manifest.id, node.name, lines))
    message = refused(StoreError, lambda: open_store(path)["a.png"].labels, 2**20)
    assert "it ends at 8" in message


@pytest.mark.parametrize("name", ["score", "export"])
def test_images_of_a_damaged_record_are_not_left_out_in_silence(
    name: str, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = chunk(path)
    (node / "zarr.json").write_text("[]")
    assert f"the record of chunk {node.name} does not count" in told(commands(path, tmp_path)[name], capsys, (0, 2))


# ---------------------------------------------------------------- what is lost is not made up


def lost(path: Path) -> None:
    (path / "c" / "0").unlink()


def emptied(path: Path) -> None:
    (path / "c" / "0").write_bytes(b"")


def cut(path: Path) -> None:
    (path / "c" / "0").write_bytes((path / "c" / "0").read_bytes()[:-3])


def said_to_be_missing(path: Path) -> None:
    """The shard index says that there is no inner chunk."""
    import google_crc32c

    shard = path / "c" / "0"
    index = b"\xff" * 16
    shard.write_bytes(shard.read_bytes()[:-20] + index + google_crc32c.value(index).to_bytes(4, "little"))


def of_zeros(path: Path) -> None:
    put_frame(path / "c" / "0", Zstd(level=3).encode(bytes(2**16)))


def behind_the_end(path: Path) -> None:
    import google_crc32c

    index = (10**9).to_bytes(8, "little") + (50).to_bytes(8, "little")
    shard = path / "c" / "0"
    shard.write_bytes(shard.read_bytes()[:-20] + index + google_crc32c.value(index).to_bytes(4, "little"))


LOSSES = [lost, emptied, cut, said_to_be_missing, of_zeros, behind_the_end]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("array", ["labels", "confidence"])
def test_what_is_lost_is_no_data(
    loss: Callable[[Path], None], array: str, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = open_store(path)
    before = {key: (image.labels.tolist(), image.confidence.tolist()) for key, image in held.items()}
    assert len(before) == 2
    loss(chunk(path) / array)
    with pytest.raises(StoreError, match=rf"the {array} of 'a\.png' can't be read \("):
        getattr(open_store(path)["a.png"], array)
    with contextlib.suppress(StoreError):  # it may know the places from before
        assert getattr(held["a.png"], array).tolist() == before["a.png"][array == "confidence"]
    assert sorted(verify(path).bad) == ["a.png", "b.png"]
    if array == "labels":
        for name in ("show", "score", "export"):
            said = told(commands(path, tmp_path)[name], capsys)
            assert len(re.findall(r"labels of '[ab]\.png' can't be read", said)) == 1
    assert repair(path).repaired
    assert len(open_store(path)) == 0


def test_a_reader_of_what_is_pruned_meanwhile_gets_no_fill_value(path: Path) -> None:
    reader = open_store(path)
    image = reader["a.png"]
    assert image.labels.tolist() == [[0, 0], [1, 1]]
    with writing(path) as held:
        held.remove(list(held), "left the folder")
        held.free()
    for array in ("labels", "confidence"):
        with pytest.raises(StoreError, match=f"the {array} of 'a.png' can't be read"):
            getattr(image, array)


def test_an_earlier_version_left_out_what_was_all_fill_value(path: Path) -> None:
    """Confidence 0 everywhere was no file at all; the checksum says that it is right."""
    store, node = open_store(path), chunk(path)
    record = store["a.png"].record
    shutil.rmtree(node / "confidence" / "c")
    zeros = [Record(**{**said(record), "sums": (record.sums[0], zero_sum())})]
    (node / "zarr.json").write_bytes(pack(store.manifest.id, node.name, zeros))
    assert open_store(path)["a.png"].confidence.tolist() == [[0, 0], [0, 0]]
    assert verify(path).clean


def said(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in Record.__slots__}


def zero_sum() -> int:
    from ovlabel.store.record import crc32

    return crc32(bytes(4))


def test_new_arrays_are_written_whole(tmp_path: Path, path: Path) -> None:
    """Also where all of it is the fill value: what is missing is lost then."""
    from ovlabel.types import Annotation

    zeros = Annotation(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8), None, None, (2, 2))
    with writing(path) as held:
        held.commit([(Record("z.png", 1, 1, "z"), zeros)])
    assert (path / "chunks" / chunk_names(path)[-1] / "confidence" / "c" / "0").exists()
