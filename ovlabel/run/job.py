"""A run: a folder of photographs → a store. It can be stopped and resumed, because the store is the only state."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovlabel.errors import BusyError, ConfigError, StoreError
from ovlabel.run.identity import RunIdentity, check_folder, check_run
from ovlabel.run.listing import Listing, Selection, list_folder
from ovlabel.run.options import RunOptions
from ovlabel.settings.keys import Config
from ovlabel.store.layout import exists
from ovlabel.store.manifest import Manifest
from ovlabel.store.read import Store, open_store
from ovlabel.store.record import Record
from ovlabel.store.records import Tally
from ovlabel.store.write import StoreWriter, writing
from ovlabel.types import ChunkReport, ImageItem, ImageList, TextBank

if TYPE_CHECKING:
    from ovlabel.run.local import Annotator, Executor, Maker, OnImage


@dataclass(frozen=True)
class Plan:
    """What a run is about; found without torch, before anything is written.

    Attributes:
        folder: the photographs.
        out: the store.
        identity: the settings and the content of their files.
        options: how the run is done.
        listing: the images of the folder that the run is about.
    """

    folder: Path
    out: Path
    identity: RunIdentity
    options: RunOptions
    listing: Listing

    @property
    def config(self) -> Config:
        """The settings."""
        return self.identity.config

    @property
    def selection(self) -> Selection:
        """Which images of the folder."""
        return self.options.selection

    @property
    def items(self) -> ImageList:
        """Every image that the run is about."""
        return self.listing.items


@dataclass
class Job:
    """A plan, what of it is to be done, and what was done; `run()` does it.

    Attributes:
        plan: what the run is about.
        store: as it was found; None before there is one.
        settled: whether the store was written by the very same settings, so that nothing needs to be compared further.
        pending: images that no commit covers, as many as the run takes.
        left: how many more are pending than `Selection.limit` takes.
        vanished: keys of the store that are not in the folder any more.
        removed: whether the run has removed them from the store.
        gone: keys that were listed, and whose file was not there any more when its turn came.
        open: keys of those of the pending images that are neither done nor failed, while `run` goes on and after it.
    """

    plan: Plan
    store: Store | None
    settled: bool
    pending: Sequence[ImageItem] = ()
    left: int = 0
    vanished: list[str] = field(default_factory=list)
    removed: bool = False
    gone: list[str] = field(default_factory=list)
    open: set[str] = field(default_factory=set)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do and nothing to compare: torch is not needed."""
        if self.plan.selection.prune and self.vanished:
            return False
        return not self.pending and (self.settled or not self.plan.items)

    def find_pending(self, store: Store | None) -> None:
        """Compare the listing with what is committed now."""
        selection = self.plan.selection
        items = self.plan.items
        pending = items if store is None else store.pending(items, retry_failed=selection.retry_failed)
        self.pending = pending[: selection.limit]
        self.left = len(pending) - len(self.pending)

    def tally(self) -> Tally:
        """What is known of the images of the run: how many are done, which failed, now or in an earlier run."""
        return Tally() if self.store is None else self.store.records.tally(self.plan.items)

    def failures(self) -> dict[str, Record]:
        """The records of those images of the run that failed, now or in an earlier run, by key."""
        return {} if self.store is None else {key: self.store.records[key] for key in self.tally().failed}

    def run(self, on_image: OnImage | None = None, make: Maker | None = None) -> Iterator[ChunkReport]:
        """Annotate what is pending, a commit at a time; what is finished is committed even if the loop is left early.

        Args:
            on_image: is told the record of each image as soon as it is decided, before it is committed.
            make: builds the segmenter; tests pass a stand-in.

        Raises:
            RunError: the store belongs to another run or folder.
            BusyError: another process is writing to the store.
            StoreError: the store can't be written.
            ConfigError, WeightsError: the segmenter can't be built.
        """
        if self.idle:
            self._tidy()
            return
        plan, built = self.plan, _Built(self.plan, make)
        shard, before = plan.selection.shard, self.store
        with writing(plan.out, shard, wait=plan.options.wait, create=built.manifest, known=before) as store:
            self.store = store
            if not self.settled:
                check_run(store, built.run)
            check_folder(store, plan.folder)
            store.settle(plan.folder, plan.identity.vocabulary, plan.identity.written)
            store.clear_unfinished()
            self.find_pending(store)
            self.open = {item.key for item in self.pending}
            if self.pending:
                yield from built.executor().run(self.pending, store, self._noting(on_image))
            if plan.selection.prune and self.vanished:
                self._prune(store)

    def _tidy(self) -> None:
        """Remove chunks that a run which died has left, and bring the index up to date.

        While another process writes, nothing is done: unfinished chunks may be its own then.
        """
        if self.store is not None and self.store.unfinished:
            with contextlib.suppress(BusyError), writing(self.plan.out, self.plan.selection.shard) as store:
                store.clear_unfinished()
        elif self.store is not None and self.store.records.index_pays:
            with contextlib.suppress(StoreError), writing(self.plan.out, self.plan.selection.shard, known=self.store):
                pass  # its end writes the index; a store that can't be written to is the same without one

    def _noting(self, on_image: OnImage | None) -> OnImage:
        """Notes what became of every image, and hands its record on."""
        from ovlabel.run.reading import VANISHED

        def note(record: Record) -> None:
            if record.outcome == VANISHED:
                self.gone.append(record.key)
            else:
                self.open.discard(record.key)
            if on_image:
                on_image(record)

        return note

    def _prune(self, store: StoreWriter) -> None:
        """Remove from the store what is not in the folder any more, and free its space."""
        self.vanished = [key for key in self.vanished if not os.path.lexists(self.plan.folder / key)]
        store.remove(self.vanished, "no longer in the folder")
        store.free()
        self.removed = True


