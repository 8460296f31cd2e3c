"""Print the rows of a report as a table for people, or as TSV, CSV or JSON for programs."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clipkit.console import escaped, note

CHUNK_ROWS = 2000  # of a long report that are in memory at once
FORMATS = ("table", "tsv", "csv", "json")
PERCENT = {
    *("acc1", "acc5", "mean_per_class_recall", "mean_confidence", "purity", "purity_chance"),
    *("share", "unique", "null95", "random99", "embedding"),
    *("control_share", "control_low", "control_high"),
    *("ece", "ece_null", "ece_null95"),
}

Row = Mapping[str, Any]


def distinct_names(names: Sequence[str], numbers: Sequence[int] | None = None) -> list[str]:
    """Put its number in front of each name that occurs more than once; by default its position.

    ImageNet has two classes called crane, and two called maillot.

    >>> distinct_names(["crane", "cock", "crane"])
    ['0: crane', 'cock', '2: crane']
    """
    counts = Counter(names)
    distinct = []
    for number, name in zip(numbers or range(len(names)), names, strict=True):
        distinct.append(f"{number}: {name}" if counts[name] > 1 else name)
    return distinct


def emit(rows: Sequence[Row], format: str | None = None) -> None:
    """Print rows on standard output. Every row has the same columns.

    Parameters
    ----------
    rows : sequence of mappings
    format : {"table", "tsv", "csv", "json"}, optional
        By default a table on a terminal and TSV elsewhere. Machine formats hold fractions (0..1),
        and an empty cell (null in JSON) for what does not apply. The table shows percent.
    """
    renderers = {"table": _table, "tsv": _tsv, "csv": _csv, "json": _json}
    names = list(rows[0]) if rows else []
    values = [[_rounded(row[name]) for name in names] for row in rows]
    sys.stdout.write(renderers[chosen_format(format)](names, values))


def emit_many(rows: Iterable[Row], format: str | None = None) -> None:
    """Print any number of rows on standard output, a chunk at a time.

    Few rows are printed as `emit` prints them. A terminal gets many rows as TSV, since a table has
    to know all of them before its first line.
    """
    pending = iter(rows)
    first = list(itertools.islice(pending, CHUNK_ROWS))
    if len(first) < CHUNK_ROWS:
        emit(first, format)
        return
    chosen = chosen_format(format)
    if chosen == "table":
        note(f"more than {CHUNK_ROWS:,} rows: printed as TSV")
        chosen = "tsv"
    names = list(first[0])
    is_first = True
    while first:
        values = [[_rounded(row[name]) for name in names] for row in first]
        first = list(itertools.islice(pending, CHUNK_ROWS))
        sys.stdout.write(_chunk(chosen, names, values, is_first, is_last=not first))
        is_first = False


def _chunk(
    format: str, names: list[str], rows: list[list[Any]], is_first: bool, is_last: bool
) -> str:
    """Return the text of consecutive rows. All chunks make what `emit` writes."""
    if format == "json":
        text = _json(names, rows).removeprefix("[\n").removesuffix("\n]\n")
        return ("[\n" if is_first else "") + text + ("\n]\n" if is_last else ",\n")
    text = _tsv(names, rows) if format == "tsv" else _csv(names, rows)
    return text if is_first else text.partition("\n")[2]


def chosen_format(format: str | None) -> str:
    """Return the format itself or, without one, a table on a terminal and TSV elsewhere."""
    return format or ("table" if sys.stdout.isatty() else "tsv")


def _rounded(value: Any) -> Any:
    """Round a float to 8 digits; return None for NaN, which marks what does not apply.

    float32 holds 7 digits, and a fraction of up to ten million rows differs in 8 from the next.

    >>> _rounded(0.39599999999999996), _rounded(float("nan")), _rounded("a")
    (0.396, None, 'a')
    """
    if not isinstance(value, float):
        return value
    return None if math.isnan(value) else float(f"{value:.8g}")


def _json(names: list[str], rows: list[list[Any]]) -> str:
    return json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=2) + "\n"


def _tsv(names: list[str], rows: list[list[Any]]) -> str:
    return "".join("\t".join(line) + "\n" for line in [names, *map(_cells, rows)])


def _csv(names: list[str], rows: list[list[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([names, *map(_cells, rows)])
    return out.getvalue()


def _cells(row: list[Any]) -> list[str]:
    return ["" if value is None else _cell(value) for value in row]


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.8g}"
    return escaped(str(value))


def _table(names: list[str], rows: list[list[Any]]) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # what does not apply to any row only takes room
    used = [c for c in range(len(names)) if any(row[c] is not None for row in rows)] if rows else []
    names, rows = [names[c] for c in used], [[row[c] for c in used] for row in rows]
    table = Table(box=box.SIMPLE_HEAD)
    for column, name in enumerate(names):
        title = name
        if name in PERCENT:
            title += " %"
        elif name.endswith("_entropy"):
            title += " (nats)"
        is_numeric = all(isinstance(row[column], int | float | None) for row in rows)
        table.add_column(title, justify="right" if is_numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, map(_table_cell, names, row)))
    console = Console(width=None if sys.stdout.isatty() else 200)
    with console.capture() as captured:
        console.print(table)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    return "\n".join(line for line in lines if line) + "\n"


def _table_cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float) and name in PERCENT:
        return f"{100 * value:.2f}"
    if isinstance(value, float) and name.endswith("_entropy"):
        return f"{value:.4f}"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.4g}"
    return _cell(value)
