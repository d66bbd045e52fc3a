"""What a run is: its settings as written and as resolved, and what differs between two runs.

As written: the settings with the content of every file that they name. Two runs of one ovlabel version that are equal
as written are the same run, and torch is not needed to see it. As resolved: everything that changes a label (names
looked up, defaults filled in, weights by checksum). Two runs that are equal as resolved give the same labels.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovlabel import __version__
from ovlabel.errors import ConfigError, RunError
from ovlabel.fields import declared
from ovlabel.files import file_sha256
from ovlabel.model.weights import local_file
from ovlabel.settings.keys import Config
from ovlabel.store.read import Store
from ovlabel.text.prompts import Prompts
from ovlabel.text.vocabulary import Vocabulary, VocabularyClass
from ovlabel.types import TextBank

if TYPE_CHECKING:
    from ovlabel.spine.segmenter import Segmenter
    from ovlabel.stages import Stage


@dataclass(frozen=True, eq=False)
class RunIdentity:
    """A run's settings, and the content of the files that they name, which were read once.

    Attributes:
        config: the settings.
        prompts: what the vocabulary, template and description files hold; None where a text bank was given.
        text: the text bank that was given in their place, or None.
        files: sha256 of every other file that the settings name, by path.
    """

    config: Config
    prompts: Prompts | None
    text: TextBank | None
    files: Mapping[str, str]

    @classmethod
    def read(cls, config: Config, text: TextBank | None = None) -> RunIdentity:
        """Read the files that the settings name.

        Args:
            config: the settings.
            text: a text bank in place of the vocabulary, template and description files.

        Raises:
            ConfigError: a file that can't be read, or that does not hold what it should.
        """
        model, weights = Path(os.path.expanduser(config.encoder.source[0])), local_file(config.encoder.source[1])
        checkpoints = [Path(str(dict(stage.fields).get("checkpoint", ""))) for stage in config.stages]
        named = (model, weights, weights.parent / "open_clip_config.json", *checkpoints)
        files = {str(path): file_sha256(path) for path in named if os.path.isfile(path)}
        return cls(config, Prompts.read(config.text) if text is None else None, text, files)

    @cached_property
    def written(self) -> dict[str, Any]:
        """The run as written, as plain JSON values."""
        values = self.config.to_dict()
        values["encoder"].pop("device")
        prompts = "given" if self.prompts is None else _sha256(self.prompts.content, sort_keys=True)
        return {"config": values, "prompts": prompts, "files": dict(self.files), "version": __version__}

    def absolute(self) -> RunIdentity:
        """The same for a process that was started in another folder: files are named by their absolute paths.

        What vocabulary, template and description files hold is part of the run already.
        """
        encoder = self.config.encoder
        model = _absolute(encoder.model) if encoder.model.endswith(".json") else encoder.model
        encoder = replace(encoder, model=model, weights=_absolute(encoder.weights))
        stages = tuple(
            replace(stage, fields=tuple((n, _absolute(v) if n == "checkpoint" else v) for n, v in stage.fields))
            for stage in self.config.stages
        )
        return replace(self, config=replace(self.config, encoder=encoder, stages=stages))

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The classes; of a text bank that was given, as much as it says of them."""
        if self.prompts is not None:
            return self.prompts.vocabulary
        bank = self.given
        pairs = zip(bank.classes, bank.kinds, strict=True)
        return Vocabulary(
            "given", "given", "", tuple(VocabularyClass(name, kind) for name, kind in pairs), bank.background
        )

    @property
    def given(self) -> TextBank:
        """The text bank that was given. Raises ValueError where there is none."""
        if self.text is None:
            raise ValueError("this run has prompts, not a text bank")
        return self.text

    def resolved(self, segmenter: Segmenter) -> dict[str, Any]:
        """The run as resolved, as plain JSON values.

        Args:
            segmenter: built from this run.
        """
        values = self.config.to_dict()
        identity, encoder = segmenter.encoder.identity, values["encoder"]
        encoder.pop("device")
        encoder["precision"] = segmenter.encoder.precision
        encoder.update(model=identity.model, weights=identity.weights, mean=list(identity.mean), std=list(identity.std))
        self._resolve_text(values["text"])
        values["stages"] = [_described(stage) for stage in segmenter.stack]
        plain: dict[str, Any] = json.loads(json.dumps(values))
        return plain

    def _resolve_text(self, text: dict[str, Any]) -> None:
        """What is asked, in place of the names of the files that word it."""
        asked: list[Any]
        if self.prompts is None:
            bank = self.given
            asked = [bank.embeddings.tobytes().hex(), bank.class_of.tolist(), bank.kinds, bank.groups]
            text["merge"] = bank.merge
            least = None if bank.thresholds is None else bank.thresholds.tolist()
        else:
            asked = [[query.class_index, query.prompts] for query in self.prompts.every_query]
            least = [entry.threshold for entry in self.vocabulary.classes]
        names = [entry.name for entry in self.vocabulary.classes]
        text["vocabulary"] = {"classes": names, "background": self.vocabulary.background, "thresholds": least}
        del text["templates"], text["descriptions"]
        text["prompts"] = _sha256(asked)


def _absolute(name: str) -> str:
    """The absolute path of a file; any other name as it is."""
    path = os.path.expanduser(name)
    return os.path.abspath(path) if os.path.isfile(path) else name


def _sha256(values: Any, *, sort_keys: bool = False) -> str:
    """sha256 of JSON values, in hex."""
    return hashlib.sha256(json.dumps(values, sort_keys=sort_keys).encode()).hexdigest()


def _described(stage: Stage) -> dict[str, Any]:
    """A stage's name and fields; of its checkpoint, what is in it and not where it lies."""
    described: dict[str, Any] = {"use": stage.name()}
    described |= {name: getattr(stage, name) for name in (field.name for field in declared(stage.__class__))}
    if (checkpoint := stage.prepare(offline=True)) is not None:
        described["checkpoint"] = file_sha256(checkpoint)
    return described


def check_folder(store: Store, folder: Path) -> None:
    """Raise RunError if the store belongs to another folder that is still there; one that has moved is the same.

    Raises:
        ConfigError: the folder is not there any more.
    """
    if not os.path.isdir(folder):
        raise ConfigError(f"no folder {folder} any more: is it mounted?")
    if os.path.isdir(store.folder) and not os.path.samefile(store.folder, folder):
        raise RunError(f"{store.path} belongs to the folder {store.folder}, not to {folder}. Pass another --out")


def check_run(store: Store, run: dict[str, Any]) -> None:
    """Raise RunError, naming the fields that differ, unless the store was written by this run."""
    differing = differences(store.manifest.run, run)
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
