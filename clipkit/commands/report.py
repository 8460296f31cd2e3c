"""`clipkit report`: a results folder as one page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from clipkit.commands._options import Force


def report(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Results of the Makefile's chapters.")
    ],
    untrained: Annotated[
        str | None,
        typer.Option(
            "--untrained", metavar="FOLDER", help="The untrained twin's results, for a column."
        ),
    ] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="The page; - is standard output.")
    ] = "-",
    force: Force = False,
) -> None:
    """Set what was found beside what the thesis printed: a Markdown page of the results in a folder.

    It says what ran, compares each experiment, shows the controls that the thesis lacks, and refers to the pictures.

    Example: clipkit report results/tiny-shapes -o results/tiny-shapes/report.md
    """
    from clipkit import files
    from clipkit import report as room

    if output != "-":
        files.check_output(output, force=force)
    text = room.markdown(Path(folder), None if untrained is None else Path(untrained))
    if output == "-":
        sys.stdout.write(text)
        return
    with files.atomic_write(output, force=force) as path:
        path.write_text(text, encoding="utf-8")
