"""`ovlabel annotate`."""

from __future__ import annotations

import json
import logging
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from ovlabel.cli.codes import OK, SOME_FAILED
from ovlabel.cli.voice import speak
from ovlabel.errors import ConfigError, printable, unknown
from ovlabel.run.job import Job, prepare
from ovlabel.run.listing import Selection, parse_names, parse_shard
from ovlabel.run.options import RunOptions
from ovlabel.settings.keys import Config
from ovlabel.settings.reading import load_config, setting
from ovlabel.store.record import Record
from ovlabel.text.vocabulary import INLINE

log = logging.getLogger("ovlabel")

_SAY_SECONDS = 10
_NAMED = 20  # absent paths that are named


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(annotate)


def _everything(context: typer.Context, wanted: bool) -> None:
    """`--help-all`: the help with the options that the first screen has no room for."""
    if wanted:
        for parameter in context.command.params:
            if isinstance(parameter, typer.core.TyperOption):
                parameter.hidden = False
        print(context.get_help())
        raise typer.Exit


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
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Look at N images at the most.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try those that failed again.")] = False,
    include: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Only these keys (* also /); may repeat.", hidden=True)
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Not these keys; may repeat.", hidden=True)
    ] = None,
    names: Annotated[
        str | None,
        typer.Option("--list", metavar="FILE", help="Only the paths in FILE (-: stdin), a line each.", hidden=True),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Only shard I of N; N runs work side by side.", hidden=True)
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove from the store what has left the folder.", hidden=True)
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for a run that is writing there.", hidden=True)] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Work in N processes, one a GPU.", hidden=True)
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="tcp://…", help="Work on a Dask cluster.", hidden=True)
    ] = None,
    chunk: Annotated[int, typer.Option(min=1, metavar="N", help="Most images in one commit.", hidden=True)] = 64,
    offline: Annotated[bool, typer.Option("--offline", help="Never open a connection.", hidden=True)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.", hidden=True)] = False,
    log_format: Annotated[
        str, typer.Option(metavar="FORM", help="Messages on stderr: text or json.", hidden=True)
    ] = "text",
    _: Annotated[
        bool,
        typer.Option("--help-all", callback=_everything, is_eager=True, help="Also: which images, cron, clusters."),
    ] = False,
) -> None:
    """Annotate every image of FOLDER that is not annotated yet.

    Stop it whenever you like and run it again: what is committed is never
    redone.
    """
    if log_format not in ("text", "json"):
        raise ConfigError(unknown("--log-format", log_format, ("text", "json")))
    speak(log_format)
    if vocab is not None and classes is not None:
        raise ConfigError("--vocab and --classes exclude each other")
    vocabulary = vocab if classes is None else INLINE + classes
    config = config_of(preset, settings, vocabulary, templates, model, weights, device)
    selection = Selection(
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        names=None if names is None else _names(names),
        shard=None if shard is None else parse_shard(shard),
        limit=limit,
        retry_failed=retry_failed,
        prune=prune,
    )
    options = RunOptions(selection, chunk, offline, wait, workers or 0, scheduler or "")
    job = prepare(folder, config, out, options)
    if not job.pending:
        pass
    elif config.encoder.weights.startswith("random:"):
        log.warning("random weights: the labels of this run mean nothing")
    elif config.encoder.model == "demo" and config.encoder.weights == "auto":
        log.warning("the embedded model knows the drawings of 'ovlabel demo', no photographs")
    start = time.monotonic()
    annotate_pending(job)
    result = Result.of(job, time.monotonic() - start)
    if as_json:
        print(json.dumps(asdict(result) | {"exit_code": result.code}))
    else:
        _print(result, job)
    raise typer.Exit(result.code)


