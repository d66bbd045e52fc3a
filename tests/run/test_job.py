"""A folder becomes a store, whatever comes between: new files, another name, an interruption, another run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from PIL import Image

from ovlabel import files
from ovlabel.errors import BusyError, ConfigError, RunError, StoreError
from ovlabel.run.identity import RunIdentity
from ovlabel.run.job import Job, annotate, default_store, prepare
from ovlabel.run.local import annotate_items
from ovlabel.run.options import RunOptions
from ovlabel.run.reading import Records
from ovlabel.settings.keys import Config
from ovlabel.settings.reading import load_config
from ovlabel.store import arrays
from ovlabel.store.lock import locked
from ovlabel.store.read import open_store
from ovlabel.store.record import Record
from ovlabel.types import Annotation, ChunkReport, UInt8Image
from tests.conftest import writing

CONFIG = load_config("plain", {"text.vocabulary": "classes:dark, middle, bright", "encoder.weights": "random:0"})


class Fake:
    """A segmenter that labels by brightness and remembers what it was shown, and in which order it finished."""

    in_flight = 0
    together = 1

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.order: list[str] = []
        self.made = 0
        self.fail_at: dict[int, BaseException] = {}

    def begin(self, image: UInt8Image) -> Callable[[], Annotation]:
        if error := self.fail_at.get(len(self.seen)):
            raise error
        self.seen.append(image.tobytes())
        number = len(self.seen)
        self.order.append(f"begin {number}")

        def finish() -> Annotation:
            self.order.append(f"finish {number}")
            return self.annotation(image)

        return finish

    def begin_all(self, images: Sequence[UInt8Image]) -> list[Callable[[], Annotation]]:
        return [self.begin(image) for image in images]

    def annotation(self, image: UInt8Image) -> Annotation:
        labels = (image[..., 0] // 86).astype(np.uint8)
        confidence = image[..., 1].copy()
        small = image[:2, :2, 2]
        return Annotation(labels, confidence, np.ones((1, *small.shape), np.uint8), small[None].copy(), small.shape)

    def make(self, run: RunIdentity, offline: bool) -> tuple[Fake, dict[str, Any]]:
        self.made += 1
        resolved = run.config.to_dict()
        resolved["encoder"].pop("device")
        return self, resolved


def draw(path: Path, seed: int, size: tuple[int, int] = (6, 8)) -> UInt8Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "PNG")
    return pixels


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def drawn(tmp_path: Path) -> dict[str, UInt8Image]:
    """Seven images in three folders: key → pixels."""
    names = [*(f"b/{i}.png" for i in range(3)), *(f"c/d/{i}.png" for i in range(3)), "z.png"]
    return {name: draw(tmp_path / "in" / name, seed, (6 + seed, 8)) for seed, name in enumerate(names)}


@pytest.fixture
def folder(tmp_path: Path, drawn: dict[str, UInt8Image]) -> Path:
    return tmp_path / "in"


def run_all(
    folder: Path, fake: Fake, config: Config = CONFIG, out: Path | None = None, **options: Any
) -> tuple[Job, list[ChunkReport]]:
    job = prepare(folder, config, out, RunOptions(**options))
    return job, list(job.run(make=fake.make))


def assert_annotated(store_path: Path, drawn: dict[str, UInt8Image]) -> None:
    store = open_store(store_path)
    assert list(store) == sorted(drawn)
    for key, pixels in drawn.items():
        np.testing.assert_array_equal(store[key].labels, pixels[..., 0] // 86)
        np.testing.assert_array_equal(store[key].confidence, pixels[..., 1].astype(np.float32) / np.float32(255))


def chunks_of(store_path: Path) -> dict[str, str]:
    return {key: image.record.chunk for key, image in open_store(store_path).items()}


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---------------------------------------------------------------- the plain course


@pytest.mark.parametrize(("chunk_size", "commits"), [(1, 7), (3, 3), (7, 1), (64, 1)])
def test_every_image_is_annotated_and_reported_once(
    chunk_size: int, commits: int, folder: Path, drawn: dict[str, UInt8Image], fake: Fake
) -> None:
    seen: list[Record] = []
    job = prepare(folder, CONFIG, options=RunOptions(chunk_size=chunk_size))
    reports = list(job.run(on_image=seen.append, make=fake.make))
    assert len(reports) == commits
    assert max(len(report.done) for report in reports) <= chunk_size
    assert [key for report in reports for key in report.done] == sorted(drawn)
    assert [record.key for record in seen] == sorted(drawn)
    assert_annotated(default_store(folder), drawn)
    assert len(fake.seen) == 7


def test_a_rerun_does_nothing(folder: Path, fake: Fake) -> None:
    run_all(folder, fake)
    before = files_of(default_store(folder))
    again = prepare(folder, CONFIG)
    assert again.idle
    assert again.pending == []
    assert list(again.run(make=fake.make)) == []
    assert (fake.made, len(fake.seen)) == (1, 7)
    assert files_of(default_store(folder)) == before


def test_a_file_that_sorts_first_is_the_only_one_done(
    folder: Path, drawn: dict[str, UInt8Image], fake: Fake, tmp_path: Path
) -> None:
    run_all(folder, fake)
    before = chunks_of(default_store(folder))
    new = draw(folder / "A.png", 99)
    _, reports = run_all(folder, fake)
    assert [report.done for report in reports] == [("A.png",)]
    assert fake.seen[7:] == [new.tobytes()]
    assert_annotated(default_store(folder), drawn | {"A.png": new})
    assert {key: chunk for key, chunk in chunks_of(default_store(folder)).items() if key in before} == before


def test_a_renamed_file_shares_the_arrays_of_its_content(
    folder: Path, drawn: dict[str, UInt8Image], fake: Fake
) -> None:
    run_all(folder, fake)
    before = chunks_of(default_store(folder))
    (folder / "b" / "0.png").rename(folder / "new name.png")
    _, reports = run_all(folder, fake)
    assert [report.done for report in reports] == [("new name.png",)]
    assert len(fake.seen) == 7, "its content was known"
    assert chunks_of(default_store(folder))["new name.png"] == before["b/0.png"]
    assert_annotated(default_store(folder), drawn | {"new name.png": drawn["b/0.png"]})


def test_another_chunk_size_redoes_nothing(folder: Path, drawn: dict[str, UInt8Image], fake: Fake) -> None:
    run_all(folder, fake, chunk_size=2)
    assert prepare(folder, CONFIG, options=RunOptions(chunk_size=5)).idle
    new = {name: draw(folder / name, 50 + i) for i, name in enumerate(["0.png", "b/1b.png", "y.png"])}
    (folder / "z.png").rename(folder / "a.png")
    run_all(folder, fake, chunk_size=5)
    assert sorted(fake.seen[7:]) == sorted(pixels.tobytes() for pixels in new.values())
    assert_annotated(default_store(folder), drawn | new | {"a.png": drawn["z.png"]})


def test_a_file_that_is_gone_is_no_failure_and_its_annotation_stays(
    folder: Path, drawn: dict[str, UInt8Image], fake: Fake
) -> None:
    run_all(folder, fake)
    (folder / "z.png").unlink()
    job = prepare(folder, CONFIG)
    assert job.idle
    assert job.failures() == {}
    assert "z.png" in open_store(default_store(folder))


def test_annotate_is_the_job_in_one_call(folder: Path, fake: Fake) -> None:
    run_all(folder, fake)
    assert list(annotate(folder, CONFIG)) == [], "nothing is left, so nothing is built"


# ---------------------------------------------------------------- files that can't be read


def test_unreadable_files_are_recorded_and_the_rest_is_done(
    folder: Path, drawn: dict[str, UInt8Image], fake: Fake
) -> None:
    (folder / "b" / "empty.jpg").write_bytes(b"")
    (folder / "a text.jpg").write_bytes(b"words, words, words")
    whole = (folder / "z.png").read_bytes()
    (folder / "c" / "cut.png").write_bytes(whole[: len(whole) - 40])
    job, reports = run_all(folder, fake, chunk_size=4)
    failed = dict(failure for report in reports for failure in report.failed)
    assert sorted(failed) == ["a text.jpg", "b/empty.jpg", "c/cut.png"]
    assert "not an image" in failed["a text.jpg"]
    assert "empty" in failed["b/empty.jpg"]
    assert "truncated" in failed["c/cut.png"]
    assert {key: record.error for key, record in job.failures().items()} == failed
    assert {record.stage for record in open_store(job.plan.out).failed.values()} == {"decode"}
    assert_annotated(job.plan.out, drawn)


def test_a_rerun_still_knows_the_failures_of_this_folder(folder: Path, fake: Fake) -> None:
    (folder / "empty.jpg").write_bytes(b"")
    run_all(folder, fake)
    again = prepare(folder, CONFIG)
    assert again.idle
    assert list(again.failures()) == ["empty.jpg"]
    (folder / "empty.jpg").unlink()
    assert prepare(folder, CONFIG).failures() == {}


# ---------------------------------------------------------------- interruptions


def test_what_is_finished_is_committed_when_the_loop_is_left(
    folder: Path, drawn: dict[str, UInt8Image], fake: Fake
) -> None:
    reports = prepare(folder, CONFIG, options=RunOptions(chunk_size=2)).run(make=fake.make)
    first = next(reports)
    reports.close()
    assert first.done == tuple(sorted(drawn))[:2]
    assert list(open_store(default_store(folder))) == sorted(drawn)[: len(fake.seen)], "and what came after it"
    run_all(folder, fake)
    assert len(fake.seen) == 7
    assert_annotated(default_store(folder), drawn)


@pytest.mark.parametrize("error", [RuntimeError("a defect"), KeyboardInterrupt(), SystemExit(1)])
@pytest.mark.parametrize("finished", [0, 3, 5])
def test_what_is_finished_is_committed_when_the_segmenter_fails(
    error: BaseException, finished: int, folder: Path, drawn: dict[str, UInt8Image], fake: Fake
) -> None:
    fake.fail_at[finished] = error
    with pytest.raises(type(error)):
        run_all(folder, fake, chunk_size=4)
    store = open_store(default_store(folder))
    assert list(store) == sorted(drawn)[:finished]
    assert store.failed == {}
    fake.fail_at.clear()
    run_all(folder, fake)
    assert len(fake.seen) == 7, "nothing was done twice"
    assert_annotated(default_store(folder), drawn)


def test_an_interruption_in_the_callers_progress_loses_nothing(
    folder: Path, drawn: dict[str, UInt8Image], fake: Fake
) -> None:
    def stop_at_third(record: Record) -> None:
        if record.key == sorted(drawn)[2]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(prepare(folder, CONFIG).run(on_image=stop_at_third, make=fake.make))
    assert list(open_store(default_store(folder))) == sorted(drawn)[:3]


def test_the_store_is_free_after_a_failure(folder: Path, fake: Fake) -> None:
    fake.fail_at[2] = RuntimeError("defect")
    with pytest.raises(RuntimeError):
        run_all(folder, fake)
    with writing(open_store(default_store(folder))):
        pass


def test_a_second_run_at_the_same_time_is_refused(folder: Path, fake: Fake) -> None:
    reports = prepare(folder, CONFIG, options=RunOptions(chunk_size=2)).run(make=fake.make)
    next(reports)
    with pytest.raises(BusyError):
        run_all(folder, fake)
    assert len(list(reports)) == 3
    assert len(open_store(default_store(folder))) == 7


def test_what_another_run_finished_in_between_is_not_redone(
    folder: Path, drawn: dict[str, UInt8Image], fake: Fake
) -> None:
    reports = prepare(folder, CONFIG, options=RunOptions(chunk_size=2)).run(make=fake.make)
    next(reports)
    reports.close()
    early = prepare(folder, CONFIG)
    assert len(early.pending) == 7 - len(fake.seen) >= 3
    run_all(folder, fake)
    assert list(early.run(make=fake.make)) == []
    assert len(fake.seen) == 7
    assert_annotated(default_store(folder), drawn)


# ---------------------------------------------------------------- another run


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tiling.short_side", 64),
        ("text.vocabulary", "classes:dark, bright"),
        ("store.probabilities", "none"),
        ("text.logit_scale", 10.0),
        ("labels.finish", "working"),
        ("encoder.weights", "random:1"),
    ],
)
def test_another_run_is_refused_and_nothing_is_written(key: str, value: object, folder: Path, fake: Fake) -> None:
    run_all(folder, fake)
    draw(folder / "new.png", 99)
    before = files_of(default_store(folder))
    values = CONFIG.to_dict()
    section, name = key.split(".")
    values[section][name] = value
    with pytest.raises(RunError, match=key):
        run_all(folder, fake, Config.from_dict(values))
    assert files_of(default_store(folder)) == before
    assert len(fake.seen) == 7


def test_other_stages_are_another_run(folder: Path, fake: Fake) -> None:
    run_all(folder, fake)
    with pytest.raises(RunError, match="stages"):
        run_all(folder, fake, Config.from_dict(CONFIG.to_dict() | {"stages": [{"use": "qq"}]}))


def test_another_run_is_refused_even_when_nothing_is_pending(folder: Path, fake: Fake) -> None:
    run_all(folder, fake)
    job = prepare(folder, Config.from_dict(CONFIG.to_dict() | {"tiling": {"short_side": 64}}))
    assert job.pending == []
    assert not job.idle
    with pytest.raises(RunError, match=r"tiling\.short_side"):
        list(job.run(make=fake.make))


def test_another_device_is_the_same_run(folder: Path, fake: Fake) -> None:
    run_all(folder, fake)
    values = CONFIG.to_dict()
    values["encoder"]["device"] = "cpu"
    assert prepare(folder, Config.from_dict(values)).idle


def test_a_vocabulary_file_that_changed_is_looked_at_anew(folder: Path, fake: Fake, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("dark\nmiddle\nbright\n")
    config = Config.from_dict(CONFIG.to_dict() | {"text": {"vocabulary": str(words)}})
    run_all(folder, fake, config)
    assert prepare(folder, config).idle
    words.write_text("dark\nmiddle\nbrilliant\n")
    assert not prepare(folder, config).idle


def of_another_version(store: Path) -> None:
    """Make a store look as if an older ovlabel had written it."""
    root = store / "zarr.json"
    node = json.loads(root.read_text())
    node["attributes"]["written"]["version"] = "0.0.1"
    root.write_text(json.dumps(node))


def test_another_version_alone_is_the_same_run(folder: Path, drawn: dict[str, UInt8Image], fake: Fake) -> None:
    run_all(folder, fake)
    of_another_version(default_store(folder))
    new = draw(folder / "new.png", 99)
    job, _ = run_all(folder, fake)
    assert not job.settled
    assert len(fake.seen) == 8
    assert_annotated(default_store(folder), drawn | {"new.png": new})


# ---------------------------------------------------------------- where


def test_the_store_lies_beside_the_folder(folder: Path, tmp_path: Path, fake: Fake) -> None:
    job, _ = run_all(folder, fake)
    assert job.plan.out == tmp_path / "in.ovlabel.zarr"
    assert job.plan.out.is_dir()
    assert all(not key.startswith("in.ovlabel") for key in open_store(job.plan.out))


def spelt_relative(folder: Path) -> Path | str:
    return folder.name


def spelt_with_slash(folder: Path) -> Path | str:
    return f"{folder}/"


def spelt_with_dots(folder: Path) -> Path | str:
    return f"./{folder.name}/b/.."


def spelt_as_link(folder: Path) -> Path | str:
    (folder.parent / "link").symlink_to(folder)
    return folder.parent / "link"


@pytest.mark.parametrize("spell", [spelt_relative, spelt_with_slash, spelt_with_dots, spelt_as_link])
def test_every_spelling_of_the_folder_means_the_same_store(
    spell: Callable[[Path], Path | str],
    folder: Path,
    drawn: dict[str, UInt8Image],
    fake: Fake,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder.parent)
    job = prepare(spell(folder), CONFIG)
    list(job.run(make=fake.make))
    assert job.plan.out == folder.parent / "in.ovlabel.zarr"
    assert_annotated(job.plan.out, drawn)
    assert prepare(folder, CONFIG).idle
    assert open_store(job.plan.out).folder.samefile(folder)


def test_the_current_folder_is_a_folder(folder: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    job, _ = run_all(Path("."), fake)
    assert job.plan.out == folder.parent / "in.ovlabel.zarr"


def test_a_store_inside_the_folder_is_not_taken_for_images(
    folder: Path, drawn: dict[str, UInt8Image], fake: Fake
) -> None:
    out = folder / "deep" / "labels.zarr"
    run_all(folder, fake, out=out)
    assert_annotated(out, drawn)
    assert prepare(folder, CONFIG, out).idle


def test_an_empty_folder_makes_no_store(tmp_path: Path, fake: Fake) -> None:
    (tmp_path / "in").mkdir()
    job, reports = run_all(tmp_path / "in", fake)
    assert job.idle
    assert reports == []
    assert fake.made == 0
    assert not job.plan.out.exists()


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        prepare(tmp_path / "nowhere", CONFIG)


def test_a_store_that_is_none_is_refused_before_anything_is_built(folder: Path, fake: Fake, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(StoreError, match="mine"):
        run_all(folder, fake, out=tmp_path / "mine")
    assert fake.made == 0
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"


def test_names_that_no_encoding_knows_are_annotated(tmp_path: Path, fake: Fake) -> None:
    names = [os.fsdecode(b"caf\xe9.png"), "two\nlines.png", "x.png/y.png"]
    drawn = {name: draw(tmp_path / "in" / name, seed) for seed, name in enumerate(names)}
    job, _ = run_all(tmp_path / "in", fake)
    assert_annotated(job.plan.out, drawn)
    assert prepare(tmp_path / "in", CONFIG).idle


# ---------------------------------------------------------------- without torch

WHOLE_JOB = """
import sys
sys.path.insert(0, sys.argv[2])
from test_job import CONFIG, Fake, prepare
from pathlib import Path
fake = Fake()
reports = list(prepare(sys.argv[1], CONFIG).run(make=fake.make))
print(sum(len(r.done) for r in reports), "done;", "torch" in sys.modules, "open_clip" in sys.modules)
"""


def test_a_job_imports_no_torch_of_its_own(folder: Path) -> None:
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", WHOLE_JOB, str(folder), here], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "7 done; False False\n", "")


# ---------------------------------------------------------------- what a first version got wrong


def test_a_folder_of_unreadable_files_only_is_remembered(tmp_path: Path, fake: Fake) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "empty.jpg").write_bytes(b"")
    job, _ = run_all(tmp_path / "in", fake)
    assert list(job.failures()) == ["empty.jpg"]
    again = prepare(tmp_path / "in", CONFIG)
    assert again.idle
    assert list(again.failures()) == ["empty.jpg"]


def test_a_file_that_is_too_large_is_not_tried_in_every_run(tmp_path: Path, fake: Fake) -> None:
    (tmp_path / "in").mkdir()
    with open(tmp_path / "in" / "large.jpg", "wb") as file:
        file.truncate(2**30 + 1)  # a hole, which takes no space
    job, _ = run_all(tmp_path / "in", fake)
    assert list(job.failures()) == ["large.jpg"]
    again = prepare(tmp_path / "in", CONFIG)
    assert again.idle
    assert list(again.failures()) == ["large.jpg"]


def test_two_jobs_prepared_before_the_store_exists(folder: Path, drawn: dict[str, Any], fake: Fake) -> None:
    first, second = prepare(folder, CONFIG), prepare(folder, CONFIG)
    list(first.run(make=fake.make))
    list(second.run(make=fake.make))
    assert_annotated(default_store(folder), drawn)


def test_a_second_job_while_the_first_writes(folder: Path, drawn: dict[str, Any], fake: Fake) -> None:
    first, second = prepare(folder, CONFIG, options=RunOptions(chunk_size=2)), prepare(folder, CONFIG)
    reports = first.run(make=fake.make)
    next(reports)
    with pytest.raises(BusyError):
        list(second.run(make=fake.make))
    list(reports)
    assert_annotated(default_store(folder), drawn)


def test_somebody_elses_chunks_folder_is_not_erased(folder: Path, fake: Fake, tmp_path: Path) -> None:
    mine = tmp_path / "mine" / "chunks" / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("x")
    with pytest.raises(StoreError, match="is no store"):
        run_all(folder, fake, out=tmp_path / "mine")
    assert mine.exists()


@pytest.mark.parametrize("left", ["chunks/zarr.json", "zarr.0123.partial"])
def test_a_store_killed_in_the_making_is_made_anew(folder: Path, drawn: dict[str, Any], fake: Fake, left: str) -> None:
    begun = default_store(folder) / left
    begun.parent.mkdir(parents=True)
    begun.write_text('{"zarr_format":3,"node_type":"group","attributes":{}}')
    run_all(folder, fake)
    assert_annotated(default_store(folder), drawn)


def test_ctrl_c_inside_a_commit_loses_nothing(
    folder: Path, drawn: dict[str, Any], fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, hits = arrays._put, []

    def put(node: Path, name: str, parts: Any, fill: int) -> None:
        if name == "confidence" and not hits:
            hits.append(name)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
        real(node, name, parts, fill)

    monkeypatch.setattr(arrays, "_put", put)
    with pytest.raises(KeyboardInterrupt):
        run_all(folder, fake)
    assert_annotated(default_store(folder), drawn)


def test_a_repaired_file_and_a_changed_one_are_annotated_anew(folder: Path, drawn: dict[str, Any], fake: Fake) -> None:
    (folder / "new.png").write_bytes(b"")
    run_all(folder, fake)
    calls = len(fake.seen)
    changed = {"new.png": draw(folder / "new.png", 99), "z.png": draw(folder / "z.png", 98)}
    run_all(folder, fake)
    assert len(fake.seen) == calls + 2
    assert_annotated(default_store(folder), drawn | changed)


def test_a_touched_file_is_not_done_again(folder: Path, drawn: dict[str, Any], fake: Fake) -> None:
    run_all(folder, fake)
    calls = len(fake.seen)
    os.utime(folder / "z.png", (1, 1))
    job, _ = run_all(folder, fake)
    assert [item.key for item in job.pending] == ["z.png"]
    assert len(fake.seen) == calls
    assert prepare(folder, CONFIG).idle
    assert_annotated(default_store(folder), drawn)


def test_a_new_version_is_resolved_once_and_then_settled(folder: Path, drawn: dict[str, Any], fake: Fake) -> None:
    run_all(folder, fake)
    of_another_version(default_store(folder))
    assert not prepare(folder, CONFIG).idle
    run_all(folder, fake)
    assert prepare(folder, CONFIG).idle
    assert_annotated(default_store(folder), drawn)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("CUDA out of memory. Tried …"), RuntimeError("can't allocate memory: 9 bytes")],
)
def test_an_image_too_large_for_the_machine_is_recorded_and_the_rest_is_done(
    error: Exception, folder: Path, drawn: dict[str, Any], fake: Fake
) -> None:
    fake.fail_at[2] = error  # and every image after the second
    job, _ = run_all(folder, fake)
    assert len(open_store(job.plan.out)) == 2
    assert sorted([*open_store(job.plan.out), *job.failures()]) == sorted(drawn)
    assert {(r.stage, r.error) for r in job.failures().values()} == {("segment", "out of memory")}


def test_a_store_keeps_to_its_folder(folder: Path, drawn: dict[str, Any], fake: Fake, tmp_path: Path) -> None:
    job, _ = run_all(folder, fake)
    other = tmp_path / "other"
    draw(other / "z.png", 3)
    with pytest.raises(RunError, match="belongs to the folder"):
        run_all(other, fake, out=job.plan.out)
    folder.rename(tmp_path / "moved")
    again, _ = run_all(tmp_path / "moved", fake, out=job.plan.out)
    assert again.idle
    assert open_store(job.plan.out).keys() == drawn.keys()


def test_a_moved_folder_is_noted_at_the_next_commit(
    folder: Path, drawn: dict[str, Any], fake: Fake, tmp_path: Path
) -> None:
    job, _ = run_all(folder, fake)
    folder.rename(tmp_path / "moved")
    draw(tmp_path / "moved" / "more.png", 77)
    run_all(tmp_path / "moved", fake, out=job.plan.out)
    assert open_store(job.plan.out)["more.png"].path == tmp_path / "moved" / "more.png"


def test_a_file_that_can_be_opened_again_is_annotated(
    folder: Path, drawn: dict[str, Any], fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flaky(path: Path) -> BinaryIO:
        if path.name == "z.png":
            raise OSError(5, "Input/output error")
        return files.open_regular(path)

    with monkeypatch.context() as patch:
        patch.setattr("ovlabel.pictures.read.open_regular", flaky)
        job, _ = run_all(folder, fake)
        assert list(job.failures()) == ["z.png"]
    run_all(folder, fake)
    assert_annotated(default_store(folder), drawn)


def test_images_are_begun_while_others_are_waited_for(fake: Fake, tmp_path: Path) -> None:
    """As many as the segmenter allows; records and commits keep the folder's order."""
    for number in range(4):
        draw(tmp_path / "images" / f"{number}.png", number)
    fake.in_flight = 2
    reports = list(
        prepare(tmp_path / "images", CONFIG, tmp_path / "s.zarr", RunOptions(chunk_size=3)).run(make=fake.make)
    )
    assert fake.order == [
        *("begin 1", "begin 2", "begin 3", "finish 1", "begin 4", "finish 2"),
        *("finish 3", "finish 4"),
    ]
    assert [report.done for report in reports] == [("0.png", "1.png", "2.png"), ("3.png",)]


