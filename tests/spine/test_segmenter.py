"""The spine from logits to labels, against loops written from the protocol; and what must not matter."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from ovlabel import Segmenter, TextBank, build, load_config
from ovlabel.errors import ConfigError, StackError
from ovlabel.ops import enlarge
from ovlabel.spine.kept import kept_maps
from ovlabel.spine.stack import Stack
from ovlabel.stages import Stage
from ovlabel.stages.csa import Csa
from ovlabel.stages.kk import Kk
from ovlabel.stages.neighbours import Neighbours
from ovlabel.types import WindowContext

IMAGE = np.random.default_rng(5).integers(0, 256, (70, 100, 3), dtype=np.uint8)
CLASS_OF = np.array([0, 0, 1, 2, 2, 2, 3])


def bank(width: int = 32, class_of: np.ndarray = CLASS_OF, **values: Any) -> TextBank:
    vectors = np.random.default_rng(1).standard_normal((len(class_of), width))
    classes = tuple(f"c{i}" for i in range(int(class_of.max()) + 1))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return TextBank(vectors, class_of, classes, ("thing",) * len(classes), **values)


def made(tiny: dict[str, Any], text: TextBank | None = None, preset: str = "sclip", **keys: Any) -> Segmenter:
    overrides = {**tiny, **{key.replace("__", "."): value for key, value in keys.items()}}
    return build(load_config(preset, overrides), text=text or bank())


def with_stages(segmenter: Segmenter, *stages: Stage) -> Segmenter:
    """The segmenter with other stages."""
    return Segmenter(segmenter.encoder, segmenter.bank, Stack(stages), segmenter.config)


def cosines(segmenter: Segmenter, size: tuple[int, int] = (70, 100)) -> np.ndarray:
    """q H W mean cosines at image size."""
    from ovlabel.ops import resize

    with torch.inference_mode():
        pixels = segmenter.encoder.pixels(torch.from_numpy(resize(IMAGE, (64, 91))).permute(2, 0, 1))
        return segmenter.logits([pixels], size).numpy()


def naive(z: np.ndarray, scale: float, probability: float, area: float, background: int | None) -> np.ndarray:
    """SCLIP's post-processing (techniques' eq. of §2.3), pixel by pixel in float64."""
    count = int(CLASS_OF.max()) + 1
    shares = np.zeros((count, *z.shape[1:]))
    for row, column in np.ndindex(z.shape[1:]):
        weights = [math.exp(scale * (v - z[:, row, column].max())) for v in z[:, row, column].astype(float)]
        for query, weight in enumerate(weights):
            owner = CLASS_OF[query]
            shares[owner, row, column] = max(shares[owner, row, column], weight / sum(weights))
    first = shares.argmax(0)
    foreground = [c for c in range(count) if c != background]
    total = sum((first == c).sum() for c in foreground)
    for c in foreground:
        if area and (first == c).sum() <= area * total:
            shares[c] = 0
    labels = shares.argmax(0)
    labels[shares.max(0) < probability] = 254 if background is None else background
    return labels


@pytest.mark.parametrize("background", [0, 2, None])
@pytest.mark.parametrize(("probability", "area"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.3), (0.4, 0.3)])
def test_labels_follow_the_protocol(
    tiny: dict[str, Any], probability: float, area: float, background: int | None
) -> None:
    segmenter = made(
        tiny,
        bank(background=background),
        labels__probability_threshold=probability,
        labels__area_threshold=area,
        text__logit_scale=20.0,
    )
    expected = naive(cosines(segmenter), 20.0, probability, area, background)
    assert np.array_equal(segmenter(IMAGE).labels, expected)
    assert area or len(np.unique(expected)) > 1


def test_confidence_is_the_winners_probability_and_synonyms_sum_to_at_most_one(tiny: dict[str, Any]) -> None:
    prediction = made(tiny, text__logit_scale=20.0, labels__probability_threshold=0.9)(IMAGE)
    assert np.array_equal(prediction.confidence, prediction.probabilities.max(0))
    assert prediction.probabilities.sum(0).max() <= 1 + 1e-6
    assert (prediction.labels == 254).any()
    assert prediction.confidence.dtype == np.float32


def test_a_class_of_its_own_threshold_gives_up_its_unsure_pixels_only(tiny: dict[str, Any]) -> None:
    free = made(tiny, text__logit_scale=20.0)(IMAGE)
    winner = int(np.bincount(free.labels.ravel()).argmax())
    least = np.zeros(4, np.float32)
    least[winner] = np.median(free.confidence[free.labels == winner])
    bound = made(tiny, bank(thresholds=least), text__logit_scale=20.0)(IMAGE)
    gave_up = (free.labels == winner) & (free.confidence < least[winner])
    assert gave_up.any()
    assert np.array_equal(bound.labels, np.where(gave_up, 254, free.labels))


def test_merge_mean_asks_one_mean_vector_a_class(tiny: dict[str, Any]) -> None:
    text = bank(merge="mean")
    sums = np.stack([text.embeddings[c == CLASS_OF].sum(0) for c in range(4)])
    vectors = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    single = TextBank(vectors, np.arange(4), text.classes, text.kinds)
    assert np.allclose(made(tiny, text)(IMAGE).probabilities, made(tiny, single)(IMAGE).probabilities, atol=1e-5)


def test_merge_logsumexp_pays_for_the_number_of_synonyms(tiny: dict[str, Any]) -> None:
    segmenter = made(tiny, bank(merge="logsumexp"), text__logit_scale=20.0)
    z = 20.0 * cosines(segmenter).astype(float)
    logits = np.stack([np.log(np.exp(z[c == CLASS_OF]).mean(0)) for c in range(4)])
    expected = np.exp(logits) / np.exp(logits).sum(0)
    assert np.allclose(segmenter(IMAGE).probabilities, expected, atol=1e-5)


def test_many_classes_need_sixteen_bits(tiny: dict[str, Any]) -> None:
    few = made(tiny, bank(class_of=np.arange(254)))(IMAGE)
    many = made(tiny, bank(class_of=np.arange(255)), labels__probability_threshold=1.0)(IMAGE)
    assert few.labels.dtype == np.uint8
    assert many.labels.dtype == np.uint16
    assert set(np.unique(many.labels)) == {65534}


def test_the_batch_size_does_not_matter(tiny: dict[str, Any]) -> None:
    segmenter = made(tiny)
    results = []
    for segmenter.batches.size in (1, 3, 100):
        results.append(cosines(segmenter))
    assert np.abs(results[0] - results[1]).max() <= 1e-5
    assert np.abs(results[0] - results[2]).max() <= 1e-5


def test_finishing_at_working_size_lifts_probabilities_to_the_image(tiny: dict[str, Any]) -> None:
    at_image = made(tiny, labels__finish="image", text__logit_scale=20.0)(IMAGE)
    working = made(tiny, labels__finish="working", text__logit_scale=20.0)(IMAGE)
    assert working.probabilities.shape[1:] == working.working_size == (64, 91)
    assert working.labels.shape == at_image.labels.shape == (70, 100)
    assert (working.labels == at_image.labels).mean() > 0.97


def test_a_large_image_is_finished_at_fewer_pixels_and_says_so(tiny: dict[str, Any]) -> None:
    segmenter = made(tiny, labels__max_finish_pixels=2000)
    prediction, annotation = segmenter(IMAGE), segmenter.annotation(IMAGE)
    assert math.prod(prediction.probabilities.shape[1:]) <= 2000
    assert prediction.labels.shape == (70, 100)
    assert annotation.reduced
    assert not made(tiny).annotation(IMAGE).reduced
    assert not made(tiny, labels__finish="working").annotation(IMAGE).reduced


def test_lifting_in_bands_changes_nothing(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = made(tiny, labels__finish="working")(IMAGE)
    monkeypatch.setattr("ovlabel.spine.bands.CPU_LIFTED", 500)
    bands = made(tiny, labels__finish="working")(IMAGE)
    assert np.array_equal(whole.labels, bands.labels)
    assert np.allclose(whole.confidence, bands.confidence, atol=1e-6)


def test_views_are_averaged_after_they_are_turned_back(tiny: dict[str, Any]) -> None:
    whole = {"tiling__window": 0}
    plain, flipped = made(tiny, **whole), made(tiny, tiling__views=["hflip"], **whole)
    with torch.inference_mode():
        pixels = plain.encoder.pixels(torch.from_numpy(IMAGE[:64, :96]).permute(2, 0, 1))
        straight = plain.logits([pixels], (64, 96))
        mirrored = plain.logits([pixels.flip(-1)], (64, 96)).flip(-1)
        assert torch.allclose(flipped.logits([pixels], (64, 96)), mirrored, atol=1e-6)
        upside = plain.logits([pixels.flip(-2)], (64, 96)).flip(-2)
        mean = made(tiny, tiling__views=["identity", "hflip", "vflip"], **whole).logits([pixels], (64, 96))
        heavy = made(tiny, tiling__views=["identity", "hflip"], tiling__view_weights=[3.0, 1.0], **whole)
        weighted = heavy.logits([pixels], (64, 96))
    assert torch.allclose(mean, (straight + mirrored + upside) / 3, atol=1e-6)
    assert torch.allclose(weighted, (3 * straight + mirrored) / 4, atol=1e-6)


def test_windows_are_flipped_where_they_lie(tiny: dict[str, Any]) -> None:
    """Windows that do not lie symmetrically, padded to whole patches: each is turned about its own middle."""
    keys = {"tiling__window": 40, "tiling__stride": 24}
    for stitch in ("similarity", "features"):
        flipped = made(tiny, tiling__views=["hflip"], tiling__stitch=stitch, **keys)
        with torch.inference_mode():
            pixels = flipped.encoder.pixels(torch.from_numpy(IMAGE[:64, :90]).permute(2, 0, 1))
            left = flipped.logits([pixels], (64, 90))
            changed = pixels.clone()
            changed[:, :, 66:] = 0  # seen by the last window alone, which begins at 50
            right = flipped.logits([changed], (64, 90))
        assert torch.allclose(left[..., :40], right[..., :40], atol=1e-6)
        assert not torch.allclose(left[..., 70:], right[..., 70:], atol=1e-3)


def test_views_may_vote(tiny: dict[str, Any]) -> None:
    """Two of three views decide; where all differ, the mean of cosines does. Confidence is the share of votes."""
    keys = {"tiling__views": ["identity", "hflip", "vflip"], "tiling__window": 0, "text__logit_scale": 20.0}
    voting, averaging = made(tiny, tiling__combine="vote", **keys), made(tiny, **keys)
    with torch.inference_mode():
        pixels = voting.encoder.pixels(torch.from_numpy(IMAGE[:64, :96]).permute(2, 0, 1))
        each = [made(tiny, **{**keys, "tiling__views": [v]}).logits([pixels], (64, 96)) for v in keys["tiling__views"]]
        mean, voted = averaging.logits([pixels], (64, 96)), voting.logits([pixels], (64, 96))
    best = torch.stack([maps.argmax(0) for maps in each])
    votes = torch.stack([(best == query).sum(0) for query in range(len(mean))])
    decided = votes.max(0).values >= 2
    assert decided.any()
    assert torch.equal(voted.argmax(0)[decided], votes.argmax(0)[decided])
    shares = (20 * voted).softmax(0).max(0).values
    assert torch.allclose(shares[decided], votes.max(0).values[decided] / 3, atol=2e-3)
    if not decided.all():
        among = mean.masked_fill(votes == 0, -torch.inf)
        assert torch.equal(voted.argmax(0)[~decided], among.argmax(0)[~decided])


def test_scales_are_short_sides_of_the_photograph_and_averaged(tiny: dict[str, Any]) -> None:
    from ovlabel.ops import resize

    both = made(tiny, tiling__scales=[1.0, 1.5], text__logit_scale=1.0)
    with torch.inference_mode():
        pyramid = [
            both.encoder.pixels(torch.from_numpy(resize(IMAGE, size)).permute(2, 0, 1))
            for size in ((64, 91), (96, 136))
        ]
        one, two = (both.logits([pixels], (70, 100)) for pixels in pyramid)
        mean = both.logits(pyramid, (70, 100))
    assert torch.allclose(mean, (one + two) / 2, atol=1e-6)
    assert not torch.allclose(one, two, atol=1e-3)
    owner = [int(np.flatnonzero(c == CLASS_OF)[0]) for c in (1, 3)]  # classes of one query
    shares = torch.softmax(mean, 0)[owner].numpy()
    assert np.allclose(both(IMAGE).probabilities[[1, 3]], shares, atol=1e-6)


def test_stitching_features_equals_stitching_similarity_where_one_window_sees_all(tiny: dict[str, Any]) -> None:
    keys = {"tiling__window": 0, "tiling__enlarge": "two-step", "tiling__pad": "none"}
    with torch.inference_mode():
        pixels = made(tiny).encoder.pixels(torch.from_numpy(IMAGE[:64, :96]).permute(2, 0, 1))
        similarity = made(tiny, **keys).logits([pixels], (64, 96))
        features = made(tiny, **keys, tiling__stitch="features").logits([pixels], (64, 96))
    assert torch.allclose(similarity, features, atol=1e-5)


def test_stitching_features_averages_unit_features_on_the_grid(tiny: dict[str, Any]) -> None:
    segmenter = made(tiny, tiling__stitch="features", tiling__pad="none")
    queries = segmenter.queries
    with torch.inference_mode():
        pixels = segmenter.encoder.pixels(torch.from_numpy(IMAGE[:64, :80]).permute(2, 0, 1))
        boxes = [(0, 0), (0, 32), (16, 0), (16, 32)]
        total, count = torch.zeros(32, 4, 5), torch.zeros(4, 5)
        for top, left in boxes:
            window = pixels[None, :, top : top + 48, left : left + 48]
            trace = segmenter.encoder.trace(window)
            context = WindowContext(window, queries.vectors, queries.class_of, 40.0, trace, ())
            scores = segmenter.stack.edit("scores", None, context)
            tokens = segmenter.encoder.project(segmenter.encoder.readout(trace, scores.softmax(-1).sum(0)))[0, 1:]
            unit = torch.nn.functional.normalize(tokens, dim=1).T.reshape(32, 3, 3)
            total[:, top // 16 : top // 16 + 3, left // 16 : left // 16 + 3] += unit
            count[top // 16 : top // 16 + 3, left // 16 : left // 16 + 3] += 1
        mean = torch.nn.functional.normalize(total / count, dim=0)
        expected = torch.einsum("qe,ehw->qhw", queries.vectors, mean)
        expected = torch.nn.functional.interpolate(expected[None], size=(64, 80), mode="bilinear")[0]
        assert torch.allclose(segmenter.logits([pixels], (64, 80)), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (400, 3), (17, 16), (64, 64), (200, 90)])
@pytest.mark.parametrize("preset", ["sclip", "clearclip", "naclip", "maskclip", "pearl", "plain"])
def test_images_of_every_shape_get_labels_of_their_size(
    tiny: dict[str, Any], size: tuple[int, int], preset: str
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    keys = {"tiling__window": 0} if preset == "naclip" else {}
    prediction = made(tiny, preset=preset, **keys)(image)
    assert prediction.labels.shape == prediction.confidence.shape == size
    assert prediction.labels.max() < 4


def test_an_image_of_another_type_is_refused(tiny: dict[str, Any]) -> None:
    segmenter = made(tiny)
    for wrong in (IMAGE.astype(float), IMAGE[..., 0], IMAGE[..., :2], IMAGE[:0]):
        with pytest.raises(ValueError, match="uint8 H W 3"):
            segmenter(wrong)


def test_half_precision_agrees_with_full(tiny: dict[str, Any]) -> None:
    full, half = made(tiny), made(tiny, encoder__precision="bf16")
    assert np.abs(cosines(full) - cosines(half)).max() < 0.05
    assert half(IMAGE).probabilities.dtype == np.float32


def test_the_kept_maps_are_the_most_probable_classes_in_order(tiny: dict[str, Any]) -> None:
    for keep, count in (("top3", 3), ("top9", 4), ("full", 4)):
        segmenter = made(tiny, store__probabilities=keep, labels__finish="working", text__logit_scale=20.0)
        prediction, annotation = segmenter(IMAGE), segmenter.annotation(IMAGE)
        order = np.argsort(-prediction.probabilities, axis=0, kind="stable")[:count]
        values = prediction.probabilities if keep == "full" else np.take_along_axis(prediction.probabilities, order, 0)
        assert np.array_equal(annotation.probabilities, np.rint(values * 255))
        assert keep == "full" or np.array_equal(annotation.classes, order)
    assert made(tiny, store__probabilities="none").annotation(IMAGE).probabilities is None


@pytest.mark.parametrize("step", [1, 3, 20])
@pytest.mark.parametrize("working", [(16, 23), (20, 30), (41, 60), (1, 1)])
def test_the_kept_maps_are_found_band_by_band(step: int, working: tuple[int, int]) -> None:
    probabilities = torch.rand(6, 20, 30, generator=torch.Generator().manual_seed(0))
    lifted = enlarge(probabilities[None], working)[0]
    for keep, wanted in (("top4", lifted.topk(4, dim=0).values), ("full", lifted)):
        kept = kept_maps(keep, (6, 20, 30), working, torch.device("cpu"))
        for top in range(0, 20, step):
            kept.put(top, probabilities[:, top : top + step])
        classes, values = kept.maps()
        assert np.abs(values - wanted.numpy() * 255).max() <= 0.5001
        assert (classes is None) == (keep == "full")
        assert classes is None or np.array_equal(classes, lifted.topk(4, dim=0).indices)


def test_a_bank_of_another_width_is_refused(tiny: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="16 dimensions, the encoder 32"):
        made(tiny, bank(width=16))


# ---------------------------------------------------------------- what the spine hands to stages


@dataclass(frozen=True)
class Spy(Stage):
    """Asks for a preview of its own scores and reruns the block's own tokens."""

    seen: ClassVar[list[Any]] = []

    def scores(self, scores: Tensor, context: WindowContext) -> Tensor:
        assert context.preview is not None
        self.seen.append(context.preview(scores))
        return scores

    def block(self, block: Tensor, context: WindowContext) -> Tensor:
        assert context.rerun is not None
        assert context.cls is None
        self.seen.append(block)
        self.seen.append(context.rerun(context.trace.tokens(context.trace.layers)))
        return block


