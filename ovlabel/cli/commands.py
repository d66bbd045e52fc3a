"""The commands: which file holds each, loaded when it is asked for, and help with options in panels."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

COMMANDS = {  # in the order of the overview; the line that it shows of each
    "demo": "Draw scenes, annotate and score them: everything works.",
    "annotate": "Annotate every image of a folder that is not annotated yet.",
    "score": "Score a store against ground truth.",
    "export": "Write labels in a format that other tools read.",
    "status": "What a store holds, what is pending, what failed and why.",
    "show": "Draw one photograph with its labels.",
    "verify": "Compare a store with its checksums; --repair it.",
    "bench": "How fast a folder would be annotated on this machine.",
    "ablate": "Measure what every stage adds.",
    "doctor": "What there is on this machine, and what is wrong with it.",
    "stages": "The techniques, with their keys; loftup: test a checkpoint.",
    "presets": "The presets; one in full, as it resolves.",
    "vocab": "Vocabularies: list, show, check, describe.",
}
SETTINGS: dict[str, Any] = {
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
    "add_completion": False,
    "context_settings": {"help_option_names": ["-h", "--help"], "max_content_width": 100},
}


_PANELS = ("Images", "Labels", "Model", "Cron", "Cluster", "Options")


class Command(TyperCommand):
    """A command whose help shows its options in panels."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then a section for each panel."""
        panels: dict[str, list[tuple[str, str]]] = {title: [] for title in ("Arguments", *_PANELS)}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            title = parameter.rich_help_panel or "Options" if isinstance(parameter, TyperOption) else "Arguments"
            panels[title].append(record)
        for title, records in panels.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class LazyGroup(TyperGroup):
    """The top of the command line; a command's file is imported when the command is run, or its help is shown."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands: Any = dict.fromkeys(COMMANDS)  # the names alone: what a mistyped command is compared with

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, in the order of the overview."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name, or None."""
        if cmd_name not in COMMANDS:
            return None
        own = typer.Typer(**SETTINGS)
        import_module(f"ovlabel.cli.{cmd_name}").register(own)
        command = typer.main.get_command(own)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the overview without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
