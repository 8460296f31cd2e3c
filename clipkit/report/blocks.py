"""The blocks of a report: headings, prose, tables with typed cells, pictures.

Prose, headings and cells are Markdown. `markdown` renders a page as Markdown, `html` as HTML.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clipkit.analysis.results import holds_classes
from clipkit.analysis.sections import RIGHT
from clipkit.features.model import FeatureFile
from clipkit.features.provenance import provenance

UNIT = re.compile(r"(.*?)(?: (%|\(.+\)))?")  # a column's title: its name and its unit


@dataclass(frozen=True)
class Measurement:
    """A number of a report, with Wilson's 95 % interval or, for several numbers, their range."""

    value: float
    unit: str = "%"  # or "nats" or ""; the value of a % is a fraction (0..1)
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Bar:
    """A bar beside a number, on a scale. Unknown numbers are NaN."""

    value: float
    low: float = math.nan  # the interval
    high: float = math.nan
    reference: float = math.nan
    control: float = math.nan  # the number of an untrained control
    span: tuple[float, float] = (0.0, 1.0)  # the scale
    reference_name: str = "chance"
    runs: Sequence[float] = ()  # the numbers of several runs, of which `value` is the largest


@dataclass(frozen=True)
class Number:
    """A cell with a number: its text, and the bar beside it."""

    text: str
    bar: Bar


Cell = str | Number


@dataclass(frozen=True)
class Heading:
    """A heading of level 1 to 4."""

    level: int
    text: str


@dataclass(frozen=True)
class Table:
    """A table: its first columns hold text, and the others hold numbers.

    The first `key_columns` say what a row is about; by default, those with text. `sources` names,
    for each row, the result that it comes from; it is empty if rows have none. `shared` is what all
    rows have in common, which stands below the table.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    text_columns: int = 1
    sources: Sequence[str] = ()
    key_columns: int = 0
    shared: str = ""

    @property
    def has_header(self) -> bool:
        """Whether columns have titles; a table of facts has names in its first column instead."""
        return all(self.header)

    def without_file(self) -> Table:
        """Return the table without the key column `file`, since it is about one file."""
        if "file" not in self.header:
            return self
        shown = [n for n, title in enumerate(self.header) if title != "file"]
        return replace(self._select(shown), key_columns=max(0, self.key_columns - 1))

    def arranged(self) -> Table:
        """Return the table as it is shown: its first column distinguishes the rows.

        Empty columns are left out. Of several rows, keys with one text in all of them stand below.
        If no single key is different in all rows, the first column joins several.
        """
        columns = [list(map(text_of, column)) for column in zip(*self.rows, strict=True)]
        shown = [n for n, texts in enumerate(columns) if any(texts)]
        if len(self.rows) < 2 or not self.has_header:
            return self._select(shown)
        of_keys = self.key_columns or self.text_columns
        keys, shared = [], []
        for n in shown:
            if n >= of_keys:
                break
            if len(set(columns[n])) == 1:
                shared.append(n)
            else:
                keys.append(n)
        if not keys:  # the rows are about the same
            keys, shared = shared[:1], shared[1:]
        label = [keys[place] for place in _choose_label([columns[n] for n in keys])]
        rest = self._select([n for n in shown if n not in shared and n not in label])
        below = ", ".join(_fact(self.header[n], columns[n][0]) for n in shared)
        if not label:
            return replace(rest, shared=below)
        header = [", ".join(self.header[n] for n in label), *rest.header]
        rows = []
        for cells, others in zip(self.rows, rest.rows, strict=True):
            parts = [text_of(cells[n]) for n in label]
            if len(label) > 1:
                parts = [self._named(n, part) for n, part in zip(label, parts, strict=True)]
            rows.append([", ".join(filter(None, parts)), *others])
        text_columns = rest.text_columns + 1
        return replace(rest, header=header, rows=rows, text_columns=text_columns, shared=below)

    def _select(self, columns: Sequence[int]) -> Table:
        """Return a table of some columns."""
        return replace(
            self,
            header=[self.header[n] for n in columns],
            rows=[[row[n] for n in columns] for row in self.rows],
            text_columns=sum(n < self.text_columns for n in columns),
        )

    def _named(self, column: int, text: str) -> str:
        """Return a text or, of a number, the number with its name."""
        if column < self.text_columns or not text:
            return text
        return _fact(self.header[column], text)


def _choose_label(keys: Sequence[Sequence[str]]) -> list[int]:
    """Return the places of the keys that together distinguish the rows: one of them, if possible.

    >>> _choose_label([["a", "a", "b"], ["x", "x", "x"], ["1", "2", "1"]])
    [0, 2]
    >>> _choose_label([["a", "a", "b"], ["1", "2", "3"]])
    [1]
    """
    for place, key in enumerate(keys):
        if len(set(key)) == len(key):
            return [place]
    chosen: list[int] = []
    distinct = 1
    for place in range(len(keys)):
        tried = [*chosen, place]
        rows = len(set(zip(*[keys[n] for n in tried], strict=True)))
        if rows > distinct:
            chosen, distinct = tried, rows
    return chosen


def _fact(title: str, text: str) -> str:
    """Return a value with its name, and its unit behind it.

    >>> _fact("chance (%)", "1.00"), _fact("C", "10")
    ('chance 1.00 %', 'C 10')
    """
    match = UNIT.fullmatch(title)
    name, unit = match.groups("") if match else (title, "")
    return " ".join(filter(None, [name, text, unit.strip("()")]))


@dataclass(frozen=True)
class Picture:
    """A picture in a file."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Drawing:
    """A picture that is drawn when a page is rendered as HTML, of results or of numbers.

    A confusion that is linked leads to the images of an album of the same result.
    """

    draw: Callable[..., Any]  # returns a figure and what it is of
    inputs: Sequence[Any]
    is_linked: bool = False


