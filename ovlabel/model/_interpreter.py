"""Reads a pickle without running it: an interpreter for the instructions that make numbers, texts, lists and tensors.

It refuses all other instructions and calls nothing that a pickle names. Used by `pickles`.
"""

from __future__ import annotations

import io
import pickletools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ovlabel.errors import WeightsError, short

STORAGES = {
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


class Storage(NamedTuple):
    """A block of numbers elsewhere in the file, as a pickle describes it."""

    key: str
    dtype: torch.dtype
    numbers: int

    @property
    def bytes(self) -> int:
        """Its length in the file, in bytes."""
        return self.numbers * self.dtype.itemsize


class Claim(NamedTuple):
    """A tensor as a pickle describes it; checked against its storage before it is made."""

    storage: Any
    offset: Any
    size: Any
    stride: Any


class Module:
    """Takes the place of any object that is neither a tensor nor a plain container; it only holds attributes."""

    def __init__(self, *_: Any) -> None:
        self.attributes: Any = {}


class Passed:
    """Takes the place of an object that is passed over, such as a training program's arguments; it holds nothing."""

    def __init__(self, *_: Any) -> None:
        pass


class Foreign(NamedTuple):
    """What a pickle names of an unknown program: it may be the class of an object that is passed over; never called."""

    name: str


class _Global(NamedTuple):
    """What is called here in place of a function or class that a pickle names."""

    make: Callable[..., Any]


def _first(value: Any, *_: Any) -> Any:
    return value


def _claim(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Claim:
    return Claim(storage, offset, size, stride)


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
}
_BUILTIN = (
    "object", "int", "float", "str", "bool", "bytes", "bytearray", "complex", "tuple", "list", "dict", "set",
    "frozenset",
)  # fmt: skip
_PASSED = frozenset({  # what checkpoints hold beside tensors: data, whose place is kept and whose makers are not called
    *("argparse.Namespace", "types.SimpleNamespace", "collections.deque", "uuid.UUID", "numpy.dtype", "numpy.ndarray"),
    *("copyreg._reconstructor", "copy_reg._reconstructor", "_codecs.encode", "collections.Counter"),
    *("torch.device", "torch.nn.parameter.Parameter", "torch.Tensor"),
    *(f"datetime.{kind}" for kind in ("date", "datetime", "time", "timedelta", "timezone")),
    *(f"numpy.{core}.multiarray.{make}" for core in ("core", "_core") for make in ("scalar", "_reconstruct")),
    *(f"pathlib.{kind}" for kind in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath")),
    *(f"pathlib._local.{kind}" for kind in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath")),
    *(f"{builtins}.{kind}" for builtins in ("builtins", "__builtin__") for kind in _BUILTIN),
})  # fmt: skip
_GUARDED = sys.stdlib_module_names | {"torch", "numpy", "__builtin__", "copy_reg", "cPickle", "commands", "os2"}
_DTYPES = {str(dtype) for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}


def _substitute(name: str) -> Any:
    """What takes the place of a function or class that the pickle names; WeightsError for all that no tensor needs."""
    module, _, last = name.rpartition(".")
    if module in ("torch", "torch.cuda") and last in STORAGES:
        return STORAGES[last]
    if module.startswith("__torch__") or name in _DTYPES:
        return _Global(Module)
    if name in _PASSED:
        return _Global(Passed)
    if name in _GLOBALS:
        return _Global(_GLOBALS[name])
    top = module.partition(".")[0]
    return Foreign(name) if top.isidentifier() and top not in _GUARDED else _refuse(name)


def _refuse(name: str) -> Any:
    advice = "; save the model's state_dict(), not the model" if name.startswith("torch.nn.") else ""
    raise WeightsError(f"the archive asks for {short(name)}; only tensors are read, nothing is run{advice}")


def _stored(wanted: Any, storages: dict[str, Storage]) -> Storage:
    """The storage of a persistent id: ("storage", type, key, location, count), followed by a view in old files."""
    kind, dtype, key, _, count, *view = wanted if isinstance(wanted, tuple) and len(wanted) >= 5 else [None] * 5
    if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str) or view not in ([], [None]):
        raise WeightsError("a storage is described in a way that torch does not")
    if type(count) is not int or not 0 <= count < 2**63:
        raise WeightsError(f"storage {short(key)} declares no number of elements")
    storage = Storage(key, dtype, count)
    if storages.setdefault(key, storage) != storage:
        raise WeightsError(f"storage {short(key)} is described in two ways")
    return storage


_VALUES = frozenset({
    *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "BINSTRING", "SHORT_BINSTRING", "STRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
})  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


def unpickled(file: io.BytesIO, storages: dict[str, Storage]) -> Any:
    """The content of a pickle, in plain containers, `Claim`s and `Module`s. Nothing that it names is called.

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
        if isinstance(table, Passed):
            return
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
            case "APPEND" | "APPENDS" | "ADDITEMS":
                values = [stack.pop()] if op.name == "APPEND" else above()
                if not isinstance(stack[-1], Passed):
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
                if isinstance(function, Foreign):
                    function = _Global(Passed) if op.name == "NEWOBJ" else _refuse(function.name)
                if not isinstance(function, _Global) or not isinstance(parts, tuple):
                    raise WeightsError("it calls something that is no function")
                stack.append(function.make(*parts))
            case "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], Module):
                    stack[-1].attributes = state
            case "BINPERSID":
                stack.append(_stored(stack.pop(), storages))
            case kind if kind in _VALUES:
                stack.append(value)
            case kind:
                raise WeightsError(f"its pickle uses {kind}, which torch's do not")
    raise WeightsError("its pickle has no end")
