"""The command line as a person types it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovlabel.cli import main
from ovlabel.store.read import open_store
from tests.conftest import writing

Run = Callable[..., "Said"]


@dataclass(frozen=True)
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def refusal(self) -> str:
        """The only line on stderr, with nothing on stdout."""
        assert self.out == ""
        (line,) = self.err.splitlines()
        assert line.startswith("ovlabel: ")
        return line


@pytest.fixture
def ovlabel(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run a command in this process."""
    handler = signal.getsignal(signal.SIGINT)

    def run(*arguments: object) -> Said:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    yield run
    signal.signal(signal.SIGINT, handler)


@pytest.fixture
def options(tiny: dict[str, Any]) -> list[str]:
    """A tiny model and three classes, as options."""
    named = {"encoder.model": "--model", "encoder.weights": "--weights", "text.templates": "--templates"}
    given = ["--classes", "cat, dog, grass"]
    for key, value in tiny.items():
        given += [named[key], str(value)] if key in named else ["--set", f"{key}={value}"]
    return given


@pytest.fixture
def annotated(ovlabel: Run, photographs: Path, options: list[str]) -> Path:
    """The store of the six drawn photographs."""
    assert ovlabel("annotate", photographs, *options).code == 0
    return photographs.parent / "photographs.ovlabel.zarr"


# ---------------------------------------------------------------- annotate


def test_a_folder_is_annotated(ovlabel: Run, photographs: Path, options: list[str], tmp_path: Path) -> None:
    said = ovlabel("annotate", photographs, *options)
    store = tmp_path / "photographs.ovlabel.zarr"
    assert said.code == 0
    assert said.out == f"6 of 6 images annotated (6 looked at now, 0 failed) in {store}\n"
    lines = said.err.splitlines()
    assert "random weights" in lines[0]
    assert lines[-1].startswith("ovlabel: 6/6 images, 0 failed, ")
    assert "\r" not in said.err
    opened = open_store(store)
    assert list(opened) == ["a/1.png", "a/3.png", "a/5.png", "b/c/0.png", "b/c/2.png", "b/c/4.png"]
    assert opened["a/3.png"].labels.shape == (60, 80)
    assert opened.class_names == ["cat", "dog", "grass"]


