"""Trains the embedded model from scratch: `python -m ovlabel.demo.train --out FILE` (torch 2.9 or newer, for Muon).

Three kinds of losses share one learned temperature:

- contrast of whole crops with captions, read at the class token (Radford et al., "Learning Transferable Visual Models
  From Natural Language Supervision", ICML 2021);
- contrast of names with the same names in other templates, without which the embeddings of the names of things stay
  similar for long;
- for every patch, cross-entropy of the last block's value path against the prompts of the classes, of the colour-thing
  pairs and of the colours. The value path is the block without attention between patches, each taking its own value. It
  is read twice: with the block's residual connection and feed-forward network, and without them.

The patch tokens of the unchanged last block are not supervised, and nothing of `ovlabel.stages` is used. How a stage
changes the label maps of this model is therefore the effect of the stage, not of training for it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, IterableDataset

from ovlabel.demo import captions
from ovlabel.demo.scenes import PAIR_CLASSES, PAIRS, REGIONS, Scene, draw
from ovlabel.demo.textures import pick
from ovlabel.demo.things import COLOURS, THINGS
from ovlabel.model.load import MEAN, STD, construct, tokeniser

if TYPE_CHECKING:
    from open_clip.model import CLIP

FOLDER = Path(__file__).parent / "model"
TRAINING = 0  # the first number of every seed in training; evaluation uses other seeds
_CROPS = {112: 12, 224: 4, 448: 4}  # crops of a scene, by side in pixels
_THINGS_COUNT = 4.0  # weight of a pixel of a thing, relative to one of a region, because there are fewer
_WEIGHTS = {"contrast": 0.2, "names": 0.5, "class": 1.0, "pair": 1.0, "colour": 0.3}
_SAMPLES = 4  # the target of a patch is sampled at 4 × 4 of its pixels

_THING_OF = [list(THINGS).index(thing) for _, thing in PAIRS]
_COLOUR_OF = [list(COLOURS).index(colour) for colour, _ in PAIRS]
# For each index in PAIR_CLASSES: the index in CLASSES; among regions and trained pairs; among colours. −1: none.
CLASS_OF = torch.tensor([*range(len(REGIONS)), *(len(REGIONS) + thing for thing in _THING_OF)])
TRAINED_OF = torch.tensor(
    [
        *range(len(REGIONS)),
        *(len(REGIONS) + captions.TRAINED_PAIRS.index(p) if p in captions.TRAINED_PAIRS else -1 for p in PAIRS),
    ]
)
COLOUR_OF = torch.tensor([*(-1 for _ in REGIONS), *_COLOUR_OF])

Batch = tuple[NDArray[np.uint8], NDArray[np.uint8], list[str]]


class Crops(IterableDataset[Batch]):
    """Batches of crops of newly drawn scenes, one for each training step.

    The first three quarters of the steps use crops of 112 px, mostly around a thing: seven patches a side show a shape
    at a quarter of the cost of a window. The last quarter uses windows of 224 px, every fourth step one of 448 px. The
    number of patches in a batch is always the same.

    Yields the crops (uint8, b × h × w × 3, RGB), their pair maps at every fourth pixel (uint8, b × h/4 × w/4, indices
    in PAIR_CLASSES), and b captions.

    Args:
        seed: of the scenes and crops.
        batch: crops of 112 px in a batch.
        steps: how many batches.
    """

    def __init__(self, seed: int, batch: int, steps: int) -> None:
        self._seed, self._batch, self._steps = seed, batch, steps

    def __iter__(self) -> Iterator[Batch]:
        worker = torch.utils.data.get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        random = np.random.default_rng([TRAINING, self._seed, number])
        stock: dict[int, list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]] = {112: [], 224: [], 448: []}
        drawn = 0
        for step in range(number, self._steps, count):
            side = 112 if step < 0.75 * self._steps else 448 if step % 4 == 3 else 224
            size = max(self._batch * 112**2 // side**2, 1)
            crops = stock[side]
            while len(crops) < 2 * size:
                seed = (TRAINING, self._seed, drawn * count + number)
                scene, drawn = draw(seed, choose_from=captions.TRAINED_PAIRS), drawn + 1
                crops += [_crop(random, scene, side) for _ in range(_CROPS[side])]
            random.shuffle(crops)
            ready, stock[side] = crops[:size], crops[size:]
            pixels, pairs = (np.stack(part) for part in zip(*ready, strict=True))
            yield pixels, pairs, [captions.caption(random, each) for each in pairs]


def _crop(random: np.random.Generator, scene: Scene, side: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A random square of a scene, resized to `side` pixels, mirrored half the time; small ones mostly show a thing."""
    image, pairs = Image.fromarray(scene.image), Image.fromarray(scene.pairs)
    box = side * min(image.size) / random.uniform(max(280, side), max(480, 1.15 * side))
    room = np.array([image.width - box, image.height - box])
    corner = random.uniform(0, room)
    present = np.flatnonzero(np.bincount(scene.pairs.ravel(), minlength=len(PAIR_CLASSES))[len(REGIONS) :])
    if side == 112 and len(present) and random.random() < 0.8:
        rows, columns = np.nonzero(scene.pairs == len(REGIONS) + pick(random, present.tolist()))
        middle = int(random.integers(len(rows)))
        corner = np.clip([columns[middle], rows[middle]] - box * random.uniform(0.3, 0.7, 2), 0, room)
    area = (*corner, *(corner + box))
    small = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box=area))
    cells = side // _SAMPLES
    truth = np.asarray(pairs.resize((cells, cells), Image.Resampling.NEAREST, box=area))
    return (small[:, ::-1], truth[:, ::-1]) if random.random() < 0.5 else (small, truth)


