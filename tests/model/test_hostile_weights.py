"""Weights files from untrusted sources: nothing in them is run, and every refusal is one clear line."""

from __future__ import annotations

import json
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ovlabel.errors import WeightsError
from ovlabel.model.load import load_clip
from ovlabel.model.pickles import read
from ovlabel.settings.keys import EncoderConfig
from ovlabel.stages._loftup_network import load as load_loftup
from tests.conftest import TINY_MODEL
from tests.hostile import (
    COPIES,
    MIB,
    Payload,
    mutated,
    reads_or_refuses,
    refused,
    written,
)
from tests.model.hostile_weights import FOUR, STATE, archive, legacy, of, old_file, repacked, saved, tensor_of

pytestmark = pytest.mark.usefixtures("no_hang")

HOLDERS: dict[str, Callable[[Path, Any], Path]] = {
    "torch's zip": lambda folder, evil: saved(folder / "w.pt", {"a": evil}),
    "torch's zip, called .bin": lambda folder, evil: saved(folder / "w.bin", {"a": torch.ones(2), "b": [evil]}),
    "a key": lambda folder, evil: saved(folder / "w.pt", {evil: torch.ones(2)}),
    "an optimiser's state": lambda folder, evil: saved(folder / "w.pt", {"state_dict": {}, "optimizer": evil}),
    "torch's old format": lambda folder, evil: legacy(folder / "w.pt", {"a": evil}),
    "a pickle": lambda folder, evil: written(folder / "w.pt", pickle.dumps({"a": evil})),
    "a pickle, called .safetensors": lambda folder, evil: written(folder / "w.safetensors", pickle.dumps(evil)),
    "a zip, called .safetensors": lambda folder, evil: saved(folder / "w.safetensors", {"a": evil}),
    "TorchScript": lambda folder, evil: archive(folder / "w.pt", pickle.dumps(evil, 2), script=True),
    "TorchScript, protocol 4": lambda folder, evil: archive(folder / "w.pt", pickle.dumps([evil], 4), script=True),
    "magic and payload": lambda folder, evil: written(
        folder / "w.pt", pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps(evil, 2)
    ),
}


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("means", ["os.system", "eval", "build", "torch.load"])
def test_nothing_in_weights_is_run(tmp_path: Path, holder: str, means: str) -> None:
    sentinel, inner = tmp_path / "executed", tmp_path / "inner.pkl"
    evil: Any = Payload(os.system, f"touch {sentinel}")
    if means == "eval":
        evil = Payload(eval, f"__import__('pathlib').Path({str(sentinel)!r}).touch()")
    if means == "build":
        evil = Payload(getattr, Payload(__import__, "os"), "system")
    if means == "torch.load":
        evil = Payload(torch.load, str(written(inner, pickle.dumps(evil))), None, None)
    path = HOLDERS[holder](tmp_path, evil)
    assert "w." in refused(WeightsError, lambda: read(path))
    refused(WeightsError, lambda: load_loftup(path))
    assert not sentinel.exists()


def test_a_bomb_in_a_zip_is_not_unpacked(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.pt", {"a": torch.zeros(50 * MIB // 4)})
    path = repacked(tmp_path / "w.pt", whole, lambda _, data: data, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < MIB
    assert "not what it declares" in refused(WeightsError, lambda: read(path), 10 * MIB)
    path = tmp_path / "p.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("a/data.pkl", of(b"}", b"0}" * 7_000_000))
    refused(WeightsError, lambda: read(path), 10 * MIB)


def test_members_of_a_zip_that_share_their_bytes_are_counted(tmp_path: Path) -> None:
    """A directory that names the same bytes many times makes much of a small file."""
    count = 100_000
    storages = {str(index): bytes(4 * count) if not index else b"" for index in range(20)}
    parts = [tensor_of(key=str(index), count=count, size=(count,))[3:-2].replace(b"a", str(index).encode().ljust(1), 1)
             for index in range(9)]  # fmt: skip
    path = archive(tmp_path / "w.pt", of(b"}", b"".join(part + b"s" for part in parts)), storages)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as given:
        first = given.getinfo("a/data/0")
        start = given.start_dir
    at = start
    while data[at : at + 4] == b"PK\x01\x02":
        name, extra, note = struct.unpack("<3H", data[at + 28 : at + 34])
        if bytes(data[at + 46 : at + 46 + name]).startswith(b"a/data/"):
            struct.pack_into("<3I", data, at + 16, first.CRC, first.file_size, first.file_size)
            struct.pack_into("<I", data, at + 42, first.header_offset)
        at += 46 + name + extra + note
    path.write_bytes(data)
    refused(WeightsError, lambda: read(path), 4 * len(data))


