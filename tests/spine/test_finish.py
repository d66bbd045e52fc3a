"""The sink of an image's cosines: what comes out does not depend on how they come in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ovlabel.settings.keys import LabelsConfig
from ovlabel.spine.bands import BandedMap
from ovlabel.spine.batches import Batches
from ovlabel.spine.finish import Decision, Finish
from ovlabel.spine.scales import PreparedImage
from ovlabel.spine.stack import Stack
from ovlabel.stages import Stage
from ovlabel.types import ImageContext, TextBank

HEIGHT, WIDTH = 12, 9
COSINES = torch.rand(5, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) * 0.2


class Roll(Stage):
    """Moves maps by a row."""

    def logits(self, logits: Tensor, context: ImageContext) -> Tensor:
        return logits.roll(1, 1)


class Fade(Stage):
    """Halves the first class."""

    def probabilities(self, probabilities: Tensor, context: ImageContext) -> Tensor:
        probabilities[0] /= 2
        return probabilities


class Swap(Stage):
    """Turns labels upside down."""

    def labels(self, labels: Tensor, context: ImageContext) -> Tensor:
        return labels.flip(0)


def finished(rows: int, size: tuple[int, int], stages: tuple[Stage, ...], **labels: Any) -> tuple[Decision, Tensor]:
    """The decision on COSINES, given so many rows at a time, and the probabilities that it rests on."""
    vectors = np.eye(5, dtype=np.float32)
    bank = TextBank(vectors, np.array([0, 1, 1, 2, 3]), tuple("abcd"), ("thing",) * 4)
    pixels = torch.zeros(3, HEIGHT, WIDTH)
    context = ImageContext(np.zeros((*size, 3), np.uint8), pixels, bank, torch.from_numpy(vectors), 40.0)
    kept = BandedMap(HEIGHT)
    image = PreparedImage((pixels,), size, (HEIGHT, WIDTH), context)
    finish = Finish(image, Stack(stages), LabelsConfig(**labels), kept)
    for top in range(0, HEIGHT, rows):
        finish.put(top, COSINES[:, top : top + rows].clone())
    return finish.result()(), kept.take()


CASES: list[tuple[tuple[Stage, ...], dict[str, Any]]] = [
    ((), {}),
    ((), {"probability_threshold": 0.5}),
    ((), {"area_threshold": 0.3}),
    ((Roll(),), {}),
    ((Fade(),), {"probability_threshold": 0.4}),
    ((Swap(),), {}),
    ((Roll(), Fade(), Swap()), {"area_threshold": 0.1}),
]


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (20, 31)])
@pytest.mark.parametrize(("stages", "labels"), CASES)
def test_bands_and_whole_maps_are_decided_alike(
    stages: tuple[Stage, ...], labels: dict[str, Any], size: tuple[int, int]
) -> None:
    whole, probabilities = finished(HEIGHT, size, stages, **labels)
    assert whole.labels.shape == whole.confidence.shape == size
    assert probabilities.shape == (4, HEIGHT, WIDTH)
    for rows in (1, 5):
        banded, others = finished(rows, size, stages, **labels)
        assert torch.equal(banded.labels, whole.labels)
        assert torch.allclose(banded.confidence, whole.confidence, atol=1e-6)
        assert torch.allclose(others, probabilities, atol=1e-6)


def test_every_level_of_the_sink_is_edited() -> None:
    plain, probabilities = finished(5, (HEIGHT, WIDTH), ())
    rolled, moved = finished(5, (HEIGHT, WIDTH), (Roll(),))
    assert torch.equal(rolled.labels, plain.labels.roll(1, 0))
    assert torch.allclose(moved, probabilities.roll(1, 1), atol=1e-6)
    _, faded = finished(5, (HEIGHT, WIDTH), (Fade(),))
    assert torch.allclose(faded[0], probabilities[0] / 2, atol=1e-6)
    assert torch.equal(finished(5, (HEIGHT, WIDTH), (Swap(),))[0].labels, plain.labels.flip(0))


def test_maps_that_are_taken_are_not_kept() -> None:
    for rows in (3, 12):
        bands = BandedMap(HEIGHT)
        for top in range(0, HEIGHT, rows):
            bands.put(top, COSINES[:, top : top + rows])
        assert torch.equal(bands.take(), COSINES)
        assert bands.take().numel() == 0


def test_batches_hold_all_windows_in_order() -> None:
    batches = Batches(4, torch.device("cpu"))
    assert [list(batch) for batch in batches.split(range(10))] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert list(batches.split(())) == []
