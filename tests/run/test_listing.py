"""Which images a run takes: patterns, lists, shards, limits, failures once more, and what has left the folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovlabel.errors import BusyError, ConfigError, RunError
from ovlabel.run.job import Job, default_store, prepare
from ovlabel.run.listing import Selection, list_folder, list_named, parse_names, parse_shard
from ovlabel.run.options import RunOptions
from ovlabel.store.layout import Shard
from ovlabel.store.lock import locked
from ovlabel.store.read import open_store
from ovlabel.types import Annotation, UInt8Image
from tests.run.test_job import CONFIG, Fake, draw

KEYS = ["2024/a.png", "2024/b.png", "2025/a.png", "2025/deep/c.png", "top.png"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, key in enumerate(KEYS):
        draw(tmp_path / "in" / key, seed)
    return tmp_path / "in"


@pytest.fixture
def fake() -> Fake:
    return Fake()


def run(folder: Path, fake: Fake, **selection: Any) -> Job:
    job = prepare(folder, CONFIG, options=RunOptions(selection=Selection(**selection)))
    for _ in job.run(make=fake.make):
        pass
    return job


def stored(folder: Path) -> list[str]:
    return list(open_store(default_store(folder)))


# ---------------------------------------------------------------- what is taken


@pytest.mark.parametrize(
    ("include", "exclude", "taken"),
    [
        (("2024/*",), (), KEYS[:2]),
        (("*/a.png", "top.*"), (), ["2024/a.png", "2025/a.png", "top.png"]),
        ((), ("2025/*",), ["2024/a.png", "2024/b.png", "top.png"]),
        (("2025/*",), ("*/c.png",), ["2025/a.png"]),
        (("TOP.png",), (), []),
    ],
)
def test_patterns_choose_keys(
    include: tuple[str, ...], exclude: tuple[str, ...], taken: list[str], folder: Path, fake: Fake
) -> None:
    job = run(folder, fake, include=include, exclude=exclude)
    assert [item.key for item in job.plan.items] == taken
    assert len(fake.seen) == len(taken)
    assert job.vanished == []
    run(folder, fake)
    assert (stored(folder), len(fake.seen)) == (KEYS, len(KEYS)), "the rest comes later, nothing twice"


def test_a_limit_takes_so_many_and_says_how_many_are_left(folder: Path, fake: Fake) -> None:
    for done, left in ((2, 3), (4, 1), (5, 0)):
        job = run(folder, fake, limit=2)
        assert (len(stored(folder)), job.left) == (done, left)
    assert run(folder, fake, limit=2).idle


def test_a_list_names_images_relative_or_absolute(folder: Path, fake: Fake) -> None:
    names = ("2024/b.png", str(folder / "top.png"), "./2024/../2024/b.png", "missing.png", "2024")
    job = run(folder, fake, names=names)
    assert stored(folder) == ["2024/b.png", "top.png"]
    assert sorted(job.plan.listing.absent) == ["2024", "missing.png"]
    assert job.vanished == []
    assert [item.key for item in run(folder, fake, names=("2024/b.png", "2025/a.png")).plan.items] == names_of(1, 2)


def names_of(*indices: int) -> list[str]:
    return [KEYS[index] for index in indices]


@pytest.mark.parametrize("name", ["../other.png", "/etc/passwd", "2024/../../x.png"])
def test_a_list_leads_nowhere_else(name: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match="folder"):
        prepare(folder, CONFIG, options=RunOptions(selection=Selection(names=(name,))))


def test_lists_are_lines_or_ended_by_nul() -> None:
    assert parse_names(b"a.png\nb c.png\r\n\n") == ("a.png", "b c.png")
    assert parse_names(b"two\nlines.png\0caf\xe9.png\0") == ("two\nlines.png", os.fsdecode(b"caf\xe9.png"))
    assert parse_names(b"") == ()
    assert parse_names(b"\xef\xbb\xbfa.png\r\n") == ("a.png",)


def test_names_as_lists_of_data_sets_have_them(folder: Path) -> None:
    """With blanks or quotes around them, or without their suffix; the name as it stands comes first."""
    (folder / "two.png").touch()
    (folder / "two.JPG").touch()
    (folder / " top.png").write_bytes((folder / "top.png").read_bytes())
    absent: list[str] = []
    names = ["top.png  ", '"2025/a.png"', "2025/a", "two", " top.png", "no", "  "]
    assert [item.key for item in list_named(folder, names, absent)] == [" top.png", "2025/a.png", "top.png"]
    assert absent == ["two", "no", "  "]


# ---------------------------------------------------------------- shards


@given(keys=st.sets(st.text(min_size=1), max_size=40), count=st.integers(1, 9))
def test_every_key_belongs_to_one_shard(keys: set[str], count: int) -> None:
    shards = [{key for key in keys if Selection(shard=Shard(i, count)).takes(key)} for i in range(1, count + 1)]
    assert sorted(key for shard in shards for key in shard) == sorted(keys)


def test_shards_make_one_store(folder: Path, fake: Fake) -> None:
    for index in (2, 1, 3):
        run(folder, fake, shard=Shard(index, 3))
    assert stored(folder) == KEYS
    assert len(fake.seen) == len(KEYS)
    nodes = {path.name[-4:] for path in default_store(folder).glob("chunks/0*")}
    assert nodes <= {"1of3", "2of3", "3of3"}
    assert run(folder, fake).idle


def test_another_run_is_no_shard_of_this_store(folder: Path, fake: Fake) -> None:
    run(folder, fake, shard=Shard(1, 2))
    other = CONFIG.__class__(**{**CONFIG.__dict__, "tiling": CONFIG.tiling.__class__(short_side=99)})
    with pytest.raises(RunError, match="short_side"):
        list(prepare(folder, other, options=RunOptions(selection=Selection(shard=Shard(2, 2)))).run(make=fake.make))


def test_a_shard_clears_only_what_is_its_own(folder: Path, fake: Fake) -> None:
    run(folder, fake, shard=Shard(2, 2), limit=1)
    chunks = default_store(folder) / "chunks"
    for name in ("00000007-0123abcd-2of2", "00000007-0123abcd-1of2", "00000007-0123abcd"):
        (chunks / name).mkdir()
    job = run(folder, fake, shard=Shard(2, 2))
    assert job.pending
    assert not (chunks / "00000007-0123abcd-2of2").exists()
    assert (chunks / "00000007-0123abcd-1of2").exists(), "perhaps another shard is writing it right now"
    draw(folder / "newer.png", 51)
    run(folder, fake)
    assert not list(chunks.glob("00000007*"))


def test_two_shards_at_the_same_time(folder: Path, fake: Fake) -> None:
    first = prepare(folder, CONFIG, options=RunOptions(selection=Selection(shard=Shard(1, 2)), chunk_size=1)).run(
        make=fake.make
    )
    next(first)
    run(folder, fake, shard=Shard(2, 2), limit=1)
    with pytest.raises(BusyError):
        run(folder, fake)
    list(first)
    run(folder, fake)
    assert stored(folder) == KEYS


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "a/b", "1/2/3", "-1/2", "1/99999999"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--shard"):
        parse_shard(text)
    assert parse_shard("2/8") == Shard(2, 8)


# ---------------------------------------------------------------- failures


def test_failures_keep_what_is_needed_to_judge_them_and_are_tried_again_on_request(folder: Path, fake: Fake) -> None:
    (folder / "bad.png").write_bytes(b"nothing")
    (folder / "empty.png").write_bytes(b"")
    run(folder, fake)
    assert run(folder, fake).pending == []
    for attempts in (2, 3):
        job = run(folder, fake, retry_failed=True)
        assert [item.key for item in job.pending] == ["bad.png", "empty.png"]
        failed = open_store(job.plan.out).failed["bad.png"]
        assert (failed.stage, failed.exception, failed.attempts) == ("decode", "UnidentifiedImageError", attempts)
        assert failed.time.startswith("20")
        assert failed.error == "not an image in a format that can be read"
    draw(folder / "bad.png", 77)
    run(folder, fake)
    assert "bad.png" in stored(folder)


def test_another_content_that_fails_is_a_first_attempt(folder: Path, fake: Fake) -> None:
    (folder / "bad.png").write_bytes(b"nothing")
    run(folder, fake)
    (folder / "bad.png").write_bytes(b"nothing, still")
    run(folder, fake)
    assert open_store(default_store(folder)).failed["bad.png"].attempts == 1


class Hungry(Fake):
    """Has no room for images of a brightness."""

    def begin(self, image: UInt8Image) -> Callable[[], Annotation]:
        if image.shape[0] > 50:
            raise MemoryError
        return super().begin(image)


def test_what_can_not_fit_is_recorded_and_tried_on_request(folder: Path) -> None:
    draw(folder / "huge.png", 9, (60, 60))
    run(folder, Hungry())
    failed = open_store(default_store(folder)).failed["huge.png"]
    assert (failed.stage, failed.exception, failed.error) == ("segment", "MemoryError", "out of memory")
    assert run(folder, Fake()).pending == []
    run(folder, Fake(), retry_failed=True)
    assert "huge.png" in stored(folder)


# ---------------------------------------------------------------- what was in work when a run died


def test_what_a_run_died_of_comes_last(folder: Path, fake: Fake) -> None:
    with locked(default_store(folder)) as held:
        held.note(["2024/a.png"])
        left = (default_store(folder) / ".lock").read_bytes()
    default_store(folder).mkdir()
    (default_store(folder) / ".lock").write_bytes(left)
    order: list[str] = []
    job = prepare(folder, CONFIG, options=RunOptions(chunk_size=64))
    reports = list(job.run(on_image=lambda record: order.append(record.key), make=fake.make))
    assert order == [*KEYS[1:], KEYS[0]]
    assert [report.done for report in reports] == [tuple(KEYS[1:]), (KEYS[0],)], "and in a commit of its own"


def test_suspects_are_handed_on_to_the_run_after_the_next(folder: Path, fake: Fake) -> None:
    class Dies(Fake):
        def begin(self, image: UInt8Image) -> Callable[[], Annotation]:
            shutil.copy(store / ".lock", folder.parent / "left")
            return super().begin(image)

    store = default_store(folder)
    for dead in (["2024/a.png"], ["2024/b.png", "2024/a.png"]):
        store.mkdir(exist_ok=True)
        with locked(store) as held:
            held.note(dead)
            shutil.copy(store / ".lock", folder.parent / "left")
        store.mkdir(exist_ok=True)
        shutil.copy(folder.parent / "left", store / ".lock")
    order: list[str] = []
    list(prepare(folder, CONFIG).run(on_image=lambda record: order.append(record.key), make=Dies().make))
    assert order == [*KEYS[2:], *KEYS[:2]]


# ---------------------------------------------------------------- what has left the folder


def test_what_vanished_is_reported_and_removed_on_request(folder: Path, fake: Fake) -> None:
    run(folder, fake)
    (folder / "top.png").unlink()
    shutil.rmtree(folder / "2024")
    job = run(folder, fake)
    assert job.vanished == ["2024/a.png", "2024/b.png", "top.png"]
    assert stored(folder) == KEYS, "only reported"
    assert not job.removed
    job = run(folder, fake, prune=True)
    assert job.removed
    assert stored(folder) == ["2025/a.png", "2025/deep/c.png"]
    assert run(folder, fake).vanished == []
    assert run(folder, fake, prune=True).idle


def test_removal_frees_the_chunks_that_hold_nothing_else(folder: Path, fake: Fake) -> None:
    for key in KEYS:
        run(folder, fake, include=(key,))
    assert len(list(default_store(folder).glob("chunks/0*"))) == 5
    shutil.rmtree(folder / "2024")
    (folder / "2025" / "a.png").rename(folder / "renamed.png")
    run(folder, fake)
    run(folder, fake, prune=True)
    store = open_store(default_store(folder))
    assert list(store) == ["2025/deep/c.png", "renamed.png", "top.png"]
    assert store["renamed.png"].labels.shape == (6, 8)
    assert len(list(default_store(folder).glob("chunks/0*"))) == 5, "3 of arrays, the new name, the removal of the old"
    run(folder, fake)
    assert list(open_store(default_store(folder))) == list(store)


def test_a_file_that_comes_back_is_annotated_again(folder: Path, fake: Fake) -> None:
    run(folder, fake)
    (folder / "top.png").rename(folder.parent / "aside.png")
    run(folder, fake, prune=True)
    (folder.parent / "aside.png").rename(folder / "top.png")
    run(folder, fake)
    assert stored(folder) == KEYS


def test_an_empty_folder_prunes_nothing(folder: Path, fake: Fake) -> None:
    run(folder, fake)
    for key in KEYS:
        (folder / key).unlink()
    with pytest.raises(ConfigError, match="mounted"):
        prepare(folder, CONFIG, options=RunOptions(selection=Selection(prune=True)))
    assert stored(folder) == KEYS


def test_what_can_not_be_seen_has_not_vanished(folder: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    run(folder, fake)
    real = os.scandir

    def closed(path: Any) -> Any:
        if str(path).endswith("2024"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", closed)
    job = run(folder, fake, prune=True)
    assert job.vanished == []
    assert stored(folder) == KEYS


@pytest.mark.parametrize("options", [{"shard": Shard(1, 2)}, {"names": ("top.png",)}])
def test_pruning_needs_the_whole(options: dict[str, Any], folder: Path) -> None:
    with pytest.raises(ConfigError, match="--prune"):
        prepare(folder, CONFIG, options=RunOptions(selection=Selection(prune=True, **options)))


def test_a_pattern_does_not_make_the_others_vanish(folder: Path, fake: Fake) -> None:
    run(folder, fake)
    run(folder, fake, include=("top.png",), prune=True)
    assert stored(folder) == KEYS


# ---------------------------------------------------------------- a folder that people write to


def test_a_file_that_vanishes_before_its_turn_is_not_recorded(folder: Path) -> None:
    class Deletes(Fake):
        def begin(self, image: UInt8Image) -> Callable[[], Annotation]:
            (folder / "2025" / "a.png").unlink(missing_ok=True)
            return super().begin(image)

    job = run(folder, Deletes())
    assert job.gone == ["2025/a.png"]
    store = open_store(job.plan.out)
    assert list(store) == [key for key in KEYS if key != "2025/a.png"]
    assert store.failed == {}


def test_a_file_that_changes_between_listing_and_reading_is_recorded_as_it_was_read(folder: Path, fake: Fake) -> None:
    job = prepare(folder, CONFIG)
    pixels = draw(folder / "top.png", 123, (20, 20))
    list(job.run(make=fake.make))
    assert open_store(job.plan.out)["top.png"].labels.shape == pixels.shape[:2]
    assert run(folder, fake).pending == [], "what was read is what is there"


# ---------------------------------------------------------------- what is no image


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_files_of_other_kinds_are_counted_by_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.mov", "d/c.MOV", "d/e", "f.jpg?size=large", "g.dng")
    touch(tmp_path, "a.txt", "a.xmp", "a.JSON", ".hidden", "Thumbs.db", "@eaDir/h.mov", "x.zarr/zarr.bin")
    (tmp_path / "gone.mov").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    listing = list_folder(tmp_path, Selection())
    assert [item.key for item in listing.items] == ["a.jpg"]
    assert listing.others == {".mov": 2, "": 1, ".jpg?size=large": 1, ".dng": 1}
    assert next(iter(listing.others)) == ".mov"
    assert list_folder(tmp_path, Selection(include=("*.jpg",))).others == {}
    assert list_folder(tmp_path, Selection(exclude=("d/*",))).others[".mov"] == 1


def test_suffixes_without_number_are_counted_together(tmp_path: Path) -> None:
    touch(tmp_path, *(f"a.x{number}" for number in range(150)))
    others = list_folder(tmp_path, Selection()).others
    assert (len(others), sum(others.values()), others["others"]) == (101, 150, 50)


SYSTEMS = ["lost+found", "System Volume Information", "@eaDir", "#recycle", "$RECYCLE.BIN", ".ipynb_checkpoints"]


@pytest.mark.parametrize("name", [*SYSTEMS, "__MACOSX", "LOST.DIR", "d/@eaDir"])
def test_folders_of_a_system_are_not_entered(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.jpg", "d/b.jpg", f"{name}/c.jpg", f"{name}/deep/d.jpg", "._a.jpg")
    listing = list_folder(tmp_path, Selection())
    assert [item.key for item in listing.items] == ["a.jpg", "d/b.jpg"]
    assert (listing.left_out, listing.others) == ([], {})


@pytest.mark.parametrize("pattern", ["closed/*", "closed*", "*closed/*", "closed", "closed/", "closed/**"])
def test_a_folder_that_is_excluded_is_not_entered(
    pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.jpg", "closed/b.jpg", "closed/in/c.jpg")
    real = os.scandir

    def scandir(path: Any) -> Any:
        if "closed" in Path(path).parts:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    listing = list_folder(tmp_path, Selection(exclude=(pattern,)))
    assert [item.key for item in listing.items] == ["a.jpg"]
    assert (listing.left_out, listing.excluded) == ([], ["closed/"])
    assert listing.vanished(tmp_path, ["a.jpg", "closed/gone.jpg", "gone.jpg"]) == ["gone.jpg"]


@pytest.mark.parametrize("pattern", ["clos", "*.png", "closed/b*", "losed/*", "closed/b.jpg", ""])
def test_a_pattern_that_leaves_something_of_a_folder_lets_it_be_entered(pattern: str, tmp_path: Path) -> None:
    touch(tmp_path, "closed/b.jpg", "closed/c.jpg")
    listing = list_folder(tmp_path, Selection(exclude=(pattern,)))
    assert listing.excluded == []
    assert "closed/c.jpg" in [item.key for item in listing.items]
