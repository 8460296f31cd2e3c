"""Print the rows of a report as a table for people or papers, or as TSV, CSV or JSON."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from clipkit.base import latex, markdown
from clipkit.base.cells import EMPTY, NO_BREAK, Cell, Heading, Headings, with_unit
from clipkit.base.console import escaped, note
from clipkit.base.errors import unknown

if TYPE_CHECKING:
    from rich.table import Table

MAX_TABLE = 2000  # rows of a long report that are printed as a table
UNSPLIT = "\ue000"  # in its place while Rich, to which it is a space, breaks lines
FOR_PEOPLE = ("table", "markdown", "latex")
FORMATS = ("table", "tsv", "csv", "json", "markdown", "latex")
# A number as a text, with its interval, if any
NUMBER = re.compile(r"(<=? ?)?[-+]?\d[\d,./e+-]*( \(.+\))?")
DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")  # a table shows its start
WIDTH = 200  # of a table that goes to a file or a pipe
UNLIMITED = 1 << 20
LONGEST_NAME = 16  # in a table that is too wide otherwise


NUMERIC_TYPES = {bool, int, float, Cell}
Row = Mapping[str, Any]
Cells = dict[str, list[Any]]  # the values of each column, by its name


def text_width(text: str) -> int:
    """Return the width of a text on a terminal, in cells."""
    from rich.cells import cell_len  # questions import this module, and completion loads no Rich

    return cell_len(text)


class Column(NamedTuple):
    """A column: its title, the unit of its numbers, if any, and the texts of its cells."""

    name: str
    unit: str
    cells: list[str]
    is_numeric: bool

    @property
    def title(self) -> str:
        """Name and unit, as the header shows them."""
        return with_unit(self.name, self.unit)

    @property
    def least_width(self) -> int:
        """Width of the longest word. NO_BREAK joins words into one."""
        words = re.split("[ \n]", " ".join([self.title, *self.cells]))
        return max(map(text_width, words))

    @property
    def is_breakable(self) -> bool:
        """Whether long words of its cells are names, which may be broken, rather than numbers."""
        return not self.is_numeric and not any(NO_BREAK in cell for cell in self.cells)

    @property
    def full_width(self) -> int:
        """Width of the longest line if no cell is wrapped."""
        return max(map(text_width, [*self.title.split("\n"), *self.cells]))


class View(NamedTuple):
    """Select what of a report is printed, and how.

    By default, the format is a table on a terminal and TSV elsewhere, and all columns are printed.
    Each text of `columns` names one or more between commas, in the order of the print. `headings`
    are of the known columns, once for all rows or once for each row; other columns have the words
    of their names and no unit.
    """

    format: str | None = None
    columns: Sequence[str] | None = None
    no_header: bool = False
    headings: Sequence[Headings] = ()

    @property
    def chosen_columns(self) -> list[str]:
        """Names of the columns to print, without repeats."""
        if not self.columns:
            return []
        names = ",".join(self.columns).split(",")
        return list(dict.fromkeys(name.strip() for name in names))

    @property
    def is_for_people(self) -> bool:
        """Whether the cells may be formatted for reading: in a table, if no columns are named."""
        return chosen_format(self.format) in FOR_PEOPLE and self.columns is None


def join(reports: Sequence[Sequence[Row]]) -> list[Row]:
    """Return the rows of several reports with the columns of all; None where a report has none.

    >>> join([[{"a": 1}], [{"b": 2}]])
    [{'a': 1, 'b': None}, {'a': None, 'b': 2}]
    """
    rows = list(itertools.chain.from_iterable(reports))
    names = dict.fromkeys(itertools.chain.from_iterable(rows))
    return [{name: row.get(name) for name in names} for row in rows]


def emit(rows: Iterable[Row], view: View, notes: Sequence[str] = ()) -> None:
    """Print rows on standard output. Every row has the same columns.

    Machine formats are written row by row. They hold fractions (0..1), and an empty cell (null in
    JSON) for what does not apply. A table shows percent. It has to know all rows before its first
    line, so an iterator of more than MAX_TABLE rows is printed as TSV. `notes` say what a table
    shows: on standard error, or below a table in Markdown or LaTeX.

    Raises
    ------
    UsageError
        If there is no column of a name.
    """
    pending = iter(rows)
    first = list(itertools.islice(pending, MAX_TABLE))
    chosen_columns = view.chosen_columns
    names = _choose(first, chosen_columns)
    format = chosen_format(view.format)
    if format in FOR_PEOPLE and len(first) == MAX_TABLE and not isinstance(rows, Sequence):
        note(f"more than {MAX_TABLE:,} rows: printed as TSV")
        format = "tsv"
    chosen = itertools.chain(first, pending)
    if format in FOR_PEOPLE:
        empty = [
            name for name in chosen_columns if all(rounded(row[name]) is None for row in first)
        ]
        if first and empty:  # which a table leaves out
            note(f"no row has a value of {', '.join(empty)}")
        cells = _cells(list(chosen), names)
        columns = _columns(cells, view.headings)
        if format == "table":
            sys.stdout.write(_table(columns, not view.no_header, view.is_for_people))
        else:
            has_header, may_share = not view.no_header, view.is_for_people
            markup = as_markup(columns, format, notes, header=has_header, may_share=may_share)
            sys.stdout.write(markup)
    elif format == "json":
        _write_json(chosen, names)
    else:
        _write_lines(chosen, names, format, not view.no_header)
    sys.stdout.flush()  # so that the rows stand above the notes that follow, in a pipe, too
    if format == "table":
        for text in notes:
            note(text)


def _write_json(rows: Iterable[Row], names: Sequence[str]) -> None:
    """Write a list of objects, as `json.dumps` with an indent of 2 does."""
    before, end = "[\n", "[]\n"
    for row in rows:
        text = json.dumps({name: rounded(row[name]) for name in names}, indent=2)
        sys.stdout.write(before + textwrap.indent(text, "  "))
        before, end = ",\n", "\n]\n"
    sys.stdout.write(end)


def _write_lines(rows: Iterable[Row], names: Sequence[str], format: str, header: bool) -> None:
    """Write many lines at once, since `head` leaves once it has read the first of them."""
    lines = _lines(rows, names, header)
    while block := list(itertools.islice(lines, MAX_TABLE)):
        if format == "tsv":
            sys.stdout.write(join_lines(map("\t".join, block)))
        else:
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(block)
            sys.stdout.write(text.getvalue())


def _lines(rows: Iterable[Row], names: Sequence[str], header: bool) -> Iterator[Sequence[str]]:
    if header:
        yield names
    for row in rows:
        yield [_text(rounded(row[name])) for name in names]


def _choose(rows: Sequence[Row], chosen: list[str]) -> list[str]:
    """Return the names of the chosen columns, by default of all. Without rows, accept any name."""
    known = list(rows[0]) if rows else chosen
    for name in chosen:
        if name not in known:
            raise unknown("column", name, known)
    return chosen or known


def chosen_format(format: str | None) -> str:
    """Return the format itself or, without one, a table on a terminal and TSV elsewhere."""
    if format:
        return format
    return "table" if sys.stdout.isatty() else "tsv"


def _cells(rows: Sequence[Row], names: Sequence[str]) -> Cells:
    cells = {}
    for name in names:
        cells[name] = [rounded(row[name]) for row in rows]
    return cells


def rounded(value: Any) -> Any:
    """Round a float to 8 digits; return None for NaN, which marks what does not apply.

    float32 holds 7 digits, and a fraction of up to ten million rows differs in 8 from the next.

    >>> rounded(0.39599999999999996), rounded(float("nan")), rounded("a")
    (0.396, None, 'a')
    """
    if not isinstance(value, float):
        return value
    if math.isnan(value):
        return None
    return float(f"{value:.8g}")


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.8g}"
    return escaped(str(value))


def columns_for_people(rows: Sequence[Row], headings: Sequence[Headings]) -> list[Column]:
    """Return the columns of a report's table, without those that are empty in all rows.

    `headings` are of the known columns, once for all rows or once for each row.
    """
    if not rows:
        return []
    return _columns(_cells(rows, list(rows[0])), headings)


def _columns(cells: Cells, headings: Sequence[Headings]) -> list[Column]:
    """Format columns. A name with several headings has a column for each, empty in other rows."""
    columns = []
    for name, values in cells.items():
        default = Heading(name.replace("_", " "))
        of_rows = [known.get(name, default) for known in headings] or [default]
        if len(of_rows) == 1:
            of_rows *= len(values)
        pairs = list(zip(of_rows, values, strict=True))
        # An empty column would only take room
        shown = dict.fromkeys(heading for heading, value in pairs if value not in (None, ""))
        for heading in shown:
            own = [value if of_row == heading else None for of_row, value in pairs]
            types = set(map(type, own)) - {type(None)}
            texts = [_table_text(heading, value) for value in own]
            is_numeric = types <= NUMERIC_TYPES
            columns.append(Column(heading.title, heading.unit, texts, is_numeric))
    return columns


def _table(columns: Sequence[Column], header: bool, is_for_people: bool) -> str:
    """Return a table that fits the terminal, unless two of its columns are wider.

    If it is too wide, a single row becomes a list. If there are several rows, columns with one
    value in all of them stand below the table, unless the user named the columns and they fit. If
    that does not do, titles are broken between words, then columns stand closer together, then
    an interval stands below its number and names are broken, and then columns are continued below.
    """
    if not columns:
        return "\n"
    width = _width()
    text = _grid(columns, UNLIMITED, header)
    has_one_row = len(columns[0].cells) == 1
    if _fits(text, width) and (has_one_row or not is_for_people):
        return text
    if has_one_row:
        titles = Column("", "", [column.title for column in columns], is_numeric=False)
        values = Column("", "", [column.cells[0] for column in columns], is_numeric=False)
        return _grid([titles, values], width, header=False)
    shared, others = _split_shared(columns)
    text = _grid(others, UNLIMITED, header)
    narrow = [column._replace(name=column.title.replace(" ", "\n"), unit="") for column in others]
    for gap in (3, 2):
        if not _fits(text, width):
            text = _grid(narrow, width, header, gap)
    if not _fits(text, width):
        narrow = list(map(_break_intervals, narrow))
        text = _grid(narrow, width, header, 2)
    if not _fits(text, width):
        excess = max(map(text_width, text.splitlines())) - width
        widest = max([column.least_width for column in narrow if column.is_breakable], default=0)
        text = _grid(narrow, width, header, 2, max(LONGEST_NAME, widest - excess))
    if not _fits(text, width) and len(narrow) > 2:
        parts = []
        for part in _continued(narrow, width):
            parts.append(_grid(part, width, header, 2))
            if not _fits(parts[-1], width):
                parts[-1] = _grid(part, width, header, 2, LONGEST_NAME)
        text = "\n".join(parts)
    return text + _caption(shared, width)


def _break_intervals(column: Column) -> Column:
    """Return a column in which the interval of a difference may stand below it."""
    return column._replace(cells=[cell.replace(f"{NO_BREAK}(", " (") for cell in column.cells])


def _continued(columns: Sequence[Column], width: int) -> list[list[Column]]:
    """Return tables of columns that fit a width if any do; the first column is in each of them."""
    gap, edge = 2, 1
    first, *others = columns
    parts = [[first]]
    used = edge + first.least_width + gap
    for column in others:
        if len(parts[-1]) > 1 and used + column.least_width + gap > width:
            parts.append([first])
            used = edge + first.least_width + gap
        parts[-1].append(column)
        used += column.least_width + gap
    return parts


def _fits(text: str, width: int) -> bool:
    return max(map(text_width, text.splitlines())) <= width


def _split_shared(columns: Sequence[Column]) -> tuple[list[Column], list[Column]]:
    """Return the columns with one value in all rows, and the others; all if none differs."""
    shared: list[Column] = []
    others: list[Column] = []
    for column in columns:
        if len(set(column.cells)) == 1:
            shared.append(column)
        else:
            others.append(column)
    if not others:
        return [], shared
    return shared, others


def _grid(
    columns: Sequence[Column], width: int, header: bool, gap: int = 3, longest: int = 0
) -> str:
    """Lay out columns as a table, with texts wrapped between words, and 2 or 3 spaces as a gap.

    With `longest`, texts are as narrow as can be, and names that are longer are broken.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=SIMPLE_HEAD, show_header=header, padding=(0, 1, 0, gap - 2))
    for column in columns:
        least = column.least_width
        if longest and column.is_breakable:
            least = min(least, longest)
        grid.add_column(
            Text(column.title),
            justify="right" if column.is_numeric else "left",
            min_width=least,
            max_width=least if longest else None,
            no_wrap=least == column.full_width,
            overflow="fold",
        )
    for cells in zip(*[column.cells for column in columns], strict=True):
        grid.add_row(*[Text(cell.replace(NO_BREAK, UNSPLIT)) for cell in cells])
    return _render(grid, width).replace(UNSPLIT, " ")


