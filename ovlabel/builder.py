"""Config → Segmenter, and what a run must remember of itself."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import inspect
import json
from typing import Any

from ovlabel.clip import load_clip
from ovlabel.config import Config, StageConfig
from ovlabel.errors import ConfigError, unknown
from ovlabel.segmenter import Segmenter
from ovlabel.stack import Stack
from ovlabel.text import text_bank
from ovlabel.types import Stage, TextBank


def build(config: Config, *, text: TextBank | None = None, offline: bool = False) -> Segmenter:
    """The segmenter of a run.

    Args:
        config: from `load_config`. text: a bank of one's own, in place of `text.vocabulary` and `text.templates`.
        offline: open no connection for weights.

    Raises:
        ConfigError, StackError: names or values that do not exist, stages in a meaningless order.
        WeightsError: weights that can't be had or do not fit.
    """
    stack = Stack(tuple(make_stage(stage) for stage in config.stages))
    clip = load_clip(config.encoder, offline=offline)
    bank = text_bank(config.text, clip) if text is None else text
    width = int(clip.identity.model["embed_dim"])
    if bank.embeddings.shape[1] != width:
        raise ConfigError(f"the text bank has {bank.embeddings.shape[1]} dimensions, the encoder {width}")
    return Segmenter(
        clip,
        bank,
        stack,
        config.tiling,
        config.labels,
        config.text.logit_scale,
        config.store.probabilities,
    )


def stage_class(name: str) -> type[Any]:
    """The one dataclass that `stages/NAME.py` defines."""
    module = importlib.import_module(f"ovlabel.stages.{name}")
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and value.__module__ == module.__name__ and dataclasses.is_dataclass(value)
    ]
    if len(found) != 1:
        raise ConfigError(f"ovlabel/stages/{name}.py must define one dataclass, not {len(found)}")
    return found[0]


def make_stage(config: StageConfig) -> Stage:
    """A stage from its config table. Raises ConfigError for an unknown field or a value of another type."""
    cls = stage_class(config.use)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    values = dict(config.fields)
    for name, value in values.items():
        if name not in fields:
            raise ConfigError(unknown(f"key of stage '{config.use}'", name, fields))
        default = fields[name].default
        if isinstance(default, float) and type(value) is int:
            values[name] = float(value)
        elif type(default) is not type(value) and default is not dataclasses.MISSING and default is not None:
            raise ConfigError(
                f"{config.use}.{name} takes a {type(default).__name__} such as {default!r}, not {value!r}"
            )
    stage: Stage = cls(**values)
    return stage


def resolved(config: Config, segmenter: Segmenter, *, own_text: bool = False) -> dict[str, Any]:
    """All that changes the results of a run, as plain JSON values; two runs with equal dicts are the same run."""
    values = config.to_dict()
    identity = segmenter.clip.identity
    encoder = values["encoder"]
    encoder.pop("device")
    encoder.update(model=identity.model, weights=identity.weights, mean=list(identity.mean), std=list(identity.std))
    if own_text:
        bank = segmenter.bank
        values["text"]["vocabulary"] = {"classes": list(bank.classes), "background": bank.background}
        values["text"]["templates"] = hashlib.sha256(bank.embeddings.tobytes()).hexdigest()
    else:
        from ovlabel.vocabulary import load_templates, load_vocabulary, make_queries

        vocabulary = load_vocabulary(config.text.vocabulary)
        queries = make_queries(vocabulary, load_templates(config.text.templates))
        asked = json.dumps([[q.class_index, q.prompts] for q in queries])
        values["text"]["vocabulary"] = vocabulary.content()
        values["text"]["templates"] = hashlib.sha256(asked.encode()).hexdigest()
    values["stages"] = [
        {"use": s.use, **dataclasses.asdict(make_stage(s))}  # type: ignore[call-overload]
        for s in config.stages
    ]
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain
