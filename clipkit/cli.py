"""The door: the Typer app, and what becomes of errors, signals and broken pipes. No work is done here."""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

import clipkit
from clipkit import console, files
from clipkit.errors import ClipkitError, WriteError

COMMANDS = (
    "embed",
    "textembed",
    "logits",
    "entropy",
    "probe",
    "zeroshot",
    "cluster",
    "plot",
    "report",
    "info",
    "convert",
)
SIGPIPE_CODE = 141


class Door(TyperGroup):
    """Runs a command and leaves with its exit code: 0 done, 1 data or I/O, 2 usage, 3 images skipped, 128 + signal."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The order of the pipeline, not of the alphabet."""
        return [name for name in COMMANDS if name in self.commands]

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run, and turn every error into one line on standard error and an exit code."""
        extra["standalone_mode"] = False
        words = extra.get("args") or (args[0] if args else None) or sys.argv[1:]
        command = _command_path(self, words)
        try:
            code = super().main(*args, **extra) or 0
            sys.stdout.flush()
        except Stopped as stop:
            _tell(f"{command}: interrupted by {signal.Signals(stop.number).name}")
            raise
        except SystemExit as left:
            _leave_stdout()
            broken = isinstance(left.__context__, BrokenPipeError)  # Typer met it first
            raise SystemExit(SIGPIPE_CODE if broken else left.code) from None
        except BrokenPipeError:
            _leave_stdout()
            raise SystemExit(SIGPIPE_CODE) from None
        except Exception as error:
            message, hint, code = _explain(error)
            if "--debug" in words:
                traceback.print_exc()
            if message:  # Typer has none where it showed the help instead
                _tell(f"{command}: {message}" + (f"; hint: {hint}" if hint else ""))
            _leave_stdout()
            raise SystemExit(code) from error
        sys.exit(code)


def _command_path(group: Any, words: list[str]) -> str:
    """Return the commands that a command line names: `clipkit plot temperature`."""
    path = "clipkit"
    for word in words:
        if word in getattr(group, "commands", ()):
            path += f" {word}"
            group = group.commands[word]
        elif not word.startswith("-"):
            break
    return path


class Stopped(SystemExit):
    """A signal asks to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


def _tell(line: str) -> None:
    with contextlib.suppress(OSError):  # a full disk, a reader that went away
        print(console.escaped(line), file=sys.stderr)


def _leave_stdout() -> None:
    """Flush standard output, or see to it that the interpreter has nothing left to fail on at its end."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain(error: Exception) -> tuple[str, str | None, int]:
    """Message, hint and exit code of an error."""
    if isinstance(error, ClipkitError):
        return error.message, error.hint, error.exit_code
    if hasattr(error, "format_message"):  # Typer's own: a missing argument, an unknown option
        return error.format_message().rstrip("."), "see clipkit COMMAND --help", 2
    if isinstance(error, typer.Abort):
        return "interrupted", None, 130
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"input and output must succeed; got: {where}{error.strerror or error}", None, 1
    if isinstance(error, MemoryError):
        return (
            "the data must fit in memory; it does not",
            "use --limit, fewer prompts or a smaller batch",
            1,
        )
    return (
        f"unexpected {type(error).__name__}: {error}",
        "this is a bug in clipkit; --debug shows where",
        1,
    )


app = typer.Typer(
    cls=Door,
    name="clipkit",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        print(f"clipkit {clipkit.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No notes, no progress; warnings and errors stay.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """What does a vision-language model understand? Small commands over feature files.

    `embed` and `textembed` run a model, once; everything after them is linear algebra on files.

    Example: clipkit textembed prompts/generic32.txt | clipkit logits img.h5 - | clipkit probe
    """
    console.quiet = quiet


for _name in COMMANDS:
    _command = getattr(importlib.import_module(f"clipkit.commands.{_name}"), _name)
    if isinstance(_command, typer.Typer):
        app.add_typer(_command, name=_name)
    else:
        app.command(_name)(_command)


def _stop(number: int, _: Any) -> NoReturn:
    """Leave by way of every `finally`; at the second signal, at once."""
    signal.signal(number, _stop_now)
    raise Stopped(number)


def _stop_now(number: int, _: Any) -> NoReturn:
    files.remove_unfinished()
    os._exit(128 + number)


def _open_streams() -> None:
    """Closed standard streams are opened, lest a feature file gets their number and a message is written into it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdin = sys.stdin or Path(os.devnull).open()
    sys.stderr = sys.stderr or Path(os.devnull).open("w")
    if sys.stdout is None:
        _tell("clipkit: standard output must be open; it is closed")
        sys.exit(1)
    raw = sys.stdout.buffer
    if isinstance(
        raw, io.RawIOBase
    ):  # under PYTHONUNBUFFERED, where the rest of a write that took a part is lost
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(raw), sys.stdout.encoding, sys.stdout.errors, line_buffering=True
        )


def main() -> None:
    """Run clipkit on the command line's arguments; the entry point."""
    _open_streams()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _stop)
    try:
        app()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
        if isinstance(
            left.__cause__, WriteError
        ):  # a normal exit may crash inside HDF5 after a failed write
            files.remove_unfinished()
            with contextlib.suppress(OSError):
                sys.stderr.flush()
            os._exit(code)
        raise
    finally:
        files.remove_unfinished()
        gc.freeze()  # at its end the interpreter would look for garbage in all of torch: a second
