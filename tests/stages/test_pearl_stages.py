"""procrustes and propagate against closed forms, naive loops and dense solutions in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ovlabel import TextBank, build, load_config
from ovlabel.ops import enlarge
from ovlabel.settings.reading import preset_names
from ovlabel.spine.segmenter import Segmenter
from ovlabel.spine.stack import Stack
from ovlabel.stages._cell_graph import CellGraph, conjugate_gradients, contrast_edges, solve
from ovlabel.stages.pamr import Pamr
from ovlabel.stages.procrustes import Procrustes, centred, damped, exact
from ovlabel.stages.propagate import Propagate, grey_of
from ovlabel.types import ImageContext, WindowContext
from tests.stages.conftest import drawn

# ------------------------------------------------------------------------------------------------------ procrustes


@dataclass
class Fixed:
    """A trace of given queries, keys and values."""

    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    grid: tuple[int, int] = (3, 5)
    layers: int = 3

    def qkv(self, layer: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        assert layer == self.layers
        return self.parts


def with_parts(context: WindowContext, queries: torch.Tensor, keys: torch.Tensor) -> WindowContext:
    return replace(context, trace=Fixed((queries, keys, keys)))  # type: ignore[arg-type]


def attention(context: WindowContext, stage: Procrustes) -> torch.Tensor:
    return stage.scores(torch.empty(0), context).softmax(-1)[0]


def gains(singular: np.ndarray) -> np.ndarray:
    """What five steps make of singular values m: m · z / √n."""
    norm = math.sqrt((singular**4).sum())
    root, inverse = singular**2 / norm + 1e-6, np.ones_like(singular)
    for _ in range(5):
        factor = (3 - inverse * root) / 2
        root, inverse = root * factor, factor * inverse
    return singular * inverse / math.sqrt(norm)


def naive_attention(queries: np.ndarray, keys: np.ndarray, weight: float) -> np.ndarray:
    """One head: n × d each, the first row [CLS]."""
    weights = np.linalg.norm(queries, axis=1)
    weights[0] = 0
    weights /= weights.sum() + 1e-6
    centred_queries, centred_keys = queries - weights @ queries, keys - weights @ keys
    left, singular, right = np.linalg.svd(centred_keys.T @ centred_queries)
    rotation = left @ np.diag(gains(singular)) @ right
    scores = (queries @ (keys @ rotation).T + weight * centred_keys @ centred_keys.T) / math.sqrt(queries.shape[1])
    shares = np.exp(scores - scores.max(1, keepdims=True))
    return np.asarray(shares / shares.sum(1, keepdims=True))


@pytest.mark.parametrize("weight", [0.0, 0.08, 0.3])
def test_procrustes_is_the_naive_sum(context: WindowContext, weight: float) -> None:
    ours = attention(context, Procrustes(weight)).numpy()
    queries, keys, _ = context.trace.qkv(3)
    for window in range(2):
        for head in range(2):
            naive = naive_attention(queries[window, head].numpy(), keys[window, head].numpy(), weight)
            assert np.allclose(ours[window, head], naive, atol=1e-9)


def test_a_damped_rotation_acts_on_singular_values_one_by_one() -> None:
    cross = drawn(3, 64, 64).float()
    left, singular, right = np.linalg.svd(cross.numpy().astype(np.float64))
    for one in range(3):
        expected = left[one] @ np.diag(gains(singular[one])) @ right[one]
        assert np.abs(damped(cross)[one].numpy() - expected).max() <= 1e-6
        assert gains(singular[one]).max() <= 1 + 1e-9


def test_directions_that_agree_are_turned_and_others_damped() -> None:
    singular = np.array([8.0, 4.0, 1.0, 0.01])
    shares = singular**2 / math.sqrt((singular**4).sum())
    ours = damped(torch.diag(torch.from_numpy(singular))).diagonal().numpy()
    assert np.allclose(ours, gains(singular))
    assert shares[1] >= 1 / 8
    assert ours[:2].min() >= 0.999
    assert ours[3] < 0.02


def test_of_a_turned_frame_the_rotation_is_found() -> None:
    """64 directions of one length: m² / n is an eighth."""
    frame, _ = torch.linalg.qr(drawn(64, 64))
    assert (damped(3.7 * frame) - frame).abs().max() <= 1e-3
    assert torch.allclose(exact(3.7 * frame), frame)


def test_an_exact_rotation_is_orthogonal_and_another_than_the_damped_one() -> None:
    cross = drawn(2, 2, 16, 16)
    turned = exact(cross)
    assert torch.allclose(turned @ turned.transpose(-2, -1), torch.eye(16, dtype=torch.float64).expand_as(turned))
    assert (turned - damped(cross)).abs().max() > 0.05


def test_nothing_to_turn_is_no_division_by_zero(context: WindowContext) -> None:
    alike = torch.ones(1, 2, 16, 4)
    assert torch.isfinite(damped(torch.zeros(2, 4, 4))).all()
    assert torch.allclose(damped(1e-30 * drawn(4, 4).float()), damped(1e6 * drawn(4, 4).float()), atol=1e-6)
    assert torch.isfinite(attention(with_parts(context, alike, alike), Procrustes())).all()
    assert torch.isfinite(attention(with_parts(context, 0 * alike, 0 * alike), Procrustes())).all()


def test_what_is_added_to_all_keys_of_a_head_changes_nothing(context: WindowContext) -> None:
    queries, keys, _ = context.trace.qkv(3)
    moved = keys + drawn(1, 2, 1, 16, seed=5)
    for stage in (Procrustes(), Procrustes(rotation="exact")):
        ours = attention(with_parts(context, queries, moved), stage)
        assert (ours - attention(context, stage)).abs().max() <= 1e-5


def test_the_length_of_the_class_token_does_not_weigh_the_means() -> None:
    queries, keys = drawn(1, 2, 16, 4), drawn(1, 2, 16, 4, seed=1)
    longer = queries.clone()
    longer[..., 0, :] *= 50
    (first, _), (second, other) = centred(queries, keys), centred(longer, keys)
    assert torch.equal(first[..., 1:, :], second[..., 1:, :])
    assert torch.equal(other, centred(queries, keys)[1])


def test_fused_attention_gives_the_same(context: WindowContext) -> None:
    _, _, values = context.trace.qkv(3)
    ((queries, keys),) = Procrustes().pairs(context)
    fused = F.scaled_dot_product_attention(queries, keys, values)
    assert (fused - attention(context, Procrustes()) @ values).abs().max() <= 1e-5


def test_half_precision_is_turned_in_float32_and_handed_on_in_half(context: WindowContext) -> None:
    queries, keys, _ = (part.to(torch.bfloat16) for part in context.trace.qkv(3))
    halves = with_parts(context, queries, keys)
    wide = with_parts(context, queries.float(), keys.float())
    assert torch.equal(attention(halves, Procrustes()), attention(wide, Procrustes()))
    assert {part.dtype for part in Procrustes().pairs(halves)[0]} == {torch.bfloat16}


# ------------------------------------------------------------------------------------------------------- propagate

EVERY = (
    Propagate(),
    Propagate(mode="repaired"),
    Propagate(mode="repaired", follows="probabilities"),
)


def scene(pixels: torch.Tensor, queries: int = 5) -> ImageContext:
    """A picture at working size, which is the size of the maps, with as many queries."""
    bank = TextBank(
        F.normalize(drawn(queries, 8, seed=9), dim=1).numpy(),
        np.arange(queries),
        tuple("abcdefgh"[:queries]),
        ("thing",) * queries,
    )
    image = np.zeros((*pixels.shape[1:], 3), np.uint8)
    return ImageContext(image, pixels, bank, torch.from_numpy(bank.embeddings), 40.0)


def graph_of(rows: int, columns: int, trust: float = 0.25) -> CellGraph:
    return CellGraph(torch.full((rows, columns), trust, dtype=torch.float64), *contrast_edges(drawn(rows, columns)))


def dense(graph: CellGraph) -> np.ndarray:
    """The operator as a matrix, from the definition of the Laplacian, cell by cell."""
    rows, columns = graph.trust.shape
    matrix = np.diag(graph.trust.numpy().ravel().copy())

    def join(one: int, two: int, weight: float) -> None:
        matrix[[one, two], [one, two]] += weight
        matrix[[one, two], [two, one]] -= weight

    for y in range(rows):
        for x in range(columns):
            if x + 1 < columns:
                join(y * columns + x, y * columns + x + 1, float(graph.across[y, x]))
            if y + 1 < rows:
                join(y * columns + x, (y + 1) * columns + x, float(graph.down[y, x]))
    return np.asarray(matrix)


def solution(graph: CellGraph, maps: torch.Tensor) -> torch.Tensor:
    right = (graph.trust * maps).flatten(1).numpy().T
    return torch.from_numpy(np.linalg.solve(dense(graph), right).T.reshape(maps.shape))


def test_the_operator_is_the_sum_of_trust_and_laplacian_symmetric_and_positive() -> None:
    graph = graph_of(4, 6)
    unit = torch.eye(24, dtype=torch.float64).reshape(24, 4, 6)
    matrix = graph.operator(unit).flatten(1).numpy()
    assert np.allclose(matrix, dense(graph))
    assert np.array_equal(matrix, matrix.T)
    assert np.linalg.eigvalsh(matrix).min() >= 0.25 - 1e-12
    assert np.allclose(graph.total().numpy().ravel(), matrix.diagonal())


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("trust", [1e-4, 0.01, 0.25, 100.0])
def test_each_query_is_solved_to_its_tolerance(tolerance: float, trust: float) -> None:
    """The distance that is left, in the norm of the operator's diagonal, is under the tolerance's share."""
    graph, maps = graph_of(7, 9, trust), drawn(3, 7, 9, seed=4)
    exactly, ours = solution(graph, maps), solve(graph, maps, tolerance, trust)
    for query in range(3):
        left, whole = ((graph.total() * (x - exactly)[query].square()).sum().sqrt() for x in (ours, maps))
        assert left <= tolerance * whole * (1 + 1e-9) + 1e-12


def test_many_steps_of_the_literal_solver_come_to_the_same() -> None:
    graph, maps = graph_of(7, 9), drawn(3, 7, 9, seed=4)
    assert torch.allclose(conjugate_gradients(graph, maps, 200), solution(graph, maps), atol=1e-8)
    assert torch.equal(conjugate_gradients(graph, maps, 0), maps)


def test_a_query_is_solved_alike_whichever_others_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, whatever is computed together."""
    context, maps = scene(drawn(3, 30, 40)), drawn(5, 30, 40, seed=1).float()
    stage = Propagate(mode="repaired", grid=10)
    whole = stage.logits(maps.clone(), context)
    assert torch.equal(stage.logits(maps[1:3].clone(), context), whole[1:3])
    assert torch.equal(stage.logits(maps[[4, 0]].clone(), context), whole[[4, 0]])
    monkeypatch.setattr("ovlabel.stages._cell_graph._CPU_VALUES", 1)
    monkeypatch.setattr("ovlabel.stages.propagate._BAND_VALUES", 1)
    assert torch.equal(stage.logits(maps.clone(), context), whole)