def one_part(tiny: dict[str, Any], stages: tuple[Any, ...]) -> tuple[Segmenter, Any]:
    segmenter = with_stages(made(tiny), *stages)
    with torch.inference_mode():
        pixels = segmenter.encoder.pixels(torch.from_numpy(IMAGE[:48, :48]).permute(2, 0, 1))
        from ovlabel.types import Box

        return segmenter, next(segmenter.features(pixels, (Box(0, 0, 48, 48),)))


def test_a_preview_goes_through_the_later_stages_to_similarity(tiny: dict[str, Any]) -> None:
    class Previews(Spy):
        def block(self, block: Tensor, context: WindowContext) -> Tensor:
            return block

    Previews.seen = []
    segmenter, part = one_part(tiny, (Kk(), Previews(), Neighbours(2.0)))
    final = torch.einsum("qe,behw->bqhw", segmenter.queries.vectors, torch.nn.functional.normalize(part.maps, dim=1))
    assert torch.allclose(Previews.seen[0], final, atol=1e-6)
    assert Previews.seen[0].shape == (1, 7, 3, 3)


def test_a_rerun_of_the_same_tokens_gives_the_same_block(tiny: dict[str, Any]) -> None:
    Spy.seen = []
    one_part(tiny, (Csa(), Spy()))
    block, again = [v for v in Spy.seen if v.shape[-1] == 64][:2]
    assert torch.equal(block, again)


