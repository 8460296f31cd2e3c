"""Format the runs of a result for reading, and say what they found."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from clipkit.analysis.layout import DEFAULT, Layout
from clipkit.analysis.question import Analysis
from clipkit.analysis.results import (
    RECALLS,
    Row,
    chances_of_runs,
    columns_of,
    newest_entry,
    recalls_of_runs,
)
from clipkit.base import tables
from clipkit.base.cells import Headings
from clipkit.base.errors import ClipkitError, unknown
from clipkit.base.views import of_command
from clipkit.features.arguments import Features, as_file, checked
from clipkit.features.columns import OWN_QUESTION
from clipkit.features.model import FeatureFile, known_columns
from clipkit.statistics.claims import STEPS, with_steps
from clipkit.statistics.main_number import MAJORITY, RECALL_CHANCE

Rows = Sequence[Mapping[str, Any]]
OF_UNEQUAL = {RECALL_CHANCE, MAJORITY}  # columns that the runs of equal classes have if chosen


def rows_for_people(result: FeatureFile, rows: Rows | None = None) -> Rows:
    """Return the cells of the runs, or of other rows about a result, as its question lays it out.

    Runs and other rows have the columns that the result's command may report.
    """
    known = known_columns(result)
    if rows is not None:
        return DEFAULT.show(rows, known)
    return _layout(result).show(rows_with_chance(result), known)


def _layout(result: FeatureFile) -> Layout:
    """Return how a result is shown; another program's result has the layout of no question."""
    question: Analysis | None = of_command(str(newest_entry(result)["command"]))
    if question is None or not question.layout.fits([*result.runs]):
        return DEFAULT
    return question.layout


@checked
def as_table(result: Features, format: Literal["markdown", "latex"] = "markdown") -> str:
    """Return the runs of a result as a table for a paper, and below it what they show."""
    result = as_file(result, "result")
    if format not in ("markdown", "latex"):
        raise unknown("format", str(format), ["markdown", "latex"])
    columns = tables.columns_for_people(rows_for_people(result), [headings(result)])
    return tables.as_markup(columns, format, findings(result))


def headings(result: FeatureFile) -> Headings:
    """Return what people read above the columns of a result's reports."""
    titles = _layout(result).titles
    known = known_columns(result)
    headings = {name: column.heading for name, column in known.items()}
    for name in titles.keys() & headings.keys():
        headings[name] = headings[name]._replace(title=titles[name])
    return headings


def rows_with_chance(result: FeatureFile, chosen: Collection[str] = ()) -> list[Row]:
    """Return the runs with what their permuted predictions give, if known, beside an accuracy.

    Of unequal classes, the mean recall comes before the accuracy, with its interval and its chance,
    and the share of the most frequent class behind it. Of equal classes, only `chosen` ones do.
    """
    rows, names = result.rows(), list(result.runs)
    chances = chances_of_runs(result)
    if "acc1" not in names or all(map(math.isnan, chances)):
        return rows
    recalls = recalls_of_runs(result, of_equal=not OF_UNEQUAL.isdisjoint(chosen))
    before: list[str] = []
    behind = ["chance"]
    if any(recalls):
        before, behind = [*RECALLS], ["chance", MAJORITY]
        names = [name for name in names if name not in before]
    place = names.index("acc1")
    names[place : place + 1] = [*before, "acc1", *behind]
    for row, of_run, numbers in zip(rows, chances, recalls, strict=True):
        row["chance"] = of_run
        row.update(numbers)
    return [{name: row.get(name, math.nan) for name in names} for row in rows]


def findings(result: FeatureFile, steps: Mapping[str, str] = STEPS) -> list[str]:
    """Return what a result found, in sentences, as the record of its question says it.

    `steps` are what would decide what is not decided; see `claims.with_steps`.
    """
    command = str(newest_entry(result)["command"])
    if command == OWN_QUESTION:  # it was found when the question was asked
        return [str(sentence) for sentence in newest_entry(result).list_of("found")]
    question = of_command(command)
    if question is None:
        return []
    try:
        columns_of(result, command, question.needs)
    except ClipkitError:  # another program's columns
        return []
    return with_steps(list(filter(None, question.findings(result))), steps)
