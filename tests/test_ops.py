"""PAMR against the authors' vectors, a naive loop, and what must hold of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ovlabel import ops
from ovlabel.ops import pamr, pamr_weights

Arrays = Any


def normalised(image: np.ndarray) -> torch.Tensor:
    """As the authors' network saw it; at another scale the 1e-8 in the formula moves results by 2e-5."""
    mean, std = np.array([122.771, 116.746, 104.094]), np.array([68.501, 66.632, 70.323])
    return torch.from_numpy(((image - mean) / std).astype(np.float32)).permute(2, 0, 1)


def refine(image: np.ndarray, maps: np.ndarray, dilations: tuple[int, ...], iterations: int) -> np.ndarray:
    weights = pamr_weights(normalised(image)[None], dilations)
    return pamr(torch.from_numpy(maps.copy())[None], weights, dilations, iterations)[0].numpy()


@pytest.mark.parametrize(
    ("iterations", "dilations"), [(10, (8, 16)), (1, (1,)), (3, (1, 2, 4)), (10, (1, 2, 4, 8, 12, 24))]
)
@pytest.mark.parametrize(("name", "picture"), [("out", "image"), ("flat", "image_flat")])
def test_the_authors_vectors(
    name: str, picture: str, iterations: int, dilations: tuple[int, ...], golden: Callable[[str], Arrays]
) -> None:
    arrays = golden("pamr")
    ours = refine(arrays[picture], arrays["mask"], dilations, iterations)
    expected = arrays[f"{name}_it{iterations}_d{'_'.join(map(str, dilations))}"]
    assert np.abs(ours - expected).max() <= 1e-5


def test_the_authors_batch_of_two(golden: Callable[[str], Arrays]) -> None:
    """Each element by its own guidance; the first set of masks was enlarged with corners aligned."""
    arrays = golden("pamr")
    first = F.interpolate(torch.from_numpy(arrays["mask_lr"])[None], (61, 84), mode="bilinear", align_corners=True)
    maps = torch.cat([first, torch.from_numpy(arrays["batch_in_1"])[None]])
    image = normalised(arrays["image"])
    weights = pamr_weights(torch.stack([image, image.flip(1)]), (8, 16))
    ours = pamr(maps, weights, (8, 16), 10).numpy()
    assert np.abs(ours - arrays["batch_out"]).max() <= 1e-5
    assert np.abs(ours[0] - arrays["lr_it10_d8_16"]).max() <= 1e-5


def test_weights_are_those_of_a_naive_loop() -> None:
    image = np.random.default_rng(0).random((3, 7, 6))
    dilations = (1, 3)
    ours = pamr_weights(torch.from_numpy(image)[None], dilations)[0].numpy()
    for y in range(7):
        for x in range(6):
            at = lambda down, right: image[:, min(max(y + down, 0), 6), min(max(x + right, 0), 5)]  # noqa: B023, E731
            ring = [(j * d, i * d) for d in dilations for j in (-1, 0, 1) for i in (-1, 0, 1)]
            sigma = np.array([at(*offset) for offset in ring]).std(0, ddof=1)
            near = [-np.mean(np.abs(at(*o) - at(0, 0)) / (1e-8 + 0.1 * sigma)) for o in ring if o != (0, 0)]
            each = [math.exp(e - max(near)) for e in near]
            assert np.allclose(ours[:, y, x], np.array(each) / sum(each), atol=1e-12)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    image, maps = torch.rand(2, 3, 20, 30), torch.rand(2, 9, 20, 30)
    weights = pamr_weights(image, (2,))
    at_once = pamr(maps.clone(), weights, (2,), 3)
    for values in (20 * 30 * 2, 30 * 7, 1):  # two maps, seven rows of a map, a row
        monkeypatch.setattr(ops, "_CACHED", values)
        assert torch.equal(pamr(maps.clone(), weights, (2,), 3), at_once)


def test_what_is_constant_stays_and_the_guidance_may_be_scaled() -> None:
    image = torch.rand(1, 3, 24, 32, dtype=torch.float64)
    weights = pamr_weights(image, (1, 4))
    assert torch.allclose(weights.sum(1), torch.ones(1, 24, 32, dtype=torch.float64))
    constant = torch.full((1, 2, 24, 32), 0.3, dtype=torch.float64)
    assert torch.allclose(pamr(constant.clone(), weights, (1, 4), 5), constant)
    scales, shifts = torch.tensor([255.0, 3.0, 9.0])[:, None, None], torch.tensor([1.0, -5.0, 0.0])[:, None, None]
    assert torch.allclose(pamr_weights(image * scales + shifts, (1, 4)), weights, atol=1e-6)


def test_half_precision_guidance_gives_numbers() -> None:
    assert torch.isfinite(pamr_weights(torch.zeros(1, 3, 9, 9, dtype=torch.float16), (1,))).all()