def test_the_last_layer_of_the_trace_holds_the_edited_tokens(tiny: dict[str, Any]) -> None:
    class Shift(Stage):
        def tokens(self, tokens: Tensor, context: WindowContext) -> Tensor:
            return tokens + 1.0

    _, part = one_part(tiny, (Csa(),))
    _, shifted = one_part(tiny, (Shift(), Csa()))
    assert torch.equal(shifted.context.trace.tokens(3), part.context.trace.tokens(3) + 1.0)
    assert not torch.allclose(shifted.context.trace.qkv(3)[0], part.context.trace.qkv(3)[0])
    assert part.context.cls.shape == (1, 32)


LATER_LEVELS = ["features", "similarity", "window", "logits", "probabilities", "labels"]


@pytest.mark.parametrize("level", LATER_LEVELS)
@pytest.mark.parametrize("stitch", ["similarity", "features"])
def test_every_level_is_edited(tiny: dict[str, Any], level: str, stitch: str) -> None:
    shapes = []

    def roll(self: Any, value: Tensor, context: Any) -> Tensor:
        shapes.append(tuple(value.shape))
        return value.roll(1, 0 if value.ndim < 4 else 1)

    stage = type("Roll", (Stage,), {level: roll})()
    segmenter = made(tiny, tiling__stitch=stitch)
    before = segmenter(IMAGE).labels
    segmenter = with_stages(segmenter, Csa(), stage)
    assert not np.array_equal(segmenter(IMAGE).labels, before)
    ranks = {"labels": 2, "logits": 3, "probabilities": 3}
    assert {len(shape) for shape in shapes} == {ranks.get(level, 4)}


