"""`clipkit run`: ask a question of one's own, which a Python file holds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from clipkit.base import console, suggestions
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.commands._command import ClipkitCommand, CommandGroup
from clipkit.commands.analysis import command_of


class RunGroup(CommandGroup):
    """Take a Python file in the place of a command."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return no names: any Python file is a command."""
        return []

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of a file, if it is one of Python."""
        if ctx is None or (ctx.resilient_parsing and not Path(cmd_name).is_file()):
            return None
        return _command(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command of the file that the first argument names."""
        name = args[0]
        if not name.endswith(".py"):
            raise UsageError(
                f"expected a Python file, such as needed.py, got {name!r}",
                "docs/own-analysis.md has an example",
            )
        if "--check" in args:
            if len(args) > 2:
                alone = suggestions.command("clipkit", "run", name, "--check")
                raise UsageError("expected --check alone", alone)
            return name, _check_command(name), []
        return name, self.get_command(ctx, name), args[1:]


run = typer.Typer(
    cls=RunGroup,
    subcommand_metavar="FILE.py [ARGS]...",
    help="""Ask a question of one's own: FILE.py has its function and a record ANALYSIS.

    It gets what all commands have: `clipkit run FILE.py --help`, pipes, tables, TSV, pictures and
    a section of a report. With --check alone, its answers are tried on small made-up files. The
    code of FILE.py runs, so use files that you trust.

    Example: clipkit run needed.py logits.h5
    """,
)


def _command(name: str) -> ClipkitCommand:
    """Return the command of a file."""
    from clipkit.analysis import own

    return ClipkitCommand(name, command_of(own.load(name)))


def _check_command(name: str) -> ClipkitCommand:
    """Return the command that tries a question on small files."""

    def check() -> None:
        """Try the question on small made-up files.

        Example: clipkit run needed.py --check
        """
        from clipkit.analysis import own
        from clipkit.commands import contract
        from clipkit.report.html import as_html
        from clipkit.report.markdown import as_markdown
        from clipkit.report.questions import of_files

        analysis = own.load(name)

        def make_pages(path: Path) -> list[str]:
            page = of_files([path])
            return [as_html(page), as_markdown(page)]

        broken = contract.check(analysis, make_pages)
        for sentence in broken:
            sys.stdout.write(f"{console.escaped(sentence)}\n")
        if broken:
            promises = "1 promise" if len(broken) == 1 else f"{len(broken)} promises"
            raise ClipkitError(f"{name}: the question breaks {promises}")
        sys.stdout.write(f"{name}: keeps the promises of a question\n")

    return ClipkitCommand(name, check)
