"""calibrate, layer_mean, cliptrase, regional, presence, hierarchy, sharpen, smooth, static_calibration by oracles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ovlabel.errors import ConfigError
from ovlabel.model.clip import Clip
from ovlabel.stages.calibrate import Calibrate, outlier_factor, repaired
from ovlabel.stages.cliptrase import Cliptrase, cluster
from ovlabel.stages.hierarchy import Hierarchy
from ovlabel.stages.layer_mean import LayerMean
from ovlabel.stages.presence import Presence
from ovlabel.stages.regional import Regional
from ovlabel.stages.sharpen import Sharpen
from ovlabel.stages.smooth import Smooth
from ovlabel.stages.static_calibration import StaticCalibration
from ovlabel.types import ImageContext, WindowContext
from tests.stages.conftest import drawn


def test_repaired_tokens_are_the_mean_of_good_neighbours() -> None:
    patches, bad = drawn(1, 12, 3), torch.zeros(1, 12, dtype=torch.bool)
    bad[0, [5, 6]] = True
    ours = repaired(patches, bad, (3, 4))
    around = [0, 1, 2, 4, 8, 9, 10]  # of 5 on a grid of 3 × 4, less 6
    assert torch.allclose(ours[0, 5], patches[0, around].mean(0))
    assert torch.equal(ours[0, 0], patches[0, 0])
    everywhere = torch.ones_like(bad)
    assert torch.equal(repaired(patches, everywhere, (3, 4)), patches)  # nobody to take from


def test_a_token_that_sticks_out_has_the_highest_factor() -> None:
    tokens = drawn(2, 40, 5)
    tokens[0, 7] *= 10
    tokens[1, 30] *= 10
    assert outlier_factor(tokens).argmax(1).tolist() == [7, 30]


def test_calibrated_patches_attend_patches_only(context: WindowContext) -> None:
    attention = torch.rand(2, 2, 16, 16, dtype=torch.float64)
    ours = Calibrate().attention(attention, context)
    assert torch.equal(ours[:, :, 0], attention[:, :, 0])
    assert not ours[:, :, 1:, 0].any()
    assert torch.allclose(ours[:, :, 1:].sum(-1), torch.tensor(1.0, dtype=torch.float64))


def test_layer_mean_is_the_blend(context: WindowContext) -> None:
    attention = torch.rand(2, 2, 16, 16, dtype=torch.float64)
    ours = LayerMean(weight=0.25, layers=(1, 2), kind="plain").attention(attention, context)
    middle = (context.trace.attention(1) + context.trace.attention(2)) / 2
    assert torch.allclose(ours, 0.75 * attention + 0.25 * middle)
    assert torch.equal(LayerMean(weight=0.0).attention(attention, context), attention)
    with pytest.raises(ConfigError, match="the model has layers 1 … 3"):
        LayerMean(layers=(4,)).attention(attention, context)


def naive_dbscan(rows: np.ndarray, radius: float, neighbours: int) -> list[int]:
    """As in the paper: grow each cluster from its first core point."""
    near = [[j for j in range(len(rows)) if np.linalg.norm(rows[i] - rows[j]) <= radius] for i in range(len(rows))]
    labels, number = [-1] * len(rows), 0
    for start in range(len(rows)):
        if labels[start] >= 0 or len(near[start]) < neighbours:
            continue
        waiting = [start]
        while waiting:
            point = waiting.pop()
            if labels[point] >= 0:
                continue
            labels[point] = number
            if len(near[point]) >= neighbours:
                waiting += near[point]
        number += 1
    return labels


@given(arrays(np.int64, st.tuples(st.integers(1, 14), st.just(2)), elements=st.integers(0, 6)), st.integers(1, 4))
def test_clusters_are_those_of_dbscan(points: np.ndarray, neighbours: int) -> None:
    rows = points.astype(np.float64)
    ours = cluster(torch.from_numpy(rows), 1.1, neighbours).tolist()
    assert ours == naive_dbscan(rows, 1.1, neighbours)


def test_a_region_takes_its_most_frequent_class(context: WindowContext) -> None:
    """One cluster is one region: the class wins everywhere, every pixel keeps its values."""
    cosines = drawn(2, 4, 48, 80)
    context = replace(context, class_of=torch.tensor([0, 1, 2, 2]))
    ours = Cliptrase(radius=50.0).window(cosines, context)
    owner = context.class_of[cosines.argmax(1)]
    winners = [int(torch.bincount(one.flatten()).argmax()) for one in owner]
    for window, winner in enumerate(winners):
        assert (context.class_of[ours[window].argmax(0)] == winner).all()
    assert torch.equal(ours.sort(1).values, cosines.sort(1).values)
    assert torch.equal(Cliptrase(radius=1e-9).window(cosines, context), cosines)  # no clusters
    assert torch.equal(Cliptrase(vote=False).window(cosines, context), cosines)


def test_a_region_token_sees_its_patches_and_itself(clip: Clip, context: WindowContext) -> None:
    """Against the whole sequence at once under a mask: region tokens behind the patches, which never see them."""
    masks = torch.zeros(2, 2, 15, dtype=torch.bool)
    masks[:, 0, :4] = masks[:, 1, 9:] = True
    with torch.inference_mode():
        ours = context.trace.read_regions(masks)
        tokens = context.trace.tokens(1)
        joint = torch.cat((tokens, tokens[:, :1].expand(-1, 2, -1)), 1)
        blocked = torch.zeros(18, 18, dtype=torch.bool)
        blocked[:16, 16:] = True
        blocked[16:, 0] = True
        blocked[16:, 1:16] = ~masks[0]
        blocked[16:, 16:] = ~torch.eye(2, dtype=torch.bool)
        bias = torch.zeros(18, 18, dtype=torch.float64).masked_fill(blocked, float("-inf"))
        for block in clip._visual.transformer.resblocks:
            joint = block(joint, attn_mask=bias)
        expected = clip.project(joint[:, 16:])
    assert torch.allclose(ours, expected, atol=1e-10)


def test_the_image_embedding_is_the_models_own(clip: Clip, context: WindowContext) -> None:
    with torch.inference_mode():
        block = clip._visual.transformer.resblocks[-1](context.trace.tokens(3))
        expected = clip.project(block)[:, 0]
        edited = context.trace.edited(context.trace.tokens(3) * 2)
    assert torch.allclose(context.trace.image(), expected, atol=1e-12)
    assert torch.equal(edited.image(), context.trace.image())  # whatever a stage did to the tokens


def test_regional_brings_regions_to_the_patches_level(context: WindowContext) -> None:
    cosines = drawn(2, 4, 3, 5) / 10
    ours = Regional(weight=1.0).similarity(cosines, context)
    assert torch.allclose(ours.mean((1, 2, 3)), cosines.mean((1, 2, 3)))
    assert torch.allclose(ours.std((1, 2, 3)), cosines.std((1, 2, 3)))
    assert torch.equal(Regional(weight=0.0).similarity(cosines, context), cosines)


def test_presence_adds_one_value_a_query(context: WindowContext) -> None:
    cosines = drawn(2, 4, 3, 5) / 10
    added = Presence(weight=0.5).similarity(cosines, context) - cosines
    assert torch.allclose(added, added[..., :1, :1].expand_as(added))
    assert torch.allclose(added.sum(1), torch.zeros(2, 3, 5, dtype=torch.float64), atol=1e-12)
    assert torch.equal(Presence(weight=0.0).similarity(cosines, context), cosines)


def test_groups_gain_by_what_they_gather(image: ImageContext) -> None:
    bank = replace(image.bank, groups=("g", "g", "", ""))
    logits = drawn(5, 3, 4) / 20
    ours = Hierarchy(exponent=0.7).logits(logits.clone(), replace(image, bank=bank))
    shares = (40 * logits).softmax(0).numpy()
    group = np.array([0, 0, 1, 2, 2])  # two classes of one group, a class alone, two queries of a class alone
    gathered = np.stack([shares[group == g].sum(0) for g in group])
    expected = shares * gathered**0.7
    assert np.allclose((40 * ours).softmax(0).numpy(), expected / expected.sum(0))
    assert torch.equal(Hierarchy(exponent=0.0).logits(logits.clone(), image), logits)


def test_classes_cluster_by_their_embeddings(image: ImageContext) -> None:
    vectors = np.eye(4, 16, dtype=np.float32)
    vectors[1] = vectors[0] + 0.1 * vectors[2]
    bank = replace(image.bank, embeddings=vectors, class_of=np.arange(4), groups=None)
    groups = Hierarchy(groups="clustered", distance=0.3).group_of(bank)
    assert groups[0] == groups[1]
    assert len(set(groups.tolist())) == 3


@pytest.mark.parametrize("queries", [3, 171])
def test_sharpened_winners_have_the_mean_asked_for(queries: int, image: ImageContext) -> None:
    logits = drawn(queries, 20, 30) / 50
    ours = Sharpen(target=0.5).logits(logits.clone(), image)
    assert float((40 * ours).softmax(0).amax(0).mean()) == pytest.approx(0.5, abs=1e-3)
    assert torch.equal(ours.argmax(0), logits.argmax(0))
    assert torch.equal(Sharpen(target=0.0).logits(logits.clone(), image), logits)


def test_only_unsure_pixels_are_smoothed(image: ImageContext) -> None:
    logits = drawn(5, 40, 60) / 100
    logits[2, :20] += 1  # sure in the upper half
    ours = Smooth(entropy=0.5).logits(logits.clone(), image)
    assert torch.equal(ours[:, :20], logits[:, :20])
    assert not torch.allclose(ours[:, 20:], logits[:, 20:])
    assert torch.equal(Smooth(entropy=1.0).logits(logits.clone(), image), logits)


def test_static_calibration_is_the_second_path(clip: Clip, context: WindowContext) -> None:
    block = torch.zeros(2, 16, 32, dtype=torch.float64)
    ours = StaticCalibration(blocks=2).block(block, context)
    path = context.trace.tokens(2)
    for layer in (2, 3):
        queries, keys, values = context.trace.qkv(layer)
        attention = sum((x @ x.transpose(-2, -1) / 4).softmax(-1) for x in (queries, keys, values)) / 3
        gathered = (attention.sum(1, keepdim=True) @ values).transpose(1, 2).flatten(2)
        path = path + clip._block(layer).attn.out_proj(gathered)
    assert torch.allclose(ours[:, 1:], path[:, 1:])
    assert torch.equal(ours[:, 0], block[:, 0])
