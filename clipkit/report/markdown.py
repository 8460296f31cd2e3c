"""Render a report as Markdown that reads well as text, and format numbers with intervals."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from urllib.parse import quote

from clipkit.base.markdown import format_table
from clipkit.base.matrices import Int64
from clipkit.report.blocks import (
    Block,
    Drawing,
    Fact,
    Heading,
    Measurement,
    Page,
    Picture,
    Table,
    text_of,
)

FACTORS = {"%": 100, "nats": 1, "": 1}
DECIMALS = {"%": 2, "nats": 4, "": 4}
WIDTH = 100


def format_measurement(measurement: Measurement) -> str:
    """Format a number with its interval.

    >>> format_measurement(Measurement(0.5, "%", 0.4, 0.6))
    '50.00 (40.00–60.00)'
    >>> format_measurement(Measurement(3.46561, "nats"))
    '3.4656'
    """
    text = _format_number(measurement.value, measurement.unit)
    if not math.isnan(measurement.low):
        low = _format_number(measurement.low, measurement.unit)
        high = _format_number(measurement.high, measurement.unit)
        text += f" ({low}–{high})"
    return text


def format_measurements(measurements: Sequence[Measurement]) -> str:
    """Format the number of a control, or the mean of several with the lowest and the highest.

    >>> format_measurements([Measurement(0.5), Measurement(0.6)]), format_measurements([])
    ('55.00 (50.00–60.00)', '')
    """
    if not measurements:
        return ""
    return format_measurement(mean_measurement(measurements))


def mean_measurement(measurements: Sequence[Measurement]) -> Measurement:
    """Return the mean of several numbers with the lowest and the highest, or the only one."""
    if len(measurements) == 1:
        return measurements[0]
    values = [measurement.value for measurement in measurements]
    mean = sum(values) / len(values)
    return Measurement(mean, measurements[0].unit, min(values), max(values))


def format_range(shares: Sequence[float]) -> str:
    """Format the lowest and the highest of several shares in percent.

    >>> format_range([0.28, 0.24]), format_range([0.5, 0.5]), format_range([])
    ('24.00–28.00', '50.00', '')
    """
    if not shares:
        return ""
    ends = format_percent(min(shares)), format_percent(max(shares))
    return "–".join(dict.fromkeys(ends))


def highest(measurements: Sequence[Measurement]) -> float:
    """Return the highest number, as of several controls; NaN without any."""
    return max((measurement.value for measurement in measurements), default=math.nan)


def format_difference(measurement: Measurement, figure: float) -> str:
    """Format a number minus a published one, in percentage points where the unit is percent.

    >>> format_difference(Measurement(0.79), 0.7801), format_difference(Measurement(0.78), 0.78001)
    ('+0.99', '0.00')
    """
    decimals = DECIMALS[measurement.unit]
    difference = round(FACTORS[measurement.unit] * (measurement.value - figure), decimals)
    sign = "+" if difference else ""
    return f"{difference or 0:{sign}.{decimals}f}"


def p_name(clusters: Int64 | None, *, is_recall: bool = False) -> str:
    """Return what the p of a paired difference is called, on images in clusters (N) or not.

    That of mean recalls is not McNemar's; see `main_number.paired_recall_test`.
    """
    if is_recall:
        return f"the p of signs of {'images' if clusters is None else 'whole clusters'}"
    return "McNemar's exact p" if clusters is None else "the exact p of signs of whole clusters"


def format_percent(fraction: float) -> str:
    """Format a fraction in percent; an empty string for NaN."""
    return "" if math.isnan(fraction) else _format_number(fraction, "%")


def _format_number(value: float, unit: str) -> str:
    return f"{FACTORS[unit] * value:.{DECIMALS[unit]}f}"


def as_markdown(page: Page) -> str:
    """Render a report as Markdown: each question with what answers it, and then all else."""
    blocks: list[Block] = [Heading(1, page.title), *_facts(page.summary)]
    if page.left_out:
        blocks.append("These results are left out:\n\n- " + "\n- ".join(page.left_out))
    for question in page.questions:
        blocks += [Heading(2, question.text), *_facts(question.facts)]
        if question.table is not None:
            blocks.append(question.table)
        blocks += question.folded
    blocks += page.blocks
    return "\n\n".join(map(block_as_markdown, _shown(blocks))) + "\n"


def _shown(blocks: Sequence[Block]) -> list[str | Heading | Table | Picture]:
    """Return what Markdown shows: no drawings, and no headings with nothing below them."""
    kept: list[str | Heading | Table | Picture] = []
    for block in reversed(blocks):
        if isinstance(block, Drawing):
            continue
        if isinstance(block, Heading) and block.level > 1:
            following = kept[-1] if kept else Heading(1, "")
            if isinstance(following, Heading) and following.level <= block.level:
                continue
        kept.append(block)
    return kept[::-1]


def _facts(facts: Sequence[Fact]) -> list[Block]:
    """Return facts as a list, if there are any."""
    lines = [_fill(f"{fact.name}: {fact.text}", "- ", "  ") for fact in facts]
    return ["\n".join(lines)] if lines else []


def block_as_markdown(block: str | Heading | Table | Picture) -> str:
    """Render a block as Markdown."""
    if isinstance(block, Heading):
        return f"{'#' * block.level} {block.text}"
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Picture):
        return f"![{block.caption}]({quote(block.path.name)})"
    return block if "\n" in block else _fill(block)


def _fill(text: str, first: str = "", others: str = "") -> str:
    """Wrap a text; `first` and `others` stand before its first and its other lines."""
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=others,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _table(table: Table) -> str:
    """Format a table with padded columns, and what all rows share below it."""
    table = table.arranged()
    rows = [list(map(text_of, row)) for row in table.rows]
    is_number = [number >= table.text_columns for number in range(len(table.header))]
    lines = [format_table(table.header, rows, is_number)]
    if table.shared:
        lines += ["", *textwrap.wrap(f"In all rows: {table.shared}", WIDTH)]
    return "\n".join(lines)
