"""`ovlabel verify`: damage is found, named, and taken out, and nothing else with it."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ovlabel.cli import main
from ovlabel.errors import BusyError, StoreError
from ovlabel.store.example import write_example
from ovlabel.store.read import open_store
from ovlabel.store.verify import repair, verify
from ovlabel.store.write import writing
from tests.run.test_job import Fake, assert_annotated, draw, run_all


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(6):
        draw(tmp_path / "in" / f"{number}.png", number, (120, 300))
    return tmp_path / "in"


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def path(folder: Path, fake: Fake) -> Path:
    """Six images in two commits of three."""
    run_all(folder, fake, chunk_size=3)
    return folder.parent / "in.ovlabel.zarr"


def shard_file(path: Path, chunk: int, name: str) -> Path:
    return sorted(path.glob("chunks/0*"))[chunk] / name / "c" / "0"


def flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def drawn(folder: Path) -> dict[str, np.ndarray]:
    return {f"{n}.png": draw(folder.parent / "again" / "x.png", n, (120, 300)) for n in range(6)}


def test_a_sound_store_is_clean(path: Path) -> None:
    report = verify(open_store(path))
    assert (report.clean, report.images) == (True, 6)


def test_exactly_the_damaged_images_are_done_again(path: Path, folder: Path, fake: Fake) -> None:
    flip(shard_file(path, 0, "labels"), 10)  # the first inner chunk: 65,536 pixels of 36,000 an image
    flip(shard_file(path, 1, "confidence"), 10)
    report = verify(open_store(path))
    assert sorted(report.bad) == ["0.png", "1.png", "3.png", "4.png"]
    assert report.bad["0.png"].startswith("labels: ")
    assert report.bad["4.png"].startswith("confidence: ")
    assert len(open_store(path)) == 6, "looking changes nothing"

    assert repair(open_store(path)).repaired
    assert list(open_store(path)) == ["2.png", "5.png"]
    assert verify(open_store(path)).clean
    before = len(fake.seen)
    run_all(folder, fake)
    assert len(fake.seen) - before == 4
    assert_annotated(path, drawn(folder))
    assert verify(open_store(path)).clean


@pytest.mark.parametrize("name", ["labels", "confidence", "classes", "probabilities"])
@pytest.mark.parametrize("how", ["gone", "cut", "empty", "metadata gone", "metadata of another shape"])
def test_any_damage_to_any_array_is_found(how: str, name: str, path: Path, folder: Path, fake: Fake) -> None:
    file = shard_file(path, 0, name)
    metadata = file.parents[1] / "zarr.json"
    if how == "gone":
        file.unlink()
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:-20])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "metadata gone":
        metadata.unlink()
    else:
        metadata.write_text(metadata.read_text().replace('"shape":', '"shape": [1], "was":', 1))
    report = repair(open_store(path))
    assert set(report.bad) <= {"0.png", "1.png", "2.png"}
    assert report.bad
    assert len(list(path.glob("chunks/0*"))) == (1 if len(report.bad) == 3 else 3), "what holds nothing is removed"
    run_all(folder, fake)
    assert verify(open_store(path)).clean
    assert_annotated(path, drawn(folder))


@pytest.mark.parametrize("word", [b"0.png", b"sha256", b'"height": 120', b'"pixel": 36000', b'"sums": ['])
def test_a_record_with_a_flipped_bit_does_not_count(word: bytes, path: Path, folder: Path, fake: Fake) -> None:
    record = sorted(path.glob("chunks/0*"))[0] / "zarr.json"
    flip(record, record.read_bytes().index(word) + len(word) - 2)
    store = open_store(path)
    assert list(store) == ["3.png", "4.png", "5.png"]
    report = repair(store)
    assert list(report.records) == [record.parent.name]
    assert not record.parent.exists()
    run_all(folder, fake)
    assert_annotated(path, drawn(folder))


def test_a_record_vouches_for_no_other_store_and_no_other_node(path: Path, folder: Path, tmp_path: Path) -> None:
    run_all(folder, Fake(), out=tmp_path / "other.zarr", chunk_size=6)
    foreign = next((tmp_path / "other.zarr").glob("chunks/0*"))
    shutil.copytree(foreign, path / "chunks" / "00000009-0123abcd")
    own = sorted(path.glob("chunks/0*"))[0]
    shutil.copytree(own, path / "chunks" / "00000008-0123abcd")
    store = open_store(path)
    assert store.damaged == {
        "00000008-0123abcd": f"it belongs to {own.name}",
        "00000009-0123abcd": "it belongs to another store",
    }
    assert len(store) == 6


def test_a_store_that_was_copied_or_moved_is_as_valid(path: Path, tmp_path: Path) -> None:
    shutil.copytree(path, tmp_path / "copy.zarr")
    path.rename(tmp_path / "moved.zarr")
    for name in ("copy.zarr", "moved.zarr"):
        assert verify(open_store(tmp_path / name)).images == 6
        assert verify(open_store(tmp_path / name)).clean


def test_twins_of_damaged_arrays_are_damaged_too(path: Path, folder: Path, fake: Fake) -> None:
    shutil.copy(folder / "0.png", folder / "twin.png")
    run_all(folder, fake)
    flip(shard_file(path, 0, "probabilities"), 0)
    assert {"0.png", "twin.png"} <= set(repair(open_store(path)).bad)
    run_all(folder, fake)
    assert verify(open_store(path)).images == 7
    assert_annotated(path, drawn(folder) | {"twin.png": drawn(folder)["0.png"]})


def test_a_run_at_work_is_no_damage_and_is_not_repaired_under(path: Path) -> None:
    (path / "chunks" / "00000003-0123abcd").mkdir()
    report = verify(open_store(path))
    assert report.clean
    assert report.unfinished == ["00000003-0123abcd"]
    with writing(path), pytest.raises(BusyError):
        repair(open_store(path))


def test_foreign_files_break_nothing(path: Path, folder: Path, fake: Fake, tmp_path: Path) -> None:
    chunks = path / "chunks"
    (chunks / "00000004-0123abcd").write_text("a file")
    (chunks / "00000005-0123abcd" / "zarr.json").mkdir(parents=True)
    (chunks / "notes.txt").write_text("mine")
    (chunks / "mine").symlink_to(tmp_path)
    draw(folder / "new.png", 99)
    run_all(folder, fake)
    assert len(open_store(path)) == 7
    repair(open_store(path))
    assert verify(open_store(path)).clean
    assert (chunks / "notes.txt").read_text() == "mine"
    assert (chunks / "mine").is_symlink()


def test_nothing_is_written_through_a_link(path: Path, folder: Path, tmp_path: Path) -> None:
    (path / "chunks").rename(tmp_path / "elsewhere")
    (path / "chunks").symlink_to(tmp_path / "elsewhere")
    draw(folder / "new.png", 99)
    before = sorted((tmp_path / "elsewhere").rglob("*"))
    with pytest.raises(Exception, match="is a link"):
        run_all(folder, Fake())
    assert sorted((tmp_path / "elsewhere").rglob("*")) == before


def test_the_command(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(path)]) == 0
    assert capsys.readouterr().out == f"6 images checked, 0 damaged in {path}\n"
    flip(shard_file(path, 0, "labels"), 10)
    assert main(["verify", str(path)]) == 4
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("damaged: 0.png: labels: ")
    assert said[-2] == f"6 images checked, 2 damaged in {path}"
    assert main(["verify", str(path), "--json"]) == 4
    told = json.loads(capsys.readouterr().out)
    assert (sorted(told["bad"]), told["clean"], told["images"]) == (["0.png", "1.png"], False, 6)
    assert main(["verify", str(path), "--repair"]) == 0
    assert "annotate the folder again" in capsys.readouterr().out
    assert main(["verify", str(path)]) == 0


def test_arrays_that_can_not_be_read_just_now_are_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = write_example(tmp_path) / "images.ovlabel.zarr"
    before = sorted(store.rglob("*"))

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr("ovlabel.store.arrays.ArrayReader.check", refuse)
        for act in (verify, repair):
            with pytest.raises(StoreError, match=r"labels of 'a\.png': Permission denied"):
                act(store)
    assert sorted(path for path in store.rglob("*") if not path.name.startswith(".lock")) == before
    assert verify(store).clean


def test_an_image_whose_arrays_lie_in_a_chunk_that_is_gone_is_named_and_made_pending(tmp_path: Path) -> None:
    store = write_example(tmp_path) / "images.ovlabel.zarr"
    with writing(store) as held:
        record = held["a.png"].record
        held.commit([(replace(record, key="copy.png", mtime_ns=1), None)])
    shutil.rmtree(next(store.glob("chunks/00000001-*")))
    report = verify(store)
    assert list(report.bad) == ["copy.png"]
    assert "is not there" in report.bad["copy.png"]
    assert not report.clean
    assert repair(store).repaired
    assert verify(store).clean
