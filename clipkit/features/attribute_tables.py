"""Open tables of attributes: files, and columns that a notebook holds in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np

from clipkit.base import files
from clipkit.base.csv_rows import check_different, ending_of, is_no_value
from clipkit.base.errors import UsageError, quote
from clipkit.features.endings import ATTRIBUTE_TABLES
from clipkit.features.model import row_ids

INDEX = ""  # the name of the column with a table's index
NOT_A_TIME = "NaT"  # how pandas writes a time that is not known


@runtime_checkable
class Frame(Protocol):
    """A DataFrame of pandas or polars."""

    @property
    def columns(self) -> Any:
        """Names of the columns."""

    def __getitem__(self, name: Any, /) -> Any:
        """Return the column of a name."""


class OpenTable(NamedTuple):
    """A table whose content was read."""

    name: str  # what messages call it: its path, or the argument
    ending: str  # says how to read the content
    data: bytes | None  # None for a table that is no file, but may be bundled


Table: TypeAlias = str | os.PathLike[str] | Mapping[str, Sequence[Any]] | Frame | OpenTable


def open_table(table: Table, name: str = "table") -> OpenTable:
    """Read a table of attributes.

    Parameters
    ----------
    table : str, path, dict of columns or DataFrame
        A file that ends in one of `ATTRIBUTE_TABLES`, ``-`` for one on standard input, or columns
        of equal length. One is called `id`, or named as `annotations.IDS` says; else the index of a
        DataFrame has the ids. An index that counts from 0, and rows without an index, are row
        numbers as `model.row_ids` writes them.
    name : str
        Of the argument: an error about columns names it.

    Raises
    ------
    UsageError
        If it is something else, or the columns differ in length or have equal names.
    """
    if isinstance(table, OpenTable):
        return table
    if isinstance(table, str | os.PathLike):
        path = os.fspath(table)
        if files.is_stream(path):
            data = files.read_bytes(path)
            return OpenTable(files.display_name(path), ending_of(path, data), data)
        ending = Path(path).suffix.lower()
        if ending in ATTRIBUTE_TABLES or Path(path).is_file():
            return OpenTable(path, ending, files.read_bytes(path))
        return OpenTable(path, ending, None)
    columns = _read_columns(table, name)
    lines = []
    for cells in zip(*columns.values(), strict=True):
        row = dict(zip(columns, cells, strict=True))
        lines.append(json.dumps(row, ensure_ascii=False, default=str) + "\n")
    return OpenTable(name, ".jsonl", "".join(lines).encode("utf-8", "surrogatepass"))


def _read_columns(table: object, name: str) -> dict[str, list[Any]]:
    """Return the columns of a table in memory, the first with its index."""
    names = table if isinstance(table, Mapping) else getattr(table, "columns", None)
    if not isinstance(table, Mapping | Frame) or not isinstance(names, Iterable):
        got = quote(table)
        expected = "a file of attributes, a dict of columns or a DataFrame"
        raise UsageError(f"{name}: expected {expected}, got {got}")
    check_different(list(map(str, names)), name)
    columns = {str(column): _cells(table[column], str(column), name) for column in names}
    lengths = {column: len(cells) for column, cells in columns.items()}
    if not columns or len(set(lengths.values())) > 1 or 0 in lengths.values():
        got = ", ".join(f"{length} in {column}" for column, length in lengths.items())
        raise UsageError(f"{name}: expected as many values in all columns, got {got or 'none'}")
    count = next(iter(lengths.values()))
    return {INDEX: _index(getattr(table, "index", None), count)} | columns


def _index(index: Any, count: int) -> list[Any]:
    """Return the ids that the index of a table has; row numbers if it only counts."""
    numbers = list(range(count))
    ids = list(index) if isinstance(index, Iterable) else numbers
    if ids == numbers:
        return row_ids(count)
    return list(map(str, ids))


def _cells(column: Any, title: str, name: str) -> list[Any]:
    """Return the cells of a column; None for what is not known."""
    if isinstance(column, str | bytes | Mapping) or not isinstance(column, Iterable):
        got = quote(column)
        raise UsageError(f"{name}: expected a list of values in {title}, got {got}")
    return list(map(_cell, column))


def _cell(value: Any) -> Any:
    """Return a cell as JSON can write it: numbers of NumPy as Python's, lists as lists."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple | set):
        return [one for one in map(_cell, value) if one is not None]
    text = str(value)
    if is_no_value(text) or text == NOT_A_TIME:
        return None
    return value
