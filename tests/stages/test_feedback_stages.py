"""rcs and sfr against naive loops, and what must hold of them; golden vectors are in tests/spine/test_golden.py."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ovlabel.errors import ConfigError, StackError
from ovlabel.spine.stack import Stack
from ovlabel.stages import Stage
from ovlabel.stages.csa import Csa
from ovlabel.stages.kk import Kk
from ovlabel.stages.neighbours import Neighbours
from ovlabel.stages.rcs import Rcs
from ovlabel.stages.sfr import Sfr, affinity, clear_way
from ovlabel.types import WindowContext

GRIDS = arrays(np.int64, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.integers(0, 2))


def test_rcs_is_the_blend(context: WindowContext) -> None:
    attention = torch.rand(2, 2, 16, 16, dtype=torch.float64).softmax(-1)
    ours = Rcs(layers=(1, 2), temperature=1.5, weight=0.3).attention(attention, context)
    middle = (context.trace.attention(1) + context.trace.attention(2)) / 2
    assert torch.allclose(ours, 1.5 * (0.7 * attention + 0.3 * middle), atol=1e-12)
    assert torch.allclose(ours.sum(-1), torch.tensor(1.5, dtype=torch.float64))


def test_rcs_without_weight_is_the_base(context: WindowContext) -> None:
    attention = torch.rand(2, 2, 16, 16, dtype=torch.float64)
    assert torch.equal(Rcs(temperature=1.0, weight=0.0).attention(attention, context), attention)


def test_rcs_takes_layers_at_the_same_share_of_the_depth(context: WindowContext) -> None:
    assert Rcs()._layers(replace_layers(context, 12)) == (6, 7, 8, 9)
    assert Rcs()._layers(replace_layers(context, 24)) == (12, 14, 16, 18)
    with pytest.raises(ConfigError, match=r"rcs\.layers = \[9\]: the model has layers 1 … 3"):
        Rcs(layers=(9,)).attention(torch.zeros(2, 2, 16, 16), context)


def replace_layers(context: WindowContext, layers: int):  # type: ignore[no-untyped-def]
    class Deep(Stage):
        grid = context.trace.grid

    Deep.layers = layers  # type: ignore[attr-defined]
    return Deep


def test_sfr_without_weight_is_the_base(context: WindowContext) -> None:
    scores = torch.rand(1, 2, 2, 16, 16, dtype=torch.float64)
    for mode in ("literal", "repaired"):
        assert torch.equal(Sfr(mode=mode, temperature=1.0, weight=0.0).scores(scores, context), scores)


def test_sfr_leaves_cls_without_feedback_and_edits_every_term(context: WindowContext) -> None:
    scores = torch.rand(2, 2, 2, 16, 16, dtype=torch.float64)
    ours = Sfr(temperature=2.0, weight=0.5).scores(scores, context)
    assert torch.allclose(ours[..., 0, :], scores[..., 0, :])
    assert torch.allclose(ours[..., 0], scores[..., 0])
    added = ours[..., 1:, 1:] - scores[..., 1:, 1:]
    assert torch.allclose(added[0], added[1])
    assert torch.allclose(added.amax((-2, -1)), torch.tensor(1.0, dtype=torch.float64))  # τ λ: Ŝ reaches 1


def test_a_repaired_affinity_is_a_naive_loop() -> None:
    labels = np.array([[0, 0, 1, 0], [0, 1, 1, 0], [2, 2, 0, 0]])
    ours = affinity(torch.from_numpy(labels)[None], 1.0, "repaired")[0].numpy()
    height, width = labels.shape
    cells = [(y, x) for y in range(height) for x in range(width)]
    greatest = max(height, width) - 1
    expected = np.zeros((12, height, width))
    for p, (py, px) in enumerate(cells):
        for qy, qx in cells:
            apart = max(abs(py - qy), abs(px - qx))
            way = [
                (
                    math.floor(py + (qy - py) * j / max(apart, 1) + 0.5),
                    math.floor(px + (qx - px) * j / max(apart, 1) + 0.5),
                )
                for j in range(apart + 1)
            ]
            if labels[py, px] == labels[qy, qx]:
                clear = all(labels[place] == labels[py, px] for place in way)
                expected[p, qy, qx] = 1 if clear else math.exp(-apart / greatest)
    kernels = []
    for length in (height, width):
        taps = min(length, 7) + 1 - min(length, 7) % 2
        weights = np.exp(-((np.arange(taps) - taps // 2) ** 2) / 2)
        kernels.append(weights / weights.sum())
    for p in range(12):
        for axis, kernel in enumerate(kernels):
            expected[p] = np.apply_along_axis(
                lambda line, k=kernel: np.convolve(line, k)[len(k) // 2 :][: len(line)], axis, expected[p]
            )
    expected = expected.reshape(12, 12)
    assert np.allclose(ours, expected / expected.sum(1, keepdims=True), atol=1e-5)


@given(GRIDS)
def test_ways_are_clear_both_ways_and_only_within_a_label(grid: np.ndarray) -> None:
    labels = torch.from_numpy(grid)[None]
    clear = clear_way(labels, "repaired")[0]
    assert torch.equal(clear, clear.T)
    flat = labels.flatten()
    assert not (clear & (flat[:, None] != flat[None, :])).any()
    assert clear.diagonal().all()


def test_the_authors_path_test_sees_a_first_part_only() -> None:
    """On a wide grid the obstacle halfway between near patches is never reached."""
    labels = torch.zeros(1, 1, 20, dtype=torch.int64)
    labels[0, 0, 1] = 1
    assert clear_way(labels)[0, 0, 2]
    assert not clear_way(labels, "repaired")[0, 0, 2]
    assert not clear_way(labels)[0, 0, 19]


@given(GRIDS)
@pytest.mark.parametrize("mode", ["literal", "repaired"])
def test_affinities_add_up_to_one_and_do_not_see_their_batch(mode: str, grid: np.ndarray) -> None:
    labels = torch.from_numpy(grid)
    both = affinity(torch.stack([labels, labels.flip(0)]), 2.0, mode)
    assert torch.allclose(both.sum(-1), torch.ones(1), atol=1e-5)
    assert torch.allclose(both[0], affinity(labels[None], 2.0, mode)[0], atol=1e-6)


def test_one_label_makes_every_way_clear() -> None:
    labels = torch.zeros(1, 3, 4, dtype=torch.int64)
    for mode in ("literal", "repaired"):
        assert torch.equal(affinity(labels, 2.0, mode), affinity(labels, 2.0, mode, decay=False))


def test_what_is_pruned_seldom_changes_a_patch(context: WindowContext) -> None:
    """The queries that can't win are refined no more; the first labels stay what they were."""
    cosines = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(1)).double() / 5
    smooth = replace(context, logit_scale=40.0)
    literal = Sfr(mode="literal")._labels(cosines, smooth)
    repaired = Sfr(mode="repaired")._labels(cosines, smooth)
    assert (literal == repaired).double().mean() > 0.9


def test_a_prior_before_the_feedback_is_refused() -> None:
    with pytest.raises(StackError, match=r"'sfr' rescales the scores.*'neighbours' adds before it; put 'sfr' first"):
        Stack((Kk(), Neighbours(), Sfr()))
    assert len(list(Stack((Csa(), Sfr(), Neighbours(), Rcs())))) == 4


@pytest.mark.parametrize("fields", [{"mode": "fixed"}, {"weight": 2.0}, {"temperature": 0.0}, {"sigma": -1.0}])
def test_values_without_a_meaning_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="sfr"):
        Sfr(**fields)  # type: ignore[arg-type]
