"""A small encoder, one batch of windows and one image for every stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ovlabel.model.clip import Clip
from ovlabel.model.load import load_clip
from ovlabel.settings.keys import EncoderConfig
from ovlabel.stages import _loftup_network
from ovlabel.types import Box, ImageContext, TextBank, WindowContext


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def loftup_tensors(dim: int) -> dict[str, torch.Tensor]:
    """A checkpoint of random weights under the hub's names."""
    made = {}
    for seed, (name, shape) in enumerate(_loftup_network.shapes(dim).items()):
        values = drawn(*shape, seed=seed).float() / max(np.prod(shape[1:]), 1) ** 0.5
        if name.endswith("running_var"):
            values = values.abs() + 0.5
        made[name if name.startswith("channelnorm") else f"upsampler.{name}"] = values
    return made


@pytest.fixture
def clip(write_model: Callable[..., str]) -> Clip:
    """Float64, two heads, a 4 × 4 native grid."""
    table: dict[str, Any] = {
        "embed_dim": 16,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 32, "layers": 3, "head_width": 16},
        "text_cfg": {"width": 16, "heads": 2, "layers": 1},
    }
    return load_clip(EncoderConfig(write_model(table), "random:3", "fp64", "cpu"))


@pytest.fixture
def context(clip: Clip) -> WindowContext:
    """Two windows of 3 × 5 patches."""
    pixels = drawn(2, 3, 48, 80)
    text = torch.nn.functional.normalize(drawn(4, 16, seed=1), dim=1)
    boxes = (Box(0, 0, 48, 80), Box(16, 0, 48, 80))
    with torch.inference_mode():
        return with_preview(WindowContext(pixels, text, torch.arange(4), 40.0, clip.trace(pixels), boxes))


@pytest.fixture
def one_window(context: WindowContext, clip: Clip) -> WindowContext:
    """The second window on its own."""
    with torch.inference_mode():
        pixels = context.pixels[1:]
        return with_preview(replace(context, pixels=pixels, trace=clip.trace(pixels), boxes=context.boxes[1:]))


def with_preview(context: WindowContext) -> WindowContext:
    """A preview that depends on the scores: the cosines of scores with the text, patch by patch."""

    def preview(scores: torch.Tensor) -> torch.Tensor:
        mixed = scores.mean((0, 2))[:, 1:, :16]
        cosines = torch.nn.functional.normalize(mixed, dim=-1) @ context.text.T
        return cosines.transpose(1, 2).reshape(len(mixed), -1, *context.trace.grid)

    return replace(context, preview=preview)


@pytest.fixture
def image() -> ImageContext:
    """A photograph of 40 × 60 in four colours, with noise, at half its size as the encoder sees it."""
    random = np.random.default_rng(0)
    picture = np.kron(random.integers(0, 200, (2, 2, 3)), np.ones((20, 30, 1), int)) + random.integers(
        0, 30, (40, 60, 3)
    )
    bank = TextBank(np.eye(5, 16, dtype=np.float32), np.array([0, 1, 2, 3, 3]), tuple("abcd"), ("thing",) * 4)
    pixels = torch.from_numpy(picture[::2, ::2].astype(np.float64)).permute(2, 0, 1) / 64 - 2
    photograph = picture.astype(np.uint8)
    photograph.setflags(write=False)  # as files are read
    return ImageContext(photograph, pixels, bank, torch.from_numpy(bank.embeddings), 40.0)


@pytest.fixture
def loftup_file(tmp_path: Path) -> Path:
    """A checkpoint for sixteen channels."""
    path = tmp_path / "loftup.bin"
    torch.save(loftup_tensors(16), path)
    return path