def test_classes_that_all_fell_to_the_area_threshold_leave_no_label(tiny: dict[str, Any]) -> None:
    prediction = made(tiny, bank(), labels__area_threshold=1.0)(IMAGE)
    assert set(np.unique(prediction.labels)) == {254}
    assert prediction.confidence.max() == 0


def test_after_stitching_features_a_stage_that_asks_for_layers_is_told(tiny: dict[str, Any]) -> None:
    class Layers(Stage):
        def similarity(self, value: Tensor, context: WindowContext) -> Tensor:
            assert context.pixels.shape[-2:] == tuple(16 * side for side in value.shape[-2:])
            return value + context.trace.attention(1).mean()

    segmenter = with_stages(made(tiny, tiling__stitch="features"), Csa(), Layers())
    with pytest.raises(StackError, match="stitch"):
        segmenter(IMAGE)


def test_context_pixels_are_what_the_encoder_saw(tiny: dict[str, Any]) -> None:
    seen = []

    class Look(Stage):
        def similarity(self, value: Tensor, context: WindowContext) -> Tensor:
            seen.append((context.pixels.shape[-2:], value.shape[-2:], context.padding))
            return value

    segmenter = made(tiny, tiling__window=40, tiling__stride=40, tiling__pad="center")
    segmenter = with_stages(segmenter, Csa(), Look())
    segmenter(IMAGE)
    assert {tuple(pixels) for pixels, _, _ in seen} == {(48, 48)}
    assert {tuple(grid) for _, grid, _ in seen} == {(3, 3)}
    assert {padding for _, _, padding in seen} == {(4, 4, 4, 4)}


