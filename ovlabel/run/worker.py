"""What runs on a worker of Dask: a look at the machine that it runs on, then chunks of images, one after another.

A worker builds its segmenter once and keeps it. A task carries the run, a receipt carries records; neither carries
pixels. The folder and the store must be at the same paths on every machine. Workers hold no lock and write no commit
record: arrays that no commit record names do not count, so a worker may die at any moment, and one that was taken for
dead may go on writing.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ovlabel import __version__
from ovlabel.errors import ConfigError, OvlabelError, RunError, StoreError, out_of_memory
from ovlabel.files import open_regular, read_up_to
from ovlabel.run.identity import RunIdentity, differences
from ovlabel.run.local import Annotator, Maker, annotate_items
from ovlabel.run.reading import VANISHED, Records
from ovlabel.store.arrays import write_arrays
from ovlabel.store.layout import Shard, new_name
from ovlabel.store.manifest import read_manifest
from ovlabel.store.record import Record
from ovlabel.types import ImageItem

_LOCK_BYTES = 2**24


@dataclass(frozen=True)
class Place:
    """What a worker must find on its machine before it is given images.

    Attributes:
        version: of ovlabel.
        images: some images that the process that commits can read.
        out: the store.
        lock: the store's lock file.
        token: what the lock file holds while the run lasts: it tells the store from a copy of it.
    """

    version: str
    images: tuple[Path, ...]
    out: Path
    lock: Path
    token: str


@dataclass(frozen=True)
class Task:
    """What a worker needs to annotate a chunk.

    Attributes:
        items: the images of the chunk.
        run: stands for `identity` and `offline`; a worker that has built this run's segmenter uses it again.
        make: builds the segmenter.
        identity: the run.
        offline: open no connection for weights.
        threads: torch's threads in the worker; 0 leaves them as they are.
        failed: records of those of the images that failed before.
        out: the store.
        number: the number in the name of the chunk.
        shard: the shard in the name of the chunk, or None.
        classes: how many classes the store has.
    """

    items: tuple[ImageItem, ...]
    run: str
    make: Maker
    identity: RunIdentity
    offline: bool
    threads: int
    failed: tuple[Record, ...]
    out: Path
    number: int
    shard: Shard | None
    classes: int


@dataclass(frozen=True)
class Receipt:
    """What a worker has done.

    Attributes:
        name: of the chunk whose arrays it has written.
        records: of the images in it.
        vanished: records of files that were not there any more, which are not committed.
        seconds: what the task took.
    """

    name: str
    records: tuple[Record, ...]
    vanished: tuple[Record, ...]
    seconds: float


@dataclass(frozen=True)
class Refusal:
    """Why a worker can't annotate on its machine; or, with a traceback, by which defect it failed.

    Attributes:
        error: the reason, of the kind that the same trouble has in one process.
        trace: the traceback of a defect, else "".
    """

    error: OvlabelError
    trace: str = ""


_segmenters: dict[str, Annotator] = {}
_building = threading.Lock()


def look(place: Place) -> Refusal | None:
    """On a worker: why it can't take images; None if it can.

    Args:
        place: what it must find.
    """
    if place.version != __version__:
        return Refusal(ConfigError(f"it has ovlabel {__version__}, this process {place.version}: install the same"))
    unread = [path for path in place.images if not readable(path)]
    if unread and len(unread) == len(place.images):
        return Refusal(ConfigError(f"it can't read {unread[0]}, which can be read here: is the folder mounted there?"))
    try:
        if place.token.encode() in read_up_to(place.lock, _LOCK_BYTES):
            return None
        return Refusal(StoreError(f"at {place.out} it sees another store"))
    except OSError as error:
        return Refusal(StoreError(f"it does not see the store {place.out} ({error.strerror}): is it mounted there?"))


def readable(path: Path) -> bool:
    """Whether a file can be opened and read here."""
    try:
        with open_regular(path) as file:
            file.read(1)
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return False
    return True


def annotate_chunk(task: Task) -> Receipt | Refusal:
    """On a worker: annotate the images of a task, and write their arrays.

    Args:
        task: the images, the run and the store.
    """
    try:
        return _annotated(task)
    except OvlabelError as error:
        return Refusal(error)
    except (OSError, ImportError, MemoryError) as error:
        return Refusal(ConfigError(f"{type(error).__name__}: {error}"))
    except Exception as error:
        trace = "" if out_of_memory(error) else traceback.format_exc()
        return Refusal(ConfigError(f"{type(error).__name__}: {error}"), trace)


def _annotated(task: Task) -> Receipt:
    started = time.monotonic()
    with _building:
        if task.run not in _segmenters:
            _segmenters.clear()
            _segmenters[task.run] = _built(task)
    known = Records({record.key: record for record in task.failed})
    entries = list(annotate_items(task.items, known, _segmenters[task.run]))
    kept = [entry for entry in entries if entry[0].outcome != VANISHED]
    name = new_name(task.number, task.shard)
    records: Sequence[Record] = write_arrays(task.out, name, kept, task.classes) if kept else []
    vanished = tuple(record for record, _ in entries if record.outcome == VANISHED)
    return Receipt(name, tuple(records), vanished, time.monotonic() - started)


def _built(task: Task) -> Annotator:
    """Build the worker's segmenter; if the machine has several GPUs, each worker takes its own.

    Raises:
        RunError: with the weights, the checkpoints or the precision of this machine, the labels would be others.
    """
    import torch

    identity, config = task.identity, task.identity.config
    if task.threads:
        torch.set_num_threads(task.threads)
    if config.encoder.device == "auto" and torch.cuda.device_count() > 1:
        device = f"cuda:{_number() % torch.cuda.device_count()}"
        identity = replace(identity, config=replace(config, encoder=replace(config.encoder, device=device)))
    segmenter, run = task.make(identity, task.offline)
    if found := differences(read_manifest(task.out).run, json.loads(json.dumps(run))):
        raise RunError(f"its labels would differ: {'; '.join(found[:6])}".replace("here", "there"))
    return segmenter


def _number() -> int:
    """The number of the worker that runs in this process; workers that ovlabel starts are named 0, 1, …"""
    from distributed import get_worker

    with contextlib.suppress(TypeError, ValueError):
        return int(get_worker().name)
    return 0
