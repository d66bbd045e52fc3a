"""Config → Segmenter."""

from __future__ import annotations

import logging

from ovlabel.errors import ConfigError, WeightsError
from ovlabel.model.load import load_clip
from ovlabel.settings.keys import Config
from ovlabel.spine.segmenter import Segmenter
from ovlabel.spine.stack import Stack, make_stage
from ovlabel.text.bank import text_bank
from ovlabel.text.prompts import Prompts
from ovlabel.types import Encoder, TextBank

log = logging.getLogger("ovlabel")


def build(
    config: Config,
    *,
    text: TextBank | None = None,
    prompts: Prompts | None = None,
    encoder: Encoder | None = None,
    offline: bool = False,
) -> Segmenter:
    """The segmenter of a run.

    Args:
        config: from `load_config`.
        text: a text bank of your own, in place of `text.vocabulary`, `text.templates` and `text.merge`.
        prompts: the content of the files that `config.text` names, where they have been read already.
        encoder: one that is loaded already, in place of that of `config.encoder`.
        offline: open no connection for weights.

    Raises:
        ConfigError: a name or a value that does not exist, or a bank of another embedding size than the encoder's.
        StackError: stages in an order that has no meaning.
        WeightsError: weights that can't be had or do not fit.

    Example:
        >>> import ovlabel
        >>> config = ovlabel.load_config("plain", {"encoder.model": "demo", "text.vocabulary": "demo"})
        >>> ovlabel.build(config, offline=True).bank.classes[0]
        'sky'
    """
    stack = _stack(config, offline)
    clip: Encoder = load_clip(config.encoder, offline=offline) if encoder is None else encoder
    bank = text_bank(config.text, clip, prompts) if text is None else text
    width = int(clip.identity.model["embed_dim"])
    if bank.embeddings.shape[1] != width:
        raise ConfigError(f"the text bank has {bank.embeddings.shape[1]} dimensions, the encoder {width}")
    return Segmenter(clip, bank, stack, config)


def _stack(config: Config, offline: bool) -> Stack:
    """The stages, their checkpoints at hand; one with `optional = true` whose checkpoint can't be had is left out."""
    stages = []
    for entry in config.stages:
        stage = make_stage(entry)
        try:
            stage.prepare(offline=offline)
        except WeightsError as error:
            if not entry.optional:
                raise
            log.info("the stage '%s' is left out: %s", entry.use, error)
            continue
        stages.append(stage)
    return Stack(tuple(stages))
