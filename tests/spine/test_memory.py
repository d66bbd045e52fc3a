"""Batches halve when memory runs out; what can't fit alone is the image's own failure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ovlabel.model.clip import Clip, Trace
from ovlabel.settings.reading import load_config
from ovlabel.spine.build import build
from ovlabel.spine.segmenter import Segmenter

ERRORS = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to ..."),
]


@pytest.fixture
def segmenter(tiny: dict[str, Any]) -> Segmenter:
    return build(load_config("plain", {**tiny, "text.vocabulary": "classes:cat, dog"}))


def room_for(monkeypatch: pytest.MonkeyPatch, windows: int, error: Exception) -> list[int]:
    """A machine with room for so many windows; the batches that were tried."""
    tried: list[int] = []
    real = Clip.trace

    def trace(self: Clip, pixels: torch.Tensor) -> Trace:
        tried.append(len(pixels))
        if len(pixels) > windows:
            raise error
        return real(self, pixels)

    monkeypatch.setattr(Clip, "trace", trace)
    return tried


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_the_batch_halves_and_the_run_goes_on(
    error: Exception, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 160, 3), dtype=np.uint8)
    wanted = segmenter.annotation(image)
    tried = room_for(monkeypatch, 3, error)
    made = segmenter.begin(image)()
    assert tried[:3] == [10, 5, 2]
    assert set(tried[3:]) == {2}
    np.testing.assert_array_equal(made.labels, wanted.labels)
    tried.clear()
    segmenter.begin(image)()
    assert max(tried) == 2, "the smaller batch stays"
    assert caplog.messages == [f"out of memory: {n} windows at a time from here on" for n in (5, 2)]


def test_an_image_that_can_not_fit_alone_changes_nothing_for_the_others(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 160, 3), dtype=np.uint8)
    before = segmenter.batches.size
    with monkeypatch.context() as patch:
        tried = room_for(patch, 0, ERRORS[0])
        with pytest.raises(MemoryError):
            segmenter.begin(image)
        assert tried == [10, 5, 2, 1]
    assert segmenter.batches.size == before
    segmenter.begin(image)()


def test_other_errors_are_defects(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = room_for(monkeypatch, 0, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes"):
        segmenter.begin(np.zeros((64, 160, 3), np.uint8))
    assert len(tried) == 1


@pytest.mark.parametrize(("precision", "size"), [("fp32", 4), ("bf16", 2)])
def test_a_batch_on_a_cpu_is_as_large_as_the_bytes_of_its_feed_forward_allow(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch, precision: str, size: int
) -> None:
    config = load_config("plain", {**tiny, "text.vocabulary": "classes:cat, dog", "encoder.precision": precision})
    clip = build(config).encoder
    assert isinstance(clip, Clip)
    made: list[torch.Tensor] = []
    block = clip._block(1)
    hook = block.mlp.c_fc.register_forward_hook(lambda *given: made.append(given[2]))
    side = clip.patch * clip._visual.grid_size[0]
    clip.trace(torch.zeros(1, 3, side, side))
    hook.remove()
    assert made[0].nbytes == made[0].numel() * size
    for limit, wanted in ((5 * made[0].nbytes + 1, 5), (made[0].nbytes - 1, 1), (2**40, 16)):
        monkeypatch.setattr("ovlabel.model.clip._ACTIVATION", limit)
        assert clip.room() == wanted
