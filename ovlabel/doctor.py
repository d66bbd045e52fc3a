"""What there is on this machine to annotate with, and what is wrong with it.

Opens no connection and leaves no file. Every check imports what it needs itself, and an exception of any kind in it is
reported as a problem.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ovlabel import __version__
from ovlabel.errors import ConfigError, OvlabelError, WeightsError
from ovlabel.files import cache_dir
from ovlabel.settings.keys import EncoderConfig

_LEAST_FREE = 2**30
_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
_PACKAGES = {  # in the order in which one breaks the next
    "numpy": "numpy",
    "pillow": "PIL.Image",
    "torch": "torch",
    "torchvision": "torchvision",
    "open_clip_torch": "open_clip",
    "zarr": "zarr",
    "pydensecrf2": "pydensecrf.densecrf",
}


@dataclass
class Report:
    """`sections`: section → label → what was found, in one line. `problems`: what, where, what to do; one line each."""

    sections: dict[str, dict[str, str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    _broken: bool = False
    _full: set[int] = field(default_factory=set)

    def look(self, section: str, label: str, find: Callable[[], str], cure: str = "") -> None:
        """Note what `find` gives. What it raises is a problem, unless it follows from a package that is broken.

        `cure` is for packages: how to install it anew.
        """
        found = self.sections.setdefault(section, {})
        found[label] = ""  # what `find` looks at by itself comes after it
        try:
            found[label] = find()
        except OvlabelError as error:
            found[label] = "can't be used"
            self.problems.append(str(error))
        except Exception as error:
            found[label] = f"failed ({_why(error)})"
            if cure or not self._broken:
                self.problems.append(f"{label}: {_why(error)}; {cure or 'if nothing else explains it, report it'}")
            self._broken |= bool(cure)

    def place(self, folder: Path, cure: str, *, count: bool = False, needed: bool = True) -> str:
        """Whether a folder, or where it would be made, can be written and locked; what is free; what it holds."""
        there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
        facts = _content(folder) if count else []
        try:
            with tempfile.TemporaryFile(dir=there, buffering=0) as file:
                file.write(b"0")
                facts += ["writable", _locks(file.fileno())]
        except OSError as error:
            facts += [f"not writable: {error.strerror}"]
            if needed:
                self.problems.append(f"{folder} can't be written ({there}: {error.strerror}); {cure}")
        free, disk = shutil.disk_usage(there).free, os.stat(there).st_dev
        if free < _LEAST_FREE and disk not in self._full:
            self._full.add(disk)  # one line a disk
            self.problems.append(f"only {_size(free)} are free where {folder} lies; remove something, or {cure}")
        return f"{folder} ({', '.join([*facts, f'{_size(free)} free'])})"


def examine(path: Path | None = None, model: str | None = None, weights: str | None = None) -> Report:
    """Look at everything.

    Args:
        path: a store or a folder of photographs.
        model, weights: of `encoder`; weights that are named must be on this machine, others may be fetched later.
    """
    report = Report()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        look = partial(report.look, "environment")
        look("ovlabel", lambda: f"{__version__} ({Path(__file__).parent})")
        look("python", lambda: f"{platform.python_version()} ({sys.executable})")
        look("platform", platform.platform)
        for name, module in _PACKAGES.items():
            cure = f"install it anew: {sys.executable} -m pip install --force-reinstall {name}"
            look(name, partial(_package, name, module), cure)
        look("cores", _cores)
        look("memory", _memory)
        look("torch threads", lambda: str(import_module("torch").get_num_threads()))
        look = partial(report.look, "devices")
        look("cpu", _cpu)
        look("cuda", partial(_cuda, report))
        look("mps", lambda: "there" if import_module("torch").backends.mps.is_available() else "none")
        look("auto", lambda: str(import_module("ovlabel.model.device").pick_device("auto")))
        look, missing = partial(report.look, "weights"), list[str]()
        look("default weights", partial(_weights, report, EncoderConfig(), missing))
        if model or weights:
            asked = EncoderConfig(model or EncoderConfig.model, weights or EncoderConfig.weights)
            look("asked weights", partial(_weights, report, asked, missing, named=weights is not None))
        look = partial(report.look, "caches")
        look("cache", lambda: report.place(cache_dir(), "set OVLABEL_CACHE to another folder", count=True))
        look("hub cache", partial(_hub, report, bool(missing)))
        look("temp", lambda: report.place(Path(tempfile.gettempdir()), "set TMPDIR to another folder"))
        if path is not None:
            report.look("path", "path", partial(_path, report, path))
    return report


def _package(name: str, module: str) -> str:
    import_module(module)
    return version(name)


def _cores() -> str:
    count = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else count
    pairs = [line.split() for line in _limits("cpu.max")]
    pairs += [list(pair) for pair in zip(_limits("cpu.cfs_quota_us"), _limits("cpu.cfs_period_us"))]
    quota = min((int(pair[0]) / int(pair[1]) for pair in pairs if pair[0].isdigit()), default=usable)
    return f"{usable} usable of {count}" + (f", a quota of {quota:g} (cgroup)" if quota < usable else "")


def _memory() -> str:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [*_limits("memory.max"), *_limits("memory.limit_in_bytes")]
    limit = min((int(line) for line in limits if line.isdigit()), default=total)
    free = [int(line.split()[1]) for line in _lines(_PROC / "meminfo") if line.startswith("MemAvailable:")]
    available = f", {_size(free[0] * 1024)} available" if free else ""
    return f"{_size(total)}{available}" + (f", a limit of {_size(limit)} (cgroup)" if limit < total else "")


def _limits(name: str) -> list[str]:
    """What a file says in this process' control groups (version 1 or 2) and those around them; "max", -1: no limit."""
    found = []
    for controllers, group in (line.split(":", 2)[1:] for line in _lines(_PROC / "self" / "cgroup")):
        for base in controllers.split(","):  # "" in version 2
            for inside in (Path(group), *Path(group).parents):
                found += _lines(_CGROUPS / base / str(inside).lstrip("/") / name)[:1]
    return found


