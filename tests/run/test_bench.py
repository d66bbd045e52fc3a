"""`ovlabel bench`: figures that hang together, and nothing left behind. What they are decides no test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ovlabel.cli import main
from ovlabel.model.device import pick_precision
from ovlabel.run.identity import RunIdentity
from ovlabel.settings.reading import load_config
from ovlabel.spine.build import build


@pytest.fixture
def options(tiny: dict[str, Any]) -> list[str]:
    flags = ["--model", tiny["encoder.model"], "--weights", "random:0", "--classes", "cat, dog"]
    keys = ("text.templates", "tiling.short_side", "tiling.window", "tiling.stride")
    return [*flags, *(part for key in keys for part in ("--set", f"{key}={tiny[key]}"))]


def test_figures_hang_together_and_nothing_is_left(
    photographs: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(photographs.parent.rglob("*"))
    (photographs / "a" / "bad.png").write_bytes(b"nothing")
    assert main(["bench", str(photographs), "--images", "7", "--rounds", "2", "--json", *options]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["images"], told["folder"]) == (6, 7)
    assert list(told["parts"]) == ["decode", "windows", "encoder", "finish", "write"]
    assert min(told["parts"].values()) > 0
    assert len(told["ratios"]) == 2
    assert told["run"] > 0 < told["floor"]
    assert told["stored"] > 100
    assert told["windows"] >= 12, "images of several windows"
    (photographs / "a" / "bad.png").unlink()
    assert sorted(photographs.parent.rglob("*")) == before


def test_the_floor_covers_every_scale_and_view(
    photographs: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    counts = []
    for more in ([], ["--set", "tiling.scales=[1, 1]", "--set", 'tiling.views=["identity", "hflip", "vflip"]']):
        assert main(["bench", str(photographs), "--images", "2", "--rounds", "1", "--json", *options, *more]) == 0
        counts.append(json.loads(capsys.readouterr().out)["windows"])
    assert counts[1] == 6 * counts[0]


def test_it_is_printed_for_people(photographs: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(photographs), "--images", "2", "--rounds", "1", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [
        *("decode", "windows", "encoder", "finish", "write"),
        *("run", "floor", "memory", "store", "folder"),
    ]


def test_another_precision_says_how_many_labels_are_those_of_fp32(
    photographs: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shares = {}
    for precision in ("fp32", "fp64", "bf16"):
        given = ["--set", f"encoder.precision={precision}", "--images", "3", "--rounds", "1", "--json", *options]
        assert main(["bench", str(photographs), *given]) == 0
        shares[precision] = json.loads(capsys.readouterr().out)["agreement"]
    assert shares["fp32"] is None
    assert shares["fp64"] > 0.999
    assert 0.5 < shares["bf16"] < shares["fp64"]
    given = ["--set", "encoder.precision=bf16", "--images", "3", "--rounds", "1", *options]
    assert main(["bench", str(photographs), *given]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("labels")]
    assert line.split()[1:] == [f"{shares['bf16']:.2%}", "as", "in", "fp32"]


def test_a_folder_without_images_is_refused(tmp_path: Path, options: list[str]) -> None:
    assert main(["bench", str(tmp_path), *options]) == 2


def test_a_wrong_folder_is_refused_before_weights_are_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(tmp_path / "nowhere"), "--weights", str(tmp_path / "none.pt")]) == 2
    assert "no folder" in capsys.readouterr().err


def test_auto_is_what_the_device_computes_in_and_the_run_remembers_it(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pick_precision(torch.device("mps")) == "fp16"
    for flags, wanted in (("fpu sse avx2", "fp32"), ("fpu avx512_bf16 fma", "bf16")):
        monkeypatch.setattr(Path, "read_text", lambda *_, flags=flags, **__: f"flags : {flags}\n")
        assert pick_precision(torch.device("cpu")) == wanted
    monkeypatch.undo()
    config = load_config("plain", {**tiny, "text.vocabulary": "classes:cat, dog", "encoder.precision": "auto"})
    segmenter = build(config)
    assert segmenter.encoder.precision == pick_precision(segmenter.encoder.device)
    assert RunIdentity.read(config).resolved(segmenter)["encoder"]["precision"] == segmenter.encoder.precision
