"""What there is on this machine to annotate with, and what is wrong with it.

A report opens no connection and leaves nothing behind. Each check runs by itself and imports what it needs: where one
fails, the report says so and goes on.
"""

from __future__ import annotations

import platform
import sys
import tempfile
import warnings
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from ovlabel import __version__
from ovlabel.doctor import data, machine
from ovlabel.doctor.report import Report
from ovlabel.files import cache_dir
from ovlabel.settings.keys import EncoderConfig

__all__ = ["Report", "examine"]

_PACKAGES = {  # distribution → module; a package comes before those that import it
    "numpy": "numpy",
    "pillow": "PIL.Image",
    "torch": "torch",
    "torchvision": "torchvision",
    "open_clip_torch": "open_clip",
    "zarr": "zarr",
    "pydensecrf2": "pydensecrf.densecrf",
}


def examine(path: Path | None = None, model: str | None = None, weights: str | None = None) -> Report:
    """Check the environment, the devices, the weights and the caches.

    Args:
        path: a store or a folder of images, to be checked too.
        model: an architecture, whose weights are looked for beside the default ones.
        weights: weights that must be on this machine; others may be fetched later.

    Returns:
        What was found and what is wrong.
    """
    report = Report()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _environment(report)
        _devices(report)
        missing = _weights(report, model, weights)
        _caches(report, bool(missing))
        if path is not None:
            report.check("path", "path", lambda: data.store_or_images(report, path))
    return report


def _environment(report: Report) -> None:
    """Versions, cores and memory."""
    check = partial(report.check, "environment")
    check("ovlabel", lambda: f"{__version__} ({Path(__file__).parents[1]})")
    check("python", lambda: f"{platform.python_version()} ({sys.executable})")
    check("platform", platform.platform)
    for name, module in _PACKAGES.items():
        cure = f"install it anew: {sys.executable} -m pip install --force-reinstall {name}"
        check(name, partial(_package, name, module), cure)
    check("cores", machine.cores)
    check("memory", machine.memory)
    check("torch threads", lambda: str(import_module("torch").get_num_threads()))


def _package(name: str, module: str) -> str:
    """The version of a package, if it can be imported."""
    import_module(module)
    return version(name)


def _devices(report: Report) -> None:
    """The devices, and which of them `--device auto` takes."""
    check = partial(report.check, "devices")
    check("cpu", machine.cpu)
    check("cuda", lambda: machine.cuda(report))
    check("mps", lambda: "there" if import_module("torch").backends.mps.is_available() else "none")
    check("auto", lambda: str(import_module("ovlabel.model.device").pick_device("auto")))


def _weights(report: Report, model: str | None, weights: str | None) -> list[str]:
    """The default weights and those asked for; returns which of them are not on this machine."""
    missing: list[str] = []
    check = partial(report.check, "weights")
    check("default weights", lambda: data.weights(report, EncoderConfig(), missing))
    if model or weights:
        asked = EncoderConfig(model or EncoderConfig.model, weights or EncoderConfig.weights)
        check("asked weights", lambda: data.weights(report, asked, missing, named=weights is not None))
    return missing


def _caches(report: Report, needed: bool) -> None:
    """The folders that a run writes to besides the store; `needed`: weights have still to be fetched."""
    check = partial(report.check, "caches")
    check("cache", lambda: report.folder(cache_dir(), "set OVLABEL_CACHE to another folder", count=True))
    check("hub cache", lambda: data.hub_cache(report, needed))
    check("temp", lambda: report.folder(Path(tempfile.gettempdir()), "set TMPDIR to another folder"))
