"""Weights as people have them: other programs' names, containers, suffixes and folders; and what is no weights."""

from __future__ import annotations

import argparse
import collections
import gzip
import io
import json
import logging
import pathlib
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import save_file

from ovlabel.errors import WeightsError
from ovlabel.model.layouts import open_clip_names
from ovlabel.model.load import load_clip
from ovlabel.model.pickles import read
from ovlabel.model.weights import find, find_file
from ovlabel.settings.keys import EncoderConfig
from tests.conftest import TINY_MODEL
from tests.hostile import refused
from tests.model.hostile_weights import STATE, archive, legacy, of, saved

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = CLIP(**TINY_MODEL).state_dict()
    return {name: tensor.contiguous() for name, tensor in state.items() if not name.endswith("attn_mask")}


def transformers_names(tensors: Tensors) -> Tensors:
    """The layout of transformers' CLIPModel, written from its published names."""
    towers = {"transformer.": "text_model.encoder.layers.", "visual.transformer.": "vision_model.encoder.layers."}
    parts = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj",
             "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}  # fmt: skip
    single = {
        "logit_scale": "logit_scale",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    }
    norms = {"ln_final": "text_model.final_layer_norm", "visual.ln_pre": "vision_model.pre_layrnorm",
             "visual.ln_post": "vision_model.post_layernorm"}  # fmt: skip
    found: Tensors = {}
    for name, tensor in tensors.items():
        head, _, last = name.rpartition(".")
        if name in single:
            found[single[name]] = tensor
        elif name in ("text_projection", "visual.proj"):
            found[{"text_projection": "text_projection.weight"}.get(name, "visual_projection.weight")] = (
                tensor.T.contiguous()
            )
        elif head in norms:
            found[f"{norms[head]}.{last}"] = tensor
        else:
            tower, block, part = head.replace("resblocks.", "", 1).partition("transformer.")[0], *_block(head)
            layer = f"{towers[f'{tower}transformer.']}{block}"
            if part == "attn":
                for letter, rows in zip("qkv", tensor.chunk(3)):
                    found[f"{layer}.self_attn.{letter}_proj.{last.removeprefix('in_proj_')}"] = rows.contiguous()
            else:
                found[f"{layer}.{parts[part]}.{last}"] = tensor
    found["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    found["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    return found


def _block(head: str) -> tuple[str, str]:
    block, _, part = head.partition("resblocks.")[2].partition(".")
    return block, part


def same(one: Tensors, other: Tensors) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("prefix", ["", "clip.", "model.", "module.model.clip."])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_transformers_layout_becomes_open_clips_exactly(
    tmp_path: Path, tensors: Tensors, prefix: str, dtype: torch.dtype
) -> None:
    given = {
        f"{prefix}{n}": t.to(dtype) if t.is_floating_point() else t for n, t in transformers_names(tensors).items()
    }
    save_file(given, tmp_path / "model.safetensors")
    names, transformers = open_clip_names(read(tmp_path / "model.safetensors")[0])
    assert transformers
    same(names, {name: tensor.to(dtype) for name, tensor in tensors.items()})


@pytest.mark.parametrize("custom_text", [False, True])
def test_transformers_weights_load_as_open_clips_do(
    tmp_path: Path, tensors: Tensors, write_model: Callable[..., str], custom_text: bool
) -> None:
    model = write_model({**TINY_MODEL, "custom_text": custom_text})
    save_file(transformers_names(tensors), tmp_path / "hf.safetensors")
    save_file(tensors, tmp_path / "own.safetensors")
    tokens = torch.randint(0, 100, (2, 77))
    hf, own = (load_clip(EncoderConfig(model, str(tmp_path / f"{n}.safetensors"), device="cpu")) for n in ("hf", "own"))
    assert torch.equal(hf.encode_text(tokens), own.encode_text(tokens))


@pytest.mark.parametrize(
    ("acts", "fits"), [(("quick_gelu", "quick_gelu"), True), (("gelu", "gelu"), False), ((None, None), True)]
)
def test_the_config_beside_transformers_weights_says_the_activation(
    tmp_path: Path, tensors: Tensors, write_model: Callable[..., str], acts: tuple[str, str], fits: bool
) -> None:
    save_file(transformers_names(tensors), tmp_path / "model.safetensors")
    towers = ({"hidden_act": act} if act else {} for act in acts)
    (tmp_path / "config.json").write_text(json.dumps(dict(zip(("vision_config", "text_config"), towers))))
    config = EncoderConfig(write_model(TINY_MODEL), str(tmp_path), device="cpu")
    if fits:
        load_clip(config)
    else:
        assert "trained with GELU" in refused(WeightsError, lambda: load_clip(config))


@pytest.mark.parametrize("config", [None, "{", "[]", '{"vision_config": 3}'])
def test_an_unknown_activation_of_transformers_weights_is_said(
    tmp_path: Path, tensors: Tensors, write_model: Callable[..., str], config: str | None, caplog: Any
) -> None:
    save_file(transformers_names(tensors), tmp_path / "model.safetensors")
    if config:
        (tmp_path / "config.json").write_text(config)
    with caplog.at_level(logging.WARNING, "ovlabel"):
        load_clip(EncoderConfig(write_model(TINY_MODEL), str(tmp_path / "model.safetensors"), device="cpu"))
    assert "don't say their activation" in caplog.text


def test_a_layout_of_transformers_that_is_not_whole_names_what_is_missing(
    tmp_path: Path, tensors: Tensors, write_model: Callable[..., str]
) -> None:
    given = transformers_names(tensors)
    del given["vision_model.encoder.layers.1.self_attn.k_proj.weight"]
    config = EncoderConfig(write_model(TINY_MODEL), str(saved(tmp_path / "w.pt", given)), device="cpu")
    message = refused(WeightsError, lambda: load_clip(config))
    assert "in transformers' layout) does not fit" in message
    assert "1 missing (visual.transformer.resblocks.1.attn.in_proj_weight)" in message
    given["vision_model.encoder.layers.1.self_attn.k_proj.weight"] = torch.ones(3, 3)
    saved(tmp_path / "w.pt", given)
    assert "1 missing" in refused(WeightsError, lambda: load_clip(config))


WRAPPED: dict[str, Callable[[str], str]] = {
    "DDP": lambda name: f"module.{name}",
    "compiled": lambda name: f"_orig_mod.{name}",
    "compiled in DDP": lambda name: f"module._orig_mod.{name}",
    "DDP in compiled": lambda name: f"_orig_mod.module.{name}",
    "Lightning": lambda name: f"model.{name}",
    "Lightning, compiled": lambda name: f"model._orig_mod.{name}",
    "nested": lambda name: f"net.model.clip_model.{name}",
    "FSDP inside": lambda name: name.replace("visual.", "visual._fsdp_wrapped_module.", 1),
    "a compiled tower": lambda name: name.replace("visual.", "visual._orig_mod.", 1),
    "checkpointed blocks": lambda name: name.replace(".attn.", "._checkpoint_wrapped_module.attn."),
}


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_prefixes_and_wrappers_are_taken_off(tmp_path: Path, tensors: Tensors, wrapped: str) -> None:
    path = saved(tmp_path / "w.pt", {WRAPPED[wrapped](name): tensor for name, tensor in tensors.items()})
    names, transformers = open_clip_names(read(path)[0])
    assert not transformers
    same(names, tensors)


def test_several_models_in_one_table_are_refused(tmp_path: Path, tensors: Tensors) -> None:
    both = {f"{prefix}{name}": tensor for prefix in ("student.", "teacher.") for name, tensor in tensors.items()}
    assert "several CLIPs, told apart by the prefixes student., teacher." in refused(
        WeightsError, lambda: open_clip_names(both)
    )
    doubled = {"module.a": torch.ones(1), "a": torch.ones(1)}
    assert "holds 'a' twice" in refused(WeightsError, lambda: read(saved(tmp_path / "w.pt", doubled)))
    mixed = {**tensors, "text_model.encoder.layers.0.layer_norm1.weight": torch.ones(1)}
    assert "two of its tensors are transformer.resblocks.0.ln_1.weight" in refused(
        WeightsError, lambda: open_clip_names(mixed)
    )


def test_other_tensors_beside_a_model_are_named(
    tmp_path: Path, tensors: Tensors, write_model: Callable[..., str]
) -> None:
    given = {**{f"model.{name}": tensor for name, tensor in tensors.items()}, "criterion.weight": torch.ones(2)}
    config = EncoderConfig(write_model(TINY_MODEL), str(saved(tmp_path / "w.ckpt", {"state_dict": given})))
    assert "1 not in the model (criterion.weight)" in refused(WeightsError, lambda: load_clip(config))


@pytest.mark.parametrize(
    "keys",
    [("state_dict",), ("model",), ("model_state_dict",), ("module",), ("model", "state_dict"), ("ema",), ("net",)],
)
def test_a_state_dict_is_found_in_a_checkpoint(tmp_path: Path, keys: tuple[str, ...]) -> None:
    content: Any = STATE
    for key in reversed(keys):
        content = {"epoch": 3, "best": torch.tensor(0.5), key: content, "optimizer": {"state": {0: torch.ones(2)}}}
    for save in (saved, legacy):
        same(read(save(tmp_path / "w.pt", content))[0], STATE)


def test_a_moving_average_is_taken_only_where_nothing_else_is(tmp_path: Path) -> None:
    average = {name: tensor + 1 for name, tensor in STATE.items()}
    same(read(saved(tmp_path / "w.pt", {"state_dict_ema": average, "state_dict": STATE}))[0], STATE)
    same(read(saved(tmp_path / "w.pt", {"n_averaged": torch.tensor(3), **average}))[0], average)


class Settings(dict[str, Any]):
    """A table of a program of its own, as configuration libraries make them."""


class Names(list[str]):
    """A list of a program of its own."""


class Plain:
    """An object of a program of its own; where it is made anew, it leaves a mark."""

    def __init__(self) -> None:
        self.value = {"lr": 1.0, "names": Names(["a"])}

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("something in the file was run")


BESIDE: dict[str, Any] = {
    "arguments": argparse.Namespace(lr=1.0, path=pathlib.PurePosixPath("/x"), rest=argparse.Namespace(a=[1])),
    "numpy's number": np.float64(0.5),
    "numpy's array": np.arange(3),
    "a path": pathlib.Path("/x"),
    "a table": Settings(a=1, b=Settings()),
    "a list": Names(["a", "b"]),
    "an object": Plain(),
    "a class": Plain,
    "random states": {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002
        "torch": torch.get_rng_state(),
    },
    "a counter": collections.Counter("ab"),
    "a queue": collections.deque([1, 2]),
    "sets": {1, 2},
}


@pytest.mark.parametrize("save", [saved, legacy])
@pytest.mark.parametrize("beside", BESIDE)
def test_what_lies_beside_the_weights_is_passed_over(tmp_path: Path, beside: str, save: Any) -> None:
    content = {"args": BESIDE[beside], "state_dict": STATE, "hyper_parameters": {"x": [BESIDE[beside]]}}
    same(read(save(tmp_path / "w.pt", content))[0], STATE)


@pytest.mark.parametrize("beside", BESIDE)
def test_what_is_passed_over_is_no_tensor(tmp_path: Path, beside: str) -> None:
    refused(WeightsError, lambda: read(saved(tmp_path / "w.pt", {"state_dict": {**STATE, "x": BESIDE[beside]}})))
    refused(WeightsError, lambda: read(saved(tmp_path / "w.pt", BESIDE[beside])))


@pytest.mark.parametrize(
    "name", ["pip.main", "__main__.run", "tests.model.run", "posix.system", "subprocess.Popen", "numpy.load",
             "runpy.run_path", "torch.load", "shutil.rmtree", "builtins.exec", "importlib.import_module",
             "functools.partial"],
)  # fmt: skip
def test_nothing_that_is_called_is_passed_over(tmp_path: Path, name: str) -> None:
    module, _, function = name.rpartition(".")
    pickled = of(b"}X\x04\0\0\0args", f"c{module}\n{function}\n".encode(), b"X\x01\0\0\0a\x85R", b"s")
    message = refused(WeightsError, lambda: read(archive(tmp_path / "w.pt", pickled)))
    assert f"asks for {name}; only tensors are read, nothing is run" in message


def test_a_whole_model_is_named(tmp_path: Path) -> None:
    message = refused(WeightsError, lambda: read(saved(tmp_path / "w.pt", torch.nn.Linear(2, 2))))
    assert "save the model's state_dict(), not the model" in message


@pytest.mark.parametrize(
    "name", ["0123abcd", "pytorch_model.bin", "w.sft", "w.pt", "w.safetensors", "W.SAFETENSORS", "w.ckpt"]
)
def test_the_content_says_what_a_file_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for write in (lambda: save_file(STATE, path), lambda: saved(path, STATE), lambda: legacy(path, STATE)):
        write()
        same(read(path)[0], STATE)


def packed(data: bytes) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as file:
        entry = tarfile.TarInfo("w.pt")
        entry.size = len(data)
        file.addfile(entry, io.BytesIO(data))
    return target.getvalue()


def zipped(name: str) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        file.writestr(name, b"x")
    return target.getvalue()


OTHERS: dict[str, tuple[bytes, str]] = {
    "w.safetensors": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS"),
    "w.bin": (b"\n<!DOCTYPE html><title>404</title>", "a page of HTML"),
    "w.pt": (b'<?xml version="1.0"?><Error><Code>AccessDenied', "a page of HTML or XML"),
    "a.bin": (b"Entry not found", "no such file"),
    "b.bin": (b"Repository Not Found\n", "text ("),
    "pytorch_model.bin.index.json": (b'{"metadata": {"total_size": 1}, "weight_map": {}}', "the index of weights"),
    "config.json": (b'{"a": 1}', "JSON, no weights"),
    "w.pt.gz": (gzip.compress(b"x"), "compressed with gzip"),
    "w.tar": (packed(b"x"), "a tar archive"),
    "w.zip": (zipped("w.pt"), "zip file with 0 data.pkl"),
    "w.npz": (zipped("a.npy"), "an archive of NumPy's"),
    "w.onnx": (b"\x08\x08\x12\x07pytorch\x1a\x05", "an ONNX model"),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x05", "an ONNX model"),
    "w.gguf": (b"GGUF\x03", "GGUF"),
    "w.h5": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "flax_model.msgpack": (b"\x82\xa3abc", "Flax"),
    "empty.pt": (b"", "is empty"),
    "zeros.pt": (bytes(1000), "zeros"),
    "noise": (b"\xff\x01\x02", "neither a file of torch's nor safetensors"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_that_is_no_weights_is_named(tmp_path: Path, name: str) -> None:
    content, said = OTHERS[name]
    (tmp_path / name).write_bytes(content)
    assert said in refused(WeightsError, lambda: read(tmp_path / name))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize(
    "save", [saved, legacy, lambda path, state: save_file(state, path)], ids=["zip", "old", "safetensors"]
)
def test_a_download_that_was_cut_off_is_named(tmp_path: Path, tensors: Tensors, save: Any, share: float) -> None:
    path = tmp_path / "w"
    save(path, tensors)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "cut off" in refused(WeightsError, lambda: read(path))


def found(weights: Path | str) -> Path:
    return find(str(weights), "m", [], None, True).path


def test_a_folder_stands_for_the_weights_in_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / ".hidden.pt").write_bytes(b"")
    assert "holds no file of weights; name the file" in refused(WeightsError, lambda: found(tmp_path))
    first = saved(tmp_path / "epoch_1.pt", STATE)
    assert found(tmp_path) == first
    saved(tmp_path / "epoch_2.pt", STATE)
    assert "several files of weights (epoch_1.pt, epoch_2.pt); name the file" in refused(
        WeightsError, lambda: found(tmp_path)
    )
    for name in (
        "pytorch_model.bin",
        "model.safetensors",
        "open_clip_pytorch_model.bin",
        "open_clip_model.safetensors",
    ):
        shutil.copy(first, tmp_path / name)
        assert found(tmp_path) == tmp_path / name
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    shutil.copy(first, snapshot / "pytorch_model.bin")
    assert found(tmp_path / "models--a--b") == snapshot / "pytorch_model.bin"


@pytest.mark.parametrize(
    ("weights", "meant"),
    [
        ("laion/CLIP-ViT-B-16", "hf-hub:laion/CLIP-ViT-B-16"),
        ("timm/vit_base_patch16_clip_224.openai", "hf-hub:timm/vit_base_patch16_clip_224.openai"),
        ("https://huggingface.co/openai/clip-vit-base-patch16", "hf-hub:openai/clip-vit-base-patch16"),
        ("hf:a/b", "hf-hub:a/b"),
        ("nowhere/deep/w.pt", "hf-hub:owner/name"),
    ],
)
def test_a_repository_that_is_not_written_as_one_is_told_how(weights: str, meant: str) -> None:
    assert f"a repository is written {meant}" in refused(WeightsError, lambda: found(weights))
    assert f"a repository is written {meant}" in refused(WeightsError, lambda: find_file(weights, (), offline=True))
