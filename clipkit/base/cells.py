"""Cells of a table as people read them: numbers, and the headings and units of columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, Self

NO_BREAK = "\N{NO-BREAK SPACE}"  # between words of a cell that stay on one line
EMPTY = "-"  # a cell to which a column does not apply


class Cell(str):
    """A number as people read it, and what a page draws beside it; unknown numbers are NaN.

    Attributes
    ----------
    value : float
        NaN if nothing is drawn.
    low, high : float
        Its interval.
    reference, control : float
        What chance, called `reference_name`, and an untrained control give.
    """

    value: float
    low: float
    high: float
    reference: float
    control: float
    reference_name: str

    def __new__(
        cls,
        text: str,
        value: float = math.nan,
        low: float = math.nan,
        high: float = math.nan,
        reference: float = math.nan,
        control: float = math.nan,
        reference_name: str = "chance",
    ) -> Self:
        """Return the text of a number with what is drawn."""
        cell = super().__new__(cls, text)
        cell.value, cell.low, cell.high = value, low, high
        cell.reference, cell.control, cell.reference_name = reference, control, reference_name
        return cell


def format_number(value: float) -> str:
    """Format a number without a unit, with four digits unless it is whole."""
    return f"{value:.8g}" if value.is_integer() else f"{value:.4g}"


def format_p(p: float) -> str:
    """Format a p-value; one that is too small for a float is not 0.

    >>> format_p(0.0231), format_p(0.0)
    ('0.023', '< 1e-300')
    """
    return f"{p:.2g}" if p else "< 1e-300"


def with_unit(title: str, unit: str) -> str:
    """Return a title with the unit of its numbers behind it, if any."""
    if unit == "%":
        return f"{title} %"
    return f"{title} ({unit})" if unit else title


class Heading(NamedTuple):
    """What people read above a column, the unit of its numbers, if any, and their format."""

    title: str
    unit: str = ""
    format: Callable[[float], str] = format_number


Headings = Mapping[str, Heading]  # by the names of columns
