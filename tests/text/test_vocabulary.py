"""Vocabularies and templates: what is asked of the model, word for word."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from ovlabel.errors import ConfigError
from ovlabel.text.prompts import Query, join_prompts, load_descriptions, make_queries
from ovlabel.text.templates import load_templates, template_names
from ovlabel.text.vocabulary import Vocabulary, check, load_vocabulary, read_name, vocabulary_names

BACKGROUND_LINE = (
    "sky, wall, tree, wood, grass, road, sea, river, mountain, sands, desk, bed, building, cloud, lamp, door, window, "
    "wardrobe, ceiling, shelf, curtain, stair, floor, hill, rail, fence"
)
BACKGROUND_WORDS = BACKGROUND_LINE.split(", ")


def write(folder: Path, text: str, name: str = "mine.toml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def names(vocabulary: Vocabulary) -> list[str]:
    return [entry.name for entry in vocabulary.classes]


def queries(vocabulary: str, templates: str = "simple") -> list[Query]:
    return make_queries(load_vocabulary(vocabulary), load_templates(templates))


def prompts_of(name: str, vocabulary: str, templates: str) -> tuple[str, ...]:
    (found,) = [query.prompts for query in queries(vocabulary, templates) if query.name == name]
    return found


# Built-in vocabularies


@pytest.mark.parametrize(
    ("name", "classes", "asked", "background"),
    [
        ("coco-stuff", 171, 171, None),
        ("coco-object", 81, 113, 0),
        ("voc21", 21, 56, 0),
        ("voc20", 20, 30, None),
        ("context60", 60, 60, 0),
        ("context59", 59, 59, None),
        ("ade20k", 150, 150, None),
        ("cityscapes", 19, 19, None),
    ],
)
def test_built_in_vocabularies_have_the_published_size(
    name: str, classes: int, asked: int, background: int | None
) -> None:
    vocabulary = load_vocabulary(name)
    found = queries(name, "imagenet80")
    assert len(vocabulary.classes) == classes
    assert len(found) == asked
    assert vocabulary.background == background
    assert {query.class_index for query in found} == set(range(classes))
    assert all(len(query.prompts) == 80 for query in found)


def test_there_is_no_other_built_in_vocabulary() -> None:
    published = ["coco-stuff", "coco-object", "voc21", "voc20", "context60", "context59", "ade20k", "cityscapes"]
    assert vocabulary_names() == sorted([*published, "camvid", "coco-panoptic", "demo", "demo-pairs"])


@pytest.mark.parametrize("name", ["voc21", "coco-object"])
def test_the_background_has_26_queries_in_the_published_order(name: str) -> None:
    background = load_vocabulary(name).classes[0]
    assert background.name == "background"
    assert list(background.asked) == BACKGROUND_WORDS


def test_published_names_are_used_unchanged() -> None:
    asked = {query.name for query in queries("coco-stuff")}
    assert {"trafficlight", "wall-brick", "building-other", "desk-stuff"} <= asked
    assert prompts_of("wall-brick", "coco-stuff", "simple") == ("a photo of a wall-brick.",)


def test_context59_is_context60_without_background() -> None:
    assert load_vocabulary("context59").classes == load_vocabulary("context60").classes[1:]


def test_synonyms_are_queries_of_their_class() -> None:
    vocabulary = load_vocabulary("voc20")
    screens = [query.name for query in queries("voc20") if query.class_index == 19]
    assert vocabulary.classes[19].name == "television monitor"
    assert screens == ["television monitor", "tv monitor", "monitor", "television", "screen"]


@pytest.mark.parametrize("name", vocabulary_names())
def test_colours_and_ids_are_unique_within_a_vocabulary(name: str) -> None:
    vocabulary = load_vocabulary(name)
    ids = [entry.id for entry in vocabulary.classes]
    assert len(set(vocabulary.colours)) == len(vocabulary.classes)
    assert None not in ids
    assert len(set(ids)) == len(ids)


def test_background_is_black_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    assert load_vocabulary("voc21").colours[0] == (0, 0, 0)
    grey = write(tmp_path, '[background]\nname = "rest"\ncolour = [9, 9, 9]\n[[class]]\nname = "cat"\n')
    assert load_vocabulary(grey).colours[0] == (9, 9, 9)


def test_check_finds_the_query_that_two_classes_of_coco_object_share() -> None:
    found = check(load_vocabulary("coco-object"))
    assert "'bed' is asked for background and bed" in found[0]
    assert any("'mouse' has several meanings (computer, animal)" in line for line in found)
    assert check(load_vocabulary("voc21")) == []


def test_check_finds_similar_and_ambiguous_names(tmp_path: Path) -> None:
    words = '[[class]]\nname = "hot dog"\n[[class]]\nname = "hot-dogs"\n[[class]]\nname = "crane"\n'
    found = check(load_vocabulary(write(tmp_path, words)))
    assert any("'hot dog', 'hot-dogs' are nearly the same" in line for line in found)
    assert any("'crane' has several meanings" in line for line in found)
    clear = '[[class]]\nname = "crane"\nqueries = ["building crane"]\n[[class]]\nname = "bat"\nsynonyms = ["animal"]\n'
    assert check(load_vocabulary(write(tmp_path, clear))) == []


def test_contexts_and_descriptions_become_queries(tmp_path: Path) -> None:
    words = '[[class]]\nname = "mouse"\ncontexts = ["on a desk"]\n[[class]]\nname = "cat"\n'
    vocabulary = load_vocabulary(write(tmp_path, words))
    path = tmp_path / "said.toml"
    path.write_text('mouse = ["a small device with two buttons.", "a small device with two buttons."]\n')
    said = load_descriptions(path, vocabulary)
    queries = make_queries(vocabulary, load_templates("simple"), said)
    assert [(q.class_index, q.name) for q in queries] == [
        (0, "mouse"),
        (0, "mouse on a desk"),
        (0, "a small device with two buttons."),
        (1, "cat"),
    ]
    assert queries[1].prompts == ("a photo of a mouse on a desk.",)
    assert queries[2].prompts == ("a small device with two buttons.",)
    for text, words in (
        ('dog = ["x"]', "unknown class 'dog'"),
        ('cat = "x"', 'write "cat" = '),
        ("cat = [1]", 'write "cat"'),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=words):
            load_descriptions(path, vocabulary)


def test_check_finds_ids_that_repeat(tmp_path: Path) -> None:
    path = write(tmp_path, '[[class]]\nname = "a"\nid = 7\n[[class]]\nname = "b"\nid = 7\n')
    assert check(load_vocabulary(path)) == ["two classes have the same id"]


# Templates


def test_the_80_templates_are_openais_in_their_order() -> None:
    sentences = load_templates("imagenet80").by_kind["thing"]
    assert len(sentences) == 80
    assert hashlib.md5("|".join(sentences).encode()).hexdigest().startswith("fd4b4791")


@pytest.mark.parametrize("name", template_names())
def test_every_template_set_fills_every_name(name: str) -> None:
    for query in queries("coco-stuff", name):
        assert query.prompts
        assert not any("{" in prompt for prompt in query.prompts)


def test_prompts_that_repeat_are_listed_once() -> None:
    twice = [Query(0, "a", ("a cat.", "a dog.")), Query(1, "b", ("a dog.", "a cow."))]
    assert join_prompts(twice) == ["a cat.", "a dog.", "a cow."]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('templates = ["a photo."]', r"needs {} once"),
        ('templates = ["{} and {}"]', r"needs {} once"),
        ("templates = [1]", r"needs {} once"),
        ("templates = []", r"list of sentences for 'stuff'"),
        ("title = 'none'", r"list of sentences for 'stuff'"),
        ('[templates]\nstuff = ["{}"]\nthing = ["{}"]', r"list of sentences for 'material'"),
    ],
)
def test_templates_that_cannot_be_filled_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_templates(path)
    assert path in str(caught.value)


def test_an_unknown_template_set_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown template set 'imagenet8'; did you mean imagenet80"):
        load_templates("imagenet8")


# Adaptive reading


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("wall-brick", "a brick wall."),
        ("sky-other", "a photo of sky."),
        ("desk-stuff", "the desk."),
        ("window-blind", "the window blind."),
        ("trafficlight", "a photo of a traffic light."),
        ("apple", "a photo of an apple."),
        ("umbrella", "a photo of an umbrella."),
        ("cat", "a photo of a cat."),
        ("orange", "an orange in the scene."),
    ],
)
def test_adaptive_templates_read_names_as_a_person_says_them(name: str, prompt: str) -> None:
    assert prompt in prompts_of(name, "coco-stuff", "adaptive")


def test_adaptive_templates_follow_the_kind_and_the_phrase(tmp_path: Path) -> None:
    entry = '[[class]]\nname = "x-ray_film"\nphrase = "film"\nkind = "{}"\nsynonyms = ["hot_dog"]\n'
    stuff = write(tmp_path, entry.format("stuff"), "stuff.toml")
    material = write(tmp_path, entry.format("material"), "material.toml")
    assert "a region of film." in prompts_of("x-ray_film", stuff, "adaptive")
    assert "the surface of the film." in prompts_of("x-ray_film", material, "adaptive")
    assert "a region of hot dog." in prompts_of("hot_dog", stuff, "adaptive")  # the phrase is the name's alone


def test_other_templates_leave_names_and_articles_unchanged(tmp_path: Path) -> None:
    path = write(tmp_path, '[[class]]\nname = "apple-other"\nphrase = "apple"\n')
    assert prompts_of("apple-other", path, "simple") == ("a photo of a apple-other.",)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("wall-brick", "brick wall"),
        ("floor-marble", "marble floor"),
        ("sky-other", "sky"),
        ("table-merged", "table"),
        ("mirror-stuff", "mirror"),
        ("hot_dog", "hot dog"),
        ("t-shirt", "t-shirt"),
        ("cat", "cat"),
    ],
)
def test_compound_names_are_reordered(name: str, read: str) -> None:
    assert read_name(name) == read


# Vocabulary files of one's own


def test_names_that_look_like_other_types_stay_strings(tmp_path: Path) -> None:
    written = ["no", "on", "1e3", "null", "007", "true", "2024-01-01"]
    path = write(tmp_path, "".join(f'[[class]]\nname = "{name}"\n' for name in written))
    assert names(load_vocabulary(path)) == written
    assert [query.prompts for query in queries(path)] == [(f"a photo of a {name}.",) for name in written]
    lines = write(tmp_path, "\n".join(written), "mine.txt")
    assert names(load_vocabulary(lines)) == written


@pytest.mark.parametrize(
    ("value", "shown"), [("1e3", "1000.0"), ("7", "7"), ("true", "True"), ("2024-01-01", "2024-01-01")]
)
def test_a_name_without_quotes_is_refused(tmp_path: Path, value: str, shown: str) -> None:
    path = write(tmp_path, f'[[class]]\nname = "cat"\n[[class]]\nname = {value}\n')
    with pytest.raises(ConfigError, match=rf"class {shown}: name must be a string in quotes") as caught:
        load_vocabulary(path)
    assert path in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "cat,kitten\nhot dog,sausage in a bun",
        "cat, kitten\nhot dog, sausage in a bun",
        "cat; kitten\nhot dog; sausage in a bun",
        "cat, kitten \nhot dog, sausage in a bun \n",
        "cat,kitten\r\nhot dog,sausage in a bun\r\n",
        "\ncat,kitten,\n\nhot dog,sausage in a bun;\n\n",
    ],
)
def test_text_files_of_the_sclip_family_are_read(tmp_path: Path, content: str) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(content.encode())
    asked = [(query.class_index, query.name) for query in queries(str(path))]
    assert asked == [(0, "cat"), (0, "kitten"), (1, "hot dog"), (1, "sausage in a bun")]
    assert load_vocabulary(str(path)).background is None


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("background", ["background"]),
        (BACKGROUND_LINE, BACKGROUND_WORDS),
        ("; ".join(BACKGROUND_WORDS[:17]), BACKGROUND_WORDS[:17]),
    ],
)
def test_the_background_line_of_a_text_file_is_recognised(tmp_path: Path, line: str, asked: list[str]) -> None:
    vocabulary = load_vocabulary(write(tmp_path, f"{line}\ncat", "mine.txt"))
    assert vocabulary.background == 0
    assert names(vocabulary) == ["background", "cat"]
    assert list(vocabulary.classes[0].asked) == asked


def test_a_first_class_of_a_background_word_is_no_background(tmp_path: Path) -> None:
    vocabulary = load_vocabulary(write(tmp_path, "sky\ngrass, lawn\ncat", "mine.txt"))
    assert vocabulary.background is None
    assert names(vocabulary) == ["sky", "grass", "cat"]


def test_classes_can_be_given_as_a_list() -> None:
    vocabulary = load_vocabulary("classes:cat, hot dog , grass")
    assert names(vocabulary) == ["cat", "hot dog", "grass"]
    assert vocabulary.background is None


def test_lists_without_kinds_take_those_the_built_in_vocabularies_know(tmp_path: Path) -> None:
    kinds = [entry.kind for entry in load_vocabulary("classes:cat, grass, brick wall, wall-brick, gizmo").classes]
    assert kinds == ["thing", "stuff", "material", "material", "thing"]
    lines = load_vocabulary(write(tmp_path, "cat\ngrass\nbrick wall\n", "mine.txt"))
    assert [entry.kind for entry in lines.classes] == ["thing", "stuff", "material"]


def test_own_prompts_with_a_placeholder_are_used_for_every_name(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '[[class]]\nname = "cat"\nsynonyms = ["kitten"]\nprompts = ["my {}", "a pet"]\n[[class]]\nname = "dog"\n',
    )
    assert queries(path) == [
        Query(0, "cat", ("my cat", "a pet")),
        Query(0, "kitten", ("my kitten", "a pet")),
        Query(1, "dog", ("a photo of a dog.",)),
    ]


def test_own_prompts_without_a_placeholder_are_one_query(tmp_path: Path) -> None:
    path = write(tmp_path, '[[class]]\nname = "cat"\nsynonyms = ["kitten"]\nprompts = ["a pet", "an animal at home"]\n')
    assert queries(path) == [Query(0, "cat", ("a pet", "an animal at home"))]


def test_every_field_of_a_class_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'title = "Mine"\nsource = "here"\n[background]\nname = "rest"\nqueries = ["sky", "sea"]\n'
        '[[class]]\nname = "cat"\nkind = "thing"\nsynonyms = ["kitten"]\nphrase = "house cat"\nid = 12\n'
        'colour = [1, 2, 3]\nthreshold = 0.25\ngroup = "pet"\n',
    )
    vocabulary = load_vocabulary(path)
    rest, cat = vocabulary.classes
    assert (vocabulary.name, vocabulary.title, vocabulary.source) == ("mine", "Mine", "here")
    assert vocabulary.background == 0
    assert (rest.kind, rest.asked) == ("stuff", ("sky", "sea"))
    assert (cat.asked, cat.phrase, cat.id) == (("cat", "kitten"), "house cat", 12)
    assert (cat.colour, cat.threshold, cat.group) == ((1, 2, 3), 0.25, "pet")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ('synonym = ["kitten"]', r"class cat: unknown key 'synonym'; did you mean synonyms"),
        ('kind = "thin"', r"class cat: unknown kind 'thin'; did you mean thing"),
        ('synonyms = "kitten"', r"class cat: synonyms must be a list of strings"),
        ("synonyms = [1e3]", r"class cat: synonyms must be a list of strings"),
        ('queries = [""]', r"class cat: queries must be a list of strings"),
        ("prompts = [true]", r"class cat: prompts must be a list of strings"),
        ("colour = [1, 2]", r"class cat: colour must be \[red, green, blue\]"),
        ("colour = [1, 2, 256]", r"class cat: colour must be"),
        ("colour = [1, 2, 0.5]", r"class cat: colour must be"),
        ('colour = "red"', r"class cat: colour must be"),
        ("threshold = 1.5", r"class cat: threshold must be between 0 and 1"),
        ("threshold = nan", r"class cat: threshold must be between 0 and 1"),
        ('threshold = "high"', r"class cat: threshold must be between 0 and 1"),
    ],
)
def test_a_bad_field_is_refused_naming_file_and_class(tmp_path: Path, fields: str, message: str) -> None:
    path = write(tmp_path, f'[[class]]\nname = "dog"\n[[class]]\nname = "cat"\n{fields}\n')
    with pytest.raises(ConfigError, match=message) as caught:
        load_vocabulary(path)
    assert path in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mine.toml", '[[class]]\nname = "cat"\n[[class]]\nname = "cat"\n'),
        ("mine.toml", '[background]\nname = "cat"\n[[class]]\nname = "cat"\n'),
        ("mine.txt", "cat\ndog\ncat, kitten\n"),
    ],
)
def test_a_duplicate_class_is_refused(tmp_path: Path, name: str, content: str) -> None:
    path = write(tmp_path, content, name)
    with pytest.raises(ConfigError, match="class cat is there twice") as caught:
        load_vocabulary(path)
    assert path in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("coco-stuf", r"unknown vocabulary 'coco-stuf'; did you mean coco-stuff"),
        ("nowhere/mine.txt", r"no vocabulary file nowhere/mine.txt"),
        ("classes: , ", r"no class given"),
        ("classes:cat, dog, cat", r"class cat is there twice"),
    ],
)
def test_an_unknown_vocabulary_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_vocabulary(name)


@pytest.mark.parametrize(
    ("name", "content"), [("a.toml", b""), ("a.txt", b"\n \n"), ("b.txt", b"caf\xe9"), ("b.toml", b"[")]
)
def test_a_file_that_holds_no_vocabulary_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_vocabulary(str(path))
    assert str(path) in str(caught.value)


# What a run remembers


def test_content_survives_json() -> None:
    for name in vocabulary_names():
        content = load_vocabulary(name).content()
        assert json.loads(json.dumps(content)) == content


FULL = """
[background]
name = "rest"
queries = ["sky", "sea"]