def _render(grid: Table, width: int) -> str:
    """Return a table of Rich as text of at most `width` columns, or of the least that it needs."""
    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, width=UNLIMITED, height=1, color_system=None, force_terminal=False)
    least = console.measure(grid).minimum
    allowed = width + 1  # the last column's space overhangs
    while True:
        out.seek(0)
        out.truncate()
        console.print(grid, width=max(allowed, least))
        _, *lines, _, _ = out.getvalue().split("\n")  # the first and the last are blank
        text = join_lines(line.rstrip() for line in lines)
        # Rich 15 takes from all columns alike, and then widens those that are below their least.
        excess = max(map(text_width, text.splitlines())) - width
        if excess <= 0 or allowed <= least:
            return text
        allowed -= excess


def as_markup(
    columns: Sequence[Column],
    format: str,
    notes: Sequence[str] = (),
    *,
    header: bool = True,
    may_share: bool = True,
) -> str:
    """Return a table in Markdown or LaTeX with notes below it, or its rows without a header.

    If they may, columns with one value in all of several rows stand below the table.
    """
    if not columns:
        return "\n"
    shared: list[Column] = []
    if may_share and len(columns[0].cells) > 1:
        shared, columns = _split_shared(columns)
    language = markdown if format == "markdown" else latex
    titles = [language.literal(column.title) for column in columns]
    cells = [list(map(language.literal, column.cells)) for column in columns]
    is_number = [column.is_numeric or _are_numbers(column.cells) for column in columns]
    parts = [language.format_table(titles, list(zip(*cells, strict=True)), is_number, header)]
    if header:
        texts = filter(None, [_shared_facts(shared), *notes])
        parts += [language.format_note(f"{text.removesuffix('.')}.") for text in texts]
    return join_lines(parts)


