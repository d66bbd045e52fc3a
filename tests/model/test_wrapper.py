"""A wrapped encoder answers as the encoder that it wraps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ovlabel.model.load import load_clip
from ovlabel.model.wrapper import EncoderWrapper
from ovlabel.settings.keys import EncoderConfig
from ovlabel.types import Encoder
from tests.conftest import TINY_MODEL


def test_every_question_is_passed_on(write_model: Callable[..., str]) -> None:
    clip = load_clip(EncoderConfig(write_model(TINY_MODEL), "random:0", "fp32", "cpu"))
    wrapped: Encoder = EncoderWrapper(clip)
    for name in ("identity", "dtype", "device", "precision", "patch", "layers"):
        assert getattr(wrapped, name) is getattr(clip, name), name
    assert wrapped.room() == clip.room()
    with torch.inference_mode():
        for one, other in zip(answers(wrapped), answers(clip), strict=True):
            assert torch.equal(one, other)


def test_no_member_of_the_protocol_is_missing() -> None:
    names = [name for name in dir(Encoder) if not name.startswith("_")]
    assert len(names) > 12
    assert all(name in vars(EncoderWrapper) for name in names)


def answers(encoder: Encoder) -> list[Any]:
    windows = encoder.pixels(torch.arange(3 * 64 * 64).reshape(3, 64, 64) % 256)[None]
    trace = encoder.trace(windows)
    queries, keys, _ = trace.qkv(encoder.layers)
    block = encoder.readout_of(trace, ((queries, keys),))
    read = encoder.readout(trace, trace.attention(encoder.layers))
    tokens = encoder.tokenise(["a cat"])
    shorter = encoder.finishing("attention")
    return [
        windows,
        block,
        read,
        encoder.project(block),
        encoder.plain(windows),
        tokens,
        encoder.encode_text(tokens),
        shorter.readout(trace, trace.attention(encoder.layers)),
    ]
