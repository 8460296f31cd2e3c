"""What all commands share: Typer makes them when they are used; some options may follow them."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import itertools
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from clipkit.analysis.question import TEXTS
from clipkit.base import console, suggestions
from clipkit.base.errors import UsageError
from clipkit.base.files import check_one_stream
from clipkit.base.options import expand_groups, options_of
from clipkit.commands._options import with_settings, with_typer
from clipkit.features.endings import ATTRIBUTE_TABLES, FEATURE_ENDINGS, PICTURES

EVERYWHERE = ("quiet", "verbose", "debug")  # options that a command also accepts behind it
# Typer's yellow can hardly be read on a light terminal, and it dims all paragraphs but the first
STYLES = {
    "STYLE_USAGE": "bold",
    "STYLE_TYPES": "bold",
    "STYLE_METAVAR": "bold",  # the name of STYLE_TYPES in Typer 0.19
    "STYLE_OPTION_ENVVAR": "dim",
    "STYLE_HELPTEXT": "",
}
LINE_BREAK = re.compile(r"(?<!\n)\n(?!\n)")  # within a paragraph


def usage_of(ctx: Any) -> str:
    """Return a command with its arguments, such as `clipkit zeroshot [FILE] [TEXTS]`."""
    pieces = ctx.command.collect_usage_pieces(ctx)
    arguments = [piece for piece in pieces if not piece.startswith("[OPTIONS]")]
    return " ".join([_path_of(ctx), *arguments])


def example_of(ctx: Any) -> str:
    """Return the example of a command's help, or "" if it has none."""
    epilog = ctx.command.epilog or ""
    return str(epilog.removeprefix("[bold]Example:").removesuffix("[/bold]").strip())


def _check_dashes(args: list[str], parameters: list[Any]) -> None:
    """Refuse a long option behind one dash: `-output x` would mean `-o utput`."""
    names = {name for parameter in parameters for name in parameter.opts} | {"--help"}
    for word in args:
        if len(word) > 2 and not word.startswith("--") and f"-{word}" in names:
            raise UsageError(f"No such option: {word}", f"did you mean -{word}?")


def _names_file(word: str) -> bool:
    """Whether a word names a feature file, or anything that exists."""
    return Path(word).suffix.lower() in FEATURE_ENDINGS or Path(word).exists()


def _is_value(word: str) -> bool:
    """Whether a word may be a value of an option: it is no option and no file."""
    return not word.startswith("-") and not _names_file(word)


def _split_example(text: str) -> dict[str, Any]:
    """Return the help and the epilog that Typer shows of a docstring that ends in an example."""
    text = LINE_BREAK.sub(" ", inspect.cleandoc(text))  # Typer joins those of the first paragraph
    help, _, example = text.partition("\n\nExample: ")
    return {"help": help, "epilog": f"[bold]Example:\n\n{example}[/bold]"}


def _set_styles() -> None:
    """Make Typer's help readable on dark and light terminals."""
    from typer import rich_utils  # slow to load

    vars(rich_utils).update(STYLES)


def _without_types(parameters: list[Any]) -> list[Any]:
    """Return parameters whose flags have no `<bool>` in the help, as they take no value."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters


class CommandGroup(TyperGroup):
    """A group that makes a command when it is used, and shows its help if none is given."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**{**attributes, **_split_example(attributes["help"])})

    @property
    def commands(self) -> Any:
        """All commands by their names."""
        ctx: Any = None  # none is needed
        return {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}

    @commands.setter
    def commands(self, _: Any) -> None:
        """Ignore the commands that Typer knows: there are none."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options, which are flags."""
        parameters = _without_types(super().get_params(ctx))
        for parameter in parameters:
            # to check that None is no value, Typer would load pydantic, in 50 ms
            parameter.default = parameter.default or False
        return parameters

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help in readable styles."""
        _set_styles()
        super().format_help(ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Show the help on standard error if there are no arguments."""
        if not args and not ctx.resilient_parsing:
            with contextlib.redirect_stdout(sys.stderr):
                typer.echo(self.get_help(ctx))  # Rich prints it
            raise typer.Exit(UsageError.exit_code)
        if not ctx.resilient_parsing:
            _check_dashes(args[:1], self.params)
        return super().parse_args(ctx, args)


