"""Makers of weights files: torch's zip archives and older pickles, well-formed or with false claims."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.hostile import (
    written,
)


def archive(path: Path, pickled: bytes, storages: dict[str, bytes] | None = None, *, script: bool = False) -> Path:
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("a/data.pkl", pickled)
        if script:
            target.writestr("a/constants.pkl", pickle.dumps((), 2))
        target.writestr("a/byteorder", "little")
        target.writestr("a/version", "3\n")
        for key, data in (storages or {}).items():
            target.writestr(f"a/data/{key}", data)
    return path


def legacy(path: Path, content: Any) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def of(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


def tensor_of(
    storage: str = "FloatStorage", key: str = "0", count: int = 4, offset: Any = 0, size: Any = (4,), stride: Any = (1,)
) -> bytes:
    """A pickle of {"a": tensor}, as torch writes it, with numbers of our own."""

    def dumped(value: Any) -> bytes:
        return pickle.dumps(value, 2)[2:-1]

    pid = (
        b"(" + dumped("storage") + f"ctorch\n{storage}\n".encode() + dumped(key) + dumped("cpu") + dumped(count) + b"tQ"
    )
    parts = pid + dumped(offset) + dumped(size) + dumped(stride) + b"\x89" + b"ccollections\nOrderedDict\n)R"
    return of(b"}", dumped("a"), b"ctorch._utils\n_rebuild_tensor_v2\n(", parts, b"tRs")


FOUR = {"0": struct.pack("<4f", 1, 2, 3, 4)}


def old_file(path: Path, root: bytes, keys: Any = (), storages: bytes = b"") -> Path:
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    parts = [*(pickle.dumps(part, 2) for part in head), root, pickle.dumps(list(keys), 2), storages]
    return written(path, b"".join(parts))


def repacked(path: Path, source: Path, change: Callable[[str, bytes], bytes], **more: Any) -> Path:
    with zipfile.ZipFile(source) as given, zipfile.ZipFile(path, "w", **more) as target:
        for name in given.namelist():
            target.writestr(name, change(name, given.read(name)))
    return path


STATE = {"visual.proj": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2).half(), "c": torch.tensor(3)}
