"""How a run is done: which images, in commits of which size, here or on a cluster. Nothing here changes a label."""

from __future__ import annotations

from dataclasses import dataclass, field

from ovlabel.errors import ConfigError
from ovlabel.run.listing import Selection


@dataclass(frozen=True)
class RunOptions:
    """Options of a run that change no result.

    Attributes:
        selection: which images of the folder; by default all that are pending.
        chunk_size: most images in one commit, from 1.
        offline: open no connection for weights.
        wait: while another process writes to the store, wait for it instead of raising BusyError.
        workers: processes to start on this machine, one a GPU where there are several; 0 works in this process.
        scheduler: address of a Dask scheduler ("tcp://host:8786") whose workers do the work; "" uses none.
        wait_for_workers: seconds without a worker that can work, after which a run on a cluster ends.

    Raises:
        ConfigError: a chunk size below 1, workers or seconds below 0, or both workers and a scheduler.

    Example:
        >>> from ovlabel import RunOptions
        >>> RunOptions(chunk_size=16, offline=True).distributed
        False
    """

    selection: Selection = field(default_factory=Selection)
    chunk_size: int = 64
    offline: bool = False
    wait: bool = False
    workers: int = 0
    scheduler: str = ""
    wait_for_workers: float = 600

    def __post_init__(self) -> None:
        if self.chunk_size < 1:
            raise ConfigError(f"chunk_size = {self.chunk_size}: a commit holds one image or more")
        if self.workers < 0:
            raise ConfigError(f"workers = {self.workers}: a number of processes, from 0")
        if not self.wait_for_workers >= 0:
            raise ConfigError(f"wait_for_workers = {self.wait_for_workers}: seconds, from 0")
        if self.workers and self.scheduler:
            raise ConfigError("workers and scheduler exclude each other: work on this machine or on a cluster")

    @property
    def distributed(self) -> bool:
        """Whether the work is done by processes other than this one."""
        return bool(self.workers or self.scheduler)
