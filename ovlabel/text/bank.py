"""Vocabulary × templates → `TextBank`: the text tower run once, its answer kept on disk."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from ovlabel.errors import ConfigError
from ovlabel.files import cache_dir, read_up_to, write_atomic
from ovlabel.ops import normalise
from ovlabel.settings.keys import TextConfig
from ovlabel.text.prompts import Prompts, Query, join_prompts
from ovlabel.text.vocabulary import Vocabulary
from ovlabel.types import TextBank, TextEncoder

_BATCH = 256
_REPORT_SECONDS = 15
_HEADER = 4096  # bytes of a .npy file's
_NEUTRAL = ("object", "thing", "area", "surface", "something")
_RULE = "normalise each, mean, normalise"
log = logging.getLogger("ovlabel")


def text_bank(config: TextConfig, clip: TextEncoder, prompts: Prompts | None = None) -> TextBank:
    """The text bank of a run.

    Args:
        config: the section `text` of the run's settings.
        clip: the encoder whose text tower is used.
        prompts: the content of the files that `config` names; read here where it is not handed over.

    Raises:
        ConfigError: a file that can't be read, more clusters than descriptions.
    """
    prompts = prompts or Prompts.read(config)
    queries = prompts.queries
    embeddings = _cached(queries, clip)
    if config.centring:
        embeddings = centred(embeddings, _neutral(queries, clip), config.centring)
    if prompts.sentences:
        known = _cached(prompts.sentences, clip)
        own = [query.class_index != prompts.vocabulary.background for query in queries]
        embeddings[own] = enriched(embeddings[own], known, config.knowledge, config.knowledge_temperature)
    return bank_of(prompts.vocabulary, queries, embeddings, config.merge)


def bank_of(
    vocabulary: Vocabulary, queries: list[Query], embeddings: npt.NDArray[np.float32], merge: Any = "max"
) -> TextBank:
    """A bank from embeddings (q, e) of the vocabulary's queries."""
    own = [entry.threshold for entry in vocabulary.classes]
    return TextBank(
        embeddings=embeddings,
        class_of=np.array([query.class_index for query in queries]),
        classes=tuple(entry.name for entry in vocabulary.classes),
        kinds=tuple(entry.kind for entry in vocabulary.classes),
        groups=tuple(entry.group for entry in vocabulary.classes),
        thresholds=np.array([t or 0.0 for t in own], np.float32) if any(own) else None,
        background=vocabulary.background,
        merge=merge,
    )


def _neutral(queries: list[Query], clip: TextEncoder) -> npt.NDArray[np.float32]:
    """What each query's templates say of no class in particular: unit vectors (q, e), 0 where it has no templates."""
    sets = list(dict.fromkeys(query.templates for query in queries if query.templates))
    prompts = [tuple(t.replace("{}", word) for word in _NEUTRAL for t in templates) for templates in sets]
    known = _cached([Query(0, "", sentences) for sentences in prompts], clip)
    rows = dict(zip(sets, known, strict=True))
    nothing = np.zeros(known.shape[1], np.float32)
    return np.stack([rows.get(query.templates, nothing) for query in queries])


def centred(
    embeddings: npt.NDArray[np.float32], neutral: npt.NDArray[np.float32], share: float
) -> npt.NDArray[np.float32]:
    """Unit vectors (q, e) less a share of their templates' own direction, unit vectors again.

    Classes that are asked with other templates otherwise lie at another height, whatever the image shows.
    """
    moved = embeddings - share * neutral
    unit: npt.NDArray[np.float32] = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    return unit


def enriched(
    embeddings: npt.NDArray[np.float32], sentences: npt.NDArray[np.float32], clusters: int, temperature: float
) -> npt.NDArray[np.float32]:
    """ExCEL's text semantic enrichment: each vector plus a mean of the clusters of all descriptions, by likeness.

    k-means of the sentences (n, e) gives the clusters, which are not normalised; the least alike tenth has no part.
    Without a temperature (1.0, as published) the mean is nearly the same for every class.
    (Yang et al.: ExCEL, CVPR 2025, arXiv 2503.20826, sec. 3.2.)

    Raises:
        ConfigError: more clusters than sentences.
    """
    if clusters > len(sentences):
        raise ConfigError(f"text.knowledge = {clusters}: there are only {len(sentences)} descriptions")
    centroids, _ = kmeans2(sentences.astype(np.float64), clusters, iter=50, minit="++", rng=np.random.default_rng(0))
    alike = embeddings @ centroids.T / temperature
    last = np.sort(alike, axis=1)[:, clusters // 10, None]
    weights = np.where(alike < last, 0.0, np.exp(alike - alike.max(1, keepdims=True)))
    added = embeddings + weights / weights.sum(1, keepdims=True) @ centroids
    unit: npt.NDArray[np.float32] = (added / np.linalg.norm(added, axis=1, keepdims=True)).astype(np.float32)
    return unit


def ensemble(encoded: Tensor) -> Tensor:
    """One query's prompt embeddings, p e → e: normalise each, mean, normalise (the SCLIP family's rule)."""
    return normalise(normalise(encoded, -1).mean(0), -1)


def _cached(queries: list[Query], clip: TextEncoder) -> npt.NDArray[np.float32]:
    """Embeddings from the cache, whose key is all that they depend on; else encoded and kept."""
    identity = clip.identity
    depends = [identity.weights, identity.model, [q.prompts for q in queries], _RULE, str(clip.dtype == torch.float64)]
    key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()
    path = cache_dir() / "text" / f"{key}.npy"
    kept = _read_kept(path, (len(queries), int(identity.model["embed_dim"])))
    if kept is not None:
        return kept
    embeddings = encode(queries, clip)
    buffer = io.BytesIO()
    np.save(buffer, embeddings)
    if not write_atomic(path, buffer.getvalue()):
        log.warning("the embeddings can't be kept in %s: the next run encodes them again", path.parent)
    return embeddings


def _read_kept(path: Path, shape: tuple[int, int]) -> npt.NDArray[np.float32] | None:
    """Unit vectors from a cache file, or None for a file that is missing or damaged in whatever way."""
    try:
        data = read_up_to(path, 4 * shape[0] * shape[1] + _HEADER)
        kept = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
        if kept.dtype != np.float32 or kept.shape != shape:
            raise ValueError("not what was kept")
        if not (np.abs(np.linalg.norm(kept, axis=1) - 1) < 1e-3).all():
            raise ValueError("no unit vectors")
        return kept
    except Exception as error:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            log.info("%s is damaged and made anew (%s)", path, type(error).__name__)
    return None


def encode(queries: list[Query], clip: TextEncoder) -> npt.NDArray[np.float32]:
    """Unit vectors of the queries, float32 (q, e). Prompts that repeat are encoded once, short ones together."""
    prompts = join_prompts(queries)
    log.info("encoding %d prompts of %d queries, once", len(prompts), len(queries))
    tokens = clip.tokenise(prompts)
    order = tokens.argmax(-1).argsort(stable=True)
    encoded: dict[str, Tensor] = {}
    reported = time.monotonic()
    with torch.inference_mode():
        for start in range(0, len(order), _BATCH):
            if time.monotonic() - reported > _REPORT_SECONDS:
                reported = time.monotonic()
                log.info("encoded %d of %d prompts", start, len(prompts))
            rows = order[start : start + _BATCH]
            for row, vector in zip(rows.tolist(), clip.encode_text(tokens[rows]).cpu(), strict=True):
                encoded[prompts[row]] = vector
        bank = [ensemble(torch.stack([encoded[p] for p in query.prompts])) for query in queries]
        return torch.stack(bank).float().numpy()
