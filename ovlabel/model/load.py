"""Loads the encoder of a run: builds the model of `encoder.model` and fills it with `encoder.weights`, if they fit.

Model configs may come from untrusted sources: sizes have upper bounds, checked before the model is built.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP, CustomTextCLIP, convert_to_custom_text_state_dict
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor

from ovlabel.errors import ConfigError, WeightsError, short, shown, unknown
from ovlabel.files import file_sha256, read_json
from ovlabel.model.clip import Clip
from ovlabel.model.device import pick_device
from ovlabel.model.layouts import open_clip_names
from ovlabel.model.pickles import read
from ovlabel.model.weights import Source, find, origin, transformers_activation
from ovlabel.settings.keys import EncoderConfig
from ovlabel.types import EncoderIdentity

log = logging.getLogger("ovlabel")

MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD  # of pixel values in 0 … 1, a channel each
_RANDOM = "random:"
_PARAMETERS = 6e9  # the most a model may have; open_clip's largest plain ViT has 5e9
_CLEANINGS = ("lower", "whitespace", "canonicalize")
_SIZES = {  # sizes in a model config: (upper bound, default)
    "vision_cfg": {
        "layers": (256, 12), "width": (16384, 768), "head_width": (16384, 64), "patch_size": (1024, 16),
        "image_size": (4096, 224), "attn_pooler_queries": (4096, 256), "attn_pooler_heads": (1024, 8),
    },
    "text_cfg": {
        "layers": (256, 12), "width": (16384, 512), "heads": (1024, 8), "context_length": (4096, 77),
        "vocab_size": (1_000_000, 49408),
    },
}  # fmt: skip


def load_clip(config: EncoderConfig, *, offline: bool = False) -> Clip:
    """Load the encoder of a run.

    Args:
        config: the section `encoder` of the run's settings.
        offline: open no connection for weights.

    Raises:
        ConfigError: an unknown model or device, a model config that open_clip refuses, or an image tower that is no
            plain ViT.
        WeightsError: weights that can't be found or read, whose names or shapes do not fit the model, or that were
            trained with another activation.
    """
    device = pick_device(config.device)
    name, weights = config.source
    table, preprocess = _model_config(name)
    seed = _seed(weights)
    if seed is None:
        model = construct(table)
        source = _load_weights(model, table, name, weights, offline)
        preprocess = {**source.preprocess, **preprocess}
        weights = file_sha256(source.path)
    else:
        model, weights = _seeded(table, seed), f"{_RANDOM}{seed}"
    mean = _constants(preprocess, "mean", MEAN)
    std = _constants(preprocess, "std", STD)
    return Clip(model, EncoderIdentity(table, mean, std, weights), config, device)


def find_weights(config: EncoderConfig) -> tuple[Path | None, str]:
    """Where the weights of a run are, without opening a connection.

    Args:
        config: the section `encoder` of the run's settings.

    Returns:
        (None, "") for random weights, (file, "") if they are on this machine, (None, URL) if they would be downloaded.

    Raises:
        ConfigError: an unknown model.
        WeightsError: they are not on this machine and can't be downloaded.
    """
    name, weights = config.source
    _model_config(name)
    if _seed(weights) is not None:
        return None, ""
    tag = get_pretrained_cfg(name, weights) or {}
    try:
        return find(weights, name, list_pretrained_tags_by_model(name), tag or None, offline=True).path, ""
    except WeightsError:
        if address := origin(weights, tag):
            return None, address
        raise


def _load_weights(
    model: CLIP | CustomTextCLIP, table: dict[str, Any], name: str, weights: str, offline: bool
) -> Source:
    """Find the weights, check that they were trained with the model's activation, and copy them into the model."""
    tag = get_pretrained_cfg(name, weights) or None
    tags = list_pretrained_tags_by_model(name)
    source = find(weights, name, tags, tag, offline)
    tensors, openai = read(source.path)
    try:
        tensors, converted = open_clip_names(tensors)
    except WeightsError as error:
        raise WeightsError(f"{source.path}: {error}") from None
    quick_gelu = bool(table.get("quick_gelu", False))
    wanted = True if openai else transformers_activation(source.path) if converted else source.quick_gelu
    if wanted is None:
        log.log(
            logging.WARNING if converted else logging.INFO,
            "the weights don't say their activation; taking the model's (quick_gelu = %s)",
            quick_gelu,
        )
    elif wanted != quick_gelu:
        raise WeightsError(
            f"the weights were trained with {'QuickGELU' if wanted else 'GELU'}, but {name} has "
            f"{'QuickGELU' if quick_gelu else 'GELU'}: pass a --model whose config has quick_gelu = "
            f"{str(wanted).lower()} ({_sibling(name, wanted)})"
        )
    _fill(model, tensors, f"{source.path} (in transformers' layout)" if converted else str(source.path))
    return source


