"""The empty stack is the model itself: our opened forward against open_clip's own, built at each size."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ovlabel.model.load import load_clip
from ovlabel.settings.keys import EncoderConfig

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no ln_pre": {"no_ln_pre": True},
    "layer scale": {"ls_init_value": 0.3},
    "norm eps": {"norm_kwargs": {"eps": 1e-3}},
    "all": {"no_ln_pre": True, "ls_init_value": 0.3, "norm_kwargs": {"eps": 1e-3}},
}


def model_config(patch: int, **vision: Any) -> dict[str, Any]:
    return {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 5 * patch,
            "patch_size": patch,
            "width": 48,
            "layers": 3,
            "head_width": 16,
            **vision,
        },
        "text_cfg": {"vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }


def randomised(table: dict[str, Any]) -> open_clip.CLIP:
    """A model whose every parameter matters: norms, biases and layer scales are not at their initial constants."""
    torch.manual_seed(0)
    model = open_clip.CLIP(**copy.deepcopy(table)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def open_clip_features(table: dict[str, Any], file: Path, size: tuple[int, int], pixels: Tensor) -> Tensor:
    """Every token in the joint space, [CLS] first, from an open_clip model built at `size` from the same file."""
    table = copy.deepcopy(table)
    table["vision_cfg"] |= {"image_size": list(size), "output_tokens": True}
    model = open_clip.CLIP(**table).eval()
    open_clip.load_checkpoint(model, str(file), strict=True)
    model.to(pixels.dtype)
    with torch.inference_mode():
        pooled, tokens = model.visual(pixels)
        return torch.cat((pooled[:, None], tokens @ model.visual.proj), dim=1)


@pytest.mark.parametrize("patch", [16, 14])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_empty_stack_equals_open_clip_at_three_sizes(variant: str, patch: int, tmp_path: Path) -> None:
    table = model_config(patch, **VARIANTS[variant])
    (tmp_path / "model.json").write_text(json.dumps(table))
    file = tmp_path / "weights.safetensors"
    save_file(randomised(table).state_dict(), file)
    for grid in ((5, 5), (7, 4), (3, 11)):
        size = (grid[0] * patch, grid[1] * patch)
        for precision, dtype, limit in (("fp64", torch.float64, 1e-6), ("fp32", torch.float32, 1e-4)):
            config = EncoderConfig(str(tmp_path / "model.json"), str(file), precision, "cpu", "full", "open_clip")  # type: ignore[arg-type]
            clip = load_clip(config, offline=True)
            pixels = torch.randn(2, 3, *size, dtype=dtype, generator=torch.Generator().manual_seed(1))
            with torch.inference_mode():
                trace = clip.trace(pixels)
                ours = clip.project(clip.readout(trace, trace.attention(trace.layers)))
            theirs = open_clip_features(table, file, size, pixels)
            assert trace.grid == grid
            assert ours.dtype == dtype
            assert (ours - theirs).abs().max() <= limit


def test_a_remainder_smaller_than_a_patch_is_ignored(tmp_path: Path) -> None:
    table = model_config(16)
    (tmp_path / "model.json").write_text(json.dumps(table))
    clip = load_clip(EncoderConfig(str(tmp_path / "model.json"), "random:0"))
    pixels = torch.randn(1, 3, 85, 90)
    with torch.inference_mode():
        whole, trimmed = clip.trace(pixels), clip.trace(pixels[..., :80, :80])
    assert torch.equal(whole.tokens(3), trimmed.tokens(3))


def test_the_trace_of_every_layer_equals_open_clips(tmp_path: Path) -> None:
    table = model_config(16)
    (tmp_path / "model.json").write_text(json.dumps(table))
    file = tmp_path / "weights.safetensors"
    model = randomised(table)
    save_file(model.state_dict(), file)
    clip = load_clip(EncoderConfig(str(tmp_path / "model.json"), str(file), "fp32", "cpu"))
    pixels = torch.randn(2, 3, 80, 80)
    with torch.inference_mode():
        trace = clip.trace(pixels)
        for layer, block in enumerate(model.visual.transformer.resblocks, start=1):
            tokens = block.ln_1(trace.tokens(layer))
            _, theirs = block.attn(tokens, tokens, tokens, need_weights=True, average_attn_weights=False)
            assert torch.allclose(trace.attention(layer), theirs, atol=1e-5)
            if layer < trace.layers:
                assert torch.allclose(trace.tokens(layer + 1), block(trace.tokens(layer)), atol=1e-5)
