"""The command line: one file a command. Results go to stdout; progress, warnings and errors to stderr."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ovlabel import __version__, files
from ovlabel.cli.commands import SETTINGS, LazyGroup
from ovlabel.cli.exit_codes import (
    BUSY,
    DEFECT,
    HUNG_UP,
    INTERRUPTED,
    OK,
    SOME_FAILED,
    STORE,
    TERMINATED,
    USAGE,
    WEIGHTS,
)
from ovlabel.cli.messages import SEVERAL_LINES, open_streams, printable_lines, say, send_to_stderr, stdout_failure
from ovlabel.errors import BusyError, ClusterError, OvlabelError, StoreError, WeightsError

log = logging.getLogger("ovlabel")

_CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED, signal.SIGHUP: HUNG_UP}

_OF_STREAMS = (errno.EBADF, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC)  # where no file is named
_Refused: Any = typer.BadParameter.__mro__[2]  # the base of all errors in what was typed, which typer does not name

_GOES_ON = "; what was finished is committed, run the same command to go on"

_HELP = """Open-vocabulary semantic segmentation of whole folders, without training.

\b
Examples ('ovlabel COMMAND --help' explains a command):
  ovlabel demo
  ovlabel annotate ./images --vocab coco-stuff
"""

app = typer.Typer(
    cls=LazyGroup,
    help=_HELP,
    no_args_is_help=True,
    **{**SETTINGS, "add_completion": True},
)


class _Interrupted(BaseException):
    """Ctrl-C, SIGTERM or a closed terminal (SIGHUP); not KeyboardInterrupt, which typer ends by itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Every refusal is one line on stderr; a defect is a traceback, and where to report it.

    Args:
        arguments: in place of those of the process.

    Returns:
        The exit code.
    """
    warnings.filterwarnings("ignore", module="(torch|timm|open_clip|huggingface_hub)")
    open_streams()
    send_to_stderr()
    files.settle_home()
    main_thread = threading.current_thread() is threading.main_thread()
    signals = tuple(_CODES) if main_thread else ()
    ignored = {number for number in signals if signal.getsignal(number) is signal.SIG_IGN}  # nohup stays nohup
    before = {number: signal.signal(number, _interrupt) for number in signals if number not in ignored}
    try:
        return _run(arguments)
    except (_Interrupted, KeyboardInterrupt) as error:
        words = sys.argv[1:] if arguments is None else arguments
        log.error("stopped%s", _GOES_ON if words and words[0] in ("annotate", "demo") else "")
        return next((code for number, code in _CODES.items() if number in error.args), INTERRUPTED)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(arguments: Sequence[str] | None) -> int:
    """Run one command, and say what went wrong. Returns the exit code."""
    try:
        os.getcwd()  # some libraries end the process where there is none
        code = app(args=arguments, prog_name="ovlabel", standalone_mode=False)
        failure = stdout_failure()
    except _Refused as error:  # what typer says of the words of a command
        error.message = printable_lines(error.message)
        with contextlib.suppress(OSError):
            error.show()
        return int(error.exit_code)
    except SystemExit as error:  # a completion
        code, failure = error.code, stdout_failure()
    except OvlabelError as error:
        log.error("%s", error)
        return _code(error)
    except OSError as error:
        code, failure = None, error
    except Exception:
        log.error("%s", traceback.format_exc().rstrip(), extra=SEVERAL_LINES)
        log.error("this is a defect of ovlabel %s; please report it, with the lines above%s", __version__, _where())
        return DEFECT
    return _failed(failure) if failure is not None else code if isinstance(code, int) else OK


def _failed(error: OSError) -> int:
    """Say what the system refused. Returns the exit code."""
    stdout_failure()  # whatever is left of it would be tried again when Python ends
    if error.filename is not None:
        log.error("%s: %s", error.filename, error.strerror)
        return USAGE
    if error.errno == errno.ENOENT:
        log.error("the folder in which this command was started is not there any more; change to another one")
        return USAGE
    if error.errno != errno.EPIPE:  # else its reader, as `head`, has what it wants
        log.error("%s", f"stdout can't be written: {error.strerror}" if error.errno in _OF_STREAMS else error)
    return DEFECT


def _interrupt(number: int, _: Any) -> None:
    raise _Interrupted(number)


def _where() -> str:
    """Where defects are reported: the address in the package's metadata, which a bare checkout does not have."""
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        urls = metadata("ovlabel").get_all("Project-URL") or []
    except PackageNotFoundError:
        return ""
    return next((f": {url.partition(', ')[2]}" for url in urls if url.startswith("Issues, ")), "")


def _version(wanted: bool) -> None:
    if wanted:
        say(f"ovlabel {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def _code(error: OvlabelError) -> int:
    kinds = {BusyError: BUSY, StoreError: STORE, WeightsError: WEIGHTS, ClusterError: SOME_FAILED}
    return next((code for kind, code in kinds.items() if isinstance(error, kind)), USAGE)
