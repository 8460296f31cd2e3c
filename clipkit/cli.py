"""The door: the Typer app, and what becomes of errors, signals and broken pipes. No work is done here."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import traceback
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

import clipkit
from clipkit import console
from clipkit.errors import ClipkitError, WriteFailed

COMMANDS = ("embed", "textembed", "logits", "entropy", "probe", "zeroshot", "cluster", "plot", "info", "convert")
SIGPIPE_CODE = 141


class Door(TyperGroup):
    """Runs a command and leaves with its exit code: 0 done, 1 data or I/O, 2 usage, 3 images skipped, 128 + signal."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The order of the pipeline, not of the alphabet."""
        return [name for name in COMMANDS if name in self.commands]

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a reader that went away is no error of ours."""
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            with contextlib.suppress(
                OSError, ValueError
            ):  # so that the interpreter has nothing left to flush at its end
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(SIGPIPE_CODE) from None

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run, and turn every error into one line on standard error and an exit code."""
        extra["standalone_mode"] = False
        words = extra.get("args") or (args[0] if args else None) or sys.argv[1:]
        command = next((f" {word}" for word in words if word in self.commands), "")
        try:
            sys.exit(super().main(*args, **extra) or 0)
        except Exception as error:
            message, hint, code = _explain(error)
            if "--debug" in words:
                traceback.print_exc()
            line = f"clipkit{command}: {message}" + (f"; hint: {hint}" if hint else "")
            print(console.escaped(line), file=sys.stderr)  # noqa: T201
            raise SystemExit(code) from error


def _explain(error: Exception) -> tuple[str, str | None, int]:
    """Message, hint and exit code of an error."""
    if isinstance(error, ClipkitError):
        return error.message, error.hint, error.exit_code
    if hasattr(error, "format_message"):  # Typer's own: a missing argument, an unknown option
        return error.format_message(), "see clipkit COMMAND --help", 2
    if isinstance(error, typer.Abort):
        return "interrupted", None, 130
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"input and output must succeed; got: {where}{error.strerror or error}", None, 1
    if isinstance(error, MemoryError):
        return "the data must fit in memory; it does not", "use --limit, fewer prompts or a smaller batch", 1
    return f"unexpected {type(error).__name__}: {error}", "this is a bug in clipkit; --debug shows where", 1


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
        print(f"clipkit {clipkit.__version__}")  # noqa: T201
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
    _module = importlib.import_module(f"clipkit.commands.{_name}")
    app.command(_name)(getattr(_module, _name))


def _terminate(number: int, _: Any) -> NoReturn:
    raise SystemExit(128 + number)


def main() -> None:
    """Run clipkit on the command line's arguments; the entry point."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
        if isinstance(left.__cause__, WriteFailed):  # a normal exit may crash inside HDF5 after a failed write
            with contextlib.suppress(OSError):
                sys.stderr.flush()
            os._exit(code)
        raise