[[class]]
name = "cat"
kind = "thing"
synonyms = ["kitten"]
phrase = "house cat"
id = 12
colour = [1, 2, 3]
threshold = 0.25
group = "pet"
prompts = ["my {}"]

[[class]]
name = "dog"
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"cat"', '"cats"'),
        ('"thing"', '"stuff"'),
        ('"kitten"', '"puss"'),
        ('"sea"', '"lake"'),
        ('"house cat"', '"pet cat"'),
        ("id = 12", "id = 13"),
        ("[1, 2, 3]", "[1, 2, 4]"),
        ("threshold = 0.25", "threshold = 0.0"),
        ('"pet"', '"animal"'),
        ('"my {}"', '"a {}"'),
        ("[background]", "[[class]]"),
        ("\nid = 12", ""),
    ],
)
def test_content_changes_with_every_field_that_matters(tmp_path: Path, old: str, new: str) -> None:
    assert FULL.count(old) == 1
    before = load_vocabulary(write(tmp_path, FULL)).content()
    after = load_vocabulary(write(tmp_path, FULL.replace(old, new))).content()
    assert after != before


@pytest.mark.parametrize("field", ["id = 0", "threshold = 0.0", "colour = [0, 0, 0]"])
def test_content_distinguishes_zero_from_missing(tmp_path: Path, field: str) -> None:
    nothing = load_vocabulary(write(tmp_path, '[[class]]\nname = "cat"\n')).content()
    nought = load_vocabulary(write(tmp_path, f'[[class]]\nname = "cat"\n{field}\n')).content()
    assert nought != nothing


