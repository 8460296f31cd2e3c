"""Read the rows of .csv, .tsv and .jsonl files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

from clipkit.base.console import escaped
from clipkit.base.errors import ClipkitError, shorten
from clipkit.base.names import escape

BOM = b"\xef\xbb\xbf"
NO_VALUE = {"", "na", "n/a", "#n/a", "<na>", "nan", "none", "null", "-"}


def is_no_value(text: str) -> bool:
    """Whether a cell or a label says, in whatever case, that there is no value."""
    return text.strip().casefold() in NO_VALUE


def check_text(stream: IO[bytes], name: str) -> None:
    """Refuse bytes that are not UTF-8, and NUL, naming the line. The stream is rewound."""
    stream.seek(0)
    for number, line in enumerate(stream, start=1):
        end = line.find(b"\0")
        if end < 0 and not line.isascii():
            try:
                line.decode()
            except UnicodeDecodeError as error:
                end = error.start
        if end >= 0:
            raise ClipkitError(
                f"{name}, line {number}: expected UTF-8 text, got the byte 0x{line[end]:02x}",
                "save the file as plain text in UTF-8",
            )
    stream.seek(0)


def read_rows(
    stream: IO[bytes], name: str, delimiter: str = ",", *, quotes: bool = True
) -> Iterator[tuple[int, list[str]]]:
    r"""Yield the line and the cells of each row that is not empty.

    The stream is read from its start, and `name` is what messages call it. Spaces after a
    comma or semicolon are skipped. With `quotes`, a quote begins a quoted cell, as spreadsheets
    write it in .tsv files too; in a table of prompts or words, a quote may belong to a text.

    Raises
    ------
    ClipkitError
        If the file is not UTF-8 text, or a quote is not closed. The message names the line where
        the row begins.

    Examples
    --------
    >>> list(read_rows(io.BytesIO(b'a,b\n\n"1,5", x\n'), "x.csv"))
    [(1, ['a', 'b']), (3, ['1,5', 'x'])]
    >>> list(read_rows(io.BytesIO(b'"a" dog\tx\n'), "x.tsv", "\t", quotes=False))
    [(1, ['"a" dog', 'x'])]
    """
    check_text(stream, name)
    reader = csv.reader(
        io.TextIOWrapper(stream, "utf-8-sig", newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
        skipinitialspace=delimiter != "\t",
        strict=True,
    )
    line = 1
    try:
        for cells in reader:
            if any(cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise ClipkitError(f"{name}, line {line}: expected a row of a table, got {error}") from None


def read_table(
    data: bytes, name: str, ending: str = "", *, quotes: bool = True
) -> Iterator[tuple[int, list[str]]]:
    """Yield the line and the cells of each row, divided by the separator that the header has.

    See `read_rows`. Without `quotes`, no cell between tabs is quoted. If the header has as many
    commas or semicolons as tabs, the `ending` of the file decides.
    """
    delimiter = find_delimiter(data, ending)
    quotes = quotes or delimiter != "\t"
    return read_rows(io.BytesIO(data), name, delimiter, quotes=quotes)


def find_delimiter(data: bytes, ending: str = "") -> str:
    r"""Return what separates the cells of a header: commas, semicolons or tabs.

    >>> find_delimiter(b"id;size\n1;0,5\n"), find_delimiter(b"id\tsize\n"), find_delimiter(b"id")
    (';', '\t', ',')
    """
    header = data.removeprefix(BOM).lstrip(b" \r\n").partition(b"\n")[0].decode(errors="replace")
    delimiters = "\t,;" if ending == ".tsv" else ",;\t"
    return max(delimiters, key=header.count)


def check_width(cells: list[str], width: int, where: str) -> None:
    """Refuse a row with more or fewer cells than the header."""
    if len(cells) != width:
        raise ClipkitError(
            f"{where}: expected {width} columns as in the header, got {len(cells)}",
            "quote values that hold a separator or a quote",
        )


def read_objects(
    stream: IO[bytes], name: str, example: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line and the object of each line of a .jsonl file that is not empty.

    An error names the line that is no JSON object. Its hint is the `example`.
    """
    stream.seek(0)
    for number, line in enumerate(stream, start=1):
        if number == 1:
            line = line.removeprefix(BOM)
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            got = escaped(shorten(line.decode(errors="replace").strip(), 40))
            raise ClipkitError(
                f"{name}, line {number}: expected a JSON object, got {got!r}",
                f"write one object per line: {example}",
            )
        yield number, content


def table_objects(
    data: bytes, name: str, ending: str, needed: Iterable[Sequence[str]], example: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line and the cells by column of each row of a .csv, .tsv or .jsonl file.

    Each group of names in `needed` has one column. `example` is a hint for .jsonl.
    """
    if ending == ".jsonl":
        yield from read_objects(io.BytesIO(data), name, example)
        return
    rows = read_table(data, name, ending)
    _, header = next(rows, (1, []))
    columns = [cell.strip().lower() for cell in header]
    for names in needed:
        column = find_column(names, columns, f"{name}, line 1")
        if columns.count(column) > 1:
            raise ClipkitError(f"{name}: expected the column {column} once, got it twice")
    for line, cells in rows:
        check_width(cells, len(columns), f"{name}, line {line}")
        yield line, dict(zip(columns, cells, strict=True))


def find_column(names: Sequence[str], present: Iterable[str], where: str) -> str:
    """Return the first of several names of a column that is present."""
    for name in names:
        if name in present:
            return name
    got = ", ".join(escape(shorten(column, 40)) for column in present) or "none"
    raise ClipkitError(
        f"{where}: expected a column {' or '.join(names[:3])}, got {shorten(got, 200)}",
        "the first line of a table has the names of its columns",
    )
