"""`clipkit info`: describe feature files or models, and print the runs of results."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from clipkit.analysis.options import PerClass
from clipkit.base import console
from clipkit.base.errors import ClipkitError
from clipkit.base.options import flag
from clipkit.commands._options import SKIPPED, Format, NoHeader, ReportColumns, report_rows

if TYPE_CHECKING:
    from clipkit.base.cells import Headings
    from clipkit.base.tables import Row, View
    from clipkit.features.model import FeatureFile

T = TypeVar("T")


def info(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE|MODEL", help="Feature files or models (default: standard input)."
        ),
    ] = None,
    runs: Annotated[
        bool,
        flag("--runs", "Print the reports of saved results again."),
    ] = False,
    per_class: PerClass = False,
    format: Format = None,
    columns: ReportColumns = None,
    no_header: NoHeader = False,
) -> int:
    """Describe the content and the history of a feature file, or the sizes of a model.

    The command reads the whole file and checks it against its digests. -v adds the parameters of
    all commands that made it, and --format json what is shortened. With --runs, it prints the
    report of a result again. The rows of several results have a column for the file, and for
    model, dataset and prompts where these differ.

    Example: clipkit info img.h5; clipkit info --runs probe.h5 zeroshot.h5
    """
    from clipkit import features
    from clipkit.base import tables

    names = what or ["-"]
    view = tables.View(format, columns, no_header)
    is_json = tables.chosen_format(format) == "json"
    if runs or per_class:
        results, exit_code = _each(names, partial(features.read, kinds=["result"]))
        reports = _reports(results, view, per_class)
        view = view._replace(headings=_headings_of_rows(results, reports))
        notes = _notes(results) if view.is_for_people else []
    else:
        describe = partial(_describe, is_json=is_json, is_named=len(names) > 1)
        reports, exit_code = _each(names, describe)
        notes = []
    tables.emit(tables.join(reports), view, notes)
    return exit_code


def _each(names: list[str], read: Callable[[str], T]) -> tuple[list[T], int]:
    """Read files and models, and return those that can be read, and the exit code.

    Warn of the others. If none can be read, raise the error of the last one.
    """
    done: list[T] = []
    for name in names:
        try:
            done.append(read(name))
        except ClipkitError as error:
            if name == names[-1] and not done:
                raise
            console.warn(str(error))
    if len(done) < len(names):
        return done, SKIPPED
    return done, 0


def _reports(results: list[FeatureFile], view: View, per_class: bool) -> list[list[Row]]:
    """Return the rows of each result's report, with columns that distinguish the results."""
    from clipkit.analysis.results import caveat_notes, per_class_rows
    from clipkit.features.provenance import identities

    reports: list[list[Row]] = []
    for result, identity in zip(results, identities(results), strict=True):
        for note in caveat_notes({result.display_name: result}):
            console.warn(note)
        if view.columns is not None or len(results) > 1:
            identity = {"file": result.display_name, **identity}
        rows = per_class_rows(result) if per_class else None
        reports.append([{**identity, **row, **identity} for row in report_rows(result, view, rows)])
    return reports


def _notes(results: list[FeatureFile]) -> list[str]:
    """Return what each result found, behind its name if there are several."""
    from clipkit.analysis.for_people import findings

    notes = []
    for result in results:
        prefix = f"{result.display_name}: " if len(results) > 1 else ""
        notes += [f"{prefix}{sentence}" for sentence in findings(result)]
    return notes


def _headings_of_rows(results: list[FeatureFile], reports: list[list[Row]]) -> list[Headings]:
    """Return what people read above the columns of each row: a name has the unit of its command."""
    from clipkit.analysis.for_people import headings

    of_rows: list[Headings] = []
    for result, report in zip(results, reports, strict=True):
        of_rows += [headings(result)] * len(report)
    return of_rows


def _describe(name: str, *, is_json: bool, is_named: bool) -> list[Row]:
    """Return the object that describes a file or model, or its rows of field and value.

    Both have the name of the file or model if it is one of several.
    """
    description, rows = _read(name, is_verbose=console.is_verbose())
    if is_json:
        return [{"file": name, **description} if is_named else description]
    if is_named:
        rows = [{"field": "file", "value": name}, *rows]
    return rows


def _read(name: str, *, is_verbose: bool) -> tuple[dict[str, Any], list[Row]]:
    """Return the description of a file or model, and the same as rows of field and value."""
    from clipkit import features
    from clipkit.features import endings
    from clipkit.features.overview import abridge, flatten, overview, summarize

    path = Path(name)
    is_file = path.exists() and not path.is_dir()
    if name in ("-", "") or is_file or path.suffix.lower() in endings.KNOWN_ENDINGS:
        with features.open_file(name) as file:
            description = overview(file)
        summary = abridge(description) if is_verbose else summarize(description)
        return description, [*summary]
    from clipkit import models

    models.check_name(name)
    with console.progress("reading the model"):
        sizes = models.describe_model(name)
    values = flatten(sizes, " ").items()
    return sizes, [{"field": field, "value": value} for field, value in values]
