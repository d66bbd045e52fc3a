"""From a preset, its protocol and overrides to a `Config`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovlabel.errors import ConfigError, unknown
from ovlabel.fields import Raw
from ovlabel.files import read_toml
from ovlabel.settings.keys import Config, TextConfig, assemble, flatten

PRESETS = Path(__file__).parent / "presets"


def preset_names() -> list[str]:
    """Names of the built-in presets."""
    return sorted(p.stem for p in PRESETS.glob("*.toml"))


def read_preset(name_or_path: str) -> dict[str, Any]:
    """A preset file's content: a built-in name, or a path to a `.toml` file."""
    path = PRESETS / f"{name_or_path}.toml"
    if name_or_path in preset_names():
        return read_toml(path)
    given = Path(name_or_path)
    if given.suffix == ".toml" or given.parent != Path("."):
        return read_toml(given)
    raise ConfigError(unknown("preset", name_or_path, preset_names()))


def load_config(name_or_path: str, overrides: Mapping[str, Any] = {}) -> Config:
    """The settings of a preset, with changes.

    Args:
        name_or_path: a built-in preset ("sclip"), or a TOML file of the same form.
        overrides: dotted keys ({"tiling.window": 0}, {"neighbours.sigma": 2.5}) or nested tables.

    Raises:
        ConfigError: an unknown preset, key, stage or value; the message lists the nearest names.

    Example:
        >>> import ovlabel
        >>> ovlabel.load_config("naclip", {"neighbours.sigma": 2.5}).stages[1].fields
        (('sigma', 2.5),)
    """
    preset = dict(read_preset(name_or_path))
    preset.pop("title", None)
    protocols = preset.pop("protocol", {})
    written = dict(flatten(overrides))
    vocabulary = written.get("text.vocabulary", dict(flatten(preset)).get("text.vocabulary"))
    protocol = protocols.get(str(vocabulary or TextConfig.vocabulary), {}) if isinstance(protocols, Mapping) else None
    if not isinstance(protocol, Mapping):
        raise ConfigError(f"preset {name_or_path}: [protocol.{vocabulary}] must be a table of keys")
    try:
        assemble([preset, protocol])
    except ConfigError as error:
        raise ConfigError(f"preset {name_or_path}: {error}") from None
    return assemble([preset, protocol, overrides])


def setting(text: str) -> tuple[str, Raw]:
    """One `--set key=value`."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text}: write it as key=value, for example tiling.short_side=448")
    return key.strip(), Raw(value.strip())
