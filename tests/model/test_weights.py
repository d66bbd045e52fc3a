"""Weight files of every format, found and read; nothing in them is run, nothing unsuitable is used."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import socket
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import open_clip
import pytest
import torch
from open_clip.model import CLIP
from open_clip.pretrained import get_pretrained_cfg
from safetensors.torch import save_file

from ovlabel.errors import ConfigError, WeightsError
from ovlabel.model.clip import Clip
from ovlabel.model.load import load_clip
from ovlabel.model.pickles import read
from ovlabel.model.weights import find
from ovlabel.settings.keys import EncoderConfig
from tests.conftest import TINY_MODEL

Tensors = dict[str, torch.Tensor]
GELU_MODEL = {**TINY_MODEL, "quick_gelu": False}
HUB_CONFIG = {"model_cfg": TINY_MODEL, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}


def tiny_clip(seed: int = 0) -> CLIP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIP(**TINY_MODEL).eval()


@pytest.fixture(scope="module")
def reference() -> CLIP:
    return tiny_clip()


@pytest.fixture(scope="module")
def tensors(reference: CLIP) -> Tensors:
    return {name: tensor.contiguous() for name, tensor in reference.state_dict().items()}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home. huggingface_hub reads HF_HOME when it is imported, so its constant is set here."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home / "hub"))
    return home


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every attempt to look up a host or to connect to one, also one whose failure the code under test catches."""
    tried: list[Any] = []

    def refuse(*args: Any, **more: Any) -> Any:
        tried.append(args)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tried


@pytest.fixture
def load(write_model: Callable[..., str]) -> Callable[..., Clip]:
    def load(weights: Path | str, model: dict[str, Any] = TINY_MODEL, preprocess: Any = None, **more: Any) -> Clip:
        return load_clip(EncoderConfig(model=write_model(model, preprocess), weights=str(weights)), **more)

    return load


def says(clip: Clip) -> torch.Tensor:
    """What the text tower says of a sentence: tells models apart."""
    return clip.encode_text(open_clip.SimpleTokenizer()(["a photo of a cat."]))


# Formats


class _Inner(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def openai_archive(path: Path, tensors: Tensors, scalars: bool = True) -> Path:
    """A TorchScript archive as OpenAI publishes them: a module tree in half precision with three buffers."""
    root = _Inner()
    for name, tensor in tensors.items():
        node: torch.nn.Module = root
        *parts, last = name.split(".")
        for part in parts:
            if not hasattr(node, part):
                node.add_module(part, _Inner())
            node = getattr(node, part)
        node.register_parameter(last, torch.nn.Parameter(tensor.clone(), requires_grad=False))
    root.get_submodule("transformer.resblocks.0").attn_mask = torch.ones(2, 2)  # there, but no weight
    for name, value in {"input_resolution": 64, "context_length": 77, "vocab_size": 49408}.items():
        if scalars:
            root.register_buffer(name, torch.tensor(value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(root), path)
    return path


def halved(tensors: Tensors) -> Tensors:
    kept = ("ln_", "logit_scale")
    return {n: t if any(k in n for k in kept) else t.half() for n, t in tensors.items()}


def safetensors_file(path: Path, tensors: Tensors) -> Path:
    save_file(tensors, path)
    return path


def torch_file(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def module_checkpoint(path: Path, tensors: Tensors) -> Path:
    content = {f"module.{name}": tensor for name, tensor in tensors.items()}
    return torch_file(path, {"epoch": 3, "name": "run", "state_dict": content, "optimizer": {"state": {}}})


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("tiny.safetensors", safetensors_file),
        ("tiny.pt", torch_file),
        ("tiny.bin", torch_file),
        ("epoch_3.pt", module_checkpoint),
        ("tiny.pth", lambda path, tensors: torch_file(path, {f"module.{n}": t for n, t in tensors.items()})),
    ],
)
def test_weight_files_are_read_tensor_by_tensor(
    tmp_path: Path, tensors: Tensors, reference: CLIP, load: Callable[..., Clip], name: str, write: Any
) -> None:
    path = write(tmp_path / name, tensors)
    found, openai = read(path)
    assert not openai
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[n], tensors[n]) for n in tensors)
    tokens = open_clip.SimpleTokenizer()(["a photo of a cat."])
    assert torch.allclose(says(load(path)), reference.encode_text(tokens), rtol=0, atol=1e-6)


