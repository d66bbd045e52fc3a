"""The names that other programs give to CLIP's tensors, turned into open_clip's: prefixes, and transformers' layout.

Names change, and for transformers the form: queries, keys and values are joined, projections transposed. Values stay.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from ovlabel.errors import WeightsError, short

_OWN = re.compile(
    r"((?:\w+\.)*?)(?:visual\.(?:conv1|transformer|proj|class_embedding)\b.*|(?:text\.)?token_embedding\.weight)"
)
_TRANSFORMERS = re.compile(r"((?:\w+\.)*?)(?:text|vision)_model\.(?:embeddings|encoder)\..*")
_TOWERS = {"text_model.": "", "vision_model.": "visual."}
_SINGLE = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    **{f"text_model.final_layer_norm.{part}": f"ln_final.{part}" for part in ("weight", "bias")},
    **{f"vision_model.pre_layrnorm.{part}": f"visual.ln_pre.{part}" for part in ("weight", "bias")},
    **{f"vision_model.pre_layernorm.{part}": f"visual.ln_pre.{part}" for part in ("weight", "bias")},
    **{f"vision_model.post_layernorm.{part}": f"visual.ln_post.{part}" for part in ("weight", "bias")},
}
_TRANSPOSED = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}
_BLOCK = re.compile(r"(text_model\.|vision_model\.)encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_PARTS = {
    "self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
}  # fmt: skip
_JOINED = [f"self_attn.{name}_proj" for name in "qkv"]


def open_clip_names(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """Give CLIP's tensors the names that open_clip gives them.

    Args:
        tensors: by the names in a file; a prefix such as `model.` that stands before all of a CLIP is taken off.

    Returns:
        The tensors by open_clip's names (names that are not known stay), and whether they were in transformers' layout.

    Raises:
        WeightsError: the file holds several CLIPs.
    """
    tensors, transformers = _without_prefix(tensors)
    return (_converted(tensors), True) if transformers else (tensors, False)


def _without_prefix(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    transformers = any(_TRANSFORMERS.fullmatch(name) for name in tensors)
    pattern = _TRANSFORMERS if transformers else _OWN
    prefixes = sorted({found[1] for name in tensors if (found := pattern.fullmatch(name))})
    if len(prefixes) > 1:
        named = ", ".join(short(prefix) or "(none)" for prefix in prefixes[:4])
        raise WeightsError(f"it holds several CLIPs, told apart by the prefixes {named}; save one of them alone")
    prefix = prefixes[0] if prefixes else ""
    bare = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    if len(bare) < len(tensors):
        raise WeightsError(f"names with and without the prefix {short(prefix)} mean the same; save one model alone")
    return bare, transformers


def _converted(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """From transformers' layout to open_clip's."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = _BLOCK.fullmatch(name)
        part = (name, tensor)
        if name in _TRANSPOSED and tensor.ndim == 2:
            part = _TRANSPOSED[name], tensor.T.contiguous()
        elif name in _SINGLE:
            part = _SINGLE[name], tensor
        elif match and match[3] in _PARTS:
            part = f"{_block(match)}.{_PARTS[match[3]]}.{match[4]}", tensor
        elif match and match[3] in _JOINED and (joined := _joined(tensors, match)) is not None:
            if match[3] != _JOINED[0]:  # keys and values go where the queries go
                continue
            part = f"{_block(match)}.attn.in_proj_{match[4]}", joined
        if part[0] in found:
            raise WeightsError(f"two of its tensors are {short(part[0])} in open_clip's names; save one model alone")
        found.update([part])
    return found


def _block(match: re.Match[str]) -> str:
    """The name of a block in open_clip's layout."""
    return f"{_TOWERS[match[1]]}transformer.resblocks.{match[2]}"


def _joined(tensors: dict[str, Tensor], match: re.Match[str]) -> Tensor | None:
    """Queries, keys and values of a block in one tensor, if all three are there and fit each other."""
    names = [f"{match[1]}encoder.layers.{match[2]}.{part}.{match[4]}" for part in _JOINED]
    parts = [tensors[name] for name in names if name in tensors]
    if len(parts) < 3 or len({(part.shape, part.dtype) for part in parts}) > 1 or parts[0].ndim == 0:
        return None
    return torch.cat(parts)
