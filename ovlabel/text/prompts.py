"""Vocabulary × templates → the sentences that the text tower encodes. Standard library only.

`Prompts` holds what the files of a run's text settings contain. The files are read once a run; everything that needs
their content afterwards (the text bank, the comparison of runs, the store's manifest) is handed this object.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovlabel.errors import ConfigError, short, unknown
from ovlabel.files import read_toml
from ovlabel.settings.keys import TextConfig
from ovlabel.text.templates import Templates, load_templates
from ovlabel.text.vocabulary import Vocabulary, VocabularyClass, check_sentences, load_vocabulary, read_name

MOST_PROMPTS, MOST_LETTERS = 500_000, 20_000_000  # that the text tower is asked in one run


@dataclass(frozen=True)
class Query:
    """One name asked of the model: the class it belongs to, its prompts, and the templates they are made of."""

    class_index: int
    name: str
    prompts: tuple[str, ...]
    templates: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Prompts:
    """The text of a run: the content of its vocabulary, template and description files.

    Attributes:
        vocabulary: the classes, in label order.
        templates: the sentences that names are put into.
        descriptions: sentences of each described class, by class name.
        knowledge: whether descriptions enrich the names' embeddings (`text.knowledge`) instead of being queries.

    Example:
        >>> from ovlabel.settings.keys import TextConfig
        >>> prompts = Prompts.read(TextConfig(vocabulary="classes:cat, dog", templates="simple"))
        >>> [query.prompts for query in prompts.queries]
        [('a photo of a cat.',), ('a photo of a dog.',)]
    """

    vocabulary: Vocabulary
    templates: Templates
    descriptions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    knowledge: bool = False

    @classmethod
    def read(cls, config: TextConfig) -> Prompts:
        """Read the files that text settings name.

        Args:
            config: the section `text` of a run's settings.

        Raises:
            ConfigError: an unknown name, or a file that does not hold what it should.
        """
        vocabulary = load_vocabulary(config.vocabulary)
        descriptions = load_descriptions(config.descriptions, vocabulary)
        return cls(vocabulary, load_templates(config.templates), descriptions, bool(config.knowledge))

    @property
    def every_query(self) -> list[Query]:
        """Names and descriptions, classes in order: all text that has a part in the result. Raises ConfigError."""
        return make_queries(self.vocabulary, self.templates, self.descriptions)

    @property
    def queries(self) -> list[Query]:
        """What is compared with the image: without the descriptions where they only enrich the names."""
        return [query for query in self.every_query if query.templates or not self.knowledge]

    @property
    def sentences(self) -> list[Query]:
        """The descriptions that enrich the names' embeddings, in the order of their file; none without `knowledge`."""
        if not self.knowledge:
            return []
        return [Query(0, text, (text,)) for own in self.descriptions.values() for text in own]

    @property
    def content(self) -> list[Any]:
        """All that the files say, as plain JSON values: equal content, equal prompts."""
        adaptive, by_kind = self.templates.adaptive, dict(self.templates.by_kind)
        return [self.vocabulary.content(), by_kind, adaptive, dict(self.descriptions)]


def load_descriptions(path: str | Path, vocabulary: Vocabulary) -> dict[str, tuple[str, ...]]:
    """A description file: TOML, a class' name and a list of sentences a line; "" holds none. Raises ConfigError."""
    table = read_toml(Path(path)) if path else {}
    names = [entry.name for entry in vocabulary.classes]
    known = set(names)
    for name, sentences in table.items():
        if name not in known:  # of very many, the nearest would take minutes to find
            asked = unknown("class", short(name), names) if len(names) <= 1000 else f"unknown class '{short(name)}'"
            raise ConfigError(f"{path}: {asked}")
        if not isinstance(sentences, list) or not all(isinstance(s, str) and s.strip() for s in sentences):
            raise ConfigError(f'{path}: write "{name}" = ["a sentence.", "another."]')
        check_sentences(f"{path}, class {name}", sentences)
    _check_amount(str(path), sum(map(len, table.values())), sum(len(s) for own in table.values() for s in own))
    return {name: tuple(dict.fromkeys(sentences)) for name, sentences in table.items()}


def make_queries(
    vocabulary: Vocabulary, templates: Templates, descriptions: Mapping[str, tuple[str, ...]] = {}
) -> list[Query]:
    """Every query of the vocabulary with its prompts, classes in order, names as written; then its descriptions.

    Raises:
        ConfigError: more prompts than a run can ask.
    """
    _check_prompts(vocabulary, templates, descriptions)
    queries = []
    for index, entry in enumerate(vocabulary.classes):
        asked = dict.fromkeys(
            name if "{}" in "".join(entry.prompts) or not entry.prompts else entry.name for name in entry.asked
        )
        for name in asked:
            read = _read(name, entry) if templates.adaptive else name
            sentences = entry.prompts or templates.by_kind[entry.kind]
            adaptive = templates.adaptive and not entry.prompts
            for where in ("", *(f" {context}" for context in entry.contexts)):
                filled = dict.fromkeys(_fill(s, read + where, adaptive) for s in sentences)
                queries.append(Query(index, name + where, tuple(filled), tuple(sentences)))
        queries += [Query(index, sentence, (sentence,)) for sentence in descriptions.get(entry.name, ())]
    return queries


def _check_prompts(vocabulary: Vocabulary, templates: Templates, descriptions: Mapping[str, tuple[str, ...]]) -> None:
    """Count the prompts before they are written out: names × contexts × templates, which a small file can make many."""
    letters_of = {kind: sum(map(len, sentences)) for kind, sentences in templates.by_kind.items()}
    prompts = letters = 0
    for entry in vocabulary.classes:
        own, described = entry.prompts or templates.by_kind[entry.kind], descriptions.get(entry.name, ())
        names, places, sentences = len(entry.asked), 1 + len(entry.contexts), len(own)
        prompts += names * places * sentences + len(described)
        letters += names * places * (sum(map(len, own)) if entry.prompts else letters_of[entry.kind])
        letters += places * sentences * sum(map(len, entry.asked))
        letters += names * sentences * sum(map(len, entry.contexts)) + sum(map(len, described))
    _check_amount(f"vocabulary {vocabulary.name} with templates {templates.name}", prompts, letters)


def _check_amount(where: str, prompts: int, letters: int) -> None:
    if prompts > MOST_PROMPTS or letters > MOST_LETTERS:
        raise ConfigError(
            f"{where}: {prompts} prompts of {letters} letters in all, where {MOST_PROMPTS} and {MOST_LETTERS} are the "
            "most; leave out classes, synonyms, contexts or templates"
        )


def _read(name: str, entry: VocabularyClass) -> str:
    return entry.phrase if entry.phrase and name == entry.name else read_name(name)


def _fill(template: str, name: str, fix_article: bool) -> str:
    if fix_article and re.match(r"(?!eu|ew|one\b|u(?:ni|s[aeu]|ti))[aeiou]", name, re.IGNORECASE):
        template = re.sub(r"\b([aA]) \{\}", r"\1n {}", template)
    return template.replace("{}", name)


def join_prompts(queries: Iterable[Query]) -> list[str]:
    """Every prompt once, in order."""
    return list(dict.fromkeys(p for query in queries for p in query.prompts))
