"""Reports: one row a run, as a table for people and as TSV, CSV or JSON for programs."""

from __future__ import annotations

import csv
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


def render(
    rows: Sequence[Mapping[str, Any]], format: str | None = None, title: str | None = None
) -> str:
    """Rows as text; every row has the same columns.

    Parameters
    ----------
    rows : sequence of mappings
    format : {"table", "tsv", "csv", "json"}, optional
        By default a table on a terminal and TSV elsewhere. Machine formats hold fractions (0..1) and empty cells (null
        in JSON) for what does not apply; the table shows percent.
    title : str, optional
        Shown above the table only.
    """
    format = format or ("table" if sys.stdout.isatty() else "tsv")
    columns = list(rows[0]) if rows else []
    if format == "json":
        return (
            json.dumps([{name: _plain(row[name]) for name in columns} for row in rows], indent=2)
            + "\n"
        )
    if format == "table":
        return _table(rows, columns, title)
    lines = [columns, *([_cell(row[name]) for name in columns] for row in rows)]
    if format == "tsv":
        return "".join("\t".join(line) + "\n" for line in lines)
    return _csv(lines)


def emit(
    rows: Sequence[Mapping[str, Any]], format: str | None = None, title: str | None = None
) -> None:
    """Print rows on standard output."""
    sys.stdout.write(render(rows, format, title))


def _csv(lines: list[list[str]]) -> str:
    import io

    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def _table(rows: Sequence[Mapping[str, Any]], columns: list[str], title: str | None) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD,
        title=None if title is None else Text(escaped(title)),
        title_justify="left",
    )
    for name in columns:
        numeric = all(isinstance(_plain(row[name]), (int, float, type(None))) for row in rows)
        unit = " %" if name in PERCENT else " (nats)" if name.endswith("_entropy") else ""
        table.add_column(name + unit, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_shown(name, row[name])) for name in columns))
    console = Console(width=None if sys.stdout.isatty() else 200)
    with console.capture() as captured:
        console.print(table)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    return "\n".join(line for line in lines if line) + "\n"


def _plain(value: Any) -> Any:
    """A value as JSON has it: NaN, which stands for what does not apply, becomes null."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and math.isnan(value) else value


def _cell(value: Any) -> str:
    value = _plain(value)
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.8g}" if isinstance(value, float) else escaped(str(value))


def _shown(name: str, value: Any) -> str:
    value = _plain(value)
    if value is None:
        return "-"
    if isinstance(value, float) and name in PERCENT:
        return f"{100 * value:.2f}"
    if isinstance(value, float) and name.endswith("_entropy"):
        return f"{value:.4f}"
    return _cell(value)