def test_the_literal_steps_have_one_length_for_all_queries() -> None:
    """So that a query's map is another where others are asked; the first would be at its solution, the second not."""
    graph = graph_of(7, 9, 0.01)
    maps = drawn(2, 7, 9, seed=4) * torch.tensor([1.0, 0.01])[:, None, None]
    together, alone = (conjugate_gradients(graph, some, 10) for some in (maps, maps[1:]))
    assert (together[1] - alone[0]).abs().max() > 1e-5


def test_a_tile_with_a_margin_of_the_steps_is_solved_alike() -> None:
    graph, maps = graph_of(40, 6, 1.0), drawn(2, 40, 6, seed=2)
    steps = math.ceil(math.acosh(1 / 1e-2) / math.acosh(5 / 4))
    whole = solve(graph, maps, 1e-2, 1.0)
    rows = slice(15 - steps, 20 + steps)
    tile = CellGraph(graph.trust[rows], graph.across[rows], graph.down[rows.start : rows.stop - 1])
    ours = solve(tile, maps[:, rows], 1e-2, 1.0)[:, steps:-steps]
    assert torch.allclose(ours, whole[:, 15:20], rtol=0, atol=1e-15)
    nearer = solve(tile, maps[:, rows], 1e-2, 1.0)[:, : steps - 1]
    assert not torch.allclose(nearer, whole[:, rows][:, : steps - 1], rtol=0, atol=1e-15)


