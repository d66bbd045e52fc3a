"""Options that several commands share, each declared once, with the names that a shell completes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovlabel.errors import ConfigError

if TYPE_CHECKING:
    from ovlabel.settings.keys import Config


def complete_presets(incomplete: str) -> list[str]:
    """The presets that begin so."""
    from ovlabel.settings.reading import preset_names

    return [name for name in preset_names() if name.startswith(incomplete)]


def complete_vocabularies(incomplete: str) -> list[str]:
    """The built-in vocabularies that begin so."""
    from ovlabel.text.vocabulary import vocabulary_names

    return [name for name in vocabulary_names() if name.startswith(incomplete)]


def complete_templates(incomplete: str) -> list[str]:
    """The built-in template sets that begin so."""
    from ovlabel.text.templates import template_names

    return [name for name in template_names() if name.startswith(incomplete)]


def complete_formats(incomplete: str) -> list[str]:
    """The export formats that begin so."""
    from ovlabel.formats import format_names

    return [name for name in format_names() if name.startswith(incomplete)]


def complete_devices(incomplete: str) -> list[str]:
    """The kinds of device that begin so."""
    return [name for name in ("auto", "cpu", "cuda", "mps") if name.startswith(incomplete)]


def complete_conventions(incomplete: str) -> list[str]:
    """The ground-truth conventions that begin so."""
    from ovlabel.evaluation.truth.table import CONVENTIONS

    return [name for name in CONVENTIONS if name.startswith(incomplete)]


StorePath = Annotated[Path, typer.Argument(metavar="STORE", help="Store made by 'ovlabel annotate'.")]
ImageFolder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of images, with its subfolders.")]

Vocab = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Name (ovlabel vocab list) or file. [default: coco-stuff]",
        rich_help_panel="Labels",
        autocompletion=complete_vocabularies,
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(metavar="NAMES", help='A vocabulary on the spot: "cat, dog, grass".', rich_help_panel="Labels"),
]
Templates = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Name (ovlabel vocab list) or file of prompts.",
        rich_help_panel="Labels",
        autocompletion=complete_templates,
    ),
]
Preset = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Stages: name (ovlabel presets) or .toml file.",
        rich_help_panel="Labels",
        autocompletion=complete_presets,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="open_clip architecture, .json config, or demo (embedded).", rich_help_panel="Model"
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(metavar="SOURCE", help="Tag, hf-hub:…, file, or random:SEED.", rich_help_panel="Model"),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE",
        help="auto, cpu, cuda, cuda:1, mps.",
        rich_help_panel="Model",
        autocompletion=complete_devices,
    ),
]
Offline = Annotated[bool, typer.Option("--offline", help="Never open a connection.", rich_help_panel="Model")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other setting; may repeat.", rich_help_panel="Labels"),
]
AsJson = Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.")]
TruthPath = Annotated[Path, typer.Argument(metavar="GROUND_TRUTH", help="Folder of masks, or COCO's JSON.")]
ConventionName = Annotated[
    str,
    typer.Option(
        "--truth", metavar="NAME", help="How masks are written: coco-stuff, voc, …", autocompletion=complete_conventions
    ),
]
ClassMapFile = Annotated[
    Path | None, typer.Option("--map", metavar="FILE", help='TOML lines, predicted = true: "wall-brick" = "wall".')
]
MaskEnding = Annotated[
    str | None, typer.Option("--mask-ending", metavar="TEXT", help="End of the masks' names that images lack: _mask.")
]


def config_from(
    preset: str,
    settings: list[str] | None,
    *,
    vocab: str | None = None,
    classes: str | None = None,
    templates: str | None = None,
    model: str | None = None,
    weights: str | None = None,
    device: str | None = None,
) -> Config:
    """The settings of a preset with the options of a command.

    Args:
        preset: a name or a file.
        settings: `key=value` of every `--set`.
        vocab: a vocabulary.
        classes: a vocabulary on the spot; excludes `vocab`.
        templates: a template set.
        model: an architecture.
        weights: of the model.
        device: to compute on.

    Raises:
        ConfigError: an unknown name or value, or one that is given twice in two ways.
    """
    from ovlabel.settings.reading import load_config, setting

    if vocab is not None and classes is not None:
        raise ConfigError("--vocab and --classes exclude each other")
    options = {
        "text.vocabulary": vocab if classes is None else f"classes:{classes}",
        "text.templates": templates,
        "encoder.model": model,
        "encoder.weights": weights,
        "encoder.device": device,
    }
    overrides: dict[str, str] = dict(setting(text) for text in settings or [])
    for key, value in options.items():
        if value is not None and overrides.setdefault(key, value) != value:
            raise ConfigError(f"{key} is given twice, as {overrides[key]} and as {value}")
    return load_config(preset, overrides)
