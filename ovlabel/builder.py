"""Config → Segmenter, and what a run must remember of itself."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from typing import Any

from ovlabel.cache import file_sha256
from ovlabel.clip import load_clip
from ovlabel.config import Config
from ovlabel.errors import ConfigError, WeightsError
from ovlabel.segmenter import Segmenter
from ovlabel.stack import Stack, make_stage, name_of
from ovlabel.text import text_bank
from ovlabel.types import TextBank
from ovlabel.vocabulary import load_descriptions, load_templates, load_vocabulary, make_queries

log = logging.getLogger("ovlabel")


def build(config: Config, *, text: TextBank | None = None, offline: bool = False) -> Segmenter:
    """The segmenter of a run.

    Args:
        config: from `load_config`. text: a bank of one's own, in place of `text.vocabulary`, `templates` and `merge`.
        offline: open no connection for weights.

    Raises:
        ConfigError, StackError: names or values that do not exist, stages in a meaningless order.
        WeightsError: weights that can't be had or do not fit.
    """
    stack = _stack(config, offline)
    clip = load_clip(config.encoder, offline=offline)
    bank = text_bank(config.text, clip) if text is None else text
    width = int(clip.identity.model["embed_dim"])
    if bank.embeddings.shape[1] != width:
        raise ConfigError(f"the text bank has {bank.embeddings.shape[1]} dimensions, the encoder {width}")
    return Segmenter(clip, bank, stack, config)


def _stack(config: Config, offline: bool) -> Stack:
    """The stages, their checkpoints at hand; one with `optional = true` whose checkpoint can't be had is left out."""
    stages = []
    for entry in config.stages:
        stage = make_stage(entry)
        if hasattr(stage, "prepare"):
            try:
                stage.prepare(offline=offline)
            except WeightsError as error:
                if not entry.optional:
                    raise
                log.info("the stage '%s' is left out: %s", entry.use, error)
                continue
        stages.append(stage)
    return Stack(tuple(stages))


def resolved(config: Config, segmenter: Segmenter, *, own_text: bool = False) -> dict[str, Any]:
    """All that changes the results of a run, as plain JSON values; two runs with equal dicts are the same run."""
    values = config.to_dict()
    identity = segmenter.clip.identity
    encoder = values["encoder"]
    encoder.pop("device")
    encoder["precision"] = segmenter.clip.precision
    encoder.update(model=identity.model, weights=identity.weights, mean=list(identity.mean), std=list(identity.std))
    text = values["text"]
    if own_text:
        bank = segmenter.bank
        asked = [bank.embeddings.tobytes().hex(), bank.class_of.tolist(), bank.kinds, bank.groups]
        names, background, thresholds = bank.classes, bank.background, bank.thresholds
        text["merge"] = bank.merge
        least = None if thresholds is None else thresholds.tolist()
    else:
        vocabulary = load_vocabulary(config.text.vocabulary)
        said = load_descriptions(config.text.descriptions, vocabulary)
        queries = make_queries(vocabulary, load_templates(config.text.templates), said)
        asked = [[query.class_index, query.prompts] for query in queries]
        names, background = tuple(entry.name for entry in vocabulary.classes), vocabulary.background
        least = [entry.threshold for entry in vocabulary.classes]
    text["vocabulary"] = {"classes": list(names), "background": background, "thresholds": least}
    del text["templates"], text["descriptions"]  # what is asked counts, not the name of the file that words it
    text["prompts"] = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    values["stages"] = [_described(stage) for stage in segmenter.stack]
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def _described(stage: Any) -> dict[str, Any]:
    """A stage's name and fields; of a checkpoint, what is in it and not where it lies."""
    described = {"use": name_of(stage), **dataclasses.asdict(stage)}
    if hasattr(stage, "prepare"):
        described["checkpoint"] = file_sha256(stage.prepare(offline=True))
    return described
