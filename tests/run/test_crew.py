"""Workers that can't do the work, that die, or that never come; a stand-in takes the cluster's place."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovlabel import __version__
from ovlabel.errors import ClusterError, ConfigError, OvlabelError, StoreError
from ovlabel.run import crew, dask, worker
from ovlabel.run.dask import DaskExecutor
from ovlabel.run.identity import RunIdentity
from ovlabel.run.job import Job, prepare
from ovlabel.run.options import RunOptions
from ovlabel.run.result import RunResult
from ovlabel.settings.reading import load_config
from ovlabel.store.read import open_store
from tests import faults

CONFIG = load_config("plain", {"text.vocabulary": "classes:dark, middle, bright", "encoder.weights": "random:0"})
Does = Callable[[Callable[..., Any], Any], Any]  # how a worker answers a call


def honest(function: Callable[..., Any], argument: Any) -> Any:
    return function(argument)


class Cluster:
    """Stands in for a client of Dask: every call is answered when the crew looks for workers next."""

    def __init__(self, **workers: Does) -> None:
        self.workers: dict[str, Does] = dict(workers)
        self.status = "running"
        self.scheduler = SimpleNamespace(identity=None)
        self.calls: list[tuple[Any, str, Callable[..., Any], Any]] = []
        self.taken: list[str] = []

    def submit(self, function: Callable[..., Any], argument: Any, *, workers: list[str], **_: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.calls.append((future, workers[0], function, argument))
        return future

    def sync(self, *_: Any, **__: Any) -> dict[str, Any]:
        told = {name: {"name": name, "nthreads": 1, "resources": {"ovlabel": 1}} for name in self.workers}
        calls, self.calls = self.calls, []
        for future, name, function, argument in calls:
            if name in self.workers and not future.cancelled():
                self._answer(future, name, function, argument)
        return {"workers": told}

    def _answer(self, future: Future[Any], name: str, function: Callable[..., Any], argument: Any) -> None:
        if function is worker.annotate_chunk:
            self.taken.append(name)
        try:
            future.set_result(self.workers[name](function, argument))
        except DiedError:
            del self.workers[name]
        except Exception as error:
            future.set_exception(error)


class DiedError(Exception):
    pass


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(crew, "_GRACE_SECONDS", 0.05)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Job, RunResult]]:
    """Annotate the folder on a stand-in for a cluster."""

    def annotate(cluster: Cluster, patience: float = 600) -> tuple[Job, RunResult]:
        import contextlib

        monkeypatch.setattr(dask, "_client", lambda _: contextlib.nullcontext(cluster))
        monkeypatch.setattr(worker, "_segmenters", {})
        options = RunOptions(scheduler="tcp://x:1", chunk_size=2, wait_for_workers=patience)
        job = prepare(folder, CONFIG, options=options)
        list(job.run(make=faults.make))
        return job, RunResult.of(job, 0.0)

    return annotate


def blind(function: Callable[..., Any], argument: Any) -> Any:
    """A machine on which the folder is empty."""
    if function is worker.look:
        return function(replace(argument, images=tuple(path / "not" / "here" for path in argument.images)))
    moved = tuple(replace(item, path=item.path.with_name("nowhere")) for item in argument.items)
    return function(replace(argument, items=moved))


def blind_after_a_look(function: Callable[..., Any], argument: Any) -> Any:
    """A machine that loses the folder once it was asked."""
    return honest(function, argument) if function is worker.look else blind(function, argument)


def without_the_store(function: Callable[..., Any], argument: Any) -> Any:
    lost = argument.lock.with_name("nowhere") if function is worker.look else None
    return function(replace(argument, lock=lost) if lost else argument)


def full(function: Callable[..., Any], argument: Any) -> Any:
    return honest(function, argument) if function is worker.look else worker.Refusal(StoreError("no space left"))


def bare(function: Callable[..., Any], argument: Any) -> Any:
    raise RuntimeError("Error during deserialization") from ModuleNotFoundError("No module named 'ovlabel'")


def mortal(function: Callable[..., Any], argument: Any) -> Any:
    if function is worker.look:
        return function(argument)
    raise DiedError


UNFIT = [blind, without_the_store, full, bare]


@pytest.mark.parametrize("unfit", [*UNFIT, mortal])
def test_others_do_what_one_worker_can_not(
    unfit: Does, run: Any, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster(bad=unfit, good=honest)
    _, result = run(cluster)
    assert (result.annotated, result.pending, result.complete) == (12, 0, True)
    assert cluster.taken.count("bad") <= 2
    assert unfit is mortal or "worker bad is set aside: " in caplog.text
    assert len(open_store(folder.parent / "images.ovlabel.zarr")) == 12


@pytest.mark.parametrize(
    ("unfit", "kind", "words"),
    [
        (blind, ConfigError, "can't read .*is the folder mounted there"),
        (without_the_store, StoreError, "does not see the store"),
        (full, StoreError, "no space left"),
        (bare, ConfigError, "No module named 'ovlabel'"),
    ],
)
def test_without_a_worker_that_can_work_the_run_ends_in_one_line(
    unfit: Does, kind: type[OvlabelError], words: str, run: Any
) -> None:
    with pytest.raises(kind, match=f"^worker bad: .*{words}"):
        run(Cluster(bad=unfit))


def test_a_worker_that_loses_the_folder_gives_its_images_back(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    _, result = run(Cluster(bad=blind_after_a_look, good=honest))
    assert (result.annotated, result.pending) == (12, 0)
    assert "worker bad can't read " in caplog.text


def test_what_no_worker_sees_is_pending_and_no_success(run: Any) -> None:
    job, result = run(Cluster(bad=blind_after_a_look))
    assert (result.annotated, result.pending, result.complete) == (0, 12, False)
    assert result.unread == sorted(job.gone)


def test_what_was_really_deleted_is_not_looked_for(run: Any, folder: Path) -> None:
    def deletes(function: Callable[..., Any], argument: Any) -> Any:
        (folder / "03.png").unlink(missing_ok=True)
        return function(argument)

    _, result = run(Cluster(only=deletes))
    assert (result.images, result.annotated, result.deleted, result.complete) == (11, 11, ["03.png"], True)


def test_no_worker_is_said_at_once_and_waited_for_with_a_limit(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "ovlabel")
    with pytest.raises(ClusterError, match=r"^no worker in .* the scheduler has none"):
        run(Cluster(), patience=0.1)
    assert "waiting for workers, 0 s at the most: the scheduler has none" in caplog.messages


def test_a_worker_that_ends_when_it_is_asked_is_named(run: Any) -> None:
    def ends(function: Callable[..., Any], argument: Any) -> Any:
        raise DiedError

    with pytest.raises(ConfigError, match=r"^worker bad ended when it was asked"):
        run(Cluster(bad=ends))


def test_an_image_that_every_worker_dies_of_fails_and_the_others_do_not(run: Any) -> None:
    cluster = Cluster()

    def dies_of_five(function: Callable[..., Any], argument: Any) -> Any:
        if function is worker.annotate_chunk and any(item.key == "05.png" for item in argument.items):
            cluster.workers[f"w{len(cluster.taken)}"] = dies_of_five  # a nanny starts another
            raise DiedError
        return function(argument)

    cluster.workers["w"] = dies_of_five
    _, result = run(cluster)
    assert result.annotated == 11
    assert [(one["key"], one["exception"]) for one in result.failed] == [("05.png", "KilledWorker")]


def test_a_scheduler_that_is_lost_ends_the_run_and_keeps_what_is_done(run: Any, folder: Path) -> None:
    cluster = Cluster()

    def stops(function: Callable[..., Any], argument: Any) -> Any:
        cluster.status = "connecting" if len(cluster.taken) > 2 else "running"
        return function(argument)

    cluster.workers["w"] = stops
    with pytest.raises(ClusterError, match="the scheduler is gone"):
        run(cluster)
    store = folder.parent / "images.ovlabel.zarr"
    assert 0 < len(open_store(store)) < 12
    assert not list(store.glob(".lock*")), "the lock is released"


def test_a_defect_on_a_worker_is_no_reason_to_try_others(run: Any) -> None:
    def broken(function: Callable[..., Any], argument: Any) -> Any:
        failed = worker.Refusal(ConfigError("ZeroDivisionError"), "Traceback: here")
        return function(argument) if function is worker.look else failed

    with pytest.raises(RuntimeError, match="on worker w:\nTraceback: here"):
        run(Cluster(w=broken, v=broken))


def test_another_version_or_a_copy_of_the_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(json.dumps({"token": "abc"}))
    place = worker.Place(__version__, (), tmp_path, tmp_path / ".lock", "abc")
    assert worker.look(place) is None
    for changed, words in (
        (replace(place, version="9.9"), "has ovlabel"),
        (replace(place, token="other"), "sees another store"),
        (replace(place, lock=tmp_path / "none"), "does not see the store"),
        (replace(place, images=(tmp_path / "none.png",)), "is the folder mounted there"),
    ):
        refusal = worker.look(changed)
        assert refusal is not None
        assert words in str(refusal.error)


def test_a_worker_whose_labels_would_differ_is_refused(run: Any, folder: Path) -> None:
    run(Cluster(w=honest))
    store = open_store(folder.parent / "images.ovlabel.zarr")

    def other(identity: RunIdentity, offline: bool) -> tuple[faults.Fake, dict[str, Any]]:
        fake, resolved = faults.make(identity, offline)
        return fake, resolved | {"encoder": resolved["encoder"] | {"weights": "f" * 64}}

    identity = RunIdentity.read(CONFIG)
    task = worker.Task((), "other run", other, identity, False, 0, (), store.path, 9, None, 3)
    answer = worker.annotate_chunk(task)
    assert isinstance(answer, worker.Refusal)
    assert "its labels would differ: encoder.weights" in str(answer.error)


def test_files_are_named_in_full_for_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.json").write_text("{}")
    (tmp_path / "w.pt").write_bytes(b"")
    (tmp_path / "up.pt").write_bytes(b"")
    settings = {"encoder.model": "m.json", "encoder.weights": "w.pt", "stages": ["csa"]}
    config = load_config("plain", {"text.vocabulary": "classes:a, b"} | settings)
    config = replace(config, stages=(replace(config.stages[0], fields=(("checkpoint", "up.pt"), ("kernel", 3))),))
    sent = RunIdentity.read(config).absolute().config
    assert (sent.encoder.model, sent.encoder.weights) == (str(tmp_path / "m.json"), str(tmp_path / "w.pt"))
    assert sent.stages[0].fields == (("checkpoint", str(tmp_path / "up.pt")), ("kernel", 3))
    assert RunIdentity.read(CONFIG).absolute().config == CONFIG
    assert DaskExecutor.__dataclass_fields__.keys() == {"identity", "options", "make"}