def test_windows_under_a_patch_need_padding(tiny: dict[str, Any]) -> None:
    keys = {"tiling__window": 10, "tiling__stride": 10, "tiling__short_side": 20}
    with pytest.raises(ConfigError, match="under a patch of 16"):
        made(tiny, tiling__pad="none", **keys)
    assert made(tiny, tiling__pad="center", **keys)(IMAGE).labels.shape == (70, 100)


def test_a_window_stage_needs_window_pixels(tiny: dict[str, Any], write_model: Callable[..., str]) -> None:
    class Window(Stage):
        def window(self, maps: Tensor, context: WindowContext) -> Tensor:
            return maps

    segmenter = made(tiny, tiling__window=0)
    with pytest.raises(StackError, match="two-step"):
        Segmenter(segmenter.encoder, segmenter.bank, Stack((Window(),)), segmenter.config)


def test_begun_annotations_are_the_same(tiny: dict[str, Any]) -> None:
    segmenter = made(
        tiny, stages=["csa", {"use": "crf", "bilateral_weight": 3.0}], text__vocabulary="classes:cat, dog, sky"
    )
    waiting = [segmenter.begin(IMAGE), segmenter.begin(IMAGE[::-1].copy())]
    for begun, image in zip(waiting, (IMAGE, IMAGE[::-1].copy()), strict=True):
        annotation, expected = begun(), segmenter.annotation(image)
        assert np.array_equal(annotation.labels, expected.labels)
        assert np.array_equal(annotation.confidence, expected.confidence)
        assert np.array_equal(annotation.probabilities, expected.probabilities)