@pytest.mark.parametrize("names", [["../a/data.pkl", "b/data.pkl"], ["data.pkl"], [], ["a/data.pkl/x"]])
def test_a_zip_that_is_none_of_torchs_is_refused(tmp_path: Path, names: list[str]) -> None:
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as target:
        for name in [*names, "x"]:
            target.writestr(name, of(b"}"))
    refused(WeightsError, lambda: read(tmp_path / "w.pt"))


def test_names_in_a_zip_lead_nowhere(tmp_path: Path) -> None:
    outside = written(tmp_path / "outside", FOUR["0"])
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("../../data.pkl", tensor_of())
        target.writestr("../../data/0", struct.pack("<4f", 5, 6, 7, 8))
    assert read(path)[0]["a"].tolist() == [5, 6, 7, 8]  # those of the zip
    assert outside.read_bytes() == FOUR["0"]


def test_an_archive_of_another_byte_order_is_refused(tmp_path: Path) -> None:
    path = repacked(
        tmp_path / "w.pt",
        archive(tmp_path / "s.pt", tensor_of(), FOUR),
        lambda name, data: b"bigger" if name.endswith("byteorder") else data,
    )
    assert "another byte order" in refused(WeightsError, lambda: read(path))


def test_the_old_format_is_read_and_held_to_the_same(tmp_path: Path) -> None:
    tensors, _ = read(legacy(tmp_path / "w.pt", {"state_dict": STATE, "epoch": 3}))
    assert all(torch.equal(tensors[name], STATE[name]) for name in STATE)
    four = struct.pack("<q", 4) + FOUR["0"]
    assert read(old_file(tmp_path / "w.pt", tensor_of(), ["0"], four))[0]["a"].tolist() == [1, 2, 3, 4]
    for root, keys, storages in [
        (tensor_of(), ["0"], four[:-1]),
        (tensor_of(), ["0"], struct.pack("<q", 10**15) + FOUR["0"]),
        (tensor_of(count=10**15), ["0"], struct.pack("<q", 10**15) + FOUR["0"]),
        (tensor_of(), [], four),
        (tensor_of(), ["0", "1"], four),
        (tensor_of(), [("0",)], four),
        (tensor_of(size=(5,)), ["0"], four),
    ]:
        path = old_file(tmp_path / "w.pt", root, keys, storages)
        refused(WeightsError, lambda: read(path))  # noqa: B023


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("form", ["zip", "old", "safetensors"])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, form: str, share: float) -> None:
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    {"zip": saved, "old": legacy, "safetensors": lambda path, state: save_file(state, path)}[form](path, STATE)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused(WeightsError, lambda: read(path))


