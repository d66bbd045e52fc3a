"""The authors' own code on a tiny random CLIP: our stages reproduce its numbers (tests/golden/README.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from ovlabel import Segmenter, TextBank, build, load_config
from ovlabel.model.clip import Clip
from ovlabel.types import Box, ImageContext
from tests.conftest import GOLDEN, GOLDEN_PREPROCESS

Arrays = dict[str, np.ndarray]
FEATURES, COSINES, PROPAGATED, PROBABILITIES = 1e-4, 1e-5, 2e-5, 1e-4


def bank_of(arrays: Arrays, queries: int | None = None) -> TextBank:
    """The file's own text features; class 0 takes what is below threshold, as in the references."""
    embeddings = arrays["T"][:queries]
    class_of = arrays.get("query_idx", np.arange(len(embeddings)))[:queries]
    if queries:
        class_of = np.arange(queries)
    classes = tuple(f"class {i}" for i in range(int(class_of.max()) + 1))
    return TextBank(embeddings, class_of, classes, ("thing",) * len(classes), background=0)


def segmenter(model: dict[str, Any], arrays: Arrays, preset: str, queries: int | None = None, **keys: Any) -> Segmenter:
    overrides = {**model, **{key.replace("__", "."): value for key, value in keys.items()}}
    return build(load_config(preset, overrides), text=bank_of(arrays, queries))