def _seeded(table: dict[str, Any], seed: int) -> CLIP | CustomTextCLIP:
    """A model with random weights of a seed; torch's global random state is left unchanged."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        return construct(table)
    finally:
        torch.set_rng_state(before)


def _seed(weights: str) -> int | None:
    if not weights.startswith(_RANDOM):
        return None
    digits = weights.removeprefix(_RANDOM)
    if not (digits.isascii() and digits.isdigit() and int(digits) < 2**63):
        raise ConfigError(f"encoder.weights = {weights}: write random:SEED with a whole number, as random:0")
    return int(digits)


def _model_config(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The open_clip config of a model and its preprocessing constants, by name or from a JSON file."""
    preprocess: dict[str, Any] = {}
    if name.endswith(".json"):
        try:
            table = read_json(Path(os.path.expanduser(name)))
        except ConfigError as error:
            raise ConfigError(f"cannot read model config {name}: {error}") from None
        if isinstance(table, dict) and "model_cfg" in table:
            constants, table = table.get("preprocess_cfg") or {}, table["model_cfg"]
            if not isinstance(constants, dict):
                raise ConfigError(f"{name} is no open_clip model config: preprocess_cfg must be a table")
            preprocess = constants
    else:
        if name not in open_clip.list_models():
            raise ConfigError(unknown("model", short(name), open_clip.list_models()))
        table = open_clip.get_model_config(name)
    if not isinstance(table, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= table.keys():
        raise ConfigError(f"{name} is no open_clip model config: it needs embed_dim, vision_cfg and text_cfg")
    vision, text = table["vision_cfg"], table["text_cfg"]
    if not isinstance(vision, dict) or not isinstance(text, dict):
        raise ConfigError(f"{name} is no open_clip model config: vision_cfg and text_cfg must be tables")
    if vision.get("timm_model_name") or isinstance(vision.get("layers"), list | tuple):
        raise ConfigError(f"{name} is not a plain ViT (its image tower is timm's or a ResNet); pick a ViT-…")
    if text.get("hf_model_name") or "multimodal_cfg" in table:
        raise ConfigError(f"{name} has a text tower of another library; pick a ViT-… with CLIP's own")
    if name.endswith(".json"):
        _check_sizes(name, table)
    return table, preprocess


def _check_sizes(name: str, table: dict[str, Any]) -> None:
    """Refuse a model too large for any machine before it is built, and tokeniser options that would read files."""
    embedding = _size(f"{name}: embed_dim", table["embed_dim"], 16384)[0]
    parameters = 0.0
    for tower, limits in _SIZES.items():
        given = {key: table[tower].get(key, usual) for key, (_, usual) in limits.items()}
        size = {key: _size(f"{name}: {tower}.{key}", given[key], most) for key, (most, _) in limits.items()}
        ratio = table[tower].get("mlp_ratio", 4.0)
        if type(ratio) not in (int, float) or not 0 < ratio <= 64:
            raise ConfigError(f"{name}: {tower}.mlp_ratio = {shown(ratio)}: it must be above 0 and at most 64")
        (width, _), (layers, _) = size["width"], size["layers"]
        rows = embedding + layers * (4 + 2 * ratio) * width
        if tower == "vision_cfg":
            (tall, wide), (high, broad) = size["image_size"], size["patch_size"]
            rows += 3 * high * broad + tall * wide / (high * broad)
        else:
            rows += size["vocab_size"][0] + size["context_length"][0]
        parameters += rows * width
    if parameters > _PARAMETERS:
        raise ConfigError(f"{name}: a model of {parameters:.1g} parameters; {_PARAMETERS:.1g} are the most")
    options = table["text_cfg"].get("tokenizer_kwargs") or {}
    known = isinstance(options, dict) and set(options) <= {"clean"} and options.get("clean", "lower") in _CLEANINGS
    if not known and not table["text_cfg"].get("hf_tokenizer_name"):
        raise ConfigError(f"{name}: text_cfg.tokenizer_kwargs may hold clean, one of {', '.join(_CLEANINGS)}")


def _size(what: str, value: Any, most: int) -> tuple[int, int]:
    """A whole number in 1 … `most`, twice; or a pair of such numbers (height and width)."""
    pair = value if isinstance(value, list) and len(value) == 2 else [value, value]
    if not all(type(part) is int and 1 <= part <= most for part in pair):
        raise ConfigError(f"{what} = {shown(value)}: it must be a whole number, 1 … {most}")
    return pair[0], pair[1]


def tokeniser(context: int) -> SimpleTokenizer:
    """CLIP's own tokeniser with a context length; it turns n texts into int64, n × context."""
    return SimpleTokenizer(context_length=context)


def construct(table: dict[str, Any]) -> CLIP | CustomTextCLIP:
    """Build a model with random weights.

    Args:
        table: an open_clip model config.

    Raises:
        ConfigError: open_clip refuses the config, or its image tower is no plain ViT.
    """
    arguments = dict(table)
    kind = CustomTextCLIP if arguments.pop("custom_text", False) else CLIP
    try:
        model = kind(**arguments)
    except Exception as error:  # open_clip does not check configs: a wrong one fails anywhere
        reason = short(error) or type(error).__name__
        raise ConfigError(f"open_clip does not take this model config: {reason}") from None
    _plain_vit(model)
    return model


def _constants(preprocess: dict[str, Any], name: str, default: tuple[float, ...]) -> tuple[float, ...]:
    values = preprocess.get(name) or default
    if not isinstance(values, list | tuple) or len(values) != 3 or not all(type(v) in (int, float) for v in values):
        raise ConfigError(f"the model's {name} must be three numbers, not {shown(values)}")
    if not all(abs(v) < 1e6 and (name == "mean" or v > 0) for v in values):
        raise ConfigError(f"the model's {name} must be finite (std above 0), not {shown(values)}")
    return tuple(values)


def _plain_vit(model: CLIP | CustomTextCLIP) -> None:
    visual = model.visual
    if not isinstance(visual, VisionTransformer):
        raise ConfigError(f"the image tower is a {type(visual).__name__}, not a plain ViT")
    reasons = {
        "an attentional pooler": visual.attn_pool is not None,
        f"pool_type = {visual.pool_type}": visual.pool_type != "tok",
        "a norm after pooling": visual.final_ln_after_pool,
        "patches that are not square": visual.patch_size[0] != visual.patch_size[1],
        "custom attention blocks": any(type(b) is not ResidualAttentionBlock for b in visual.transformer.resblocks),
    }
    for reason, present in reasons.items():
        if present:
            raise ConfigError(f"the image tower is not a plain ViT: it has {reason}")


def _fill(model: CLIP | CustomTextCLIP, tensors: dict[str, Tensor], where: str) -> None:
    """Copy the tensors into the model; every name and every shape must match."""
    if isinstance(model, CustomTextCLIP) and "positional_embedding" in tensors:
        tensors = convert_to_custom_text_state_dict(tensors)
    own = model.state_dict()
    if "logit_scale" in tensors and own["logit_scale"].numel() == tensors["logit_scale"].numel():
        tensors["logit_scale"] = tensors["logit_scale"].reshape(own["logit_scale"].shape)
    missing = sorted(own.keys() - tensors.keys())
    extra = sorted(tensors.keys() - own.keys())
    shapes = [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    wrong = {"missing": missing, "not in the model": extra, "of another shape": shapes}
    parts = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for what, names in wrong.items()
        if names
    ]
    if parts:
        raise WeightsError(f"{where} does not fit the model: {'; '.join(parts)}. Is --model the right one?")
    model.load_state_dict(tensors)


def _sibling(model: str, quick_gelu: bool) -> str:
    names = open_clip.list_models()
    guess = f"{model}-quickgelu" if quick_gelu else model.removesuffix("-quickgelu")
    return guess if guess in names else "or a JSON config that says so"
