"""`ovlabel doctor`: what it finds, what it calls a problem, and that it leaves nothing behind."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ovlabel import doctor
from ovlabel.cli import doctor as command
from ovlabel.cli.commands import SETTINGS
from ovlabel.doctor import data, machine
from ovlabel.errors import StoreError

Usage = namedtuple("Usage", "total used free")


def app() -> typer.Typer:
    made = typer.Typer(**SETTINGS)
    command.register(made)
    made.command()(lambda: None)  # with one command only, typer would drop its name
    return made


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app(), ["doctor", *map(str, arguments)], env={"COLUMNS": "80"})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    return done.exit_code, done.stdout


def tree(*folders: Path) -> set[Path]:
    return {path for folder in folders for path in folder.rglob("*")}


@pytest.fixture
def unwritable(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Refuse temporary files in a folder; root may write anywhere."""
    real = tempfile.TemporaryFile

    def refuse(folder: Path) -> None:
        def temporary(*args: Any, **kwargs: Any) -> Any:
            if Path(kwargs["dir"]) == folder:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            return real(*args, **kwargs)

        monkeypatch.setattr(tempfile, "TemporaryFile", temporary)

    return refuse


def fake_proc(monkeypatch: pytest.MonkeyPatch, folder: Path, **files: str) -> Path:
    """A /proc and a /sys/fs/cgroup of the test's own; returns the latter."""
    proc, groups = folder / "proc", folder / "cgroup"
    (proc / "self").mkdir(parents=True)
    for name, text in files.items():
        (proc / name.replace("__", "/")).write_text(text)
    monkeypatch.setattr(machine, "PROC", proc)
    monkeypatch.setattr(machine, "CGROUPS", groups)
    return groups


# ---------------------------------------------------------------- the report as a whole


def test_a_healthy_machine() -> None:
    code, out = run()
    assert code == 0
    assert out.splitlines()[-1] == "no problems found"
    values = {line[:17].strip(): line[17:] for line in out.splitlines()}
    assert values["torch"][0].isdigit()
    assert values["auto"].split(":")[0] in {"cpu", "cuda", "mps"}
    assert "usable of" in values["cores"]
    assert "GiB" in values["memory"]
    assert "not on this machine" in values["default weights"]  # conftest: an empty cache
    assert "https://huggingface.co/timm/vit_base_patch16_clip_224.openai" in values["default weights"]
    assert values["cache"].startswith(f"{os.environ['OVLABEL_CACHE']} (0 files, 0 B, writable, flock works, ")


def test_json_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    report = doctor.examine()
    report.problems.append("the moon: too bright; draw the curtain")
    monkeypatch.setattr(doctor, "examine", lambda *_: report)
    code, said = run("--json")
    code_of_text, text = run()
    assert code == code_of_text == 3
    values = json.loads(said)
    assert values.pop("problems") == report.problems
    assert list(values) == ["environment", "devices", "weights", "caches"]
    lines = [f"{label:<17}{value}" for found in values.values() for label, value in found.items()]
    assert [line for line in text.splitlines() if line] == [*lines, f"problem: {report.problems[0]}"]


def test_help_fits_a_terminal() -> None:
    code, out = run("--help")
    assert code == 0
    assert len(out.splitlines()) <= 24
    assert max(map(len, out.splitlines())) <= 80
    assert "3" in out


