"""The workers of a Dask cluster, each with the chunks that were handed to it.

A worker is asked first what it finds on its machine (`worker.look`), and gets images only if that is what it needs.
Every chunk goes to one worker by name, so that it is known who has it: what a worker had that died, or that was set
aside because it can't do the work, comes back and goes to others.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ovlabel.errors import ClusterError, ConfigError, OvlabelError
from ovlabel.run.worker import Place, Refusal, Task, annotate_chunk, look
from ovlabel.types import ImageItem

if TYPE_CHECKING:
    from distributed import Client, Future

log = logging.getLogger("ovlabel")

RESOURCE = "ovlabel"  # one task at a time on a worker that declares one of it
_IN_FLIGHT = 2  # chunks of a worker at a time: one in work, and one that waits
_LOOK_SECONDS = 1.0  # between two looks at which workers there are
_TELL_SECONDS = 60.0  # between two lines of the log while there is no worker
_GRACE_SECONDS = 10.0  # for which other workers may come, when all that are there were set aside
_ANSWER_SECONDS = 30.0  # within which a scheduler answers, and a receipt arrives


@dataclass(eq=False)
class Chunk:
    """Images that are annotated together.

    Attributes:
        items: they.
        deaths: of workers that had it in work.
        unseen_by: workers that could not read these images.
    """

    items: tuple[ImageItem, ...]
    deaths: int = 0
    unseen_by: frozenset[str] = frozenset()


@dataclass(eq=False)
class Worker:
    """A worker of the cluster.

    Attributes:
        address: where it listens.
        name: for messages.
        declares: whether it declares the resource, by which it does one chunk at a time.
        alone: whether it does one chunk at a time, so that the first of its chunks is the one in work.
        asked: what `look` will answer; None once it has.
        aside: why it gets no images; None if nothing is known against it.
        chunks: what was handed to it, in this order.
    """

    address: str
    name: str
    declares: bool
    alone: bool
    asked: Future | None = None
    aside: OvlabelError | None = None
    chunks: dict[Future, Chunk] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether it may be given images."""
        return self.asked is None and self.aside is None