class _Built:
    """The segmenter of a plan and the run as resolved, built when they are first needed.

    A run of a store that is settled already, on workers that build segmenters of their own, needs neither.
    """

    def __init__(self, plan: Plan, make: Maker | None) -> None:
        from ovlabel.run.local import make_segmenter

        self._plan, self._make = plan, make or make_segmenter

    @cached_property
    def _both(self) -> tuple[Annotator, dict[str, Any]]:
        return self._make(self._plan.identity, self._plan.options.offline)

    @property
    def run(self) -> dict[str, Any]:
        """The run as resolved."""
        return self._both[1]

    def manifest(self) -> Manifest:
        """The manifest of a new store for this run."""
        plan = self._plan
        return Manifest.new(plan.out, plan.folder, plan.identity.vocabulary, self.run, plan.identity.written)

    def executor(self) -> Executor:
        """What does the work: Dask's workers, or this process."""
        options = self._plan.options
        if options.distributed:
            from ovlabel.run.dask import DaskExecutor

            self.__dict__.pop("_both", None)  # its memory is not needed any more: the workers have their own
            return DaskExecutor(self._plan.identity, options, self._make)
        from ovlabel.run.local import LocalExecutor

        return LocalExecutor(self._both[0], options.chunk_size)


def annotate(
    folder: str | Path,
    config: Config,
    out: str | Path | None = None,
    options: RunOptions | None = None,
    *,
    text: TextBank | None = None,
) -> Iterator[ChunkReport]:
    """Annotate what is pending in a folder: an iterator that works as it is walked, and yields a report a commit.

    Args:
        folder: photographs, in any depth of folders.
        config: the settings, from `load_config`.
        out: the store; by default FOLDER.ovlabel.zarr beside the folder.
        options: which images, in commits of which size, here or on a cluster.
        text: a text bank of your own, in place of the vocabulary and templates that the settings name.

    Raises:
        ConfigError, WeightsError, StoreError: see `Job.run`. An image that can't be read is reported, not raised.

    Example:
        >>> import ovlabel, tempfile
        >>> config = ovlabel.load_config("sclip", {"text.vocabulary": "classes:cat, dog"})
        >>> with tempfile.TemporaryDirectory() as empty:
        ...     [report.done for report in ovlabel.annotate(empty, config)]
        []
    """
    return prepare(folder, config, out, options, text=text).run()


def prepare(
    folder: str | Path,
    config: Config,
    out: str | Path | None = None,
    options: RunOptions | None = None,
    *,
    text: TextBank | None = None,
) -> Job:
    """List a folder and find what is pending, without torch. Arguments as for `annotate`.

    Raises:
        ConfigError: no such folder, or options that exclude each other.
        StoreError: the store can't be read. RunError: it belongs to another folder.
    """
    folder, options = Path(folder), options or RunOptions()
    _check(options, config, out)
    listing = list_folder(folder, options.selection)
    path = default_store(folder) if out is None else Path(out)
    plan = Plan(folder, path, RunIdentity.read(config, text), options, listing)
    store = open_store(path) if exists(path) else None
    if store is not None:
        check_folder(store, folder)
    settled = text is None and store is not None and store.manifest.written == plan.identity.written
    vanished = [] if store is None else listing.vanished(folder, store.records)
    job = Job(plan, store, settled, vanished=vanished)
    job.find_pending(store)
    if options.selection.prune and vanished and not listing.keys:
        raise ConfigError(f"{folder} holds no image at all: is it mounted? Nothing was removed from {path}")
    return job


def _check(options: RunOptions, config: Config, out: str | Path | None) -> None:
    """Raise ConfigError for what can't go together."""
    selection = options.selection
    if "://" in str(out):
        raise ConfigError(f"--out {out}: a store is a folder on this machine")
    if options.scheduler and config.encoder.precision == "auto":
        raise ConfigError("--scheduler: name encoder.precision; 'auto' might be another on every worker")
    if selection.prune and (selection.shard or selection.names is not None):
        raise ConfigError("--prune needs the whole folder and the whole store: run it without --shard and --list")


def default_store(folder: Path) -> Path:
    """FOLDER.ovlabel.zarr beside the folder."""
    real = folder.resolve()
    return real.parent / f"{real.name or 'root'}.ovlabel.zarr"
