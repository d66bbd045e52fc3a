"""Finding and reading weight files. Nothing in a file is ever executed."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ovlabel.errors import WeightsError, unknown

HUB = "hf-hub:"
_HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}
_OPENAI_SCALARS = {"input_resolution", "context_length", "vocab_size"}


@dataclass
class Source:
    """Where weights come from, and what is known of the model they belong to.

    Attributes:
        path: the file. quick_gelu: the activation they were trained with, or None where nothing says.
        preprocess: mean, std … of the model's own config, where one is at hand.
    """

    path: Path
    quick_gelu: bool | None = None
    preprocess: dict[str, Any] = field(default_factory=dict)


def find(weights: str, model: str, tags: list[str], tag_config: dict[str, Any] | None, offline: bool) -> Source:
    """The file behind `encoder.weights`.

    Args:
        weights: a file, "hf-hub:owner/name", or a pretrained tag.
        model: the architecture, for messages. tags: the tags it has. tag_config: open_clip's entry of the tag.
        offline: open no connection; only files and caches count.

    Raises:
        WeightsError: names everything that was tried, where a file may be put, and the option that takes it.
    """
    path = Path(weights).expanduser()
    if path.is_file():
        return _with_sibling_config(Source(path))
    if weights.startswith(HUB):
        return _from_hub(weights.removeprefix(HUB), offline)
    if tag_config is not None:
        return _from_tag(weights, model, tag_config, offline)
    if path.suffix or os.sep in weights:
        raise WeightsError(f"no weights file {weights}")
    if not tags:
        raise WeightsError(
            f"unknown weights '{weights}': {model} has no pretrained tags; pass --weights FILE, "
            f"{HUB}owner/name or random:SEED"
        )
    raise WeightsError(unknown(f"pretrained tag of {model}", weights, tags))


def find_file(name: str, files: tuple[str, ...], *, offline: bool) -> Path:
    """A checkpoint that is no encoder: a file, or the first of `files` in `hf-hub:owner/name`. Raises WeightsError."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if not name.startswith(HUB):
        raise WeightsError(f"no weights file {name}; a repository is written {HUB}owner/name")
    tried: list[str] = []
    for file in files:
        if found := _hub_file(name.removeprefix(HUB), file, offline, tried):
            return found
    raise _not_had(name, tried, offline, "Name a file on this machine")


def read(path: Path) -> tuple[dict[str, Tensor], bool]:
    """The tensors of a weight file by name, and whether it is one of OpenAI's own (so that QuickGELU is known).

    Reads `.safetensors`; state dicts saved by torch (with `weights_only=True`; a training checkpoint's `state_dict`
    is taken, a `module.` prefix dropped); OpenAI's TorchScript archives, of which only the tensors are read.

    Raises:
        WeightsError: not a weight file, a damaged one, or one that would need code to be run.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors: dict[str, Any] = load_file(path)
            return _cleaned(tensors)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                    return _cleaned(read_torchscript(archive))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
            loaded = loaded["state_dict"]
        if not isinstance(loaded, dict):
            raise WeightsError(f"it holds a {type(loaded).__name__}, not a dict of tensors")
        return _cleaned(loaded)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except Exception as error:
        reason = str(error).partition("\n")[0][:200]
        raise WeightsError(f"{path} can't be read as weights ({type(error).__name__}: {reason})") from None


def _cleaned(tensors: dict[str, Any]) -> tuple[dict[str, Tensor], bool]:
    """Without OpenAI's extra scalars, attention masks and a `module.` prefix; all values tensors."""
    names = list(tensors)
    if not all(isinstance(name, str) for name in names):
        raise WeightsError("its tensors have no names")
    if names and all(name.startswith("module.") for name in names):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    openai = tensors.keys() >= _OPENAI_SCALARS
    kept = {
        name: value
        for name, value in tensors.items()
        if name not in _OPENAI_SCALARS and name.rpartition(".")[2] != "attn_mask"
    }
    for name, value in kept.items():
        if not isinstance(value, Tensor):
            raise WeightsError(f"'{name}' is a {type(value).__name__}, not a tensor")
    return kept, openai


def _with_sibling_config(source: Source) -> Source:
    """Take activation and constants from an `open_clip_config.json` beside the file, as hub repositories carry it."""
    config = source.path.parent / "open_clip_config.json"
    if config.is_file():
        try:
            table = json.loads(config.read_text(encoding="utf-8"))
            source.quick_gelu = bool(table["model_cfg"].get("quick_gelu", False))
            source.preprocess = dict(table.get("preprocess_cfg", {}))
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise WeightsError(f"{config} beside the weights is damaged: {error!r}") from None
    return source


