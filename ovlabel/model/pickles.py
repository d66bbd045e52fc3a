"""Reads weights files, of untrusted sources too. Nothing in a file is ever executed. Used by `load` and by LoftUp.

A file of torch's contains a pickle, which is a program for Python's unpickler. Here it is read by an interpreter that
knows only the instructions that make numbers, strings, lists, tables and tensors, and refuses all others. It calls
nothing that the pickle names. Only the bytes of needed tensors are read, each once, and never more than the file has.
"""

from __future__ import annotations

import io
import math
import os
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from ovlabel.errors import WeightsError, short
from ovlabel.files import open_regular

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
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001  # the start of files that torch wrote before version 1.6
_OPENAI_SCALARS = {"input_resolution", "context_length", "vocab_size"}
_PICKLE_BYTES = 16 * 2**20  # the most for a pickle or a safetensors header; the largest models need 1 MiB
_TENSORS, _NAME, _DIMENSIONS = 100_000, 200, 8  # the most tensors, characters of a name, dimensions of a tensor


def read(path: Path) -> tuple[dict[str, Tensor], bool]:
    """Read the tensors of a weights file.

    Reads `.safetensors`; state dicts that any version of torch saved (of a training checkpoint, its `state_dict`; the
    prefix `module.` is removed); and OpenAI's TorchScript archives, of which only the tensors are read.

    Args:
        path: the file.

    Returns:
        The tensors by name, and whether it is a file of OpenAI's, whose models use QuickGELU.

    Raises:
        WeightsError: it is no weights file, is damaged, would need code to be run, or holds values that are not finite.
    """
    try:
        with open_regular(path) as file:
            if path.suffix == ".safetensors":
                tensors, openai = _tensors_of(_safetensors(path, file))
            else:
                zipped = file.read(4) == b"PK\x03\x04"
                file.seek(0)
                root, storage = _zip(file) if zipped else _legacy(file)
                tensors, openai = _tensors_of(_named(root))
                storages: dict[_Storage, Tensor] = {}
                tensors = {name: _tensor(claim, storage, storages) for name, claim in tensors.items()}
        for name, tensor in tensors.items():
            _check(name, tensor)
        return tensors, openai
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except Exception as error:  # with a damaged file, the libraries that read it fail in any way
        raise WeightsError(f"{path} can't be read as weights ({type(error).__name__}: {short(error)})") from None


def _safetensors(path: Path, file: BinaryIO) -> dict[str, Any]:
    from safetensors.torch import load_file

    if int.from_bytes(file.read(8), "little") > _PICKLE_BYTES:
        raise WeightsError(f"its header is larger than {_PICKLE_BYTES >> 20} MiB, or it is no safetensors file")
    tensors: dict[str, Any] = load_file(path)
    return tensors


def _named(root: Any) -> dict[str, Any]:
    """The values of a file by name: those of a module, of a table, or of a training checkpoint's `state_dict`."""
    if isinstance(root, _Module):
        return dict(_attributes(root))
    if isinstance(root, dict) and isinstance(root.get("state_dict"), dict):
        root = root["state_dict"]
    if not isinstance(root, dict):
        raise WeightsError(f"it holds a {_kind(root)}, not a dict of tensors")
    return root


