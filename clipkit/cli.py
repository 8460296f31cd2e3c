"""Define the Typer app, and handle errors, signals and broken pipes."""

from __future__ import annotations

import atexit
import codecs
import contextlib
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
from typer.core import TyperCommand, TyperGroup

from clipkit.base import console, files, signals
from clipkit.base.errors import ClipkitError, UsageError, system_reason
from clipkit.base.version import __version__
from clipkit.commands import _completion as completion
from clipkit.commands._options import EARLIER_NAMES, options_with_value

GROUPS = {
    "Encode": ("embed", "textembed"),
    "Measure": (
        *("logits", "entropy", "probe", "predict", "zeroshot"),
        *("calibrate", "cluster", "compare"),
    ),
    "Understand": ("importance", "variance", "attributes", "plot", "report"),
    "Files": ("info", "convert", "split", "concat", "relabel"),
}
COMMANDS = tuple(name for names in GROUPS.values() for name in names)
EVERYWHERE = {"-q", "--quiet", "-v", "--verbose", "--debug"}  # accepted after a command, too
HELP = {"-h", "--help", "--version"}
BROKEN_PIPE = 128 + signal.SIGPIPE
MIN_ADDRESS_SPACE = 2 << 30  # with less, OpenBLAS may loop indefinitely while it is loaded
NO_MEMORY = ("failed to map segment", "can't start new thread")  # of other errors like MemoryError


class ClipkitGroup(TyperGroup):
    """Run commands. If one fails, write one line to standard error and return an exit code.

    Exit codes: 0 done; 1 bad data, input or output; 2 usage; 3 done, but images or files were left
    out; 128 + n on signal n, which includes 141 when the reader of a pipe left.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the commands in the order of the help."""
        return [name for name in COMMANDS if name in self.commands]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move the options that every command accepts to the front."""
        ctx.meta[completion.WORDS] = list(args)
        common, others = _take_common_options(self, args)
        return super().parse_args(ctx, [*common, *others])

    def main(  # type: ignore[override]  # the other parameters are passed on
        self, args: Sequence[str] | None = None, **extra: Any
    ) -> NoReturn:
        """Run a command line and exit."""
        words = sys.argv[1:] if args is None else list(args)
        command = _command_path(self, words)
        signals.set_command(command)
        extra["standalone_mode"] = False
        try:
            if not HELP.intersection(words):
                _check_surroundings()
            code = super().main(words, **extra) or 0
            console.report_stages()
            sys.stdout.flush()
        except signals.Interrupted:
            raise  # `main` reports it
        except SystemExit as stop:
            _flush_stdout()
            if isinstance(stop.__context__, BrokenPipeError):  # which Typer turns into exit code 1
                raise SystemExit(BROKEN_PIPE) from None
            raise SystemExit(stop.code) from None
        except BrokenPipeError:
            _flush_stdout()
            raise SystemExit(BROKEN_PIPE) from None
        except Exception as error:
            interrupt = signals.interrupted()
            if interrupt:
                raise interrupt from error
            signals.disarm()
            if "--debug" in words:
                traceback.print_exc()
            explained = _explain(error, command)
            if explained.message:  # none where Typer showed the help instead
                console.write_line(f"{command}: {explained.with_hint()}")
            _flush_stdout()
            raise SystemExit(explained.exit_code) from error
        sys.exit(code)


class ClipkitCommand(TyperCommand):
    """A command whose options also have earlier names, which the help leaves out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Replace the earlier names of options."""
        names = EARLIER_NAMES.get(self.name or "", {})
        words = []
        for word in args:
            option, mark, value = word.partition("=")
            words.append(names.get(option, option) + mark + value)
        return super().parse_args(ctx, words)


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


def _take_common_options(group: Any, words: list[str]) -> tuple[list[str], list[str]]:
    """Split a command line into the options of `EVERYWHERE` and all other words.

    A word is left where it is the value of another option, or follows `--`.
    """
    common: list[str] = []
    others: list[str] = []
    value_follows = False
    for number, word in enumerate(words):
        if value_follows:
            others.append(word)
            value_follows = False
            continue
        if word == "--":
            others += words[number:]
            break
        with_value = options_with_value(group)
        taken, rest, value_follows = _take_from_word(word, with_value)
        common += taken
        if rest is not None:
            others.append(rest)
            group = getattr(group, "commands", {}).get(rest, group)
    return common, others


def _take_from_word(word: str, with_value: set[str]) -> tuple[list[str], str | None, bool]:
    """Take the options of `EVERYWHERE` out of a word, such as -q out of -fq.

    Returns
    -------
    taken : list of str
    rest : str or None
        The word without them; None if nothing else is in it.
    value_follows : bool
        Whether the next word is the value of an option in the rest.
    """
    if word in EVERYWHERE:
        return [word], None, False
    if word.startswith("--") or not word.startswith("-"):
        return [], word, word in with_value
    taken: list[str] = []
    rest = "-"
    letters = word[1:]
    for place, letter in enumerate(letters):
        flag = f"-{letter}"
        if flag in with_value:  # the letters behind it are its value
            return taken, rest + letters[place:], place == len(letters) - 1
        if flag in EVERYWHERE:
            taken.append(flag)
        else:
            rest += letter
    if taken and rest == "-":
        return taken, None, False
    return taken, rest, False


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


def _explain(error: Exception, command: str) -> ClipkitError:
    """Return an error of a command as one with a message, a hint and an exit code."""
    if isinstance(error, ClipkitError):
        return error
    if hasattr(error, "format_message"):  # Typer's: a missing argument, an unknown option
        return UsageError(error.format_message().rstrip("."), f"see {command} --help")
    if isinstance(error, typer.Abort):
        interrupted = ClipkitError("interrupted")
        interrupted.exit_code = 128 + signal.SIGINT
        return interrupted
    if isinstance(error, OSError):
        reason = system_reason(error)
        if error.filename:
            reason = f"{error.filename}: {reason}"
        return ClipkitError(f"I/O error: {reason}")
    if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
        hint = "use --limit, fewer prompts or a smaller batch"
        return ClipkitError("not enough memory for the data", hint)
    hint = "this is a bug in clipkit: run with --debug to see where"
    return ClipkitError(f"unexpected {type(error).__name__}: {error}", hint)


def _flush_stdout() -> None:
    """Flush what was written before an error."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()


app = typer.Typer(
    cls=ClipkitGroup,
    name="clipkit",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"clipkit {__version__}")
        raise typer.Exit


@app.callback()
def set_options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="Show only warnings and errors, no notes or progress."),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="Show details: model files, device, threads and time per stage."
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Measure what a vision-language model understands, with small commands over feature files.

    `embed` and `textembed` run a model once. All other commands work on their files. The options
    `-q`, `-v` and `--debug` may also follow the command.

    Example: clipkit textembed prompts/generic32.txt | clipkit logits img.h5 - | clipkit probe
    """
    if quiet and verbose:
        raise UsageError("expected -q or -v, got both")
    console.set_quiet(quiet)
    console.set_verbose(verbose)


for _group, _names in GROUPS.items():
    for _name in _names:
        _command = getattr(importlib.import_module(f"clipkit.commands.{_name}"), _name)
        if isinstance(_command, typer.Typer):
            app.add_typer(_command, name=_name, rich_help_panel=_group)
        else:
            app.command(_name, cls=ClipkitCommand, rich_help_panel=_group)(_command)


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
    sys.stderr = sys.stderr or os.fdopen(2, "w")
    if sys.stdout is None:
        console.write_line("clipkit: cannot write standard output: it is closed")
        sys.exit(1)
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
