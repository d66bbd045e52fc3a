"""`ovlabel vocab …`: vocabularies and template sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovlabel.cli.commands import Command
from ovlabel.cli.messages import say
from ovlabel.cli.options import complete_templates, complete_vocabularies
from ovlabel.errors import ConfigError

if TYPE_CHECKING:
    from ovlabel.text.templates import Templates
    from ovlabel.text.vocabulary import Vocabulary

_SHORT = 150  # letters that surely are no more tokens than CLIP reads
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name or file.", autocompletion=complete_vocabularies)]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.callback(no_args_is_help=True)(vocab)
    app.command("list", cls=Command)(vocab_list)
    app.command("show", cls=Command)(vocab_show)
    app.command("check", cls=Command)(vocab_check)
    app.command("describe", cls=Command, short_help="Write sentences that describe each class.")(vocab_describe)


def vocab() -> None:
    """Vocabularies and template sets: what is built in, and looking at your own.

    \b
    Example:
      ovlabel vocab check my.toml
    """


def vocab_list() -> None:
    """The built-in vocabularies and template sets.

    \b
    Example:
      ovlabel vocab list
    """
    from ovlabel.text.templates import load_templates, template_names
    from ovlabel.text.vocabulary import load_vocabulary, vocabulary_names

    for name in vocabulary_names():
        vocabulary = load_vocabulary(name)
        say(f"{name:<12} {len(vocabulary.classes):>4} classes  {vocabulary.title}")
    say()
    for name in template_names():
        templates = load_templates(name)
        say(f"{name:<12} {_count(templates):>4} templates  {templates.title}")


def vocab_show(
    name: Name,
    templates: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Also print every prompt of these templates.", autocompletion=complete_templates
        ),
    ] = None,
) -> None:
    """The classes of a vocabulary: index, name, kind, what is asked.

    \b
    Example:
      ovlabel vocab show voc21 --templates top7
    """
    from ovlabel.text.prompts import make_queries
    from ovlabel.text.templates import load_templates
    from ovlabel.text.vocabulary import load_vocabulary

    vocabulary = load_vocabulary(name)
    prompts: dict[int, list[str]] = {}
    if templates:
        for query in make_queries(vocabulary, load_templates(templates)):
            prompts.setdefault(query.class_index, []).extend(query.prompts)
    for index, entry in enumerate(vocabulary.classes):
        asked = "" if entry.asked == (entry.name,) else f"  asked as: {', '.join(entry.asked)}"
        say(f"{index:>4}  {entry.name:<20} {entry.kind:<9}{asked}")
        for prompt in prompts.get(index, []):
            say(f"{'':>6}{prompt}")


def vocab_check(
    name: Name,
    descriptions: Annotated[Path | None, typer.Option(metavar="FILE", help="Check a description file with it.")] = None,
) -> None:
    """Read a vocabulary and say what a person should look at. Exit code 2 if it can't be read.

    \b
    Example:
      ovlabel vocab check my.toml
    """
    from ovlabel.text.vocabulary import check, load_vocabulary

    vocabulary = load_vocabulary(name)
    kinds = Counter(entry.kind for entry in vocabulary.classes)
    queries = sum(len(entry.asked) for entry in vocabulary.classes)
    background = "a" if vocabulary.background is not None else "no"
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    say(f"{name}: {len(vocabulary.classes)} classes ({counts}), {queries} queries, {background} background")
    for finding in check(vocabulary):
        say(f"look at: {finding}")
    for prompt in _cut_off(vocabulary, descriptions):
        say(f"look at: longer than CLIP reads, so its end is cut off: {prompt}")


def _cut_off(vocabulary: Vocabulary, descriptions: Path | None) -> list[str]:
    """The prompts of a vocabulary and its descriptions that CLIP reads in part only."""
    from ovlabel.text.prompts import join_prompts, load_descriptions, make_queries
    from ovlabel.text.templates import load_templates

    sentences = load_descriptions(descriptions or "", vocabulary)
    prompts = join_prompts(make_queries(vocabulary, load_templates("imagenet80"), sentences))
    if not (long := [prompt for prompt in prompts if len(prompt) > _SHORT]):
        return []
    from ovlabel.model.clip import too_long

    return list(too_long(long))


def vocab_describe(
    name: Annotated[
        str, typer.Argument(help="Vocabulary, name or file.", metavar="NAME", autocompletion=complete_vocabularies)
    ],
    out: Annotated[Path, typer.Argument(help="File to write, for --set text.descriptions=FILE.", metavar="FILE")],
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="OpenAI-compatible, as http://localhost:8000/v1.")
    ] = None,
    model: Annotated[str, typer.Option(metavar="NAME", help="Name of the model there.")] = "gpt-4o-mini",
    answers: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file of answers instead: 'class: sentence' lines.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, metavar="N", help="Sentences a class.")] = 20,
    timeout: Annotated[
        float, typer.Option(min=1, max=3600, metavar="SECONDS", help="The most that an answer may take.")
    ] = 60,
) -> None:
    """Write sentences that describe each class: by a language model you name, or from its answers in a file.

    The endpoint's key is read from $OPENAI_API_KEY. Nothing is ever asked while annotating.
    With --endpoint, classes that FILE holds already are not asked for again.

    \b
    Example:
      ovlabel vocab describe my.toml sentences.toml --answers answers.txt
    """
    from ovlabel.text import describe
    from ovlabel.text.endpoint import Endpoint
    from ovlabel.text.prompts import load_descriptions
    from ovlabel.text.vocabulary import load_vocabulary

    vocabulary = load_vocabulary(name)
    names = [entry.name for index, entry in enumerate(vocabulary.classes) if index != vocabulary.background]
    if (endpoint is None) == (answers is None):
        raise ConfigError("name one of --endpoint and --answers")
    describe.check_writable(out)
    sentences: Mapping[str, Sequence[str]]
    if answers is not None:
        sentences = describe.read_answers(answers, names)
        describe.write(out, sentences)
    else:
        server = Endpoint.checked(str(endpoint), model, describe.api_key(), timeout)
        known = load_descriptions(out, vocabulary) if out.exists() else {}
        sentences = describe.ask(names, server, count, known, lambda found: describe.write(out, found))
    say(f"{sum(map(len, sentences.values()))} sentences for {len(sentences)} classes in {out}")


def _count(templates: Templates) -> int:
    """The most sentences that a kind of class has."""
    return max(len(sentences) for sentences in templates.by_kind.values())
