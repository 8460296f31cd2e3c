"""Markdown that reads well as it is: padded tables, numbers with their intervals."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from clipkit.console import escaped
from clipkit.report.results import Value

UNITS = {"%": (100.0, 2), "nats": (1.0, 4), "": (1.0, 4)}  # factor and decimals


def number(value: Value | None, unit: str) -> str:
    """A value with its interval and note.

    >>> number(Value(0.5, 0.4, 0.6, "τ 0.07"), "%"), number(Value(3.46561), "nats"), number(None, "%")
    ('50.00 (40.00–60.00), τ 0.07', '3.4656', '')
    """
    if value is None:
        return ""
    factor, decimals = UNITS[unit]
    text = f"{factor * value.x:.{decimals}f}"
    if value.low is not None and value.high is not None:
        text += f" ({factor * value.low:.{decimals}f}–{factor * value.high:.{decimals}f})"
    return f"{text}, {value.note}" if value.note else text


def difference(here: Value | None, thesis: float | None, unit: str) -> str:
    """Here minus thesis, in percentage points where the unit is percent.

    >>> difference(Value(0.79), 0.7801, "%"), difference(Value(0.79), None, "%")
    ('+0.99', '')
    """
    if here is None or thesis is None:
        return ""
    factor, decimals = UNITS[unit]
    return f"{factor * (here.x - thesis):+.{decimals}f}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    r"""A table whose columns are as wide as their widest cell; the first `words` hold words, the others numbers.

    >>> print(table(["x", "n"], [["a|b", "1"]]))
    | x    |  n |
    |------|---:|
    | a\|b |  1 |
    """
    cells = [[escaped(cell).replace("|", "\\|") for cell in row] for row in [columns, *rows]]
    widths = [max(2, *(len(row[i]) for row in cells)) for i in range(len(columns))]
    lines = []
    for row in cells:
        padded = [
            c.rjust(w) if i >= words else c.ljust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(padded)} |")
    rule = (
        "|"
        + "|".join(
            "-" * (w + 2) if i < words else "-" * (w + 1) + ":" for i, w in enumerate(widths)
        )
        + "|"
    )
    return "\n".join([lines[0], rule, *lines[1:]])


def paragraph(text: str) -> str:
    """Lines that a terminal shows whole; what is no prose stays as it is."""
    return (
        text
        if text[0] in "|!#" or "\n" in text
        else textwrap.fill(text, 118, break_on_hyphens=False)
    )