@pytest.mark.parametrize("stage", EVERY, ids=str)
def test_constant_maps_stay(stage: Propagate) -> None:
    flat = torch.arange(5, dtype=torch.float64)[:, None, None].expand(5, 50, 70) / 10
    assert torch.allclose(replace(stage, grid=20).logits(flat.clone(), scene(drawn(3, 50, 70))), flat, atol=1e-9)


@pytest.mark.parametrize("stage", EVERY, ids=str)
def test_nothing_passes_a_strong_edge(stage: Propagate) -> None:
    """A picture of two regions: what is in one does not matter in the other."""
    stage, pixels = replace(stage, grid=4096, steps=400, tolerance=1e-6), torch.zeros(3, 6, 40, dtype=torch.float64)
    pixels[..., 20:] = 5
    maps = drawn(5, 6, 40, seed=6) / 10
    other = maps.clone()
    other[..., 20:] += drawn(5, 6, 20, seed=7) / 10
    one, two = (stage.logits(value.clone(), scene(pixels)) for value in (maps, other))
    within = 1e-5 if stage.mode == "literal" else 1e-7  # the authors add 1e-12 to sums that fall to 0
    assert torch.allclose(one[..., :20], two[..., :20], atol=within)
    assert not torch.allclose(one[..., 20:], two[..., 20:], atol=1e-3)