def _lines(path: Path) -> list[str]:
    """A system file's lines; none where it is not there."""
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace").splitlines()
    return []


def _cpu() -> str:
    facts = {name.strip(): text.strip() for name, _, text in (x.partition(":") for x in _lines(_PROC / "cpuinfo"))}
    flags = set(f"{facts.get('flags', '')} {facts.get('Features', '')}".split())
    native = sorted(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    bf16 = f"native bf16 ({', '.join(native)})" if native else "no native bf16" if flags else "bf16 not known"
    return f"{facts.get('model name') or platform.machine()}, {bf16}"


def _cuda(report: Report) -> str:
    """Looks at every CUDA device; why there is none is a warning of torch's at the most."""
    torch = import_module("torch")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for warning in caught:
        if warning.category is UserWarning:
            report.problems.append(f"CUDA: {_why(warning.message)}; repair the driver, or pass --device cpu")
    for index in range(count):
        report.look("devices", f"cuda:{index}", partial(_cuda_device, torch, index))
    return f"{count}" if count else "none" if torch.version.cuda else "none (this torch is built without CUDA)"


def _cuda_device(torch: Any, index: int) -> str:
    torch.ones(1, device=f"cuda:{index}").add(1).cpu()  # a torch that has nothing for this device says so
    free, total = torch.cuda.mem_get_info(index)
    return f"{torch.cuda.get_device_name(index)}, {_size(total)}, {_size(free)} free"


def _weights(report: Report, encoder: EncoderConfig, missing: list[str], *, named: bool = False) -> str:
    """Where the weights of an encoder are, or would come from (`missing` then names them)."""
    from ovlabel.model.load import find_weights

    what = encoder.model if encoder == EncoderConfig("demo") else f"{encoder.model}, {encoder.source[1]}"
    path, origin = find_weights(encoder)
    if origin:
        missing.append(what)
        if named:
            report.problems.append(
                f"weights '{encoder.source[1]}' of '{encoder.source[0]}' are not on this machine (looked from "
                f"{Path.cwd()}); 'ovlabel annotate' fetches them from {origin}; without a network pass --weights FILE"
            )
        return (
            f"{what}: not on this machine; 'ovlabel annotate' fetches them from {origin}. "
            "Without a network: copy the file here by any means, pass --weights FILE --offline"
        )
    if path is None:
        return f"{what}: made on the spot"
    with path.open("rb") as file:
        if not file.read(1):
            raise WeightsError(f"{path} is empty; remove it, and fetch or copy the weights again")
    return f"{what}: {path} ({_size(path.stat().st_size)})"


def _hub(report: Report, needed: bool) -> str:
    """The hub's cache; one that can't be written is a problem only where something is still to be fetched into it."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    return report.place(folder, "set HF_HOME to another folder", count=True, needed=needed)


def _path(report: Report, path: Path) -> str:
    """Looks at a store, or at a folder of photographs and at its store."""
    from ovlabel.run.job import default_store

    if not path.is_dir():
        raise ConfigError(f"{path} is no folder (looked from {Path.cwd()}); name a store or a folder of images in full")
    if path.suffix == ".zarr" or (path / "zarr.json").exists():
        kind, store = "a store", path
    else:
        kind, store = "a folder of images", default_store(path)
        report.look("path", "folder", partial(_photographs, report, path))
    report.look("path", "store", partial(_store, report, store))
    place = store if store.is_dir() else store.parent
    report.look("path", "place", lambda: report.place(place, "make it writable, or pass another --out"))
    return f"{path} ({kind})"


def _photographs(report: Report, folder: Path) -> str:
    from ovlabel.run.listing import list_images

    left_out: list[str] = []
    items = list_images(folder, left_out)
    closed = [item.key for item in items if not os.access(item.path, os.R_OK)]
    for keys, what in ((left_out, "subfolders"), (closed, "images")):
        if keys:
            first = f"{keys[0]}{', …' * (len(keys) > 1)}"
            report.problems.append(
                f"{folder}: {len(keys)} of its {what} can't be read ({first}); give this user access"
            )
    return f"{len(items)} images"


def _store(report: Report, path: Path) -> str:
    from ovlabel.store.layout import exists
    from ovlabel.store.read import open_store

    if not exists(path):
        return f"{path} (not made yet)"
    store = open_store(path)
    for name, reason in store.damaged.items():
        report.problems.append(
            f"{path}: the record of chunk {name} does not count ({reason}); "
            f"'ovlabel verify {path} --repair' takes it out"
        )
    gone = "" if store.folder.is_dir() else " (not there)"
    return f"{path} ({len(store)} images done, {len(store.failed)} failed) of {store.folder}{gone}"


def _content(folder: Path) -> list[str]:
    """How many files lie below, and their size."""
    sizes = []
    for where, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                sizes.append(os.lstat(os.path.join(where, name)).st_size)
    return [f"{len(sizes)} files", _size(sum(sizes))]


def _locks(handle: int) -> str:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return f"no flock: {error.strerror}"
    return "flock works"


def _why(error: object) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"


def _size(count: float) -> str:
    """ "412 B", "1.4 MiB", "23.5 GiB"."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while count >= 1024 and len(units) > 1:
        count, units = count / 1024, units[1:]
    return f"{count:.{0 if units[0] == 'B' else 1}f} {units[0]}"
