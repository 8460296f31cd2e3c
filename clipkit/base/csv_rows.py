"""Read tables and JSON that people write: .csv, .tsv, .jsonl and .json files.

One rule holds for all of them. They are UTF-8 text; else an error names the line. Between tabs,
nothing is quoted, since a text may begin with a quote; between commas or semicolons, a quote begins
a quoted cell. Columns and the keys of an object differ. Rows of blank cells are left out and
counted.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from clipkit.base import console
from clipkit.base.console import escaped
from clipkit.base.errors import ClipkitError, shorten
from clipkit.base.files import is_stream
from clipkit.base.names import escape

BOM = b"\xef\xbb\xbf"
NO_VALUE = {"", "na", "n/a", "#n/a", "<na>", "nan", "none", "null", "-"}
UTF8_HINT = "save the file as plain text in UTF-8"
TAB_HINT = "a tab separates cells, also between quotes; a table with commas can quote them"
QUOTE_HINT = "quote values that hold a separator or a quote"
MAX_VALUES = 2**23  # lists, objects and elements of JSON: 5 bytes of it may take 190 in memory
MAX_NUMBERS = 20  # values of a column of numbers that are categories
MOST = 0.9  # of the values of a column of numbers are numbers
MAX_COLUMNS = 2**14  # of a table; those of attributes are classified one by one

SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # half a pair, or two halves that make a character
QUOTED = re.compile(rb'(?:^|[\t\n])("[^\t\n]*")(?:[\t\r\n]|$)')  # a whole cell between tabs

Line = tuple[int, list[str]]  # its number, counted from 1, and its cells


def ending_of(source: str, data: bytes) -> str:
    """Return the ending of a table's name. A stream has the one that its content should have.

    >>> ending_of("a/b.CSV", b""), ending_of("-", b'{"id": 1}'), ending_of("-", b"id,colour")
    ('.csv', '.jsonl', '.csv')
    """
    if not is_stream(source):
        return os.path.splitext(source)[1].lower()  # noqa: PTH122
    if data.startswith(b"PAR1"):
        return ".parquet"
    first, _, rest = data.removeprefix(BOM).lstrip().partition(b"\n")
    if not first.startswith((b"{", b"[")):
        return ".tsv" if b"\t" in first else ".csv"
    try:
        row = json.loads(first)
    except (ValueError, RecursionError):  # a document of several lines
        return ".json"
    is_row = isinstance(row, dict) and not any(map(_holds_objects, row.values()))
    return ".jsonl" if is_row or rest.strip() else ".json"


def _holds_objects(value: Any) -> bool:
    """Whether a member of a JSON object is an object or a list of some."""
    return isinstance(value[0] if isinstance(value, list) and value else value, dict)


class TextTable(NamedTuple):
    """The names of a table's columns, what messages call the header, and the lines behind it."""

    columns: list[str]
    header: str
    lines: Iterator[Line]


def is_no_value(text: str) -> bool:
    """Whether a cell or a label says, in whatever case, that there is no value."""
    return text.strip().casefold() in NO_VALUE


def has_many_numbers(values: Sequence[str]) -> bool:
    """Return True if nearly all of many values are numbers; a few others may be no value."""
    return sum(map(is_numeric, values)) > max(MAX_NUMBERS, MOST * len(values))


def is_numeric(value: str) -> bool:
    """Whether a cell is a finite number, with a point or a comma."""
    with contextlib.suppress(ValueError):
        return math.isfinite(float(value.replace(",", ".")))
    return False


def check_not_empty(data: bytes, name: str) -> None:
    """Refuse a file of no bytes, which a command that failed leaves in a pipe."""
    if not data:
        raise ClipkitError(f"{name}: empty input", "check whether the command before it failed")


