"""Define the Typer app, and handle errors, signals and broken pipes."""

from __future__ import annotations

import atexit
import codecs
import contextlib
import functools
import importlib
import io
import logging
import os
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from clipkit import analysis
from clipkit.analysis.question import MEASURE, UNDERSTAND
from clipkit.base import console, files, signals, suggestions, unread
from clipkit.base.errors import (
    MAX_LISTED,
    ClipkitError,
    UsageError,
    import_error,
    listed,
    meant_by,
    synonyms_of,
    system_reason,
    unknown,
    unknown_option,
)
from clipkit.base.options import flag
from clipkit.base.version import __version__
from clipkit.commands._command import ClipkitCommand, CommandGroup, example_of, usage_of
from clipkit.commands._options import with_typer
from clipkit.commands.analysis import command_of
from clipkit.features.endings import FEATURE_ENDINGS

GROUPS = {
    "Encode": ("embed", "textembed"),
    MEASURE: ("logits",),
    UNDERSTAND: ("plot", "report", "run", "null", "start"),
    "Files": ("info", "list", "convert", "split", "concat", "relabel"),
}
PANELS = {name: group for group, names in GROUPS.items() for name in names}
COMMANDS = ("embed", "textembed", "logits", *analysis.names(), *list(PANELS)[3:])
HELP = {"-h", "--help", "--version"}
BROKEN_PIPE = 128 + signal.SIGPIPE
MIN_ADDRESS_SPACE = 2 << 30  # with less, OpenBLAS may loop indefinitely while it is loaded
EXPECTED = {  # what a number must be, by pydantic's type of an error
    "int_parsing": "a whole number",
    "float_parsing": "a number",
    "greater_than_equal": "at least {:.10g}",
    "less_than_equal": "at most {:.10g}",
}
LESS_MEMORY = {  # a hint, by the command
    "clipkit embed": "use --limit or a smaller --batch-size",
    "clipkit textembed": "embed fewer prompts at once",
}
NO_MEMORY = ("failed to map segment", "can't start new thread")  # of other errors like MemoryError


@functools.cache
def _command(name: str) -> Any:
    """Return a command: that of a question, of a function, or of an app with its own commands."""
    if name in analysis.names():
        question = analysis.find(name)
        return ClipkitCommand(name, command_of(question), question.panel)
    defined = getattr(importlib.import_module(f"clipkit.commands.{name}"), name)
    if not isinstance(defined, typer.Typer):
        return ClipkitCommand(name, defined, PANELS[name])
    group = typer.main.get_group(defined)
    group.name, group.rich_help_panel = name, PANELS[name]
    return group