class Crew:
    """All workers of a cluster.

    Args:
        client: of the cluster.
        place: what a worker must find on its machine.
        patience: seconds to wait while no worker can work.
    """

    def __init__(self, client: Client, place: Place, patience: float) -> None:
        self.returned: list[Chunk] = []  # chunks of workers that died or were set aside
        self._client, self._place, self._patience = client, place, patience
        self._workers: dict[str, Worker] = {}
        self._finished: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self._looked = self._told = -float("inf")
        self._idle_since: float | None = None
        self._left: list[OvlabelError] = []  # of workers that ended when they were asked
        self._warned = False

    @property
    def ready(self) -> list[Worker]:
        """The workers that may be given images."""
        return [worker for worker in self._workers.values() if worker.ready]

    def may_see(self, chunk: Chunk) -> bool:
        """Whether there is a worker that has not yet said that it can't read the images of a chunk."""
        return any(w.aside is None and w.address not in chunk.unseen_by for w in self._workers.values())

    @property
    def busy(self) -> bool:
        """Whether a worker has a chunk."""
        return any(worker.chunks for worker in self._workers.values())

    def free(self) -> Iterator[Worker]:
        """The workers that can take a chunk; each comes as often as it can take one, all once before any comes twice.

        The chunk must be handed over before the next one is asked for.
        """
        for held in range(_IN_FLIGHT):
            yield from [worker for worker in self.ready if len(worker.chunks) == held]

    def hand(self, chunk: Chunk, task: Task, worker: Worker) -> None:
        """Give a chunk to a worker."""
        resources = {RESOURCE: 1.0} if worker.declares else None
        worker.chunks[self._submit(annotate_chunk, task, worker, resources)] = chunk

    def _submit(
        self, function: Any, argument: Any, worker: Worker, resources: dict[str, float] | None = None
    ) -> Future:
        future = self._client.submit(function, argument, workers=[worker.address], resources=resources, pure=False)
        future.add_done_callback(self._finished.put)
        return future

    def look(self) -> None:
        """See which workers are there, once a second at the most. Those that are new are asked.

        Raises:
            ClusterError: the scheduler is lost, or no worker could work for longer than one waits.
            OvlabelError: all workers were set aside; the reason of the last one, and its kind.
        """
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        found = self._found()
        self._looked = time.monotonic()
        for address in self._workers.keys() - found.keys():
            self._lost(self._workers.pop(address))
        for address in [address for address in found if address not in self._workers]:
            self._join(address, found[address])
        self._wait_for_work()

    def _found(self) -> dict[str, Any]:
        """What the scheduler says of its workers, by address."""
        try:
            if self._client.status == "running" and (scheduler := self._client.scheduler) is not None:
                told = self._client.sync(scheduler.identity, n_workers=-1, callback_timeout=_ANSWER_SECONDS)
                return dict(told["workers"])
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            log.debug("%s", error)
        raise ClusterError("the scheduler is gone; what was finished is committed, run the same command to go on")

    def _join(self, address: str, told: dict[str, Any]) -> None:
        """Take in a worker that is new."""
        name = str(told.get("name") or address)
        shown = address if name == address else f"{name} ({address})"
        declares = RESOURCE in told.get("resources", {})
        worker = Worker(address, shown, declares, declares or told.get("nthreads") == 1)
        self._workers[address] = worker
        if not (worker.alone or self._warned):
            self._warned = True
            log.warning('worker %s declares no "%s=1": it takes as many chunks as it has threads', shown, RESOURCE)
        self.ask(worker)

    def ask(self, worker: Worker) -> None:
        """Ask a worker what it finds on its machine; until it has answered, it is given nothing more."""
        worker.asked = self._submit(look, self._place, worker)

    def _lost(self, worker: Worker) -> None:
        """Take back what a worker had that is not there any more."""
        if worker.asked is not None:
            self._left.append(
                ConfigError(f"worker {worker.name} ended when it was asked: is the same ovlabel installed there?")
            )
            log.warning("%s", self._left[-1])
        for number, (future, chunk) in enumerate(worker.chunks.items()):
            chunk.deaths += number == 0 or not worker.alone
            self.returned.append(chunk)
            future.cancel()
        worker.chunks.clear()

    def set_aside(self, worker: Worker, error: OvlabelError) -> None:
        """Give a worker no more images, say why, and take back what it had."""
        log.warning("worker %s is set aside: %s", worker.name, error)
        worker.aside = type(error)(f"worker {worker.name}: {error}")
        for future, chunk in worker.chunks.items():
            self.returned.append(chunk)
            future.cancel()
        worker.chunks.clear()

    def next(self) -> tuple[Worker, Chunk, Any] | None:
        """Wait for the next chunk that is done, a second at the most.

        Returns:
            The worker, the chunk, and what `annotate_chunk` returned. None if no chunk is done.
        """
        try:
            future = self._finished.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            return None
        for worker in self._workers.values():
            if future is worker.asked:
                self._answered(worker, future)
            elif future in worker.chunks:
                chunk, result = worker.chunks[future], self._result(worker, future)
                if worker.chunks.pop(future, None) is not None:
                    return worker, chunk, result
        return None

    def _answered(self, worker: Worker, future: Future) -> None:
        worker.asked = None
        answer = self._result(worker, future)
        if isinstance(answer, Refusal):
            self.set_aside(worker, answer.error)

    def _result(self, worker: Worker, future: Future) -> Any:
        """What a worker returned. A worker that can't even read what it was sent is set aside."""
        from distributed.scheduler import KilledWorker

        try:
            return future.result(timeout=_ANSWER_SECONDS)
        except KilledWorker:
            self._looked = -float("inf")
            self._lost(worker)
        except Exception as error:  # whatever its environment provokes
            if future.cancelled() or self._client.status != "running":
                self._found()
                self._lost(worker)
            else:
                self.set_aside(worker, ConfigError(f"its environment is not that of this process: {_root(error)}"))
        return None

    def _wait_for_work(self) -> None:
        """While no worker can work: say so, and end the run where none comes."""
        if self.ready or self.busy:
            self._idle_since = None
            return
        now = time.monotonic()
        self._idle_since = now if self._idle_since is None else self._idle_since
        waited = now - self._idle_since
        aside = [worker.aside for worker in self._workers.values() if worker.aside]
        asked = len(self._workers) - len(aside)
        if (aside or self._left) and not asked and waited >= min(_GRACE_SECONDS, self._patience):
            raise [*self._left, *aside][-1]
        state = f"of {len(self._workers)}, {len(aside)} are set aside and {asked} have not answered"
        state = state if self._workers else "the scheduler has none"
        if waited >= self._patience:
            raise ClusterError(f"no worker in {waited:.0f} s: {state}; start workers, or raise --wait-for-workers")
        if now - self._told >= _TELL_SECONDS and (not asked or waited >= _GRACE_SECONDS):
            self._told = now
            log.info("waiting for workers, %.0f s at the most: %s", self._patience - waited, state)


def _root(error: BaseException) -> str:
    """The first cause of an exception, in one line."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return f"{type(error).__name__}: {error}"
