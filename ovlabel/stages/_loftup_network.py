"""LoftUp's network, and its official checkpoints in the three containers in which they are published.

Huang et al.: LoftUp: Learning a Coordinate-Based Feature Upsampler for Vision Foundation Models, ICCV 2025
(arXiv 2504.14032). Written anew for inference: batch norms folded into the convolutions, keys and values of both layers
computed once, queries in chunks, guidance scaled sample by sample (the authors' code takes the range of the batch).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ovlabel.errors import WeightsError
from ovlabel.model import pickles
from ovlabel.model.weights import find_file

log = logging.getLogger("ovlabel")

CHECKPOINT = "hf-hub:haiwen/loftup-clip"
_FILES = ("pytorch_model.bin", "model.safetensors")
_HEADS, _LAYERS, _EXTRA, _COLOURS = 4, 2, 20, 203  # EXTRA: the grid's own code; COLOURS: the guidance's
_MULTIPLE = 8  # head dimensions are filled up to it, so that fused attention takes them
_CHUNK = 8192  # queries at a time


@dataclass(frozen=True, eq=False)
class LoftUp:
    """The network: features b × e × h × w and guidance b × 3 × H × W → b × e × H × W, by `features` or `transport`.

    Attributes:
        tensors: by the hub's names, without the prefix `upsampler.`.
        dim: e, the number of channels.
        parameters: how many parameters the checkpoint has, before batch norms are folded.
    """

    tensors: dict[str, Tensor]
    dim: int
    parameters: int

    def to(self, like: Tensor) -> LoftUp:
        """On the device of `like`, in float32 or finer: half precision can't hold its highest frequency."""
        wide = torch.float64 if like.dtype == torch.float64 else torch.float32
        return LoftUp({n: t.to(like.device, wide) for n, t in self.tensors.items()}, self.dim, self.parameters)

    def normalised(self, features: Tensor) -> Tensor:
        """b × e × h × w → the same, normalised over channels, as the network reads and returns it."""
        return _channel_norm(features, self.tensors["channelnorm.norm.weight"], self.tensors["channelnorm.norm.bias"])

    def features(self, features: Tensor, guidance: Tensor) -> Tensor:
        """Upsampled features b e H W, in the space of `normalised`."""
        size = (guidance.shape[-2], guidance.shape[-1])
        out = []
        for one, picture in zip(features, guidance, strict=True):
            rows = [self._finish(queries) for queries, _ in self._queries(one[None], picture[None], maps=False)]
            out.append(torch.cat(rows).T.reshape(-1, *size))
        return torch.stack(out)

    def transport(self, features: Tensor, guidance: Tensor) -> Tensor:
        """`features` themselves, b × e × H × W: each cell a mean of patches by attention (mean over heads, layers)."""
        size = (guidance.shape[-2], guidance.shape[-1])
        out = []
        for one, picture in zip(features, guidance, strict=True):
            patches = one.flatten(1).T
            rows = [mix @ patches for _, mix in self._queries(one[None], picture[None], maps=True) if mix is not None]
            out.append(torch.cat(rows).T.reshape(-1, *size))
        return torch.stack(out)

    def _queries(self, features: Tensor, guidance: Tensor, *, maps: bool) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Chunks of one image's queries after the last layer, n × width; with `maps` their attention, n × h·w."""
        grid = self.normalised(features)
        code = fourier(_coordinates(grid), self.tensors["lr_pe.biases"])
        context = torch.cat([grid, code], 1).flatten(2)[0].T
        keys_values = [self._keys_values(layer, context) for layer in range(_LAYERS)]
        stem = self.stem(guidance).flatten(2)[0].T
        for start in range(0, len(stem), _CHUNK):
            queries, total = stem[start : start + _CHUNK], None
            for layer in range(_LAYERS):
                mixed, attention = self._attend(layer, queries, *keys_values[layer], maps=maps)
                queries = queries + mixed
                queries = queries + self._feed_forward(layer, queries)
                if attention is not None:
                    total = attention if total is None else total + attention
            yield queries, None if total is None else total / _LAYERS

    def code(self, guidance: Tensor) -> Tensor:
        """Guidance b 3 H W → its Fourier code, b 203 H W."""
        least = guidance.amin((-2, -1), keepdim=True)
        spread = (guidance.amax((-2, -1), keepdim=True) - least).clamp_min(1e-4)
        scaled = (guidance - least) / spread - 0.5
        code = fourier(torch.cat([_coordinates(scaled), scaled], 1), self.tensors["fourier_feat.1.biases"])
        return torch.cat([code, scaled], 1)

    def stem(self, guidance: Tensor) -> Tensor:
        """Guidance b 3 H W → the first queries, b width H W."""
        code = self.code(guidance)
        code = _channel_norm(code, self.tensors["first_conv.0.norm.weight"], self.tensors["first_conv.0.norm.bias"])
        for convolution in ("first_conv.1", "first_conv.4"):
            kernel, bias = self.tensors[f"{convolution}.weight"], self.tensors[f"{convolution}.bias"]
            code = F.conv2d(code, kernel, bias, padding=1).relu_()
        return code

    def _heads(self, tokens: Tensor) -> Tensor:
        """n width → heads n d, d filled up with zeros."""
        split = tokens.reshape(len(tokens), _HEADS, -1).transpose(0, 1)
        return F.pad(split, (0, -split.shape[-1] % _MULTIPLE))

    def _keys_values(self, layer: int, context: Tensor) -> tuple[Tensor, Tensor]:
        name = f"ca_transformer.layers.{layer}.0"
        normed = self._norm(f"{name}.norm_kv", context)
        kernel, bias = self.tensors[f"{name}.attention.in_proj_weight"], self.tensors[f"{name}.attention.in_proj_bias"]
        _, keys, values = (
            self._heads(F.linear(normed, *part)) for part in zip(kernel.chunk(3), bias.chunk(3), strict=True)
        )
        return keys, values

    def _attend(
        self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, *, maps: bool
    ) -> tuple[Tensor, Tensor | None]:
        name = f"ca_transformer.layers.{layer}.0"
        kernel, bias = self.tensors[f"{name}.attention.in_proj_weight"], self.tensors[f"{name}.attention.in_proj_bias"]
        width = kernel.shape[1]
        asked = self._heads(F.linear(self._norm(f"{name}.norm_q", queries), kernel[:width], bias[:width]))
        scale = (width // _HEADS) ** -0.5
        attention = None
        if maps:
            each = (asked * scale @ keys.transpose(-2, -1)).softmax(-1)
            mixed, attention = each @ values, each.mean(0)
        else:
            mixed = F.scaled_dot_product_attention(asked[None], keys[None], values[None], scale=scale)[0]
        joined = mixed[..., : width // _HEADS].transpose(0, 1).flatten(1)
        out = self.tensors[f"{name}.attention.out_proj.weight"], self.tensors[f"{name}.attention.out_proj.bias"]
        return F.linear(joined, *out), attention

    def _feed_forward(self, layer: int, queries: Tensor) -> Tensor:
        name = f"ca_transformer.layers.{layer}.1.net"
        hidden = self._linear(f"{name}.1", self._norm(f"{name}.0", queries))
        return self._linear(f"{name}.4", F.gelu(hidden))

    def _finish(self, queries: Tensor) -> Tensor:
        """n width → n e."""
        normed = self._norm("ca_transformer.norm", queries)
        out = F.linear(normed, self.tensors["final_conv.0.weight"][:, :, 0, 0], self.tensors["final_conv.0.bias"])
        scale, shift = self.tensors["final_conv.1.weight"], self.tensors["final_conv.1.bias"]
        return F.layer_norm(out, (self.dim,), scale, shift, 1e-6)

    def _norm(self, name: str, tokens: Tensor) -> Tensor:
        return F.layer_norm(tokens, tokens.shape[-1:], self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def _linear(self, name: str, tokens: Tensor) -> Tensor:
        return F.linear(tokens, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])


def fourier(base: Tensor, phases: Tensor) -> Tensor:
    """b m H W → b 2·f·m H W: sin(φ_f · base_m + phase), then cos, frequencies φ from e⁻² to e¹⁰, m running fastest.

    `phases` is (2, m, f) as stored, and read as (2, f, m) in memory order: so the checkpoint was trained.
    """
    count, frequencies = phases.shape[1], phases.shape[2]
    scales = torch.exp(torch.linspace(-2, 10, frequencies)).to(base)
    shifts = phases.reshape(2, frequencies * count, 1, 1).to(base)
    waves = (scales[:, None, None, None] * base[:, None]).flatten(1, 2)
    return torch.cat([torch.sin(waves + shifts[0]), torch.cos(waves + shifts[1])], 1)


def _coordinates(maps: Tensor) -> Tensor:
    """b 2 H W: rows, then columns, from −1 to 1, both ends included."""
    height, width = maps.shape[-2:]
    y, x = (torch.linspace(-1, 1, length, dtype=maps.dtype, device=maps.device) for length in (height, width))
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij"))
    return grid.expand(len(maps), -1, -1, -1)


def _channel_norm(maps: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return F.layer_norm(maps.movedim(1, -1), scale.shape, scale, shift, 1e-5).movedim(-1, 1)


def shapes(dim: int) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a checkpoint for features of `dim` channels, by name without prefixes."""
    width = dim + _EXTRA

    def pair(name: str, *size: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": size, f"{name}.bias": size[:1]}

    table: dict[str, tuple[int, ...]] = {"lr_pe.biases": (2, 2, 5), "fourier_feat.1.biases": (2, 5, 20)}
    table |= pair("channelnorm.norm", dim) | pair("first_conv.0.norm", _COLOURS)
    for convolution, norm, channels in (("1", "2", _COLOURS), ("4", "5", width)):
        table |= pair(f"first_conv.{convolution}", width, channels, 3, 3) | pair(f"first_conv.{norm}", width)
        table |= {f"first_conv.{norm}.{name}": (width,) for name in ("running_mean", "running_var")}
        table[f"first_conv.{norm}.num_batches_tracked"] = ()
    table |= pair("final_conv.0", dim, width, 1, 1) | pair("final_conv.1", dim) | pair("ca_transformer.norm", width)
    for layer in range(_LAYERS):
        name = f"ca_transformer.layers.{layer}"
        table |= pair(f"{name}.0.norm_q", width) | pair(f"{name}.0.norm_kv", width)
        table |= {f"{name}.0.attention.in_proj_weight": (3 * width, width)}
        table |= {f"{name}.0.attention.in_proj_bias": (3 * width,)}
        table |= pair(f"{name}.0.attention.out_proj", width, width)
        table |= (
            pair(f"{name}.1.net.0", width) | pair(f"{name}.1.net.1", dim, width) | pair(f"{name}.1.net.4", width, dim)
        )
    return table


def from_tensors(tensors: dict[str, Tensor], where: str = "the checkpoint") -> LoftUp:
    """The network of a checkpoint.

    Takes the hub's file (`channelnorm.`, `upsampler.`), a training checkpoint (`model.1.` for the norm, `upsampler.`;
    its backbone `model.0.` is ignored) and a bare upsampler without prefix. The last has no channel norm of its own:
    features are then normalised without scale and shift, and a line of the log says so.

    Args:
        tensors: the file's tensors by name.
        where: the file, as messages name it.

    Raises:
        WeightsError: a tensor is missing, left over, or of another shape.
    """
    named = {}
    for name, tensor in tensors.items():
        if name.startswith("model.0."):
            continue
        named[name.replace("model.1.", "channelnorm.", 1).removeprefix("upsampler.")] = tensor
    if "final_conv.1.weight" not in named:
        raise WeightsError(f"{where} is no LoftUp checkpoint: it has no final_conv.1.weight")
    dim = int(named["final_conv.1.weight"].numel())
    if not any(name.startswith("channelnorm.") for name in named):
        log.info("%s has no channel norm; features are normalised without scale and shift", where)
        named |= {"channelnorm.norm.weight": torch.ones(dim), "channelnorm.norm.bias": torch.zeros(dim)}
    wanted = shapes(dim)
    for names, what in ((wanted.keys() - named.keys(), "lacks"), (named.keys() - wanted.keys(), "has no place for")):
        if names:
            raise WeightsError(f"{where} {what} {', '.join(sorted(names)[:4])}{', …' * (len(names) > 4)}")
    for name, shape in wanted.items():
        if tuple(named[name].shape) != shape:
            raise WeightsError(f"{where}: {name} is {tuple(named[name].shape)}, not {shape}")
    counted = [name for name in named if not name.rpartition(".")[2].startswith(("running_", "num_batches"))]
    parameters = sum(named[name].numel() for name in counted)
    return LoftUp(_folded({name: tensor.float() for name, tensor in named.items()}), dim, parameters)


def _folded(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Batch norms taken into the convolutions before them; exact in evaluation."""
    for convolution, norm in (("first_conv.1", "first_conv.2"), ("first_conv.4", "first_conv.5")):
        mean, variance = tensors.pop(f"{norm}.running_mean"), tensors.pop(f"{norm}.running_var")
        scale = tensors.pop(f"{norm}.weight") / (variance + 1e-5).sqrt()
        shift = tensors.pop(f"{norm}.bias")
        del tensors[f"{norm}.num_batches_tracked"]
        tensors[f"{convolution}.bias"] = (tensors[f"{convolution}.bias"] - mean) * scale + shift
        tensors[f"{convolution}.weight"] = tensors[f"{convolution}.weight"] * scale[:, None, None, None]
    return tensors


def locate(checkpoint: str, *, offline: bool) -> Path:
    """The file of a checkpoint.

    Args:
        checkpoint: a path, or `hf-hub:owner/name`.
        offline: open no connection.

    Raises:
        WeightsError: the file can't be had.
    """
    return find_file(checkpoint, _FILES, offline=offline)


@lru_cache(maxsize=4)
def load(path: Path) -> LoftUp:
    """The network in a file, read once in a process. Raises WeightsError if the file holds none."""
    tensors, _ = pickles.read(path)
    return from_tensors(tensors, str(path))