def _are_numbers(cells: Sequence[str]) -> bool:
    """Whether all cells are formatted numbers, or empty."""
    texts = [cell.replace(NO_BREAK, " ") for cell in cells if cell != EMPTY]
    return bool(texts) and all(map(NUMBER.fullmatch, texts))


def _caption(columns: Sequence[Column], width: int) -> str:
    """Return the columns that hold one value in all rows as lines below a table."""
    text = _shared_facts(columns)
    if not text:
        return ""
    wrapper = textwrap.TextWrapper(width - 2, break_long_words=False, break_on_hyphens=False)
    return textwrap.indent(join_lines(wrapper.wrap(text)), "  ")


def _shared_facts(columns: Sequence[Column]) -> str:
    """Name the columns that hold one value in all rows."""
    if not columns:
        return ""
    facts = []
    for column in columns:
        fact = f"{column.name} {column.cells[0]}"
        if column.unit:
            fact += f" {column.unit}"
        facts.append(fact)
    return f"In all rows: {', '.join(facts)}"


def join_lines(lines: Iterable[str]) -> str:
    """Return lines as a text in which each of them ends with a line break."""
    return "\n".join([*lines, ""])


def _width() -> int:
    """Return the width of the terminal; elsewhere COLUMNS, if it is set, else 200."""
    if sys.stdout.isatty():
        return shutil.get_terminal_size().columns
    columns = os.environ.get("COLUMNS", "")
    if re.fullmatch("[1-9][0-9]{0,4}", columns):
        return int(columns)
    return WIDTH


def _table_text(heading: Heading, value: Any) -> str:
    if value is None:
        return EMPTY
    if isinstance(value, Cell):
        return value
    if isinstance(value, float):
        return heading.format(value)
    return DIGEST.sub("\\1…", _text(value))
