"""A frozen CLIP of open_clip, whose last attention can be replaced. Made by `load`, used by the segmenter and `text`.

The model is neither copied nor patched: `Clip.trace` calls its modules up to the last block, and `Clip.readout`
computes that block with whatever attention it is given. The encoder computes in `encoder.precision`; softmax and
everything after the projection into the joint space are computed in float32 (float64 with "fp64").

Letters in shapes: b windows in a batch, H × W pixels, h × w patches, n = 1 + h·w tokens, the class token first, width
of a token, d dimensions of an attention head, e dimensions of the joint embedding, r regions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import VisionTransformer, text_global_pool
from torch import Tensor

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
_WINDOWS, _MOST_WINDOWS = 16, 512  # windows in a batch: most on a CPU and fewest on a GPU; most on a GPU
_ACTIVATION = 10 * 2**20  # bytes of the largest tensor of a batch on a CPU
_RECYCLED = 2**25 - 2**16  # bytes; for blocks above 32 MiB glibc does not adapt what it keeps


@dataclass(frozen=True)
class Identity:
    """What identifies an encoder: two with equal identities give the same embeddings.

    Attributes:
        model: the open_clip model config.
        mean: of each channel, subtracted from pixel values in 0 … 1.
        std: of each channel, by which they are divided then.
        weights: sha256 of the weights file in hex, or "random:SEED".
    """

    model: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: str


class Trace:
    """What CLIP's image tower computed for a batch of windows: the tokens that enter each block.

    Queries, keys, values and attention of a block are computed when they are first asked for. Stages see this class as
    the protocol `ovlabel.types.Trace`.
    """

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
        """The trace as it was before any stage edited the tokens; this trace itself if none did."""
        return self._before or self

    def once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """The result of `make`, computed once for this trace and all traces that were edited from it.

        Args:
            name: what the result is stored under.
            make: computes it.
        """
        kept = self.unedited._kept
        if name not in kept:
            kept[name] = make()
        return kept[name]

    def tokens(self, layer: int) -> Tensor:
        """The tokens that enter block `layer` (1 … layers): b × n × width."""
        return self._inputs[layer - 1]

    def qkv(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of block `layer`, each b × heads × n × d; computed once."""
        if layer not in self._qkv:
            self._qkv[layer] = self._clip.qkv(layer, self.tokens(layer))
        return self._qkv[layer]

    def attention(self, layer: int) -> Tensor:
        """The attention of block `layer`, softmax(q kᵀ / √d): b × heads × n × n, float32 or float64; computed once."""
        if layer not in self._attention:
            queries, keys, _ = self.qkv(layer)
            self._attention[layer] = scaled_scores(queries, keys).softmax(-1)
        return self._attention[layer]

    def attended(self, layer: int, attention: Tensor) -> Tensor:
        """The output of the attention branch of block `layer` with another attention.

        Args:
            layer: 1 … layers.
            attention: b × heads × n × n, or b × 1 × n × n for all heads.

        Returns:
            b × n × width.
        """
        return self._clip.attended(layer, self.qkv(layer)[2], attention)

    def image(self) -> Tensor:
        """CLIP's own image embedding, after its unchanged last block: b × e, not normalised."""
        if self._image is None:
            self._image = self._clip.image(self.unedited.tokens(self.layers))
        return self._image

    def read_regions(self, masks: Tensor) -> Tensor:
        """Embed regions: a class token that attends only to itself and to the patches of one region.

        A copy of the class token passes through every block, where it attends to the tokens that entered that block.
        The patches do not attend to it.

        Args:
            masks: bool, b × r × h·w, the patches of each region.

        Returns:
            b × r × e, not normalised.
        """
        return self._clip.read_regions(self.unedited, masks)

    def edited(self, tokens: Tensor) -> Trace:
        """The same trace with other tokens (b × n × width) entering the last block."""
        edited = Trace(self._clip, [*self._inputs[:-1], tokens], self.grid)
        edited._before = self.unedited
        edited._qkv = {layer: known for layer, known in self._qkv.items() if layer < self.layers}
        edited._attention = {layer: known for layer, known in self._attention.items() if layer < self.layers}
        return edited


