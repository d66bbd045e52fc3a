"""Where one committing process would hold up many workers; run by hand.

    python tests/benchmarks/cluster_simulation.py [--image-seconds 0.02 3.2] [--chunk 64]

Measured here: how long a commit of a receipt takes, and how long Dask's scheduler and client take for a task whose
result is such a receipt. Simulated: so many workers, whose tasks take `chunk` x the given seconds (10 % spread), two in
flight each, and one process that handles receipts one after the other.
"""

from __future__ import annotations

import argparse
import heapq
import logging
import random
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from ovlabel.run.dask import Receipt
from ovlabel.store.arrays import write_arrays
from ovlabel.store.layout import new_name
from ovlabel.store.manifest import Manifest
from ovlabel.store.record import Record
from ovlabel.store.write import writing
from ovlabel.text.vocabulary import load_vocabulary
from ovlabel.types import Annotation


def entries(chunk: int, number: int) -> list[tuple[Record, Annotation]]:
    small = np.zeros((4, 4), np.uint8)
    made = Annotation(small, small, None, None, (4, 4))
    keys = (f"2024/holiday/{number:06}-{i:03}.jpg" for i in range(chunk))
    return [(Record(key, 123_456, 10**18, f"{number:032}{i:032}"), made) for i, key in enumerate(keys)]


def commit_seconds(chunk: int, rounds: int = 200) -> float:
    with tempfile.TemporaryDirectory() as where:
        path = Path(where) / "s.zarr"
        words = load_vocabulary("classes:a")
        run = {"store": {"probabilities": "none"}}
        (Path(where) / "in").mkdir()
        make = partial(Manifest.new, path, Path(where) / "in", words, run, {})
        with writing(path, create=make) as store:
            spent = []
            for number in range(rounds):
                name = new_name(store.next_number(), None)
                records = write_arrays(path, name, entries(chunk, number), 1)
                begun = time.perf_counter()
                store.adopt(name, records)
                spent.append(time.perf_counter() - begun)
    return median(spent)


def receipt(chunk: int, number: int) -> Receipt:
    return Receipt("00000001-01234567", tuple(record for record, _ in entries(chunk, number)), (), 1.0)


def dask_seconds(chunk: int, tasks: int = 600) -> float:
    from distributed import Client, LocalCluster, as_completed

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
        ) as cluster,
        Client(cluster) as client,
    ):
        client.submit(receipt, chunk, -1, pure=False).result()
        begun, done, sent = time.perf_counter(), as_completed(loop=client.loop), 0
        for _ in range(16):
            done.add(client.submit(receipt, chunk, sent, pure=False))
            sent += 1
        for future in done:
            future.result()
            if sent < tasks:
                done.add(client.submit(receipt, chunk, sent, pure=False))
                sent += 1
        return (time.perf_counter() - begun) / tasks


def simulated(workers: int, task: float, handling: float, tasks: int) -> float:
    """Tasks a second."""
    dice, events, free, handled = random.Random(0), [], 0.0, 0
    for worker in range(workers):
        heapq.heappush(events, (dice.gauss(task, task / 10), worker))
    waiting = workers  # a second task a worker lies there already
    while handled < tasks:
        now, worker = heapq.heappop(events)
        free = max(free, now) + handling
        handled += 1
        start = now if waiting > 0 else free  # the next one comes once a receipt has been handled
        waiting += (free <= now + task) - 1 if waiting > 0 else 0
        heapq.heappush(events, (max(start, now) + max(dice.gauss(task, task / 10), 0), worker))
    return tasks / free


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-seconds", type=float, nargs="+", default=[0.02, 3.2])
    parser.add_argument("--chunk", type=int, default=64)
    given = parser.parse_args()
    commit, dask = commit_seconds(given.chunk), dask_seconds(given.chunk)
    print(
        f"a receipt of {given.chunk} images: commit {1000 * commit:.1f} ms, scheduler and client {1000 * dask:.1f} ms"
    )
    handling = commit + dask
    for seconds in given.image_seconds:
        task = seconds * given.chunk
        print(f"{seconds:g} s an image: one process keeps up with {task / handling:.0f} workers")
        for workers in (1, 16, 64, 256, 1024, 4096, 16384):
            rate = simulated(workers, task, handling, max(20 * workers, 2000))
            busy = rate * task / workers
            print(f"  {workers:6d} workers: {rate * given.chunk:10.0f} images/s, {busy:6.1%} of their time in work")


if __name__ == "__main__":
    main()
