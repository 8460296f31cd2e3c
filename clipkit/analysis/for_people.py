"""Format the runs of a result for reading, and say what they found."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from clipkit.analysis import of_command
from clipkit.analysis.results import (
    RUN_SETTINGS,
    Row,
    chance,
    columns_of,
    newest_entry,
)
from clipkit.base import tables
from clipkit.base.errors import ClipkitError, unknown
from clipkit.base.names import select
from clipkit.base.tables import NO_BREAK, format_p
from clipkit.features.arguments import Features, as_file, checked
from clipkit.features.columns import columns_of_command
from clipkit.features.model import OWN_QUESTION, FeatureFile, known_columns
from clipkit.statistics import metrics

SHOWN = 3  # attributes of each prompt
SMALL = 0.1  # share, below which one of `threshold` has two decimals
# Columns of `calibrate` for which 80 columns have no room
UNSHOWN_CALIBRATION = (
    *("fitted", "low", "high", "information"),
    *("ece_null", "ece_null975", "ece_equal_width"),
)

Rows = Sequence[Mapping[str, Any]]


def rows_for_people(result: FeatureFile) -> Rows:
    """Return the runs, formatted for reading if the command that made them is one of FORMATTERS."""
    rows = rows_with_chance(result)
    command = newest_entry(result)["command"]
    if not rows or command not in FORMATTERS:
        return rows
    needed, formatter = FORMATTERS[command]
    if needed not in rows[0]:  # another program's columns
        return rows
    return formatter(rows)


@checked
def as_table(result: Features, format: Literal["markdown", "latex"] = "markdown") -> str:
    """Return the runs of a result as a table for a paper, and below it what they show."""
    result = as_file(result, "result")
    if format not in ("markdown", "latex"):
        raise unknown("format", str(format), ["markdown", "latex"])
    columns = tables.columns_for_people(rows_for_people(result), [headings(result)])
    return tables.as_markup(columns, format, findings(result))


def headings(result: FeatureFile) -> tables.Headings:
    """Return what people read above the columns of a result's reports."""
    return {name: column.heading for name, column in known_columns(result).items()}


def rows_with_chance(result: FeatureFile) -> list[Row]:
    """Return the runs with the share of the most frequent class, if known, beside an accuracy."""
    rows, names = result.rows(), list(result.runs)
    chances = {name: chance(split.labels) for name, split in result.splits.items()}
    if "acc1" not in names or all(map(math.isnan, chances.values())):
        return rows
    names.insert(names.index("acc1") + 1, "chance")
    for row, split in zip(rows, result.split_of_runs, strict=True):
        row["chance"] = chances.get(split, math.nan)
    return [{name: row[name] for name in names} for row in rows]


def _calibration_rows(rows: Rows) -> list[Row]:
    """Format the rows of `calibrate` for 80 columns; the fitted temperature has an interval."""
    formatted = []
    for row in rows:
        temperature = _cell(row, "temperature", ".4g", scale=1, limits=("low", "high"))
        hidden = dict.fromkeys(UNSHOWN_CALIBRATION)
        formatted.append({**row, **hidden, "temperature": temperature})
    return formatted


def attribute_rows(rows: Rows) -> list[Row]:
    """Format the rows of `attributes`: percent or, of errors, numbers; intervals and ranges."""
    formatted = []
    unit, form, scale = " %", ".1f", 100
    if "null5" in rows[0]:  # errors
        unit, form, scale = "", ".4g", 1
    for row in rows:
        cells = select(row, ("attribute", "metric", "values", "positives", "rows"))
        for name in ("chance", "null", "zeroshot", "names", "random", "probe", "control"):
            if name in row:
                cells[name + unit] = _cell(row, name, form, scale=scale)
            if name == "zeroshot":
                mean = _cell(row, "other_words", form, scale=scale)
                highest = _cell(row, "other_words95", form, scale=scale)
                cells["other words (95 %)" + unit] = mean and f"{mean} ({highest})"
        cells["reach"] = _cell(row, "reach", ".2f", scale=1)
        formatted.append(cells)
    return formatted


def _comparison_rows(rows: Rows) -> list[Row]:
    """Format the rows of `compare`. For one result, the interval is of its accuracy.

    Of several pairs, `p` is Holm's. With groups or several pairs, the cells are those that fit 80
    columns.
    """
    p = "p_holm" if "p_holm" in rows[0] else "p"
    formatted = []
    for row in rows:
        if "scope" in row:
            cells = _group_cells(rows, row)
        elif len(rows) > 1:
            cells = _one_of_pairs_cells(row)
        else:
            cells = _pair_cells(row)
        cells[p] = _number(row, p)
        formatted.append(cells)
    return formatted


def _pair_cells(row: Mapping[str, Any]) -> Row:
    """Return a row of `compare` for all images."""
    cells = select(row, ("a", "b", "rows", "clusters")) | _accuracy_cells(row, ".2f")
    cells["mde80 (points)"] = _cell(row, "mde80", ".2f")
    for name in ("only_a", "only_b", "kappa"):
        cells[name] = round(_number(row, name), 2)
    return cells


