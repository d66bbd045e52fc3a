"""LoftUp against the authors' vectors; its containers; the stage's modes; whether features suit a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from ovlabel.errors import ConfigError, WeightsError
from ovlabel.evaluation.consistency import consistency
from ovlabel.stages import _loftup_network
from ovlabel.stages._loftup_network import LoftUp, from_tensors
from ovlabel.stages.loftup import Loftup
from ovlabel.types import WindowContext
from tests.cli.test_cli import Run, ovlabel
from tests.stages.conftest import clip, context, drawn, loftup_file, loftup_tensors

__all__ = ["clip", "context", "loftup_file", "ovlabel"]
Arrays = Any


@pytest.fixture
def network(golden: Callable[[str], Arrays]) -> LoftUp:
    return from_tensors({name: torch.from_numpy(array) for name, array in golden("loftup_weights_dim64").items()})


def guidance(image: np.ndarray) -> torch.Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    values = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    return ((values - mean[:, None, None]) / std[:, None, None])[None]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_authors_vectors(index: int, network: LoftUp, golden: Callable[[str], Arrays]) -> None:
    """In the literal order of operations; the highest frequency is 22,026 rad, so another order moves it by 5e-3."""
    arrays = golden("loftup")
    picture, features = guidance(arrays[f"image_{index}"]), torch.from_numpy(arrays[f"lr_{index}"])[None]
    assert np.abs(network.code(picture)[0, :, ::8, ::8].numpy() - arrays[f"fourier_{index}_sub8"]).max() <= 1e-4
    assert np.abs(network.stem(picture)[0, :, ::8, ::8].numpy() - arrays[f"stem_{index}_sub8"]).max() <= 1e-4
    ours = network.features(features, picture)[0, :, ::2, ::2].numpy()
    assert np.abs(ours - arrays[f"out_{index}_sub2"]).max() <= 1e-4


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_first_layers_attention(index: int, network: LoftUp, golden: Callable[[str], Arrays]) -> None:
    """Heads are filled up with zeros from 21 to 24 dimensions (133 to 136 at full size); nothing changes by it."""
    arrays = golden("loftup")
    picture, features = guidance(arrays[f"image_{index}"]), torch.from_numpy(arrays[f"lr_{index}"])[None]
    context = torch.cat(
        [
            network.normalised(features),
            _loftup_network.fourier(_loftup_network._coordinates(features), network.tensors["lr_pe.biases"]),
        ],
        1,
    )
    pair = network._keys_values(0, context.flatten(2)[0].T)
    _, attention = network._attend(0, network.stem(picture).flatten(2)[0].T, *pair, maps=True)
    assert attention is not None
    assert np.abs(attention[::97].numpy() - arrays[f"attn0_{index}_rows"]).max() <= 1e-5


def test_the_official_model_has_so_many_parameters() -> None:
    made = from_tensors({name: torch.zeros(shape) for name, shape in _loftup_network.shapes(512).items()})
    assert (made.dim, made.parameters) == (512, 7_165_462)


def test_three_containers_hold_the_same_network(
    golden: Callable[[str], Arrays], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ovlabel")
    tensors = {name: torch.from_numpy(array) for name, array in golden("loftup_weights_dim64").items()}
    torch.save(tensors, tmp_path / "hub.bin")
    training = {name.replace("channelnorm.", "model.1."): tensor for name, tensor in tensors.items()}
    torch.save({"state_dict": {**training, "model.0.visual": torch.zeros(3)}, "epoch": 3}, tmp_path / "training.ckpt")
    bare = {n.removeprefix("upsampler."): t.contiguous() for n, t in tensors.items() if not n.startswith("channelnorm")}
    save_file(bare, tmp_path / "model.safetensors")
    hub, trained, pushed = (
        _loftup_network.load(tmp_path / n) for n in ("hub.bin", "training.ckpt", "model.safetensors")
    )
    assert all(torch.equal(hub.tensors[name], trained.tensors[name]) for name in hub.tensors)
    others = [name for name in hub.tensors if not name.startswith("channelnorm")]
    assert all(torch.equal(hub.tensors[name], pushed.tensors[name]) for name in others)
    assert "has no channel norm" in caplog.text
    assert torch.equal(pushed.tensors["channelnorm.norm.weight"], torch.ones(64))


def test_what_is_missing_left_over_or_misshapen_is_refused() -> None:
    tensors = loftup_tensors(16)
    with pytest.raises(WeightsError, match=r"lacks ca_transformer\.norm\.bias"):
        from_tensors({n: t for n, t in tensors.items() if n != "upsampler.ca_transformer.norm.bias"})
    with pytest.raises(WeightsError, match=r"has no place for head\.weight"):
        from_tensors({**tensors, "head.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"first_conv\.1\.weight is \(3,\), not \(36, 203, 3, 3\)"):
        from_tensors({**tensors, "upsampler.first_conv.1.weight": torch.zeros(3)})
    with pytest.raises(WeightsError, match="no LoftUp checkpoint"):
        from_tensors({"weight": torch.zeros(1)})


def test_a_sample_does_not_see_its_batch(network: LoftUp, golden: Callable[[str], Arrays]) -> None:
    """The authors' range of the guidance is the batch's; ours is each sample's, as in their own batches of one."""
    arrays = golden("loftup")
    one, features = guidance(arrays["image_0"]), torch.from_numpy(arrays["lr_0"])[None]
    both = network.features(torch.cat([features, features]), torch.cat([one, one * 0.5]))
    assert torch.allclose(both[0], network.features(features, one)[0], atol=1e-6)


