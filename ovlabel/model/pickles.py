"""Reads weights files, of untrusted sources too. Nothing in a file is ever executed. Used by `load` and by LoftUp.

A file of torch's contains a pickle, which is a program for Python's unpickler; `_interpreter` reads it without running
it. Only the bytes of needed tensors are read, each once, and never more than the file has.
"""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ovlabel.errors import WeightsError, short
from ovlabel.files import open_regular
from ovlabel.model._formats import HEAD, named
from ovlabel.model._interpreter import STORAGES, Claim, Foreign, Module, Passed, Storage, unpickled

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001  # the start of files that torch wrote before version 1.6
_OPENAI_SCALARS = {"input_resolution", "context_length", "vocab_size"}
_NO_WEIGHTS = {"attn_mask", "position_ids", "n_averaged"}  # buffers that a program computes, or counts with
_LEVELS = 4  # the most tables in tables that are looked into for a state dict
_PICKLE_BYTES = 16 * 2**20  # the most for a pickle or a safetensors header; the largest models need 1 MiB
_TENSORS, _NAME, _DIMENSIONS = 100_000, 200, 8  # the most tensors, characters of a name, dimensions of a tensor


def read(path: Path) -> tuple[dict[str, Tensor], bool]:
    """Read the tensors of a weights file.

    Reads safetensors; state dicts that any version of torch saved (of a training checkpoint, its `state_dict` or the
    like; wrappers such as `module.` are taken off the names); and OpenAI's TorchScript archives, of which only the
    tensors are read. The content decides which of these a file is, never its name.

    Args:
        path: the file.

    Returns:
        The tensors by name, and whether it is a file of OpenAI's, whose models use QuickGELU.

    Raises:
        WeightsError: it is no weights file, is damaged, would need code to be run, or holds values that are not finite.
    """
    try:
        with open_regular(path) as file:
            head = file.read(HEAD)
            file.seek(0)
            if _is_safetensors(path, head):
                tensors, openai = _tensors_of(_safetensors(path, file))
            else:
                tensors, openai = _torch_tensors(path, file, head)
        for name, tensor in tensors.items():
            _check(name, tensor)
        return tensors, openai
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except Exception as error:  # with a damaged file, the libraries that read it fail in any way
        raise WeightsError(f"{path} can't be read as weights ({type(error).__name__}: {short(error)})") from None


def _is_safetensors(path: Path, head: bytes) -> bool:
    """Whether a file begins with the length of a header and the header, or claims to be one with too long a header."""
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and (length <= _PICKLE_BYTES or path.suffix in (".safetensors", ".sft"))


def _safetensors(path: Path, file: BinaryIO) -> dict[str, Any]:
    from safetensors.torch import load_file

    length, size = int.from_bytes(file.read(8), "little"), os.fstat(file.fileno()).st_size
    if length > _PICKLE_BYTES:
        raise WeightsError(f"its header is larger than {_PICKLE_BYTES >> 20} MiB, or it is no safetensors file")
    whole = 8 + length + _data_bytes(file.read(length))
    if size < whole:
        raise WeightsError(f"it is cut off: {size} of {whole} bytes are there; download it again")
    tensors: dict[str, Any] = load_file(path)
    return tensors


def _data_bytes(header: bytes) -> int:
    """The bytes of data that a header of safetensors names; 0 where it is damaged, which its reader finds."""
    try:
        entries = json.loads(header)
        return max(
            (int(entry["data_offsets"][1]) for name, entry in entries.items() if name != "__metadata__"), default=0
        )
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OverflowError):
        return 0


def _torch_tensors(path: Path, file: BinaryIO, head: bytes) -> tuple[dict[str, Any], bool]:
    """The tensors of a file of torch's, and whether it is one of OpenAI's."""
    if head.startswith(b"PK\x03\x04"):
        root, storage = _zip(file)
    elif head.startswith(b"\x80"):
        root, storage = _legacy(file)
    else:
        raise WeightsError(f"it is {named(path, head)}")
    claims, openai = _tensors_of(_named(root))
    storages: dict[Storage, Tensor] = {}
    return {name: _tensor(claim, storage, storages) for name, claim in claims.items()}, openai