class ClipkitCommand(TyperCommand):
    """A command that also accepts `EVERYWHERE`.

    Typer makes its parameters when they are used: that takes 2 ms, and 50 ms for the first command.
    """

    def __init__(self, name: str, function: Callable[..., Any], panel: str | None = None) -> None:
        super().__init__(
            name,
            callback=lambda **values: self._made.callback(**values),
            **_split_example(str(function.__doc__)),
            rich_help_panel=panel,
        )
        self.function = function

    @functools.cached_property
    def _made(self) -> Any:
        """The command that Typer makes of the function."""
        app = typer.Typer()
        app.command(self.name)(with_typer(expand_groups(with_settings(self.function))))
        return typer.main.get_group(app).commands[str(self.name)]

    @property
    def params(self) -> Any:
        """The arguments and options."""
        return self._made.params

    @params.setter
    def params(self, _: Any) -> None:
        """Ignore that a new command has none."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse further arguments."""
        count = sum(word.partition("=")[0] == "--attribute" for word in args)
        if count > 1 and not any("--attribute" in one.opts and one.multiple for one in self.params):
            raise UsageError(f"expected one --attribute, got {count}", "A*B combines two")
        if not ctx.resilient_parsing:
            _check_dashes(args, self.params)
        ctx.allow_extra_args = True
        typed = list(args)  # Click empties its list
        rest = super().parse_args(ctx, args)
        if ctx.resilient_parsing:
            return rest
        if not hasattr(self.function, "analysis"):  # whose inputs may take each other's place
            check_one_stream(self._inputs(ctx.params))
        if ctx.args:
            further = ctx.args[0]
            hint = self._further_hint(ctx, typed, further) or f"the arguments are: {usage_of(ctx)}"
            raise UsageError(f"expected no further argument, got {further!r}", hint)
        for name in (TEXTS, "words"):  # arguments that may be left out
            further = ctx.params.get(name)
            hint = self._further_hint(ctx, typed, further) if further in typed else ""
            if hint:
                raise UsageError(f"expected no further argument, got {further!r}", hint)
        return rest

    def _inputs(self, values: Mapping[str, Any]) -> list[str]:
        """Return what the arguments and options name that the command reads."""
        options = options_of(expand_groups(with_settings(self.function)))
        names: list[str] = []
        for name, value in values.items():
            record = options.get(name)
            is_read = name != "output" if record is None else record.is_file or record.kinds
            if is_read and value is not None:
                names += value if isinstance(value, list | tuple) else [str(value)]
        return names

    def _further_hint(self, ctx: Any, args: list[str], extra: str) -> str:
        """Return what was meant by an argument too many: another value, or a picture to write."""
        outputs = [one for one in self.params if "--output" in one.opts]
        if Path(extra).suffix.lower() in PICTURES and outputs:
            return f"to write it: {suggestions.again({extra: ['-o', extra]})}"
        has_table = any("--table" in one.opts for one in self.params)
        is_texts = ctx.params.get(TEXTS) == extra  # one's captions may be a table, too
        if has_table and not is_texts and Path(extra).suffix.lower() in ATTRIBUTE_TABLES:
            return f"as a table: {suggestions.again({extra: ['--table', extra]})}"
        if _names_file(extra):
            return ""
        place = args.index(extra)
        start = place - 1
        before = args[start]
        flags = [one for one in self.get_params(ctx) if getattr(one, "is_flag", False)]
        if any(before in one.opts for one in flags):
            return f"{before} takes no value"
        while start > 0 and not args[start].startswith("-"):
            start -= 1
        values = list(itertools.takewhile(_is_value, args[start + 1 :]))
        options = options_of(expand_groups(with_settings(self.function)))
        for record in options.values():
            if len(values) > 1 and record.has_commas and args[start] in record.names:
                return f"separate several by commas: {suggestions.with_commas(values)}"
        return ""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, and `EVERYWHERE`, hidden."""
        parameters = _without_types(list(super().get_params(ctx)))
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
            raise UsageError("expected -q or -v, got both", "leave out one of them")
        console.set_quiet(quiet)
        console.set_verbose(verbose)
        return super().invoke(ctx)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help in readable styles."""
        _set_styles()
        super().format_help(ctx, formatter)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage line. Hidden arguments, which have no name, give none."""
        return [piece for piece in super().collect_usage_pieces(ctx) if piece != "[]"]


def _path_of(ctx: Any) -> str:
    """Return the command of a line, such as `clipkit plot temperature`, also of `python -m`."""
    names = ctx.command_path.removeprefix(ctx.find_root().command_path)
    return f"clipkit{names}"