def test_a_trace_is_gone_with_its_last_name(tiny: dict[str, Any]) -> None:
    """Nothing in it points back to it: on a GPU, waiting for the garbage collector would be waiting for memory."""
    segmenter = made(tiny)
    with torch.inference_mode():
        trace = segmenter.encoder.trace(torch.zeros(1, 3, 64, 64))
        trace.attention(1), trace.image()
        edited = trace.edited(trace.tokens(3) + 1)
        gone = [weakref.ref(trace), weakref.ref(edited)]
        gc.disable()
        try:
            del trace, edited
            assert [name() for name in gone] == [None, None]
        finally:
            gc.enable()


@pytest.mark.parametrize("preset", ["plain", "sclip", "clearclip", "maskclip", "naclip", "resclip", "itaclip", "pearl"])
def test_the_fast_way_gives_what_the_literal_one_gives(preset: str, tiny: dict[str, Any]) -> None:
    """Fused attention, all windows enlarged at once, bands of rows, against maps and windows one by one."""
    keys = {key: value for key, value in tiny.items() if preset != "itaclip" or not key.startswith("tiling.stride")}
    segmenter = build(load_config(preset, {**keys, "labels.finish": "image"}), text=bank())
    fast = segmenter(IMAGE)
    literal = Segmenter(segmenter.encoder, bank(), segmenter.stack, segmenter.config, literal=True)(IMAGE)
    np.testing.assert_allclose(fast.probabilities, literal.probabilities, atol=2e-5)
    assert (fast.labels == literal.labels).mean() > 0.999


