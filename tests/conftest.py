"""Tiny models made in the test, golden vectors, a cache of the test's own, and no network."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from ovlabel.store.read import Store
    from ovlabel.store.record import Record
    from ovlabel.store.write import StoreWriter
    from ovlabel.types import Annotation

if "PYTEST_XDIST_WORKER" in os.environ:  # a process for each core: threads of their own would only wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"  # before anything imports torch

settings.register_profile("ovlabel", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("ovlabel")

GOLDEN = Path(__file__).parent / "golden"
SHARED = Path(__file__).parents[2] / "shared"

# The golden vectors were made with the published, rounded constants (0 … 255).
GOLDEN_PREPROCESS = {
    "mean": [122.771 / 255, 116.746 / 255, 104.094 / 255],
    "std": [68.501 / 255, 66.632 / 255, 70.323 / 255],
}
GOLDEN_MODEL = {
    "embed_dim": 64,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 128, "head_width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 512, "width": 64, "heads": 1, "layers": 2},
}
TINY_MODEL = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": 3, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[Any]:
    """What a test has printed may hold lone surrogates, which can't be sent from a worker of pytest-xdist."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has its own cache, and no test finds weights in this machine's caches."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("OVLABEL_CACHE", str(cache))
    monkeypatch.setenv("HOME", str(cache))
    monkeypatch.setenv("HF_HOME", str(cache / "hf"))
    if hub := sys.modules.get("huggingface_hub.constants"):
        monkeypatch.setattr(hub, "HF_HUB_CACHE", str(cache / "hf" / "hub"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that opens a connection fails."""

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            raise AssertionError(f"a connection to {address} was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def no_hang() -> Iterator[None]:
    """A test that takes a minute has found a hang."""

    def stop(*_: Any) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def write_model(tmp_path: Path) -> Callable[..., str]:
    """Write an open_clip JSON config; returns its path."""

    def write(model: dict[str, Any], preprocess: dict[str, Any] | None = None, name: str = "model.json") -> str:
        path = tmp_path / name
        path.write_text(json.dumps({"model_cfg": model, "preprocess_cfg": preprocess} if preprocess else model))
        return str(path)

    return write


@pytest.fixture
def tiny(write_model: Callable[..., str]) -> dict[str, Any]:
    """Overrides for a model of three layers with random weights and small windows."""
    return {
        "encoder.model": write_model(TINY_MODEL),
        "encoder.weights": "random:0",
        "text.templates": "simple",
        "tiling.short_side": 64,
        "tiling.window": 48,
        "tiling.stride": 32,
    }


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """A golden file's arrays by name."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            return dict(arrays)

    return load


@pytest.fixture(scope="session")
def golden_model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Overrides for the golden model, its weights in a safetensors file."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("golden")
    with np.load(GOLDEN / "weights_A.npz") as arrays:
        save_file({name: torch.from_numpy(arrays[name].copy()) for name in arrays}, folder / "weights.safetensors")
    config = {"model_cfg": GOLDEN_MODEL, "preprocess_cfg": GOLDEN_PREPROCESS}
    (folder / "model.json").write_text(json.dumps(config))
    return {"encoder.model": str(folder / "model.json"), "encoder.weights": str(folder / "weights.safetensors")}


@pytest.fixture(scope="session")
def golden_model_exact(golden_model: dict[str, Any]) -> dict[str, Any]:
    """The same with CLIP's own constants, which CLIPtrase's vectors were made with."""
    path = Path(golden_model["encoder.model"]).with_name("exact.json")
    path.write_text(json.dumps(GOLDEN_MODEL))
    return {**golden_model, "encoder.model": str(path)}


@pytest.fixture
def photographs(tmp_path: Path) -> Iterator[Path]:
    """A folder of six small drawn images in two folders."""
    from PIL import Image

    folder = tmp_path / "photographs"
    random = np.random.default_rng(0)
    for index in range(6):
        path = folder / ("a" if index % 2 else "b/c") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = random.integers(0, 255, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(small).resize((50 + 10 * index, 60)).save(path)
    return folder


@contextlib.contextmanager
def writing(store: Store) -> Iterator[StoreWriter]:
    """Write to a store as a run does."""
    from ovlabel.store.write import writing as hold

    with hold(store.path) as held:
        held.clear_unfinished()
        yield held


def commit(store: Store, entries: Sequence[tuple[Record, Annotation | None]]) -> None:
    """Commit images to a store, and let the reader at hand see them."""
    with writing(store) as held:
        held.commit(entries)
    store.refresh()