def test_chunks_change_nothing(network: LoftUp, monkeypatch: pytest.MonkeyPatch) -> None:
    features, picture = drawn(1, 64, 3, 4).float(), drawn(1, 3, 24, 32).float()
    at_once = network.features(features, picture)
    monkeypatch.setattr(_loftup_network, "_CHUNK", 100)
    assert torch.allclose(network.features(features, picture), at_once, atol=1e-5)


def test_transport_moves_what_comes_in(network: LoftUp) -> None:
    """Every cell is a mean of patches: a constant stays, and nothing leaves the range of what came in."""
    features, picture = drawn(1, 64, 3, 4).float(), drawn(1, 3, 24, 32).float()
    moved = network.transport(features, picture)
    assert moved.shape == (1, 64, 24, 32)
    assert (moved <= features.amax((-2, -1), keepdim=True) + 1e-5).all()
    assert (moved >= features.amin((-2, -1), keepdim=True) - 1e-5).all()
    constant = torch.ones(1, 64, 3, 4) * torch.arange(64)[:, None, None]
    assert torch.allclose(network.transport(constant, picture), constant[..., :1, :1].expand(1, 64, 24, 32), atol=1e-3)


def test_the_modes_of_the_stage(context: WindowContext, loftup_file: Path) -> None:
    features = drawn(2, 16, 3, 5)
    stages = {
        mode: Loftup(str(loftup_file), factor=2, mode=mode, weight=0.25) for mode in ("features", "transport", "blend")
    }
    made = {mode: stage.features(features, context) for mode, stage in stages.items()}
    assert all(maps.shape == (2, 16, 6, 10) for maps in made.values())
    plain = F.normalize(F.interpolate(features, (6, 10), mode="bilinear"), dim=1)
    assert torch.allclose(made["blend"], 0.75 * plain + 0.25 * F.normalize(made["features"], dim=1))
    assert torch.allclose(Loftup(str(loftup_file), 2, "blend", 0.0).features(features, context), plain)
    network = _loftup_network.load(loftup_file).to(features)
    picture = F.interpolate(context.pixels, (6, 10), mode="area")
    assert torch.allclose(made["transport"], network.transport(F.normalize(features, dim=1), picture))
    with pytest.raises(ConfigError, match=r"unknown loftup\.mode"):
        Loftup(mode="blended")
    with pytest.raises(WeightsError, match="is for 16 channels, the encoder has 8"):
        stages["features"].features(features[:, :8], context)
    with pytest.raises(WeightsError, match=r"no weights file nowhere\.bin"):
        replace(stages["features"], checkpoint="nowhere.bin").prepare(offline=True)


def test_consistency_is_one_where_features_come_back() -> None:
    """A network that hands its input on: what comes back is what went in."""

    class Handed(LoftUp):
        def features(self, features: torch.Tensor, guidance: torch.Tensor) -> torch.Tensor:
            return F.interpolate(self.normalised(features), guidance.shape[-2:], mode="nearest")

    made = from_tensors(loftup_tensors(16))
    handed = Handed(made.tensors, made.dim, made.parameters)
    features, picture = drawn(2, 16, 3, 5).float(), drawn(2, 3, 12, 20).float()
    assert consistency(handed, features, picture) == pytest.approx(1, abs=1e-5)
    assert abs(consistency(made, features, picture)) < 0.9


def test_the_command_ranks_features(tmp_path: Path, ovlabel: Run) -> None:
    torch.save(loftup_tensors(128), tmp_path / "loftup.bin")
    photographs = Path(__file__).parents[1] / "photographs"
    said = ovlabel(
        "stages",
        "loftup",
        photographs,
        "--model",
        "demo",
        "--checkpoint",
        tmp_path / "loftup.bin",
        "--limit",
        "1",
        "--offline",
    )
    assert said.code == 0, said.err
    rows = [line.split() for line in said.out.splitlines()[2:]]
    assert len(rows) == 8
    assert {row[-1] for row in rows} <= {"features", "transport"}
    assert [float(row[-2]) for row in rows] == sorted((float(row[-2]) for row in rows), reverse=True)
    missing = ovlabel("stages", "loftup", photographs, "--model", "demo", "--offline")
    assert missing.code == 7
    assert "haiwen/loftup-clip" in missing.refusal
