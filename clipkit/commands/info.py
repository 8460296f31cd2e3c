"""`clipkit info`: describe feature files or models, and print the runs of results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipkit import console
from clipkit.commands._options import (
    Format,
    NoHeader,
    PerClass,
    ReportColumns,
    report_rows,
)
from clipkit.errors import ClipkitError

if TYPE_CHECKING:
    from clipkit.tables import Row, View


def info(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE|MODEL]...", help="Feature files or models (default: standard input)."
        ),
    ] = None,
    runs: Annotated[
        bool,
        typer.Option("--runs", help="Print the reports of saved results again."),
    ] = False,
    per_class: PerClass = False,
    format: Format = None,
    columns: ReportColumns = None,
    no_header: NoHeader = False,
) -> int:
    """Describe the content and the history of a feature file, or the sizes of a model.

    The command reads the whole file and checks it against its digests. With --runs, it prints the
    report of a result again. The rows of several results have columns for model, dataset, prompts
    and file where these differ.

    Example: clipkit info img.h5; clipkit info --runs probe.h5 zeroshot.h5
    """
    from clipkit import files, tables

    names = what or ["-"]
    exit_code = 0
    files.check_one_stream(names)
    view = tables.View(format, columns, no_header)
    if runs or per_class:
        reports = _reports(names, view, per_class)
    else:
        is_json = tables.chosen_format(format) == "json"
        reports, exit_code = _describe_all(names, is_json)
    tables.emit(tables.join(reports), view)
    return exit_code


def _describe_all(names: list[str], is_json: bool) -> tuple[list[list[Row]], int]:
    """Describe files and models, warn of those that cannot be read, and return the exit code.

    If none can be read, the error of the last one is raised.
    """
    reports: list[list[Row]] = []
    exit_code = 0
    for name in names:
        try:
            rows = _describe(name, is_json)
        except ClipkitError as error:
            if name == names[-1] and not reports:
                raise
            console.warn(error.with_hint())
            exit_code = error.exit_code
            continue
        if len(names) > 1:
            rows = _named(rows, name, is_json)
        reports.append(rows)
    return reports, exit_code


def _reports(names: list[str], view: View, per_class: bool) -> list[list[Row]]:
    """Return the rows of each result's report, with columns that tell the results apart."""
    from clipkit import features
    from clipkit.features.provenance import identities
    from clipkit.per_class import per_class_rows

    results = [features.read(name, kinds=["result"]) for name in names]
    reports: list[list[Row]] = []
    for result, identity in zip(results, identities(results), strict=True):
        if view.columns is not None:
            identity = {"file": result.display_name, **identity}
        rows = per_class_rows(result) if per_class else None
        reports.append([{**identity, **row} for row in report_rows(result, view, rows)])
    return reports


def _describe(name: str, is_json: bool) -> list[Row]:
    """Return the object that describes a file or model, or its rows of field and value."""
    from clipkit import features, files
    from clipkit.features.describe import abridge, describe, flatten

    path = Path(name)
    is_file = path.exists() and not path.is_dir()
    if name in ("-", "") or is_file or path.suffix.lower() in files.KNOWN_ENDINGS:
        with features.open_file(name) as file:
            description = describe(file)
        return [description] if is_json else [*abridge(description)]
    from clipkit import models

    with console.progress("reading the model"):
        sizes = models.describe_model(name)
    if is_json:
        return [sizes]
    return [{"field": field, "value": value} for field, value in flatten(sizes, " ").items()]


def _named(rows: list[Row], name: str, is_json: bool) -> list[Row]:
    """Return the description of one of several files with the file's name."""
    if is_json:
        return [{"file": name, **row} for row in rows]
    return [{"field": "file", "value": name}, *rows]
