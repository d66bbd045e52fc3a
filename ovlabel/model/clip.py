"""open_clip's ViT, opened before its last attention. No other room imports open_clip.

The model is neither copied nor patched: `trace` calls its own modules up to the last block, `readout` finishes that
block around whatever attention it is handed. The run's dtype policy lives here: the encoder runs in
`encoder.precision`, softmax and everything after the projection in float32 (or float64).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import VisionTransformer, text_global_pool
from torch import Tensor

from ovlabel import types
from ovlabel.errors import ConfigError
from ovlabel.model.device import pick_precision
from ovlabel.ops import scaled_scores
from ovlabel.settings.keys import EncoderConfig

_DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp64": torch.float64,
}
_WINDOWS, _MOST_WINDOWS = 16, 512  # in a batch: the most on a CPU, the fewest on a GPU; the most on a GPU
_ACTIVATION = 10 * 2**20  # bytes of the largest tensor of a batch on a CPU
_RECYCLED = 2**25 - 2**16  # bytes; glibc learns nothing from blocks above 32 MiB


class Trace:
    """See `ovlabel.types.Trace`: the layers of one batch of windows, kept as the tokens entering each block."""

    def __init__(self, clip: Clip, inputs: list[Tensor], grid: tuple[int, int]) -> None:
        self.grid, self.layers = grid, len(inputs)
        self._clip, self._inputs = clip, inputs
        self._qkv: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self._attention: dict[int, Tensor] = {}
        self._image: Tensor | None = None
        self._before: Trace | None = None
        self._kept: dict[str, Tensor] = {}

    @property
    def unedited(self) -> Trace:
        """The trace before the level `tokens`; itself, where nothing was edited."""
        return self._before or self

    def once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """What `make` gives, made once for this trace and those edited from it."""
        kept = self.unedited._kept
        if name not in kept:
            kept[name] = make()
        return kept[name]

    def tokens(self, layer: int) -> Tensor:
        """b n width entering block `layer` (1 … layers)."""
        return self._inputs[layer - 1]

    def qkv(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values of block `layer`, each b heads n d; computed once."""
        if layer not in self._qkv:
            self._qkv[layer] = self._clip.qkv(layer, self.tokens(layer))
        return self._qkv[layer]

    def attention(self, layer: int) -> Tensor:
        """b heads n n: softmax(q kᵀ / √d) of block `layer`, float32 or finer; computed once."""
        if layer not in self._attention:
            queries, keys, _ = self.qkv(layer)
            self._attention[layer] = scaled_scores(queries, keys).softmax(-1)
        return self._attention[layer]

    def attended(self, layer: int, attention: Tensor) -> Tensor:
        """b n width: what block `layer` adds under another attention, b heads n n (or b 1 n n for all heads)."""
        return self._clip.attended(layer, self.qkv(layer)[2], attention)

    def image(self) -> Tensor:
        """b e: CLIP's own image embedding, behind its whole last block, not normalised."""
        if self._image is None:
            self._image = self._clip.image(self.unedited.tokens(self.layers))
        return self._image

    def read_regions(self, masks: Tensor) -> Tensor:
        """bool b r h·w → b r e: what a class token reads that sees only a region's patches and itself.

        A copy of the class token goes through every block against the tokens that entered it; patches never see it.
        """
        return self._clip.read_regions(self.unedited, masks)

    def edited(self, tokens: Tensor) -> Trace:
        """The same trace with other tokens entering the last block."""
        edited = Trace(self._clip, [*self._inputs[:-1], tokens], self.grid)
        edited._before = self.unedited
        edited._qkv = {layer: known for layer, known in self._qkv.items() if layer < self.layers}
        edited._attention = {layer: known for layer, known in self._attention.items() if layer < self.layers}
        return edited


