"""The commands: which file holds each, when it is loaded, and help with options in panels.

A help screen and a completion load nothing that computes. The file of a command is imported when the command is run, or
when its help is shown, and it imports what it needs inside its functions.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from ovlabel.errors import printable

COMMANDS = {  # in the order of the overview; the line that it shows of each
    "demo": "Draw scenes, annotate and score them: everything works.",
    "preview": "A few images under several presets, before a long run.",
    "annotate": "Annotate every image of a folder that is not annotated yet.",
    "score": "Score a store against ground truth.",
    "export": "Write labels in a format that other tools read.",
    "status": "What a store holds, what is pending, what failed and why.",
    "show": "Draw one photograph with its labels.",
    "report": "Pages that show what to look at first.",
    "review": "Take decisions about labels in, and count them.",
    "verify": "Compare a store with its checksums; --repair it.",
    "compact": "Gather many small commits of a store into few.",
    "bench": "How fast a folder would be annotated on this machine.",
    "ablate": "Measure what every stage adds.",
    "doctor": "What there is on this machine, and what is wrong with it.",
    "stages": "The techniques, with their keys; loftup: test a checkpoint.",
    "presets": "The presets; one in full, as it resolves.",
    "vocab": "Vocabularies: list, show, check, describe.",
}
SETTINGS: dict[str, Any] = {  # of every typer.Typer
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
    "add_completion": False,
    "context_settings": {"help_option_names": ["-h", "--help"], "max_content_width": 100},
}
_NOT_PLAIN = object()  # what _converted returns for a value that it leaves to typer
_PANELS = ("Arguments", "Images", "Labels", "Model", "Cron", "Cluster", "Options")


class Command(TyperCommand):
    """A command whose help shows its options in panels."""

    def get_params(self, ctx: Any) -> Any:
        """The arguments and options, those for help among them."""
        return _with_plain_flags(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read what was typed.

        typer converts every value with pydantic, whose import takes longer than a run that has nothing to do. What
        needs no such help is converted here; anything else, and every mistake, is left to typer. A completion needs to
        know which options were typed, not their values.
        """
        typed, rest, _ = self.make_parser(ctx).parse_args(args=args)
        kinds = get_type_hints(inspect.unwrap(self.callback), include_extras=True) if self.callback else {}
        for parameter in sorted(self.get_params(ctx), key=lambda parameter: not parameter.is_eager):
            value, source = parameter.consume_value(ctx, typed)
            if not ctx.resilient_parsing:
                value = _converted(value, kinds.get(parameter.name))
                if value is _NOT_PLAIN or (value is None and parameter.required):
                    parameter.handle_parse_result(ctx, typed, rest)
                    continue
            ctx.params[parameter.name] = value
            ctx.set_parameter_source(parameter.name, source)
        if rest and not ctx.resilient_parsing:
            ctx.fail(f"Got unexpected extra argument(s) ({printable(' '.join(rest))})")
        ctx.args = rest
        return rest

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """What the line `Usage:` names: arguments as they are written in the help, without braces."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then a section for each panel."""
        panels: dict[str, list[tuple[str, str]]] = {title: [] for title in _PANELS}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                option = isinstance(parameter, TyperOption)
                panels[(parameter.rich_help_panel or "Options") if option else "Arguments"].append(record)
        for title, records in panels.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class Group(TyperGroup):
    """A command with subcommands."""

    def get_params(self, ctx: Any) -> Any:
        """The options, those for help and completion among them."""
        return _with_plain_flags(super().get_params(ctx))


class LazyGroup(Group):
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
        own = typer.Typer(cls=Group, **SETTINGS)
        import_module(f"ovlabel.cli.{cmd_name}").register(own)
        command = typer.main.get_command(own)
        command.name, command.short_help = cmd_name, COMMANDS[cmd_name]
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the overview without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _converted(value: Any, declared: Any) -> Any:
    """A typed value as `declared` says, a hint like Annotated[int | None, typer.Option(min=1)]; or _NOT_PLAIN."""
    kind, options = get_args(declared) if declared else (None, None)
    if get_origin(kind) is UnionType:
        kind = next(part for part in get_args(kind) if part is not NoneType)
    if get_origin(kind) is list:
        return tuple(value or ()) if get_args(kind) == (str,) else _NOT_PLAIN
    if kind is None or value is None or type(value) is kind:
        return _NOT_PLAIN if kind is None else value
    if kind is Path:
        return Path(value)
    if kind is int and value.isdecimal() and len(value) < 10:
        number = int(value)
        return (
            number if (options.min or 0) <= number <= (number if options.max is None else options.max) else _NOT_PLAIN
        )
    return _NOT_PLAIN


def _with_plain_flags(parameters: Any) -> Any:
    """The parameters, with flags that are False where not given; typer converts None with pydantic, which is slow."""
    for parameter in parameters:
        if isinstance(parameter, TyperOption) and parameter.is_bool_flag and parameter.default is None:
            parameter.default = False
    return parameters