class ClipkitGroup(CommandGroup):
    """Run commands. If one fails, write one line to standard error and return an exit code.

    Exit codes: 0 done; 1 bad data, input or output; 2 usage; 3 done, but images or files were left
    out; 128 + n on signal n, which includes 141 when the reader of a pipe left.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, or None."""
        return _command(cmd_name) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the first argument names."""
        if args[0] not in COMMANDS and not ctx.resilient_parsing:  # parsed for completion
            raise _unknown_command(args[0])
        return super().resolve_command(ctx, args)

    def main(  # type: ignore[override]  # the other parameters are passed on
        self, args: Sequence[str] | None = None, **extra: Any
    ) -> NoReturn:
        """Run a command line and exit."""
        typed = sys.argv[1:] if args is None else list(args)
        words = list(map(_as_stream, typed))
        command = _command_path(self, words)
        signals.set_command(command)
        suggestions.set_typed(words)
        extra["standalone_mode"] = False
        try:
            if not HELP.intersection(words):
                _check_surroundings()
            code = super().main(words, **extra) or 0
            console.report_stages()
            console.data().flush()
            if unread.holds_unread_file():
                console.warn("the feature file on standard input was not read; hint: name it as -")
        except signals.Interrupted:
            raise  # `main` reports it
        except SystemExit as stop:  # Typer turns a broken pipe into exit code 1
            is_pipe = isinstance(stop.__context__, BrokenPipeError)
            code = BROKEN_PIPE if is_pipe else stop.code
        except BrokenPipeError:
            code = BROKEN_PIPE
        except Exception as error:
            code = _report_error(error, command, is_debugged="--debug" in words)
        finally:
            suggestions.set_typed(())
        with contextlib.suppress(OSError, ValueError):  # what was written before an error
            console.data().flush()
        sys.exit(code)


def _unknown_command(name: str) -> ClipkitError:
    """Return the error for a first word that names no command, such as a file."""
    error = unknown("command", name, COMMANDS, sorted(HELP))
    path = Path(name)
    if not path.exists():
        return error
    command = "info" if path.suffix in FEATURE_ENDINGS else "embed"
    return UsageError(
        error.message,
        f"name a command before the file: {suggestions.command('clipkit', command, name)}",
    )


def _as_stream(word: str) -> str:
    """Return a word of a command line, ``-`` for a path of standard input."""
    option, is_value, path = word.rpartition("=")
    if path not in files.STREAM_PATHS or (is_value and not option.startswith("--")):
        return word
    return f"{option}{is_value}{files.STREAM}"


def _command_path(group: Any, words: list[str]) -> str:
    """Return the commands that a command line names: `clipkit plot temperature`."""
    path = "clipkit"
    for word in words:
        if hasattr(group, "list_commands") and word in group.list_commands(None):
            path += f" {word}"
            group = group.get_command(None, word)
        elif not word.startswith("-"):
            if path == "clipkit run":
                path += f" {word}"
            break
    return path


def _check_surroundings() -> None:
    """Refuse to start where libraries would crash or loop."""
    try:
        Path.cwd()
    except FileNotFoundError:
        message = "the current folder does not exist any more"
        raise ClipkitError(message, "change to another one: cd ..") from None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    is_too_small = limit != resource.RLIM_INFINITY and limit < MIN_ADDRESS_SPACE
    if is_too_small and "numpy" not in sys.modules:
        raise ClipkitError(
            f"not enough memory: expected at least 2 GiB of address space, got {limit >> 20} MiB",
            "raise the limit: ulimit -v unlimited",
        )


def _report_error(error: Exception, command: str, is_debugged: bool) -> int:
    """Write the message of an error, and return its exit code; an interrupt may have caused it."""
    interrupt = signals.interrupted()
    if interrupt:
        raise interrupt from error
    signals.disarm()
    if is_debugged:
        traceback.print_exc()
    explained = _explain(error, command)
    console.write_line(f"{command}: {explained}")
    return explained.exit_code


def _explain(error: Exception, command: str) -> ClipkitError:
    """Turn an exception of a command into an error with a message, a hint and an exit code."""
    if isinstance(error, ClipkitError):
        return error
    ctx: Any = getattr(error, "ctx", None)
    if hasattr(error, "possibilities") and ctx is not None:  # Typer's: an unknown option
        return _explain_option(str(getattr(error, "option_name", "")), ctx)
    if hasattr(error, "format_message"):  # Typer's: a missing argument, a wrong value
        return UsageError(_describe_usage(error), _usage_hint(error, ctx, command))
    if isinstance(error, typer.Abort):
        interrupted = ClipkitError("interrupted")
        interrupted.exit_code = 128 + signal.SIGINT
        return interrupted
    if isinstance(error, OSError):
        return _explain_io(error)
    if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
        hint = LESS_MEMORY.get(command, "use smaller inputs")
        return ClipkitError("not enough memory for the data", hint)
    if isinstance(error, ImportError) and not str(error.name).startswith("clipkit"):
        return import_error(error)
    hint = "this is a bug in clipkit: run with --debug to see where"
    return ClipkitError(f"unexpected {type(error).__name__}: {error}", hint)


def _explain_option(name: str, ctx: Any) -> ClipkitError:
    """Name the option or the argument that is meant, commands that have the option, or all."""
    shown = [one for one in ctx.command.get_params(ctx) if not one.hidden]
    options = [name for one in shown for name in (*one.opts, *one.secondary_opts)]
    options = [option for option in options if option.startswith("-")]
    arguments = [_name_of(one) for one in shown if not one.opts[0].startswith("-")]
    meant = meant_by(name, [*options, *arguments])
    if meant and meant[0] in arguments:
        line = suggestions.again({name: []}) or usage_of(ctx)
        return UsageError(f"No such option: {name}", f"give it without an option: {line}")
    known = [one.opts[0] for one in shown if one.opts[0].startswith("-")]
    hint = f"known: {listed(known, MAX_LISTED)}"
    return unknown_option(name, options, f"{_elsewhere(name, ctx.command.name)}{hint}")


def _elsewhere(name: str, command: str) -> str:
    """Return which other commands have an option, or one that its name stands for, or ""."""
    for wanted in [name, *synonyms_of(name)]:
        others = [one for one in COMMANDS if one != command and _has_parameter(one, wanted)]
        if others and wanted == name:
            return f"it is an option of {listed(others, 4)}; "
        if others:
            verb = "takes" if len(others) == 1 else "take"
            return f"{listed(others, 4)} {verb} {wanted}; "
    return ""


def _name_of(parameter: Any) -> str:
    """Return the name of an argument, or of an option's value, as the help shows it."""
    return str(parameter.metavar or parameter.name).upper()


def _has_parameter(command: str, name: str) -> bool:
    """Whether a command has an option, or an argument that its help shows so."""
    parameters = getattr(_command(command), "params", ())
    return any(name in (*parameter.opts, parameter.metavar) for parameter in parameters)


def _usage_hint(error: Any, ctx: Any, command: str) -> str:
    """Return what to write for a missing argument, or for an option without a value."""
    parameter = getattr(error, "param", None)
    if parameter is None and ctx is None:  # an option lacks its value
        return _value_hint(str(getattr(error, "option_name", "")), command)
    if parameter is None or ctx is None:
        return f"see {command} --help"
    option = parameter.opts[0]
    if not option.startswith("-"):
        example = example_of(ctx)
        return f"for example: {example}" if example else f"the arguments are: {usage_of(ctx)}"
    return f"write {option} {_name_of(parameter)}"


