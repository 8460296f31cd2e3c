"""`clipkit report`: report a results folder as one page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from clipkit.commands._options import OUTPUT, Force, check_output, option


def _check_page(ctx: typer.Context, output: str) -> str | None:
    """Refuse an unusable output; a page may go to a terminal."""
    return output if output == "-" else check_output(ctx, output)


def report(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Results folder of the Makefile's chapters.")
    ],
    untrained: Annotated[
        str | None,
        option("FOLDER", "Results folder of the untrained control, shown in a separate column."),
    ] = None,
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
    from clipkit.report import markdown

    page = markdown(Path(folder), None if untrained is None else Path(untrained))
    if output == "-":
        sys.stdout.write(page)
        return
    with files.atomic_write(output, force=force) as path:
        path.write_text(page, encoding="utf-8")