def test_an_archive_of_openai_is_read_without_running_it(
    tmp_path: Path, tensors: Tensors, load: Callable[..., Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **more: Any) -> None:
        raise AssertionError("torch.jit.load was called")

    half = halved(tensors)
    path = openai_archive(tmp_path / "ViT-tiny.pt", half)
    with zipfile.ZipFile(path) as archive:
        assert b"attn_mask" in archive.read("ViT-tiny/data.pkl")
    monkeypatch.setattr(torch.jit, "load", fail)
    found, openai = read(path)
    assert openai
    assert found.keys() == tensors.keys()
    for name, tensor in half.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
    same = load(safetensors_file(tmp_path / "half.safetensors", {n: t.float() for n, t in half.items()}))
    assert torch.equal(says(load(path)), says(same))


def test_weights_of_the_plain_layout_fit_a_model_with_a_separate_text_tower(
    tmp_path: Path, tensors: Tensors, load: Callable[..., Clip]
) -> None:
    path = safetensors_file(tmp_path / "tiny.safetensors", tensors)
    apart = load(path, {**TINY_MODEL, "custom_text": True})
    assert torch.allclose(says(apart), says(load(path)), rtol=0, atol=1e-6)


# Files that are not to be trusted


class _Payload:
    def __init__(self, function: Any, argument: str) -> None:
        self._call = (function, (argument,))

    def __reduce__(self) -> Any:
        return self._call


def archive_of(path: Path, pickled: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {"data.pkl": pickled, "constants.pkl": pickled, "version": b"3\n"}.items():
            archive.writestr(f"evil/{name}", data)
    return path


def as_plain_pickle(path: Path, payload: Any) -> Path:
    path.write_bytes(pickle.dumps(payload, protocol=2))
    return path


@pytest.mark.parametrize("kind", ["os.system", "eval"])
@pytest.mark.parametrize(
    "write",
    [
        lambda path, payload: archive_of(path, pickle.dumps(payload, protocol=2)),
        lambda path, payload: archive_of(path, pickle.dumps({"a": [payload]}, protocol=4)),
        lambda path, payload: torch_file(path, {"visual.proj": payload}),
        lambda path, payload: torch_file(path, {"state_dict": {"module.visual.proj": payload}}),
        as_plain_pickle,
    ],
    ids=["archive", "nested archive", "state dict", "checkpoint", "pickle"],
)
def test_nothing_in_a_file_is_executed(tmp_path: Path, kind: str, write: Any) -> None:
    marker = tmp_path / "executed"
    payload = (
        _Payload(os.system, f"touch {marker}")
        if kind == "os.system"
        else _Payload(eval, f"__import__('pathlib').Path({str(marker)!r}).touch()")
    )
    pickle.loads(pickle.dumps(payload))
    assert marker.exists()  # it would work
    marker.unlink()
    path = write(tmp_path / "evil.pt", payload)
    with pytest.raises(WeightsError):
        read(path)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["torch.load", "torch.hub.load", "torch._utils._rebuild_parameter_with_state"])
def test_an_archive_may_name_only_the_functions_that_make_tensors(tmp_path: Path, name: str) -> None:
    module, _, function = name.rpartition(".")
    path = archive_of(tmp_path / "evil.pt", f"c{module}\n{function}\n(tR.".encode())
    with pytest.raises(WeightsError, match=rf"asks for {name}; only tensors are read"):
        read(path)


def cut(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def some_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no weights")
    return path


DAMAGED: dict[str, Callable[[Path, Tensors], Path]] = {
    "empty safetensors": lambda d, _: written(d / "w.safetensors", b""),
    "empty pt": lambda d, _: written(d / "w.pt", b""),
    "garbage safetensors": lambda d, _: written(d / "w.safetensors", bytes(range(256)) * 8),
    "garbage pt": lambda d, _: written(d / "w.pt", bytes(range(256)) * 8),
    "text": lambda d, _: written(d / "w.bin", b"<!DOCTYPE html>\n<title>404 not found</title>"),
    "git lfs pointer": lambda d, _: written(d / "w.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "truncated safetensors": lambda d, t: cut(safetensors_file(d / "w.safetensors", t), 0.5),
    "truncated pt": lambda d, t: cut(torch_file(d / "w.pt", t), 0.5),
    "truncated archive": lambda d, t: cut(openai_archive(d / "w.pt", t), 0.9),
    "another zip": lambda d, _: some_zip(d / "w.pt"),
    "empty pickle in an archive": lambda d, _: archive_of(d / "w.pt", b""),
    "a list": lambda d, _: torch_file(d / "w.pt", [torch.ones(2)]),
    "a tensor": lambda d, _: torch_file(d / "w.pt", torch.ones(2)),
    "a checkpoint of another kind": lambda d, t: torch_file(d / "w.pt", {"generator": t}),
    "numbers for tensors": lambda d, _: torch_file(d / "w.pt", {"visual.proj": 3}),
}


@pytest.mark.parametrize("damaged", DAMAGED)
def test_a_file_without_weights_is_refused_by_name(tmp_path: Path, tensors: Tensors, damaged: str) -> None:
    path = DAMAGED[damaged](tmp_path, tensors)
    with pytest.raises(WeightsError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_archive_whose_tensor_is_cut_short_is_refused(tmp_path: Path, tensors: Tensors) -> None:
    whole = openai_archive(tmp_path / "whole.pt", tensors)
    path = tmp_path / "short.pt"
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, data[:-4] if "/data/" in name and len(data) > 4 else data)
    with pytest.raises(WeightsError, match=r"short\.pt: storage \d+ of the archive is not what it declares"):
        read(path)


# Weights that do not fit


def test_tensors_that_do_not_fit_are_named(tmp_path: Path, tensors: Tensors, load: Callable[..., Clip]) -> None:
    changed = {name: tensor for name, tensor in tensors.items() if name != "visual.proj"}
    changed["visual.extra"] = torch.ones(1)
    changed["ln_final.weight"] = torch.ones(33)
    with pytest.raises(WeightsError) as caught:
        load(safetensors_file(tmp_path / "w.safetensors", changed))
    message = str(caught.value)
    assert "1 missing (visual.proj)" in message
    assert "1 not in the model (visual.extra)" in message
    assert "1 of another shape (ln_final.weight is (33,), not (32,))" in message
    assert "--model" in message


def test_weights_of_a_deeper_model_are_refused(tmp_path: Path, tensors: Tensors, load: Callable[..., Clip]) -> None:
    vision = {**TINY_MODEL["vision_cfg"], "layers": 2}
    with pytest.raises(WeightsError, match=r"12 not in the model \(visual.transformer.resblocks.2"):
        load(safetensors_file(tmp_path / "w.safetensors", tensors), {**TINY_MODEL, "vision_cfg": vision})


@pytest.mark.parametrize("form", ["archive", "state dict"])
def test_weights_of_openai_are_refused_by_a_model_with_gelu(
    tmp_path: Path, tensors: Tensors, load: Callable[..., Clip], form: str
) -> None:
    path = tmp_path / "ViT-tiny.pt"
    if form == "archive":
        openai_archive(path, tensors)
    else:
        scalars = {n: torch.tensor(1) for n in ("input_resolution", "context_length", "vocab_size")}
        torch_file(path, {**tensors, **scalars})
    load(path)
    with pytest.raises(WeightsError, match=r"trained with QuickGELU, but .* has GELU.*quick_gelu = true"):
        load(path, GELU_MODEL)


def test_a_config_beside_the_weights_decides_on_the_activation(
    tmp_path: Path, tensors: Tensors, load: Callable[..., Clip]
) -> None:
    path = safetensors_file(tmp_path / "w.safetensors", tensors)
    beside = tmp_path / "open_clip_config.json"
    load(path, GELU_MODEL)  # nothing says otherwise
    beside.write_text(json.dumps({"model_cfg": TINY_MODEL}))
    load(path)
    with pytest.raises(WeightsError, match=r"trained with QuickGELU, but .* has GELU"):
        load(path, GELU_MODEL)
    beside.write_text(json.dumps({"model_cfg": GELU_MODEL}))
    with pytest.raises(WeightsError, match=r"trained with GELU, but .* has QuickGELU"):
        load(path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_cfg": 3}'])
def test_a_damaged_config_beside_the_weights_is_named(
    tmp_path: Path, tensors: Tensors, load: Callable[..., Clip], content: str
) -> None:
    path = safetensors_file(tmp_path / "w.safetensors", tensors)
    (tmp_path / "open_clip_config.json").write_text(content)
    with pytest.raises(WeightsError, match=r"open_clip_config.json beside the weights is damaged"):
        load(path)


def test_constants_come_from_the_model_config_then_from_the_one_beside_the_weights(
    tmp_path: Path, tensors: Tensors, load: Callable[..., Clip]
) -> None:
    path = safetensors_file(tmp_path / "w.safetensors", tensors)
    assert load(path).identity.mean == open_clip.OPENAI_DATASET_MEAN
    (tmp_path / "open_clip_config.json").write_text(json.dumps(HUB_CONFIG))
    assert load(path).identity.mean == (0.1, 0.2, 0.3)
    assert load(path).identity.std == (0.4, 0.5, 0.6)
    assert load(path, preprocess={"mean": [0.5, 0.5, 0.5]}).identity.mean == (0.5, 0.5, 0.5)


# What a run remembers


def test_the_hash_of_the_file_is_recorded(tmp_path: Path, tensors: Tensors, load: Callable[..., Clip]) -> None:
    path = safetensors_file(tmp_path / "w.safetensors", tensors)
    first = load(path).identity.weights
    assert first == hashlib.sha256(path.read_bytes()).hexdigest()
    safetensors_file(path, {**tensors, "logit_scale": torch.tensor(1.0)})
    os.utime(path, ns=(1, 1))
    assert load(path).identity.weights == hashlib.sha256(path.read_bytes()).hexdigest() != first


def test_random_weights_depend_on_the_seed_alone(load: Callable[..., Clip]) -> None:
    one, again, other = says(load("random:1")), says(load("random:1")), says(load("random:2"))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other, atol=0.01)
    assert load("random:1").identity.weights == "random:1"


def test_random_weights_leave_the_global_generators_unchanged(load: Callable[..., Clip]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1234)
        before, python = torch.get_rng_state(), random.getstate()
        load("random:1")
        assert torch.equal(torch.get_rng_state(), before)
        assert random.getstate() == python


@pytest.mark.parametrize("weights", ["random:x", "random:", "random:-1", "random:1.5"])
def test_a_seed_that_is_no_whole_number_is_refused(load: Callable[..., Clip], weights: str) -> None:
    with pytest.raises(ConfigError, match=r"write random:SEED with a whole number"):
        load(weights)


# Finding


def cached(home: Path, repository: str, files: dict[str, bytes], revision: str = "a" * 40) -> Path:
    """A repository as Hugging Face's cache lays it out; returns the folder of its files."""
    folder = home / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(revision)
    for name, data in files.items():
        (snapshot / name).write_bytes(data)
    return snapshot


@pytest.mark.parametrize("offline", [True, False])
def test_a_repository_is_found_in_the_cache_of_the_hub(
    home: Path, tmp_path: Path, tensors: Tensors, load: Callable[..., Clip], connections: list[Any], offline: bool
) -> None:
    data = safetensors_file(tmp_path / "w.safetensors", tensors).read_bytes()
    config = json.dumps(HUB_CONFIG).encode()
    cached(home, "owner/name", {"open_clip_model.safetensors": data, "open_clip_config.json": config})
    clip = load("hf-hub:owner/name", offline=offline)
    assert clip.identity.weights == hashlib.sha256(data).hexdigest()
    assert clip.identity.mean == (0.1, 0.2, 0.3)
    with pytest.raises(WeightsError, match="QuickGELU"):
        load("hf-hub:owner/name", GELU_MODEL, offline=offline)
    assert not connections


def test_a_repository_without_safetensors_gives_its_other_file(
    home: Path, tmp_path: Path, tensors: Tensors, load: Callable[..., Clip]
) -> None:
    data = torch_file(tmp_path / "w.bin", tensors).read_bytes()
    cached(home, "owner/name", {"open_clip_pytorch_model.bin": data})
    assert load("hf-hub:owner/name", offline=True).identity.weights == hashlib.sha256(data).hexdigest()


def test_a_revision_of_a_repository_can_be_named(home: Path, connections: list[Any]) -> None:
    old, new = "a" * 40, "b" * 40
    wanted = cached(home, "owner/name", {"open_clip_model.safetensors": b"old"}, old)
    cached(home, "owner/name", {"open_clip_model.safetensors": b"new"}, new)
    source = find(f"hf-hub:owner/name@{old}", "m", [], None, offline=True)
    assert source.path == wanted / "open_clip_model.safetensors"
    assert find("hf-hub:owner/name", "m", [], None, offline=True).path.read_bytes() == b"new"


def find_tag(model: str, tag: str) -> Any:
    return find(tag, model, open_clip.list_pretrained_tags_by_model(model), get_pretrained_cfg(model, tag), True)


@pytest.mark.parametrize(
    ("model", "tag", "repository", "quick_gelu"),
    [
        ("ViT-B-16-quickgelu", "openai", "timm/vit_base_patch16_clip_224.openai", True),
        ("ViT-B-16", "laion2b_s34b_b88k", "laion/CLIP-ViT-B-16-laion2B-s34B-b88K", False),
    ],
)
def test_a_pretrained_tag_is_found_in_the_cache_of_the_hub(
    home: Path, connections: list[Any], model: str, tag: str, repository: str, quick_gelu: bool
) -> None:
    folder = cached(home, repository, {"open_clip_model.safetensors": b"weights"})
    source = find_tag(model, tag)
    assert source.path == folder / "open_clip_model.safetensors"
    assert source.quick_gelu is quick_gelu
    assert tuple(source.preprocess["mean"]) == open_clip.OPENAI_DATASET_MEAN
    assert not connections


def test_the_file_that_openais_own_package_keeps_is_found(home: Path, connections: list[Any]) -> None:
    path = home / ".cache" / "clip" / "ViT-B-16.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    assert find_tag("ViT-B-16-quickgelu", "openai").path == path
    with pytest.raises(WeightsError, match=f"{path}: it is text .'damaged'., no weights"):
        load_clip(EncoderConfig())  # the defaults ask for it
    assert not connections


def test_hf_home_moves_the_cache_of_the_hub(home: Path, tmp_path: Path) -> None:
    """In a process of its own: huggingface_hub reads the variable once."""
    folder = cached(home / "elsewhere", "owner/name", {"open_clip_model.safetensors": b"weights"})
    code = "from ovlabel.model.weights import find\nprint(find('hf-hub:owner/name', 'm', [], None, True).path)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HOME": str(home / "elsewhere")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(folder / "open_clip_model.safetensors")


def test_offline_without_weights_says_what_was_tried_and_what_to_do(home: Path, connections: list[Any]) -> None:
    with pytest.raises(WeightsError) as caught:
        load_clip(EncoderConfig(), offline=True)
    message = str(caught.value)
    assert "weights 'openai' of 'ViT-B-16-quickgelu' can't be had: offline" in message
    assert str(home / ".cache" / "clip" / "ViT-B-16.pt") in message
    assert "timm/vit_base_patch16_clip_224.openai/open_clip_model.safetensors" in message
    assert "--weights FILE" in message
    assert "\n" not in message
    assert not connections


def test_offline_without_a_repository_says_what_was_tried(load: Callable[..., Clip], connections: list[Any]) -> None:
    with pytest.raises(
        WeightsError, match=r"'hf-hub:owner/name' can't be had: offline.*owner/name/open_clip.*--weights"
    ):
        load("hf-hub:owner/name", offline=True)
    assert not connections


@pytest.mark.parametrize(
    ("model", "weights", "message"),
    [
        ("ViT-B-16", "opena", r"unknown pretrained tag of ViT-B-16 'opena'; did you mean openai"),
        ("ViT-B-16", "nowhere.pt", r"no weights file nowhere.pt"),
        ("ViT-B-16", "./nowhere/openai", r"no weights file ./nowhere/openai"),
    ],
)
def test_missing_weights_are_refused(model: str, weights: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        load_clip(EncoderConfig(model=model, weights=weights))


def test_a_model_config_file_has_no_pretrained_tags(load: Callable[..., Clip]) -> None:
    with pytest.raises(WeightsError, match=r"model.json has no pretrained tags; pass --weights FILE"):
        load("openai")


def test_a_weight_file_may_lie_in_the_home_folder(home: Path, tensors: Tensors, load: Callable[..., Clip]) -> None:
    safetensors_file(home / "w.safetensors", tensors)
    assert says(load("~/w.safetensors")).shape == (1, 32)


# Models


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("ViT-B-16-SigLIP", "not a plain ViT"),
        ("convnext_base", "not a plain ViT"),
        ("EVA02-B-16", "not a plain ViT"),
        ("RN50", "not a plain ViT"),
        ("coca_ViT-B-32", "text tower of another library"),
        ("roberta-ViT-B-32", "text tower of another library"),
        ("ViT-B-16-quickgleu", r"unknown model 'ViT-B-16-quickgleu'; did you mean .*ViT-B-16-quickgelu"),
        ("hf-hub:x/y", r"unknown model 'hf-hub:x/y'"),
        ("nowhere.json", r"cannot read model config nowhere.json"),
    ],
)
def test_models_other_than_a_plain_vit_are_refused_before_anything_is_loaded(
    connections: list[Any], model: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_clip(EncoderConfig(model=model, weights="openai"))
    assert not connections


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attentional_pool": True, "attn_pooler_heads": 2}, "attentional pooler"),
        ({"pool_type": "avg"}, "pool_type = avg"),
        ({"final_ln_after_pool": True}, "norm after pooling"),
        ({"timm_model_name": "vit_base_patch16_224"}, "not a plain ViT"),
        ({"layers": [1, 1, 1, 1]}, "not a plain ViT"),
    ],
)
def test_a_config_of_another_kind_of_tower_is_refused(
    load: Callable[..., Clip], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load("random:0", {**TINY_MODEL, "vision_cfg": {**TINY_MODEL["vision_cfg"], **change}})


@pytest.mark.parametrize("content", ["{", "[]", "3", "{}", '{"model_cfg": {"embed_dim": 3}}'])
def test_a_file_that_is_no_model_config_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "model.json"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_clip(EncoderConfig(model=str(path), weights="random:0"))
    assert str(path) in str(caught.value)


def test_an_argument_that_open_clip_does_not_know_is_named(load: Callable[..., Clip]) -> None:
    with pytest.raises(ConfigError, match="embed_dims"):
        load("random:0", {**TINY_MODEL, "embed_dims": 3})


@pytest.mark.parametrize("weights", ["random:\u00b2", "random:99999999999999999999999", "random:-1", "random:"])
def test_a_seed_is_a_plain_number(weights: str, write_model: Callable[..., str]) -> None:
    with pytest.raises(ConfigError, match="write random:SEED"):
        load_clip(EncoderConfig(write_model(TINY_MODEL), weights))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision_cfg": 5}, "must be tables"),
        ({"text_cfg": None}, "must be tables"),
        ({"text_cfg": {"width": 33, "heads": 2}}, "open_clip does not take this model config"),
        ({"surprise": 1}, "open_clip does not take this model config"),
    ],
)
def test_a_model_config_that_makes_no_sense_is_refused(
    change: dict[str, Any], message: str, write_model: Callable[..., str]
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_clip(EncoderConfig(write_model(TINY_MODEL | change), "random:0"))


@pytest.mark.parametrize("mean", ["0.5", [0.5, 0.5], [0.5, 0.5, None]])
def test_preprocessing_constants_are_three_numbers(mean: Any, write_model: Callable[..., str]) -> None:
    with pytest.raises(ConfigError, match="mean must be three numbers"):
        load_clip(EncoderConfig(write_model(TINY_MODEL, {"mean": mean}), "random:0"))


def test_a_state_dict_without_names_is_refused(tmp_path: Path, write_model: Callable[..., str]) -> None:
    torch.save({1: torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match=r"weights\.pt: its tensors have no names"):
        load_clip(EncoderConfig(write_model(TINY_MODEL), str(tmp_path / "weights.pt")))