def readouts(model: CLIP, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Embed images through the value path of the last block.

    Args:
        model: the model in training.
        pixels: b × 3 × H × W, normalised.

    Returns:
        The class token (b × e); every patch of the value path with residual connection and feed-forward network; the
        same of the attention branch alone (each b × n × e). Not normalised.
    """
    visual = model.visual
    x = visual.conv1(pixels)
    grid = x.shape[-2:]
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat((visual.class_embedding.to(x.dtype).expand(len(x), 1, -1), x), 1) + _positions(visual, grid)
    x = visual.ln_pre(x)
    for block in visual.transformer.resblocks[:-1]:
        x = block(x)
    block = visual.transformer.resblocks[-1]
    inner = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
    queries, keys, values = inner.chunk(3, -1)
    shape = (len(x), -1, block.attn.num_heads, x.shape[-1] // block.attn.num_heads)
    heads = [part.reshape(shape).transpose(1, 2) for part in (queries[:, :1], keys, values)]
    pooled = F.scaled_dot_product_attention(heads[0], heads[1], heads[2]).transpose(1, 2).flatten(2)
    mixed = block.attn.out_proj(torch.cat((pooled, values[:, 1:]), 1))
    full = x + mixed
    full = full + block.mlp(block.ln_2(full))
    project = visual.ln_post(torch.cat((full, mixed[:, 1:]), 1)) @ visual.proj
    count = x.shape[1]
    return project[:, 0], project[:, 1:count], project[:, count:]


def _positions(visual: Any, grid: tuple[int, int]) -> Tensor:
    table: Tensor = visual.positional_embedding
    if tuple(grid) == tuple(visual.grid_size):
        return table
    if grid[0] < visual.grid_size[0]:  # a random part of the table, because a crop may lie anywhere
        top, left = (
            int(torch.randint(0, own - part + 1, ())) for own, part in zip(visual.grid_size, grid, strict=True)
        )
        part = table[1:].reshape(*visual.grid_size, -1)[top : top + grid[0], left : left + grid[1]]
        return torch.cat((table[:1], part.flatten(0, 1)))
    square = table[1:].reshape(*visual.grid_size, -1).permute(2, 0, 1)[None]
    wide = F.interpolate(square, size=grid, mode="bicubic", align_corners=False)
    return torch.cat((table[:1], wide[0].flatten(1).T))


def text_features(model: CLIP, tokens: Tensor) -> Tensor:
    """Embed tokenised texts (int64, count × context length): count × e, of unit length."""
    count = int(tokens.argmax(-1).max()) + 1
    x = model.token_embedding(tokens[:, :count]) + model.positional_embedding[:count]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:count, :count]))
    return F.normalize((x[torch.arange(len(x)), tokens.argmax(-1)] @ model.text_projection).float(), dim=-1)


def loss_of(model: CLIP, pixels: Tensor, pairs: Tensor, texts: list[Tensor]) -> dict[str, Tensor]:
    """The losses of a batch, by name.

    Args:
        model: the model in training.
        pixels: b × 3 × H × W, normalised.
        pairs: b × H/4 × W/4, indices in PAIR_CLASSES.
        texts: tokens of b captions; of prompts of the classes, the trained pairs, the colours; and of other prompts of
            the classes and colours.
    """
    sizes = [len(part) for part in texts]
    sentences, classes, trained, colours, again = torch.split(text_features(model, torch.cat(texts)), sizes)
    scale = model.logit_scale.exp()
    whole, *paths = readouts(model, pixels)
    similarity = scale * F.normalize(whole.float(), dim=-1) @ sentences.T
    match = torch.arange(len(sentences), device=similarity.device)
    losses = {"contrast": (F.cross_entropy(similarity, match) + F.cross_entropy(similarity.T, match)) / 2}
    names = torch.cat((classes, colours))
    losses["names"] = F.cross_entropy(scale * names @ again.T, torch.arange(len(names), device=names.device))
    rows, columns = (side // _SAMPLES for side in pairs.shape[1:])
    cells = pairs.long().reshape(len(pairs), rows, _SAMPLES, columns, _SAMPLES)
    samples = cells.transpose(2, 3).reshape(-1, _SAMPLES**2)  # patches × 16
    named = torch.cat((classes[: len(REGIONS)], trained))
    for path, features in zip(("full", "value"), paths, strict=True):
        patches = F.normalize(features.float(), dim=-1).flatten(0, 1)
        for name, bank, index in (
            ("class", classes, CLASS_OF), ("pair", named, TRAINED_OF), ("colour", colours, COLOUR_OF),
        ):  # fmt: skip
            target = index.to(samples.device)[samples]
            known = target >= 0
            chance = (scale * patches @ bank.T).log_softmax(-1).gather(1, target.clamp(min=0))
            weight = known * torch.where(samples < len(REGIONS), 1.0, _THINGS_COUNT)
            losses[f"{path}/{name}"] = -(chance * weight).sum() / weight.sum().clamp(min=1)
    return losses


def _start(model: CLIP, pixels: Tensor) -> None:
    """Initialise a model so that it learns shapes within minutes; otherwise a short training learns colours only.

    The first layer whitens patches: it takes the leading principal components of the given images' patches, scaled to
    equal variance, in a random rotation. Positional embeddings are sines, and stronger than open_clip's. Key weights
    equal query weights, so that attention mixes similar and neighbouring patches from the first step.

    Args:
        model: changed in place.
        pixels: b × 3 × H × W, normalised; b crops from training.
    """
    visual = model.visual
    rows, columns = visual.grid_size
    width, side = visual.positional_embedding.shape[1], visual.patch_size[0]
    patches = F.unfold(pixels, side, stride=side).transpose(1, 2).flatten(0, 1)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    values, vectors = values[-width:], vectors[:, -width:]
    rotation = torch.linalg.qr(torch.randn(width, width)).Q
    whitening = rotation @ (vectors / (values + 0.01 * values[-50]).sqrt()).T
    waves = 0.01 ** torch.linspace(0, 1, width // 4)
    down, across = (torch.arange(count)[:, None] * waves for count in (rows, columns))
    table = torch.cat((torch.cat((down.sin(), down.cos()), 1)[:, None].expand(-1, columns, -1),
                       torch.cat((across.sin(), across.cos()), 1)[None].expand(rows, -1, -1)), -1)  # fmt: skip
    with torch.no_grad():
        model.logit_scale.fill_(math.log(30))
        visual.conv1.weight.copy_(0.6 * whitening.reshape(visual.conv1.weight.shape))
        visual.positional_embedding[1:] = 0.7 * table.flatten(0, 1)
        for block in visual.transformer.resblocks:
            weight = block.attn.in_proj_weight
            weight[width : 2 * width] = weight[:width]


def _normalised(pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Normalise images for the model: uint8, b × h × w × 3, RGB → float32, b × 3 × h × w."""
    mean, std = (torch.tensor(v, device=device)[:, None, None] * 255 for v in (MEAN, STD))
    return (torch.as_tensor(pixels).to(device).permute(0, 3, 1, 2).float() - mean) / std


def train(steps: int, seed: int, batch: int, device: torch.device, workers: int, say: int = 100) -> dict[str, Tensor]:
    """Train a model from scratch.

    Args:
        steps: optimiser steps.
        seed: of the weights, scenes and texts.
        batch: crops of 112 px in a step; larger crops are fewer, with the same number of patches.
        device: where to train.
        workers: processes that draw scenes; 0 draws in this process.
        say: steps between two printed lines of progress.

    Returns:
        The state dict in fp16. Tokens that occurred in no text have zero embeddings.
    """
    torch.manual_seed(seed)
    random = np.random.default_rng([TRAINING, seed])
    crops = Crops(seed, batch, steps)
    model = construct(json.loads((FOLDER / "open_clip_config.json").read_text())["model_cfg"])
    _start(model, torch.cat([_normalised(pixels, torch.device("cpu")) for pixels, *_ in itertools.islice(crops, 8)]))
    model.to(device)
    tokenise = tokeniser(model.context_length)
    used_tokens = torch.zeros(model.vocab_size, dtype=torch.bool)
    matrices = [p for n, p in model.named_parameters() if "resblocks" in n and p.ndim == 2]
    others = [p for n, p in model.named_parameters() if not ("resblocks" in n and p.ndim == 2)]
    optimisers = [  # each with its highest rate
        (torch.optim.Muon(matrices, weight_decay=0.02), 0.02),
        (torch.optim.AdamW(others, weight_decay=0.0, betas=(0.9, 0.98)), 1e-3),
    ]
    half = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    loader = DataLoader(crops, batch_size=None, num_workers=workers, prefetch_factor=3 if workers else None)
    started, totals = time.monotonic(), dict[str, float]()
    for step, (pixels, pairs, sentences) in enumerate(loader):
        prompts = [
            sentences,
            captions.class_prompts(random),
            captions.pair_prompts(random),
            captions.colour_prompts(random),
            captions.class_prompts(random) + captions.colour_prompts(random),
        ]
        texts = [tokenise(part) for part in prompts]
        used_tokens[torch.cat(texts)] = True
        # on a CPU, the backward pass of fused attention is slower
        with torch.autocast(device.type, torch.bfloat16, enabled=half), sdpa_kernel(SDPBackend.MATH):
            inputs = _normalised(pixels, device), torch.as_tensor(pairs).to(device)
            losses = loss_of(model, *inputs, [part.to(device) for part in texts])
        weighted = [_WEIGHTS[name.rpartition("/")[2]] * loss for name, loss in losses.items()]
        torch.stack(weighted).sum().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        share = min((step + 1) / 100, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        for optimiser, highest in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = highest * share
            optimiser.step()
            optimiser.zero_grad()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        for name, loss in losses.items():
            totals[name] = totals.get(name, 0) + loss.item() / say
        if (step + 1) % say == 0:
            means = " ".join(f"{name} {value:.3f}" for name, value in totals.items())
            print(f"{step + 1}/{steps} {time.monotonic() - started:.0f} s {means}", flush=True)
            totals.clear()
    with torch.no_grad():
        model.token_embedding.weight[~used_tokens.to(device)] = 0
    return {name: value.detach().half().cpu().contiguous() for name, value in model.state_dict().items()}


def main() -> None:
    """Run the training from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the weights, a .safetensors file")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    started = time.monotonic()
    weights = train(options.steps, options.seed, options.batch, device, options.workers)
    save_file(weights, options.out)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB after {(time.monotonic() - started) / 60:.1f} min")


if __name__ == "__main__":
    main()
