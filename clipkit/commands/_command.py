"""What all commands share: how help looks, and options behind the command."""

from __future__ import annotations

import copy
import itertools
import os
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from clipkit.base import console
from clipkit.base.errors import ClipkitError, InputError, UsageError
from clipkit.base.options import Option
from clipkit.commands import _completion as completion
from clipkit.commands._options import options_with_value

EVERYWHERE = ("quiet", "verbose", "debug")  # options that a command also accepts behind it
EXAMPLE = re.compile(r"(?<=^Example: )\S.*(?:\n.+)*", re.MULTILINE)  # the command line
CODE = re.compile("`([^`]+)`")


def _bright(text: str) -> str:
    """Return a name, or code, as a help on a colour terminal shows it; pipes drop the colour."""
    return text if os.environ.get("NO_COLOR") else typer.style(text, fg="cyan", bold=True)


def bright_code(text: str) -> str:
    """Replace the backticks of a help by bright code."""
    return CODE.sub(lambda code: _bright(code[1]), text)


def write_help(command: Any, ctx: Any, formatter: Any) -> None:
    """Write what a command does, with its example as code, its arguments and its options.

    Typer's own panels need Rich, which takes as long to load as all else that a help needs.
    """
    command.format_usage(ctx, formatter)
    formatter.write_paragraph()
    with formatter.indentation():
        formatter.write_text(EXAMPLE.sub(r"`\g<0>`", command.help or ""))
    arguments, options = [], []
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is None:  # it is hidden
            continue
        if parameter.param_type_name == "argument":
            arguments.append((parameter.metavar, record[1]))  # Typer adds the type to it
        else:
            options.append(record)
    write_section(formatter, "Arguments", arguments)
    write_section(formatter, "Options", options)


