"""Lists of classes in YAML and JSON: a list of names, numbers and names, names and numbers, COCO's categories."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from ovlabel.errors import ConfigError, short, shown
from ovlabel.text._listed import ClassList, Listed, by_number, colour_of, name_of, number

Tree = Any  # text, list or dict of such; numbers as texts, so that a name such as 1e3 stays what it is
_HOLDERS = ("names", "id2label", "label2id", "categories", "classes", "labels", "class_names", "label_map")
_NAMES = ("name", "label", "class_name", "title")
_DEPTH = 16
_EXPECTED = 'a list of names, {"0": "person"}, or one of these under names, classes, categories, labels or id2label'


def from_json(path: Path, text: str) -> ClassList:
    """Read JSON: a list of names, id2label, label2id, COCO's categories; also below the keys that tools use.

    Args:
        path: the file, for messages.
        text: its content.

    Raises:
        ConfigError: it is no JSON, or holds no list of classes.
    """
    try:
        tree = json.loads(text, object_pairs_hook=_table, parse_int=str, parse_float=str)
    except RecursionError:
        raise ConfigError(f"{path} is not valid JSON: it is nested too deeply") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {short(error)}") from None
    return _classes(path, tree)


def from_yaml(path: Path, text: str) -> ClassList:
    """Read YAML, such as Ultralytics' `data.yaml`; the same forms as JSON's. All scalars are texts: no stays "no".

    Args:
        path: the file, for messages.
        text: its content.

    Raises:
        ConfigError: it is no YAML, has anchors, tags or several documents, or holds no list of classes.
    """
    import yaml

    loader = yaml.CLoader if yaml.__with_libyaml__ else yaml.Loader  # for its parser only: nothing is constructed
    try:
        tree = _tree(yaml.parse(text, Loader=loader))
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} is not valid YAML: {short(' '.join(str(error).split()))}") from None
    return _classes(path, tree)


def _table(pairs: list[tuple[str, Tree]]) -> dict[str, Tree]:
    table = dict(pairs)
    if len(table) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {shown(twice)} is there twice")
    return table


def _tree(events: Any) -> Tree:
    """The content of one YAML document, from the events of its parser."""
    import yaml

    root: list[Tree] = []
    open_nodes: list[tuple[bool, list[Tree]]] = [(False, root)]  # whether a mapping, and its keys and values in turn
    for event in events:
        if isinstance(event, yaml.AliasEvent) or (isinstance(event, yaml.NodeEvent) and event.anchor):
            raise ValueError("anchors and aliases (& and *) are not read; write it out")
        if isinstance(event, yaml.ScalarEvent):
            open_nodes[-1][1].append(_scalar(event))
        elif isinstance(event, yaml.CollectionStartEvent):
            _refuse_tag(event.tag)
            open_nodes.append((isinstance(event, yaml.MappingStartEvent), []))
            if len(open_nodes) > _DEPTH:
                raise ValueError("it is nested too deeply")
        elif isinstance(event, yaml.CollectionEndEvent):
            mapping, values = open_nodes.pop()
            open_nodes[-1][1].append(_table(_pairs(values)) if mapping else values)
    if len(root) > 1:
        raise ValueError("it holds several documents (---); one is read")
    return root[0] if root else None


def _pairs(values: list[Tree]) -> list[tuple[str, Tree]]:
    if not all(isinstance(key, str) for key in values[::2]):
        raise ValueError("a key of it is no text")
    return list(zip(values[::2], values[1::2]))


def _scalar(event: Any) -> str | None:
    _refuse_tag(event.tag)
    plain = event.implicit[0]
    return None if plain and event.value in ("", "~", "null", "Null", "NULL") else str(event.value)


def _refuse_tag(tag: str | None) -> None:
    if tag is not None and tag != "!":
        raise ValueError(f"the tag {tag} is not read; take it out")


def _classes(path: Path, tree: Tree) -> ClassList:
    remarks: tuple[str, ...] = ()
    if isinstance(tree, dict) and (
        key := next((key for key in _HOLDERS if isinstance(tree.get(key), list | dict)), "")
    ):
        count, tree = number(tree.get("nc")), tree[key]
        if count is not None and count != len(tree):
            remarks = (f"nc says {count}, but {key} holds {len(tree)}",)
    if isinstance(tree, list):
        return ClassList(_listed(path, tree), remarks)
    if isinstance(tree, dict) and tree and all(number(key) is not None for key in tree):
        return ClassList(by_number(path, [int(key) for key in tree], _listed(path, list(tree.values()))), remarks)
    if isinstance(tree, dict) and tree and all(number(value) is not None for value in tree.values()):
        return ClassList(by_number(path, [int(v) for v in tree.values()], _listed(path, list(tree))), remarks)
    raise ConfigError(f"{path} holds no list of classes: write {_EXPECTED}")


def _listed(path: Path, values: list[Tree]) -> tuple[Listed, ...]:
    """The classes of a list of names, or of tables with a name each."""
    return tuple(
        _category(path, value, place) if isinstance(value, dict) else Listed(name_of(path, value, place))
        for place, value in enumerate(values)
    )


def _category(path: Path, table: dict[str, Tree], place: int) -> Listed:
    """A class of COCO's categories, CVAT's labels or similar."""
    name = name_of(path, next((table[key] for key in _NAMES if key in table), None), place)
    thing, group = table.get("isthing"), table.get("supercategory")
    kind = "" if thing is None else "thing" if thing in ("1", True) else "stuff"
    colour = next((found for key in ("color", "colour") if (found := colour_of(table.get(key)))), None)
    return Listed(name, (), number(table.get("id")), colour, kind, group if isinstance(group, str) else "")