def _value_hint(option: str, command: str) -> str:
    """Return how to write an option of a command such as `clipkit plot temperature`."""
    found: Any = typer.main.get_command(app)
    for name in command.split()[1:]:
        if hasattr(found, "get_command"):
            found = found.get_command(None, name)
    for parameter in getattr(found, "params", ()):
        if option in parameter.opts:
            return f"write {option} {_name_of(parameter)}"
    return f"see {command} --help"


def _explain_io(error: OSError) -> ClipkitError:
    """Name the file of a failed input or output, or else standard output, if that refuses data."""
    if isinstance(error, io.UnsupportedOperation) and not console.data().writable():
        return ClipkitError(files.CLOSED)
    reason = system_reason(error)
    if error.filename:
        return ClipkitError(f"I/O error: {error.filename}: {reason}")
    if _is_output_broken():
        return ClipkitError(f"cannot write standard output: {reason}")
    return ClipkitError(f"I/O error: {reason}")


def _is_output_broken() -> bool:
    """Whether standard output refuses what is left to write: its errors name no file."""
    try:
        console.data().flush()
    except OSError:
        return True
    return False


def _describe_usage(error: Any) -> str:
    """Say what is wrong with a command line; pydantic, which Typer asks, checks numbers."""
    for problem in getattr(error.__cause__, "errors", list)():
        if problem["type"] in EXPECTED:
            limits = problem.get("ctx", {}).values()
            expected = EXPECTED[problem["type"]].format(*limits)
            got = problem["input"] if limits else repr(problem["input"])
            return f"{error.param.opts[0]}: expected {expected}, got {got}"
    return str(error.format_message().rstrip("."))


app = typer.Typer(
    cls=ClipkitGroup,
    name="clipkit",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(_: typer.Context, is_given: bool) -> None:
    if is_given:
        typer.echo(f"clipkit {__version__}")
        raise typer.Exit


VERSION = flag("--version", "Show the version.", check=_show_version, is_eager=True)
QUIET = flag("--quiet -q", "Show only warnings and errors, no notes or progress.")
VERBOSE = flag("--verbose -v", "Show details: model files, device, threads and time per stage.")
DEBUG = flag("--debug", "Show the traceback of an error.")


@app.callback()
@with_typer
def describe(
    version: Annotated[bool, VERSION] = False,
    quiet: Annotated[bool, QUIET] = False,
    verbose: Annotated[bool, VERBOSE] = False,
    debug: Annotated[bool, DEBUG] = False,
) -> None:
    """Measure what a vision-language model understands, with small commands over feature files.

    `embed` and `textembed` run a model once. All other commands work on their files. The options
    `-q`, `-v` and `--debug` may also follow the command.

    Example: clipkit textembed generic32 | clipkit probe img.h5 -
    """


def main() -> NoReturn:
    """Run clipkit on the command line's arguments, and exit."""
    code: Any = 1
    try:
        try:
            _open_streams()
            signals.install()
            _set_up_libraries(debug="--debug" in sys.argv)
            app()
        except SystemExit as stop:
            code = stop.code
        signals.disarm()
    except signals.Interrupted:  # between two of the lines above
        pass
    interrupt = signals.interrupted()
    if interrupt:  # also if a library has lost the exception
        signals.report(interrupt.number)
        code = interrupt.code
    files.remove_unfinished()
    _exit(code)


def _exit(code: Any) -> NoReturn:
    """End the process without the interpreter's shutdown.

    The shutdown takes up to a second with torch. It may crash inside HDF5 after a failed write, and
    it may hang if a signal comes: it waits for threads, and no longer runs the one that watches.
    """
    atexit._run_exitfuncs()  # remove temporary folders of libraries
    os._exit(code or 0)


def _open_streams() -> None:
    """Open closed standard streams: a file that got their number would receive the messages."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    sys.stdin = sys.stdin or os.fdopen(0)
    sys.stdout = sys.stdout or os.fdopen(1)  # for reading, so that a write is an error
    sys.stderr = sys.stderr or os.fdopen(2, "w")
    raw = sys.stdout.buffer
    if isinstance(raw, io.RawIOBase):
        # under PYTHONUNBUFFERED, where a write may take a part and the rest would be lost
        buffer = io.BufferedWriter(raw)
        sys.stdout = io.TextIOWrapper(buffer, sys.stdout.encoding, line_buffering=True)
    codecs.register_error("clipkit", console.replace_by_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="clipkit")  # what an encoding such as Latin-1 lacks


def _set_up_libraries(debug: bool) -> None:
    """Set what libraries ask the environment for, and drop what they warn about or log.

    clipkit checks their results, and warns by itself.
    """
    os.environ.pop("MPLBACKEND", None)  # Jupyter sets one that matplotlib may refuse
    # after a product, OpenBLAS's threads spin for 2^26 cycles, which other threads could use
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")
    if not debug:
        warnings.simplefilter("ignore")
        logging.disable()