_CONTAINERS = (  # under which training programs keep a state dict; its moving average only where there is no other
    "state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "params", "weights", "clip",
    "ema_state_dict", "state_dict_ema", "model_ema", "ema",
)  # fmt: skip


def _named(root: Any) -> dict[str, Any]:
    """The values of a file by name: those of a module, of a table, or of a training checkpoint's state dict."""
    if isinstance(root, Module):
        return dict(_attributes(root))
    for _ in range(_LEVELS):
        if not isinstance(root, dict):
            break
        inner = (root[key] for key in _CONTAINERS if isinstance(root.get(key), dict) and root[key])
        root = next(inner, root)
    if not isinstance(root, dict):
        advice = "; save the model's state_dict() alone" if isinstance(root, Passed) else ""
        raise WeightsError(f"it holds a {_kind(root)}, not a dict of tensors{advice}")
    return root


_WRAPPERS = frozenset({
    "module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module",
})  # fmt: skip


def _unwrapped(tensors: dict[str, Any]) -> dict[str, Any]:
    """The tensors without the parts of their names that wrappers of a model (DDP, FSDP, torch.compile) have added."""
    bare = {}
    for name, value in tensors.items():
        own = ".".join(part for part in name.split(".") if part not in _WRAPPERS) or name
        if own in bare:
            raise WeightsError(f"it holds '{short(own)}' twice, with and without a wrapper's name")
        bare[own] = value
    return bare