@pytest.mark.parametrize(("together", "in_flight"), [(1, 0), (1, 2), (3, 0), (3, 2)])
def test_what_is_in_work_is_noted_until_it_is_finished(
    fake: Fake, tmp_path: Path, together: int, in_flight: int
) -> None:
    """Also what waits behind the segmenter: should the process die, it is among the suspects."""
    for number in range(12):
        draw(tmp_path / "images" / f"{number:02}.png", number)
    fake.together, fake.in_flight = together, in_flight
    noted, whole = list[set[str]](), fake.annotation

    def annotation(image: UInt8Image) -> Annotation:
        number = int(fake.order[-1].removeprefix("finish ")) - 1
        assert f"{number:02}.png" in noted[-1]
        return whole(image)

    fake.annotation = annotation  # type: ignore[method-assign]
    items = prepare(tmp_path / "images", CONFIG, tmp_path / "s.zarr").pending
    assert len(list(annotate_items(items, Records(), fake, noted.append))) == 12


def test_running_out_of_memory_behind_is_recorded_too(fake: Fake, tmp_path: Path) -> None:
    for number in range(3):
        draw(tmp_path / "images" / f"{number}.png", number)
    fake.in_flight = 1
    whole = fake.annotation

    def annotation(image: UInt8Image) -> Annotation:
        if fake.order[-1] == "finish 2":
            raise MemoryError
        return whole(image)

    fake.annotation = annotation  # type: ignore[method-assign]
    (report,) = prepare(tmp_path / "images", CONFIG, tmp_path / "s.zarr").run(make=fake.make)
    assert report.done == ("0.png", "2.png")
    assert report.failed == (("1.png", "out of memory"),)