def test_nothing_is_left_behind(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVLABEL_CACHE", str(tmp_path / "cache" / "deep"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    places = tmp_path, Path(os.environ["HOME"])
    before = tree(*places)
    code, out = run(photographs, "--weights", "hf-hub:some/where")
    assert code == 3
    assert f"{tmp_path / 'cache' / 'deep'} (0 files, 0 B, writable" in out
    assert tree(*places) == before


# ---------------------------------------------------------------- environment, devices


def test_a_package_that_does_not_import_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    report = doctor.examine()
    (problem,) = report.problems
    assert problem.startswith("torchvision: ModuleNotFoundError: import of torchvision halted")
    assert "pip install --force-reinstall torchvision" in problem
    assert report.sections["environment"]["torchvision"].startswith("failed (ModuleNotFoundError")


def test_what_follows_from_a_broken_torch_is_no_problem_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    report = doctor.examine()
    (problem,) = report.problems
    assert problem.startswith("torch: ")
    assert report.sections["devices"]["cuda"].startswith("failed (")
    assert "writable" in report.sections["caches"]["cache"]


def test_a_look_that_breaks_is_a_problem_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fall(*_: object) -> str:
        raise RuntimeError("the floor is gone\nand more")

    for name in ("cores", "memory", "cpu", "cuda"):
        monkeypatch.setattr(machine, name, fall)
    for name in ("weights", "hub_cache"):
        monkeypatch.setattr(data, name, fall)
    report = doctor.examine()
    assert len(report.problems) == 6
    assert report.problems[0].startswith("cores: RuntimeError: the floor is gone; ")
    assert "writable" in report.sections["caches"]["temp"]


def test_quotas_of_control_groups_version_2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    groups = fake_proc(monkeypatch, tmp_path, self__cgroup="0::/cron/job\n", meminfo="MemAvailable:  2048 kB\n")
    (groups / "cron/job").mkdir(parents=True)
    (groups / "cron/job/cpu.max").write_text("max 100000\n")
    (groups / "cron/cpu.max").write_text("50000 100000\n")
    (groups / "cron/job/memory.max").write_text(f"{2**29}\n")
    assert machine.cores().endswith(", a quota of 0.5 (cgroup)")
    assert machine.memory().endswith("2.0 MiB available, a limit of 512.0 MiB (cgroup)")


def test_quotas_of_control_groups_version_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    groups = fake_proc(monkeypatch, tmp_path, self__cgroup="4:memory:/box\n2:cpu,cpuacct:/box\n0::/\n")
    for controller in ("cpu", "memory"):
        (groups / controller / "box").mkdir(parents=True)
    (groups / "cpu/box/cpu.cfs_quota_us").write_text("25000\n")
    (groups / "cpu/box/cpu.cfs_period_us").write_text("100000\n")
    (groups / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    (groups / "cpu/cpu.cfs_period_us").write_text("100000\n")
    (groups / "memory/box/memory.limit_in_bytes").write_text(f"{2**29}\n")
    assert machine.cores().endswith(", a quota of 0.25 (cgroup)")
    assert machine.memory().endswith(", a limit of 512.0 MiB (cgroup)")


@pytest.mark.parametrize(
    ("cpuinfo", "said"),
    [
        ("model name\t: Fast\nflags\t\t: fpu amx_bf16 avx512_bf16\n", "Fast, native bf16 (amx_bf16, avx512_bf16)"),
        ("model name\t: Old\nflags\t\t: fpu sse2\n", "Old, no native bf16"),
        ("Features\t: fp bf16\n", "native bf16 (bf16)"),
        ("", "bf16 not known"),
    ],
)
def test_native_bf16(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cpuinfo: str, said: str) -> None:
    fake_proc(monkeypatch, tmp_path, cpuinfo=cpuinfo)
    assert machine.cpu().endswith(said)


def fake_torch(monkeypatch: pytest.MonkeyPatch, available: Callable[[], bool], memory: Callable[[int], Any]) -> None:
    value = SimpleNamespace(cpu=lambda: None)
    cuda = SimpleNamespace(
        is_available=available, device_count=lambda: 2, mem_get_info=memory, get_device_name=lambda index: f"H{index}"
    )
    ones = SimpleNamespace(add=lambda _: value)
    torch = SimpleNamespace(cuda=cuda, version=SimpleNamespace(cuda="13"), ones=lambda *_, device: ones)
    monkeypatch.setattr(machine, "import_module", lambda _: torch)


def test_cuda_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    def memory(index: int) -> tuple[int, int]:
        if index:
            raise RuntimeError("no kernel image is available for execution on the device")
        return 2**30, 2**34

    fake_torch(monkeypatch, lambda: True, memory)
    report = doctor.Report()
    report.check("devices", "cuda", lambda: machine.cuda(report))
    assert report.sections["devices"]["cuda"] == "2"
    assert report.sections["devices"]["cuda:0"] == "H0, 16.0 GiB, 1.0 GiB free"
    assert list(report.sections["devices"]) == ["cuda", "cuda:0", "cuda:1"]
    (problem,) = report.problems
    assert problem.startswith("cuda:1: RuntimeError: no kernel image")


def test_why_cuda_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_old() -> bool:
        warnings.warn("The NVIDIA driver on your system is too old", UserWarning, stacklevel=1)
        return False

    fake_torch(monkeypatch, too_old, lambda _: (0, 0))
    report = doctor.Report()
    assert machine.cuda(report) == "none"
    (problem,) = report.problems
    assert "driver on your system is too old" in problem


# ---------------------------------------------------------------- weights


def test_the_embedded_model_is_always_there() -> None:
    report = doctor.examine(model="demo")
    assert report.problems == []
    assert report.sections["weights"]["asked weights"].startswith("demo: ")
    assert report.sections["weights"]["asked weights"].endswith(" MiB)")


@pytest.mark.parametrize(
    ("model", "weights", "words"),
    [
        (None, "gone.safetensors", ["no weights file gone.safetensors"]),
        (None, "opnai", ["unknown pretrained tag", "did you mean openai?"]),
        (None, "openai", ["'openai' of 'ViT-B-16-quickgelu'", "--weights FILE", "https://huggingface.co/timm/"]),
        (None, "hf-hub:some/where@main", ["hf-hub:some/where", "https://huggingface.co/some/where"]),
        (None, "random:x", ["random:SEED"]),
        ("ViT-B-61", None, ["unknown model 'ViT-B-61'", "ViT-B-16"]),
        ("ViT-H-14", None, ["unknown pretrained tag of ViT-H-14 'openai'", "laion2b"]),
    ],
)
def test_weights_that_cannot_be_had(model: str | None, weights: str | None, words: list[str]) -> None:
    (problem,) = doctor.examine(model=model, weights=weights).problems
    for word in words:
        assert word in problem


def test_weights_that_nobody_named_may_be_fetched_later() -> None:
    report = doctor.examine(model="ViT-B-32-quickgelu")
    assert report.problems == []
    assert "fetches them from https://huggingface.co/timm/" in report.sections["weights"]["asked weights"]


def test_a_file_of_weights(tmp_path: Path) -> None:
    file = tmp_path / "own.bin"
    file.write_bytes(bytes(3 * 2**20))
    assert f"{file} (3.0 MiB)" in doctor.examine(weights=str(file)).sections["weights"]["asked weights"]
    file.write_bytes(b"")
    (problem,) = doctor.examine(weights=str(file)).problems
    assert problem.startswith(f"{file} is empty")


def test_random_weights_need_no_file() -> None:
    report = doctor.examine(weights="random:3")
    assert report.problems == []
    assert report.sections["weights"]["asked weights"].endswith("made on the spot")


# ---------------------------------------------------------------- caches


def test_a_cache_that_cannot_be_written(unwritable: Callable[[Path], None]) -> None:
    cache = Path(os.environ["OVLABEL_CACHE"])
    unwritable(cache)
    code, out = run()
    assert code == 3
    assert f"problem: {cache} can't be written ({cache}: Read-only file system); set OVLABEL_CACHE" in out


def test_a_file_in_place_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OVLABEL_CACHE", str(tmp_path / "file" / "cache"))
    (problem,) = doctor.examine().problems
    assert f"({tmp_path / 'file'}: Not a directory)" in problem


def test_a_hub_cache_matters_only_while_something_is_to_be_fetched(
    unwritable: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    hub = tmp_path / "hub"
    hub.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    unwritable(hub)
    (problem,) = doctor.examine().problems
    assert str(hub) in problem
    kept = Path("~/.cache/clip/ViT-B-16.pt").expanduser()
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"weights")
    report = doctor.examine()
    assert report.problems == []
    assert str(kept) in report.sections["weights"]["default weights"]
    assert "not writable: Read-only file system" in report.sections["caches"]["hub cache"]


def test_a_full_disk_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**40, 2**40, 2**20))
    problems = doctor.examine().problems
    disks = {os.stat(place).st_dev for place in (os.environ["OVLABEL_CACHE"], tempfile.gettempdir())}
    assert len(problems) == len(disks)
    assert problems[0].startswith(f"only 1.0 MiB are free where {os.environ['OVLABEL_CACHE']} lies; ")


