"""A small encoder and one batch of windows for every stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from ovlabel.clip import Clip, load_clip
from ovlabel.config import EncoderConfig
from ovlabel.types import Box, WindowContext


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
    pixels = torch.randn(2, 3, 48, 80, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    text = torch.nn.functional.normalize(torch.randn(4, 16, dtype=torch.float64), dim=1)
    boxes = (Box(0, 0, 48, 80), Box(16, 0, 48, 80))
    with torch.inference_mode():
        return WindowContext(pixels, text, 40.0, clip.trace(pixels), boxes)


@pytest.fixture
def one_window(context: WindowContext, clip: Clip) -> WindowContext:
    """The second window on its own."""
    with torch.inference_mode():
        pixels = context.pixels[1:]
        return replace(context, pixels=pixels, trace=clip.trace(pixels), boxes=context.boxes[1:])
