"""Progress of a run on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovlabel.run.job import Job
    from ovlabel.store.record import Record

log = logging.getLogger("ovlabel")

_LINE_SECONDS = 10


def annotate_pending(job: Job) -> None:
    """Annotate what is pending, and show how far it is. Raises as `Job.run` does."""
    if job.idle:
        for _ in job.run():  # removes at most what a run that died has left
            pass
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
    """A line every ten seconds, the first and the last one always; seconds an image leave the start-up out."""

    def __init__(self, job: Job) -> None:
        self._total, self._done, self._failed = len(job.pending), 0, 0
        self._first = self._printed = 0.0

    def image(self, record: Record) -> None:
        now = time.monotonic()
        self._first = self._first or now
        self._done += 1
        self._failed += record.outcome == "failed"
        if now - self._printed < _LINE_SECONDS and self._done < self._total:
            return
        self._printed = now
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


def duration(seconds: float) -> str:
    """A time in words: "45 s", "12 min" or "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
