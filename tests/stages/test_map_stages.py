"""correlate, pyramid, upsample, min_area, closing against naive loops; crf against a brute-force mean field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ovlabel.errors import ConfigError
from ovlabel.spine.stack import Stack
from ovlabel.stages import Stage, _mean_field
from ovlabel.stages.closing import Closing
from ovlabel.stages.correlate import Correlate
from ovlabel.stages.crf import Crf
from ovlabel.stages.min_area import MinArea
from ovlabel.stages.pamr import Pamr
from ovlabel.stages.pyramid import Pyramid
from ovlabel.stages.upsample import Upsample
from ovlabel.types import ImageContext, WindowContext
from tests.stages.conftest import drawn


def test_correlate_is_the_sum(context: WindowContext) -> None:
    features = drawn(2, 4, 2, 3)
    ours = Correlate(weight=0.5, temperature=0.1).features(features, context).numpy()
    for window in range(2):
        units = features[window].reshape(4, 6).numpy().T
        units = units / np.linalg.norm(units, axis=1, keepdims=True)
        alike = np.exp(units @ units.T / 0.1)
        expected = units + 0.5 * (alike / alike.sum(1, keepdims=True)) @ units
        assert np.allclose(ours[window].reshape(4, 6).T, expected)


def test_pyramid_blends_from_coarse_to_fine(context: WindowContext) -> None:
    cosines = drawn(1, 2, 4, 4)
    ours = Pyramid(weight=0.6, levels=2).similarity(cosines, context)
    pooled = cosines.reshape(1, 2, 2, 2, 2, 2).mean((3, 5))
    enlarged = torch.nn.functional.interpolate(pooled, (4, 4), mode="bilinear", align_corners=False)
    assert torch.allclose(ours, 0.6 * cosines + 0.4 * enlarged)
    assert torch.equal(Pyramid(weight=1.0).similarity(cosines, context), cosines)
    odd = torch.ones(1, 2, 3, 5)
    assert torch.allclose(Pyramid().similarity(odd, context), odd)


def test_upsample_is_the_naive_sum(context: WindowContext) -> None:
    cosines, pixels = drawn(1, 2, 3, 4), drawn(1, 3, 12, 16, seed=3)
    ours = Upsample(factor=2, radius=1, sigma_space=0.8, sigma_colour=0.5).similarity(
        cosines, replace(context, pixels=pixels)
    )
    fine = pixels.reshape(3, 6, 2, 8, 2).mean((2, 4)).numpy()
    coarse = fine.reshape(3, 3, 2, 4, 2).mean((2, 4))
    for y in range(6):
        for x in range(8):
            total, weights = np.zeros(2), 0.0
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    row, column = y // 2 + down, x // 2 + right
                    at = min(max(row, 0), 2), min(max(column, 0), 3)
                    apart = (down - (y % 2 + 0.5) / 2 + 0.5) ** 2 + (right - (x % 2 + 0.5) / 2 + 0.5) ** 2
                    unlike = ((coarse[:, at[0], at[1]] - fine[:, y, x]) ** 2).sum()
                    weight = np.exp(-apart / (2 * 0.8**2)) * np.exp(-unlike / (2 * 0.5**2)) + 1e-12
                    total += weight * cosines[0, :, at[0], at[1]].numpy()
                    weights += weight
            assert np.allclose(ours[0, :, y, x], total / weights)


def test_upsampled_borders_follow_colour(context: WindowContext) -> None:
    """Two colours that meet inside a patch: the cosine changes where the colour does."""
    pixels = torch.zeros(1, 3, 32, 64)
    pixels[..., 40:] = 3.0
    cosines = torch.zeros(1, 1, 2, 4)
    cosines[..., 3] = 1.0
    cosines[..., 2] = 0.5
    maps = Upsample(factor=8, sigma_colour=0.25).similarity(cosines, replace(context, pixels=pixels))[0, 0, 0]
    assert maps[19] < 0.35
    assert maps[20] > 0.65


def test_specks_take_the_label_beside_them(image: ImageContext) -> None:
    labels = torch.zeros(8, 9, dtype=torch.int64)
    labels[:, 5:] = 7
    labels[1, 1] = labels[2, 2] = 3  # two that touch at a corner
    labels[6, 8] = 2
    ours = MinArea(pixels=3).labels(labels, image)
    expected = torch.zeros(8, 9, dtype=torch.int64)
    expected[:, 5:] = 7
    assert torch.equal(ours, expected)
    kept = MinArea(pixels=2).labels(labels, image)
    assert kept[1, 1] == kept[2, 2] == 3
    assert kept[6, 8] == 7
    assert torch.equal(MinArea(pixels=100).labels(labels, image), labels)  # nothing is large enough to stay


def test_closing_is_dilation_then_erosion_without_borders(image: ImageContext) -> None:
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 5, (7, 9)))
    ours = Closing().labels(labels, image).numpy()

    def over(values: np.ndarray, choose: Callable[[np.ndarray], Any]) -> np.ndarray:
        spots = [(y, x) for y in range(7) for x in range(9)]
        return np.array([choose(values[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]) for y, x in spots]).reshape(7, 9)

    assert np.array_equal(ours, over(over(labels.numpy(), np.max), np.min))
    assert torch.equal(Closing(side=1).labels(labels, image), labels)


def mean_field(
    p: np.ndarray, image: np.ndarray, steps: int, near: float, pull: float, wide: float, colour: float, weight: float
) -> np.ndarray:
    """Every pixel against every other, in float64."""
    count, height, width = p.shape
    place = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1).reshape(-1, 2).astype(float)

    def kernel(features: np.ndarray) -> np.ndarray:
        apart = ((features[:, None] - features[None]) ** 2).sum(-1)
        values = np.exp(-0.5 * apart)
        scale = values.sum(1) ** -0.5
        return scale[:, None] * values * scale[None]

    first = kernel(place / near)
    second = kernel(np.concatenate([place / wide, image.reshape(-1, 3) / colour], 1))
    costs = np.log(np.clip(p.astype(float), 1e-5, 1)).reshape(count, -1)

    def softmax(values: np.ndarray) -> np.ndarray:
        each = np.exp(values - values.max(0))
        return each / each.sum(0)

    q = softmax(costs)
    for _ in range(steps):
        q = softmax(costs + pull * q @ first + weight * q @ second)
    return q.reshape(p.shape)


@pytest.mark.parametrize(("backend", "within", "labels"), [("bilateral", 0.01, 0.97), ("pydensecrf", 0.03, 0.95)])
def test_crf_is_near_a_mean_field_by_brute_force(backend: str, within: float, labels: float) -> None:
    """The library filters on a lattice, ours on a grid; both are approximate."""
    random = np.random.default_rng(3)
    blocks = np.kron(random.integers(0, 220, (3, 3, 3)), np.ones((8, 8, 1), int))
    picture = (blocks + random.integers(0, 20, (24, 24, 3))).astype(np.uint8)
    p = np.exp(random.normal(0, 1, (4, 24, 24)))
    p = (p / p.sum(0)).astype(np.float32)
    context = ImageContext(picture, None, None, None, 40.0)  # type: ignore[arg-type]
    numbers = (5, 2.0, 3.0, 10.0, 13.0, 4.0)
    ours = Crf(*numbers, prune=False, backend=backend).probabilities(torch.from_numpy(p), context).numpy()
    expected = mean_field(p, picture, *numbers)
    assert np.abs(ours - expected).mean() <= within
    assert (ours.argmax(0) == expected.argmax(0)).mean() >= labels
    assert (expected.argmax(0) != p.argmax(0)).mean() > 0.2  # it had something to do


CRF = {
    "std": (10, 3.0, 3.0, 80.0, 13.0, 10.0),
    "excel": (10, 1.0, 3.0, 67.0, 3.0, 4.0),
    "deeplab": (10, 3.0, 3.0, 50.0, 5.0, 10.0),
    "std1": (1, 3.0, 3.0, 80.0, 13.0, 10.0),
    "gaussonly": (5, 3.0, 3.0, 80.0, 13.0, 0.0),
}


@pytest.mark.parametrize("name", CRF)
@pytest.mark.parametrize("index", [0, 1])
def test_crf_on_the_reference_vectors(name: str, index: int, golden: Callable[[str], Any]) -> None:
    """The library's own numbers with the library; within the lattice's own error with the grid."""
    arrays = golden("crf")
    context = ImageContext(arrays[f"image_{index}"], None, None, None, 40.0)  # type: ignore[arg-type]
    p, expected = torch.from_numpy(arrays[f"prob_{index}"]), arrays[f"q_{name}_{index}"]
    library = Crf(*CRF[name], prune=False, backend="pydensecrf").probabilities(p, context).numpy()
    assert np.abs(library - expected).max() <= 1e-5
    grid = Crf(*CRF[name], prune=False, backend="bilateral").probabilities(p, context).numpy()
    assert (grid.argmax(0) != expected.argmax(0)).mean() <= 0.04


@pytest.mark.parametrize("backend", ["pydensecrf", "bilateral"])
def test_a_pruned_crf_decides_alike(backend: str, image: ImageContext) -> None:
    """Sixteen classes, of which four win somewhere: the others stay behind, in their order."""
    coarse = drawn(16, 5, 6, seed=5).float()
    coarse[4:] -= 3
    logits = torch.nn.functional.interpolate(coarse[None], (40, 60), mode="bilinear")[0]
    p = (2 * logits).softmax(0)
    numbers = {"gaussian_weight": 1.0, "bilateral_weight": 2.0, "backend": backend}
    whole = Crf(prune=False, **numbers).probabilities(p, image)
    pruned = Crf(**numbers).probabilities(p, image)
    assert pruned.shape == p.shape
    assert pruned.min() >= 0
    assert pruned.max() <= 1
    assert (whole.argmax(0) == pruned.argmax(0)).float().mean() > 0.99
    others = p.argmax(0)[None] != torch.arange(16)[:, None, None]
    never = [c for c in range(16) if others[c].all()]
    assert len(never) > 8
    assert torch.equal(pruned[never].argmax(0), p[never].argmax(0))


def test_half_the_size_is_close(image: ImageContext) -> None:
    p = torch.nn.functional.interpolate(drawn(1, 3, 4, 5).float() * 3, (40, 60), mode="bilinear")[0].softmax(0)
    whole, half = (Crf(scale=scale, bilateral_weight=3.0).probabilities(p, image) for scale in (1.0, 0.5))
    assert half.shape == p.shape
    assert (whole.argmax(0) == half.argmax(0)).float().mean() > 0.9


def test_the_backend_is_chosen_openly(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Crf().backend == "pydensecrf"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert Crf().backend == "bilateral"
    assert Crf(backend="pydensecrf").backend == "pydensecrf"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Crf(backend="cuda"),
        lambda: Crf(iterations=0),
        lambda: Crf(scale=2.0),
        lambda: Pamr(iterations=-1),
        lambda: Pamr(dilations=()),
        lambda: Closing(side=2),
        lambda: MinArea(pixels=-1),
        lambda: Pyramid(weight=2.0),
        lambda: Correlate(temperature=0.0),
        lambda: Upsample(factor=0),
    ],
)
def test_values_without_a_meaning_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError):
        make()


def asked() -> tuple[np.ndarray, np.ndarray, tuple[tuple[float, float, float], ...], np.ndarray, int]:
    random = np.random.default_rng(0)
    energy = random.random((3, 20, 30)).astype(np.float32)
    picture = random.integers(0, 255, (20, 30, 3)).astype(np.uint8)
    return energy, picture, ((3.0, 0.0, 3.0), (10.0, 13.0, 4.0)), np.ones(3, np.float32), 3


def test_a_process_of_its_own_gives_the_same_field() -> None:
    first, second = asked(), asked()
    second[0][:] = second[0][::-1].copy()
    expected = [_mean_field.infer(*request) for request in (first, second)]
    answers = [_mean_field.begin(*request) for request in (first, second)]  # more than there may be processes
    for answer, own in reversed(list(zip(answers, expected, strict=True))):
        assert np.array_equal(answer(), own)


def test_a_process_that_was_killed_is_made_up_for(caplog: pytest.LogCaptureFixture) -> None:
    worker = _mean_field._Worker()
    request = asked()
    assert np.array_equal(worker.ask(request)(), _mean_field.infer(*request))
    assert worker._process is not None
    worker._process.kill()
    worker._process.wait()
    assert np.array_equal(worker.ask(request)(), _mean_field.infer(*request))
    assert "ended unexpectedly" in caplog.text
    assert worker.idle
    assert np.array_equal(worker.ask(request)(), _mean_field.infer(*request))  # with a new process
    worker._stop()


def test_the_process_ends_when_nobody_asks_any_more() -> None:
    worker = _mean_field._Worker()
    worker.ask(asked())()
    process = worker._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(10) == 0
    worker._stop()


def test_begin_gives_what_the_stage_gives(image: ImageContext) -> None:
    p = torch.nn.functional.interpolate(drawn(1, 6, 4, 5).float() * 3, (40, 60), mode="bilinear")[0].softmax(0)
    stage = Crf(bilateral_weight=3.0)
    at_once = stage.probabilities(p.clone(), image)
    assert torch.equal(stage.begin(p.clone(), image)(), at_once)
    stack = Stack((stage, Crf2()))
    assert stack.in_flight >= 1
    answer = stack.begin("probabilities", p.clone(), image)
    assert torch.equal(answer(), at_once * 0.5)
    assert Stack((Pamr(),)).in_flight == 0


class Crf2(Stage):
    """A later stage at the same level."""

    def probabilities(self, probabilities: torch.Tensor, context: ImageContext) -> torch.Tensor:
        return probabilities * 0.5
