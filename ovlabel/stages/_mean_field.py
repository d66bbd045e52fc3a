"""pydensecrf's mean field, here or in another process: the library holds Python's lock while it computes.

The process is this module run as a program: it reads requests from its standard input and writes results to its
standard output until the input ends, which it also does when the main process is killed. It imports neither torch nor
the rest of the project.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import IO, Any

import numpy as np
import numpy.typing as npt

log = logging.getLogger("ovlabel")
Maps = npt.NDArray[np.float32]
Kernel = tuple[float, float, float]  # width in pixels, width in grey levels (0: colour does not count), weight


def infer(energy: Maps, image: npt.NDArray[np.uint8], kernels: tuple[Kernel, ...], pull: Maps, iterations: int) -> Maps:
    """The posterior of the mean field: float32, c × h × w.

    Args:
        energy: −log probability, float32, c × h × w.
        image: uint8, h × w × 3, RGB.
        kernels: width in pixels, width in grey levels (0: colour does not count) and weight of each kernel.
        pull: factor of the kernels for every label, float32, c.
        iterations: of the mean field.
    """
    from pydensecrf.densecrf import DenseCRF2D

    labels, height, width = energy.shape
    field = DenseCRF2D(width, height, labels)
    field.setUnaryEnergy(np.ascontiguousarray(energy.reshape(labels, -1), np.float32))
    for width_there, colour, weight in kernels:
        compat = np.ascontiguousarray(-weight * pull, np.float32)
        if colour:
            picture = np.array(image, order="C")  # a copy: the library takes no read-only arrays
            field.addPairwiseBilateral(sxy=width_there, srgb=colour, rgbim=picture, compat=compat)
        else:
            field.addPairwiseGaussian(sxy=width_there, compat=compat)
    return np.array(field.inference(iterations), np.float32).reshape(labels, height, width)


def count() -> int:
    """The number of processes: one fewer than the CPUs, at least 1 and at most 4."""
    return max(1, min(4, (os.cpu_count() or 2) - 1))


def begin(*request: Any) -> Callable[[], Maps]:
    """Begin `infer(*request)` in another process; the function that is returned waits for the result."""
    pool = _pool()
    return next((worker for worker in pool if worker.idle), pool[0]).ask(request)


@lru_cache(maxsize=1)
def _pool() -> tuple[_Worker, ...]:
    return tuple(_Worker() for _ in range(count()))


class _Worker:
    """A process that is started at its first request; it works on one request at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._open: dict[str, Any] = {}
        atexit.register(self._stop)

    @property
    def idle(self) -> bool:
        """Whether the process has no request in work."""
        return not self._open

    def ask(self, request: tuple[Any, ...]) -> Callable[[], Maps]:
        """Send a request; the function that is returned waits for its result."""
        self._receive()
        question = self._open = {"request": request}
        try:
            asking, _ = self._pipes()
            pickle.dump(request, asking, pickle.HIGHEST_PROTOCOL)
            asking.flush()
        except OSError:
            self._lost()

        def answer() -> Maps:
            if "answer" not in question:
                self._receive()
            posterior: Maps = question["answer"]
            return posterior

        return answer

    def _receive(self) -> None:
        if not self._open:
            return
        try:
            self._open["answer"] = pickle.load(self._pipes()[1])  # written by our own process
            self._open = {}
        except (OSError, EOFError, pickle.UnpicklingError):
            self._lost()

    def _lost(self) -> None:
        """The process has died (killed, or out of memory): compute here, and start another one at the next request."""
        log.warning("the CRF's process ended unexpectedly; this image's CRF runs in the main process")
        self._stop()
        question, self._open = self._open, {}
        question["answer"] = infer(*question["request"])

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        if self._process is None:
            command = [sys.executable, "-P", __file__]  # the package's folder is no place to import from
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
        asking, answering = self._process.stdin, self._process.stdout
        if asking is None or answering is None:
            raise OSError("a process without pipes")
        return asking, answering

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()


def _serve() -> None:
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(infer(*request), sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve()