def test_a_file_system_without_flock_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    report = doctor.examine()
    assert report.problems == []
    assert "writable, no flock: No locks available" in report.sections["caches"]["temp"]


# ---------------------------------------------------------------- a store, a folder


def test_a_folder_of_photographs(photographs: Path) -> None:
    code, out = run(photographs)
    assert code == 0
    assert "folder           6 images" in out
    assert f"store            {photographs}.ovlabel.zarr (not made yet)" in out
    assert f"place            {photographs.parent} (writable, flock works, " in out


def test_a_folder_whose_store_cannot_be_written(photographs: Path, unwritable: Callable[[Path], None]) -> None:
    unwritable(photographs.parent)
    (problem,) = doctor.examine(photographs).problems
    assert problem.startswith(f"{photographs.parent} can't be written")
    assert "--out" in problem


def test_images_that_cannot_be_read(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "3.png")
    (problem,) = doctor.examine(photographs).problems
    assert problem == f"{photographs}: 1 of its images can't be read (a/3.png); give this user access"


class Opened(SimpleNamespace):
    def __len__(self) -> int:
        return 5


def test_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "by any name"
    store.mkdir()
    (store / "zarr.json").write_text("{}")
    opened = Opened(damaged={}, failed={"x": 1}, folder=tmp_path / "gone")
    monkeypatch.setattr("ovlabel.store.read.open_store", lambda path: opened)
    code, out = run(store)
    assert code == 0
    assert f"path             {store} (a store)" in out
    assert f"{store} (5 images done, 1 failed) of {tmp_path / 'gone'} (not there)" in out
    assert f"place            {store} (writable, flock works, " in out


