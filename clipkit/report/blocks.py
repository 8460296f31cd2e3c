"""The blocks of a report: headings, prose, tables with typed cells, pictures.

Prose, headings and cells are Markdown. `formatting` renders a page as Markdown, `html` as HTML.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipkit.features import FeatureFile


@dataclass(frozen=True)
class Bar:
    """A bar beside a number: the number and its interval on a scale.

    NaN marks what is not known. `low` and `high` are the ends of the interval, and `span` those of
    the scale. `reference_name` says what the reference is. `control` is the number of an untrained
    control.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    reference: float = math.nan
    control: float = math.nan
    span: tuple[float, float] = (0.0, 1.0)
    reference_name: str = "chance"


@dataclass(frozen=True)
class Number:
    """A cell with a number: its text, and the bar beside it."""

    text: str
    bar: Bar


Cell = str | Number


@dataclass(frozen=True)
class Heading:
    """A heading of level 1 to 3."""

    level: int
    text: str


@dataclass(frozen=True)
class Table:
    """A table whose first columns hold text, and whose other columns hold numbers.

    `sources` names, for each row, the result that it comes from; it is empty if rows have none.
    `missing` names the results of further rows, which are not there.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    text_columns: int = 1
    sources: Sequence[str] = ()
    missing: Sequence[str] = ()


Sourced = tuple[str, Sequence[Cell]]  # a row behind the name of the result that it comes from


class Rows:
    """Rows of a table, with the results that they come from, while a table is made."""

    def __init__(self) -> None:
        self._rows: list[Sequence[Cell]] = []
        self._sources: list[str] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, cells: Sequence[Cell], source: str) -> None:
        """Add a row."""
        self._rows.append(cells)
        self._sources.append(source)

    def add_all(self, rows: Iterable[Sourced], suffix: str) -> None:
        """Add rows with a suffix behind their first cells: "", or that of a control."""
        for source, (label, *cells) in rows:
            if suffix:  # the page does not say how the results of a control were made
                source = ""
            self.add([f"{label}{suffix}", *cells], source)

    def tables(self, header: Sequence[str], missing: Sequence[str] = ()) -> list[Block]:
        """Return a table of the rows, or [] without any."""
        if not self._rows:
            return []
        return [Table(header, self._rows, sources=self._sources, missing=missing)]


@dataclass(frozen=True)
class Picture:
    """A picture in a file."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Drawing:
    """A picture that is drawn from a result of `attributes`."""

    result: FeatureFile
    caption: str


Block = str | Heading | Table | Picture


@dataclass(frozen=True)
class Origin:
    """Command lines and facts that tell how a result was made.

    Attributes
    ----------
    file : str
        Name of the result.
    commands : list of str
        Command lines, in the order in which they run.
    facts : dict of str to str
        Model, its digest, and rows.
    """

    file: str
    commands: Sequence[str]
    facts: Mapping[str, str]


@dataclass(frozen=True)
class Fact:
    """A sentence of the summary with its name, its bar, and the result it comes from.

    An album shows images of the class `class_name` beside it.
    """

    name: str
    text: str
    source: str = ""
    bar: Bar | None = None
    class_name: str = ""


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes
    ----------
    title : str
    preamble, blocks : list of Block
        What comes before the chapters, and the chapters.
    left_out : list of str
        What is not shown, with the reasons.
    summary : list of Fact
    lead : Picture or Drawing, optional
        The picture that comes first.
    origins : dict of str to Origin
        How the sources of tables were made.
    files : dict of str to Path
        Results that the page shows and the files that they were made from, by the names of sources.
        An album of images uses no others.
    controls : list of Path
        Such files of untrained controls that have their own folders.
    """

    title: str
    preamble: Sequence[Block]
    blocks: Sequence[Block]
    left_out: Sequence[str] = ()
    summary: Sequence[Fact] = ()
    lead: Picture | Drawing | None = None
    origins: Mapping[str, Origin] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    controls: Sequence[Path] = ()


def text_of(cell: Cell) -> str:
    """Return the Markdown of a cell."""
    return cell.text if isinstance(cell, Number) else cell
