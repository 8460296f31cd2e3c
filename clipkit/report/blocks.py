"""The blocks of a report: headings, prose, tables with typed cells, pictures.

Prose, headings and cells are Markdown. `markdown` renders a page as Markdown, `html` as HTML.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipkit.analysis.results import holds_classes
from clipkit.features.model import FeatureFile
from clipkit.features.provenance import provenance


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
    """A table: its first columns hold text, and the others hold numbers.

    `sources` names, for each row, the result that it comes from; it is empty if rows have none.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    text_columns: int = 1
    sources: Sequence[str] = ()


@dataclass(frozen=True)
class Picture:
    """A picture in a file."""

    path: Path
    caption: str


Block = str | Heading | Table | Picture


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
class Page:
    """A report. Results and files have the names that the page shows."""

    title: str
    preamble: Sequence[Block]  # what comes before the results
    blocks: Sequence[Block]
    left_out: Sequence[str] = ()  # what is not shown, with the reasons
    summary: Sequence[Fact] = ()
    lead: FeatureFile | None = None  # the result of `attributes` that the first picture draws
    origins: Mapping[str, Origin] = field(default_factory=dict)  # of the sources of tables
    results: Mapping[str, FeatureFile] = field(default_factory=dict)
    feature_files: Sequence[FeatureFile] = ()  # other files that are open, for an album
    controls: Sequence[FeatureFile] = ()  # results of untrained models

    def main_result(self, dataset: str) -> tuple[FeatureFile | None, str]:
        """Return the main result with classes, and its worst class, or "" if there is none.

        A result on the data set is preferred.
        """
        sources = [
            fact.source
            for fact in self.summary
            if fact.source and holds_classes(self.results[fact.source])
        ]
        on_dataset = [name for name in sources if provenance(self.results[name]).dataset == dataset]
        for main in on_dataset + sources:
            classes = [fact.class_name for fact in self.summary if fact.source == main]
            return self.results[main], "".join(classes)
        return None, ""


def text_of(cell: Cell) -> str:
    """Return the Markdown of a cell."""
    return cell.text if isinstance(cell, Number) else cell
