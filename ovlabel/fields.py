"""How a setting is declared, and the one reader that checks values against the declarations.

A setting is a field of a frozen dataclass. Its type, its bounds and a sentence about it stand in one place::

    sigma: Annotated[float, Gt(0), Le(10_000), Doc("Width of the Gaussian, in patches.")] = 5.0

Bounds are those of the library `annotated_types` (`Gt`, `Ge`, `Lt`, `Le`, `Len`); choices are a `Literal`. The sections
of a config (`ovlabel.settings.keys`) and the stages (`ovlabel.stages`) are declared in this way. Error messages, the
command `ovlabel stages` and the tables of the manual are made from the declarations. Standard library only, apart from
`annotated_types`: a rerun that has nothing to do never imports torch.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Len, Lt

from ovlabel.errors import ConfigError, ordinary, short, shown, unknown

LIST = 64  # the most values in a list
_LETTERS = 4096  # the most letters in a string
_ODD_LINE, _ODD_LINES = re.compile(r"[\x00-\x1f\x7f]"), re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

_Bound = Gt | Ge | Lt | Le
_T = TypeVar("_T", bound="Declared")
_SECTION_TAKES = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
_TABLE_TAKES = {int: "integer", float: "number", str: "string", bool: "true or false"}


class Raw(str):
    """A value as typed after `--set key=`. The type of the key decides how it is read."""


@dataclass(frozen=True)
class Doc:
    """The sentence about a field, as `ovlabel stages` and the manual print it."""

    text: str


@dataclass(frozen=True)
class Lines:
    """Marks a string that may be written on several lines, and is up to `letters` long."""

    letters: int


@dataclass(frozen=True)
class Kind:
    """What one value is: its type, the choices of a `Literal`, and its bounds."""

    type: type
    choices: tuple[str, ...] = ()
    bounds: tuple[_Bound, ...] = ()
    lines: Lines | None = None

    def within(self, value: Any) -> bool:
        """Whether a value has the type, is one of the choices and lies within the bounds. NaN never does."""
        if self.choices:
            return value in self.choices
        return _fits(self.type, value) and all(_keeps(bound, value) for bound in self.bounds)

    def span(self) -> str:
        """The bounds in short, for tables: "0 to 1" or "above 0, at most 64"; "" without bounds."""
        match self.bounds:
            case (Ge(ge=least), Le(le=most)):
                return f"{least} to {most}"
            case bounds:
                return ", ".join(_worded(bound) for bound in bounds)

    def range(self) -> str:
        """The bounds in words, for messages: "between 0 and 1", "positive and finite, at most 64"; "" if none."""
        if self.type is not float:
            return " and ".join(map(_worded, self.bounds))
        match self.bounds:
            case (Ge(ge=least), Le(le=most)):
                text = f"between {least} and {most}"
            case (Gt(gt=0), upper):
                text = _worded(upper)
            case bounds:
                text = " and ".join(map(_worded, bounds))
        return f"positive and finite, {text}" if _above_zero(self.bounds) else text


@dataclass(frozen=True)
class Field:
    """One declared field: its name, what it takes, its default, and the sentence about it.

    Attributes:
        name: as in the class and in config files.
        kind: what a value is; of a list, what each of its values is.
        default: the value where none is given.
        doc: the sentence about the field, "" without one.
        length: the least and the greatest number of values where the field is a list, else None.
    """

    name: str
    kind: Kind
    default: Any
    doc: str
    length: tuple[int, int] | None = None

    @property
    def takes(self) -> str:
        """What the field takes, for tables: "integer, 1 to 1000", "number, above 0, at most 64", or the choices."""
        one = ", ".join(f"`{choice}`" for choice in self.kind.choices) or _TABLE_TAKES[self.kind.type]
        text = ", ".join(filter(None, (one, self.kind.span())))
        if self.length is None:
            return text
        return f"list of {self.length[0]} to {self.length[1]}: {text}"

    def needs(self) -> str:
        """What a value must be, for messages, after "it must be"."""
        if self.length is None:
            return self.kind.range()
        one = "number" if self.kind.type in (int, float) else "value"
        least, most = self.length
        text = f"one {one} or more" if least == 1 else f"{least} or more {one}s"
        return ", each ".join(filter(None, (f"{text}, at most {most}", self.kind.range())))


@dataclass(frozen=True)
class Declared:
    """Base of the classes whose fields are declared: a section of the config, or a stage.

    A value outside of its bounds is refused wherever the object is made, with a `ConfigError` that names the key.
    """

    @classmethod
    def prefix(cls) -> str:
        """The part of the keys before the dot, as "tiling" in "tiling.window"."""
        return cls.__name__.removesuffix("Config").lower()

    def __post_init__(self) -> None:
        for field in declared(type(self)):
            _check(f"{self.prefix()}.{field.name}", field, self.__dict__[field.name])
        self.check()

    def check(self) -> None:
        """Refuse values that have no meaning together. Raises ConfigError. The base accepts everything."""


def declared(cls: type[Declared]) -> tuple[Field, ...]:
    """The declared fields of a class, in order."""
    key: Any = cls  # mypy takes a class with its own __hash__ for one that can't be hashed
    return _declared(key)


@cache
def _declared(cls: Any) -> tuple[Field, ...]:
    """The same, read off the type hints once for each class."""
    hints = get_type_hints(cls, include_extras=True)
    return tuple(_field(field.name, hints[field.name], field.default) for field in dataclasses.fields(cls))


def read(cls: type[_T], values: Mapping[str, Any], *, strict: bool = False) -> _T:
    """An instance of a declared class from values as they come from TOML, JSON, Python or `--set`.

    Args:
        cls: the class.
        values: by field name; a missing field keeps its default.
        strict: as stages are read: a list must be written as one, and messages show the default as an example.
            Otherwise one value stands for a list of one.

    Raises:
        ConfigError: an unknown name, a value of another type, or one out of bounds; one line that names the key.
    """
    fields = {field.name: field for field in declared(cls)}
    read_values = {}
    for name, value in values.items():
        if name not in fields:
            raise ConfigError(unknown(f"key of stage '{cls.prefix()}'", short(name), fields))
        read_values[name] = _typed(f"{cls.prefix()}.{name}", fields[name], value, strict)
    return cls(**read_values)


def check_string(key: str, value: str, lines: Lines | None = None) -> None:
    """Refuse a string that is too long or holds a control character. Raises ConfigError.

    Args:
        key: as the message names it.
        value: the string.
        lines: given where the string may be long and on several lines; else it is one line of 4096 letters at most.
    """
    most, odd = (lines.letters, _ODD_LINES) if lines else (_LETTERS, _ODD_LINE)
    if len(value) > most:
        raise ConfigError(f"{short(key)} has {len(value)} letters; the most is {most}")
    if odd.search(value):
        raise ConfigError(f"{short(key)} = {shown(value)} holds a control character")


def loose(value: Any) -> Any:
    """A value as typed, read as TOML where it is TOML and as a string where it is not; lists become tuples.

    A list that holds tables stays a list.
    """
    if isinstance(value, Raw):
        try:
            value = tomllib.loads(f"v = {value}")["v"]
        except (ValueError, RecursionError):
            return str(value)
    if isinstance(value, list) and not any(isinstance(part, Mapping) for part in value):
        return tuple(loose(part) for part in value)
    return value


# ------------------------------------------------------------------ from a type hint to a field


def _field(name: str, hint: Any, default: Any) -> Field:
    """The field of one type hint."""
    hint, marks = _unwrapped(hint)
    doc = next((mark.text for mark in marks if isinstance(mark, Doc)), "")
    if get_origin(hint) is not tuple:
        return Field(name, _kind(hint, marks), default, doc)
    span = next((mark for mark in marks if isinstance(mark, Len)), Len(0))
    inner, inner_marks = _unwrapped(get_args(hint)[0])
    return Field(name, _kind(inner, inner_marks), default, doc, (span.min_length, span.max_length or LIST))


def _unwrapped(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A hint without `Annotated`, and what was in it."""
    return (hint.__origin__, hint.__metadata__) if get_origin(hint) is Annotated else (hint, ())


