"""Declared fields: what a setting holds, between which bounds, and what it means, in one place.

A field of a section of the settings or of a stage is declared as

    sigma: Annotated[float, Gt(0), Le(10_000), Doc("width of the Gaussian, in patches")] = 5.0

`declared` reads the declarations of a class; `read_field` turns a value from a file or from `--set` into one of the
declared type; `check` holds an instance against its bounds. Help, tables and error messages come from the same words.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from annotated_doc import Doc
from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen

from ovlabel.errors import ConfigError, ordinary, short, shown, unknown

LIST = 64  # values in a list, at the most
_TEXT = 4096  # letters of a text, at the most
_ODD_LINE, _ODD_LINES = re.compile(r"[\x00-\x1f\x7f]"), re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_NAMES = {bool: "a bool", int: "an integer", float: "a number", str: "a string"}


class Raw(str):
    """A value as typed behind `--set key=`; the declared type decides how it is read."""


@dataclass(frozen=True)
class Form:
    """What a text must look like.

    Attributes:
        pattern: a regular expression that the whole text matches.
        words: the same in words.
    """

    pattern: str
    words: str


@dataclass(frozen=True)
class Long:
    """A text that may have so many letters, on several lines."""

    letters: int


@dataclass(frozen=True)
class Field:
    """A declared field.

    Attributes:
        name: of the field.
        kind: bool, int, float or str; of a list, that of its values.
        many: whether it is a list.
        choices: the values that it may have; () for any.
        default: its value where none is given.
        doc: what it means, a sentence.
        bounds: of its value; of a list, of each of its values.
        lengths: of a list.
    """

    name: str
    kind: type
    many: bool
    choices: tuple[str, ...]
    default: Any
    doc: str
    bounds: tuple[Any, ...]
    lengths: tuple[Any, ...]

    @property
    def takes(self) -> str:
        """What the field takes, in words: "a number, positive and at most 10000"."""
        if self.choices:
            what = " or ".join(self.choices) if len(self.choices) < 3 else ", ".join(self.choices)
            return f"a list of {what}" if self.many else what
        kind = {int: "integers", float: "numbers", str: "strings"}.get(self.kind, "") if self.many else ""
        words = [f"a list of {kind}" if self.many else _NAMES[self.kind], _in_words(self.bounds)]
        return ", ".join(word for word in (*words, _in_words(self.lengths, self.kind)) if word)


def declared(cls: type[Any]) -> Mapping[str, Field]:
    """The declared fields of a dataclass, by name, in order.

    Example:
        >>> from ovlabel.settings.keys import TilingConfig
        >>> declared(TilingConfig)["short_side"].takes
        'an integer, at least 1 and at most 16384'
    """
    if cls not in _declarations:
        hints = get_type_hints(cls, include_extras=True)
        found = {field.name: _declared(field.name, hints[field.name], field.default) for field in fields(cls)}
        _declarations[cls] = MappingProxyType(found)
    return _declarations[cls]


_declarations: dict[type[Any], Mapping[str, Field]] = {}


def _declared(name: str, hint: Any, default: Any) -> Field:
    hint, said = _bare(hint)
    many = get_origin(hint) is tuple
    inner, bounds = _bare(get_args(hint)[0]) if many else (hint, said)
    choices = get_args(inner) if get_origin(inner) is Literal else ()
    doc = " ".join(part.documentation for part in said if isinstance(part, Doc))
    bounds = tuple(part for part in bounds if not isinstance(part, Doc))
    lengths = tuple(part for part in said if not isinstance(part, Doc)) if many else ()
    return Field(name, str if choices else inner, many, choices, default, doc, bounds, lengths)


def _bare(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type without what is annotated, and what is."""
    return (get_args(hint)[0], get_args(hint)[1:]) if get_origin(hint) is Annotated else (hint, ())


def read_field(key: str, field: Field, value: Any, *, strict: bool = False) -> Any:
    """A value in the declared type.

    Args:
        key: of the setting, for messages: "tiling.window".
        field: the declaration.
        value: from a TOML or JSON file, from Python, or a `Raw` from `--set`.
        strict: a list must be written as one; otherwise a single value is a list of one.

    Raises:
        ConfigError: a value of another type; says what the key takes.
    """
    if not field.many:
        return _read_one(key, field, value, strict=strict)
    value = loose(value)
    if not isinstance(value, list | tuple):
        if strict:
            raise ConfigError(f"{key} takes a list of whole numbers such as [8, 16], not {shown(value)}")
        value = [value]
    if len(value) > LIST:
        raise ConfigError(f"{key} has {len(value)} values; the most is {LIST}")
    if strict and not all(type(part) is field.kind for part in value):
        raise ConfigError(f"{key} takes a list of whole numbers such as [8, 16], not {shown(list(value))}")
    return tuple(_read_one(key, field, part) for part in value)