@pytest.mark.parametrize("stage", EVERY, ids=str)
def test_a_factor_and_offsets_of_the_picture_change_nothing(stage: Propagate) -> None:
    pixels, maps = drawn(3, 50, 70), drawn(5, 50, 70, seed=8) / 10
    moved = 2.5 * pixels + torch.tensor([1.0, -2.0, 0.5])[:, None, None]
    stage = replace(stage, grid=20)
    ours = stage.logits(maps.clone(), scene(pixels))
    assert (stage.logits(maps.clone(), scene(moved)) - ours).abs().max() <= 1e-5


@pytest.mark.parametrize(("side", "grid", "block"), [(50, 20, 2), (45, 10, 4), (61, 80, 1), (100, 40, 2), (30, 12, 2)])
def test_without_steps_the_literal_maps_are_means_of_blocks(side: int, grid: int, block: int) -> None:
    """Halves are rounded to even; what is left over at the right and at the bottom is stretched over."""
    maps = drawn(2, side, side)
    count = side // block
    means = maps[:, : count * block, : count * block].reshape(2, count, block, count, block).mean((2, 4))
    ours = Propagate(grid=grid, steps=0).logits(maps.clone(), scene(drawn(3, side, side), 2))
    assert torch.allclose(ours, enlarge(means[None], (side, side))[0])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 30), (30, 1), (3, 7), (64, 200)])
@pytest.mark.parametrize("stage", EVERY, ids=str)
def test_any_shape_has_a_result(stage: Propagate, height: int, width: int) -> None:
    maps, context = drawn(5, height, width) / 10, scene(drawn(3, height, width, seed=1))
    for grid in (1, 80):
        ours = replace(stage, grid=grid).logits(maps.clone(), context)
        assert ours.shape == maps.shape
        assert torch.isfinite(ours).all()
    assert torch.isfinite(stage.logits(maps[:1].clone(), scene(drawn(3, height, width, seed=1), 1))).all()


