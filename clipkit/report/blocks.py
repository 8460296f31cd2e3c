"""The blocks of a report: headings, prose, tables with typed cells, pictures.

Prose, headings and cells are Markdown. `markdown` renders a page as Markdown, `html` as HTML.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipkit.features import FeatureFile


@dataclass(frozen=True)
class Measurement:
    """A number of a report, with Wilson's 95 % interval or the lowest and highest of several."""

    value: float
    unit: str = "%"  # or "nats" or ""; the value of a % is a fraction (0..1)
    low: float = math.nan
    high: float = math.nan


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
        What comes before the results, and the results.
    left_out : list of str
        What is not shown, with the reasons.
    summary : list of Fact
    lead : Drawing, optional
        The picture that comes first.
    origins : dict of str to Origin
        How the sources of tables were made.
    results : dict of str to FeatureFile
        Results that the page shows. An album of images is about one of them.
    feature_files : dict of str to Path
        Other files that the page shows, whose features an album may read.
    controls : list of FeatureFile
        Results of untrained models that were given as controls.
    """

    title: str
    preamble: Sequence[Block]
    blocks: Sequence[Block]
    left_out: Sequence[str] = ()
    summary: Sequence[Fact] = ()
    lead: Drawing | None = None
    origins: Mapping[str, Origin] = field(default_factory=dict)
    results: Mapping[str, FeatureFile] = field(default_factory=dict)
    feature_files: Mapping[str, Path] = field(default_factory=dict)
    controls: Sequence[FeatureFile] = ()


def text_of(cell: Cell) -> str:
    """Return the Markdown of a cell."""
    return cell.text if isinstance(cell, Number) else cell