def _kind(hint: Any, marks: tuple[Any, ...]) -> Kind:
    """What a value of a plain hint is."""
    if get_origin(hint) is Literal:
        return Kind(str, get_args(hint))
    lines = next((mark for mark in marks if isinstance(mark, Lines)), None)
    return Kind(hint, (), tuple(mark for mark in marks if isinstance(mark, Gt | Ge | Lt | Le)), lines)


# ------------------------------------------------------------------ from a raw value to one of the field's type


def _typed(key: str, field: Field, value: Any, strict: bool) -> Any:
    """The value in the field's type, or a ConfigError that says what the key takes."""
    if field.length is None:
        return _one(key, field, value, strict)
    value = loose(value)
    if strict and not (isinstance(value, list | tuple) and all(type(part) is field.kind.type for part in value)):
        what = "whole numbers such as [8, 16]" if field.kind.type is int else "values"
        raise ConfigError(f"{key} takes a list of {what}, not {shown(value)}")
    parts = value if isinstance(value, list | tuple) else [value]
    if len(parts) > LIST:
        raise ConfigError(f"{key} has {len(parts)} values; the most is {LIST}")
    return tuple(_one(key, field, part, strict) for part in parts)


def _one(key: str, field: Field, value: Any, strict: bool) -> Any:
    """One value in the kind's type."""
    kind = field.kind
    if kind.choices:
        if not isinstance(value, str) or str(value) not in kind.choices:
            raise ConfigError(f"{key} = {short(value)}: {unknown('value', short(value), kind.choices)}")
        return str(value)
    if kind.type is not str:
        value = loose(value)
    if not _fits(kind.type, value):
        raise ConfigError(f"{key} takes {_expected(field, strict)}, not {shown(value)}")
    if kind.type is str:
        check_string(key, value, kind.lines)
    return kind.type(value)


