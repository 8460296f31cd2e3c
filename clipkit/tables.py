"""Print the rows of a report as a table for people, or as TSV, CSV or JSON for programs."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from clipkit.console import escaped

FORMATS = ("table", "tsv", "csv", "json")
PERCENT = {
    "acc1",
    "acc1_low",
    "acc1_high",
    "acc5",
    "mean_per_class_recall",
    "mean_confidence",
    "purity",
    "f1",
}

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
    values = [{name: _json_value(value) for name, value in row.items()} for row in rows]
    return json.dumps(values, indent=2) + "\n"


def _tsv(rows: Sequence[Row]) -> str:
    return "".join("\t".join(line) + "\n" for line in _lines(rows))


def _csv(rows: Sequence[Row]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(_lines(rows))
    return out.getvalue()


def _lines(rows: Sequence[Row]) -> list[list[str]]:
    """Return the cells of the header and of each row."""
    header = list(rows[0]) if rows else []
    return [header, *([_machine_cell(row[name]) for name in header] for row in rows)]


def _table(rows: Sequence[Row]) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns = list(rows[0]) if rows else []
    table = Table(box=box.SIMPLE_HEAD)
    for name in columns:
        values = [_json_value(row[name]) for row in rows]
        is_numeric = all(isinstance(value, (int, float, type(None))) for value in values)
        table.add_column(
            name + _unit(name), justify="right" if is_numeric else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(_table_cell(name, row[name])) for name in columns))
    console = Console(width=None if sys.stdout.isatty() else 200)
    with console.capture() as captured:
        console.print(table)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    return "\n".join(line for line in lines if line) + "\n"


def _unit(column: str) -> str:
    if column in PERCENT:
        return " %"
    return " (nats)" if column.endswith("_entropy") else ""


def _json_value(value: Any) -> Any:
    """Return a value as JSON has it; NaN, which marks what does not apply, becomes null."""
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def _machine_cell(value: Any) -> str:
    value = _json_value(value)
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.8g}"
    return escaped(str(value))


def _table_cell(column: str, value: Any) -> str:
    value = _json_value(value)
    if value is None:
        return "-"
    if isinstance(value, float) and column in PERCENT:
        return f"{100 * value:.2f}"
    if isinstance(value, float) and column.endswith("_entropy"):
        return f"{value:.4f}"
    return _machine_cell(value)
