"""The command line: one file a command group. Results go to stdout, progress and errors to stderr."""

from __future__ import annotations

import io
import logging
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ovlabel import __version__
from ovlabel.cli import ablate, annotate, demo, export, inspect, lists, loftup, score
from ovlabel.cli.codes import BUSY, DEFECT, INTERRUPTED, OK, STORE, TERMINATED, USAGE, WEIGHTS
from ovlabel.errors import BusyError, OvlabelError, StoreError, WeightsError

app = typer.Typer(
    help="Annotate folders of images with open-vocabulary semantic segmentation, without training.",
    epilog="Start with: ovlabel demo; then: ovlabel annotate ./images --vocab coco-stuff",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
demo.register(app)
annotate.register(app)
score.register(app)
ablate.register(app)
export.register(app)
loftup.register(app)
inspect.register(app)
lists.register(app)


class _Interrupted(BaseException):
    """Ctrl-C or a polite end (SIGTERM); not KeyboardInterrupt, which typer would turn into its own exit code."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Every refusal is one line on stderr."""
    warnings.filterwarnings("ignore", module="(torch|timm|open_clip|huggingface_hub)")
    _speak_plainly()
    main_thread = threading.current_thread() is threading.main_thread()
    signals = (signal.SIGINT, signal.SIGTERM) if main_thread else ()
    before = {number: signal.signal(number, _interrupt) for number in signals}
    try:
        app(args=arguments, prog_name="ovlabel")
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else OK
    except (_Interrupted, KeyboardInterrupt) as error:
        print("ovlabel: stopped; what was finished is committed, run the same command to go on", file=sys.stderr)
        return TERMINATED if signal.SIGTERM in error.args else INTERRUPTED
    except OSError as error:
        print(f"ovlabel: {error}", file=sys.stderr)
        return DEFECT
    except OvlabelError as error:
        print(f"ovlabel: {error}", file=sys.stderr)
        return _code(error)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return OK


def _speak_plainly() -> None:
    """The library's messages as plain lines on stderr; what a stream can't encode as escapes, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("ovlabel: %(message)s"))
    log = logging.getLogger("ovlabel")
    log.setLevel(logging.INFO)
    log.handlers[:] = [handler]


def _interrupt(number: int, _: Any) -> None:
    raise _Interrupted(number)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ovlabel {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def _code(error: OvlabelError) -> int:
    kinds = {BusyError: BUSY, StoreError: STORE, WeightsError: WEIGHTS}
    return next((code for kind, code in kinds.items() if isinstance(error, kind)), USAGE)