def _from_hub(repository: str, offline: bool) -> Source:
    tried: list[str] = []
    for name in _HUB_FILES:
        if path := _hub_file(repository, name, offline, tried):
            _hub_file(repository, "open_clip_config.json", offline, [])
            return _with_sibling_config(Source(path))
    raise _not_had(HUB + repository, tried, offline)


def _from_tag(tag: str, model: str, config: dict[str, Any], offline: bool) -> Source:
    known = Source(Path(), bool(config.get("quick_gelu", False)), config)
    tried: list[str] = []
    repository, _, name = str(config.get("hf_hub", "")).rpartition("/")
    url = str(config.get("url", ""))
    kept = Path("~/.cache/clip").expanduser() / os.path.basename(url)
    if url:
        if kept.is_file():
            known.path = kept
            return known
        tried.append(str(kept))
    safe = (f"{os.path.splitext(name)[0]}.safetensors", name) if name else _HUB_FILES
    for file in dict.fromkeys(safe) if repository else ():
        if path := _hub_file(repository, file, offline, tried):
            known.path = path
            return known
    if url and not repository and not offline:
        try:
            from open_clip.pretrained import download_pretrained_from_url

            known.path = Path(download_pretrained_from_url(url))
            return known
        except Exception as error:
            tried.append(f"{url} ({type(error).__name__})")
    raise _not_had(f"{tag}' of '{model}", tried, offline)


def _hub_file(repository: str, name: str, offline: bool, tried: list[str]) -> Path | None:
    """A file of a hub repository: from the hub's cache, else downloaded unless offline.

    One question goes ahead of the download, because the download itself retries for half a minute where no network is.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    repository, _, revision = repository.partition("@")
    try:
        cached = try_to_load_from_cache(repository, name, revision=revision or None)
        if isinstance(cached, str):
            return Path(cached)
        if not offline:
            get_hf_file_metadata(hf_hub_url(repository, name, revision=revision or None), timeout=10)
            return Path(hf_hub_download(repository, name, revision=revision or None))
        tried.append(f"the hub's cache for {repository}/{name}")
    except Exception as error:
        reason = str(error).partition("\n")[0][:80] or type(error).__name__
        tried.append(f"{repository}/{name} ({reason})")
    return None


def _not_had(
    what: str,
    tried: list[str],
    offline: bool,
    cure: str = "Put the file anywhere on this machine and pass --weights FILE (encoder.weights)",
) -> WeightsError:
    why = "offline, and they are in no cache" if offline else "no download worked"
    return WeightsError(f"weights '{what}' can't be had: {why}; tried {', '.join(tried)}. {cure}")


def read_torchscript(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    """The tensors of a TorchScript archive by dotted name. No code of the archive is run.

    Raises:
        WeightsError: the pickle asks for anything but tensors and plain containers.
    """
    name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
    with archive.open(name) as file:
        root = _TensorsOnly(file, archive, name.removesuffix("data.pkl")).load()
    return dict(_tensors(root, "", set()))


class _Module:
    """Stands for any class of the archive; holds its attributes and does nothing."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


class _TensorsOnly(pickle.Unpickler):
    """Knows tensors, ordered dicts and archive classes (as inert `_Module`s); refuses every other global."""

    def __init__(self, file: IO[bytes], archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(file)
        self._archive, self._prefix = archive, prefix
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        allowed: dict[tuple[str, str], Any] = {
            ("torch._utils", "_rebuild_tensor_v2"): lambda *parts: _rebuild(*parts),
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            ("collections", "OrderedDict"): OrderedDict,
            ("torch.jit._pickle", "restore_type_tag"): lambda value, _: value,
            **{("torch.jit._pickle", f"build_{kind}list"): list for kind in ("int", "double", "bool", "tensor")},
        }
        if (module, name) not in allowed:
            raise WeightsError(f"the archive asks for {module}.{name}; only tensors are read, nothing is run")
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> Tensor:
        """A storage, read once; its size must be the one declared, and uncompressed, as torch writes it."""
        _, dtype, key, _, count = pid
        if key not in self._storages:
            entry = self._archive.getinfo(f"{self._prefix}data/{key}")
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != count * dtype.itemsize:
                raise WeightsError(f"storage {key} of the archive is not what it declares")
            data = bytearray(self._archive.read(entry))
            self._storages[key] = torch.frombuffer(data, dtype=dtype) if count else torch.empty(0, dtype=dtype)
        return self._storages[key]


def _rebuild(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    return torch.as_strided(storage, tuple(size), tuple(stride), offset)


def _tensors(node: Any, prefix: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor below a module by dotted name; a module that is there twice is walked once."""
    if isinstance(node, _Module) and id(node) not in seen:
        seen.add(id(node))
        for name, value in vars(node).items():
            if isinstance(value, Tensor):
                yield prefix + name, value
            else:
                yield from _tensors(value, f"{prefix}{name}.", seen)
