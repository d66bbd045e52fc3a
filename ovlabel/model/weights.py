"""Finds the weights file of a run: a file on this machine, a pretrained tag of open_clip, or a Hugging Face repository.

Caches are tried before downloads. The file is read by `ovlabel.model.pickles`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovlabel.errors import WeightsError, short, unknown
from ovlabel.files import read_up_to

HUB = "hf-hub:"
_HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_TRANSFORMERS_FILES = ("model.safetensors", "pytorch_model.bin")
_SUFFIXES = (".safetensors", ".sft", ".bin", ".pt", ".pth", ".ckpt")
_CONFIG_BYTES = 2**20
_REPOSITORY = re.compile(
    r"(?:(?:https?://)?(?:huggingface\.co|hf\.co)/|hf[:/]+|hf_hub[:/]+)?(?P<owner>[\w.-]+)/(?P<name>[\w.@-]+)/?"
)


@dataclass
class Source:
    """A weights file, and what is known of the model it belongs to.

    Attributes:
        path: the file.
        quick_gelu: whether it was trained with QuickGELU (else GELU), or None if that is not known.
        preprocess: the preprocessing constants of its model ("mean", "std"), as far as they are known.
    """

    path: Path
    quick_gelu: bool | None = None
    preprocess: dict[str, Any] = field(default_factory=dict)


def find(weights: str, model: str, tags: list[str], tag_config: dict[str, Any] | None, offline: bool) -> Source:
    """Find the file of `encoder.weights`, downloading it if necessary.

    Args:
        weights: a file, "hf-hub:owner/name", or a pretrained tag.
        model: name of the model, for messages.
        tags: the pretrained tags of the model.
        tag_config: open_clip's entry of the tag, or None if `weights` is no tag.
        offline: open no connection; look for files and in caches only.

    Raises:
        WeightsError: there is none. The message names everything that was tried, and how to pass a file instead.
    """
    path = Path(os.path.expanduser(weights))
    if os.path.isfile(path):
        return _with_sibling_config(Source(path))
    if weights.startswith(HUB):
        return _from_hub(weights.removeprefix(HUB), offline)
    if tag_config is not None:
        return _from_tag(weights, model, tag_config, offline)
    if os.path.isdir(path):
        return _with_sibling_config(Source(_in_folder(path)))
    if path.suffix or os.sep in weights:
        raise WeightsError(_no_file(weights, path))
    if not tags:
        raise WeightsError(
            f"unknown weights '{weights}': {model} has no pretrained tags; pass --weights FILE, "
            f"{HUB}owner/name or random:SEED"
        )
    raise WeightsError(unknown(f"pretrained tag of {model}", weights, tags))


def local_file(weights: str) -> Path:
    """The file of `encoder.weights` on this machine, as its name says: the one in a folder, else the path.

    Args:
        weights: as for `find`.
    """
    path = Path(os.path.expanduser(weights))
    if os.path.isdir(path):
        with contextlib.suppress(WeightsError):
            return _in_folder(path)
    return path


def origin(weights: str, tag_config: dict[str, Any]) -> str:
    """The URL from which weights would be downloaded, or "" if they can't be.

    Args:
        weights: as for `find`.
        tag_config: open_clip's entry of the tag; empty if `weights` is no tag.
    """
    from huggingface_hub import constants

    hub = weights.startswith(HUB)
    repository = weights.removeprefix(HUB) if hub else str(tag_config.get("hf_hub", "")).rpartition("/")[0]
    if repository:
        return f"{constants.ENDPOINT}/{repository.partition('@')[0]}"
    return str(tag_config.get("url", ""))


def find_file(name: str, files: tuple[str, ...], *, offline: bool) -> Path:
    """Find a checkpoint that is not the encoder's, such as a stage's, downloading it if necessary.

    Args:
        name: a file, or "hf-hub:owner/name".
        files: names under which the repository may hold it; the first that exists is taken.
        offline: open no connection; look for files and in caches only.

    Raises:
        WeightsError: there is none.
    """
    path = Path(os.path.expanduser(name))
    if os.path.isfile(path):
        return path
    if not name.startswith(HUB):
        raise WeightsError(_no_file(name, path))
    tried: list[str] = []
    for file in files:
        if found := _hub_file(name.removeprefix(HUB), file, offline, tried):
            return found
    raise _not_found(name, tried, offline, "Name a file on this machine")


def _no_file(weights: str, path: Path) -> str:
    """What is wrong with a name that is no file, and how a repository is written."""
    if os.path.exists(path):
        return f"weights {weights}: that is no file; name the file itself"
    repository = _REPOSITORY.fullmatch(weights)
    meant = HUB + ("/".join(repository.group("owner", "name")) if repository else "owner/name")
    return f"no weights file {short(weights)}; a repository is written {short(meant)}"


def _in_folder(folder: Path) -> Path:
    """The weights file in a folder: the only one, or the one of those that repositories hold side by side.

    Raises:
        WeightsError: there is none, or there are several.
    """
    try:
        snapshots = sorted(folder.glob("snapshots/*")) if (folder / "snapshots").is_dir() else []
        folder = snapshots[0] if len(snapshots) == 1 else folder
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
    except OSError as error:
        raise WeightsError(f"weights {folder}: {error.strerror}") from None
    found = [name for name in names if name.lower().endswith(_SUFFIXES)]
    usual = next((name for name in (*_HUB_FILES, *_TRANSFORMERS_FILES) if name in found), "")
    if usual or len(found) == 1:
        return folder / (usual or found[0])
    what = (
        f"holds several files of weights ({', '.join(map(short, found[:4]))})" if found else "holds no file of weights"
    )
    raise WeightsError(f"{folder} is a folder that {what}; name the file in it")


def _with_sibling_config(source: Source) -> Source:
    """Take activation and constants from the config in the file's folder, as open_clip's repositories have it."""
    config = source.path.parent / "open_clip_config.json"
    if config.is_file():
        try:
            table = json.loads(read_up_to(config, _CONFIG_BYTES))
            source.quick_gelu = bool(table["model_cfg"].get("quick_gelu", False))
            source.preprocess = dict(table.get("preprocess_cfg", {}))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise WeightsError(f"{config} beside the weights is damaged: {short(repr(error))}") from None
    return source


def transformers_activation(weights: Path) -> bool | None:
    """Whether weights in transformers' layout use QuickGELU, by the `config.json` beside them; None if it is not said.

    Args:
        weights: the file.
    """
    try:
        table = json.loads(read_up_to(weights.parent / "config.json", _CONFIG_BYTES))
        acts = {table[tower].get("hidden_act", "quick_gelu") for tower in ("vision_config", "text_config")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return {("quick_gelu",): True, ("gelu",): False}.get(tuple(acts))


def _from_hub(repository: str, offline: bool) -> Source:
    tried: list[str] = []
    for name in (*_HUB_FILES, *_TRANSFORMERS_FILES):
        if path := _hub_file(repository, name, offline, tried):
            config = "open_clip_config.json" if name in _HUB_FILES else "config.json"
            _hub_file(repository, config, offline, [])
            return _with_sibling_config(Source(path))
    raise _not_found(HUB + repository, tried, offline)


def _from_tag(tag: str, model: str, config: dict[str, Any], offline: bool) -> Source:
    known = Source(Path(), bool(config.get("quick_gelu", False)), config)
    tried: list[str] = []
    repository, _, name = str(config.get("hf_hub", "")).rpartition("/")
    url = str(config.get("url", ""))
    kept = Path(os.path.expanduser("~/.cache/clip")) / os.path.basename(url)
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
    raise _not_found(f"{tag}' of '{model}", tried, offline)


def _hub_file(repository: str, name: str, offline: bool, tried: list[str]) -> Path | None:
    """A file of a hub repository: from the hub's cache, else downloaded unless offline; None if that fails.

    Its metadata is asked for first, because without a network the download itself retries for half a minute. What
    failed is appended to `tried`.
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


def _not_found(
    what: str,
    tried: list[str],
    offline: bool,
    advice: str = "Put the file anywhere on this machine and pass --weights FILE (encoder.weights)",
) -> WeightsError:
    reason = "offline, and they are in no cache" if offline else "no download worked"
    return WeightsError(f"weights '{what}' can't be had: {reason}; tried {', '.join(tried)}. {advice}")
