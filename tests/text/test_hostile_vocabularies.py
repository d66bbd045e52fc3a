"""Vocabularies, templates, descriptions and answers from untrusted sources are refused in one clear line."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from ovlabel.errors import ConfigError, WeightsError
from ovlabel.model.weights import find
from ovlabel.text.describe import read_answers
from ovlabel.text.prompts import MOST_PROMPTS, load_descriptions, make_queries
from ovlabel.text.templates import Templates, load_templates, template_names
from ovlabel.text.vocabulary import MOST_CLASSES, Vocabulary, VocabularyClass, load_vocabulary, vocabulary_names
from ovlabel.types import below_threshold, not_annotated
from tests.hostile import (
    MIB,
    brief,
    refusal,
    refused,
    written,
)

pytestmark = pytest.mark.usefixtures("no_hang")


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