def _one_of_pairs_cells(row: Mapping[str, Any]) -> Row:
    """Return a row of `compare` for one of several pairs."""
    cells = select(row, ("a", "b", "rows", "clusters")) | _accuracy_cells(row, ".1f")
    cells["mde80"] = _cell(row, "mde80", ".1f")
    return cells | {name: round(_number(row, name), 2) for name in ("only_a", "only_b")}


def _accuracy_cells(row: Mapping[str, Any], form: str) -> Row:
    """Return the accuracies of a row of `compare`, and their difference with its interval."""
    cells: Row = {f"{name} %": _cell(row, name, form) for name in ("acc_a", "acc_b")}
    if math.isnan(_number(row, "difference")):
        cells["acc_a %"] = _cell(row, "acc_a", form, limits=("low", "high"))
    points = _cell(row, "difference", f"+{form}", limits=("low", "high"), between=" to ")
    cells["difference (points)"] = points and points.replace(" ", NO_BREAK)
    return cells


def _group_cells(rows: Rows, row: Mapping[str, Any]) -> Row:
    """Return a row of `compare` by group; the worst group is named after its result.

    A single pair has the same names in all rows, so that they move below the table.
    """
    cells: Row = {"a": rows[0]["a"]}
    if "b" in row:
        is_one_pair = rows[0]["b"] == rows[-1]["b"]
        cells["b"] = rows[0]["b"] if is_one_pair else row["b"]
    cells["group"] = row["group"]
    if row["scope"] == "all":
        cells["group"] = "all images"
    elif row["scope"] == "worst":
        name, null = row["a"] or row.get("b"), _cell(row, "null5", ".1f")
        cells["group"] = f"worst of {name}: {row['group']} (null5 {null} %)"
    return cells | select(row, ("rows", "clusters")) | _accuracy_cells(row, ".1f")


def _draw_rows(rows: Rows) -> Rows:
    """Return the mean over the draws of `probe --shots`, with the range of their accuracies."""
    by_settings: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    names = [name for name in RUN_SETTINGS if name in rows[0] and name != "draw"]
    for row in rows:
        key = tuple(str(row[name]) for name in names)  # as text, NaN is equal to itself
        by_settings.setdefault(key, []).append(row)
    if len(by_settings) == len(rows):
        return rows
    return [_mean_of_draws(draws) for draws in by_settings.values()]


def _mean_of_draws(draws: Rows) -> Row:
    cells: Row = {}
    for name, value in draws[0].items():
        values = [_number(row, name) for row in draws]
        if name == "draw":
            cells["draws"] = len(draws)
        elif name == "acc1":
            ends = {"mean": float(np.mean(values)), "low": min(values), "high": max(values)}
            cells["accuracy (range) %"] = _cell(ends, "mean", ".2f", limits=("low", "high"))
        elif name not in RUN_SETTINGS and not math.isnan(values[0]):
            cells[name] = float(np.mean(values))
        else:
            cells[name] = value
    return {name: cell for name, cell in cells.items() if name not in ("acc1_low", "acc1_high")}


def _importance_rows(rows: Rows) -> list[Row]:
    """Format the costs of `importance`."""
    formatted = []
    for row in rows:
        hidden = dict.fromkeys(("low", "high", "cost", "changed"))
        points = _cell(row, "cost", "+.2f", limits=("low", "high"), between=" to ")
        changed = _cell(row, "changed", ".2f")
        formatted.append({**row, **hidden, "cost (points)": points, "changed %": changed})
    return formatted


def _retrieval_rows(rows: Rows) -> list[Row]:
    """Return a row for each task and measure of `retrieve`."""
    formatted: list[Row] = []
    by_task: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_task.setdefault(row["split"], []).append(row)
    for task, of_task in by_task.items():
        first = of_task[0]
        sizes = f"{first['queries']:,.0f} among {first['candidates']:,.0f}"
        if "clusters" in first:
            sizes += f", in {first['clusters']:,.0f} clusters"
        cells = {"task": task, "measure": "queries", "value": sizes}
        formatted.append({**cells, "by chance": None, "control": None})
        for row in of_task:
            formatted.append(_measure(row, f"recall@{row['k']:g} %", "recall", ".2f"))
        formatted.append(_measure(first, "median rank", "median_rank", ".4g", scale=1))
        formatted.append(_measure(first, "MRR", "mrr", ".4f", scale=1))
        for name in ("gap", "relative_gap", "hubness"):
            if name in first:
                formatted.append(_measure(first, name.replace("_", " "), name, ".4f", scale=1))
    return formatted


def _measure(row: Mapping[str, Any], title: str, name: str, form: str, scale: float = 100) -> Row:
    cells: Row = {"task": row["split"], "measure": title}
    cells["value"] = _cell(row, name, form, scale=scale)
    for what, column in (("by chance", "null"), ("control", "control")):
        cells[what] = _cell(row, f"{name}_{column}", form, scale=scale)
    tests = {"recall": ("control", "control_p", math.nan)}
    tests["gap"] = ("by chance", "gap_p", _number(row, "p_min"))
    what, p_name, least = tests.get(name, ("control", "", math.nan))
    p = _p_cell(row, p_name, least)
    if p is not None:
        cells[what] += f" (p {p})"
    return cells


