"""What all commands share: how help looks, options behind the command, earlier option names."""

from __future__ import annotations

import copy
import itertools
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typer.core import TyperCommand, TyperGroup

from clipkit.base import console
from clipkit.base.errors import ClipkitError, InputError, UsageError
from clipkit.base.options import Option
from clipkit.commands import _completion as completion
from clipkit.commands._options import options_with_value, replace_earlier_names

EVERYWHERE = ("quiet", "verbose", "debug")  # options that a command also accepts behind it
EXAMPLE = re.compile(r"(?<=^Example: )\S.*(?:\n.+)*", re.MULTILINE)  # the command line


def with_bright_example(command: Any) -> Any:
    """Return a command as its help shows it: the example is code, and no text is dim."""
    from typer import rich_utils  # slow to load, and only for help

    rich_utils.STYLE_HELPTEXT = ""  # Typer dims what follows the first paragraph
    shown = copy.copy(command)
    shown.help = EXAMPLE.sub(r"`\g<0>`", command.help or "")
    return shown


class HelpGroup(TyperGroup):
    """A group of commands whose help has a bright example."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        TyperGroup.format_help(with_bright_example(self), ctx, formatter)


class ClipkitCommand(TyperCommand):
    """A command that also accepts `EVERYWHERE`, and earlier names of its options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Replace the earlier names of options."""
        words = replace_earlier_names(_path_of(ctx), args)
        count = sum(word.partition("=")[0] == "--attribute" for word in words)
        if count > 1 and not any("--attribute" in one.opts and one.multiple for one in self.params):
            raise UsageError(f"expected one --attribute, got {count}", "A*B combines two")
        ctx.allow_extra_args = True  # they are refused below, with what to type
        rest = super().parse_args(ctx, words)
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

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        TyperCommand.format_help(with_bright_example(self), ctx, formatter)

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
