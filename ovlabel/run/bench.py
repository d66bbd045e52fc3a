"""How long a run takes, and what takes it."""

from __future__ import annotations

import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ovlabel.errors import ConfigError
from ovlabel.model.wrapper import EncoderWrapper
from ovlabel.run.job import Job, prepare
from ovlabel.run.listing import Selection
from ovlabel.run.options import RunOptions
from ovlabel.run.reading import Records, read_image
from ovlabel.spine.segmenter import Segmenter
from ovlabel.spine.windows import cut, tile
from ovlabel.store.write import writing
from ovlabel.types import Annotation, Encoder, ImageItem, Trace, UInt8Image

_T = TypeVar("_T")
PARTS = ("decode", "windows", "encoder", "finish", "write")


@dataclass(frozen=True)
class Measured:
    """Medians over the rounds, the parts once.

    Attributes:
        images: how many were measured.
        windows: how many windows they have together.
        parts: seconds an image of every part (`PARTS`), the parts one after the other.
        run: seconds an image of a whole run, which reads ahead and writes beside the encoder.
        floor: seconds an image of open_clip's own forward pass over the same windows in the same batches.
        ratios: run / floor of every round, sorted.
        peak: the most bytes of memory that this process has held; on a GPU, that its tensors have.
        stored: bytes an image in the store.
        agreement: fraction of the pixels, 0 … 1, whose label is that of `reference`; None without one.
    """

    images: int
    windows: int
    parts: dict[str, float]
    run: float
    floor: float
    ratios: tuple[float, ...]
    peak: int
    stored: float
    agreement: float | None


def measure(
    folder: Path,
    items: Sequence[ImageItem],
    segmenter: Segmenter,
    count: int = 8,
    rounds: int = 3,
    chunk_size: int = RunOptions.chunk_size,
    reference: Callable[[], Segmenter] | None = None,
) -> Measured:
    """Measure a segmenter on images spread over a folder.

    Args:
        folder: the folder of images.
        items: its images.
        segmenter: what is measured.
        count: so many images are measured.
        rounds: in each, the images are run, then the encoder alone over their windows.
        chunk_size: images of a commit.
        reference: builds another segmenter, to see how many labels differ from it; called when all else is measured.

    Raises:
        ConfigError: no image that can be read.
    """
    chosen = [items[round(i)] for i in np.linspace(0, len(items) - 1, min(count, len(items)))] if items else []
    read = {item: pixels for item in chosen if (pixels := read_image(item, Records()).pixels) is not None}
    if not read:
        raise ConfigError(f"{folder} holds no image that can be read")
    chosen, images = list(read), list(read.values())
    windows = [window for image in images for window in _windows(segmenter, image)]
    segmenter.annotation(images[0])
    _floor(segmenter, windows[:1])
    runs, floors = [], []
    with tempfile.TemporaryDirectory() as where:
        store = Path(where) / "round.zarr"
        for _ in range(rounds):
            runs.append(_seconds(lambda: _run(folder, store, chosen, segmenter, chunk_size)) / len(images))
            floors.append(_seconds(lambda: _floor(segmenter, windows)) / len(images))
            stored = sum(path.stat().st_size for path in store.rglob("*") if path.is_file()) / len(images)
            shutil.rmtree(store)
        parts = _parts(folder, chosen, segmenter, Path(where))
    return Measured(
        images=len(images),
        windows=sum(len(window) for window in windows),
        parts=parts,
        run=median(runs),
        floor=median(floors),
        ratios=tuple(sorted(run / floor for run, floor in zip(runs, floors))),
        peak=torch.cuda.max_memory_allocated() if segmenter.encoder.device.type == "cuda" else peak_resident(),
        stored=stored,
        agreement=_agreement(segmenter, reference(), images) if reference else None,
    )