def _choice_rows(rows: Rows) -> list[Row]:
    """Format the accuracies of `choose` beside their nulls and the control, in percent."""
    known = columns_of_command("choose")
    formatted = []
    for row in rows:
        cells: Row = {"measure": row["split"], "category": row["category"], "items": row["items"]}
        for name in ("accuracy", "shuffled", "angle", "ceiling"):
            cells[f"{known[name].heading.title} %"] = _cell(row, name, ".1f")
        cells["images shuffled %"] = _mean_and_95(row, "shuffled", ".1f")
        cells["control %"] = _cell(row, "accuracy_control", ".1f")
        cells["control p"] = _p_cell(row, "control_p", math.nan)
        formatted.append(cells)
    return formatted


def _threshold_rows(rows: Rows) -> list[Row]:
    """Format the rates of `threshold` for 80 columns: only small ones have two decimals."""
    rates = ("tpr", "fpr", "auroc")
    limits = {f"{name}_{end}" for name in rates for end in ("low", "high")}
    formatted = []
    for row in rows:
        cells: Row = {}
        for name, value in row.items():
            if name in rates:
                is_small = max(value, _number(row, f"{name}_high")) < SMALL
                cells[f"{name} %"] = _cell(row, name, ".2f" if is_small else ".1f")
            elif name not in limits:
                cells[name] = value
        formatted.append(cells)
    return formatted


def _drawn_rows(rows: Rows) -> list[Row]:
    """Format the p of rows that come from draws; `p_min` is in the cells that reach it."""
    formatted = []
    for row in rows:
        cells = {name: value for name, value in row.items() if name != "p_min"}
        for name in ("p", "p_adjusted"):
            if name in row:
                cells[name] = _p_cell(row, name, _number(row, "p_min"))
        formatted.append(cells)
    return formatted


def _variance_rows(rows: Rows) -> Rows:
    """Return, for each prompt of `variance`, the rows of the SHOWN largest shares."""
    by_prompt: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_prompt.setdefault(row["prompt"], []).append(row)
    largest: list[Mapping[str, Any]] = []
    for group in by_prompt.values():
        order = metrics.falling_order(list(map(_share, group)))
        largest += [group[place] for place in order[:SHOWN]]
    return largest


def _share(row: Mapping[str, Any]) -> float:
    share = _number(row, "share")
    return 0.0 if math.isnan(share) else share


# Of each command: a column that its results have, and what formats them
FORMATTERS: dict[str, tuple[str, Callable[[Rows], Rows]]] = {
    "align": ("p_min", _drawn_rows),
    "attributes": ("reach", attribute_rows),
    "choose": ("accuracy", _choice_rows),
    "calibrate": ("nll", _calibration_rows),
    "compare": ("acc_a", _comparison_rows),
    "describe": ("p_min", _drawn_rows),
    "importance": ("cost", _importance_rows),
    "probe": ("draw", _draw_rows),
    "retrieve": ("recall", _retrieval_rows),
    "threshold": ("tpr", _threshold_rows),
    "variance": ("prompt", _variance_rows),
}


# ---- Findings ------------------------------------------------------------------------------------


def findings(result: FeatureFile) -> list[str]:
    """Return what a result found, in sentences, as the record of its question says it."""
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
    return list(filter(None, question.findings(result)))


# ---- Cells ---------------------------------------------------------------------------------------


def _cell(
    row: Mapping[str, Any],
    name: str,
    form: str,
    *,
    scale: float = 100,
    limits: tuple[str, str] | None = None,
    between: str = "–",
) -> str | None:
    """Format a number as `74.2`, or as `74.2 (72.1–76.2)` if its limits differ."""
    value = _number(row, name)
    if math.isnan(value):
        return None
    text = format(scale * value, form)
    low, high = limits or (f"{name}_low", f"{name}_high")
    if _number(row, low) < _number(row, high):
        ends = [format(scale * _number(row, end), form) for end in (low, high)]
        text += f" ({between.join(ends)})"
    return text


def _mean_and_95(row: Mapping[str, Any], name: str, form: str, scale: float = 100) -> str | None:
    """Format the mean of a null with its 95 % quantile: `50.2 (95 %: 53.1)`."""
    mean = _cell(row, name, form, scale=scale)
    return mean and f"{mean} (95 %: {_cell(row, f'{name}95', form, scale=scale)})"


def _p_cell(row: Mapping[str, Any], name: str, least: float) -> str | None:
    """Format a p; `least`, the smallest that draws can give, as `<= 1/201`."""
    p = _number(row, name)
    if math.isnan(p):
        return None
    if p <= least * (1 + 1e-9):
        return f"<={NO_BREAK}1/{1 / least:.0f}"
    return format_p(p)


def _number(row: Mapping[str, Any], name: str) -> float:
    """Return the number in a column of a row, or NaN if there is none."""
    value = row.get(name)
    if not isinstance(value, int | float):
        return math.nan
    return float(value)
