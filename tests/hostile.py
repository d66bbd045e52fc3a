"""Makers of damaged or hostile files, and the checks of a refusal, for the tests of every wing that reads files."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ovlabel.errors import ConfigError, OvlabelError, TruthError, WeightsError
from ovlabel.evaluation.truth import open_truth
from ovlabel.model.load import load_clip
from ovlabel.model.weights import find
from ovlabel.settings.keys import EncoderConfig
from ovlabel.settings.reading import load_config
from ovlabel.text.describe import read_answers
from ovlabel.text.prompts import load_descriptions
from ovlabel.text.templates import load_templates
from ovlabel.text.vocabulary import load_vocabulary

MIB = 2**20


def refused(kind: type[OvlabelError], call: Callable[[], Any], most: int = 100 * MIB) -> str:
    """The message of a refusal: one line, not long, and little memory was asked for before it."""
    tracemalloc.start()
    try:
        with pytest.raises(kind) as caught:
            call()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message
    assert all(letter.isprintable() for letter in message)
    assert len(message) < 700
    assert peak < most
    assert type(caught.value) is kind
    return message


def brief(value: Any) -> str:
    """A parameter's id; pytest would write out all of it."""
    return f"{value.bit_length()} bits" if isinstance(value, int) else ascii(value)[:24]


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    return path


READERS: dict[str, tuple[str, type[OvlabelError], Callable[[Path], Any]]] = {
    "preset": ("p.toml", ConfigError, lambda path: load_config(str(path))),
    "vocabulary": ("v.toml", ConfigError, lambda path: load_vocabulary(str(path))),
    "class a line": ("v.txt", ConfigError, lambda path: load_vocabulary(str(path))),
    "templates": ("t.toml", ConfigError, lambda path: load_templates(str(path))),
    "descriptions": ("d.toml", ConfigError, lambda path: load_descriptions(path, load_vocabulary("classes:cat"))),
    "answers": ("a.txt", ConfigError, lambda path: read_answers(path, ["cat"])),
    "model config": ("m.json", ConfigError, lambda path: load_clip(EncoderConfig(str(path), "random:0"))),
    "config beside weights": ("open_clip_config.json", WeightsError, lambda path: beside(path)),
    "panoptic": ("g.json", TruthError, lambda path: open_truth(path, "coco-panoptic", [])),
    "instances": ("g.json", TruthError, lambda path: open_truth(path, "coco-instances", [])),
}


def beside(config: Path) -> None:
    find(str(written(config.with_name("w.safetensors"), b"")), "m", [], None, offline=True)


def refusal(tmp_path: Path, reader: str, content: str | bytes) -> str:
    name, kind, read_it = READERS[reader]
    path = written(tmp_path / name, content)
    message = refused(kind, lambda: read_it(path), 300 * MIB)
    assert name in message
    return message


class Payload:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


INSTANCES: dict[str, Any] = {
    "images": [{"id": 7, "file_name": "x.jpg", "height": 4, "width": 6}],
    "categories": [{"id": 1, "name": "person"}],
    "annotations": [{"id": 5, "image_id": 7, "category_id": 1, "area": 4, "segmentation": [[1, 1, 3, 1, 3, 3]]}],
}

PANOPTIC: dict[str, Any] = {
    "categories": [{"id": 1, "name": "person", "isthing": 1}],
    "annotations": [{"file_name": "7.png", "segments_info": [{"id": 3, "category_id": 1}]}],
}

COPIES = 200


def mutated(data: bytes, seed: int) -> bytes:
    """A copy with a few bytes changed, taken out, doubled or cut off."""
    chance, out = random.Random(seed), bytearray(data)
    for _ in range(chance.randint(1, 4)):
        if not out:
            break
        at = chance.randrange(len(out))
        many = chance.choice((1, 1, 2, 8, 64))
        kind = chance.randrange(6)
        if kind < 3:
            out[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, ord("("), ord("."), ord("["), chance.randrange(256)))
        elif kind == 3:
            del out[at : at + many]
        elif kind == 4:
            out[at:at] = out[at : at + many]
        else:
            out = (
                out[:at]
                if chance.random() < 0.3
                else out[:at] + bytes(chance.choices(b'0159.e-+_"{}[]', k=many)) + out[at:]
            )
    return bytes(out)


def reads_or_refuses(kind: type[OvlabelError], call: Callable[[], Any]) -> bool:
    try:
        call()
    except kind as error:
        message = str(error)
        assert "\n" not in message
        assert len(message) < 1000
        return False
    return True
