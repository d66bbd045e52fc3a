"""csa, qq, kk, value, neighbours against naive float64 loops written from the equations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ovlabel.errors import ConfigError
from ovlabel.model.clip import Clip
from ovlabel.stages.csa import Csa
from ovlabel.stages.kk import Kk
from ovlabel.stages.neighbours import Neighbours
from ovlabel.stages.qq import Qq
from ovlabel.stages.value import Value
from ovlabel.types import WindowContext

Array = np.ndarray[Any, np.dtype[np.float64]]


def softmax_rows(scores: Array) -> Array:
    out = np.zeros_like(scores)
    for row, values in enumerate(scores):
        weights = [math.exp(v - max(values)) for v in values]
        out[row] = [w / sum(weights) for w in weights]
    return out


def naive_scores(one: Array, two: Array) -> Array:
    count, depth = one.shape
    scores = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            scores[i, j] = sum(one[i, d] * two[j, d] for d in range(depth)) / math.sqrt(depth)
    return scores


def naive_prior(grid: tuple[int, int], sigma: float) -> Array:
    rows, columns = grid
    omega = np.zeros((1 + rows * columns, 1 + rows * columns))
    for p in range(rows * columns):
        for q in range(rows * columns):
            distance = (p // columns - q // columns) ** 2 + (p % columns - q % columns) ** 2
            omega[1 + p, 1 + q] = math.exp(-distance / (2 * sigma**2))
    return omega


def attention(stages: list[Any], context: WindowContext) -> torch.Tensor:
    with torch.inference_mode():
        scores = torch.zeros(1, 2, 2, 16, 16, dtype=torch.float64)
        for stage in stages:
            scores = stage.scores(scores, context)
        return scores.softmax(-1).sum(0)


def each_head(context: WindowContext) -> Any:
    queries, keys, _ = (x.numpy() for x in context.trace.qkv(3))
    for window in range(2):
        for head in range(2):
            yield window, head, queries[window, head], keys[window, head]


def test_csa_is_the_sum_of_two_softmaxes(context: WindowContext) -> None:
    ours = attention([Csa()], context)
    for window, head, q, k in each_head(context):
        expected = softmax_rows(naive_scores(q, q)) + softmax_rows(naive_scores(k, k))
        assert np.allclose(ours[window, head], expected, atol=1e-12)
    assert torch.allclose(ours.sum(-1), torch.tensor(2.0, dtype=torch.float64))


def test_csa_equals_two_fused_attentions(context: WindowContext) -> None:
    q, k, v = context.trace.qkv(3)
    fused = F.scaled_dot_product_attention(q, q, v) + F.scaled_dot_product_attention(k, k, v)
    assert torch.allclose(attention([Csa()], context) @ v, fused, atol=1e-10)


def test_qq_and_kk(context: WindowContext) -> None:
    query, key = attention([Qq()], context), attention([Kk()], context)
    for window, head, q, k in each_head(context):
        assert np.allclose(query[window, head], softmax_rows(naive_scores(q, q)), atol=1e-12)
        assert np.allclose(key[window, head], softmax_rows(naive_scores(k, k)), atol=1e-12)


@pytest.mark.parametrize("sigma", [0.7, 5.0])
def test_neighbours_adds_a_gaussian_over_patch_distance_and_nothing_for_cls(
    context: WindowContext, sigma: float
) -> None:
    ours = attention([Kk(), Neighbours(sigma)], context)
    omega = naive_prior((3, 5), sigma)
    for window, head, _, k in each_head(context):
        assert np.allclose(ours[window, head], softmax_rows(naive_scores(k, k) + omega), atol=1e-12)


def test_neighbours_adds_to_every_term(context: WindowContext) -> None:
    ours = attention([Csa(), Neighbours(2.0)], context)
    omega = naive_prior((3, 5), 2.0)
    for window, head, q, k in each_head(context):
        expected = softmax_rows(naive_scores(q, q) + omega) + softmax_rows(naive_scores(k, k) + omega)
        assert np.allclose(ours[window, head], expected, atol=1e-12)


def test_neighbours_refuses_a_width_of_zero() -> None:
    with pytest.raises(ConfigError, match="positive"):
        Neighbours(0.0)


def test_value_gives_each_token_its_own_value(context: WindowContext, clip: Clip) -> None:
    q, k, v = context.trace.qkv(3)
    plain = (q @ k.transpose(-2, -1)).softmax(-1)
    assert torch.equal(Value().attention(plain, context) @ v, v)
