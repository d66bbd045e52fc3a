"""The data of a run: weights, the hub's cache, a folder of images, a store."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from ovlabel.doctor.report import Report, size
from ovlabel.errors import ConfigError, WeightsError
from ovlabel.settings.keys import EncoderConfig


def weights(report: Report, encoder: EncoderConfig, missing: list[str], *, named: bool = False) -> str:
    """Where the weights of an encoder are on this machine, or where they would be fetched from.

    Args:
        report: takes a problem, where weights are not here that must be.
        encoder: the model and its weights.
        missing: takes a name, where the weights are not here.
        named: whether the weights were asked for by name, and so must be on this machine.

    Raises:
        WeightsError: the file is empty, or there are no such weights.
    """
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
    return f"{what}: {path} ({size(path.stat().st_size)})"


def hub_cache(report: Report, needed: bool) -> str:
    """The cache of the Hugging Face hub.

    Args:
        report: takes a problem, where the cache can't be written and is needed.
        needed: whether weights have still to be fetched into it.
    """
    from huggingface_hub import constants

    return report.folder(Path(constants.HF_HUB_CACHE), "set HF_HOME to another folder", count=True, needed=needed)


def store_or_images(report: Report, path: Path) -> str:
    """Check a store, or a folder of images and the store that belongs to it. Raises ConfigError if it is no folder."""
    from ovlabel.run.job import default_store

    if not path.is_dir():
        raise ConfigError(f"{path} is no folder (looked from {Path.cwd()}); name a store or a folder of images in full")
    if path.suffix == ".zarr" or (path / "zarr.json").exists():
        kind, store = "a store", path
    else:
        kind, store = "a folder of images", default_store(path)
        report.check("path", "folder", partial(_images, report, path))
    report.check("path", "store", partial(_store, report, store))
    place = store if store.is_dir() else store.parent
    report.check("path", "place", lambda: report.folder(place, "make it writable, or pass another --out"))
    return f"{path} ({kind})"


def _images(report: Report, folder: Path) -> str:
    """How many images a folder holds; those that this user can't read are a problem."""
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
    """What a store holds; records that are damaged are problems."""
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