def test_a_damaged_record_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zarr.json").write_text("{}")
    opened = Opened(damaged={"00000001-0123abcd": "why"}, failed={}, folder=tmp_path)
    monkeypatch.setattr("ovlabel.store.read.open_store", lambda path: opened)
    code, out = run(tmp_path)
    assert code == 3
    assert "the record of chunk 00000001-0123abcd does not count (why)" in out
    assert f"ovlabel verify {tmp_path} --repair" in out


def test_the_store_of_a_folder_is_opened_too(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = photographs.with_name("photographs.ovlabel.zarr")
    store.mkdir()
    (store / "zarr.json").write_text("{}")

    def damaged(path: Path) -> None:
        raise StoreError(f"{path}/zarr.json can't be read")

    monkeypatch.setattr("ovlabel.store.read.open_store", damaged)
    report = doctor.examine(photographs)
    assert report.problems == [f"{store}/zarr.json can't be read"]
    assert report.sections["path"]["store"] == "can't be used"


def test_no_such_path(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path / "none.zarr"):
        code, out = run(path)
        assert code == 3
        assert f"problem: {path} is no folder (looked from {Path.cwd()})" in out


def test_a_bare_environment(tmp_path: Path) -> None:
    """No HOME, no PATH, a package that falls over: still a report and no traceback."""
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    code = "from ovlabel.doctor import examine; print(*examine(weights='y.bin').problems, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(doctor.__file__).parents[2])])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "torchvision: RuntimeError: operator torchvision::nms does not exist; install it anew: "
    )