def test_the_hint_that_is_printed_works(
    ovlabel: Run, photographs: Path, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    said = ovlabel("annotate", photographs, *options)
    _, _, command = said.err.splitlines()[-1].partition("ovlabel show ")
    command = f"show {command}"
    assert ovlabel(*command.split()).code == 0
    assert (tmp_path / "overlay.png").is_file()


def test_a_rerun_with_nothing_to_do_is_quiet_and_says_so_on_a_terminal(
    ovlabel: Run, photographs: Path, options: list[str], annotated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ovlabel("annotate", photographs, *options) == Said(0, "", "")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    said = ovlabel("annotate", photographs, *options)
    assert said == Said(0, f"6 of 6 images annotated (0 looked at now, 0 failed) in {annotated}\n", "")


def test_results_as_json(ovlabel: Run, photographs: Path, options: list[str], annotated: Path) -> None:
    (photographs / "bad.png").write_bytes(b"nothing")
    next(photographs.rglob("0.png")).unlink()
    said = ovlabel("annotate", photographs, *options, "--json", "--log-format", "json")
    told = json.loads(said.out)
    assert said.code == told["exit_code"] == 3
    assert (told["images"], told["annotated"], told["looked_at"], told["pending"]) == (6, 5, 1, 0)
    assert (told["store"], told["vanished"], told["removed"]) == (str(annotated), ["b/c/0.png"], False)
    (failed,) = told["failed"]
    assert (failed["key"], failed["stage"], failed["attempts"]) == ("bad.png", "decode", 1)
    lines = [json.loads(line) for line in said.err.splitlines()]
    assert {"time", "level", "message"} <= set(lines[0])
    assert lines[-1]["total"] == 1
    assert any(line["level"] == "warning" and line["message"].startswith("bad.png: ") for line in lines)

    idle = ovlabel("annotate", photographs, *options, "--json")
    assert json.loads(idle.out)["looked_at"] == 0
    refused = ovlabel("annotate", photographs, "--log-format", "json", "--vocab", "nowhere")
    assert json.loads(refused.err)["level"] == "error"
    assert ovlabel("annotate", photographs, "--log-format", "xml").code == 2


def test_images_from_stdin(
    ovlabel: Run, photographs: Path, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Input:
        buffer = io.BytesIO(b"a/1.png\0missing.png\0")

    monkeypatch.setattr("sys.stdin", Input)
    said = ovlabel("annotate", photographs, *options, "--list", "-")
    assert said.code == 3
    assert said.out.startswith("1 of 1 images annotated (1 looked at now, 0 failed, 1 not found) in ")
    assert "missing.png: no image of that name" in said.err
    assert ovlabel("annotate", photographs, *options, "--list", tmp_path / "nowhere").code == 2


def test_a_run_that_reports_frames_limits_and_removals(
    ovlabel: Run, photographs: Path, options: list[str], annotated: Path
) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    frames[0].save(photographs / "moving.gif", save_all=True, append_images=frames[1:])
    noise(photographs / "new.png", 40, 40)
    next(photographs.rglob("0.png")).unlink()
    said = ovlabel("annotate", photographs, *options, "--limit", 1)
    assert (
        "(1 looked at now, 0 failed, 1 pending, 1 no longer in the folder (--prune), 1 with further frames" in said.out
    )
    said = ovlabel("annotate", photographs, *options, "--prune")
    assert said.out.startswith("7 of 7 images annotated (1 looked at now, 0 failed, 1 removed, 1 with further frames")
    assert len(open_store(annotated)) == 7


def test_a_rerun_with_nothing_to_do_imports_nothing_heavy(
    photographs: Path, options: list[str], annotated: Path
) -> None:
    code = (
        "import sys; from ovlabel.cli import main; code = main(sys.argv[1:])\n"
        "heavy = 'torch zarr open_clip dask tqdm numpy PIL scipy pydantic'.split()\n"
        "print(code, [m for m in heavy if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, "annotate", str(photographs), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "0 []\n"


def test_out_says_where(ovlabel: Run, photographs: Path, options: list[str], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "er.zarr"
    assert ovlabel("annotate", photographs, "--out", out, *options).code == 0
    assert len(open_store(out)) == 6
    assert not (tmp_path / "photographs.ovlabel.zarr").exists()


def test_chunk_is_the_most_images_of_a_commit(
    ovlabel: Run, photographs: Path, options: list[str], tmp_path: Path
) -> None:
    ovlabel("annotate", photographs, "--chunk", 4, *options)
    chunks = [image.record.chunk for image in open_store(tmp_path / "photographs.ovlabel.zarr").values()]
    assert [chunks.count(name) for name in dict.fromkeys(chunks)] == [4, 2]


def test_an_empty_folder_is_said_to_be_empty(ovlabel: Run, tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "in").mkdir()
    said = ovlabel("annotate", tmp_path / "in", *options)
    assert said.code == 0
    assert said.out == f"no images in {tmp_path / 'in'}\n"
    assert list(tmp_path.glob("*.zarr")) == []


def test_a_folder_of_other_files_alone_is_not_passed_over_in_silence(
    ovlabel: Run, tmp_path: Path, options: list[str]
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.mov", "b.mov", "c.raw", "x.\x1b[31m", "none", "words.txt"):
        (tmp_path / "in" / name).touch()
    said = ovlabel("annotate", tmp_path / "in", *options)
    counted = "5 files of other kinds were not looked at (.mov 2, "
    assert said.out.startswith(f"no images in {tmp_path / 'in'}: {counted}")
    assert "without suffix 1" in said.out
    assert said.out.rstrip("\n").isprintable()
    found = json.loads(ovlabel("annotate", tmp_path / "in", "--json", *options).out)["others"]
    assert (found[".mov"], found[".raw"], found[""]) == (2, 1, 1)


def test_other_files_are_told_of_by_the_summary_and_by_status(
    ovlabel: Run, photographs: Path, options: list[str], tmp_path: Path
) -> None:
    (photographs / "telephone.heic").touch()
    hint = "" if find_spec("pillow_heif") else "; pip install 'ovlabel[heif]' for .heic"
    (photographs / "film.mov").touch()
    many = "1 file of another kind was" if find_spec("pillow_heif") else "2 files of other kinds were"
    for said in (
        ovlabel("annotate", photographs, *options),
        ovlabel("status", tmp_path / "photographs.ovlabel.zarr"),
    ):
        assert f"{many} not looked at (" in said.out
        assert ".mov 1" in said.out
        assert hint in said.out


def test_as_a_module_it_is_the_same(photographs: Path, options: list[str], annotated: Path) -> None:
    command = [sys.executable, "-m", "ovlabel", "status", str(annotated)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "done       6\n" in done.stdout
    assert done.stderr == ""


# ---------------------------------------------------------------- the folder of the acceptance list


def noise(path: Path, height: int, width: int, **options: object) -> None:
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Every kind of file that has ever stopped a run."""
    folder = tmp_path / "hostile"
    (folder / "deep").mkdir(parents=True)
    (folder / "zero bytes.jpg").write_bytes(b"")
    (folder / "words.jpg").write_text("To whom it may concern: this is no picture.\n" * 40)
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)).save(buffer, "JPEG")
    (folder / "deep" / "truncated.jpg").write_bytes(buffer.getvalue()[:2000])
    Image.new("CMYK", (50, 40), (10, 200, 30, 40)).save(folder / "cmyk.jpg")
    Image.fromarray(np.arange(40 * 50, dtype=np.uint16).reshape(40, 50) * 32).save(folder / "sixteen bit.png")
    palette = Image.new("P", (50, 40))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.save(folder / "palette.png", transparency=1)
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(folder / "rotated.jpg", 40, 70, exif=exif)
    noise(folder / "one pixel.png", 1, 1)
    noise(folder / "ribbon.png", 20, 5000)
    noise(folder / "größe 写真.png", 41, 50)
    noise(folder / "two\nlines.png", 42, 50)
    noise(folder / os.fsdecode(b"caf\xe9.png"), 43, 50)
    noise(folder / "x.jpg", 44, 50)
    noise(folder / "x.png", 45, 50)
    (folder / "deep" / "loop").symlink_to(folder)
    return folder


GOOD = {
    "cmyk.jpg": (40, 50),
    "sixteen bit.png": (40, 50),
    "palette.png": (40, 50),
    "rotated.jpg": (70, 40),
    "one pixel.png": (1, 1),
    "ribbon.png": (20, 5000),
    "größe 写真.png": (41, 50),
    "two\nlines.png": (42, 50),
    os.fsdecode(b"caf\xe9.png"): (43, 50),
    "x.jpg": (44, 50),
    "x.png": (45, 50),
}
BAD = {"zero bytes.jpg": "empty", "words.jpg": "not an image", "deep/truncated.jpg": "truncated"}


def test_a_hostile_folder_is_annotated_and_what_failed_is_named(
    ovlabel: Run, hostile: Path, options: list[str], tmp_path: Path
) -> None:
    said = ovlabel("annotate", hostile, *options)
    assert said.code == 3
    store = open_store(tmp_path / "hostile.ovlabel.zarr")
    assert {key: image.labels.shape for key, image in store.items()} == GOOD
    assert {int(value) for image in store.values() for value in np.unique(image.labels)} <= {0, 1, 2}
    assert_summary(said, looked_at=14)

    again = ovlabel("annotate", hostile, *options)
    assert again.code == 3
    assert_summary(again, looked_at=0)

    told = ovlabel("status", store.path)
    assert told.code == 0
    assert "done       11" in told.out
    assert "failed     3" in told.out
    assert "14 images, 0 pending" in told.out
    for key in BAD:
        assert f"failed: {key}: " in told.out


def assert_summary(said: Said, looked_at: int) -> None:
    (line,) = said.out.splitlines()
    assert line.startswith(f"11 of 14 images annotated ({looked_at} looked at now, 3 failed")
    if looked_at:
        for key, reason in BAD.items():
            assert any(said.startswith(f"ovlabel: {key}: ") and reason in said for said in said.err.splitlines())
    else:
        assert said.err == ""


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        (["--vocab", "coco-stuf"], "coco-stuff"),
        (["--vocab", "voc"], "voc21"),
        (["--preset", "sclap"], "sclip"),
        (["--templates", "imagenet"], "imagenet80"),
        (["--set", "tiling.windw=3"], "tiling.window"),
        (["--set", "stages=[{use='neighbors'}]"], "neighbours"),
        (["--set", "stages=['valeu']"], "value"),
        (["--set", "encoder.precision=fp61"], "fp16"),
        (["--set", "tiling.window"], "key=value"),
        (["--set", "tiling.window=many"], "integer"),
        (["--set", "tiling.stride=0"], "tiling.stride"),
        (["--model", "ViT-B-61"], "ViT-B-16"),
        (["--vocab", "nowhere.toml"], "nowhere.toml"),
        (["--preset", "nowhere.toml"], "nowhere.toml"),
        (["--vocab", "voc21", "--classes", "cat"], "exclude"),
        (["--classes", " , "], "--classes"),
    ],
)
def test_what_does_not_exist_is_refused_in_one_line_with_the_nearest(
    given: list[str], nearest: str, ovlabel: Run, photographs: Path, tmp_path: Path
) -> None:
    said = ovlabel("annotate", photographs, *given)
    assert said.code == 2
    assert nearest in said.refusal
    assert list(tmp_path.glob("*.zarr")) == []


def test_a_key_of_a_stage_is_checked_too(ovlabel: Run, photographs: Path) -> None:
    said = ovlabel("annotate", photographs, "--preset", "naclip", "--set", "neighbours.sigam=3")
    assert said.code == 2
    assert "sigma" in said.refusal


def test_a_device_that_does_not_exist_is_refused(
    ovlabel: Run, photographs: Path, options: list[str], tmp_path: Path
) -> None:
    said = ovlabel("annotate", photographs, *options, "--device", "gpu")
    assert said.code == 2
    assert said.out == ""
    *_, warning, refusal = said.err.splitlines()
    assert "random weights" in warning
    assert "encoder.device = gpu" in refusal
    assert "cuda" in refusal
    assert list(tmp_path.glob("*.zarr")) == []


def test_a_missing_folder_is_refused(ovlabel: Run, tmp_path: Path) -> None:
    said = ovlabel("annotate", tmp_path / "nowhere")
    assert said.code == 2
    assert "nowhere" in said.refusal


@pytest.mark.parametrize(
    "typed", [["annotate"], ["anotate", "x"], ["annotate", "x", "--nope"], ["annotate", "x", "--chunk", "0"]]
)
def test_a_line_that_is_no_command_is_refused(typed: list[str], ovlabel: Run) -> None:
    said = ovlabel(*typed)
    assert said.code == 2
    assert said.out == ""
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("weights", "words"),
    [("nowhere.safetensors", "nowhere.safetensors"), ("opnai", "openai"), ("metaclip400m", "metaclip_400m")],
)
def test_weights_that_do_not_exist(weights: str, words: str, ovlabel: Run, photographs: Path, tmp_path: Path) -> None:
    said = ovlabel("annotate", photographs, "--weights", weights)
    assert said.code == 7
    assert words in said.refusal
    assert list(tmp_path.glob("*.zarr")) == []


def test_a_file_that_holds_no_weights_is_refused(ovlabel: Run, photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"these are no weights at all")
    said = ovlabel("annotate", photographs, "--weights", tmp_path / "w.safetensors")
    assert said.code == 7
    assert "w.safetensors" in said.refusal


def test_offline_without_weights_says_what_was_tried(photographs: Path, tmp_path: Path) -> None:
    environment = os.environ | {"HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "ovlabel", "annotate", str(photographs), "--offline"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (7, "")
    (line,) = done.stderr.splitlines()
    for words in ("openai", "offline", str(tmp_path / "home" / ".cache" / "clip"), "--weights"):
        assert words in line


def test_another_run_is_refused_with_the_field(
    ovlabel: Run, photographs: Path, options: list[str], annotated: Path
) -> None:
    said = ovlabel("annotate", photographs, *options, "--set", "tiling.stride=16")
    assert said.code == 4
    assert said.out == ""
    assert "tiling.stride: 32 in the store, 16 here" in said.err.splitlines()[-1]
    assert "--out" in said.err.splitlines()[-1]


def test_a_folder_that_is_no_store_is_refused(ovlabel: Run, photographs: Path, tmp_path: Path) -> None:
    for said in (
        ovlabel("annotate", photographs, "--out", photographs / "a"),
        ovlabel("status", photographs),
        ovlabel("show", photographs, "1.png"),
        ovlabel("status", tmp_path / "nowhere.zarr"),
    ):
        assert said.code == 4
        assert str(tmp_path) in said.refusal


def test_a_busy_store_is_refused(ovlabel: Run, photographs: Path, options: list[str], annotated: Path) -> None:
    noise(photographs / "new.png", 40, 40)
    with writing(open_store(annotated)):
        said = ovlabel("annotate", photographs, *options)
    assert said.code == 5
    assert said.out == ""
    assert f"process {os.getpid()} " in said.err.splitlines()[-1]
    assert ovlabel("annotate", photographs, *options).code == 0


# ---------------------------------------------------------------- status and show


def test_status_tells_what_is_in_a_store(ovlabel: Run, photographs: Path, annotated: Path) -> None:
    noise(photographs / "new.png", 40, 40)
    told = dict(line.split(maxsplit=1) for line in ovlabel("status", annotated).out.splitlines())
    assert told["store"] == str(annotated)
    assert told["folder"] == f"{photographs} (7 images, 1 pending)"
    assert (told["done"], told["failed"]) == ("6", "0")
    assert told["classes"] == "3: cat, dog, grass"
    assert told["tiling"] == "short side 64, windows of 48 every 32"


def test_status_works_without_the_photographs(ovlabel: Run, photographs: Path, annotated: Path) -> None:
    photographs.rename(photographs.parent / "elsewhere")
    said = ovlabel("status", annotated)
    assert said.code == 0
    assert f"{photographs} (not there)" in said.out


def test_show_draws_the_photograph_with_a_legend_beside_it(ovlabel: Run, annotated: Path, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    said = ovlabel("show", annotated, "a/3.png", "-o", picture)
    assert (said.code, said.out, said.err) == (0, f"{picture}\n", "")
    with Image.open(picture) as image:
        assert image.format == "PNG"
        drawn = np.asarray(image.convert("RGB")).astype(int)
    store = open_store(annotated)
    labels = store["a/3.png"].labels
    with Image.open(store["a/3.png"].path) as photograph:
        photographed = np.asarray(photograph.convert("RGB"))
    assert drawn.shape[0] >= 60
    assert drawn.shape[1] > 80
    mixed = 0.45 * photographed + 0.55 * np.array([entry.colour for entry in store.classes])[labels]
    inside = np.ones(labels.shape, bool)
    inside[:, 1:] &= labels[:, 1:] == labels[:, :-1]
    inside[1:] &= labels[1:] == labels[:-1]
    assert np.abs(drawn[:60, :80] - mixed)[inside].max() <= 1
    legend = drawn[:, 80:].reshape(-1, 3)
    for value in np.unique(labels):
        assert (legend == store.classes[value].colour).all(1).sum() > 50, store.classes[value].name


def test_a_picture_is_found_by_the_end_of_its_path(ovlabel: Run, annotated: Path, tmp_path: Path) -> None:
    for name in ("b/c/4.png", "c/4.png", "4.png", "4"):
        picture = tmp_path / f"{name.replace('/', '_')}_drawn.png"
        assert ovlabel("show", annotated, name, "-o", picture).code == 0
        with Image.open(picture) as image:
            assert image.width > 90, "the picture of 90 pixels"


@pytest.fixture
def alike(ovlabel: Run, tmp_path: Path, options: list[str]) -> Path:
    """Photographs whose names are alike."""
    folder = tmp_path / "alike"
    for number, name in enumerate(["x.jpg", "x.png", "a/y.png", "b/y.png", "y.png", "two\nlines.png"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise(folder / name, 40, 50 + number)
    (folder / "bad.png").write_bytes(b"")
    assert ovlabel("annotate", folder, *options).code == 3
    return tmp_path / "alike.ovlabel.zarr"


def test_names_that_fit_several_images_are_refused(ovlabel: Run, alike: Path, tmp_path: Path) -> None:
    out = tmp_path / "picture.png"
    said = ovlabel("show", alike, "x", "-o", out)
    assert said.code == 2
    assert "x.jpg, x.png" in said.refusal
    assert not out.exists()
    assert ovlabel("show", alike, "y.png", "-o", out).code == 0, "a key in full is that image"
    assert ovlabel("show", alike, "a/y.png", "-o", out).code == 0
    assert ovlabel("show", alike, "two\\nlines.png", "-o", out).code == 0, "as it is printed"


@pytest.mark.parametrize(
    ("name", "words"), [("z.png", "y.png"), ("bad.png", "the file is empty"), ("c/y.png", "a/y.png"), ("ng", "image")]
)
def test_what_can_not_be_shown_is_said(name: str, words: str, ovlabel: Run, alike: Path, tmp_path: Path) -> None:
    said = ovlabel("show", alike, name, "-o", tmp_path / "picture.png")
    assert said.code == 2
    assert words in said.refusal
    assert not (tmp_path / "picture.png").exists()


@pytest.mark.parametrize("out", ["nowhere/picture.png", "picture.docx"])
def test_a_picture_that_can_not_be_written_is_refused(out: str, ovlabel: Run, annotated: Path, tmp_path: Path) -> None:
    said = ovlabel("show", annotated, "1.png", "-o", tmp_path / out)
    assert said.code == 2
    assert out in said.refusal


def test_a_photograph_of_another_size_is_not_drawn_on(ovlabel: Run, photographs: Path, annotated: Path) -> None:
    noise(photographs / "a" / "1.png", 10, 10)
    said = ovlabel("show", annotated, "1.png")
    assert said.code == 2
    assert "a/1.png" in said.refusal


# ---------------------------------------------------------------- lists


def test_vocabularies_and_templates_are_listed(ovlabel: Run) -> None:
    said = ovlabel("vocab", "list")
    assert (said.code, said.err) == (0, "")
    counts = {line.split()[0]: int(line.split()[1]) for line in said.out.splitlines() if line}
    assert counts["coco-stuff"] == 171
    assert counts["voc20"] == 20
    assert counts["voc21"] == 21
    assert counts["imagenet80"] == 80


def test_a_vocabulary_is_shown(ovlabel: Run) -> None:
    lines = ovlabel("vocab", "show", "voc20").out.splitlines()
    assert len(lines) == 20
    assert lines[0].split()[:3] == ["0", "aeroplane", "thing"]


def test_a_vocabulary_is_shown_with_every_prompt(ovlabel: Run) -> None:
    lines = [line.strip() for line in ovlabel("vocab", "show", "voc20", "--templates", "simple").out.splitlines()]
    assert lines[1] == "a photo of a aeroplane."
    classes = [line.split()[1] for line in lines if line[0].isdigit()]
    assert len(classes) == 20
    assert all(f"a photo of a {name}." in lines for name in classes)


def test_a_vocabulary_is_checked(ovlabel: Run, tmp_path: Path) -> None:
    said = ovlabel("vocab", "check", "coco-stuff")
    assert said.code == 0
    assert said.out.startswith("coco-stuff: 171 classes (")
    words = tmp_path / "words.txt"
    words.write_text("cat, kitten\ndog\nyoung cat, kitten\n")
    said = ovlabel("vocab", "check", words)
    assert said.code == 0
    assert "look at: 'kitten' is asked for cat and young cat" in said.out


@pytest.mark.parametrize("content", ["", "[[class]]\nname = 3\n", "[[class]]\nname = 'a'\nkind = 'thnig'\n", "no toml"])
def test_a_vocabulary_that_can_not_be_read_is_refused(content: str, ovlabel: Run, tmp_path: Path) -> None:
    path = tmp_path / "v.toml"
    path.write_text(content)
    said = ovlabel("vocab", "check", path)
    assert said.code == 2
    assert "v.toml" in said.refusal


@pytest.mark.parametrize("command", ["show", "check"])
def test_an_unknown_vocabulary_is_refused_with_the_nearest(command: str, ovlabel: Run) -> None:
    said = ovlabel("vocab", command, "ade20")
    assert said.code == 2
    assert "ade20k" in said.refusal


def test_stages_are_listed_with_their_keys(ovlabel: Run) -> None:
    said = ovlabel("stages")
    assert (said.code, said.err) == (0, "")
    for stage in ("csa", "kk", "neighbours", "qq", "value"):
        assert any(line.startswith(f"{stage} ") for line in said.out.splitlines()), stage
    assert "neighbours.sigma = 5.0" in said.out


def test_presets_are_listed_with_their_stages(ovlabel: Run) -> None:
    said = ovlabel("presets")
    assert said.code == 0
    lines = {line.split()[0]: line for line in said.out.splitlines()}
    assert "csa" in lines["sclip"]
    assert "stages: none" in lines["plain"]


def test_a_preset_is_shown_as_it_resolves(ovlabel: Run) -> None:
    said = ovlabel("presets", "naclip")
    assert said.code == 0
    assert tomllib.loads(said.out)["tiling"]["short_side"] == 336
    assert tomllib.loads(said.out)["stages"] == [{"use": "kk"}, {"use": "neighbours", "sigma": 5.0}, {"use": "pamr"}]


def test_a_preset_is_shown_for_a_vocabulary(ovlabel: Run) -> None:
    plain, voc = ovlabel("presets", "sclip").out, ovlabel("presets", "sclip", "--vocab", "voc21").out
    assert tomllib.loads(voc)["text"]["vocabulary"] == "voc21"
    assert tomllib.loads(plain)["text"]["vocabulary"] == "coco-stuff"


def test_a_preset_as_shown_is_a_preset_file(ovlabel: Run, tmp_path: Path) -> None:
    shown = ovlabel("presets", "naclip", "--vocab", "voc21").out
    (tmp_path / "mine.toml").write_text(shown)
    assert ovlabel("presets", str(tmp_path / "mine.toml")).out == shown


def test_an_unknown_preset_is_refused_with_the_nearest(ovlabel: Run) -> None:
    said = ovlabel("presets", "sclipp")
    assert said.code == 2
    assert "sclip" in said.refusal


# ---------------------------------------------------------------- what a stranger ran into


def test_the_version_is_told(ovlabel: Run) -> None:
    from ovlabel import __version__

    assert ovlabel("--version").out == f"ovlabel {__version__}\n"


def test_show_never_writes_among_the_photographs(ovlabel: Run, annotated: Path, photographs: Path) -> None:
    before = (photographs / "a" / "1.png").read_bytes()
    for target in (photographs / "a" / "1.png", photographs / "overlay.png"):
        said = ovlabel("show", annotated, "a/1.png", "-o", target)
        assert said.code == 2
        assert "among the photographs" in said.refusal
    assert (photographs / "a" / "1.png").read_bytes() == before
    assert not (photographs / "overlay.png").exists()


def test_show_refuses_labels_of_another_picture(
    ovlabel: Run, annotated: Path, photographs: Path, tmp_path: Path
) -> None:
    picture = Image.open(photographs / "a" / "1.png")
    picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(photographs / "a" / "1.png")
    said = ovlabel("show", annotated, "a/1.png", "-o", tmp_path / "o.png")
    assert said.code == 2
    assert "has changed since it was annotated" in said.refusal


def test_an_option_and_a_setting_that_contradict_are_refused(
    ovlabel: Run, photographs: Path, options: list[str]
) -> None:
    said = ovlabel("annotate", photographs, *options, "--set", "text.templates=top3")
    assert said.code == 2
    assert said.refusal == "ovlabel: text.templates is given twice, as top3 and as simple"


def test_a_folder_that_cannot_be_read_is_no_success(
    ovlabel: Run, photographs: Path, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    said = ovlabel("annotate", photographs, *options)
    assert said.code == 3
    assert "b/: the folder can't be read; it was left out" in said.err
    assert "3 of 3 images annotated" in said.out


def test_sigterm_ends_as_politely_as_ctrl_c(photographs: Path, options: list[str]) -> None:
    slow = [*options, "--set", "tiling.short_side=400", "--set", "tiling.stride=4", "--chunk", "64"]
    command = [sys.executable, "-m", "ovlabel", "annotate", str(photographs), *slow]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "/6 images" in line:
            break
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate()
    assert process.returncode == 143
    assert "what was finished is committed" in rest
    assert len(open_store(photographs.parent / "photographs.ovlabel.zarr")) >= 1


def test_prompts_that_are_cut_off_are_named(tmp_path: Path, ovlabel: Run) -> None:
    (tmp_path / "v.toml").write_text('[[class]]\nname = "cat"\n')
    long = "a cat, " * 40
    (tmp_path / "said.toml").write_text(f'cat = ["a short one.", "{long}", "{"catkins " * 20}"]\n')
    said = ovlabel("vocab", "check", tmp_path / "v.toml", "--descriptions", tmp_path / "said.toml")
    cut = [line for line in said.out.splitlines() if "its end is cut off" in line]
    assert cut == [f"look at: longer than CLIP reads, so its end is cut off: {long}"]
