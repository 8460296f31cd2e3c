"""`clipkit report`: report a results folder as one page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from clipkit.commands._options import OUTPUT, Force, check_output, option
from clipkit.errors import UsageError


def _check_page(ctx: typer.Context, output: str) -> str | None:
    """Refuse an unusable output; a page may go to a terminal."""
    return output if output == "-" else check_output(ctx, output)


def _check_folder(folder: str) -> str:
    """Refuse the empty name, which an unset variable of a shell gives: it is the current folder."""
    if folder == "":
        raise UsageError("expected the name of a folder, got ''")
    return folder


def report(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER",
            help="Results folder of the Makefile's chapters.",
            callback=_check_folder,
        ),
    ],
    untrained: Annotated[
        list[str],
        option("FOLDER", "Results folder of an untrained control, for a column; repeatable."),
    ] = [],  # noqa: B006
    output: Annotated[
        str,
        option("FILE", "Output page, or - for standard output.", *OUTPUT, callback=_check_page),
    ] = "-",
    force: Force = False,
) -> None:
    """Report a folder's results as a Markdown page, next to the figures of the thesis.

    The page says what ran, compares each experiment with the thesis, adds the controls that the
    thesis lacks, and shows the pictures.

    Example: clipkit report results/tiny-shapes -o results/tiny-shapes/report.md
    """
    from clipkit import files
    from clipkit.report import as_markdown, of_folder

    page = of_folder(Path(folder), [Path(_check_folder(name)) for name in untrained])
    if Path(output).suffix.lower() in (".html", ".htm"):
        from clipkit.report.html import as_html

        text = as_html(page)
    else:
        text = as_markdown(page)
    if output == "-":
        sys.stdout.write(text)
        return
    with files.atomic_write(output, force=force) as path:
        path.write_text(text, encoding="utf-8")