def whole_features(made: Segmenter, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All tokens of the whole image in the joint space, [CLS] first; and the cosines q h w."""
    with torch.inference_mode():
        pixels = made.encoder.pixels(torch.from_numpy(image).permute(2, 0, 1))
        part = next(made.features(pixels, (Box(0, 0, *image.shape[:2]),)))
        tokens = torch.cat((part.context.cls[:, :, None], part.maps.flatten(2)), dim=2)[0].T
        cosines = torch.einsum("qe,behw->bqhw", made.queries.vectors, torch.nn.functional.normalize(part.maps, dim=1))[
            0
        ]
    return tokens.numpy(), cosines.numpy()


FEATURE_CASES = [
    ("sclip_feat_224", "features", "sclip", {}),
    ("sclip_feat_224", "features_vanilla", "plain", {}),
    ("sclip_feat_rect", "features", "sclip", {}),
    ("sclip_feat_odd", "features", "sclip", {}),
    ("clear_mask_feat_224", "features_ClearCLIP_reduced", "clearclip", {}),
    ("clear_mask_feat_224", "features_ClearCLIP_residual", "clearclip", {"encoder__last_block": "full"}),
    ("clear_mask_feat_224", "features_MaskCLIP_reduced", "maskclip", {}),
    ("clear_mask_feat_224", "features_MaskCLIP_residual", "maskclip", {"encoder__last_block": "full"}),
    ("clear_mask_feat_224", "features_SCLIP_reduced", "sclip", {"encoder__last_block": "attention"}),
    ("clear_mask_feat_224", "features_SCLIP_residual", "sclip", {}),
    ("clear_mask_feat_224", "features_vanilla_reduced", "plain", {"encoder__last_block": "attention"}),
    ("clear_mask_feat_224", "features_vanilla_residual", "plain", {}),
    ("clear_mask_feat_rect", "features_ClearCLIP_reduced", "clearclip", {}),
    ("clear_mask_feat_rect", "features_MaskCLIP_reduced", "maskclip", {}),
    ("naclip_feat_224", "features_naclip", "naclip", {}),
    ("naclip_feat_224", "features_naclip_std2.5", "naclip", {"neighbours__sigma": 2.5}),
    ("naclip_feat_224", "features_kk_reduced", "naclip", {"stages": [{"use": "kk"}]}),
    ("naclip_feat_224", "features_naclip_vanillaarch", "naclip", {"encoder__last_block": "full"}),
    ("naclip_feat_224", "features_csa_vanillaarch", "sclip", {}),
    ("naclip_feat_rect", "features_naclip", "naclip", {}),
    ("pearl_feat_224", "features_kk0.08", "pearl", {}),
    ("pearl_feat_224", "features_kk0.3", "pearl", {"procrustes__weight": 0.3}),
    ("pearl_feat_224", "features_nokk", "pearl", {"procrustes__weight": 0.0}),
    ("pearl_feat_224", "features_svd", "pearl", {"procrustes__rotation": "exact"}),
    ("pearl_feat_224", "features_plain_reduced", "pearl", {"stages": ["propagate"]}),
    ("pearl_feat_224", "features_residual", "pearl", {"encoder__last_block": "full"}),
    ("pearl_feat_rect", "features_kk0.08", "pearl", {}),
    ("pearl_feat_rect", "features_kk0.3", "pearl", {"procrustes__weight": 0.3}),
    ("pearl_feat_rect", "features_nokk", "pearl", {"procrustes__weight": 0.0}),
    ("pearl_feat_rect", "features_svd", "pearl", {"procrustes__rotation": "exact"}),
]


@pytest.mark.parametrize(("file", "array", "preset", "keys"), FEATURE_CASES)
def test_features(
    file: str,
    array: str,
    preset: str,
    keys: dict[str, Any],
    golden: Callable[[str], Arrays],
    golden_model: dict[str, Any],
) -> None:
    arrays = golden(file)
    made = segmenter(golden_model, arrays, preset, tiling__window=0, **{"tiling__pad": "none", **keys})
    tokens, cosines = whole_features(made, arrays["image"])
    expected = arrays[array]
    assert np.abs(tokens[-len(expected) :] - expected).max() <= FEATURES  # ClearCLIP's arrays leave [CLS] out
    if array == "features" and "cosine" in arrays:
        assert np.abs(cosines - arrays["cosine"]).max() <= COSINES


RESCLIP = {  # threshold; RCS temperature and weight; SFR temperature and weight
    "stuff": (0.11, 2.0, 0.4, 1.8, 0.7),
    "voc20": (0.10, 2.0, 0.6, 2.1, 0.6),
    "thd0.6": (0.60, 2.0, 0.3, 2.2, 0.7),
}
BASES = {
    "resclip": ("kk", "neighbours", "attention"),
    "sclip": ("csa", "", "full"),
    "clearclip": ("qq", "", "attention"),
}


def resclip(base: str, numbers: str, parts: str) -> dict[str, Any]:
    """The stack of an array's name: base attention, parameter set, what is on."""
    threshold, rcs_temperature, rcs_weight, sfr_temperature, sfr_weight = RESCLIP[numbers]
    scores, prior, last_block = BASES[base]
    stages: list[dict[str, Any]] = [{"use": scores}]
    if parts in ("sfr", "both"):
        stages.append({"use": "sfr", "threshold": threshold, "temperature": sfr_temperature, "weight": sfr_weight})
    if prior:
        stages.append({"use": prior})
    if parts in ("rcs", "both"):
        stages.append({"use": "rcs", "temperature": rcs_temperature, "weight": rcs_weight})
    return {"stages": stages, "encoder__last_block": last_block}


def resclip_cases() -> list[tuple[str, str]]:
    names = [
        (file, name) for file in ("resclip_feat_224", "resclip_feat_odd") for name in np.load(GOLDEN / f"{file}.npz")
    ]
    return [(file, name) for file, name in names if name.startswith("features_")]


@pytest.mark.parametrize(("file", "array"), resclip_cases())
def test_resclip_features(file: str, array: str, golden: Callable[[str], Arrays], golden_model: dict[str, Any]) -> None:
    """On three bases, each part alone and together; the authors' rounding to half precision included."""
    arrays = golden(file)
    base, numbers, parts = array.removeprefix("features_").split("_")
    keys = resclip(base, numbers, parts)
    made = segmenter(golden_model, arrays, "resclip", tiling__window=0, **keys)
    tokens, _ = whole_features(made, arrays["image"])
    assert np.abs(tokens - arrays[array]).max() <= FEATURES


@pytest.mark.parametrize("grid", [0, 1])
def test_resclip_affinity(grid: int, golden: Callable[[str], Arrays]) -> None:
    from ovlabel.stages.sfr import affinity, clear_way

    arrays = golden("resclip_sfr_unit")
    labels = torch.from_numpy(arrays[f"grid_{grid}"]).long()[None]
    assert np.array_equal(clear_way(labels)[0].numpy(), arrays[f"validpath_{grid}"])
    for name, sigma, decay in (("std5_decay", 5.0, True), ("std5_nodecay", 5.0, False), ("std2_decay", 2.0, True)):
        ours = affinity(labels, sigma, decay=decay)[0].numpy()
        assert np.abs(ours - arrays[f"shat_{grid}_{name}"]).max() <= 1e-6


def test_resclip_mean_attention(golden: Callable[[str], Arrays], golden_model: dict[str, Any]) -> None:
    arrays = golden("resclip_feat_224")
    made = segmenter(golden_model, arrays, "resclip")
    with torch.inference_mode():
        trace = made.encoder.trace(made.encoder.pixels(torch.from_numpy(arrays["image"]).permute(2, 0, 1))[None])
        mean = sum(trace.attention(layer) for layer in (6, 7, 8, 9)) / 4
    assert np.abs(mean[0].numpy() - arrays["rcs_mean_attention"]).max() <= 1e-5


@pytest.mark.parametrize("file", ["scclip_feat_160", "scclip_feat_224"])
def test_scclip(file: str, golden: Callable[[str], Arrays], golden_model: dict[str, Any]) -> None:
    """Outliers, likeness of the repaired middle layer, features, cosines."""
    from ovlabel.stages.calibrate import Calibrate, outlier_factor

    arrays = golden(file)
    factor = outlier_factor(torch.from_numpy(arrays["lof_input"])[None])
    assert np.abs(factor[0].numpy() - arrays["lof_score"]).max() <= 1e-4
    bad = (factor > torch.quantile(factor, 0.95))[0].nonzero().flatten()
    assert bad.tolist() == sorted(arrays["outlier_idx"].tolist())
    made = segmenter(golden_model, arrays, "scclip", tiling__window=0)
    tokens, cosines = whole_features(made, arrays["image"])
    assert np.abs(tokens[1:] - arrays["features"]).max() <= FEATURES
    assert np.abs(cosines - arrays["cosine"]).max() <= COSINES
    with torch.inference_mode():
        trace = made.encoder.trace(made.encoder.pixels(torch.from_numpy(arrays["image"]).permute(2, 0, 1))[None])
        assert np.abs(Calibrate()._likeness(trace)[0].numpy() - arrays["mid_simi"]).max() <= 1e-5


@pytest.mark.parametrize(
    ("array", "stages"),
    [("features", ["csa", "layer_mean"]), ("features_qkattn", [{"use": "layer_mean", "kind": "plain"}])],
)
def test_itaclip_features(
    array: str, stages: list[Any], golden: Callable[[str], Arrays], golden_model: dict[str, Any]
) -> None:
    arrays = golden("itaclip_feat_224")
    made = segmenter(golden_model, arrays, "itaclip", tiling__window=0, stages=stages)
    tokens, _ = whole_features(made, arrays["image"])
    assert np.abs(tokens - arrays[array]).max() <= FEATURES


def test_itaclip_views(golden: Callable[[str], Arrays], golden_model: dict[str, Any]) -> None:
    from ovlabel.spine.windows import apply_view

    arrays = golden("itaclip_feat_224")
    made = segmenter(golden_model, arrays, "itaclip", tiling__window=0)
    with torch.inference_mode():
        pixels = made.encoder.pixels(torch.from_numpy(arrays["image"]).permute(2, 0, 1))
        grey, blurred = apply_view(pixels[None], "grey")[0], apply_view(pixels[None], "blur")[0]
        assert np.abs(grey[0, ::4, ::4].numpy() - arrays["gray_sub4"]).max() <= 1e-5
        assert np.abs(blurred[:, ::4, ::4].numpy() - arrays["blur_sub4"]).max() <= 1e-5
        for name, share in (("plain", 1.0), ("engineered_0.75", 0.75), ("engineered_0.4", 0.4)):
            weights = [share / 3] * 3 + [(1 - share) / 2] * 2
            keys = {"tiling__view_weights": weights}
            if share == 1:
                keys = {"tiling__views": "identity", "tiling__view_weights": []}
            own = segmenter(golden_model, arrays, "itaclip", tiling__window=0, **keys)
            logits = own.logits([pixels], (224, 224)).numpy()
            assert np.abs(logits[:, ::4, ::4] - arrays[f"logits_{name}_sub4"]).max() <= COSINES


@pytest.mark.parametrize("file", ["pearl_feat_224", "pearl_feat_rect"])
def test_pearl_rotation_and_attention(file: str, golden: Callable[[str], Arrays], golden_model: dict[str, Any]) -> None:
    from ovlabel.ops import scaled_scores
    from ovlabel.stages.procrustes import Procrustes, centred, damped

    arrays = golden(file)
    made = segmenter(golden_model, arrays, "pearl", tiling__window=0)
    with torch.inference_mode():
        pixels = made.encoder.pixels(torch.from_numpy(arrays["image"]).permute(2, 0, 1))
        context = next(made.features(pixels, (Box(0, 0, *arrays["image"].shape[:2]),))).context
        queries, keys, _ = context.trace.qkv(12)
        queries, keys = centred(queries, keys)
        cross = keys.transpose(-2, -1) @ queries
        ((wide, turned),) = Procrustes().pairs(context)
        attention = scaled_scores(wide, turned).softmax(-1)
    assert np.abs(cross[0].numpy() - arrays["cross"]).max() <= 1e-5 * np.abs(arrays["cross"]).max()
    assert np.abs(damped(cross)[0].numpy() - arrays["rotation"]).max() <= 1e-5
    assert np.abs(attention[0, 1, ::4].numpy() - arrays["attention_head1_sub4"]).max() <= 1e-5


@pytest.mark.parametrize("unit", range(4))
def test_pearl_propagation(unit: int, golden: Callable[[str], Arrays], monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust, edges, cells and maps of made-up cosines; unit 2 has blocks of 50 / 20 pixels, unit 3 forty queries."""
    from ovlabel.stages import _cell_graph, propagate

    arrays = {k.replace(f"_{unit}", "", 1): v for k, v in golden("pearl_tlp").items() if f"_{unit}" in k}
    seen: list[tuple[_cell_graph.CellGraph, torch.Tensor]] = []
    solved = _cell_graph.conjugate_gradients

    def watched(graph: _cell_graph.CellGraph, maps: torch.Tensor, steps: int) -> torch.Tensor:
        seen.append((graph, maps))
        return solved(graph, maps, steps)

    def apart(ours: torch.Tensor, name: str) -> float:
        return float(np.abs(ours.numpy() - arrays[name]).max())

    monkeypatch.setattr(propagate, "conjugate_gradients", watched)
    stage, context = propagate.Propagate(grid=int(arrays["grid"])), picture_context(arrays)
    assert apart(stage.logits(torch.from_numpy(arrays["logits"]), context), "out") <= PROPAGATED
    graph, cells = seen[0]
    rows, columns = arrays["step"].tolist()
    assert cells.shape[1:] == (arrays["image"].shape[0] // rows, arrays["image"].shape[1] // columns)
    assert apart(graph.trust, "trust") <= PROPAGATED
    assert np.abs(graph.across.numpy() - arrays["edge_right"][:, 1:]).max() <= PROPAGATED
    assert np.abs(graph.down.numpy() - arrays["edge_down"][1:]).max() <= PROPAGATED
    assert np.abs(propagate.likeness(context.text).diagonal().numpy() - arrays["S"].diagonal()).max() <= PROPAGATED
    assert apart(solved(graph, cells, 25), "small") <= PROPAGATED
    if "small5" in arrays:
        assert apart(solved(graph, cells, 5), "small5") <= PROPAGATED


@pytest.mark.parametrize("unit", range(4))
def test_pearl_propagation_of_cosines_times_forty(unit: int, golden: Callable[[str], Arrays]) -> None:
    from ovlabel.stages.propagate import Propagate

    arrays = {k.replace(f"_{unit}", "", 1): v for k, v in golden("pearl_tlp").items() if f"_{unit}" in k}
    scaled = 40 * torch.from_numpy(arrays["logits"])
    ours = Propagate(grid=int(arrays["grid"])).logits(scaled, picture_context(arrays))[:, ::3, ::3] / 40
    assert np.abs(ours.numpy() - arrays["out_scaled40_sub3"]).max() <= PROPAGATED


def picture_context(arrays: Arrays) -> ImageContext:
    """What a stage reads of a picture that is not resized, in the model's own units."""
    constants = [torch.tensor(GOLDEN_PREPROCESS[name])[:, None, None] for name in ("mean", "std")]
    pixels = (torch.from_numpy(arrays["image"]).permute(2, 0, 1) / 255 - constants[0]) / constants[1]
    names = tuple(f"class {i}" for i in range(len(arrays["text"])))
    bank = TextBank(arrays["text"], np.arange(len(names)), names, ("thing",) * len(names))
    return ImageContext(arrays["image"], pixels, bank, torch.from_numpy(arrays["text"]), 40.0)


PEARL = {
    "slide_tlp": {},
    "slide": {"stages": ["procrustes"]},
    "whole_tlp": {"tiling__window": 0},
    "slide_tlp_thd0.3": {"labels__probability_threshold": 0.3},
    "slide_plain_tlp": {"stages": [{"use": "propagate", "grid": 20}]},
}


@pytest.mark.parametrize("variant", PEARL)
def test_pearl_full_path(variant: str, golden: Callable[[str], Arrays], golden_model: dict[str, Any]) -> None:
    """Labels, cosines behind the propagation, probabilities; the grid of the vectors has 20 cells on a side."""
    arrays = golden("pearl_predict")
    keys: dict[str, Any] = {"stages": ["procrustes", {"use": "propagate", "grid": 20}], **PEARL[variant]}
    made = segmenter(golden_model, arrays, "pearl", **{**SLIDE, **keys})
    labels = arrays[f"label_{variant}"]
    from_resized = made.segment_resized(arrays["resized"], labels.shape)
    assert np.array_equal(from_resized.labels, labels)
    assert np.array_equal(made(arrays["image"]).labels, labels)
    if f"prob_{variant}_sub3" in arrays:
        shares = from_resized.probabilities / from_resized.probabilities.sum(0)
        assert np.abs(shares[:, ::3, ::3] - arrays[f"prob_{variant}_sub3"]).max() <= PROBABILITIES
    image = made.prepare(arrays["image"])
    with torch.inference_mode():
        cosines = made.stack.edit("logits", made.logits(image.scales, labels.shape), image.context)
    limit = COSINES if variant == "slide" else PROPAGATED
    assert np.abs(cosines[:, ::3, ::3].numpy() - arrays[f"logits_{variant}_sub3"]).max() <= limit


CLIPTRASE = ["cliptrase_224", "cliptrase_224_noclusters", "cliptrase_224_voc20", "cliptrase_336_bg"]


@pytest.mark.parametrize("file", CLIPTRASE)
def test_cliptrase(file: str, golden: Callable[[str], Arrays], golden_model_exact: dict[str, Any]) -> None:
    """Features, correlations, clusters, regions, and the labels after the vote, on the authors' own crop."""
    from ovlabel.stages.cliptrase import cluster, correlations, denoised, region_map

    arrays = golden(file)
    size, radius, neighbours, classes, background, scale = arrays["hp"].tolist()
    stage = {"use": "cliptrase", "radius": radius, "neighbours": int(neighbours), "presence": file.endswith("voc20")}
    keys = {"stages": [stage], "encoder.last_block": "full", "tiling.window": 0, "tiling.short_side": int(size)}
    class_of = np.minimum(np.arange(9), int(classes)) if background else np.arange(9)
    names = tuple(f"class {i}" for i in range(class_of.max() + 1))
    bank = TextBank(arrays["T"], class_of, names, ("thing",) * len(names))
    config = load_config("plain", {**golden_model_exact, **keys, "tiling.pad": "none", "text.logit_scale": scale})
    made = build(config, text=bank)
    tokens, cosines = whole_features(made, arrays["crop"])
    assert np.abs(tokens - arrays["features"]).max() <= FEATURES
    with torch.inference_mode():
        trace = made.encoder.trace(made.encoder.pixels(torch.from_numpy(arrays["crop"]).permute(2, 0, 1))[None])
        rows = denoised(correlations(trace))[0]
        if "W" in arrays:
            assert np.abs(correlations(trace)[0].numpy() - arrays["W"]).max() <= 1e-5
        assert np.abs(rows.numpy() - arrays["W_denoised"]).max() <= 1e-5
        assert np.array_equal(cluster(rows, radius, int(neighbours)).numpy(), arrays["dbscan"])
        regions = region_map(rows, radius, int(neighbours), trace.grid, arrays["labels"].shape)
        assert (regions is None) == ("region_map" not in arrays)
        if regions is not None:
            assert np.array_equal(regions.numpy(), arrays["region_map"])
        maps = torch.from_numpy(cosines)[None]
        up = torch.nn.functional.interpolate(maps, arrays["labels"].shape, mode="bilinear")[0]
    assert np.abs(scale * up[:, ::4, ::4].numpy() - arrays["logits_sub4"]).max() <= 100 * COSINES
    assert np.array_equal(made(arrays["crop"]).labels, arrays["labels"])


def test_csa_attention_rows_sum_to_two(golden: Callable[[str], Arrays], golden_model: dict[str, Any]) -> None:
    arrays = golden("sclip_feat_224")
    made = segmenter(golden_model, arrays, "sclip")
    with torch.inference_mode():
        trace = made.encoder.trace(made.encoder.pixels(torch.from_numpy(arrays["image"]).permute(2, 0, 1))[None])
        queries, keys, _ = trace.qkv(12)
        sums = [(x @ x.transpose(-2, -1) / 8).softmax(-1) for x in (queries, keys)]
    ours = (sums[0] + sums[1])[0, 0].numpy()
    assert np.abs(ours - arrays["csa_attention_head0"]).max() <= 1e-5


def test_naclip_prior_and_attention(golden: Callable[[str], Arrays], golden_model: dict[str, Any]) -> None:
    from ovlabel.stages.neighbours import prior

    arrays, wide = golden("naclip_feat_224"), golden("naclip_feat_rect")
    assert np.abs(prior((14, 14), 5.0).numpy() - arrays["omega"]).max() <= 1e-6
    assert np.abs(prior((21, 28), 5.0).numpy()[100] - wide["omega_row100"]).max() <= 1e-6


def test_the_trap_grid_is_resampled_where_the_references_misread_the_table(
    golden: Callable[[str], Arrays], golden_model: dict[str, Any]
) -> None:
    """7 × 28 patches are as many as 14 × 14: the references then take the table in the wrong order, row by row."""
    arrays = golden("sclip_feat_trap")
    made = segmenter(golden_model, arrays, "sclip")
    tokens, _ = whole_features(made, arrays["image"])
    assert np.abs(tokens - arrays["features"]).max() > 0.5

    encoder = made.encoder
    assert isinstance(encoder, Clip)
    table = encoder.positions((14, 14))
    encoder.positions = lambda grid: table  # type: ignore[method-assign]
    misread, _ = whole_features(made, arrays["image"])
    assert np.abs(misread - arrays["features"]).max() <= FEATURES


SLIDE = {"tiling__short_side": 240, "tiling__window": 224, "tiling__stride": 112}
NACLIP_ALONE = [{"use": "kk"}, {"use": "neighbours"}]
LABEL_CASES = [
    ("sclip_predict", "base", "sclip", {}),
    ("sclip_predict", "thd0.3", "sclip", {"labels__probability_threshold": 0.3}),
    ("sclip_predict", "thd0.5", "sclip", {"labels__probability_threshold": 0.5}),
    ("sclip_predict", "area0.1", "sclip", {"labels__area_threshold": 0.1}),
    (
        "sclip_predict",
        "area0.2_thd0.4",
        "sclip",
        {"labels__area_threshold": 0.2, "labels__probability_threshold": 0.4},
    ),
    ("sclip_predict", "scale20", "sclip", {"text__logit_scale": 20.0}),
    ("sclip_predict", "whole_crop0", "sclip", {"tiling__window": 0}),
    ("sclip_predict", "noalias", "sclip", {"queries": 6}),
    ("clear_mask_predict", "slide", "clearclip", {}),
    (
        "clear_mask_predict",
        "bigcrop448_thd0.5",
        "clearclip",
        {"tiling__window": 448, "labels__probability_threshold": 0.5},
    ),
    ("clear_mask_predict", "maskclip_slide", "maskclip", {}),
    ("naclip_predict", "slide", "naclip", {"stages": NACLIP_ALONE}),
    ("naclip_predict", "slide_pamr10", "naclip", {}),
    ("naclip_predict", "whole", "naclip", {"tiling__window": 0, "stages": NACLIP_ALONE}),
    (
        "naclip_predict",
        "whole_pamr10_thd0.3",
        "naclip",
        {"tiling__window": 0, "labels__probability_threshold": 0.3},
    ),
    ("resclip_predict", "slide_stuff", "resclip", {}),
    (
        "resclip_predict",
        "whole_voc20_thd0.3",
        "resclip",
        {"tiling__window": 0, "labels__probability_threshold": 0.3, **resclip("resclip", "voc20", "both")},
    ),
    ("resclip_predict", "slide_stuff_sclipbase", "resclip", resclip("sclip", "stuff", "both")),
    ("scclip_predict", "slide", "scclip", {}),
    (
        "scclip_predict",
        "slide_thd0.35_area0.1",
        "scclip",
        {"labels__probability_threshold": 0.35, "labels__area_threshold": 0.1},
    ),
    ("itaclip_predict", "slide_eng", "itaclip", {"stages": ["csa", "layer_mean", "closing"]}),
    ("itaclip_predict", "slide_eng_pamr10_chunk", "itaclip", {"labels__probability_threshold": 0.3}),
    ("sclip_predict", "pamr10", "sclip", {"stages": [{"use": "csa"}, {"use": "pamr"}]}),
    ("whole_odd", "SCLIP", "sclip", {"tiling__short_side": 250, "tiling__window": 0}),
    (
        "whole_odd",
        "NACLIP",
        "naclip",
        {"tiling__short_side": 250, "tiling__window": 0, "stages": NACLIP_ALONE},
    ),
]


@pytest.fixture
def two_threads() -> Iterator[None]:
    """PAMR multiplies the rounding of its sums, which depends on the threads: the vectors come from several."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("file", "variant", "preset", "keys"), LABEL_CASES)
def test_full_path(
    file: str,
    variant: str,
    preset: str,
    keys: dict[str, Any],
    golden: Callable[[str], Arrays],
    golden_model: dict[str, Any],
) -> None:
    arrays = golden(file)
    made = segmenter(golden_model, arrays, preset, **{**SLIDE, **keys})
    labels = arrays[f"label_{variant}"]
    from_resized = made.segment_resized(arrays["resized"], labels.shape)
    assert np.array_equal(from_resized.labels, labels)
    assert np.array_equal(made(arrays["image"]).labels, labels)  # our resize is OpenCV's, bit for bit
    for name, step in ((f"prob_{variant}", 1), (f"prob_{variant}_sub3", 3)):
        if name in arrays:
            ours = from_resized.probabilities[:, ::step, ::step]
            divided = preset in ("naclip", "resclip")  # these hand out probabilities divided by their sum
            total = ours.sum(0) if divided else 1.0
            assert np.abs(ours / total - arrays[name]).max() <= PROBABILITIES


@pytest.mark.parametrize(
    ("file", "array", "preset", "step", "keys"),
    [
        ("sclip_predict", "logits_ori_sub3", "sclip", 3, SLIDE),
        ("sclip_predict", "logits_whole_crop0_sub3", "sclip", 3, {**SLIDE, "tiling__window": 0}),
        ("clear_mask_predict", "logits_slide_sub3", "clearclip", 3, SLIDE),
        ("naclip_predict", "logits_slide_sub3", "naclip", 3, SLIDE),
        ("whole_odd", "logits_SCLIP_sub2", "sclip", 2, {"tiling__window": 0}),
        ("whole_odd", "logits_NACLIP_sub2", "naclip", 2, {"tiling__window": 0}),
    ],
)
def test_cosines_at_image_size(
    file: str,
    array: str,
    preset: str,
    step: int,
    keys: dict[str, Any],
    golden: Callable[[str], Arrays],
    golden_model: dict[str, Any],
) -> None:
    arrays = golden(file)
    made = segmenter(golden_model, arrays, preset, **keys)
    with torch.inference_mode():
        pixels = made.encoder.pixels(torch.from_numpy(arrays["resized"]).permute(2, 0, 1))
        logits = made.logits([pixels], arrays["image"].shape[:2]).numpy()
    assert np.abs(logits[:, ::step, ::step] - arrays[array]).max() <= COSINES


def test_the_two_enlargements_of_a_whole_image_differ(
    golden: Callable[[str], Arrays], golden_model: dict[str, Any]
) -> None:
    """`whole_odd` tells one step (SCLIP) from two (NACLIP); a mix-up must not pass."""
    arrays = golden("whole_odd")
    made = segmenter(golden_model, arrays, "sclip", tiling__window=0, tiling__enlarge="two-step")
    with torch.inference_mode():
        pixels = made.encoder.pixels(torch.from_numpy(arrays["resized"]).permute(2, 0, 1))
        logits = made.logits([pixels], (137, 190)).numpy()
    assert np.abs(logits[:, ::2, ::2] - arrays["logits_SCLIP_sub2"]).max() > 1e-3