@pytest.mark.parametrize("stage", EVERY, ids=str)
def test_a_picture_of_one_colour_is_smoothed_alike_everywhere(stage: Propagate) -> None:
    maps = drawn(5, 20, 20) / 10
    ours = stage.logits(maps.clone(), scene(torch.ones(3, 20, 20, dtype=torch.float64)))
    assert torch.isfinite(ours).all()
    assert ours.std() < maps.std()


def test_repaired_cells_are_square_and_cover_the_image() -> None:
    """A long image has more cells along its long side; its last column is not dropped."""
    seen: list[tuple[int, ...]] = []
    maps = torch.zeros(2, 20, 59, dtype=torch.float64)
    maps[..., -1] = 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ovlabel.stages.propagate.solve", lambda _graph, cells, *_: seen.append(cells.shape) or cells)
        ours = Propagate(mode="repaired", grid=10).logits(maps.clone(), scene(drawn(3, 20, 59), 2))
    assert seen == [(2, 10, 30)]
    assert ours[..., -1].min() > 0
    literal = Propagate(grid=10, steps=0).logits(maps.clone(), scene(drawn(3, 20, 59), 2))
    assert literal.max() == 0


def test_repaired_cells_do_not_depend_on_the_size_of_the_maps() -> None:
    pixels, coarse = drawn(3, 24, 36), drawn(4, 3, 4, seed=1)[None]
    small, large = (F.interpolate(coarse, size, mode="bilinear")[0] for size in ((24, 36), (48, 72)))
    stage = Propagate(mode="repaired", grid=12)
    ours = [stage.logits(maps.clone(), scene(pixels, 4)) for maps in (small, large)]
    assert (F.avg_pool2d(ours[1], 2) - ours[0]).abs().max() < 0.05 * coarse.std()


def test_probabilities_at_the_logit_scale_and_texts_weigh_the_cells() -> None:
    """Against the definition: trust and edges, then the dense solution, where every pixel is a cell."""
    maps, context = drawn(5, 6, 8, seed=3) / 20, scene(drawn(3, 6, 8))
    ours = Propagate(mode="repaired", grid=4096, follows="probabilities", tolerance=1e-6).logits(maps.clone(), context)
    shares = (40 * maps).softmax(0)
    texts = (context.text @ context.text.T / 0.5).softmax(1).double() + 10 * torch.eye(5, dtype=torch.float64)
    texts = texts / (texts.sum(1, keepdim=True) + 1e-6)
    texts = (texts + texts.T) / 2

    def agreement(one: Any, two: Any) -> torch.Tensor:
        return 1 + torch.einsum("qhw,qr,rhw->hw", shares[one], texts, shares[two]).clamp(0, 1)

    every, left, right = np.s_[:], np.s_[..., :-1], np.s_[..., 1:]
    above, below = np.s_[..., :-1, :], np.s_[..., 1:, :]
    across, down = contrast_edges(grey_of(context.pixels[None])[0, 0])
    trust = shares.amax(0).clamp_min(0.05).square() * agreement(every, every)
    graph = CellGraph(
        trust, (across * agreement(left, right)).clamp(0, 1), (down * agreement(above, below)).clamp(0, 1)
    )
    assert torch.allclose(ours, solution(graph, maps), atol=1e-6)


@pytest.mark.parametrize("preset", preset_names())
def test_it_works_beside_pamr_and_in_its_place_on_every_preset(
    preset: str, tiny: dict[str, Any], write_model: Callable[..., str]
) -> None:
    keys = {**tiny, "tiling.stride": 48, "text.vocabulary": "classes:cat, dog, grass", "labels.finish": "working"}
    made = build(load_config(preset, keys), offline=True)
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    others = tuple(stage for stage in made.stack if stage.name() not in ("pamr", "propagate"))
    for stage in EVERY:
        for stages in ((*others, stage), (*others, Pamr(), stage), (*others, stage, Pamr())):
            prediction = Segmenter(made.encoder, made.bank, Stack(stages), made.config)(image)
            assert prediction.labels.shape == (40, 56)
            assert np.isfinite(prediction.confidence).all()