def safetensors_of(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return written(path, (len(raw) if length is None else length).to_bytes(8, "little") + raw + data)


def entry(dtype: str = "F32", shape: Any = (4,), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "length"),
    [
        ({"a": entry()}, 2**63),
        ({"a": entry()}, 10**9),
        ({"a": entry()}, 17 * MIB),
        ({"a": entry()}, 0),
        ({"a": entry(offsets=(0, 10**15), shape=(25 * 10**13,))}, None),
        ({"a": entry(), "b": entry()}, None),
        ({"a": entry(offsets=(4, 20))}, None),
        ({"a": entry(offsets=(16, 0))}, None),
        ({"a": entry(offsets=(-16, 0))}, None),
        ({"a": entry(shape=(5,))}, None),
        ({"a": entry(shape=(-4,))}, None),
        ({"a": entry(shape=(2**40, 2**40))}, None),
        ({"a": entry("F64")}, None),
        ({"a": entry("C64", (2,))}, None),
        ({"a": entry("F8_E4M3", (16,))}, None),
        ({"a": entry("U16", (8,))}, None),
        ({"a": entry("X1")}, None),
        ({"a": entry(shape=(4,) + (1,) * 60)}, None),
        ({"a" * 5000: entry()}, None),
        ({"a\nb": entry()}, None),
        ({"a": 3}, None),
        (b"[" * 200_000, None),
        (b"{}\xff", None),
        (b"", None),
    ],
)
def test_a_safetensors_header_that_lies_is_refused(tmp_path: Path, header: Any, length: int | None) -> None:
    refused(WeightsError, lambda: read(safetensors_of(tmp_path / "w.safetensors", header, FOUR["0"], length)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    tensor = torch.ones(100, dtype=dtype)
    tensor[7] = value
    path = tmp_path / "w.safetensors"
    save_file({"fine": torch.ones(2), "visual.proj": tensor}, path)
    assert "'visual.proj' holds values that are not finite" in refused(WeightsError, lambda: read(path))
    path = saved(tmp_path / "w.pt", {"visual.proj": tensor, "text.attn_mask": tensor})
    assert "'visual.proj' holds values that are not finite" in refused(WeightsError, lambda: read(path))
    assert read(saved(path, {"text.attn_mask": tensor})) == ({}, False)


@pytest.mark.parametrize(
    "content",
    [{"a": 3}, {"a": None}, {"a": [torch.ones(1)]}, {"a": {"b": torch.ones(1)}}, {3: torch.ones(1)}, {None: 1}, 3, "a",
     None, [], (1,), {"a\n": torch.ones(1)}, {"a" * 300: torch.ones(1)}, {"a": torch.ones(1, dtype=torch.complex64)},
     {"a": torch.ones(2, 2).to_sparse()}, {(1, 2): torch.ones(1)}, {"state_dict": {"a": "b" * 10_000}}],
)  # fmt: skip
@pytest.mark.parametrize("save", [saved, legacy])
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_table_of_tensors_is_refused(tmp_path: Path, content: Any, save: Any) -> None:
    refused(WeightsError, lambda: read(save(tmp_path / "w.pt", content)))


def test_a_link_to_weights_is_followed(tmp_path: Path) -> None:
    saved(tmp_path / "blob", STATE)
    (tmp_path / "w.pt").symlink_to("blob")
    assert read(tmp_path / "w.pt")[0].keys() == STATE.keys()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "p.pt").symlink_to("pipe")
    assert "not a regular file" in refused(WeightsError, lambda: read(tmp_path / "p.pt"))
    refused(WeightsError, lambda: read(Path("/dev/zero")))
    refused(WeightsError, lambda: read(tmp_path))


def test_very_many_odd_names_are_told_in_one_line(tmp_path: Path, write_model: Callable[..., str]) -> None:
    state = {"k" * 190 + str(index): torch.ones(1) for index in range(2000)}
    path = saved(tmp_path / "w.pt", state)
    with pytest.raises(WeightsError, match="2000 not in the model") as caught:
        load_clip(EncoderConfig(write_model(TINY_MODEL), str(path)))
    assert len(str(caught.value)) < 2000
    with pytest.raises(WeightsError, match="is no LoftUp checkpoint"):
        load_loftup(path)


def summed(path: Path) -> None:
    tensors, _ = read(path)
    assert all(bool(torch.isfinite(tensor.double().sum())) or tensor.numel() for tensor in tensors.values())


def script(path: Path) -> Path:
    """A TorchScript archive as torch writes it."""

    class Inner(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    root = Inner()
    root.add_module("visual", Inner())
    root.visual.register_parameter("proj", torch.nn.Parameter(torch.ones(2, 3).half()))
    root.register_buffer("input_resolution", torch.tensor(64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(root), path)
    assert list(read(path)[0]) == ["visual.proj"]
    return path


@pytest.mark.parametrize("form", ["zip", "zip's pickle", "TorchScript", "TorchScript's pickle", "old", "safetensors"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_mutated_weights_are_read_or_refused(tmp_path: Path, form: str) -> None:
    source = tmp_path / ("s.safetensors" if form == "safetensors" else "s.pt")
    if form == "safetensors":
        save_file(STATE, source)
    elif form == "old":
        legacy(source, STATE)
    else:
        script(source) if "Script" in form else saved(source, STATE)
    data, read_well = source.read_bytes(), 0
    path = tmp_path / f"w{source.suffix}"
    for seed in range(COPIES):
        if "pickle" in form:
            repacked(path, source, lambda name, own: mutated(own, seed) if name.endswith("/data.pkl") else own)  # noqa: B023
        else:
            path.write_bytes(mutated(data, seed))
        read_well += reads_or_refuses(WeightsError, lambda: summed(path))
    assert read_well < COPIES
