"""Lay out the runs of a result for people: which columns, in which order, with which cells.

`make_cell` is the only place where a number becomes what people read. The terminal, a page,
Markdown, LaTeX and a notebook all take their cells from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clipkit.base.cells import NO_BREAK, Cell, with_unit
from clipkit.features.columns import COUNT, NUMBER, SHARE, SMALL, TEXT, Column, P

Row = Mapping[str, Any]
Columns = Mapping[str, Column]  # by their names
SIGNIFICANT = 8  # digits of a number before it is formatted, as in machine formats


@dataclass(frozen=True)
class Layout:
    """How the runs of a result are shown to people.

    Parameters
    ----------
    needed : str
        Columns that the results have. Results without them are another program's, or of another
        kind, and are shown with all columns.
    columns : str
        Columns that come first, in this order. The others follow, so that a new one is shown.
    hidden : str
        Columns that are not shown.
    titles : mapping
        What people read above columns, where it is not what their records say.
    arrange : callable (rows, columns) -> rows, optional
        Takes the runs, and the known columns by their names, and returns other rows, such as means.
        Values that are a Cell or a text stay as they are.
    """

    needed: str = ""
    columns: str = ""
    hidden: str = ""
    titles: Mapping[str, str] = field(default_factory=dict)
    arrange: Callable[[Sequence[Row], Columns], Sequence[Row]] | None = None

    def fits(self, names: Sequence[str]) -> bool:
        """Whether a result with columns of these names is shown so."""
        return set(self.needed.split()) <= set(names)

    def show(self, rows: Sequence[Row], known: Columns) -> list[dict[str, Any]]:
        """Return rows with a cell for each shown column; all rows have the same columns."""
        if not rows:
            return []
        if self.arrange is not None:
            rows = self.arrange(rows, known)
        present = list(rows[0])
        records = {name: _record(name, present, known) for name in present}
        first = [name for name in self.columns.split() if name in present]
        hidden = {*self.hidden.split(), *_behind_others(records, self.hidden.split())}
        names = [name for name in dict.fromkeys([*first, *present]) if name not in hidden]
        return [{name: make_cell(row, records[name], records) for name in names} for row in rows]


DEFAULT = Layout()


def _record(name: str, present: Sequence[str], known: Columns) -> Column:
    """Return the record of a column; one that no question names may have an interval, too."""
    if name in known:
        return known[name]
    has_interval = {f"{name}_low", f"{name}_high"} <= set(present)
    return Column(name, NUMBER, has_interval=has_interval)


def _behind_others(columns: Columns, hidden: Sequence[str]) -> set[str]:
    """Return the columns that are never alone, since they are in the cells of shown columns."""
    names = set()
    for column in columns.values():
        names.update([*column.ends, column.beside, column.least_p])
        if column.name not in hidden:
            names.add(column.p)
    return names


def make_cell(row: Row, column: Column, columns: Columns) -> Any:
    """Return the cell of a column in a row: a number with all that stands behind it.

    Counts, flags and texts stay as they are; what does not apply is None.
    """
    value = row.get(column.name)
    if not isinstance(value, float):
        return value
    if math.isnan(value):
        return None
    ends = [number(row, name) for name in column.ends] or [math.nan, math.nan]
    low, high = ends
    has_interval = low < high
    is_small = value < SMALL and not high >= SMALL
    least = number(row, column.least_p)
    if value <= least * (1 + 1e-9):
        text = f"<={NO_BREAK}1/{1 / least:.0f}"
    else:
        text = column.format(_rounded(value), is_small=is_small)
    if has_interval:
        bottom, top = (column.format(_rounded(end), is_small=is_small) for end in ends)
        if bottom[0] in "+-" or top[0] in "+-":  # a dash would read as a sign
            text += f" ({bottom}{NO_BREAK}to{NO_BREAK}{top})"
        else:
            text += f" ({bottom}–{top})"
    if column.unit.sign:  # a difference stays on one line
        text = text.replace(" ", NO_BREAK)
    quantile = number(row, column.beside)
    if not math.isnan(quantile):
        text += f" (95{NO_BREAK}%:{NO_BREAK}{column.format(_rounded(quantile))})"
    if column.p in columns and not math.isnan(number(row, column.p)):
        text += f" (p {make_cell(row, columns[column.p], columns)})"
    reference = number(row, column.chance_column)
    control = number(row, column.control_column)
    is_compared = has_interval or not math.isnan(reference)
    if column.unit is not SHARE or column.is_relative or not is_compared:
        return Cell(text)
    return Cell(text, value, low, high, reference, control, column.reference_name)


def number(row: Row, name: str) -> float:
    """Return the number in a column of a row, or NaN if there is none."""
    value = row.get(name)
    if not isinstance(value, int | float):
        return math.nan
    return float(value)


def _rounded(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT}g}")


# ---- A row per measure ---------------------------------------------------------------------------


def row_per_measure(rows: Sequence[Row], columns: Columns) -> list[Row]:
    """Return a row for each split and number, with what chance and a control give beside it.

    Settings, counts and relatives are no rows. A number that is measured at a setting, such as the
    recall at k, has a row for each run of the split, and others have one.
    """
    of_split: dict[str, list[Row]] = {}
    for row in rows:
        of_split.setdefault(row["split"], []).append(row)
    shown: list[Row] = []
    for split, runs in of_split.items():
        shown.append({"split": split, **_sizes(runs[0])})
        for name, column in columns.items():
            if name in runs[0] and _is_measure(column):
                for run in runs if column.at else runs[:1]:
                    shown.append({"split": split, **_measure(run, column, columns)})
    return shown


def _is_measure(column: Column) -> bool:
    is_number = column.unit not in (COUNT, TEXT, P)
    return is_number and not (column.is_setting or column.is_relative or column.is_limit)


def _sizes(run: Row) -> Row:
    """Return the row of how many queries a split has, and among how many candidates."""
    sizes = f"{run['queries']:,.0f} among {run['candidates']:,.0f}"
    if "clusters" in run:
        sizes += f", in {run['clusters']:,.0f} clusters"
    return {"measure": "queries", "value": sizes, "by chance": None, "control": None}


def _measure(run: Row, column: Column, columns: Columns) -> Row:
    title = column.heading.title
    if column.at:
        title += f"@{run[column.at]:g}"
    cells: dict[str, Any] = {"measure": with_unit(title, column.unit.symbol)}
    cells["value"] = make_cell(run, column, columns)
    others = {"by chance": column.chance_column, "control": column.control_column}
    for what, name in others.items():
        cells[what] = make_cell(run, columns[name], columns) if name in columns else None
    return cells