def test_content_changes_with_the_order_of_classes() -> None:
    one, other = (load_vocabulary(f"classes:{text}").content() for text in ("cat, dog", "dog, cat"))
    assert one != other


def test_content_does_not_change_with_titles_and_paths(tmp_path: Path) -> None:
    one = load_vocabulary(write(tmp_path, FULL)).content()
    other = load_vocabulary(write(tmp_path, f'title = "mine"\nsource = "web"\n{FULL}', "other.toml")).content()
    assert one == other


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[class]\nname = "cat"\n', r"write each class as a table of its own under \[\[class\]\]"),
        ('class = ["cat", "dog"]\n', r"under \[\[class\]\]"),
        ('background = "sky"\n[[class]]\nname = "cat"\n', r"write the background as a table"),
        ('titel = "x"\n[[class]]\nname = "cat"\n', r"unknown key 'titel'; did you mean title"),
        ('[[class]]\nname = "cat"\nphrase = 5\n', r"class cat: phrase must be a string in quotes, not 5"),
        ('[[class]]\nname = "cat"\nid = -1\n', r"class cat: id must be 0 or more, not -1"),
        ('[[class]]\nname = "cat"\nid = "x"\n', r"class cat: id must be a whole number, not 'x'"),
        ('[[class]]\nname = "cat"\nthreshold = true\n', r"class cat: threshold must be between 0 and 1"),
        ('[[class]]\nname = "cat"\ncolour = [true, 1, 1]\n', r"class cat: colour must be"),
    ],
)
def test_common_mistakes_are_refused_in_one_line(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_vocabulary(str(tmp_path / "mine.toml"))
    assert "mine.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("cat\ndog\n", encoding="utf-8-sig")
    assert [entry.name for entry in load_vocabulary(str(tmp_path / "mine.txt")).classes] == ["cat", "dog"]


def test_background_given_first_in_a_list_is_the_background() -> None:
    assert load_vocabulary("classes:background, cat").background == 0
    assert load_vocabulary("classes:cat, background").background is None


@pytest.mark.parametrize("read", ["an onion", "an animal", "an automobile", "a unicycle", "a one-way sign", "a ewe"])
def test_adaptive_templates_take_the_article_that_is_spoken(read: str) -> None:
    assert f"a photo of {read}." in prompts_of(read.partition(" ")[2], f"classes:{read.partition(' ')[2]}", "adaptive")