def _tensors_of(tensors: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Remove OpenAI's extra scalars, what is no weight, and wrappers' names; check that all else are tensors.

    Returns:
        The tensors (or claims of tensors) by name, and whether it is a file of OpenAI's.
    """
    names = list(tensors)
    if not all(isinstance(name, str) for name in names):
        raise WeightsError("its tensors have no names")
    tensors = _unwrapped(tensors)
    openai = tensors.keys() >= _OPENAI_SCALARS
    kept = {
        name: value
        for name, value in tensors.items()
        if name not in _OPENAI_SCALARS and name.rpartition(".")[2] not in _NO_WEIGHTS
    }
    if len(kept) > _TENSORS:
        raise WeightsError(f"it holds {len(kept)} values; no model has more than {_TENSORS} tensors")
    for name, value in kept.items():
        if len(name) > _NAME or not name.isprintable():
            raise WeightsError(f"'{short(name)}' is no tensor's name")
        if not isinstance(value, Tensor | Claim):
            raise WeightsError(f"'{name}' is a {_kind(value)}, not a tensor")
    return kept, openai


def _check(name: str, tensor: Tensor) -> None:
    """Refuse tensors that can't be weights: of other types, of too many dimensions, or with non-finite values."""
    if tensor.dtype not in STORAGES.values() or tensor.ndim > _DIMENSIONS:
        raise WeightsError(f"'{name}' is {tensor.dtype} of {tensor.ndim} dimensions, which no weight is")
    if tensor.is_floating_point() and tensor.numel() and not all(bound.isfinite() for bound in tensor.aminmax()):
        raise WeightsError(f"'{name}' holds values that are not finite; get the file anew, or another")


def _kind(value: Any) -> str:
    if isinstance(value, Claim):
        return "tensor"
    return "object" if isinstance(value, Foreign | Module | Passed) else type(value).__name__.lstrip("_")


_Read = Callable[[Storage], bytes]


def _zip(file: BinaryIO) -> tuple[Any, _Read]:
    """The content of a zip file as torch writes it, uncompressed, and a function that reads a storage of it."""
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        raise WeightsError("it is cut off or damaged: a zip file without its directory; download it again") from None
    left = os.fstat(file.fileno()).st_size
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        arrays = any(name.endswith(".npy") for name in archive.namelist())
        kind = "an archive of NumPy's" if arrays else "a zip file"
        raise WeightsError(
            f"it is {kind} with {len(pickles)} data.pkl; torch's have one. Unpack it, if weights are in it"
        )
    prefix = pickles[0].removesuffix("data.pkl")

    def member(name: str, what: str, size: int) -> bytes:
        nonlocal left
        entry = archive.getinfo(prefix + name)
        stored = entry.compress_type == zipfile.ZIP_STORED and entry.file_size == entry.compress_size == size
        left -= size
        if not stored or left < 0:
            raise WeightsError(f"{what} of the archive is not what it declares")
        return archive.read(entry)

    size = archive.getinfo(pickles[0]).file_size
    if size > _PICKLE_BYTES:
        raise WeightsError(f"its data.pkl is larger than {_PICKLE_BYTES >> 20} MiB, which no model's is")
    if f"{prefix}byteorder" in archive.namelist() and member("byteorder", "byteorder", 6) != b"little":
        raise WeightsError("it was saved on a machine of another byte order")
    root = unpickled(io.BytesIO(member("data.pkl", "data.pkl", size)), {})
    return root, lambda storage: member(f"data/{storage.key}", f"storage {short(storage.key)}", storage.bytes)


def _legacy(file: BinaryIO) -> tuple[Any, _Read]:
    """The same for a file as torch wrote it before 1.6: five pickles, then every storage, preceded by its length."""
    pickles, storages = io.BytesIO(file.read(_PICKLE_BYTES)), dict[str, Storage]()
    if unpickled(pickles, storages) != _MAGIC or unpickled(pickles, storages) != _VERSION:
        raise WeightsError("it is a pickle, but none of torch's")
    system, root, keys = (unpickled(pickles, storages) for _ in range(3))
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise WeightsError("it was saved on a machine of another byte order")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != storages.keys():
        raise WeightsError("it does not hold the storages that its tensors name")
    end, at, places = os.fstat(file.fileno()).st_size, pickles.tell(), dict[str, int]()
    for key in keys:
        file.seek(at)
        declared = int.from_bytes(file.read(8), "little")
        if at + 8 + storages[key].bytes > end:
            raise WeightsError("it is cut off or damaged: storages reach beyond its end; download it again")
        if declared != storages[key].numbers:
            raise WeightsError(f"storage {short(key)} of the file is not what it declares")
        places[key] = at + 8
        at += 8 + storages[key].bytes

    def data(storage: Storage) -> bytes:
        file.seek(places[storage.key])
        return file.read(storage.bytes)

    return root, data


def _tensor(claim: Any, read_storage: _Read, storages: dict[Storage, Tensor]) -> Tensor:
    """Make the tensor that a pickle describes, if it lies inside its storage and is not larger than it."""
    storage, offset, size, stride = claim
    if not isinstance(storage, Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise WeightsError("a tensor is described in a way that torch does not")
    if len(size) != len(stride) or len(size) > _DIMENSIONS:
        raise WeightsError(f"a tensor has {len(size)} sizes and {len(stride)} strides; {_DIMENSIONS} are the most")
    if not all(type(number) is int and 0 <= number < 2**63 for number in (offset, *size, *stride)):
        raise WeightsError("a tensor's size, stride or offset is no whole number from 0")
    count = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride))
    if count > storage.numbers or (count and last >= storage.numbers):
        raise WeightsError(f"a tensor of {size} reaches beyond its storage of {storage.numbers} numbers")
    if storage not in storages:
        data = bytearray(read_storage(storage))
        storages[storage] = torch.frombuffer(data, dtype=storage.dtype) if data else torch.empty(0, dtype=storage.dtype)
    return torch.as_strided(storages[storage], size, stride, offset if count else 0)


def _attributes(root: Module) -> Iterator[tuple[str, Any]]:
    """Every tensor below a module by dotted name; a module that occurs twice is visited once."""
    visited, count = {id(root)}, 0
    unvisited = [("", root)]
    while unvisited:
        prefix, module = unvisited.pop()
        if not isinstance(module.attributes, dict):
            raise WeightsError("a module of it has no attributes")
        inner = []
        for name, value in module.attributes.items():
            count += 1
            if count > _TENSORS or not isinstance(name, str) or len(prefix) + len(name) > _NAME:
                raise WeightsError("its modules hold more, or deeper, than any model's")
            if isinstance(value, Claim):
                yield prefix + name, value
            elif isinstance(value, Module) and id(value) not in visited:
                visited.add(id(value))
                inner.append((f"{prefix}{name}.", value))
        unvisited += reversed(inner)
