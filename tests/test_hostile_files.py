"""Text files of every kind from untrusted sources: refused in one clear line, without blocking, in little memory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ovlabel.errors import TruthError
from ovlabel.evaluation.truth import open_truth
from ovlabel.files import read_toml
from ovlabel.settings.keys import Config
from ovlabel.settings.reading import load_config
from ovlabel.text.prompts import make_queries
from ovlabel.text.templates import load_templates
from ovlabel.text.vocabulary import load_vocabulary
from tests.conftest import TINY_MODEL
from tests.hostile import (
    COPIES,
    INSTANCES,
    PANOPTIC,
    READERS,
    beside,
    brief,
    mutated,
    reads_or_refuses,
    refusal,
    refused,
    written,
)

pytestmark = pytest.mark.usefixtures("no_hang")

TOML = [name for name, (file, _, _) in READERS.items() if file.endswith(".toml")]

JSON = [name for name, (file, _, _) in READERS.items() if file.endswith(".json")]


@pytest.mark.parametrize("reader", READERS)
def test_a_text_that_is_no_utf8_is_refused(tmp_path: Path, reader: str) -> None:
    refusal(tmp_path, reader, b"title = '\xff\xfe'\n")


@pytest.mark.parametrize("reader", [name for name in READERS if name not in ("panoptic", "instances")])
def test_a_text_beyond_its_limit_is_refused_unread(tmp_path: Path, reader: str) -> None:
    name, kind, read_it = READERS[reader]
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate(10**12)  # takes no room
    limit = 1 if reader == "config beside weights" else 8
    assert f"larger than {limit} MiB" in refused(kind, lambda: read_it(path))


@pytest.mark.parametrize("reader", ["panoptic", "instances"])
def test_a_ground_truth_may_be_larger_but_has_a_limit(tmp_path: Path, reader: str) -> None:
    name, kind, read_it = READERS[reader]
    with (tmp_path / name).open("wb") as file:
        file.truncate(10**12)
    assert "larger than 2048 MiB" in refused(kind, lambda: read_it(tmp_path / name))


@pytest.mark.parametrize("reader", [name for name in READERS if name != "config beside weights"])
def test_a_pipe_blocks_nobody(tmp_path: Path, reader: str) -> None:
    name, kind, read_it = READERS[reader]
    os.mkfifo(tmp_path / name)
    refused(kind, lambda: read_it(tmp_path / name))


def test_a_pipe_beside_the_weights_is_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "open_clip_config.json")
    beside(tmp_path / "open_clip_config.json")


@pytest.mark.parametrize("reader", [name for name in READERS if name != "config beside weights"])
def test_a_folder_is_no_file(tmp_path: Path, reader: str) -> None:
    name, kind, read_it = READERS[reader]
    (tmp_path / name).mkdir()
    refused(kind, lambda: read_it(tmp_path / name))


@pytest.mark.parametrize("reader", TOML)
@pytest.mark.parametrize(
    "content",
    [
        "a = " + "[" * 100_000,
        "a = " + "[" * 40 + "]" * 40,
        "a = " + "{a = " * 100_000,
        "a." * 30_000 + "a = 1",
        "[" + "a." * 30_000 + "a]\nb = 1",
        '"a" . ' * 30_000 + "a = 1",
        "'''x''' = 1",
        "a = '\x00'",
        f"a = {'9' * 5000}",
        f"a = 0x{'f' * 5000}",
        f"a = -{2**63 + 1}",
        f'"{"k" * 5000}" = 1',
        f"a = '{'v' * 200_000}'",
        '"a\\nb" = 1',
        "[[a]]\n" * 10_000,
    ],
    ids=brief,
)
def test_odd_toml_is_refused(tmp_path: Path, reader: str, content: str) -> None:
    refusal(tmp_path, reader, content)


@pytest.mark.parametrize("reader", JSON)
@pytest.mark.parametrize(
    "content",
    ["[" * 200_000, '{"a":' * 200_000, f'{{"a": {"9" * 5000}}}', "\x00", '{"a": "\x00"}', "", "[]", "null"],
    ids=brief,
)
def test_odd_json_is_refused(tmp_path: Path, reader: str, content: str) -> None:
    refusal(tmp_path, reader, content)


def test_dots_in_strings_and_comments_are_no_nesting(tmp_path: Path) -> None:
    dots = "a." * 100
    text = f"a = \"{dots}\" # {dots}\nb = '{dots}'\nc = \"\"\"\n{dots}\"\"\"\"\nd = '''\n{dots}'\n'''\ne.f.g = 1.5\n"
    assert read_toml(written(tmp_path / "a.toml", text))["e"] == {"f": {"g": 1.5}}


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    assert read_toml(written(tmp_path / "a.toml", b"\xef\xbb\xbfa = 1\n")) == {"a": 1}


VOCABULARY = """
title = "Mine"
[background]
name = "background"
queries = ["sky", "wall"]
[[class]]
name = "cat"
kind = "thing"
id = 3
colour = [1, 2, 3]
threshold = 0.5
synonyms = ["kitten"]
prompts = ["a {}."]
contexts = ["on a mat"]
group = "animal"
[[class]]
name = "dog"
phrase = "big dog"
"""

TEMPLATES = """
title = "Mine"
adaptive = true
[templates]
stuff = ["a {}."]
thing = ["{}", "the {}"]
material = ["{} here"]
"""

PRESET = """
title = "Mine"
[encoder]
last_block = "attention"
[tiling]
short_side = 336
window = 224
stride = 112
scales = [1.0, 1.5]
views = ["identity", "hflip"]
view_weights = [0.5, 0.5]
[text]
logit_scale = 40.0
[[stages]]
use = "neighbours"
sigma = 5.0
[[stages]]
use = "pamr"
dilations = [8, 16]
[protocol.voc21]
tiling.window = 0
"""

RUNS = {**INSTANCES["annotations"][0], "segmentation": {"size": [4, 6], "counts": "0b06"}}

TEXTS: dict[str, str] = {
    "vocabulary": VOCABULARY,
    "class a line": "background\ncat, kitten\ndog; puppy\nwall-brick\n",
    "templates": TEMPLATES,
    "descriptions": '"cat" = ["a furry cat.", """two\nlines"""]\n',
    "answers": "cat\n1. A cat is furry.\n2. It has ears.\n",
    "preset": PRESET,
    "config beside weights": json.dumps({"model_cfg": TINY_MODEL, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3]}}),
    "instances": json.dumps({**INSTANCES, "annotations": [*INSTANCES["annotations"], RUNS]}),
    "panoptic": json.dumps(PANOPTIC),
}


@pytest.mark.parametrize("reader", TEXTS)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools on numpy 2
def test_mutated_texts_are_read_or_refused(tmp_path: Path, reader: str) -> None:
    from PIL import Image

    name, kind, _ = READERS[reader]
    path, templates = tmp_path / name, load_templates("simple")
    Image.new("RGB", (2, 2), (3, 0, 0)).save(tmp_path / "7.png")

    def used() -> None:
        if reader in ("vocabulary", "class a line"):
            vocabulary = load_vocabulary(str(path))
            make_queries(vocabulary, templates)
            json.dumps(vocabulary.content()).encode()
        elif reader == "templates":
            make_queries(load_vocabulary("classes:cat"), load_templates(str(path)))
        elif reader == "preset":
            from ovlabel.spine.stack import make_stage

            config = load_config(str(path))
            assert Config.from_dict(config.to_dict()) == config
            hash(config)
            for stage in config.stages:
                make_stage(stage)
        elif kind is TruthError:
            truth = open_truth(path, f"coco-{reader}", [])
            for image in truth.files:
                truth.read(image)
        else:
            READERS[reader][2](path)

    path.write_text(TEXTS[reader])
    assert reads_or_refuses(kind, used)
    for seed in range(COPIES):
        path.write_bytes(mutated(TEXTS[reader].encode(), seed))
        reads_or_refuses(kind, used)
