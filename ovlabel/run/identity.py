"""What makes two runs the same: a run as written, as resolved, and what differs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovlabel import __version__
from ovlabel.errors import RunError
from ovlabel.files import file_sha256
from ovlabel.settings.keys import Config
from ovlabel.spine.segmenter import Segmenter
from ovlabel.spine.stack import name_of
from ovlabel.store.read import Store
from ovlabel.text.prompts import load_descriptions, make_queries
from ovlabel.text.templates import load_templates
from ovlabel.text.vocabulary import load_vocabulary


def check_folder(store: Store, folder: Path) -> None:
    """Raise RunError if the store belongs to another folder that is still there; one that has moved is the same."""
    if store.folder.is_dir() and not os.path.samefile(store.folder, folder):
        raise RunError(f"{store.path} belongs to the folder {store.folder}, not to {folder}. Pass another --out")


def check_run(store: Store, run: dict[str, Any]) -> None:
    """Raise RunError, naming the fields that differ, unless the store was written by this run."""
    differing = differences(store.run, run)
    if differing:
        shown = "; ".join(differing[:6]) + ("; …" if len(differing) > 6 else "")
        raise RunError(f"{store.path} belongs to another run: {shown}. Pass another --out, or the settings of that run")


def differences(stored: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> list[str]:
    """ "key: there in the store, here now", for every leaf that differs."""
    found = []
    for key in dict.fromkeys([*stored, *here]):
        name, old, new = prefix + key, stored.get(key), here.get(key)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{name}.")
        elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new) > 4:
            place = next(i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b)
            found.append(f"{name}[{place}]: {_short(old[place])} in the store, {_short(new[place])} here")
        else:
            found.append(f"{name}: {_short(old)} in the store, {_short(new)} here")
    return found


def _short(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(v, Mapping) and "use" in v for v in value):
        parts = (v["use"] + "".join(f" {k}={w}" for k, w in v.items() if k != "use") for v in value)
        return f"[{', '.join(parts)}]"
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return f"{value[:12]}…"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


def as_written(config: Config, *, own_text: bool = False) -> dict[str, Any]:
    """The settings with the content of the files that they name, as plain JSON values; torch is not needed.

    Two runs of one ovlabel version with equal settings are the same run, and nothing needs to be resolved.
    """
    values = config.to_dict()
    values["encoder"].pop("device")
    vocabulary, templates = load_vocabulary(config.text.vocabulary), load_templates(config.text.templates)
    said = load_descriptions(config.text.descriptions, vocabulary)
    content = json.dumps([vocabulary.content(), dict(templates.by_kind), templates.adaptive, said], sort_keys=True)
    model, weights = (Path(os.path.expanduser(name)) for name in config.encoder.source)
    checkpoints = [Path(str(dict(stage.fields).get("checkpoint", ""))) for stage in config.stages]
    named = (model, weights, weights.parent / "open_clip_config.json", *checkpoints)
    files = {str(path): file_sha256(path) for path in named if os.path.isfile(path)}
    return {
        "config": values,
        "prompts": "given" if own_text else hashlib.sha256(content.encode()).hexdigest(),
        "files": files,
        "version": __version__,
    }


def resolved(config: Config, segmenter: Segmenter, *, own_text: bool = False) -> dict[str, Any]:
    """All that changes the results of a run, as plain JSON values; two runs with equal dicts are the same run."""
    values = config.to_dict()
    identity = segmenter.clip.identity
    encoder = values["encoder"]
    encoder.pop("device")
    encoder["precision"] = segmenter.clip.precision
    encoder.update(model=identity.model, weights=identity.weights, mean=list(identity.mean), std=list(identity.std))
    text = values["text"]
    if own_text:
        bank = segmenter.bank
        asked = [bank.embeddings.tobytes().hex(), bank.class_of.tolist(), bank.kinds, bank.groups]
        names, background, thresholds = bank.classes, bank.background, bank.thresholds
        text["merge"] = bank.merge
        least = None if thresholds is None else thresholds.tolist()
    else:
        vocabulary = load_vocabulary(config.text.vocabulary)
        said = load_descriptions(config.text.descriptions, vocabulary)
        queries = make_queries(vocabulary, load_templates(config.text.templates), said)
        asked = [[query.class_index, query.prompts] for query in queries]
        names, background = tuple(entry.name for entry in vocabulary.classes), vocabulary.background
        least = [entry.threshold for entry in vocabulary.classes]
    text["vocabulary"] = {"classes": list(names), "background": background, "thresholds": least}
    del text["templates"], text["descriptions"]  # what is asked counts, not the name of the file that words it
    text["prompts"] = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    values["stages"] = [_described(stage) for stage in segmenter.stack]
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def _described(stage: Any) -> dict[str, Any]:
    """A stage's name and fields; of a checkpoint, what is in it and not where it lies."""
    described = {"use": name_of(stage), **dataclasses.asdict(stage)}
    if hasattr(stage, "prepare"):
        described["checkpoint"] = file_sha256(stage.prepare(offline=True))
    return described
