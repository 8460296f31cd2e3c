"""Lay out a table as text that fits into the width of a terminal without breaking a word.

Rich breaks words where a table is too wide, and takes seconds for ten thousand rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

GAP = 3  # spaces between columns
EMPTY = "-"  # a cell to which a column does not apply
MARGIN = 2  # spaces at the left
LONG_TEXT = 30  # a column that is not wider keeps each cell on one line: `71.0 (68.1–73.7)`


class Column(NamedTuple):
    """A column: its name, the unit of its numbers, if any, and the texts of its cells."""

    name: str
    unit: str
    cells: list[str]
    is_numeric: bool

    @property
    def title(self) -> str:
        """Name and unit, as the header shows them."""
        if self.unit == "%":
            return f"{self.name} %"
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def natural_width(self) -> int:
        """Width of the longest text, in cells of a terminal."""
        return max(map(text_width, [self.title, *self.cells]))

    @property
    def least_width(self) -> int:
        """Width of the longest word of a header, and of a cell or the words of a long one."""
        words = self.title.split()
        if self.is_numeric or max(map(text_width, self.cells)) <= LONG_TEXT:
            words += self.cells
        else:
            for cell in self.cells:
                words += cell.split()
        return max(map(text_width, words), default=0)


def render(columns: Sequence[Column], width: int, header: bool = True) -> str:
    """Return a table that is at most `width` wide, unless a single word is longer.

    A table that is too wide loses the columns that hold one value in all rows; a line below the
    table names them. If it is still too wide, texts are wrapped between words. If that does not
    suffice, the columns are divided into several tables, each with the columns that tell the rows
    apart. As the last resort, and if there is only one row, a line shows each cell.
    """
    if _total(_natural_widths(columns)) <= width:
        return _table(columns, width, header)
    if len(columns[0].cells) == 1:
        return _records(columns, [], width)
    caption = ""
    constant = [column for column in columns if len(set(column.cells)) == 1]
    if 0 < len(constant) < len(columns):
        caption = _caption(constant, width)
        columns = [column for column in columns if column not in constant]
    parts = _parts(columns, width)
    if parts:
        return "\n".join(_table(part, width, header) for part in parts) + caption
    return _records(columns, _identifying(columns), width) + caption


def text_width(text: str) -> int:
    """Return the cells of a terminal that a text takes: two for a Chinese character."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def wrap(text: str, width: int) -> list[str]:
    """Break a text between words into lines; a word that is longer than `width` stays whole.

    >>> wrap("a photo of a dog", 8)
    ['a photo', 'of a dog']
    """
    lines: list[str] = []
    for word in text.split(" "):
        if lines and text_width(lines[-1]) + 1 + text_width(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def join_lines(lines: Iterable[str]) -> str:
    """Return lines as a text in which each of them ends with a line break."""
    return "\n".join([*lines, ""])


def _rows(columns: Sequence[Column]) -> Iterator[tuple[str, ...]]:
    return zip(*(column.cells for column in columns), strict=True)


def _total(widths: Sequence[int]) -> int:
    return MARGIN + sum(widths) + GAP * (len(widths) - 1) + 1  # the line overhangs by 1


def _natural_widths(columns: Sequence[Column]) -> list[int]:
    return [column.natural_width for column in columns]


def _least_widths(columns: Sequence[Column]) -> list[int]:
    return [column.least_width for column in columns]


def _widths(columns: Sequence[Column], width: int) -> list[int]:
    """Return the columns' widths: the natural ones or, if they are too wide, smaller ones."""
    natural = _natural_widths(columns)
    if _total(natural) <= width:
        return natural
    widths = _least_widths(columns)
    room = width - _total(widths)
    while room > 0:
        for number in range(len(widths)):
            if room > 0 and widths[number] < natural[number]:
                widths[number] += 1
                room -= 1
    return widths


def _table(columns: Sequence[Column], width: int, header: bool) -> str:
    widths = _widths(columns, width)
    lines: list[str] = []
    if header:
        lines += _lines([column.title for column in columns], columns, widths)
        lines.append(" " + "─" * (_total(widths) - 1))
    for row in _rows(columns):
        lines += _lines(row, columns, widths)
    return join_lines(lines)


def _lines(row: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> list[str]:
    """Return the lines of a row, of which there are several if texts are wrapped."""
    wrapped = map(wrap, row, widths)
    lines = []
    for texts in itertools.zip_longest(*wrapped, fillvalue=""):
        cells = []
        for text, column, cell_width in zip(texts, columns, widths, strict=True):
            cells.append(_padded(text, cell_width, to_the_right=column.is_numeric))
        line = " " * MARGIN + (" " * GAP).join(cells)
        lines.append(line.rstrip())
    return lines


def _padded(text: str, width: int, to_the_right: bool = False) -> str:
    """Fill a text with spaces to a width, in cells of a terminal."""
    space = " " * (width - text_width(text))
    return space + text if to_the_right else text + space


def _caption(columns: Sequence[Column], width: int) -> str:
    """Name the columns that hold one value in all rows."""
    facts = []
    for column in columns:
        words = (column.name, column.cells[0], column.unit)
        facts.append(" ".join(filter(None, words)))
    lines = wrap(f"In all rows: {', '.join(facts)}", width - MARGIN)
    return join_lines(_indented(lines))


def _indented(lines: Sequence[str]) -> list[str]:
    return [" " * MARGIN + line for line in lines]


def _identifying(columns: Sequence[Column]) -> list[Column]:
    """Return the columns that tell the rows apart, settings before numbers with a unit.

    A column is among them if it tells rows apart that those before it do not.
    """
    chosen: list[Column] = []
    different = 1  # rows that the chosen columns tell apart
    for column in sorted(columns, key=lambda column: column.unit != ""):
        rows = set(_rows([*chosen, column]))
        if len(rows) > different:
            different = len(rows)
            chosen.append(column)
    return chosen or [columns[0]]


def _parts(columns: Sequence[Column], width: int) -> list[list[Column]]:
    """Divide columns into tables that fit, each with those that tell rows apart; else none."""
    identifying = _identifying(columns)
    parts = [[*identifying]]
    for column in columns:
        if column in identifying:
            continue
        if _total(_least_widths([*parts[-1], column])) > width:
            parts.append([*identifying])
        parts[-1].append(column)
        if _total(_least_widths(parts[-1])) > width:
            return []
    return parts


def _heading(cells: Iterable[str]) -> str:
    """Join the cells that are not empty."""
    return ", ".join(cell for cell in cells if cell != EMPTY)


def _records(columns: Sequence[Column], identifying: Sequence[Column], width: int) -> str:
    """Show each row as a heading, if anything tells it apart, with a line for each other cell."""
    others = [column for column in columns if column not in identifying]
    title_width = max(text_width(column.title) for column in others)
    indent = " " * (2 * MARGIN if identifying else MARGIN)
    headings = map(_heading, _rows(identifying))
    lines = []
    for row in _rows(others):
        if identifying:
            lines += _indented(wrap(next(headings), width - MARGIN))
        for column, cell in zip(others, row, strict=True):
            start = indent
            if len(others) > 1:
                start += _padded(column.title, title_width + 2)
            for text in wrap(cell, width - text_width(start)):
                lines.append(start + text)
                start = " " * text_width(start)
    return join_lines(lines)
