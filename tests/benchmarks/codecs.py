"""What each array of a store weighs and costs under other codecs; run by hand.

    python tests/benchmarks/codecs.py STORE [--images 20]

Every image's labels, confidence, classes and probabilities, cut as the store cuts them (inner chunks of 65,536 values):
bytes an image, and milliseconds an image to write and to read, best of three.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from ovlabel.store.layout import INNER
from ovlabel.store.read import Store, open_store
from ovlabel.store.record import Record

CODECS = {
    "none": None,
    "zstd 1": ZstdCodec(level=1, checksum=True),
    "zstd 3": ZstdCodec(level=3, checksum=True),
    "zstd 6": ZstdCodec(level=6, checksum=True),
    "zstd 12": ZstdCodec(level=12, checksum=True),
    "blosc zstd 3 bits": BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
    "blosc lz4 5": BloscCodec(cname="lz4", clevel=5, shuffle="noshuffle"),
    "gzip 5": GzipCodec(level=5),
}


def timed(work: Callable[[], object], rounds: int = 3) -> float:
    best = float("inf")
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begun)
    return 1000 * best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--images", type=int, default=20)
    given = parser.parse_args()
    store = open_store(given.store)
    records = [store.records[key] for key in list(store)[: given.images]]
    for name in records[0].arrays:
        flat = np.concatenate([stretch(store, record, name).ravel() for record in records])
        print(f"{name}: {flat.nbytes / len(records) / 2**20:.2f} MiB an image")
        for label, codec in CODECS.items():
            with tempfile.TemporaryDirectory() as where:
                to_write = timed(partial(write, Path(where) / "a", flat, codec))
                to_read = timed(partial(read, Path(where) / "a"))
                size = sum(p.stat().st_size for p in Path(where).rglob("*") if p.is_file())
            kib, each = size / len(records) / 1024, len(records)
            print(f"  {label:<18}{kib:8.1f} KiB, write {to_write / each:6.2f} ms, read {to_read / each:6.2f} ms")


def stretch(store: Store, record: Record, name: str) -> np.ndarray:
    if name in ("labels", "confidence"):
        return store.read(record, name, record.pixel, (record.height, record.width))
    return store.read(record, name, record.map, (record.maps, *record.working))


def write(path: Path, flat: np.ndarray, codec: Any) -> None:
    shards = (-(-len(flat) // INNER) * INNER,)
    options = {"shape": flat.shape, "dtype": flat.dtype, "chunks": (INNER,), "shards": shards}
    zarr.create_array(path, compressors=codec, overwrite=True, **options)[:] = flat


def read(path: Path) -> None:
    zarr.open_array(path, mode="r")[:]


if __name__ == "__main__":
    main()
