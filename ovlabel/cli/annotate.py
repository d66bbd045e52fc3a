"""`ovlabel annotate`."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from ovlabel.cli.codes import OK, SOME_FAILED
from ovlabel.config import Config, load_config, setting
from ovlabel.errors import ConfigError
from ovlabel.images import printable
from ovlabel.job import Job, prepare
from ovlabel.store import Record
from ovlabel.vocabulary import INLINE

_SAY_SECONDS = 10


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(annotate)


def annotate(
    folder: Annotated[Path, typer.Argument(help="Folder of images, with its subfolders.")],
    out: Annotated[Path | None, typer.Option(help="Store. [default: FOLDER.ovlabel.zarr]")] = None,
    vocab: Annotated[str | None, typer.Option(help="Vocabulary, name or file. [default: coco-stuff]")] = None,
    classes: Annotated[str | None, typer.Option(help='A vocabulary on the spot: "cat, dog, grass".')] = None,
    preset: Annotated[str, typer.Option(help="Stack of stages, name or .toml file.")] = "sclip",
    templates: Annotated[str | None, typer.Option(help="Prompt templates, name or file.")] = None,
    model: Annotated[str | None, typer.Option(help="open_clip architecture, .json config, or demo.")] = None,
    weights: Annotated[str | None, typer.Option(help="Tag, hf-hub:…, file, or random:SEED.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other key; may repeat.")
    ] = None,
    chunk: Annotated[int, typer.Option(min=1, help="Most images in one commit.")] = 64,
    offline: Annotated[bool, typer.Option("--offline", help="Never open a connection.")] = False,
) -> None:
    """Annotate every image of FOLDER that is not annotated yet.

    Stop it whenever you like and run it again: what is committed is never redone.
    """
    if vocab is not None and classes is not None:
        raise ConfigError("--vocab and --classes exclude each other")
    vocabulary = vocab if classes is None else INLINE + classes
    config = config_of(preset, settings, vocabulary, templates, model, weights, device)
    job = prepare(folder, config, out, chunk_size=chunk, offline=offline)
    if config.encoder.weights.startswith("random:"):
        print("ovlabel: random weights: the labels of this run mean nothing", file=sys.stderr)
    elif config.encoder.model == "demo" and config.encoder.weights == "auto":
        print("ovlabel: the embedded model knows the drawings of 'ovlabel demo', no photographs", file=sys.stderr)
    annotate_pending(job)
    raise typer.Exit(_summary(job))


def config_of(
    preset: str,
    settings: list[str] | None,
    vocabulary: str | None = None,
    templates: str | None = None,
    model: str | None = None,
    weights: str | None = None,
    device: str | None = None,
) -> Config:
    """A preset with the options of a command; one that `--set` gives too must agree."""
    options = {
        "text.vocabulary": vocabulary,
        "text.templates": templates,
        "encoder.model": model,
        "encoder.weights": weights,
        "encoder.device": device,
    }
    overrides: dict[str, str] = dict(setting(text) for text in settings or [])
    for key, value in options.items():
        if value is not None and overrides.setdefault(key, value) != value:
            raise ConfigError(f"{key} is given twice, as {overrides[key]} and as {value}")
    return load_config(preset, overrides)


def annotate_pending(job: Job) -> None:
    """Do what is pending, with a bar on a terminal and plain lines elsewhere."""
    if job.idle:
        return
    progress = _Bar(job) if sys.stderr.isatty() else _Lines(job)
    try:
        for _ in job.run(on_image=progress.image):
            pass
    finally:
        progress.close()


class _Bar:
    """tqdm, an image a step."""

    def __init__(self, job: Job) -> None:
        from tqdm import tqdm
        from tqdm.contrib.logging import logging_redirect_tqdm

        self._bar = tqdm(total=len(job.pending), unit="image", desc="annotate", smoothing=0.05)
        self._redirect = logging_redirect_tqdm([logging.getLogger("ovlabel")])
        self._redirect.__enter__()
        self._failed = 0

    def image(self, record: Record) -> None:
        self._failed += record.outcome == "failed"
        if self._failed:
            self._bar.set_postfix(failed=self._failed, refresh=False)
        self._bar.update()

    def close(self) -> None:
        self._redirect.__exit__(None, None, None)
        self._bar.close()


class _Lines:
    """A line every ten seconds, the first and the last one always; the time an image takes leaves the start-up out."""

    def __init__(self, job: Job) -> None:
        self._total, self._done, self._failed = len(job.pending), 0, 0
        self._first = self._said = 0.0

    def image(self, record: Record) -> None:
        now = time.monotonic()
        self._first = self._first or now
        self._done += 1
        self._failed += record.outcome == "failed"
        if now - self._said < _SAY_SECONDS and self._done < self._total:
            return
        self._said = now
        pace = ""
        if self._done > 1:
            each = (now - self._first) / (self._done - 1)
            pace = f", {each:.2f} s/image, {duration(each * (self._total - self._done))} left"
        print(
            f"ovlabel: {self._done}/{self._total} images, {self._failed} failed{pace}",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        pass


def _summary(job: Job) -> int:
    """Print what happened and where it lies; the exit code."""
    failures = job.failures()
    for name in job.left_out:
        print(f"left out: {printable(name)}: the folder can't be read")
    if not job.items:
        print(f"no images in {printable(str(job.folder))}")
        return SOME_FAILED if job.left_out else OK
    done = [] if job.store is None else [job.store[item.key] for item in job.items if item.key in job.store]
    new, out = len(job.pending), printable(str(job.out))
    print(f"{len(done)} of {len(job.items)} images annotated ({new} looked at now, {len(failures)} failed) in {out}")
    reduced = [image for image in done if image.record.reduced]
    if reduced:
        print(
            f"{len(reduced)} large images were decided at {job.config.labels.max_finish_pixels / 1e6:g} megapixels "
            "(labels.max_finish_pixels)"
        )
    for key, record in list(failures.items())[:20]:
        print(f"failed: {printable(key)}: {record.error}")
    if len(failures) > 20:
        print(f"… and {len(failures) - 20} more: ovlabel status {out}")
    if new and done:
        print(f"look at one: ovlabel show {out} {printable(done[0].key)} -o overlay.png")
    return SOME_FAILED if failures or job.left_out else OK


def duration(seconds: float) -> str:
    """ "45 s", "12 min" or "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