def write_section(formatter: Any, title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Write rows of a name and what it means, if there are any."""
    if rows:
        with formatter.section(title):
            formatter.write_dl([(_bright(name), text) for name, text in rows])


class Commands(Mapping[str, Any]):
    """Commands by their names. Each is built when it is used.

    Typer needs 2 ms for each command, and 50 ms to load what builds the first one.
    """

    def __init__(self, names: Sequence[str], build: Callable[[str], Any]) -> None:
        self._names = names
        self._build = build

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return self._build(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class CommandGroup(TyperGroup):
    """A group of commands, which shows its help if no command is given."""

    def sections(self) -> Mapping[str, Collection[str]]:
        """Return the names of the commands, by the headings of the help."""
        raise NotImplementedError

    def build(self, name: str) -> Any:
        """Return a command."""
        raise NotImplementedError

    def describe(self, name: str) -> str:
        """Return the help of a command, without building it."""
        raise NotImplementedError

    @property
    def commands(self) -> Any:
        """All commands."""
        return Commands(list(itertools.chain(*self.sections().values())), self.build)

    @commands.setter
    def commands(self, _: Any) -> None:
        """Ignore the commands that Typer knows: there are none."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands, in the order of the help."""
        return list(self.commands)

    def summary(self, name: str) -> str:
        """Return the first paragraph of a command's help, as one line."""
        return " ".join(self.describe(name).strip().partition("\n\n")[0].split())

    def get_help(self, ctx: Any) -> str:
        """Return the help, with bright code."""
        return bright_code(super().get_help(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, with the commands."""
        write_help(self, ctx, formatter)
        width = max(map(len, self.commands))
        for title, names in self.sections().items():
            rows = [(name.ljust(width), self.summary(name)) for name in names]
            write_section(formatter, title, rows)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Offer options or the names of commands, with what the help says about them."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        names = [name for name in self.commands if name.startswith(incomplete)]
        return [SimpleNamespace(value=one, type="plain", help=self.summary(one)) for one in names]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Show the help if there are no arguments."""
        if not args and not ctx.resilient_parsing:
            typer.echo(self.get_help(ctx), err=True)
            raise typer.Exit(UsageError.exit_code)
        return super().parse_args(ctx, args)


class ClipkitCommand(TyperCommand):
    """A command that also accepts `EVERYWHERE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse what the command does not take, with what to type."""
        count = sum(word.partition("=")[0] == "--attribute" for word in args)
        if count > 1 and not any("--attribute" in one.opts and one.multiple for one in self.params):
            raise UsageError(f"expected one --attribute, got {count}", "A*B combines two")
        ctx.allow_extra_args = True  # they are refused below, with what to type
        rest = super().parse_args(ctx, args)
        if ctx.args and not ctx.resilient_parsing:
            self._refuse_extra(ctx)
        return rest

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, and `EVERYWHERE`, hidden."""
        parameters = list(super().get_params(ctx))
        own = {name for parameter in parameters for name in parameter.opts}
        for parameter in ctx.find_root().command.params:
            if parameter.name in EVERYWHERE:
                parameter = copy.copy(parameter)
                parameter.opts = [name for name in parameter.opts if name not in own]
                parameter.hidden = True
                parameters.append(parameter)
        return parameters

    def invoke(self, ctx: Any) -> Any:
        """Set how much is shown, by options before or behind the command, and run it."""
        before = ctx.find_root().params
        quiet, verbose, _ = [ctx.params.pop(name) or before[name] for name in EVERYWHERE]
        if quiet and verbose:
            raise UsageError("expected -q or -v, got both")
        console.set_quiet(quiet)
        console.set_verbose(verbose)
        try:
            return super().invoke(ctx)
        except InputError as error:
            line = self._line_with_argument(ctx, error.source)
            if self._may_leave_out(ctx, error.source):
                line = self._line_with_option(ctx, error.source)
            error.hint = line or error.hint
            raise

    @property
    def _options(self) -> Mapping[str, Option]:
        """The records of the options, by the names of their parameters."""
        options: Mapping[str, Option] = getattr(self.callback, "options", {})
        return options

    def _refuse_extra(self, ctx: Any) -> None:
        """Refuse arguments that the command does not take; the first may be one of an option."""
        word = ctx.args[0]
        hint = self._line_with_option(ctx, word) or f"see {_path_of(ctx)} --help"
        raise UsageError(f"expected no further argument, got {word!r}", hint)

    def _line_with_option(self, ctx: Any, word: str) -> str | None:
        """Return the command line with an argument as the value of an option that takes it."""
        words = list(ctx.meta.get(completion.WORDS, []))
        with_value = options_with_value(self)
        for place, (before, found) in enumerate(zip(["", *words], words, strict=False)):
            if found == word and before not in with_value:
                del words[place]
                break
        else:
            return None
        for name, option in self._options.items():
            is_given = bool(ctx.params.get(name))
            if _takes(option, word) and not is_given:
                return shlex.join(["clipkit", *words, option.flag, word])
        return None

    def _line_with_argument(self, ctx: Any, word: str) -> str | None:
        """Return the command line with a feature file, given as a table, as the last argument."""
        if not self._has_place(ctx) or not _kind_of(word):
            return None
        flags = {option.flag for option in self._options.values() if option.is_table}
        words = list(ctx.meta.get(completion.WORDS, []))
        for place, (before, found) in enumerate(itertools.pairwise(words)):
            if found == word and before in flags:
                return shlex.join(["clipkit", *words[:place], *words[place + 2 :], word])
        return None

    def _has_place(self, ctx: Any) -> bool:
        """Whether the last argument was left out, and standard input does not take its place."""
        arguments = [one for one in self.params if one.param_type_name == "argument"]
        if not arguments or getattr(arguments[-1], "hidden", False):
            return False
        return arguments[-1].default is None and not ctx.params.get(arguments[-1].name)

    def _may_leave_out(self, ctx: Any, word: str) -> bool:
        """Whether an argument may be left out, and standard input does not take its place."""
        for parameter in self.params:
            value = ctx.params.get(parameter.name)
            values = value if isinstance(value, list | tuple) else [value]
            if parameter.param_type_name == "argument" and word in values:
                return not parameter.required and parameter.default is None
        return False

    def get_help(self, ctx: Any) -> str:
        """Return the help, with bright code."""
        return bright_code(super().get_help(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        write_help(self, ctx, formatter)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage line. Hidden arguments, which have no name, give none."""
        return [piece for piece in super().collect_usage_pieces(ctx) if piece != "[]"]


def _path_of(ctx: Any) -> str:
    """Return the command of a line, such as `clipkit plot temperature`, also of `python -m`."""
    names = ctx.command_path.removeprefix(ctx.find_root().command_path)
    return f"clipkit{names}"


def _takes(option: Option, word: str) -> bool:
    """Whether a word is probably the value of an option: a table, its name, or a feature file."""
    from clipkit.features.attribute_tables import ENDINGS

    if isinstance(option.completes, tuple) and word in option.completes:
        return True
    if Path(word).suffix.lower() in ENDINGS:
        return option.is_table
    return bool(option.kinds) and _kind_of(word) in option.kinds


def _kind_of(word: str) -> str:
    """Return the kind of a feature file, or "" for what is none."""
    from clipkit import features

    if not Path(word).is_file():
        return ""
    try:
        with features.open_file(word) as file:
            return file.kind
    except ClipkitError:
        return ""
