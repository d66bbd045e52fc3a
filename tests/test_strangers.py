"""Files from strangers: nothing in them is run, none blocks or takes the machine, every refusal is one clear line."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import signal
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ovlabel.errors import ConfigError, OvlabelError, TruthError, WeightsError
from ovlabel.evaluation.truth import TruthClass, open_truth
from ovlabel.files import read_toml
from ovlabel.model import load as loading
from ovlabel.model.load import load_clip
from ovlabel.model.pickles import read
from ovlabel.model.weights import find
from ovlabel.settings.keys import Config, EncoderConfig
from ovlabel.settings.reading import load_config, setting
from ovlabel.stages._loftup_network import load as load_loftup
from ovlabel.text import bank as texts
from ovlabel.text.describe import read_answers
from ovlabel.text.prompts import MOST_PROMPTS, load_descriptions, make_queries
from ovlabel.text.templates import Templates, load_templates, template_names
from ovlabel.text.vocabulary import MOST_CLASSES, Vocabulary, VocabularyClass, load_vocabulary, vocabulary_names
from ovlabel.types import below_threshold, not_annotated
from tests.conftest import TINY_MODEL

MIB = 2**20


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """A test that takes a minute has found a hang."""

    def stop(*_: Any) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


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


# Text files, whatever they are for

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
TOML = [name for name, (file, _, _) in READERS.items() if file.endswith(".toml")]
JSON = [name for name, (file, _, _) in READERS.items() if file.endswith(".json")]


def beside(config: Path) -> None:
    find(str(written(config.with_name("w.safetensors"), b"")), "m", [], None, offline=True)


def refusal(tmp_path: Path, reader: str, content: str | bytes) -> str:
    name, kind, read_it = READERS[reader]
    path = written(tmp_path / name, content)
    message = refused(kind, lambda: read_it(path), 300 * MIB)
    assert name in message
    return message


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


# Vocabularies


def test_as_many_classes_as_labels_hold(tmp_path: Path) -> None:
    assert below_threshold(MOST_CLASSES) == MOST_CLASSES == not_annotated(MOST_CLASSES) - 1
    lines = "".join(f"class {index}\n" for index in range(MOST_CLASSES))
    assert len(load_vocabulary(str(written(tmp_path / "v.txt", lines))).classes) == MOST_CLASSES
    path = written(tmp_path / "v.txt", lines + "one more\n")
    assert "65535 classes; labels of 16 bits have room for 65534" in refused(
        ConfigError, lambda: load_vocabulary(str(path)), 300 * MIB
    )


ODD_NAMES = ["a\nb", "a\rb", "a\tb", "a\x00b", "\x1b[31ma", "a\x85b", "a\u2028b", "a\x7f", "a\ufffe", "n" * 300]


@pytest.mark.parametrize("name", ODD_NAMES, ids=brief)
@pytest.mark.parametrize("key", ["name", "synonyms", "queries", "contexts", "phrase", "group"])
def test_a_name_is_one_line_of_plain_letters(tmp_path: Path, name: str, key: str) -> None:
    """Exports write names into CSV, YAML, XML and lists of one a line."""
    value = json.dumps(name, ensure_ascii=True).replace("\\u007f", "\x7f").replace("\x7f", "\\u007f")
    value = f"[{value}]" if key in ("synonyms", "queries", "contexts") else value
    cat = "" if key == "name" else 'name = "cat"\n'
    refusal(tmp_path, "vocabulary", f"[[class]]\n{cat}{key} = {value}\n")


@pytest.mark.parametrize("name", ["a\x00b", "\x1b[31ma", "a\x7f", "a\ufffe", "a\tb", "n" * 300, "\udcff"], ids=brief)
def test_names_of_other_places_are_held_to_the_same(tmp_path: Path, name: str) -> None:
    refused(ConfigError, lambda: load_vocabulary(f"classes:cat, {name}"))
    if "\udcff" not in name:
        refusal(tmp_path, "class a line", f"cat\n{name}\n")


@pytest.mark.parametrize("sentence", ["a\x00b", "\x1b]0;a", "s" * 3000], ids=brief)
def test_sentences_are_held_to_a_length(tmp_path: Path, sentence: str) -> None:
    quoted = json.dumps(sentence)
    refusal(tmp_path, "vocabulary", f'[[class]]\nname = "cat"\nprompts = [{quoted}]\n')
    refusal(tmp_path, "templates", f"templates = [{json.dumps(sentence + ' {}')}]\n")
    refusal(tmp_path, "descriptions", f'"cat" = [{quoted}]\n')


def test_a_sentence_may_be_written_on_two_lines(tmp_path: Path) -> None:
    path = written(tmp_path / "v.toml", '[[class]]\nname = "cat"\nprompts = ["""a cat\n\tin a photo"""]\n')
    assert load_vocabulary(str(path)).classes[0].prompts == ("a cat\n\tin a photo",)


def test_what_is_built_in_is_within_the_limits() -> None:
    templates = [load_templates(name) for name in template_names()]
    for name in vocabulary_names():
        vocabulary = load_vocabulary(name)
        for each in templates:
            assert sum(len(query.prompts) for query in make_queries(vocabulary, each)) < MOST_PROMPTS / 10


def test_a_small_vocabulary_that_asks_for_millions_of_prompts_is_refused() -> None:
    many = tuple(f"word {index}" for index in range(2000))
    greedy = Vocabulary("greedy", "", "", (VocabularyClass("cat", synonyms=many, contexts=many, prompts=("{}",)),))
    templates = load_templates("simple")
    message = refused(ConfigError, lambda: make_queries(greedy, templates))
    assert "4003001 prompts" not in message
    assert "vocabulary greedy with templates simple: 4004001 prompts of" in message
    long = Vocabulary(
        "long", "", "", tuple(VocabularyClass(f"{index}", prompts=("p" * 2000,)) for index in range(10**4 + 1))
    )
    assert "20000" in refused(ConfigError, lambda: make_queries(long, templates))
    said = {"cat": ("s" * 2000,) * 10_001}
    cat = load_vocabulary("classes:cat")
    refused(ConfigError, lambda: make_queries(cat, templates, said))
    wide = Templates("wide", "", {"thing": ("{} " * 1 + "t" * 1900,) * 20}, False)
    classes = Vocabulary("some", "", "", tuple(VocabularyClass(f"c{index}") for index in range(600)))
    refused(ConfigError, lambda: make_queries(classes, wide))


def test_very_many_descriptions_are_refused_where_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ovlabel.text.prompts.MOST_PROMPTS", 5000)
    assert "5001 prompts" in refusal(tmp_path, "descriptions", "cat = [" + '"a",' * 5001 + "]\n")


def test_very_many_templates_are_refused(tmp_path: Path) -> None:
    assert "1001 templates" in refusal(tmp_path, "templates", "templates = [" + '"a {}",' * 1001 + "]")


def test_an_unknown_class_among_very_many_is_told_at_once(tmp_path: Path) -> None:
    names = ["".join(random.Random(index).choices("ab", k=180)) for index in range(5000)]
    vocabulary = Vocabulary("many", "", "", tuple(map(VocabularyClass, names)))
    path = written(tmp_path / "d.toml", f'"{"ab" * 90}" = ["a"]')
    assert "unknown class 'abab" in refused(ConfigError, lambda: load_descriptions(path, vocabulary))


def test_twice_the_same_class_is_found_in_a_long_list(tmp_path: Path) -> None:
    lines = "".join(f"{index}\n" for index in range(30_000)) * 2
    path = written(tmp_path / "v.txt", lines)
    assert "class 0, 1, 10, 100, … is there twice" in refused(ConfigError, lambda: load_vocabulary(str(path)))


def test_lines_that_name_nothing_are_passed_over(tmp_path: Path) -> None:
    path = written(tmp_path / "v.txt", "cat\n,\n ; ,\n\ndog\n")
    assert [entry.name for entry in load_vocabulary(str(path)).classes] == ["cat", "dog"]
    refusal(tmp_path, "class a line", " ,;\n")


def test_a_line_of_blanks_is_read_at_once(tmp_path: Path) -> None:
    answers = written(tmp_path / "a.txt", "cat: a" + " " * 300_000 + "b\n")
    assert len(read_answers(answers, ["cat"])["cat"]) == 1


@pytest.mark.parametrize(
    "name", ["n" * 300, "n" * 5000, "~nobody-has-this-name/x", "a\x00b", "n" * 300 + ".toml"], ids=brief
)
def test_a_name_that_no_file_can_have_is_unknown(name: str) -> None:
    for call in (load_vocabulary, load_templates, lambda name: find(name, "m", [], None, True)):
        with pytest.raises((ConfigError, WeightsError)):
            call(name)


# Presets


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("tiling.short_side", [0, -1, 10**7, 2**70, 1e9, "nan", True]),
        ("tiling.long_side", [10**9, -1]),
        ("tiling.window", [10**9, -1, "inf"]),
        ("tiling.stride", [10**9, 0, -5]),
        ("tiling.scales", [[1e9], [-1.0], ["nan"], ["inf"], [], [True], [1.0] * 1000, ["1e999"]]),
        ("tiling.scale_weights", [["nan"], [0.0], [1e300], [1e-300]]),
        ("tiling.view_weights", [["inf"], [-1.0]]),
        ("tiling.views", [["identity"] * 1000, ["v" * 10_000]]),
        ("text.logit_scale", ["nan", "inf", -1.0, 1e30, 1e-300, True]),
        ("text.centring", ["nan", 2.0]),
        ("text.knowledge", [10**9, -1]),
        ("text.knowledge_temperature", ["nan", "inf", 1e-300, 0]),
        ("text.templates", ["a\\u0000b", "n" * 10_000]),
        ("labels.probability_threshold", ["nan", "inf", 7, True]),
        ("labels.area_threshold", ["nan", -0.5]),
        ("labels.max_finish_pixels", [10**12, 0, -1]),
        ("store.probabilities", ["top" + "9" * 5000, "top99999999", "top-1"]),
        ("encoder.weights", ["random:" + "9" * 5000, "a\\nb"]),
        ("encoder.precision", ["p" * 10_000]),
        ("neighbours.sigma", ["nan", "inf", 2**70, 0]),
        ("neighbours.sigma", [[[1]], [1.0] * 1000, "1979-05-27"]),
        ("unknown" * 1000, [1]),
    ],
)
def test_absurd_settings_are_refused_by_name(tmp_path: Path, key: str, values: list[Any]) -> None:
    for value in values:
        bare = ("nan", "inf", "1e999", "1979-05-27")
        toml = json.dumps(value).replace("\\\\u", "\\u").replace("\\\\n", "\\n")
        for word in bare:
            toml = toml.replace(f'"{word}"', word)
        stack = '[[stages]]\nuse = "neighbours"\n' + (f"sigma = {toml}\n" if key == "neighbours.sigma" else "")
        head, _, name = key.partition(".")
        own = f"[{head}]\n{name} = {toml}\n" if name and head != "neighbours" else ""
        own = f"{key} = {toml}\n" if not name else own
        path = written(tmp_path / "p.toml", own + stack)

        def build(path: Path = path) -> None:
            from ovlabel.spine.stack import make_stage

            for stage in load_config(str(path)).stages:
                make_stage(stage)

        message = refused(ConfigError, build)
        assert key.rpartition(".")[2][:20] in message


@pytest.mark.parametrize("value", [10**5000, -(10**5000), 2**64], ids=brief)
@pytest.mark.parametrize("key", ["tiling.window", "text.logit_scale", "neighbours.sigma", "encoder.model", "stages"])
def test_a_number_too_long_to_print_is_refused(key: str, value: int) -> None:
    refused(ConfigError, lambda: load_config("naclip", {key: value}))
    refused(ConfigError, lambda: Config.from_dict({"stages": ["neighbours"], key: value}))


@pytest.mark.parametrize(
    "typed", ["[" * 5000, "9" * 5000, "0x" + "f" * 5000, "{a = 1}", "inf", "1979-05-27"], ids=brief
)
@pytest.mark.parametrize("key", ["tiling.window", "neighbours.sigma", "tiling.scales"])
def test_values_as_typed_are_held_to_the_same(key: str, typed: str) -> None:
    from ovlabel.spine.stack import make_stage

    refused(
        ConfigError, lambda: [make_stage(s) for s in load_config("naclip", dict([setting(f"{key}={typed}")])).stages]
    )


def test_classes_may_be_written_on_several_lines(tmp_path: Path) -> None:
    path = written(tmp_path / "p.toml", '[text]\nvocabulary = """classes:cat,\n  dog"""\n')
    assert [c.name for c in load_vocabulary(load_config(str(path)).text.vocabulary).classes] == ["cat", "dog"]


# Model configs


@pytest.mark.parametrize(
    ("tower", "values"),
    [
        ("vision_cfg", {"layers": [10**9, -1, 0, True, "3", 2.5, None, 1e999]}),
        ("vision_cfg", {"width": [10**9, 10**30]}),
        ("vision_cfg", {"image_size": [10**9, [64, 10**9], [64, 64, 64], "64"]}),
        ("vision_cfg", {"patch_size": [0, 10**9]}),
        ("vision_cfg", {"mlp_ratio": [1e9, -1, float("nan"), "4"]}),
        ("vision_cfg", {"head_width": [0], "attn_pooler_queries": [10**9]}),
        ("text_cfg", {"vocab_size": [10**12], "context_length": [10**9], "heads": [0, 10**9], "width": [10**9]}),
        ("text_cfg", {"tokenizer_kwargs": [{"bpe_path": "/dev/zero"}, {"clean": "x"}, [1], {"clean": []}, "bpe"]}),
        ("text_cfg", {"tokenizer_kwargs": [{"additional_special_tokens": ["(a+)+$"]}]}),
    ],
)
def test_a_model_that_no_machine_holds_is_refused_before_it_is_made(
    tmp_path: Path, tower: str, values: dict[str, list[Any]]
) -> None:
    for key, odd in values.items():
        for value in odd:
            model = {**TINY_MODEL, tower: {**TINY_MODEL[tower], key: value}}
            assert key in refusal(tmp_path, "model config", json.dumps(model))


def test_a_model_of_sizes_that_pass_one_by_one_is_counted(tmp_path: Path) -> None:
    model = {**TINY_MODEL, "vision_cfg": {**TINY_MODEL["vision_cfg"], "width": 16384, "layers": 256}}
    assert "parameters" in refusal(tmp_path, "model config", json.dumps(model))


@pytest.mark.parametrize(
    "constants",
    [5, [1], {"mean": [float("nan")] * 3}, {"std": [0, 1, 1]}, {"mean": [1e999] * 3}, {"mean": [10**300] * 3}],
)
def test_odd_constants_are_refused(tmp_path: Path, constants: Any) -> None:
    path = written(tmp_path / "m.json", json.dumps({"model_cfg": TINY_MODEL, "preprocess_cfg": constants}))
    refused(ConfigError, lambda: load_clip(EncoderConfig(str(path), "random:0")))


def test_every_architecture_of_open_clip_may_be_written_as_a_file(tmp_path: Path) -> None:
    import open_clip

    for name in open_clip.list_models():
        path = written(tmp_path / "m.json", json.dumps(open_clip.get_model_config(name)))
        try:
            loading._model_config(str(path))
        except ConfigError as error:
            if "not a plain ViT" not in str(error) and "text tower of another library" not in str(error):
                raise


# Weights: what is run


class Payload:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


def archive(path: Path, pickled: bytes, storages: dict[str, bytes] | None = None, *, script: bool = False) -> Path:
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("a/data.pkl", pickled)
        if script:
            target.writestr("a/constants.pkl", pickle.dumps((), 2))
        target.writestr("a/byteorder", "little")
        target.writestr("a/version", "3\n")
        for key, data in (storages or {}).items():
            target.writestr(f"a/data/{key}", data)
    return path


def legacy(path: Path, content: Any) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


HOLDERS: dict[str, Callable[[Path, Any], Path]] = {
    "torch's zip": lambda folder, evil: saved(folder / "w.pt", {"a": evil}),
    "torch's zip, called .bin": lambda folder, evil: saved(folder / "w.bin", {"a": torch.ones(2), "b": [evil]}),
    "a key": lambda folder, evil: saved(folder / "w.pt", {evil: torch.ones(2)}),
    "an optimiser's state": lambda folder, evil: saved(folder / "w.pt", {"state_dict": {}, "optimizer": evil}),
    "torch's old format": lambda folder, evil: legacy(folder / "w.pt", {"a": evil}),
    "a pickle": lambda folder, evil: written(folder / "w.pt", pickle.dumps({"a": evil})),
    "a pickle, called .safetensors": lambda folder, evil: written(folder / "w.safetensors", pickle.dumps(evil)),
    "a zip, called .safetensors": lambda folder, evil: saved(folder / "w.safetensors", {"a": evil}),
    "TorchScript": lambda folder, evil: archive(folder / "w.pt", pickle.dumps(evil, 2), script=True),
    "TorchScript, protocol 4": lambda folder, evil: archive(folder / "w.pt", pickle.dumps([evil], 4), script=True),
    "magic and payload": lambda folder, evil: written(
        folder / "w.pt", pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps(evil, 2)
    ),
}


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("means", ["os.system", "eval", "build", "torch.load"])
def test_nothing_in_weights_is_run(tmp_path: Path, holder: str, means: str) -> None:
    sentinel, inner = tmp_path / "executed", tmp_path / "inner.pkl"
    evil: Any = Payload(os.system, f"touch {sentinel}")
    if means == "eval":
        evil = Payload(eval, f"__import__('pathlib').Path({str(sentinel)!r}).touch()")
    if means == "build":
        evil = Payload(getattr, Payload(__import__, "os"), "system")
    if means == "torch.load":
        evil = Payload(torch.load, str(written(inner, pickle.dumps(evil))), None, None)
    path = HOLDERS[holder](tmp_path, evil)
    assert "w." in refused(WeightsError, lambda: read(path))
    refused(WeightsError, lambda: load_loftup(path))
    assert not sentinel.exists()


def test_old_instructions_that_call_are_refused(tmp_path: Path) -> None:
    sentinel = tmp_path / "executed"
    for pickled in (
        f"(S'touch {sentinel}'\nios\nsystem\n.".encode(),
        f"(cos\nsystem\nS'touch {sentinel}'\no.".encode(),
        b"\x80\x02\x82\x01.",
        f"cos\nsystem\n(S'touch {sentinel}'\ntR.".encode(),
        b"cbuiltins\ngetattr\n(cos\nsystem\nS'x'\ntR.",
        b"(dS'a'\nc__torch__\nM\n)\x81}S'__class__'\ncos\nsystem\nsbs.",
    ):
        message = refused(WeightsError, lambda: read(archive(tmp_path / "w.pt", pickled)))  # noqa: B023
        assert "nothing is run" in message or "which torch's do not" in message
    assert not sentinel.exists()


# Weights: memory and time


def of(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


def tensor_of(
    storage: str = "FloatStorage", key: str = "0", count: int = 4, offset: Any = 0, size: Any = (4,), stride: Any = (1,)
) -> bytes:
    """A pickle of {"a": tensor}, as torch writes it, with numbers of our own."""

    def dumped(value: Any) -> bytes:
        return pickle.dumps(value, 2)[2:-1]

    pid = (
        b"(" + dumped("storage") + f"ctorch\n{storage}\n".encode() + dumped(key) + dumped("cpu") + dumped(count) + b"tQ"
    )
    parts = pid + dumped(offset) + dumped(size) + dumped(stride) + b"\x89" + b"ccollections\nOrderedDict\n)R"
    return of(b"}", dumped("a"), b"ctorch._utils\n_rebuild_tensor_v2\n(", parts, b"tRs")


FOUR = {"0": struct.pack("<4f", 1, 2, 3, 4)}


def test_the_pickle_of_these_tests_is_one_that_is_read(tmp_path: Path) -> None:
    tensors, openai = read(archive(tmp_path / "w.pt", tensor_of(), FOUR))
    assert tensors["a"].tolist() == [1, 2, 3, 4]
    assert not openai
    same = read(archive(tmp_path / "w.pt", tensor_of(offset=1, size=(2, 1), stride=(2, 9)), FOUR))[0]
    assert same["a"].tolist() == [[2], [4]]
    assert read(archive(tmp_path / "w.pt", tensor_of(count=0, size=(0, 10**12), stride=(1, 1)), {"0": b""}))


@pytest.mark.parametrize(
    "claim",
    [
        {"offset": 1},
        {"offset": -1},
        {"offset": 2**62},
        {"offset": 2**70},
        {"offset": 1.0},
        {"offset": None},
        {"size": (5,)},
        {"size": (10**15,)},
        {"size": (2**63,)},
        {"size": (2**40, 2**40)},
        {"size": (10**15,), "stride": (0,)},
        {"size": (-1,)},
        {"size": (-2, -2), "stride": (1, 1)},
        {"size": (True,)},
        {"size": "4"},
        {"size": 4},
        {"size": ("4",)},
        {"size": (1,) * 100, "stride": (1,) * 100},
        {"size": (1,) * 100_000, "stride": (1,) * 100_000},
        {"stride": (2,)},
        {"stride": (-1,)},
        {"stride": (2**62,)},
        {"stride": (1, 1)},
        {"stride": (10**4000,)},
        {"count": 10**15},
        {"count": 10**4000},
        {"count": -4},
        {"count": 3},
        {"count": "4"},
        {"count": True},
        {"storage": "DoubleStorage"},
        {"storage": "ByteStorage"},
        {"key": "../0"},
        {"key": "/etc/passwd"},
        {"key": "1"},
        {"key": "0" * 100_000},
        {"key": "a\nb\x1b"},
    ],
    ids=" ".join,
)
def test_a_tensor_lies_inside_its_storage(tmp_path: Path, claim: dict[str, Any]) -> None:
    refused(WeightsError, lambda: read(archive(tmp_path / "w.pt", tensor_of(**claim), FOUR)))


def text(letters: str) -> bytes:
    return b"X" + len(letters).to_bytes(4, "little") + letters.encode()


def many(count: int, value: bytes) -> bytes:
    return b"".join(text(f"{index:06d}") + value for index in range(count))


MODULE = b"c__torch__\nM\nq\x00"  # and what follows makes one of memo 0
PAIRED = b"".join(b"h\x01h\x01\x86q\x01" for _ in range(64))  # a tuple of two, of two, of two …
HUGE: dict[str, Callable[[], bytes]] = {
    "a memo of two thousand million": lambda: of(b"]r", (2**31 - 1).to_bytes(4, "little")),
    "a text longer than the file": lambda: of(b"X", (2**31).to_bytes(4, "little"), b"a"),
    "a text of eight bytes' length": lambda: of(b"\x8d", (2**62).to_bytes(8, "little")),
    "bytes of eight bytes' length": lambda: of(b"\x8e", (2**40).to_bytes(8, "little")),
    "bytes to write on": lambda: of(b"\x96", (2**40).to_bytes(8, "little")),
    "a number longer than the file": lambda: of(b"\x8b", (2**31 - 1).to_bytes(4, "little")),
    "lists in lists": lambda: of(b"](" * 50_000, b"e" * 50_000),
    "tuples in tuples": lambda: of(b")", b"\x85" * 50_000),
    "modules in modules": lambda: of(MODULE, b")\x81", b"}X\x01\0\0\0ah\0)\x81" * 20_000, b"sb" * 20_000),
    "a table that holds itself": lambda: of(b"}q\0", text("a"), b"h\0s"),
    "a list that holds itself": lambda: of(b"]q\0h\0a"),
    "a key of tuples of tuples": lambda: of(b"})q\x01", PAIRED, b"K\x01s"),
    "a name of tuples of tuples": lambda: of(b")q\x01", PAIRED, b"h\x01\x93"),
    "a size of tuples of tuples": lambda: tensor_of(size=1).replace(b"K\x01", b")q\x01" + PAIRED, 1),
    "marks and nothing": lambda: of(b"(" * 100_000),
    "nothing on the stack": lambda: of(b"0R"),
    "an unknown memo": lambda: of(b"h\x07"),
    "no end": lambda: b"\x80\x02}",
    "one list in many tables": lambda: of(
        b"ccollections\nOrderedDict\nq\0](", b"K\x01K\x02\x86" * 2000, b"e\x85q\x01", b"h\0h\x01R" * 10_000
    ),
    "one table in many modules": lambda: of(
        MODULE, b"}(", many(2000, b"h\0)\x81"), b"uq\x01", b"h\0)\x81}(", many(2000, b"h\0)\x81h\x01b"), b"ub"
    ),
    "very many entries": lambda: of(b"}(", many(150_000, b"N"), b"u"),
    "very many tensors": lambda: of(tensor_of()[2:-3], b"q\x01}(", many(110_000, b"h\x01"), b"u"),
    "more than its limit": lambda: of(b"N0" * 9_000_000),
}


def old_file(path: Path, root: bytes, keys: Any = (), storages: bytes = b"") -> Path:
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    parts = [*(pickle.dumps(part, 2) for part in head), root, pickle.dumps(list(keys), 2), storages]
    return written(path, b"".join(parts))


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
@pytest.mark.parametrize("name", HUGE)
def test_a_pickle_takes_no_more_than_its_size(tmp_path: Path, name: str, old: bool) -> None:
    path = (old_file if old else archive)(tmp_path / "w.pt", HUGE[name]())
    refused(WeightsError, lambda: read(path), 40 * MIB + 40 * path.stat().st_size)


def test_a_module_that_holds_itself_is_walked_once(tmp_path: Path) -> None:
    inner = tensor_of()[2:-2].replace(b"}", b"}(", 1) + b""
    root = of(MODULE, b")\x81q\x02", inner, text("me"), b"h\x02ub")
    tensors, _ = read(archive(tmp_path / "w.pt", root, FOUR))
    assert list(tensors) == ["a"]


def repacked(path: Path, source: Path, change: Callable[[str, bytes], bytes], **more: Any) -> Path:
    with zipfile.ZipFile(source) as given, zipfile.ZipFile(path, "w", **more) as target:
        for name in given.namelist():
            target.writestr(name, change(name, given.read(name)))
    return path


def test_a_bomb_in_a_zip_is_not_unpacked(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.pt", {"a": torch.zeros(50 * MIB // 4)})
    path = repacked(tmp_path / "w.pt", whole, lambda _, data: data, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < MIB
    assert "not what it declares" in refused(WeightsError, lambda: read(path), 10 * MIB)
    path = tmp_path / "p.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("a/data.pkl", of(b"}", b"0}" * 7_000_000))
    refused(WeightsError, lambda: read(path), 10 * MIB)


def test_members_of_a_zip_that_share_their_bytes_are_counted(tmp_path: Path) -> None:
    """A directory that names the same bytes many times makes much of a small file."""
    count = 100_000
    storages = {str(index): bytes(4 * count) if not index else b"" for index in range(20)}
    parts = [tensor_of(key=str(index), count=count, size=(count,))[3:-2].replace(b"a", str(index).encode().ljust(1), 1)
             for index in range(9)]  # fmt: skip
    path = archive(tmp_path / "w.pt", of(b"}", b"".join(part + b"s" for part in parts)), storages)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as given:
        first = given.getinfo("a/data/0")
        start = given.start_dir
    at = start
    while data[at : at + 4] == b"PK\x01\x02":
        name, extra, note = struct.unpack("<3H", data[at + 28 : at + 34])
        if bytes(data[at + 46 : at + 46 + name]).startswith(b"a/data/"):
            struct.pack_into("<3I", data, at + 16, first.CRC, first.file_size, first.file_size)
            struct.pack_into("<I", data, at + 42, first.header_offset)
        at += 46 + name + extra + note
    path.write_bytes(data)
    refused(WeightsError, lambda: read(path), 4 * len(data))


@pytest.mark.parametrize("names", [["../a/data.pkl", "b/data.pkl"], ["data.pkl"], [], ["a/data.pkl/x"]])
def test_a_zip_that_is_none_of_torchs_is_refused(tmp_path: Path, names: list[str]) -> None:
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as target:
        for name in [*names, "x"]:
            target.writestr(name, of(b"}"))
    refused(WeightsError, lambda: read(tmp_path / "w.pt"))


def test_names_in_a_zip_lead_nowhere(tmp_path: Path) -> None:
    outside = written(tmp_path / "outside", FOUR["0"])
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("../../data.pkl", tensor_of())
        target.writestr("../../data/0", struct.pack("<4f", 5, 6, 7, 8))
    assert read(path)[0]["a"].tolist() == [5, 6, 7, 8]  # those of the zip
    assert outside.read_bytes() == FOUR["0"]


def test_an_archive_of_another_byte_order_is_refused(tmp_path: Path) -> None:
    path = repacked(
        tmp_path / "w.pt",
        archive(tmp_path / "s.pt", tensor_of(), FOUR),
        lambda name, data: b"bigger" if name.endswith("byteorder") else data,
    )
    assert "another byte order" in refused(WeightsError, lambda: read(path))


STATE = {"visual.proj": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2).half(), "c": torch.tensor(3)}


def test_the_old_format_is_read_and_held_to_the_same(tmp_path: Path) -> None:
    tensors, _ = read(legacy(tmp_path / "w.pt", {"state_dict": STATE, "epoch": 3}))
    assert all(torch.equal(tensors[name], STATE[name]) for name in STATE)
    four = struct.pack("<q", 4) + FOUR["0"]
    assert read(old_file(tmp_path / "w.pt", tensor_of(), ["0"], four))[0]["a"].tolist() == [1, 2, 3, 4]
    for root, keys, storages in [
        (tensor_of(), ["0"], four[:-1]),
        (tensor_of(), ["0"], struct.pack("<q", 10**15) + FOUR["0"]),
        (tensor_of(count=10**15), ["0"], struct.pack("<q", 10**15) + FOUR["0"]),
        (tensor_of(), [], four),
        (tensor_of(), ["0", "1"], four),
        (tensor_of(), [("0",)], four),
        (tensor_of(size=(5,)), ["0"], four),
    ]:
        path = old_file(tmp_path / "w.pt", root, keys, storages)
        refused(WeightsError, lambda: read(path))  # noqa: B023


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("form", ["zip", "old", "safetensors"])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, form: str, share: float) -> None:
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    {"zip": saved, "old": legacy, "safetensors": lambda path, state: save_file(state, path)}[form](path, STATE)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused(WeightsError, lambda: read(path))


def safetensors_of(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return written(path, (len(raw) if length is None else length).to_bytes(8, "little") + raw + data)


def entry(dtype: str = "F32", shape: Any = (4,), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "length"),
    [
        ({"a": entry()}, 2**63),
        ({"a": entry()}, 10**9),
        ({"a": entry()}, 17 * MIB),
        ({"a": entry()}, 0),
        ({"a": entry(offsets=(0, 10**15), shape=(25 * 10**13,))}, None),
        ({"a": entry(), "b": entry()}, None),
        ({"a": entry(offsets=(4, 20))}, None),
        ({"a": entry(offsets=(16, 0))}, None),
        ({"a": entry(offsets=(-16, 0))}, None),
        ({"a": entry(shape=(5,))}, None),
        ({"a": entry(shape=(-4,))}, None),
        ({"a": entry(shape=(2**40, 2**40))}, None),
        ({"a": entry("F64")}, None),
        ({"a": entry("C64", (2,))}, None),
        ({"a": entry("F8_E4M3", (16,))}, None),
        ({"a": entry("U16", (8,))}, None),
        ({"a": entry("X1")}, None),
        ({"a": entry(shape=(4,) + (1,) * 60)}, None),
        ({"a" * 5000: entry()}, None),
        ({"a\nb": entry()}, None),
        ({"a": 3}, None),
        (b"[" * 200_000, None),
        (b"{}\xff", None),
        (b"", None),
    ],
)
def test_a_safetensors_header_that_lies_is_refused(tmp_path: Path, header: Any, length: int | None) -> None:
    refused(WeightsError, lambda: read(safetensors_of(tmp_path / "w.safetensors", header, FOUR["0"], length)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    tensor = torch.ones(100, dtype=dtype)
    tensor[7] = value
    path = tmp_path / "w.safetensors"
    save_file({"fine": torch.ones(2), "visual.proj": tensor}, path)
    assert "'visual.proj' holds values that are not finite" in refused(WeightsError, lambda: read(path))
    path = saved(tmp_path / "w.pt", {"visual.proj": tensor, "text.attn_mask": tensor})
    assert "'visual.proj' holds values that are not finite" in refused(WeightsError, lambda: read(path))
    assert read(saved(path, {"text.attn_mask": tensor})) == ({}, False)


@pytest.mark.parametrize(
    "content",
    [{"a": 3}, {"a": None}, {"a": [torch.ones(1)]}, {"a": {"b": torch.ones(1)}}, {3: torch.ones(1)}, {None: 1}, 3, "a",
     None, [], (1,), {"a\n": torch.ones(1)}, {"a" * 300: torch.ones(1)}, {"a": torch.ones(1, dtype=torch.complex64)},
     {"a": torch.ones(2, 2).to_sparse()}, {(1, 2): torch.ones(1)}, {"state_dict": {"a": "b" * 10_000}}],
)  # fmt: skip
@pytest.mark.parametrize("save", [saved, legacy])
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_table_of_tensors_is_refused(tmp_path: Path, content: Any, save: Any) -> None:
    refused(WeightsError, lambda: read(save(tmp_path / "w.pt", content)))


def test_a_link_to_weights_is_followed(tmp_path: Path) -> None:
    saved(tmp_path / "blob", STATE)
    (tmp_path / "w.pt").symlink_to("blob")
    assert read(tmp_path / "w.pt")[0].keys() == STATE.keys()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "p.pt").symlink_to("pipe")
    assert "not a regular file" in refused(WeightsError, lambda: read(tmp_path / "p.pt"))
    refused(WeightsError, lambda: read(Path("/dev/zero")))
    refused(WeightsError, lambda: read(tmp_path))


def test_very_many_odd_names_are_told_in_one_line(tmp_path: Path, write_model: Callable[..., str]) -> None:
    state = {"k" * 190 + str(index): torch.ones(1) for index in range(2000)}
    path = saved(tmp_path / "w.pt", state)
    with pytest.raises(WeightsError, match="2000 not in the model") as caught:
        load_clip(EncoderConfig(write_model(TINY_MODEL), str(path)))
    assert len(str(caught.value)) < 2000
    with pytest.raises(WeightsError, match="is no LoftUp checkpoint"):
        load_loftup(path)


# The text cache


def test_a_planted_cache_file_is_not_run_but_replaced(tmp_path: Path) -> None:
    sentinel, path = tmp_path / "executed", tmp_path / "k.npy"
    evil = np.array([Payload(os.system, f"touch {sentinel}")], dtype=object)
    np.save(path, evil, allow_pickle=True)
    good = np.eye(3, 4, dtype=np.float32)
    plants = [path.read_bytes(), pickle.dumps(evil)]
    buffer = io.BytesIO()
    np.savez(buffer, evil)
    plants.append(buffer.getvalue())
    buffer = io.BytesIO()
    np.save(buffer, good)
    whole = buffer.getvalue()
    plants += [b"", whole[:-1], whole[:20], whole + bytes(10_000), whole.replace(b"(3, 4)", b"(4, 3)")]
    plants += [whole.replace(b"(3, 4), }" + b" " * 12, b"(3, 10000000000000), }"[:21])]
    plants += [whole.replace(b"<f4", b"|O "), whole[:-4] + struct.pack("<f", float("nan"))]
    for planted in plants:
        path.write_bytes(planted)
        assert texts._read_kept(path, (3, 4)) is None
    assert not sentinel.exists()
    path.write_bytes(whole)
    kept = texts._read_kept(path, (3, 4))
    assert kept is not None
    assert np.array_equal(kept, good)
    path.unlink()
    os.mkfifo(path)
    assert texts._read_kept(path, (3, 4)) is None
    with (tmp_path / "large.npy").open("wb") as file:
        file.truncate(10**12)
    assert texts._read_kept(tmp_path / "large.npy", (3, 4)) is None


# Ground truth

INSTANCES: dict[str, Any] = {
    "images": [{"id": 7, "file_name": "x.jpg", "height": 4, "width": 6}],
    "categories": [{"id": 1, "name": "person"}],
    "annotations": [{"id": 5, "image_id": 7, "category_id": 1, "area": 4, "segmentation": [[1, 1, 3, 1, 3, 3]]}],
}
PANOPTIC: dict[str, Any] = {
    "categories": [{"id": 1, "name": "person", "isthing": 1}],
    "annotations": [{"file_name": "7.png", "segments_info": [{"id": 3, "category_id": 1}]}],
}


def with_part(table: dict[str, Any], part: str, **more: Any) -> dict[str, Any]:
    return {**table, part: [{**table[part][0], **more}]}


@pytest.mark.parametrize(
    "shape",
    [
        [[0, 0, 1e9, 0, 1e9, 1e9]],
        [[0, 0, 1e999, 0, 1, 1]],
        [[0, 0, float("nan"), 0, 1, 1]],
        [[0, 0, 10**400, 0, 1, 1]],
        [[0, 0, 1e6, 1e6] * 1000],
        [[0, 0, 1]],
        [{"size": [4, 6], "counts": [24]}],
        [["a", "b"]],
        {"size": [4, 6], "counts": [10**6, 24 - 10**6]},
        {"size": [4, 6], "counts": [1e6, 24 - 1e6]},
        {"size": [4, 6], "counts": [True, 23]},
        {"size": [10**5, 10**5], "counts": [10**10]},
        {"size": [10**5, 10**5], "counts": "1"},
        {"size": [4, 6], "counts": "o" * 100},
        {"size": [4, 6], "counts": "P" * 100},
        {"size": [4, 6], "counts": "`" * 1000},
        {"size": [4, 6], "counts": "\u20ac"},
        {"size": [4, 6], "counts": {"a": 1}},
        {"size": 4, "counts": "1"},
        {"counts": None},
        "text",
        5,
    ],
    ids=lambda shape: type(shape).__name__,
)
def test_an_outline_that_would_write_beyond_memory_is_refused(tmp_path: Path, shape: Any) -> None:
    path = written(tmp_path / "i.json", json.dumps(with_part(INSTANCES, "annotations", segmentation=shape)))
    assert "i.json" in refused(TruthError, lambda: open_truth(path, "coco-instances", []).read("x"))


def test_runs_as_coco_writes_them_are_read(tmp_path: Path) -> None:
    from pycocotools import mask as coco_mask

    rng = np.random.default_rng(0)
    for _ in range(50):
        height, width = rng.integers(1, 60, 2).tolist()
        drawn = rng.random((height, width)) > rng.random()
        runs = coco_mask.encode(np.asfortranarray(drawn.astype(np.uint8)))["counts"].decode()
        shape = {"size": [height, width], "counts": runs}
        table = with_part(INSTANCES, "images", height=height, width=width)
        path = written(tmp_path / "i.json", json.dumps(with_part(table, "annotations", segmentation=shape)))
        np.testing.assert_array_equal(open_truth(path, "coco-instances", []).read("x"), drawn)


ODD_PARTS: list[tuple[str, dict[str, Any]]] = [
    ("categories", {"id": 1e999}),
    ("categories", {"id": None}),
    ("categories", {"name": "a\nb"}),
    ("categories", {"name": "\ud800"}),
    ("categories", {"name": "n" * 1000}),
    ("categories", {"name": {"a": 1}}),
    ("annotations", {"category_id": 1e999, "segments_info": [{"id": 1, "category_id": 9}]}),
    ("annotations", {"image_id": [], "segments_info": 5}),
    ("annotations", {"area": "wide", "segments_info": [{}]}),
    ("annotations", {"image_id": {}, "file_name": 5}),
    ("images", {"file_name": 5}),
    ("images", {"file_name": ""}),
    ("images", {"height": 10**9}),
    ("images", {"height": -4}),
    ("images", {"height": 1e999}),
    ("images", {"height": None}),
]


@pytest.mark.parametrize(
    ("form", "part", "more"),
    [("instances", *odd) for odd in ODD_PARTS] + [("panoptic", *odd) for odd in ODD_PARTS if odd[0] != "images"],
)
def test_a_ground_truth_that_makes_no_sense_is_refused(
    tmp_path: Path, form: str, part: str, more: dict[str, Any]
) -> None:
    table = INSTANCES if form == "instances" else PANOPTIC
    from PIL import Image

    Image.new("RGB", (2, 2), (3, 0, 0)).save(tmp_path / "7.png")
    path = written(tmp_path / "g.json", json.dumps(with_part(table, part, **more)))

    def read_it() -> None:
        truth = open_truth(path, f"coco-{form}", [])
        for name in truth.files:
            truth.read(name)

    refused(TruthError, read_it)


@pytest.mark.parametrize("form", ["instances", "panoptic"])
def test_more_categories_than_labels_hold_are_refused(tmp_path: Path, form: str) -> None:
    table = {**(INSTANCES if form == "instances" else PANOPTIC)}
    table["categories"] = [{"id": index, "name": str(index)} for index in range(70_000)]
    (tmp_path / "7.png").touch()
    path = written(tmp_path / "g.json", json.dumps(table))
    assert "70000 categories" in refused(TruthError, lambda: open_truth(path, f"coco-{form}", []), 300 * MIB)


def test_masks_that_are_no_pictures_are_refused(tmp_path: Path) -> None:
    sentinel = tmp_path / "executed"
    eps = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%touch {sentinel}) (w) file\n%%EOF\n"
    bomb = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + struct.pack(">2I5B", 10**5, 10**5, 8, 0, 0, 0, 0)
    for content in (eps.encode(), bomb + b"\0" * 99, b"", b"GIF89a", b"MATLAB 5.0", bytes(500)):
        for name in ("a.png", "a.tif", "a.gif", "a.mat"):
            path = written(tmp_path / name, content)
            truth = open_truth(path, "raw", [TruthClass("cat")])
            assert name in refused(TruthError, lambda: truth.read("a"))  # noqa: B023
            path.unlink()
    assert not sentinel.exists()
    for name in ("a.png", "a.mat"):
        os.mkfifo(tmp_path / name)
        truth = open_truth(tmp_path / name, "raw", [TruthClass("cat")])
        assert "not a regular file" in refused(TruthError, lambda: truth.read("a"))  # noqa: B023


def test_a_matlab_file_that_claims_much_is_refused(tmp_path: Path) -> None:
    from scipy.io import savemat

    path = tmp_path / "a.mat"
    for table in (np.full((2, 2), np.nan), np.array([["a"]], object), np.ones((2, 2), complex), np.full((2, 2), -5)):
        savemat(path, {"LabelMap": table}, do_compression=True)
        refused(TruthError, lambda: open_truth(path, "context-459", []).read("a"))
    savemat(path, {"LabelMap": np.ones((2, 3), np.uint16)})
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<2i", 2, 3))
    struct.pack_into("<2i", data, at, 10**5, 10**5)
    path.write_bytes(data)
    refused(TruthError, lambda: open_truth(path, "context-459", []).read("a"))


# Whatever else: small files, changed at random

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


def summed(path: Path) -> None:
    tensors, _ = read(path)
    assert all(bool(torch.isfinite(tensor.double().sum())) or tensor.numel() for tensor in tensors.values())


def script(path: Path) -> Path:
    """A TorchScript archive as torch writes it."""

    class Inner(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    root = Inner()
    root.add_module("visual", Inner())
    root.visual.register_parameter("proj", torch.nn.Parameter(torch.ones(2, 3).half()))
    root.register_buffer("input_resolution", torch.tensor(64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(root), path)
    assert list(read(path)[0]) == ["visual.proj"]
    return path


@pytest.mark.parametrize("form", ["zip", "zip's pickle", "TorchScript", "TorchScript's pickle", "old", "safetensors"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_mutated_weights_are_read_or_refused(tmp_path: Path, form: str) -> None:
    source = tmp_path / ("s.safetensors" if form == "safetensors" else "s.pt")
    if form == "safetensors":
        save_file(STATE, source)
    elif form == "old":
        legacy(source, STATE)
    else:
        script(source) if "Script" in form else saved(source, STATE)
    data, read_well = source.read_bytes(), 0
    path = tmp_path / f"w{source.suffix}"
    for seed in range(COPIES):
        if "pickle" in form:
            repacked(path, source, lambda name, own: mutated(own, seed) if name.endswith("/data.pkl") else own)  # noqa: B023
        else:
            path.write_bytes(mutated(data, seed))
        read_well += reads_or_refuses(WeightsError, lambda: summed(path))
    assert read_well < COPIES


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


def test_mutated_model_configs_are_read_or_refused(tmp_path: Path) -> None:
    """As far as the file goes: what it describes is not made."""
    source = json.dumps({"model_cfg": TINY_MODEL, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3]}}).encode()
    path = tmp_path / "m.json"
    for seed in range(COPIES):
        path.write_bytes(mutated(source, seed))
        reads_or_refuses(ConfigError, lambda: loading._model_config(str(path)))


def test_mutated_cache_files_are_read_or_ignored(tmp_path: Path) -> None:
    path, buffer = tmp_path / "k.npy", io.BytesIO()
    np.save(buffer, np.eye(3, 4, dtype=np.float32))
    for seed in range(COPIES):
        path.write_bytes(mutated(buffer.getvalue(), seed))
        kept = texts._read_kept(path, (3, 4))
        assert kept is None or (kept.shape == (3, 4) and np.isfinite(kept).all())