def _tensors_of(tensors: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Remove OpenAI's extra scalars, attention masks and the prefix `module.`; check that all else are tensors.

    Returns:
        The tensors (or claims of tensors) by name, and whether it is a file of OpenAI's.
    """
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
    if len(kept) > _TENSORS:
        raise WeightsError(f"it holds {len(kept)} values; no model has more than {_TENSORS} tensors")
    for name, value in kept.items():
        if len(name) > _NAME or not name.isprintable():
            raise WeightsError(f"'{short(name)}' is no tensor's name")
        if not isinstance(value, Tensor | _Claim):
            raise WeightsError(f"'{name}' is a {_kind(value)}, not a tensor")
    return kept, openai


def _check(name: str, tensor: Tensor) -> None:
    """Refuse tensors that can't be weights: of other types, of too many dimensions, or with non-finite values."""
    if tensor.dtype not in _STORAGES.values() or tensor.ndim > _DIMENSIONS:
        raise WeightsError(f"'{name}' is {tensor.dtype} of {tensor.ndim} dimensions, which no weight is")
    if tensor.is_floating_point() and tensor.numel() and not all(bound.isfinite() for bound in tensor.aminmax()):
        raise WeightsError(f"'{name}' holds values that are not finite; get the file anew, or another")


def _kind(value: Any) -> str:
    return "tensor" if isinstance(value, _Claim) else type(value).__name__.lstrip("_")


class _Storage(NamedTuple):
    """A block of numbers elsewhere in the file, as a pickle describes it."""

    key: str
    dtype: torch.dtype
    numbers: int

    @property
    def bytes(self) -> int:
        """Its length in the file, in bytes."""
        return self.numbers * self.dtype.itemsize


_Read = Callable[[_Storage], bytes]


class _Claim(NamedTuple):
    """A tensor as a pickle describes it; checked against its storage before it is made."""

    storage: Any
    offset: Any
    size: Any
    stride: Any


class _Module:
    """Takes the place of any object that is neither a tensor nor a plain container; it only holds attributes."""

    def __init__(self, *_: Any) -> None:
        self.attributes: Any = {}


class _Global(NamedTuple):
    """What is called here in place of a function or class that a pickle names."""

    make: Callable[..., Any]


def _zip(file: BinaryIO) -> tuple[Any, _Read]:
    """The content of a zip file as torch writes it, uncompressed, and a function that reads a storage of it."""
    archive = zipfile.ZipFile(file)
    left = os.fstat(file.fileno()).st_size
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise WeightsError(f"a zip file with {len(pickles)} data.pkl; torch's have one")
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
    root = _unpickled(io.BytesIO(member("data.pkl", "data.pkl", size)), {})
    return root, lambda storage: member(f"data/{storage.key}", f"storage {short(storage.key)}", storage.bytes)


def _legacy(file: BinaryIO) -> tuple[Any, _Read]:
    """The same for a file as torch wrote it before 1.6: five pickles, then every storage, preceded by its length."""
    pickles, storages = io.BytesIO(file.read(_PICKLE_BYTES)), dict[str, _Storage]()
    if pickles.read(1) != b"\x80":
        raise ValueError("neither a file of torch's nor .safetensors")
    pickles.seek(0)
    if _unpickled(pickles, storages) != _MAGIC or _unpickled(pickles, storages) != _VERSION:
        raise WeightsError("it is a pickle, but none of torch's")
    system, root, keys = (_unpickled(pickles, storages) for _ in range(3))
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise WeightsError("it was saved on a machine of another byte order")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != storages.keys():
        raise WeightsError("it does not hold the storages that its tensors name")
    end, at, places = os.fstat(file.fileno()).st_size, pickles.tell(), dict[str, int]()
    for key in keys:
        file.seek(at)
        declared = int.from_bytes(file.read(8), "little")
        if declared != storages[key].numbers or at + 8 + storages[key].bytes > end:
            raise WeightsError(f"storage {short(key)} of the file is not what it declares")
        places[key] = at + 8
        at += 8 + storages[key].bytes

    def data(storage: _Storage) -> bytes:
        file.seek(places[storage.key])
        return file.read(storage.bytes)

    return root, data


def _tensor(claim: Any, read_storage: _Read, storages: dict[_Storage, Tensor]) -> Tensor:
    """Make the tensor that a pickle describes, if it lies inside its storage and is not larger than it."""
    storage, offset, size, stride = claim
    if not isinstance(storage, _Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
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


def _attributes(root: _Module) -> Iterator[tuple[str, Any]]:
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
            if isinstance(value, _Claim):
                yield prefix + name, value
            elif isinstance(value, _Module) and id(value) not in visited:
                visited.add(id(value))
                inner.append((f"{prefix}{name}.", value))
        unvisited += reversed(inner)


def _first(value: Any, *_: Any) -> Any:
    return value


def _claim(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Claim:
    return _Claim(storage, offset, size, stride)


def _table(*values: Any) -> dict[Any, Any]:
    if values:
        raise WeightsError("it fills a table in a way that torch does not")
    return {}


def _rebuild_from_type(function: Any, _: Any, parts: Any, *__: Any) -> Any:
    return function.make(*parts)


_GLOBALS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"), _claim),
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch._utils._rebuild_parameter": _first,
    "collections.OrderedDict": _table,
    "collections.defaultdict": lambda *_: {},
    "torch.jit._pickle.restore_type_tag": _first,
    **{f"torch.jit._pickle.build_{kind}list": _first for kind in ("int", "double", "bool", "tensor")},
    "torch.Size": _first,
    # in training checkpoints, whose optimisers are ignored
    **dict.fromkeys(("torch.device", "torch.nn.parameter.Parameter", "torch.Tensor", "collections.Counter"), _Module),
    **dict.fromkeys(
        ("_codecs.encode", "builtins.set", "builtins.list", "builtins.dict", "builtins.bytearray"), _Module
    ),
    **dict.fromkeys(("__builtin__.set", "__builtin__.list", "__builtin__.dict", "__builtin__.bytearray"), _Module),
}
_DTYPES = {str(dtype) for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}


def _substitute(name: str) -> Any:
    """What takes the place of a function or class that the pickle names; WeightsError for all that no tensor needs."""
    module, _, last = name.rpartition(".")
    if module in ("torch", "torch.cuda") and last in _STORAGES:
        return _STORAGES[last]
    if module.startswith("__torch__") or name in _DTYPES:
        return _Global(_Module)
    if name not in _GLOBALS:
        raise WeightsError(f"the archive asks for {short(name)}; only tensors are read, nothing is run")
    return _Global(_GLOBALS[name])


def _stored(wanted: Any, storages: dict[str, _Storage]) -> _Storage:
    """The storage of a persistent id: ("storage", type, key, location, count), followed by a view in old files."""
    kind, dtype, key, _, count, *view = wanted if isinstance(wanted, tuple) and len(wanted) >= 5 else [None] * 5
    if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str) or view not in ([], [None]):
        raise WeightsError("a storage is described in a way that torch does not")
    if type(count) is not int or not 0 <= count < 2**63:
        raise WeightsError(f"storage {short(key)} declares no number of elements")
    storage = _Storage(key, dtype, count)
    if storages.setdefault(key, storage) != storage:
        raise WeightsError(f"storage {short(key)} is described in two ways")
    return storage


_VALUES = frozenset({
    *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "BINSTRING", "SHORT_BINSTRING", "STRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
})  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


def _unpickled(file: io.BytesIO, storages: dict[str, _Storage]) -> Any:
    """The content of a pickle, in plain containers, `_Claim`s and `_Module`s. Nothing that it names is called.

    Args:
        file: read from its position to the end of the pickle.
        storages: receives the storages that the pickle names, by key.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def above() -> list[Any]:
        start = marks.pop()
        values = stack[start:]
        del stack[start:]
        return values

    def fill(table: Any, pairs: list[Any]) -> None:
        if not isinstance(table, dict) or len(pairs) % 2:
            raise WeightsError("it sets items of something that is no table")
        for key, value in zip(pairs[::2], pairs[1::2]):
            if not isinstance(key, str | int | float | None):
                raise WeightsError("the key of a table is neither text nor number")
            table[key] = value

    value: Any
    for op, value, _ in pickletools.genops(file):
        match op.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                marks.append(len(stack))
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE":
                stack.append(_CONSTANTS[op.name])
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "TUPLE":
                stack.append(tuple(above()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                start = len(stack) - int(op.name[-1])
                stack[start:] = [tuple(stack[start:])]
            case "LIST" | "FROZENSET":
                stack.append(above())
            case "DICT":
                pairs = above()
                stack.append({})
                fill(stack[-1], pairs)
            case "APPEND":
                last = stack.pop()
                stack[-1].append(last)
            case "APPENDS" | "ADDITEMS":
                values = above()
                stack[-1].extend(values)
            case "SETITEM":
                pairs = [stack.pop(-2), stack.pop()]
                fill(stack[-1], pairs)
            case "SETITEMS":
                pairs = above()
                fill(stack[-1], pairs)
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                memo[value] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(memo[value])
            case "GLOBAL":
                stack.append(_substitute(value.replace(" ", ".")))
            case "STACK_GLOBAL":
                parts = (stack.pop(-2), stack.pop())
                if not all(isinstance(part, str) for part in parts):
                    raise WeightsError("it asks for something that has no name")
                stack.append(_substitute(".".join(parts)))
            case "REDUCE" | "NEWOBJ":
                parts, function = stack.pop(), stack.pop()
                if not isinstance(function, _Global) or not isinstance(parts, tuple):
                    raise WeightsError("it calls something that is no function")
                stack.append(function.make(*parts))
            case "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], _Module):
                    stack[-1].attributes = state
            case "BINPERSID":
                stack.append(_stored(stack.pop(), storages))
            case kind if kind in _VALUES:
                stack.append(value)
            case kind:
                raise WeightsError(f"its pickle uses {kind}, which torch's do not")
    raise WeightsError("its pickle has no end")