Block = str | Heading | Table | Picture | Drawing


@dataclass(frozen=True)
class Origin:
    """How a result was made."""

    file: str  # its name
    commands: Sequence[str]  # command lines, in the order in which they run
    facts: Mapping[str, str]  # model, its digest, and rows


@dataclass(frozen=True)
class Fact:
    """A sentence of the summary with its name, its bar, and the result it comes from.

    An album shows images of the class `class_name` beside it. A page folds the details.
    """

    name: str
    text: str
    source: str = ""
    bar: Bar | None = None
    class_name: str = ""
    details: str = ""


@dataclass(frozen=True)
class Question:
    """A section of a page: what is asked, the sentences that answer it, and what they rest on.

    One picture and one table stand open below the first sentences. Everything else is folded.
    `text` asks in words.
    """

    section: str  # a key of `SECTIONS`
    text: str
    facts: Sequence[Fact] = ()
    drawing: Drawing | None = None
    table: Table | None = None
    folded: Sequence[Block] = ()


@dataclass(frozen=True)
class Page:
    """A report. Results and files have the names that the page shows.

    A result in memory has no questions, but a summary and blocks.
    """

    title: str
    blocks: Sequence[Block]
    left_out: Sequence[str] = ()  # what is not shown, with the reasons
    summary: Sequence[Fact] = ()
    questions: Sequence[Question] = ()
    origins: Mapping[str, Origin] = field(default_factory=dict)  # of the sources of tables
    results: Mapping[str, FeatureFile] = field(default_factory=dict)
    feature_files: Sequence[FeatureFile] = ()  # other files that are open, for an album
    controls: Sequence[FeatureFile] = ()  # results of untrained models

    @property
    def facts(self) -> list[Fact]:
        """The facts of the summary and of all questions."""
        of_questions = [question.facts for question in self.questions]
        return [*self.summary, *itertools.chain.from_iterable(of_questions)]

    def main_result(self, dataset: str) -> tuple[FeatureFile | None, str]:
        """Return the main result with classes, and its worst class, or "" if there is none.

        A result on the data set is preferred.
        """
        right_first = sorted(self.questions, key=lambda question: question.section != RIGHT)
        facts = [*self.summary, *itertools.chain.from_iterable(q.facts for q in right_first)]
        sources = []
        for fact in facts:
            result = self.results.get(fact.source)  # None for one of a control
            if result is not None and holds_classes(result):
                sources.append(fact.source)
        on_dataset = [name for name in sources if provenance(self.results[name]).dataset == dataset]
        for main in on_dataset + sources:
            classes = [fact.class_name for fact in facts if fact.source == main]
            return self.results[main], next(filter(None, classes), "")
        return None, ""


def text_of(cell: Cell) -> str:
    """Return the Markdown of a cell."""
    return cell.text if isinstance(cell, Number) else cell
