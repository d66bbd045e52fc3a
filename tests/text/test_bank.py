"""From a vocabulary to one unit vector a query: the text tower, the ensemble, the cache, the bank."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import torch
from open_clip.model import CLIP
from open_clip.transformer import Transformer
from safetensors.torch import load_file, save_file

from ovlabel.errors import ConfigError
from ovlabel.model.clip import Clip
from ovlabel.model.load import load_clip
from ovlabel.settings.keys import EncoderConfig, TextConfig
from ovlabel.text.bank import ensemble, text_bank
from ovlabel.types import TextBank
from tests.conftest import GOLDEN_MODEL, TINY_MODEL

Golden = Callable[[str], dict[str, np.ndarray]]


@pytest.fixture
def golden_clip(golden_model: dict[str, Any]) -> Clip:
    return load_clip(EncoderConfig(model=golden_model["encoder.model"], weights=golden_model["encoder.weights"]))


@pytest.fixture
def reference() -> CLIP:
    """A tiny model of open_clip's own making."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return CLIP(**TINY_MODEL).eval()


@pytest.fixture
def weights(reference: CLIP, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in reference.state_dict().items()}, path)
    return path


@pytest.fixture
def load(write_model: Callable[..., str], weights: Path) -> Callable[..., Clip]:
    def load(path: Path | str = weights) -> Clip:
        return load_clip(EncoderConfig(model=write_model(TINY_MODEL), weights=str(path)))

    return load


