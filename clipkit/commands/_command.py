"""What all commands share: how help looks, options behind the command, earlier option names."""

from __future__ import annotations

import copy
import re
from typing import Any

from typer.core import TyperCommand, TyperGroup

from clipkit.base import console
from clipkit.base.errors import UsageError
from clipkit.commands._options import replace_earlier_names

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
        words = replace_earlier_names(ctx.command_path, args)
        count = sum(word.partition("=")[0] == "--attribute" for word in words)
        if count > 1 and not any("--attribute" in one.opts and one.multiple for one in self.params):
            raise UsageError(f"expected one --attribute, got {count}", "A*B combines two")
        return super().parse_args(ctx, words)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, and `EVERYWHERE`, hidden."""
        parameters = list(super().get_params(ctx))
        for parameter in ctx.find_root().command.params:
            if parameter.name in EVERYWHERE:
                parameter = copy.copy(parameter)
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
        return super().invoke(ctx)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        TyperCommand.format_help(with_bright_example(self), ctx, formatter)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage line. Hidden arguments, which have no name, give none."""
        return [piece for piece in super().collect_usage_pieces(ctx) if piece != "[]"]