def _fits(kind: type, value: Any) -> bool:
    """Whether a value is of a type; a whole number is a number, true and false are neither."""
    if kind in (bool, str):
        return isinstance(value, kind)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return ordinary(value) if isinstance(value, int) else kind is float


def _expected(field: Field, strict: bool) -> str:
    """What a field takes, for a value of another type."""
    if not strict or field.length is not None:
        return _SECTION_TAKES[field.kind.type]
    article = "an" if field.kind.type is int else "a"
    return f"{article} {field.kind.type.__name__} such as {field.default!r}"


# ------------------------------------------------------------------ bounds


def _check(key: str, field: Field, value: Any) -> None:
    """Raise ConfigError where a value is not one of the choices or out of bounds."""
    parts = value if field.length else (value,)
    if not isinstance(parts, list | tuple):
        raise ConfigError(f"{key} = {short(value)}: it must be a list")
    long_enough = not field.length or field.length[0] <= len(parts) <= field.length[1]
    bad = next((part for part in parts if not field.kind.within(part)), None)
    if bad is None and long_enough:
        return
    if bad is not None and field.kind.choices:
        raise ConfigError(unknown(key, short(bad), field.kind.choices))
    raise ConfigError(f"{key} = {short(value)}: it must be {field.needs()}")


def _keeps(bound: _Bound, value: Any) -> bool:
    """Whether a value lies within one bound."""
    match bound:
        case Gt(gt=limit):
            return bool(value > limit)
        case Ge(ge=limit):
            return bool(value >= limit)
        case Lt(lt=limit):
            return bool(value < limit)
        case Le(le=limit):
            return bool(value <= limit)


def _worded(bound: _Bound) -> str:
    """One bound in words."""
    match bound:
        case Gt(gt=limit):
            return f"above {limit}"
        case Ge(ge=limit):
            return f"at least {limit}"
        case Lt(lt=limit):
            return f"below {limit}"
        case Le(le=limit):
            return f"at most {limit}"


def _above_zero(bounds: tuple[_Bound, ...]) -> bool:
    """Whether the bounds leave positive numbers only."""
    return any((isinstance(b, Gt) and b.gt == 0) or (isinstance(b, Ge) and b.ge > 0) for b in bounds)  # type: ignore[operator]