class Clip:
    """A frozen CLIP with a plain ViT: `trace`, then `readout` and `project`; `encode_text` beside them."""

    def __init__(
        self, model: CLIP | CustomTextCLIP, identity: types.EncoderIdentity, config: EncoderConfig, device: torch.device
    ) -> None:
        self.identity, self._positions = identity, config.positions
        self._last_block: str = config.last_block
        self.device = device
        self.precision = pick_precision(self.device) if config.precision == "auto" else config.precision
        self.dtype = _DTYPES[self.precision]
        if device.type == "mps" and self.dtype == torch.float64:
            raise ConfigError("encoder.precision = fp64 is not to be had on mps; use cpu")
        self._model = model.eval().requires_grad_(False).to(self.device)
        if self.dtype == torch.float64:
            self._model = self._model.double()
        self._visual: VisionTransformer = self._model.visual
        self._table: Tensor = self._visual.positional_embedding.detach().float().cpu()
        self._resampled: dict[tuple[int, int], Tensor] = {}
        self._visual.to(self.dtype)
        if device.type == "cpu":  # glibc keeps freed blocks for the next of their kind once it has freed one as large
            torch.empty(_RECYCLED, dtype=torch.uint8)
        self.patch = int(self._visual.patch_size[0])
        self.layers = len(self._visual.transformer.resblocks)
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        self._mean = torch.tensor(identity.mean, dtype=wide, device=self.device)[:, None, None] * 255
        self._std = torch.tensor(identity.std, dtype=wide, device=self.device)[:, None, None] * 255

    def finishing(self, last_block: str) -> Clip:
        """The same encoder with another `encoder.last_block`."""
        other = copy.copy(self)
        other._last_block = last_block
        return other

    def room(self) -> int:
        """How many windows of the native size to encode at once.

        On a CPU so many, 16 at the most, that the largest tensor, inside the feed-forward, has 10 MiB. Larger ones come
        fresh from the system each time, page by page: 15 windows of ViT-B/16 at once are an eighth slower in fp32 than
        four. On a GPU, what a third of its free memory holds: a window takes, in the run's dtype, its tokens in front
        of every block and some 12 more of their size for the feed-forward, and four attention maps of the last block
        in float32.
        """
        visual, last = self._visual, self._block(self.layers)
        tokens, width = 1 + visual.grid_size[0] * visual.grid_size[1], visual.conv1.out_channels
        if self.device.type == "cpu":
            largest: int = tokens * last.mlp.c_fc.out_features * self.dtype.itemsize
            return max(1, min(_WINDOWS, _ACTIVATION // largest))
        if self.device.type != "cuda":
            return _WINDOWS
        size = tokens * width * (self.layers + 12) * self.dtype.itemsize + 4 * 4 * last.attn.num_heads * tokens**2
        free, _ = torch.cuda.mem_get_info(self.device)
        return max(_WINDOWS, min(_MOST_WINDOWS, int(free // 3 // size)))

    def pixels(self, image: Tensor) -> Tensor:
        """uint8 or float 3 H W (0 … 255) → normalised 3 H W, float32 or finer."""
        return (image.to(self.device, self._mean.dtype) - self._mean) / self._std

    def trace(self, windows: Tensor) -> Trace:
        """b 3 H W normalised windows → every block's input. A remainder under one patch is not looked at."""
        visual = self._visual
        grid = (windows.shape[-2] // self.patch, windows.shape[-1] // self.patch)
        # conv1 as a product of patches and weights: a convolution would run in TF32 on some GPUs even in fp32
        patches = F.unfold(windows.to(self.dtype), self.patch, stride=self.patch).transpose(1, 2)
        tokens = patches @ visual.conv1.weight.flatten(1).T
        cls = visual.class_embedding.to(tokens.dtype).expand(len(tokens), 1, -1)
        tokens = torch.cat((cls, tokens), dim=1) + self.positions(grid).to(tokens)
        tokens = visual.ln_pre(tokens)
        inputs = [tokens]
        for block in visual.transformer.resblocks[:-1]:
            inputs.append(block(inputs[-1]))
        return Trace(self, inputs, grid)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """The positional table for a patch grid: n width, float32, on the CPU; resampled once a grid.

        "clip": bicubic with scale factors (h + 0.1) / side, the rule of the published methods. "open_clip": bicubic,
        antialiased, as open_clip resizes on loading. The native grid takes the table as it is; a grid of another
        shape with as many cells (7 × 28 for 14 × 14) is resampled, where the references use the table in wrong order.
        """
        if grid not in self._resampled:
            self._resampled[grid] = self._resample(grid)
        return self._resampled[grid]

    def _resample(self, grid: tuple[int, int]) -> Tensor:
        rows, columns = self._visual.grid_size
        if grid == (rows, columns):
            return self._table
        square = self._table[1:].reshape(1, rows, columns, -1).permute(0, 3, 1, 2)
        resized: Tensor
        if self._positions == "open_clip":
            resized = F.interpolate(square, size=grid, mode="bicubic", antialias=True, align_corners=False)
        else:
            factors = ((grid[0] + 0.1) / rows, (grid[1] + 0.1) / columns)
            resized = F.interpolate(square, scale_factor=factors, mode="bicubic", recompute_scale_factor=False)
        return torch.cat((self._table[:1], resized.permute(0, 2, 3, 1).flatten(1, 2)[0]))

    def qkv(self, layer: int, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Block `layer`'s queries, keys and values of tokens entering it, each b heads n d."""
        block = self._block(layer)
        joined = F.linear(block.ln_1(tokens), block.attn.in_proj_weight, block.attn.in_proj_bias)
        batch, count, width = joined.shape
        heads = block.attn.num_heads
        split = joined.reshape(batch, count, 3, heads, width // 3 // heads).permute(2, 0, 3, 1, 4)
        return split[0], split[1], split[2]

    def readout(self, trace: types.Trace, attention: Tensor) -> Tensor:
        """The last block's output under another attention: b heads n n → b n width, before `ln_post`.

        `encoder.last_block`: "full" keeps residual and feed-forward, "residual" drops the feed-forward, "attention"
        keeps the attention branch alone.
        """
        return self._finished(trace, self.attended(self.layers, trace.qkv(self.layers)[2], attention))

    def readout_of(self, trace: types.Trace, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """`readout` under Σ softmax(q kᵀ / √d) over `pairs` of queries and keys, without making the maps.

        The softmax inside torch's fused attention is float32 or finer, whatever the run's dtype.
        """
        values = trace.qkv(self.layers)[2]
        mixed = sum(F.scaled_dot_product_attention(queries, keys, values) for queries, keys in pairs)
        return self._finished(trace, self._out(self.layers, cast(Tensor, mixed)))

    def _finished(self, trace: types.Trace, out: Tensor) -> Tensor:
        """The rest of the last block behind its attention branch."""
        block, tokens = self._block(self.layers), trace.tokens(self.layers)
        if self._last_block == "attention":
            return out
        out = tokens + out
        if self._last_block == "full":
            out = out + block.ls_2(block.mlp(block.ln_2(out)))
        return out

    def attended(self, layer: int, values: Tensor, attention: Tensor) -> Tensor:
        """The attention branch of block `layer`: values b heads m d, attention b heads n m → b n width."""
        return self._out(layer, attention.to(values.dtype) @ values)

    def _out(self, layer: int, mixed: Tensor) -> Tensor:
        """What the heads mixed, b heads n d → b n width."""
        block = self._block(layer)
        out: Tensor = block.ls_1(block.attn.out_proj(mixed.transpose(1, 2).flatten(2)))
        return out

    def plain(self, windows: Tensor) -> Tensor:
        """b 3 H W normalised windows → b e: open_clip's own forward where it takes this size; to measure against."""
        if windows.shape[-2:] == tuple(self._visual.image_size):
            embedded: Tensor = self._visual(windows.to(self.dtype))
            return embedded
        trace = self.trace(windows)
        queries, keys, _ = trace.qkv(self.layers)
        return self.project(self.readout_of(trace, ((queries, keys),)))[:, 0]

    def image(self, tokens: Tensor) -> Tensor:
        """b n width entering the last block → b e, the class token behind the model's own last block."""
        return self.project(self._block(self.layers)(tokens)[:, :1])[:, 0]

    def read_regions(self, trace: Trace, masks: Tensor) -> Tensor:
        """See `Trace.read_regions`."""
        tokens = trace.tokens(1)[:, :1].expand(-1, masks.shape[1], -1)
        blocked = ~masks[:, None].to(tokens.device)
        for layer in range(1, self.layers + 1):
            queries, keys, values = self.qkv(layer, tokens)
            _, around, there = self.qkv(layer, trace.tokens(layer)[:, 1:])
            scores = scaled_scores(queries, around).masked_fill(blocked, float("-inf"))
            alone = (queries.to(scores.dtype) * keys.to(scores.dtype)).sum(-1, keepdim=True) * queries.shape[-1] ** -0.5
            attention = torch.cat((scores, alone), -1).softmax(-1).to(values.dtype)
            block = self._block(layer)
            mixed = attention[..., :-1] @ there + attention[..., -1:] * values
            tokens = tokens + block.ls_1(block.attn.out_proj(mixed.transpose(1, 2).flatten(2)))
            tokens = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
        return self.project(tokens)

    def project(self, block: Tensor) -> Tensor:
        """b n width → b n e in the joint space, not normalised, float32 or finer."""
        joint: Tensor = self._visual.ln_post(block) @ self._visual.proj
        return joint if joint.dtype == torch.float64 else joint.float()

    def tokenise(self, texts: list[str]) -> Tensor:
        """int64 len(texts) × context, CLIP's BPE. Raises ConfigError where the model was trained with another."""
        text = self.identity.model.get("text_cfg", {})
        options = {} if text.get("hf_tokenizer_name") else text.get("tokenizer_kwargs") or {}
        tokeniser = SimpleTokenizer(context_length=text.get("context_length", 77), **options)
        if text.get("hf_tokenizer_name") or text.get("vocab_size", tokeniser.vocab_size) != tokeniser.vocab_size:
            raise ConfigError("the model's text tower does not read CLIP's BPE tokens; hand a TextBank to build()")
        tokens: Tensor = tokeniser(texts)
        return tokens

    def encode_text(self, tokens: Tensor) -> Tensor:
        """int64 b × context → b e, not normalised, float32 or finer.

        The tower is causal and read at the end-of-text token, so what stands behind the longest text can't matter:
        it is cut off, which is exact and several times faster.
        """
        model, tokens = self._model, tokens.to(self.device)
        if not isinstance(model, CLIP) or model.attn_mask is None or model.text_pool_type != "argmax":
            encoded: Tensor = model.encode_text(tokens)
            return encoded
        count = int(tokens.argmax(-1).max()) + 1
        x = model.token_embedding(tokens[:, :count]) + model.positional_embedding[:count]
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:count, :count]))
        pooled = text_global_pool(x, tokens, "argmax")
        projection = model.text_projection
        return projection(pooled) if isinstance(projection, torch.nn.Linear) else pooled @ projection  # type: ignore[no-any-return]

    def _block(self, layer: int) -> Any:
        return self._visual.transformer.resblocks[layer - 1]


def too_long(prompts: list[str], context: int = 77) -> list[str]:
    """Those of the prompts that have more of CLIP's tokens than its text tower reads; the rest would be cut off."""
    tokeniser = SimpleTokenizer(context_length=context)
    return [prompt for prompt in prompts if len(tokeniser.encode(prompt)) > context - 2]