class Grouped(Fake):
    """Takes three images at a time, if none of them is large."""

    together = 3

    def begin_all(self, images: Sequence[UInt8Image]) -> list[Callable[[], Annotation]]:
        self.order.append(f"together {len(images)}")
        if any(image.shape[0] > 50 for image in images):
            raise MemoryError
        return super().begin_all(images)

    def begin(self, image: UInt8Image) -> Callable[[], Annotation]:
        if image.shape[0] > 50:
            raise MemoryError
        return super().begin(image)


def test_images_are_begun_together_and_one_that_is_too_large_fails_alone(tmp_path: Path) -> None:
    drawn = {f"{i}.png": draw(tmp_path / "in" / f"{i}.png", i) for i in range(8)}
    draw(tmp_path / "in" / "4a.png", 44, (60, 8))
    (tmp_path / "in" / "1a.png").write_bytes(b"nothing")
    grouped = Grouped()
    job, _ = run_all(tmp_path / "in", grouped)
    assert [line for line in grouped.order if "together" in line] == ["together 2", "together 3", "together 3"]
    assert sorted(job.failures()) == ["1a.png", "4a.png"]
    assert_annotated(default_store(tmp_path / "in"), drawn)


def test_a_run_with_nothing_to_do_removes_what_a_dead_one_left(folder: Path, fake: Fake) -> None:
    """Not while another process is writing: the chunk may be its own."""
    job, _ = run_all(folder, fake)
    remains = job.plan.out / "chunks" / "00000099-0123abcd"
    (remains / "labels").mkdir(parents=True)
    made = fake.made
    with locked(job.plan.out):
        again, reports = run_all(folder, fake)
    assert again.idle
    assert not reports
    assert remains.exists()
    run_all(folder, fake)
    assert not remains.exists()
    assert fake.made == made