def _names(source: str) -> tuple[str, ...]:
    """The paths of `--list`. Raises ConfigError."""
    try:
        return parse_names(sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes())
    except OSError as error:
        raise ConfigError(f"--list {source}: {error.strerror}") from None


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
        fields: dict[str, float] = {"done": self._done, "total": self._total, "failed": self._failed}
        if self._done > 1:
            each = (now - self._first) / (self._done - 1)
            pace = f", {each:.2f} s/image, {duration(each * (self._total - self._done))} left"
            fields["seconds_per_image"] = round(each, 3)
        line = f"{self._done}/{self._total} images, {self._failed} failed{pace}"
        log.info(line, extra={"fields": fields})

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Result:
    """What a run came to; `--json` prints it.

    Attributes:
        images: that the run was about. annotated: of those, now or earlier. looked_at: in this run. pending: left over
            by `--limit`, or gone before their turn. more_frames: hold further frames; the first was annotated.
        reduced: large ones, decided on `labels.max_finish_pixels`. failed: those that failed, now or earlier.
        vanished: annotated ones that have left the folder. removed: whether `--prune` took them out.
        absent: paths of `--list` that lead to no image. left_out: subfolders that can't be read.
    """

    folder: str
    store: str
    images: int
    annotated: int
    looked_at: int
    pending: int
    more_frames: int
    reduced: int
    failed: list[dict[str, Any]]
    vanished: list[str]
    removed: bool
    absent: list[str]
    left_out: list[str]
    seconds: float

    @classmethod
    def of(cls, job: Job, seconds: float) -> Result:
        """The result of a job that has run."""
        records = {} if job.store is None else job.store.records
        done = [r for item in job.plan.items if (r := records.get(item.key)) and r.outcome == "done"]
        kept = ("key", "stage", "exception", "error", "time", "attempts")
        return cls(
            folder=str(job.plan.folder),
            store=str(job.plan.out),
            images=len(job.plan.items),
            annotated=len(done),
            looked_at=len(job.pending),
            pending=job.left + len(job.gone),
            more_frames=sum(record.more_frames for record in done),
            reduced=sum(record.reduced for record in done),
            failed=[{name: getattr(record, name) for name in kept} for record in job.failures().values()],
            vanished=job.vanished,
            removed=job.removed,
            absent=job.plan.listing.absent,
            left_out=job.plan.listing.left_out,
            seconds=round(seconds, 3),
        )

    @property
    def code(self) -> int:
        """The exit code."""
        return SOME_FAILED if self.failed or self.left_out or self.absent else OK


def _print(result: Result, job: Job) -> None:
    """One line on what happened; none off a terminal where there was nothing to do and all is well."""
    for name in result.absent[:_NAMED]:
        log.warning("%s: no image of that name in %s", printable(name), printable(result.folder))
    for name in result.left_out:
        log.warning("%s: the folder can't be read; it was left out", printable(name))
    if not result.images and not result.vanished:
        print(f"no images in {printable(result.folder)}")
        return
    if not (sys.stdout.isatty() or result.looked_at or result.vanished or result.code):
        return
    parts = [f"{result.looked_at} looked at now", f"{len(result.failed)} failed"]
    for count, what in (
        (result.pending, "pending"),
        (len(result.vanished), "removed" if result.removed else "no longer in the folder (--prune)"),
        (len(result.absent), "not found"),
        (result.more_frames, "with further frames that were not read"),
        (result.reduced, f"decided at {job.plan.config.labels.max_finish_pixels / 1e6:g} megapixels"),
    ):
        parts += [f"{count} {what}"] if count else []
    out = printable(result.store)
    print(f"{result.annotated} of {result.images} images annotated ({', '.join(parts)}) in {out}")
    if sys.stderr.isatty():
        _hint(result, job, out)


def _hint(result: Result, job: Job, out: str) -> None:
    """What to type next, for a person."""
    if result.failed:
        log.info("what failed, and why: ovlabel status %s", out)
    shown = next((item.key for item in job.pending if job.store and item.key in job.store), None)
    if shown is not None:
        log.info("look at one: ovlabel show %s %s -o overlay.png", out, printable(shown))


def duration(seconds: float) -> str:
    """ "45 s", "12 min" or "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