def test_bands_do_not_show(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for keep in ("none", "top1"):
        keys = {"store__probabilities": keep, "tiling__scales": [1.0, 1.5], "labels__finish": "image"}
        whole = made(tiny, **keys).annotation(IMAGE)
        with monkeypatch.context() as patch:
            patch.setattr("ovlabel.spine.bands.CPU_VALUES", 7 * 3 * 100)  # three rows
            banded = made(tiny, **keys).annotation(IMAGE)
        np.testing.assert_array_equal(banded.labels, whole.labels)
        assert np.abs(banded.confidence.astype(int) - whole.confidence).max() <= 1


@pytest.mark.parametrize("preset", ["sclip", "naclip", "resclip", "itaclip", "scclip", "pearl"])
def test_images_begun_together_do_not_see_each_other(preset: str, tiny: dict[str, Any]) -> None:
    """Their windows of one shape share batches, also where images differ in size."""
    segmenter = build(load_config(preset, {**tiny, "store.probabilities": "top1"}), text=bank())
    images = [IMAGE, IMAGE[::-1].copy(), np.tile(IMAGE, (1, 2, 1)), IMAGE[:64, :64].copy()]
    for call, image in zip(segmenter.begin_all(images), images, strict=True):
        one, alone = call(), segmenter.annotation(image)
        assert (one.labels == alone.labels).mean() > 0.999
        assert np.abs(one.confidence.astype(int) - alone.confidence).mean() < 0.1