@pytest.fixture
def tower(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every run of a transformer: the number of tokens of each text."""
    runs: list[int] = []
    forward = Transformer.forward

    def counted(self: Transformer, x: torch.Tensor, *args: Any, **more: Any) -> Any:
        runs.append(x.shape[1])
        return forward(self, x, *args, **more)

    monkeypatch.setattr(Transformer, "forward", counted)
    return runs


def kept_files() -> list[Path]:
    return sorted((Path(os.environ["OVLABEL_CACHE"]) / "text").glob("*.npy"))


def unit(vectors: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


SIMPLE = TextConfig(vocabulary="classes:cat, hot dog, grass", templates="simple")


# The tower


def test_the_text_tower_gives_the_golden_vectors(golden_clip: Clip, golden: Golden) -> None:
    text = golden("text")
    encoded = golden_clip.encode_text(torch.from_numpy(text["tokens"]).flatten(0, 1))
    assert np.abs(encoded.numpy() - text["text_raw"].reshape(encoded.shape)).max() <= 1e-4


def test_ensembles_of_the_tower_are_the_golden_ones(golden_clip: Clip, golden: Golden) -> None:
    text = golden("text")
    found = [ensemble(golden_clip.encode_text(tokens)).numpy() for tokens in torch.from_numpy(text["tokens"])]
    assert np.abs(np.stack(found) - text["text_ensemble"]).max() <= 1e-5


def test_cutting_off_unused_context_leaves_embeddings_equal(
    golden_model: dict[str, Any], golden: Golden, tower: list[int]
) -> None:
    path = golden_model["encoder.weights"]
    clip = load_clip(EncoderConfig(model=golden_model["encoder.model"], weights=path, precision="fp64"))
    model = CLIP(**GOLDEN_MODEL).eval().double()
    model.load_state_dict(load_file(path))
    tokens = torch.from_numpy(golden("text")["tokens"]).flatten(0, 1)
    with torch.inference_mode():
        whole = model.encode_text(tokens)
        cut = clip.encode_text(tokens)
    assert tower[0] == 77
    assert tower[1] == int(tokens.argmax(-1).max()) + 1 < 77
    assert torch.allclose(cut, whole, rtol=0, atol=1e-12)


def test_a_text_that_fills_the_context_is_encoded_whole(reference: CLIP, load: Callable[..., Clip]) -> None:
    texts = ["cat " * 200, "cat", ""]
    tokens = open_clip.SimpleTokenizer()(texts)
    assert int(tokens[0].argmax()) == 76
    with torch.inference_mode():
        assert torch.allclose(load().encode_text(tokens), reference.encode_text(tokens), rtol=0, atol=1e-6)


def test_a_model_with_another_tokeniser_needs_a_text_bank(golden_clip: Clip) -> None:
    with pytest.raises(ConfigError, match="hand a TextBank to build"):
        text_bank(SIMPLE, golden_clip)


# The ensemble


def test_prompts_are_normalised_averaged_and_normalised() -> None:
    random = np.random.default_rng(0)
    lengths = np.array([[0.01], [1.0], [3.0], [500.0]])
    vectors = unit(random.normal(size=(4, 16))) * lengths
    found = ensemble(torch.from_numpy(vectors)).numpy()
    assert np.allclose(found, unit(unit(vectors).mean(0)), rtol=0, atol=1e-12)
    assert not np.allclose(found, unit(vectors.mean(0)), rtol=0, atol=0.1)  # the longest would win


def test_a_bank_equals_encoding_every_prompt_with_the_whole_model(reference: CLIP, load: Callable[..., Clip]) -> None:
    words = [f"{'very ' * (index % 7)}large thing number {index}" for index in range(300)]  # more than one batch
    bank = text_bank(TextConfig(vocabulary=f"classes:{', '.join(words)}", templates="top3"), load())
    templates = ("a photo of a {}.", "a {} in the scene.", "the {}.")
    tokeniser = open_clip.SimpleTokenizer()
    for index in (0, 1, 6, 150, 299):
        with torch.inference_mode():
            encoded = reference.encode_text(tokeniser([t.replace("{}", words[index]) for t in templates]))
        assert np.allclose(bank.embeddings[index], unit(unit(encoded.numpy()).mean(0)), rtol=0, atol=1e-6)


# The cache


def test_cached_embeddings_are_used_the_second_time(load: Callable[..., Clip], tower: list[int]) -> None:
    first = text_bank(SIMPLE, load())
    assert tower
    tower.clear()
    second = text_bank(SIMPLE, load())
    assert not tower
    assert np.array_equal(first.embeddings, second.embeddings)


def test_the_same_weights_in_another_file_share_the_cache(
    load: Callable[..., Clip], weights: Path, tower: list[int]
) -> None:
    text_bank(SIMPLE, load())
    tower.clear()
    text_bank(SIMPLE, load(shutil.copy(weights, weights.with_name("copy.safetensors"))))
    assert not tower


@pytest.mark.parametrize(
    "other",
    [
        TextConfig(vocabulary=SIMPLE.vocabulary, templates="top3"),
        TextConfig(vocabulary="classes:cat, hot dog, tree", templates="simple"),
        TextConfig(vocabulary="classes:hot dog, cat, grass", templates="simple"),
    ],
)
def test_other_templates_and_vocabularies_do_not_share_the_cache(load: Callable[..., Clip], other: TextConfig) -> None:
    clip = load()
    first = text_bank(SIMPLE, clip).embeddings
    kept = text_bank(other, clip).embeddings
    shutil.rmtree(os.environ["OVLABEL_CACHE"])
    assert np.array_equal(kept, text_bank(other, clip).embeddings)  # as with an empty cache
    assert not np.array_equal(kept, first)


def test_a_changed_weights_file_does_not_share_the_cache(
    load: Callable[..., Clip], weights: Path, reference: CLIP
) -> None:
    first = text_bank(SIMPLE, load()).embeddings
    with torch.no_grad():
        reference.text_projection.mul_(-1)
    save_file({name: tensor.contiguous() for name, tensor in reference.state_dict().items()}, weights)
    assert np.allclose(text_bank(SIMPLE, load()).embeddings, -first, rtol=0, atol=1e-6)


def test_random_weights_of_two_seeds_do_not_share_the_cache(load: Callable[..., Clip]) -> None:
    zero = text_bank(SIMPLE, load("random:0")).embeddings
    one = text_bank(SIMPLE, load("random:1")).embeddings
    assert not np.allclose(zero, one, atol=0.1)


def npy(array: npt.NDArray[Any]) -> Callable[[Path], None]:
    return lambda path: np.save(path, array)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no array"),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        npy(np.zeros((3, 31), np.float32)),
        npy(np.zeros((3, 32), np.float64)),
        npy(np.array([{"a": 1}], dtype=object)),
    ],
    ids=["empty", "text", "truncated", "shape", "type", "pickle"],
)
def test_a_damaged_cache_file_is_ignored_and_replaced(
    load: Callable[..., Clip], damage: Callable[[Path], None], tower: list[int]
) -> None:
    clip = load()
    first = text_bank(SIMPLE, clip).embeddings
    (path,) = kept_files()
    damage(path)
    assert np.array_equal(text_bank(SIMPLE, clip).embeddings, first)
    tower.clear()
    assert np.array_equal(text_bank(SIMPLE, clip).embeddings, first)
    assert not tower


def test_a_cache_that_cannot_be_written_is_no_error(
    load: Callable[..., Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = load()
    first = text_bank(SIMPLE, clip).embeddings
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("OVLABEL_CACHE", str(tmp_path / "file"))
    assert np.array_equal(text_bank(SIMPLE, clip).embeddings, first)


# The bank


def test_a_bank_has_the_kinds_groups_and_thresholds_of_its_vocabulary(
    load: Callable[..., Clip], tmp_path: Path
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        '[background]\nname = "rest"\nqueries = ["sky", "sea"]\ngroup = "far"\n'
        '[[class]]\nname = "cat"\ngroup = "pet"\nthreshold = 0.25\nsynonyms = ["kitten"]\n'
        '[[class]]\nname = "brick"\nkind = "material"\n'
    )
    bank = text_bank(TextConfig(vocabulary=str(path), templates="simple", merge="logsumexp"), load())
    assert bank.classes == ("rest", "cat", "brick")
    assert bank.kinds == ("stuff", "thing", "material")
    assert bank.groups == ("far", "pet", "")
    assert bank.thresholds is not None
    assert bank.thresholds.tolist() == [0, 0.25, 0]
    assert bank.background == 0
    assert bank.class_of.tolist() == [0, 0, 1, 1, 2]
    assert bank.merge == "logsumexp"
    assert bank.embeddings.dtype == np.float32
    assert np.allclose(np.linalg.norm(bank.embeddings, axis=1), 1, atol=1e-6)


def test_a_vocabulary_without_thresholds_or_background_has_none(load: Callable[..., Clip]) -> None:
    bank = text_bank(SIMPLE, load())
    assert bank.thresholds is None
    assert bank.background is None
    assert bank.merge == "max"


def bank_with(**changes: Any) -> TextBank:
    fields: dict[str, Any] = {
        "embeddings": np.eye(3, 4, dtype=np.float32),
        "class_of": np.array([0, 1, 1]),
        "classes": ("a", "b"),
        "kinds": ("thing", "stuff"),
    }
    return TextBank(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embeddings": np.ones(3)}, r"embeddings \(q, e\) and integers class_of \(q,\), not \(3,\) and int64 \(3,\)"),
        ({"embeddings": np.eye(2, 4)}, r"not \(2, 4\) and int64 \(3,\)"),
        ({"class_of": np.array([[0], [1], [1]])}, r"not \(3, 4\) and int64 \(3, 1\)"),
        ({"class_of": np.array([0, 0, 0])}, r"2 classes needs a query and a kind for each"),
        ({"class_of": np.array([0, 1, 2])}, r"2 classes needs a query"),
        ({"class_of": np.array([-1, 0, 1])}, r"2 classes needs a query"),
        ({"kinds": ("thing",)}, r"needs a query and a kind for each"),
        ({"background": 2}, r"background 2 is not one of 2 classes"),
        ({"background": -1}, r"background -1 is not one of 2 classes"),
        ({"class_of": np.array([0.0, 0.6, 1.0])}, r"integers class_of"),
        ({"embeddings": np.eye(3, 4) * np.nan}, r"finite and not zero"),
        ({"embeddings": np.zeros((3, 4))}, r"finite and not zero"),
        ({"groups": ("one",)}, r"2 classes can't have 1 groups"),
        ({"thresholds": np.zeros(3)}, r"2 classes can't have 3 thresholds"),
        ({"merge": "median"}, r"unknown merge 'median'"),
    ],
)
def test_a_bank_of_inconsistent_parts_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bank_with(**changes)


def test_a_bank_takes_lists_and_float64() -> None:
    bank = bank_with(embeddings=np.eye(3, 4), class_of=[0, 1, 1], classes=["a", "b"], kinds=["thing", "stuff"])
    assert bank.embeddings.dtype == np.float32
    assert bank.class_of.dtype == np.int64
    assert bank.classes == ("a", "b")


def test_merging_by_mean_makes_one_unit_vector_a_class() -> None:
    random = np.random.default_rng(1)
    embeddings = unit(random.normal(size=(6, 8))).astype(np.float32)
    class_of = np.array([1, 0, 1, 2, 1, 0])
    bank = TextBank(
        embeddings,
        class_of,
        ("a", "b", "c"),
        ("thing", "stuff", "material"),
        ("x", "y", "z"),
        np.array([0, 0.5, 0.25]),
        1,
        "mean",
    ).merged()
    wanted = np.stack([unit(embeddings[class_of == index].astype(np.float64).mean(0)) for index in range(3)])
    assert np.allclose(bank.embeddings, wanted, rtol=0, atol=1e-6)
    assert bank.class_of.tolist() == [0, 1, 2]
    assert (bank.classes, bank.kinds, bank.groups) == (
        ("a", "b", "c"),
        ("thing", "stuff", "material"),
        ("x", "y", "z"),
    )
    assert bank.thresholds is not None
    assert bank.thresholds.tolist() == [0, 0.5, 0.25]
    assert bank.background == 1


@pytest.mark.parametrize("merge", ["max", "logsumexp"])
def test_other_merges_keep_every_query(merge: str) -> None:
    bank = bank_with(merge=merge)
    assert bank.merged() is bank