def peak_resident() -> int:
    """The most bytes of memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _agreement(segmenter: Segmenter, reference: Segmenter, images: Sequence[UInt8Image]) -> float:
    same = [(segmenter.annotation(i).labels == reference.annotation(i).labels).ravel() for i in images]
    return float(np.concatenate(same).mean())


def _windows(segmenter: Segmenter, image: UInt8Image) -> list[Tensor]:
    """All windows of an image, b × 3 × h × w for every scale and view; those of a view are not mirrored or blurred."""
    tiling = segmenter.config.tiling
    scales = segmenter.prepare(image).scales
    return [
        cut(pixels, tile((pixels.shape[1], pixels.shape[2]), tiling.window, tiling.stride))
        for pixels in scales
        for _ in tiling.views
    ]


def _floor(segmenter: Segmenter, windows: Sequence[Tensor]) -> None:
    """open_clip's own forward pass over windows, in the run's batches."""
    with torch.inference_mode():
        for batch in windows:
            for start in range(0, len(batch), segmenter.batches.size):
                segmenter.encoder.plain(batch[start : start + segmenter.batches.size])
        _wait(segmenter.encoder)


def _run(folder: Path, out: Path, items: Sequence[ImageItem], segmenter: Segmenter, chunk_size: int) -> Job:
    names = tuple(item.key for item in items)
    job = prepare(
        folder, segmenter.config, out, options=RunOptions(selection=Selection(names=names), chunk_size=chunk_size)
    )
    run = job.plan.identity.resolved(segmenter)
    for _ in job.run(make=lambda *_: (segmenter, run)):
        pass
    return job


def _parts(folder: Path, items: Sequence[ImageItem], segmenter: Segmenter, where: Path) -> dict[str, float]:
    """Seconds an image of every part, one after the other."""
    spent = dict.fromkeys(PARTS, 0.0)
    bare = _run(folder, where / "parts.zarr", items[:1], segmenter, 1)
    encoder = _TimedEncoder(segmenter.encoder)
    timed = Segmenter(encoder, segmenter.bank, segmenter.stack, segmenter.config, segmenter.batches.size)
    entries: list[tuple[Any, Annotation]] = []
    for item in items:
        begun = time.perf_counter()
        reading = read_image(item, Records())
        spent["decode"] += time.perf_counter() - begun
        if reading.pixels is None:
            continue
        annotation = _annotated(reading.pixels, timed, encoder, spent)
        entries.append((replace(reading.record, key=f"{len(entries)}"), annotation))
    with writing(bare.plan.out) as store:
        spent["write"] = _seconds(lambda: store.commit(entries))
    return {name: seconds / len(items) for name, seconds in spent.items()}


def _annotated(image: UInt8Image, segmenter: Segmenter, encoder: _TimedEncoder, spent: dict[str, float]) -> Annotation:
    """An image's annotation; the seconds of its parts are added to `spent`."""
    encoded, begun = encoder.seconds, time.perf_counter()
    prepared = segmenter.prepare(image)
    _wait(encoder)
    cut_up = time.perf_counter()
    annotation = segmenter.begin_prepared([prepared])[0]()
    encoded = encoder.seconds - encoded
    spent["windows"] += cut_up - begun
    spent["encoder"] += encoded
    spent["finish"] += time.perf_counter() - cut_up - encoded
    return annotation


class _TimedEncoder(EncoderWrapper):
    """An encoder that adds up the seconds of its forward passes."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder)
        self.seconds = 0.0

    def trace(self, windows: Tensor) -> Trace:
        return self._timed(lambda: self._encoder.trace(windows))

    def readout(self, trace: Trace, attention: Tensor) -> Tensor:
        return self._timed(lambda: self._encoder.readout(trace, attention))

    def readout_of(self, trace: Trace, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        return self._timed(lambda: self._encoder.readout_of(trace, pairs))

    def project(self, block: Tensor) -> Tensor:
        return self._timed(lambda: self._encoder.project(block))

    def _timed(self, work: Callable[[], _T]) -> _T:
        begun = time.perf_counter()
        made = work()
        _wait(self)
        self.seconds += time.perf_counter() - begun
        return made


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _wait(encoder: Encoder) -> None:
    """Wait for a GPU, whose work is queued."""
    if encoder.device.type == "cuda":
        torch.cuda.synchronize()