def decode(data: bytes, name: str) -> str:
    """Decode the UTF-8 text of a file; an error names the line of the first invalid byte."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _not_text(f"{name}, line {line}", data[error.start]) from None


def _not_text(where: str, byte: int) -> ClipkitError:
    return ClipkitError(f"{where}: expected UTF-8 text, got the byte 0x{byte:02x}", UTF8_HINT)


def check_text(data: bytes, name: str) -> None:
    """Refuse bytes that are not UTF-8, and NUL, naming the line."""
    for number, line in enumerate(io.BytesIO(data), start=1):
        end = line.find(b"\0")
        if end < 0 and not line.isascii():
            try:
                line.decode()
            except UnicodeDecodeError as error:
                end = error.start
        if end >= 0:
            raise _not_text(f"{name}, line {number}", line[end])


# ---- Rows of cells -------------------------------------------------------------------------------


def read_table(data: bytes, name: str, ending: str = "") -> TextTable:
    r"""Read the header and the lines of a .csv or .tsv file, which messages call `name`.

    The header shows what separates the cells. If it has as many commas or semicolons as tabs, the
    `ending` of the file decides. Spaces after a comma or semicolon are skipped.

    Raises
    ------
    ClipkitError
        If the file is not UTF-8 text, a quote is not closed, a column is there twice, or a line has
        another number of cells than the header. The message names the line.

    Examples
    --------
    >>> read_table(b'a,b\n\n"1,5", x\n', "x.csv").columns
    ['a', 'b']
    >>> list(read_table(b'a\tb\n"a" dog\tx\n', "x.tsv").lines)
    [(2, ['"a" dog', 'x'])]
    """
    check_text(data, name)
    delimiter = find_delimiter(data, ending)
    lines = _read_lines(data, name, delimiter)
    number, cells = next(lines, (1, []))
    columns = [cell.strip() for cell in cells]
    check_width(len(columns), f"{name}, line {number}")
    check_different(columns, name)
    if delimiter == "\t":
        quoted = QUOTED.search(data)
        if quoted:  # a spreadsheet may have put the quotes around the cell
            line = data.count(b"\n", 0, quoted.start(1)) + 1
            console.note(f"{name}, line {line}: the quotes around a cell between tabs belong to it")
    return TextTable(columns, f"{name}, line {number}", lines)


def check_width(width: int, where: str) -> None:
    """Refuse a table of very many columns."""
    if width > MAX_COLUMNS:
        most = f"{MAX_COLUMNS:,}"
        raise ClipkitError(f"{where}: expected at most {most} columns, got {width:,}")


def check_different(columns: Sequence[str], name: str) -> None:
    """Refuse a table that has a column twice, whatever the case of its name."""
    counts = Counter(column.lower() for column in columns if column)
    for column in columns:
        if counts[column.lower()] > 1:
            got = escape(shorten(column))
            raise ClipkitError(f"{name}: expected different names of columns, got {got!r} again")


def _read_lines(data: bytes, name: str, delimiter: str) -> Iterator[Line]:
    """Yield each line that has content, or refuse one with other cells than the first."""
    reader = csv.reader(
        io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL,
        skipinitialspace=delimiter != "\t",
        strict=True,
    )
    line = 1
    width = blank = 0
    try:
        for cells in reader:
            if any(map(str.strip, cells)):
                width = width or len(cells)
                if len(cells) != width:
                    hint = TAB_HINT if delimiter == "\t" else QUOTE_HINT
                    got = f"expected {width} cells, got {len(cells)}"
                    raise ClipkitError(f"{name}, line {line}: {got}", hint)
                yield line, cells
            else:
                # an empty line is a row only of a table of one column
                blank += len(cells) > 1 or width == 1
            line = reader.line_num + 1
    except csv.Error as error:
        raise ClipkitError(f"{name}, line {line}: expected a row of a table, got {error}") from None
    if blank:
        console.warn(f"{name}: {console.count(blank, 'blank row')} left out")


def find_delimiter(data: bytes, ending: str = "") -> str:
    r"""Return what separates the cells of a header: commas, semicolons or tabs.

    >>> find_delimiter(b"id;size\n1;0,5\n"), find_delimiter(b"id\tsize\n"), find_delimiter(b"id")
    (';', '\t', ',')
    """
    header = data.removeprefix(BOM).lstrip(b" \r\n").partition(b"\n")[0].decode(errors="replace")
    delimiters = "\t,;" if ending == ".tsv" else ",;\t"
    return max(delimiters, key=header.count)


# ---- Objects -------------------------------------------------------------------------------------


def load_json(data: bytes, name: str, repeat_hint: str | None = None) -> Any:
    """Parse a JSON file; an error names its line. `repeat_hint` says what to do with a key again.

    Raises
    ------
    ClipkitError
        If the content is no UTF-8 text or no JSON, is nested too deeply, or an object has a key
        twice.
    """
    check_not_empty(data, name)
    text = decode(data, name).removeprefix("\ufeff")
    try:
        return parse_json(text, name, repeat_hint)
    except json.JSONDecodeError as error:
        reason = f"{error.msg}, column {error.colno}"
        raise ClipkitError(f"{name}, line {error.lineno}: expected JSON ({reason})") from None
    except RecursionError:
        raise ClipkitError(f"{name}: expected lists and objects, got deeper nesting") from None
    except ValueError:  # Python converts no number of many thousand digits
        raise ClipkitError(f"{name}: expected texts, got a very long number") from None


def parse_json(text: str, where: str, hint: str | None = None) -> Any:
    """Parse JSON of text, in which no object has a key twice, and which takes at most 2 GB."""
    count = sum(map(text.count, ",[{"))
    if count > MAX_VALUES:
        got = f"got up to {count:,}"
        raise ClipkitError(f"{where}: expected JSON of at most {MAX_VALUES:,} values, {got}")

    def check_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
            got = escaped(shorten(key))
            raise ClipkitError(f"{where}: expected each key once, got {got!r} again", hint)
        return content

    content = json.loads(text, object_pairs_hook=check_keys)
    if SURROGATE.search(text):
        check_characters(content, where)
    return content


def check_characters(content: Any, where: str) -> None:
    """Refuse half of a surrogate pair, which JSON may hold and which is no text."""
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        got = f"half a surrogate pair, U+{ord(error.object[error.start]):04X}"
        raise ClipkitError(f"{where}: expected text, got {got}") from None


def read_objects(data: bytes, name: str, example: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line and the object of each line of a .jsonl file that is not empty.

    An error names the line that is no JSON object. Its hint is the `example`.
    """
    check_text(data, name)
    for number, line in enumerate(io.BytesIO(data.removeprefix(BOM)), start=1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            content = parse_json(line.decode(), where)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            got = escaped(shorten(line.decode(errors="replace").strip()))
            raise ClipkitError(
                f"{where}: expected a JSON object, got {got!r}",
                f"write one object per line: {example}",
            )
        yield number, content


def table_objects(
    data: bytes, name: str, ending: str, needed: Iterable[Sequence[str]], example: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line and the cells by column of each row of a .csv, .tsv or .jsonl file.

    Names of columns are in lower case. Each group of names in `needed` has one column. `example` is
    a hint for .jsonl.
    """
    if ending == ".jsonl":
        for line, content in read_objects(data, name, example):
            lower = {key.lower(): value for key, value in content.items()}
            if len(lower) < len(content):
                check_different(list(content), f"{name}, line {line}")
            yield line, lower
        return
    table = read_table(data, name, ending)
    columns = [column.lower() for column in table.columns]
    for names in needed:
        find_column(names, columns, table.header)
    for line, cells in table.lines:
        yield line, dict(zip(columns, cells, strict=True))


def find_column(names: Sequence[str], present: Iterable[str], where: str) -> str:
    """Return the first of several names of a column that is present."""
    for name in names:
        if name in present:
            return name
    got = ", ".join(escape(shorten(column)) for column in present) or "none"
    raise ClipkitError(
        f"{where}: expected a column {' or '.join(names[:3])}, got {shorten(got, 200)}",
        "the first line of a table has the names of its columns",
    )
