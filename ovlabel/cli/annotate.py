"""`ovlabel annotate`."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovlabel.cli.commands import Command
from ovlabel.cli.exit_codes import OK, SOME_FAILED
from ovlabel.cli.messages import others_line, say, say_json, send_to_stderr
from ovlabel.cli.options import (
    AsJson,
    Classes,
    Device,
    ImageFolder,
    Model,
    Offline,
    Preset,
    Settings,
    Templates,
    Vocab,
    Weights,
    config_from,
)
from ovlabel.cli.progress import annotate_pending
from ovlabel.errors import ConfigError, printable, unknown

if TYPE_CHECKING:
    from ovlabel.run.job import Job
    from ovlabel.run.result import RunResult
    from ovlabel.settings.keys import Config
    from ovlabel.text.vocabulary import Vocabulary

log = logging.getLogger("ovlabel")

_NAMED = 20  # absent paths that are named
_DOUBTS = 5  # sentences on a vocabulary that are said
_LOG_FORMATS = ("text", "json")


def _complete_log_formats(incomplete: str) -> list[str]:
    return [name for name in _LOG_FORMATS if name.startswith(incomplete)]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=Command)(annotate)


def annotate(
    folder: ImageFolder,
    out: Annotated[
        Path | None,
        typer.Option(metavar="STORE", help="Store to write. [default: FOLDER.ovlabel.zarr]", rich_help_panel="Labels"),
    ] = None,
    vocab: Vocab = None,
    classes: Classes = None,
    preset: Preset = "sclip",
    templates: Templates = None,
    settings: Settings = None,
    model: Model = None,
    weights: Weights = None,
    device: Device = None,
    offline: Offline = False,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Look at N images at the most.", rich_help_panel="Images")
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Only these keys (* also /); may repeat.", rich_help_panel="Images"),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Not these keys; may repeat.", rich_help_panel="Images")
    ] = None,
    names: Annotated[
        str | None,
        typer.Option(
            "--list", metavar="FILE", help="Only the paths in FILE (-: stdin), a line each.", rich_help_panel="Images"
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try those that failed again.", rich_help_panel="Images")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove from the store what left the folder.", rich_help_panel="Cron")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for a run that is writing there.", rich_help_panel="Cron")
    ] = False,
    chunk: Annotated[
        int, typer.Option(min=1, metavar="N", help="Most images in one commit.", rich_help_panel="Cron")
    ] = 64,
    as_json: AsJson = False,
    log_format: Annotated[
        str,
        typer.Option(metavar="FORM", help="Messages on stderr: text or json.", autocompletion=_complete_log_formats),
    ] = "text",
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only shard I of N; N runs work side by side.", rich_help_panel="Cluster"),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Work in N processes, one a GPU.", rich_help_panel="Cluster"),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="tcp://…", help="Work on a Dask cluster.", rich_help_panel="Cluster")
    ] = None,
    patience: Annotated[
        float,
        typer.Option(
            "--wait-for-workers",
            min=0,
            metavar="SECONDS",
            help="End if no worker comes for so long.",
            rich_help_panel="Cluster",
        ),
    ] = 600.0,
) -> None:
    """Annotate every image of FOLDER that is not annotated yet.

    Stop it whenever you like and run it again: what is committed is never
    redone.

    \b
    Examples:
      ovlabel annotate ./images --vocab coco-stuff
      ovlabel annotate ./images --classes "cat, dog, grass" --limit 10
    """
    from ovlabel.run.job import prepare
    from ovlabel.run.listing import Selection, parse_shard
    from ovlabel.run.options import RunOptions
    from ovlabel.run.result import RunResult

    if log_format not in _LOG_FORMATS:
        raise ConfigError(unknown("--log-format", log_format, _LOG_FORMATS))
    send_to_stderr(log_format)
    config = config_from(
        preset,
        settings,
        vocab=vocab,
        classes=classes,
        templates=templates,
        model=model,
        weights=weights,
        device=device,
    )
    selection = Selection(
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        names=None if names is None else _names(names),
        shard=None if shard is None else parse_shard(shard),
        limit=limit,
        retry_failed=retry_failed,
        prune=prune,
    )
    how = RunOptions(selection, chunk, offline, wait, workers or 0, scheduler or "", patience)
    job = prepare(folder, config, out, how)
    if job.pending:
        _warn(config, job.plan.identity.vocabulary)
    start = time.monotonic()
    annotate_pending(job)
    result = RunResult.of(job, time.monotonic() - start)
    code = OK if result.complete else SOME_FAILED
    if as_json:
        say_json(asdict(result) | {"exit_code": code})
    else:
        _print(result, job)
    raise typer.Exit(code)


def _names(source: str) -> tuple[str, ...]:
    """The paths of `--list`. Raises ConfigError."""
    from ovlabel.run.listing import parse_names

    if source == "-" and sys.stdin is None:
        raise ConfigError("--list -: stdin is closed")
    try:
        return parse_names(sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes())
    except OSError as error:
        raise ConfigError(f"--list {source}: {error.strerror}") from None


def _warn(config: Config, vocabulary: Vocabulary) -> None:
    """Say so where the labels of a run will mean nothing, or its vocabulary seems to be read otherwise than meant."""
    from ovlabel.text.vocabulary import doubts

    found = doubts(vocabulary)
    for doubt in found[:_DOUBTS]:
        log.warning("vocabulary %s: %s", printable(vocabulary.name), doubt)
    if len(found) > _DOUBTS:
        log.warning("and %d more: ovlabel vocab check", len(found) - _DOUBTS)
    if config.encoder.weights.startswith("random:"):
        log.warning("random weights: the labels of this run mean nothing")
    elif config.encoder.model == "demo" and config.encoder.weights == "auto":
        log.warning("the embedded model knows the drawings of 'ovlabel demo', no photographs")


def _print(result: RunResult, job: Job) -> None:
    """One line on what happened; none off a terminal where there was nothing to do and all is well."""
    for name in result.absent[:_NAMED]:
        log.warning("%s: no image of that name in %s", printable(name), printable(result.folder))
    for name in result.unread[:_NAMED]:
        log.warning("%s: was listed, and is neither annotated nor deleted; is its folder mounted?", name)
    for name in result.left_out:
        log.warning("%s: the folder can't be read; it was left out", printable(name))
    if not (result.images or result.vanished or result.deleted):
        listed = f"none of the {len(result.absent)} paths of --list is an image" if result.absent else "no images"
        say(": ".join(filter(None, [f"{listed} in {result.folder}", others_line(result.others)])))
        return
    if not (sys.stdout.isatty() or result.looked_at or result.vanished or result.deleted or not result.complete):
        return
    parts = [f"{result.looked_at} looked at now", f"{len(result.failed)} failed"]
    for count, what in (
        (result.pending, "pending"),
        (len(result.deleted), "deleted before their turn"),
        (len(result.vanished), "removed" if result.removed else "no longer in the folder (--prune)"),
        (len(result.absent), "not found"),
        (result.more_frames, "with further frames that were not read"),
        (result.more_bands, "with further bands that were not read"),
        (result.guessed_range, "whose range of brightness was guessed"),
        (result.reduced, f"decided at {job.plan.config.labels.max_finish_pixels / 1e6:g} megapixels"),
    ):
        parts += [f"{count} {what}"] if count else []
    out = printable(result.store)
    say(f"{result.annotated} of {result.images} images annotated ({', '.join(parts)}) in {out}")
    if result.others:
        say(others_line(result.others))
    if sys.stderr.isatty():
        _log_hints(result, job, out)


def _log_hints(result: RunResult, job: Job, out: str) -> None:
    """Tell a person at a terminal which commands to type next."""
    if result.failed:
        log.info("what failed, and why: ovlabel status %s", out)
    shown = next((item.key for item in job.pending if job.store and item.key in job.store), None)
    if shown is not None:
        log.info("look at one: ovlabel show %s %s -o overlay.png", out, printable(shown))
