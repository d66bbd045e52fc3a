"""Damaged or planted files in the cache of text embeddings are ignored, and nothing in them is run."""

from __future__ import annotations

import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from ovlabel.text import bank as texts
from tests.hostile import (
    COPIES,
    Payload,
    mutated,
)

pytestmark = pytest.mark.usefixtures("no_hang")


def test_a_planted_cache_file_is_not_run_but_replaced(tmp_path: Path) -> None:
    sentinel, path = tmp_path / "executed", tmp_path / "k.npy"
    evil = np.array([Payload(os.system, f"touch {sentinel}")], dtype=object)
    np.save(path, evil, allow_pickle=True)
    good = np.eye(3, 4, dtype=np.float32)
    plants = [path.read_bytes(), pickle.dumps(evil)]
    buffer = io.BytesIO()
    np.savez(buffer, evil)
    plants.append(buffer.getvalue())
    buffer = io.BytesIO()
    np.save(buffer, good)
    whole = buffer.getvalue()
    plants += [b"", whole[:-1], whole[:20], whole + bytes(10_000), whole.replace(b"(3, 4)", b"(4, 3)")]
    plants += [whole.replace(b"(3, 4), }" + b" " * 12, b"(3, 10000000000000), }"[:21])]
    plants += [whole.replace(b"<f4", b"|O "), whole[:-4] + struct.pack("<f", float("nan"))]
    for planted in plants:
        path.write_bytes(planted)
        assert texts._read_kept(path, (3, 4)) is None
    assert not sentinel.exists()
    path.write_bytes(whole)
    kept = texts._read_kept(path, (3, 4))
    assert kept is not None
    assert np.array_equal(kept, good)
    path.unlink()
    os.mkfifo(path)
    assert texts._read_kept(path, (3, 4)) is None
    with (tmp_path / "large.npy").open("wb") as file:
        file.truncate(10**12)
    assert texts._read_kept(tmp_path / "large.npy", (3, 4)) is None


def test_mutated_cache_files_are_read_or_ignored(tmp_path: Path) -> None:
    path, buffer = tmp_path / "k.npy", io.BytesIO()
    np.save(buffer, np.eye(3, 4, dtype=np.float32))
    for seed in range(COPIES):
        path.write_bytes(mutated(buffer.getvalue(), seed))
        kept = texts._read_kept(path, (3, 4))
        assert kept is None or (kept.shape == (3, 4) and np.isfinite(kept).all())