def _read_one(key: str, field: Field, value: Any, *, strict: bool = False) -> Any:
    if field.choices and not strict:
        if str(value) not in field.choices:
            raise ConfigError(f"{key} = {short(value)}: {unknown('value', short(value), field.choices)}")
        return str(value)
    if field.kind is not str:
        value = loose(value)
    fits = type(value) is field.kind or (field.kind is float and type(value) is int)
    if field.kind is str:
        fits = isinstance(value, str)
    if not fits or (isinstance(value, int) and not ordinary(value)):
        wanted = f"a {field.kind.__name__} such as {field.default!r}" if strict else _NAMES[field.kind]
        raise ConfigError(f"{key} takes {wanted}, not {shown(value)}")
    if isinstance(value, str):
        check_text(key, value, next((part.letters for part in field.bounds if isinstance(part, Long)), 0))
    return field.kind(value)


def loose(value: Any) -> Any:
    """A `Raw` value as the TOML it reads as, else as the string; lists become tuples, tables stay as they are."""
    if isinstance(value, Raw):
        try:
            value = tomllib.loads(f"v = {value}")["v"]
        except (ValueError, RecursionError):
            return str(value)
    if isinstance(value, list) and not any(isinstance(part, Mapping) for part in value):
        return tuple(loose(part) for part in value)
    return value


def check_text(key: str, value: str, letters: int = 0) -> None:
    """Raise ConfigError for a text that is too long, or holds control characters.

    Args:
        key: of the setting, for messages.
        value: the text.
        letters: how many it may have, on several lines; 0 for 4,096 on one line.
    """
    most, odd = (letters, _ODD_LINES) if letters else (_TEXT, _ODD_LINE)
    if len(value) > most:
        raise ConfigError(f"{short(key)} has {len(value)} letters; the most is {most}")
    if odd.search(value):
        raise ConfigError(f"{short(key)} = {shown(value)} holds a control character")


def check(instance: Any, prefix: str) -> None:
    """Hold the values of an instance against their declarations.

    Args:
        instance: of a class with declared fields.
        prefix: in front of the fields' names in messages: "tiling", "neighbours".

    Raises:
        ConfigError: a value out of bounds; names the key, the value and what it must be.
    """
    for name, field in declared(instance.__class__).items():
        value = getattr(instance, name)
        values = value if field.many else (value,)
        for part in values:
            if field.choices and part not in field.choices:
                raise ConfigError(unknown(f"{prefix}.{name}", short(part), field.choices))
        if not all(_within(part, bound) for part in values for bound in field.bounds):
            raise ConfigError(f"{prefix}.{name} = {short(value)}: it must be {_in_words(field.bounds)}")
        if not all(_within(value, bound) for bound in field.lengths):
            raise ConfigError(f"{prefix}.{name} = {short(value)}: it must be {_in_words(field.lengths, field.kind)}")


def _within(value: Any, bound: Any) -> bool:
    match bound:
        case Gt(gt=least):
            return bool(value > least)
        case Ge(ge=least):
            return bool(value >= least)
        case Lt(lt=most):
            return bool(value < most)
        case Le(le=most):
            return bool(value <= most)
        case MinLen(min_length=least):
            return len(value) >= least
        case MaxLen(max_length=most):
            return len(value) <= most
        case Form(pattern=pattern):
            return re.fullmatch(pattern, value) is not None
    return True


def _in_words(bounds: tuple[Any, ...], kind: type = str) -> str:
    """The bounds of a value, or of the length of a list of this kind, in words."""
    low = next((b for b in bounds if isinstance(b, Gt | Ge)), None)
    high = next((b for b in bounds if isinstance(b, Lt | Le)), None)
    if isinstance(low, Ge) and isinstance(high, Le):
        if low.ge in (0, -1) and high.le in (1, 2):
            return f"between {low.ge:g} and {high.le:g}"
        if isinstance(low.ge, float) and low.ge > 0:
            return f"positive and finite, between {low.ge:g} and {high.le:g}"
    words = []
    match low:
        case Gt(gt=0):
            words.append("positive")
        case Gt(gt=least):
            words.append(f"above {least}")
        case Ge(ge=least):
            words.append(f"at least {least}")
    match high:
        case Lt(lt=most):
            words.append(f"below {most}")
        case Le(le=most):
            words.append(f"at most {most}")
    noun = "value" if kind is str else "number"
    for bound in bounds:
        match bound:
            case MinLen(min_length=least):
                words.append(f"{'one' if least == 1 else least} {noun} or more")
            case MaxLen(max_length=most):
                words.append(f"{most} {noun}s at the most")
            case Form(words=form):
                words.append(form)
    return " and ".join(words)
