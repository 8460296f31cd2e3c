"""`clipkit report`: report results as one page."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from clipkit.base.errors import UsageError
from clipkit.base.options import OUTPUT_PANEL, option
from clipkit.commands._options import OUTPUT, SKIPPED, Force, check_output, option_table

HTML_ENDINGS = (".html", ".htm")
MARKDOWN_ENDINGS = (".md", "")
MAX_IMAGES = 1000


def _check_page(ctx: typer.Context, output: str) -> str | None:
    """Refuse an unusable output; a page may go to a terminal."""
    if output == "-":
        return output
    if not _is_html(output) and Path(output).suffix.lower() not in MARKDOWN_ENDINGS:
        raise UsageError(
            f"{output}: expected a page that ends in .html or .md", "choose -o report.html"
        )
    return check_output(ctx, output)


def _is_html(output: str) -> bool:
    return Path(output).suffix.lower() in HTML_ENDINGS


def _check_names(names: list[str]) -> list[str]:
    """Refuse the empty name: it is the current folder, if a variable is not set."""
    if "" in names:
        raise UsageError("expected the name of a folder, got ''")
    return names


def _parse_names(values: list[str]) -> dict[str, str]:
    """Parse the published names of the model and the data set of results."""
    names: dict[str, str] = {}
    for value in values:
        key, _, name = value.partition("=")
        if key not in ("model", "dataset") or not name or key in names:
            expected = "model=NAME or dataset=NAME, each once"
            raise UsageError(f"--same-as: expected {expected}, got {value!r}")
        names[key] = name
    return names


def report(
    ctx: typer.Context,
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="FOLDER|FILE",
            help="Result files, folders of them, or - for standard input. The pictures in a "
            "folder are shown, too.",
            callback=_check_names,
        ),
    ],
    control: Annotated[
        list[str],
        option(
            "FOLDER",
            "Folder with the results of an untrained control, to compare with; repeatable.",
            is_file=True,
            check=lambda _, names: _check_names(names),
        ),
    ] = [],  # noqa: B006
    expected: Annotated[
        str | None,
        option(
            "TABLE", "A .tsv of published figures, to set beside what was measured.", is_file=True
        ),
    ] = None,
    same_as: Annotated[
        list[str],
        option(
            "KEY=NAME",
            "With --expected: the published name of the model (model=NAME) or data set "
            "(dataset=NAME) of all results; repeatable.",
        ),
    ] = [],  # noqa: B006
    output: Annotated[
        str,
        option(
            "FILE",
            "Output page, .html or .md, or - for Markdown on standard output.",
            *OUTPUT,
            check=_check_page,
            panel=OUTPUT_PANEL,
        ),
    ] = "-",
    images: Annotated[
        list[str],
        option(
            "DATASET",
            "Show images of this data set, as given to clipkit embed; repeat to name several "
            "files or folders. For an .html page.",
            completes="datasets",
        ),
    ] = [],  # noqa: B006
    album: Annotated[
        int | None,
        option(
            "N",
            "Maximum number of images to show with --images, up to 1000 (default: 200).",
            min=1,
            max=MAX_IMAGES,
        ),
    ] = None,
    root: Annotated[
        str | None, option("FOLDER", "Folder that holds the data set of --images.")
    ] = None,
    force: Force = False,
) -> int:
    """Report results as one page: Markdown, or HTML that holds the pictures and needs no server.

    The page says what the files hold, compares results on the same images with each other and with
    untrained controls, and sets them beside published figures. Files that are missing or damaged
    are left out and named, and the exit code is then 3.

    Example: clipkit report results --control untrained --expected paper.tsv -o page.html
    """
    from clipkit.base import files
    from clipkit.report.html import as_html
    from clipkit.report.markdown import as_markdown
    from clipkit.report.questions import of_files

    is_html = _is_html(output)
    if images and not is_html:
        raise UsageError(
            f"--images: expected an output that ends in .html, got {output}",
            "write a page: -o report.html",
        )
    for name, value in (("--root", root), ("--album", album)):
        if value is not None and not images:
            raise UsageError(f"{name} is for --images, which is not given")
    names = _parse_names(same_as)
    if names and not expected:
        raise UsageError("--same-as is for --expected, which is not given")
    if output != "-":
        inputs = [*what, expected] if expected else what
        files.check_output(output, force=force, inputs=inputs)
    commands = option_table(ctx.find_root().command)
    with contextlib.ExitStack() as stack:  # an album reads features of files that are checked once
        kept = stack if images else None
        paths, controls = list(map(Path, what)), list(map(Path, control))
        page = of_files(paths, controls, expected, commands, kept, names)
        shown = None
        if images:
            from clipkit.report.album import LIMIT, read_album

            shown = read_album(page, images, album or LIMIT, root=root)
    text = as_html(page, shown) if is_html else as_markdown(page)
    if output == "-":
        sys.stdout.write(text)
    else:
        with files.atomic_write(output, force=force) as path:
            path.write_text(text, encoding="utf-8")
    return SKIPPED if page.left_out else 0
