"""The package as it is installed: what the wheel holds, what importing it costs."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import hatchling.build
import pytest

import ovlabel

ROOT = Path(__file__).parents[1]


def run(*arguments: str, path: Path | None = None, cwd: Path | None = None) -> str:
    """Standard output of another Python, which finds `path` before what is installed."""
    env = {**os.environ, "PYTHONPATH": str(path)} if path else dict(os.environ)
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments], env=env, cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return folder / hatchling.build.build_wheel(str(folder))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel unzipped."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_holds_every_file_of_the_package(installed: Path) -> None:
    for folder, inside in {"ovlabel": "", "vocabularies": "vocabularies", "templates": "templates"}.items():
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".toml"} or path.name == "py.typed":
                copy = installed / "ovlabel" / inside / path.relative_to(ROOT / folder)
                assert copy.read_bytes() == path.read_bytes()
    assert (installed / "ovlabel" / "py.typed").is_file()


def test_the_wheel_holds_nothing_but_the_package(installed: Path) -> None:
    top = {path.name for path in installed.iterdir()}
    assert top == {"ovlabel", f"ovlabel-{ovlabel.__version__}.dist-info"}
    assert not list(installed.rglob("__pycache__"))


def test_the_wheel_says_its_version_licence_and_command(installed: Path) -> None:
    info = installed / f"ovlabel-{ovlabel.__version__}.dist-info"
    metadata = Parser().parsestr((info / "METADATA").read_text(encoding="utf-8"))
    assert metadata["Version"] == ovlabel.__version__
    assert metadata["License-Expression"] == "MIT"
    assert (info / "licenses" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    entries = configparser.ConfigParser()
    entries.read(info / "entry_points.txt")
    assert dict(entries["console_scripts"]) == {"ovlabel": "ovlabel.cli:main"}


def test_the_installed_package_needs_no_checkout(installed: Path, tmp_path: Path) -> None:
    code = (
        "import ovlabel\n"
        "from ovlabel.text.vocabulary import *\n"
        "from ovlabel.text.templates import *\n"
        "from ovlabel.settings.keys import stage_names\n"
        "from ovlabel.settings.reading import load_config, preset_names\n"
        "print(ovlabel.__file__)\n"
        "print(sum(len(load_vocabulary(name).classes) for name in vocabulary_names()))\n"
        "print(*(len(load_templates(name).by_kind['thing']) for name in template_names()))\n"
        "print(*preset_names()); print(*stage_names())\n"
        "print([stage.use for stage in load_config('naclip').stages])\n"
    )
    place, classes, sentences, presets, stages, stack = run("-c", code, path=installed, cwd=tmp_path).splitlines()
    assert Path(place) == installed / "ovlabel" / "__init__.py"
    assert int(classes) == 171 + 81 + 21 + 20 + 60 + 59 + 150 + 19 + 25 + 109 + 133 + 11
    assert "80" in sentences.split()
    assert presets.split() == sorted(path.stem for path in (ROOT / "ovlabel" / "settings" / "presets").glob("*.toml"))
    assert stages.split() == sorted(p.stem for p in (ROOT / "ovlabel" / "stages").glob("*.py") if p.stem[0] != "_")
    assert stack == "['kk', 'neighbours', 'pamr']"


def test_the_installed_package_carries_its_model(installed: Path) -> None:
    own, packed = (root / "ovlabel" / "demo" / "model" for root in (ROOT, installed))
    assert {path.name for path in packed.iterdir()} == {
        "README.md",
        "open_clip_config.json",
        "open_clip_model.safetensors",
    }
    for path in packed.iterdir():
        assert path.read_bytes() == (own / path.name).read_bytes()


def test_a_preset_added_to_the_installed_package_is_found(installed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    shutil.copytree(installed, folder)
    (folder / "ovlabel" / "settings" / "presets" / "mine.toml").write_text('title = "mine"\nstages = ["qq"]\n')
    code = "from ovlabel.settings.reading import load_config; print(load_config('mine').stages[0].use)"
    assert run("-c", code, path=folder, cwd=tmp_path).strip() == "qq"


def test_every_public_name_can_be_imported() -> None:
    for name in ovlabel.__all__:
        assert getattr(ovlabel, name).__name__ == name
    everything: dict[str, object] = {}
    exec("from ovlabel import *", everything)
    assert set(everything) - {"__builtins__"} == set(ovlabel.__all__)
    assert set(dir(ovlabel)) == {*ovlabel.__all__, "__version__"}


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'ovlabel' has no attribute 'anotate'"):
        _ = ovlabel.anotate  # type: ignore[attr-defined]


def loaded(code: str) -> set[str]:
    """The top-level modules that another Python has loaded after `code`."""
    lines = run("-c", f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})").splitlines()
    return set(lines[-1].split())


def test_importing_ovlabel_costs_nothing() -> None:
    modules = loaded("import ovlabel")
    assert "ovlabel" in modules
    assert not modules & {"torch", "numpy", "zarr", "open_clip", "dask", "PIL", "typer", "huggingface_hub"}


def test_a_public_name_loads_its_own_room_and_no_other() -> None:
    assert not loaded("import ovlabel; ovlabel.load_config('sclip')") & {"torch", "numpy", "zarr", "open_clip"}
    assert not loaded("import ovlabel; ovlabel.open_store") & {"torch", "open_clip"}


@pytest.mark.parametrize("command", [["--help"], ["annotate", "--help"]])
def test_the_command_line_answers_as_a_module_without_torch(
    command: list[str], installed: Path, tmp_path: Path
) -> None:
    shown = run("-m", "ovlabel", *command, path=installed, cwd=tmp_path)
    assert shown.startswith("Usage: ovlabel")
    code = f"from ovlabel.cli import main\nassert main({command!r}) == 0"
    assert not loaded(code) & {"torch", "open_clip"}
