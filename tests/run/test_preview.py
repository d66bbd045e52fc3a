"""A few images under several settings: labels as in a run, one pass of the encoder, a sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovlabel.errors import ConfigError
from ovlabel.model.load import Clip
from ovlabel.pictures.read import decode, read_file
from ovlabel.run import preview as module
from ovlabel.run.preview import preview
from ovlabel.settings.reading import load_config
from ovlabel.spine.build import build
from tests.cli.test_cli import Run, ovlabel

__all__ = ["ovlabel"]  # a fixture
FAST: dict[str, Any] = {
    "encoder.model": "demo",
    "text.vocabulary": "demo",
    "text.templates": "simple",
    "tiling.short_side": 112,
    "tiling.window": 112,
    "tiling.stride": 112,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "images"
    place.mkdir()
    for number in range(5):
        noise = np.random.default_rng(number).integers(0, 256, (40, 60, 3)).astype(np.uint8)
        Image.fromarray(noise).save(place / f"{number}.png")
    return place


def test_every_variant_labels_as_it_does_alone_and_windows_are_encoded_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = {name: load_config(name, FAST) for name in ("sclip", "plain")}
    traced: list[Any] = []
    original = Clip.trace

    def counted(self: Clip, windows: Any) -> Any:
        traced.append(windows)
        return original(self, windows)

    monkeypatch.setattr(Clip, "trace", counted)
    drawn: list[Any] = []
    monkeypatch.setattr(module, "overlay", lambda *given: drawn.append(given[1]) or Image.new("RGB", (4, 4)))
    seen: list[str] = []
    sheet, variants = preview(folder, configs, 3, offline=True, on_image=seen.append)
    assert seen == ["0.png", "2.png", "4.png"], "spread over the folder"
    assert [len(variant.seconds) for variant in variants] == [3, 3]
    assert min(variant.mean_seconds for variant in variants) > 0
    once = len(traced)
    assert once % 3 == 0
    traced.clear()
    for number, key in enumerate(seen):
        image = decode(read_file(folder / key)[0])
        for place, config in enumerate(configs.values()):
            assert np.array_equal(drawn[2 * number + place], build(config, offline=True)(image).labels)
    assert len(traced) == 2 * once, "two runs apart encode twice as much"
    assert sheet.mode == "RGB"


def test_the_command(folder: Path, tmp_path: Path, ovlabel: Run) -> None:
    (folder / "0.png").write_bytes(b"broken")
    fast = [part for key, value in FAST.items() if key.startswith("tiling") for part in ("--set", f"{key}={value}")]
    options = ["--model", "demo", "--templates", "simple", "--images", 2, "-o", tmp_path / "p.png", *fast]
    said = ovlabel("preview", folder, "--presets", "plain", "--vocabs", "demo,demo-pairs", *options)
    assert said.code == 0, said.err
    assert [line.rsplit(maxsplit=4)[0] for line in said.out.splitlines()[:-1]] == ["plain, demo", "plain, demo-pairs"]
    with Image.open(tmp_path / "p.png") as sheet:
        assert sheet.width > sheet.height, "one row: the broken image is passed over"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--presets", "sclip,nowhere"], "nowhere"),
        (["--presets", ","], "write names separated by commas"),
        (["--vocabs", "nowhere"], "nowhere"),
    ],
)
def test_what_is_wrong_is_named_before_anything_is_loaded(
    options: list[str], said: str, folder: Path, tmp_path: Path, ovlabel: Run
) -> None:
    refused = ovlabel("preview", folder, *options, "-o", tmp_path / "p.png", "--offline", "--model", "demo")
    assert refused.code == 2
    assert said in refused.err
    for out in (folder / "p.png", tmp_path / "nowhere" / "p.png", tmp_path / "p.abc"):
        assert ovlabel("preview", folder, "-o", out).code == 2


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no images in"):
        preview(tmp_path, {"sclip": load_config("sclip", FAST)}, offline=True)
