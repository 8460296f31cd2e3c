"""Print the rows of a report as a table for people, or as TSV, CSV or JSON for programs."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from clipkit.console import escaped

FORMATS = ("table", "tsv", "csv", "json")
PERCENT = {"acc1", "acc5", "mean_per_class_recall", "mean_confidence", "purity", "purity_chance"}

Row = Mapping[str, Any]


def emit(rows: Sequence[Row], format: str | None = None) -> None:
    """Print rows on standard output. Every row has the same columns.

    Parameters
    ----------
    rows : sequence of mappings
    format : {"table", "tsv", "csv", "json"}, optional
        By default a table on a terminal and TSV elsewhere. Machine formats hold fractions (0..1),
        and an empty cell (null in JSON) for what does not apply. The table shows percent.
    """
    if format is None:
        format = "table" if sys.stdout.isatty() else "tsv"
    renderers = {"table": _table, "tsv": _tsv, "csv": _csv, "json": _json}
    sys.stdout.write(renderers[format](rows))


def _json(rows: Sequence[Row]) -> str:
    objects = []
    for row in rows:
        objects.append({name: _without_nan(value) for name, value in row.items()})
    return json.dumps(objects, indent=2) + "\n"


def _tsv(rows: Sequence[Row]) -> str:
    return "".join("\t".join(line) + "\n" for line in _lines(rows))


def _csv(rows: Sequence[Row]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(_lines(rows))
    return out.getvalue()


def _lines(rows: Sequence[Row]) -> list[list[str]]:
    """Return the names of the columns and the cells of each row."""
    names = _names(rows)
    lines = [names]
    for row in rows:
        lines.append([_machine_cell(row[name]) for name in names])
    return lines


def _names(rows: Sequence[Row]) -> list[str]:
    return list(rows[0]) if rows else []


def _table(rows: Sequence[Row]) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for name in _names(rows):
        title = name
        if name in PERCENT:
            title += " %"
        elif name.endswith("_entropy"):
            title += " (nats)"
        table.add_column(title, justify=_justification(rows, name), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_table_cell(name, row[name])) for name in _names(rows)))
    console = Console(width=None if sys.stdout.isatty() else 200)
    with console.capture() as captured:
        console.print(table)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    return "\n".join(line for line in lines if line) + "\n"


def _justification(rows: Sequence[Row], name: str) -> Literal["left", "right"]:
    for row in rows:
        if not isinstance(row[name], int | float | None):
            return "left"
    return "right"


def _without_nan(value: Any) -> Any:
    """Return a value, or None for NaN, which marks what does not apply."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _machine_cell(value: Any) -> str:
    value = _without_nan(value)
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.8g}"
    return escaped(str(value))


def _table_cell(name: str, value: Any) -> str:
    if _without_nan(value) is None:
        return "-"
    if isinstance(value, float) and name in PERCENT:
        return f"{100 * value:.2f}"
    if isinstance(value, float) and name.endswith("_entropy"):
        return f"{value:.4f}"
    return _machine_cell(value)