class Clip:
    """A frozen CLIP with a plain ViT.

    For images, call `pixels`, `trace`, `readout` (or `readout_of`) and `project` in this order; for texts, `tokenise`
    and `encode_text`.

    Attributes:
        identity: architecture, constants and weights.
        device: where it computes.
        precision: "fp32", "bf16", "fp16" or "fp64".
        dtype: the same as torch's dtype.
        patch: side of a patch, in pixels.
        layers: how many blocks the image tower has.

    Raises:
        ConfigError: a precision that the device does not have.
    """

    def __init__(
        self, model: CLIP | CustomTextCLIP, identity: Identity, config: EncoderConfig, device: torch.device
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
        if device.type == "cpu":  # glibc keeps freed blocks for reuse up to the size of the largest it has freed so far
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
        """How many windows of the model's own size to encode at once.

        On a CPU: as many as keep the largest tensor, inside the feed-forward network, within 10 MiB, but at most 16.
        The system provides larger blocks anew each time, page by page: in fp32, 15 windows of ViT-B/16 at once take an
        eighth longer than four at a time. On a GPU: as many as fit into a third of its free memory. A window takes, in
        the run's dtype, its tokens before every block and about 12 times their size for the feed-forward network, and
        four attention maps of the last block in float32.
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
        """Normalise an image with the model's constants: 3 × H × W, 0 … 255, uint8 or float → float32 or float64."""
        return (image.to(self.device, self._mean.dtype) - self._mean) / self._std

    def trace(self, windows: Tensor) -> Trace:
        """Compute the image tower up to its last block.

        Args:
            windows: b × 3 × H × W, normalised. Rows and columns beyond the last whole patch are ignored.

        Returns:
            The tokens that enter each block.
        """
        visual = self._visual
        grid = (windows.shape[-2] // self.patch, windows.shape[-1] // self.patch)
        # conv1 as a product of patches and weights, because some GPUs compute a convolution in TF32 even in fp32
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
        """The positional embeddings for a patch grid, resampled where it is not the model's own.

        With `encoder.positions` = "clip": bicubic, with scale factors (h + 0.1) / side, as the published methods do
        (from DINO's code). With "open_clip": bicubic with antialiasing, as open_clip does when it loads a model. A grid
        of another shape with as many patches (7 × 28 in place of 14 × 14) is resampled too; the published
        implementations take the embeddings in the wrong order there.

        Args:
            grid: (h, w) in patches.

        Returns:
            n × width, float32, on the CPU; computed once for each grid.
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
        """Queries, keys and values (each b × heads × n × d) that block `layer` computes from tokens (b × n × width)."""
        block = self._block(layer)
        joined = F.linear(block.ln_1(tokens), block.attn.in_proj_weight, block.attn.in_proj_bias)
        batch, count, width = joined.shape
        heads = block.attn.num_heads
        split = joined.reshape(batch, count, 3, heads, width // 3 // heads).permute(2, 0, 3, 1, 4)
        return split[0], split[1], split[2]

    def readout(self, trace: Trace, attention: Tensor) -> Tensor:
        """The output of the last block with another attention, before the last layer norm (`ln_post`).

        `encoder.last_block` says what of the block is computed: "full", all of it; "residual", all but the feed-forward
        network; "attention", the attention branch alone, without the residual connection.

        Args:
            trace: the windows.
            attention: b × heads × n × n, or b × 1 × n × n for all heads.

        Returns:
            b × n × width.
        """
        return self._finished(trace, self.attended(self.layers, trace.qkv(self.layers)[2], attention))

    def readout_of(self, trace: Trace, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """`readout` with the attention Σ softmax(q kᵀ / √d), computed without the attention maps in memory.

        Args:
            trace: the windows.
            pairs: queries and keys (each b × heads × n × d) of every term of the sum. The softmax inside torch's fused
                attention is computed in at least float32, whatever the run's dtype.

        Returns:
            b × n × width.
        """
        values = trace.qkv(self.layers)[2]
        mixed = sum(F.scaled_dot_product_attention(queries, keys, values) for queries, keys in pairs)
        return self._finished(trace, self._out(self.layers, cast(Tensor, mixed)))

    def _finished(self, trace: Trace, out: Tensor) -> Tensor:
        """The rest of the last block, given the output of its attention branch (b × n × width)."""
        block, tokens = self._block(self.layers), trace.tokens(self.layers)
        if self._last_block == "attention":
            return out
        out = tokens + out
        if self._last_block == "full":
            out = out + block.ls_2(block.mlp(block.ln_2(out)))
        return out

    def attended(self, layer: int, values: Tensor, attention: Tensor) -> Tensor:
        """The attention branch of block `layer`: b × n × width.

        Args:
            layer: 1 … layers.
            values: b × heads × m × d.
            attention: b × heads × n × m.
        """
        return self._out(layer, attention.to(values.dtype) @ values)

    def _out(self, layer: int, mixed: Tensor) -> Tensor:
        """Join the outputs of the heads (b × heads × n × d) and project them: b × n × width."""
        block = self._block(layer)
        out: Tensor = block.ls_1(block.attn.out_proj(mixed.transpose(1, 2).flatten(2)))
        return out

    def plain(self, windows: Tensor) -> Tensor:
        """Embed windows as unmodified CLIP does, to measure other attention against; not normalised.

        Args:
            windows: b × 3 × H × W, normalised. open_clip's own code runs where they have the model's own size.

        Returns:
            b × e.
        """
        if windows.shape[-2:] == tuple(self._visual.image_size):
            embedded: Tensor = self._visual(windows.to(self.dtype))
            return embedded
        trace = self.trace(windows)
        queries, keys, _ = trace.qkv(self.layers)
        return self.project(self.readout_of(trace, ((queries, keys),)))[:, 0]

    def image(self, tokens: Tensor) -> Tensor:
        """The image embedding (b × e) from the tokens that enter the last block (b × n × width), not normalised."""
        return self.project(self._block(self.layers)(tokens)[:, :1])[:, 0]

    def read_regions(self, trace: Trace, masks: Tensor) -> Tensor:
        """See `Trace.read_regions`; the regions are those of one trace."""
        tokens = trace.tokens(1)[:, :1].expand(-1, masks.shape[1], -1)
        blocked = ~masks[:, None].to(tokens.device)
        for layer in range(1, self.layers + 1):
            queries, keys, values = self.qkv(layer, tokens)
            _, patch_keys, patch_values = self.qkv(layer, trace.tokens(layer)[:, 1:])
            scores = scaled_scores(queries, patch_keys).masked_fill(blocked, float("-inf"))
            alone = (queries.to(scores.dtype) * keys.to(scores.dtype)).sum(-1, keepdim=True) * queries.shape[-1] ** -0.5
            attention = torch.cat((scores, alone), -1).softmax(-1).to(values.dtype)
            block = self._block(layer)
            mixed = attention[..., :-1] @ patch_values + attention[..., -1:] * values
            tokens = tokens + block.ls_1(block.attn.out_proj(mixed.transpose(1, 2).flatten(2)))
            tokens = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
        return self.project(tokens)

    def project(self, block: Tensor) -> Tensor:
        """Project tokens (b × n × width) into the joint space: b × n × e, float32 or float64, not normalised."""
        joint: Tensor = self._visual.ln_post(block) @ self._visual.proj
        return joint if joint.dtype == torch.float64 else joint.float()

    def tokenise(self, texts: list[str]) -> Tensor:
        """Tokenise texts with CLIP's byte pair encoding.

        Args:
            texts: any number of them; what exceeds the model's context length is cut off.

        Returns:
            int64, len(texts) × context length.

        Raises:
            ConfigError: the model was trained with another tokeniser.
        """
        text = self.identity.model.get("text_cfg", {})
        options = {} if text.get("hf_tokenizer_name") else text.get("tokenizer_kwargs") or {}
        tokeniser = SimpleTokenizer(context_length=text.get("context_length", 77), **options)
        if text.get("hf_tokenizer_name") or text.get("vocab_size", tokeniser.vocab_size) != tokeniser.vocab_size:
            raise ConfigError("the model's text tower does not read CLIP's BPE tokens; hand a TextBank to build()")
        tokens: Tensor = tokeniser(texts)
        return tokens

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Embed tokenised texts.

        The text tower attends to earlier tokens only and is read at the end-of-text token, so that positions after the
        end of the longest text have no influence. They are cut off, which makes it several times faster.

        Args:
            tokens: int64, b × context length.

        Returns:
            b × e, float32 or float64, not normalised.
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
    """The prompts that have more tokens than CLIP's text tower reads, and whose ends it would ignore.

    Args:
        prompts: the texts.
        context: the context length, in tokens; two of them mark start and end.
    """
    tokeniser = SimpleTokenizer(context_length=context)
    return [prompt for prompt in prompts if len(tokeniser.encode(prompt)) > context - 2]
