"""The columns of a manifest, and the values that they may hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from clipkit.datasets.images import escape, reason
from clipkit.errors import ClipkitError

LISTED_COLUMNS = 10  # in a message


class Columns(NamedTuple):
    """The names of the columns that a manifest is read by."""

    path: str = "path"
    label: str = "label"
    split: str = "split"
    id: str = "id"


class ColumnError(ClipkitError):
    """Report that a table lacks a column."""

    def __init__(self, message: str, hint: str | None = None, column: str = "") -> None:
        super().__init__(message, hint)
        self.column = column


def check_columns(present: Sequence[str], required: set[str], where: str) -> None:
    """Refuse a table that lacks a column, or has one twice that is read."""
    for column in sorted(required):
        if column in present:
            continue
        names = [repr(escape(name[:40])) for name in present[:LISTED_COLUMNS]]
        if len(present) > LISTED_COLUMNS:
            names.append(f"and {len(present) - LISTED_COLUMNS} more")
        hint = (
            "name the column of the images' files with --path-column, and others with "
            "--label-column and --split-column"
        )
        if len(present) == 1 and any(mark in present[0] for mark in "\t;,"):
            hint = "separate the columns by commas in a .csv file, and by tabs in a .tsv file"
        got = ", ".join(names) or "none"
        raise ColumnError(f"{where}: expected a column {escape(column)!r}, got {got}", hint, column)
    for column in present:
        if column in (*Columns(), *required) and present.count(column) > 1:
            raise ClipkitError(
                f"{where}: expected the column {escape(column)!r} once, got it twice"
            )


def as_text(value: Any, where: str) -> str:
    """Return a value of a table as text: a text, a whole number, or "" for none.

    >>> as_text(None, ""), as_text(3, ""), as_text(3.0, ""), as_text("cat", "")
    ('', '3', '3', 'cat')
    """
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)[:40]  # no number has more digits, so that another is refused
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ClipkitError(f"{where}: expected UTF-8 text, got {reason(error)}") from None
        return value
    raise ClipkitError(
        f"{where}: expected a text or a whole number, got {escape(str(value)[:40])!r}",
        "store it as a text",
    )
