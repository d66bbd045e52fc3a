"""Description files: from a language model's endpoint, from a file of answers; and what the text bank makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovlabel import build, load_config
from ovlabel.errors import ConfigError
from ovlabel.files import read_toml
from ovlabel.text.bank import centred, enriched
from tests.cli.test_cli import Run, ovlabel

__all__ = ["ovlabel"]
WORDS = (
    '[background]\nname = "background"\nqueries = ["sky"]\n[[class]]\nname = "cat"\n[[class]]\nname = "no \\"dog\\""\n'
)


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words.toml"
    path.write_text(WORDS)
    return path


def test_answers_can_be_read_from_a_file(words: Path, tmp_path: Path, ovlabel: Run) -> None:
    answers = tmp_path / "answers.txt"
    answers.write_text('cat: a small cat.\na cat: with fur.\n\nno "dog":\n1. not a dog.\n')
    said = ovlabel("vocab", "describe", words, tmp_path / "said.toml", "--answers", answers)
    assert said.out == f"3 sentences for 2 classes in {tmp_path / 'said.toml'}\n"
    assert read_toml(tmp_path / "said.toml")["cat"] == ["a small cat.", "a cat: with fur."]
    for text, message in (("a sentence.\n", "no class before it"), ("cat: x\n", 'holds nothing for no "dog"')):
        answers.write_text(text)
        assert message in ovlabel("vocab", "describe", words, tmp_path / "x.toml", "--answers", answers).refusal
    assert ovlabel("vocab", "describe", words, tmp_path / "x.toml").code == 2
    bad = ovlabel("vocab", "describe", words, tmp_path / "x.toml", "--endpoint", "ftp://x")
    assert "http://" in bad.refusal


def test_descriptions_knowledge_and_centring_change_the_embeddings(
    tiny: dict[str, Any], words: Path, tmp_path: Path
) -> None:
    (tmp_path / "said.toml").write_text('cat = ["a small furry animal.", "it has whiskers."]\n')
    keys = {**tiny, "text.vocabulary": str(words), "text.merge": "mean", "text.templates": "simple"}
    plain = build(load_config("plain", keys)).bank
    told = build(load_config("plain", {**keys, "text.descriptions": str(tmp_path / "said.toml")})).bank
    assert np.allclose(plain.embeddings[[0, 2]], told.embeddings[[0, 2]], atol=1e-6)
    assert not np.allclose(plain.embeddings[1], told.embeddings[1], atol=1e-3)
    known = {"text.descriptions": str(tmp_path / "said.toml"), "text.knowledge": 2}
    enriched_bank = build(load_config("plain", {**keys, **known})).bank
    assert np.allclose(plain.embeddings[0], enriched_bank.embeddings[0], atol=1e-6)  # the background's words stay
    assert not np.allclose(plain.embeddings[1:], enriched_bank.embeddings[1:], atol=1e-3)
    centre = build(load_config("plain", {**keys, "text.centring": 0.5})).bank
    assert not np.allclose(plain.embeddings, centre.embeddings, atol=1e-3)
    with pytest.raises(ConfigError, match="only 2 descriptions"):
        build(load_config("plain", {**keys, **known, "text.knowledge": 3}))
    with pytest.raises(ConfigError, match=r"text\.knowledge = 3: it must be 0 without text\.descriptions"):
        load_config("plain", {"text.knowledge": 3})


def units(*shape: int) -> np.ndarray:
    vectors = np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_enrichment_equals_a_direct_computation() -> None:
    """With as many clusters as sentences, each is a cluster of its own."""
    embeddings, sentences = units(3, 8), units(12, 8)
    ours = enriched(embeddings, sentences, 12, 0.5)
    for vector, own in zip(embeddings, ours, strict=True):
        alike = sentences @ vector / 0.5
        alike[np.argsort(alike)[:1]] = -np.inf
        weights = np.exp(alike - alike.max())
        expected = vector + weights @ sentences / weights.sum()
        assert np.allclose(own, expected / np.linalg.norm(expected), atol=1e-4)


def test_centring_subtracts_a_fraction_of_the_templates_direction() -> None:
    embeddings, neutral = units(3, 8), units(4, 8)[:3]
    ours = centred(embeddings, neutral, 0.3)
    expected = embeddings - 0.3 * neutral
    assert np.allclose(ours, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
