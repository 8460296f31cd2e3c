"""Declare the picture of a result: a plot type, and the columns that it draws.

A declaration is data. A question states it in its record, a result keeps it in its history as
JSON, and `clipkit.plots.shapes` draws it. This module loads neither numpy nor matplotlib.

>>> picture = Dots(label="attribute", values=("zeroshot", "probe"), reference="chance")
>>> from_json(picture.as_json()) == picture
True
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clipkit.base.errors import ClipkitError

MAX_VALUES = 5  # columns in one picture, each with its own colour and marker
MAX_NAME = 100  # characters of a column's name
MAX_TITLE = 300


@dataclass(frozen=True)
class Declaration:
    """A plot type with the columns of a result that it draws. Optional columns may be "".

    Parameters
    ----------
    title : str, optional
        What the picture shows, such as "the cost of each prompt"; by default, its columns say it.
    stated : tuple of str, optional
        Columns that are not drawn. The subtitle says their value if all rows have the same.
    """

    title: str = dataclasses.field(default="", kw_only=True)
    stated: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            is_needed = field.default is dataclasses.MISSING
            _check(f"{type(self).__name__}.{field.name}", value, type(field.default), is_needed)

    @property
    def needed(self) -> list[str]:
        """The columns without which there is no picture."""
        names = []
        for one in dataclasses.fields(self):
            if one.default is dataclasses.MISSING:
                value = getattr(self, one.name)
                names.append(value[0] if isinstance(value, tuple) else value)
        return names

    def as_json(self) -> dict[str, Any]:
        """Return the declaration as JSON holds it."""
        content: dict[str, Any] = {"type": type(self).__name__}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            content[field.name] = list(value) if isinstance(value, tuple) else value
        return content


@dataclass(frozen=True)
class Dots(Declaration):
    """Dots with intervals: a line for each row of the result, with a dot for each value.

    Parameters
    ----------
    label : str
        Column that names a row.
    values : tuple of str
        Columns of one unit. `<name>_low` and `<name>_high`, if there, are the ends of a line.
    reference : str, optional
        Column of what chance, a null or a control gives: a short stroke in each row.
    group : str, optional
        Column whose values are the headings of groups of rows.
    is_sorted : bool, optional
        Whether the row with the largest first value is at the top.
    axis : str, optional
        What the axis of several columns shows, such as "share of the variance".
    """

    label: str
    values: tuple[str, ...]
    reference: str = ""
    group: str = ""
    is_sorted: bool = False
    axis: str = "value"


@dataclass(frozen=True)
class Curves(Declaration):
    """Curves with bands, of one or several columns against another.

    Parameters
    ----------
    x : str
    values : tuple of str
        Columns of one unit. `<name>_low` and `<name>_high`, if there, are the ends of a band.
    reference : str, optional
        Column of what chance, a null or a control gives: a dashed line.
    group : str, optional
        Column that has a value for each curve (default: the split, if there are several).
    is_log : bool, optional
        Whether x has a log scale.
    axis : str, optional
        What the axis of several columns shows, such as "share of the variance".
    """

    x: str
    values: tuple[str, ...]
    reference: str = ""
    group: str = ""
    is_log: bool = False
    axis: str = "value"


@dataclass(frozen=True)
class Matrix(Declaration):
    """A matrix of colours, with a row of the result for each cell.

    Parameters
    ----------
    row, column : str
        Columns that name a cell's row and column.
    value : str
    decided : str, optional
        Column of yes and no: a number is written in those cells alone.
    """

    row: str
    column: str
    value: str
    decided: str = ""


@dataclass(frozen=True)
class Distributions(Declaration):
    """Histograms of a column over the rows of the result.

    Parameters
    ----------
    x : str
    reference : str, optional
        Column of what chance, a null or a control gives: a dashed line at its mean.
    group : str, optional
        Column that has a value for each histogram.
    """

    x: str
    reference: str = ""
    group: str = ""


@dataclass(frozen=True)
class Sheet(Declaration):
    """A sheet of images, with a row of the result for each.

    Parameters
    ----------
    id : str
        Column of the images' ids.
    label : str, optional
        Column that is written above each image.
    """

    id: str
    label: str = ""


TYPES: dict[str, type[Declaration]] = {
    kind.__name__: kind for kind in (Dots, Curves, Matrix, Distributions, Sheet)
}


def from_json(content: object) -> Declaration:
    """Return the declaration that JSON holds; refuse any other content in one line."""
    if not isinstance(content, Mapping):
        raise ClipkitError(f"picture: expected an object, got {_shown(content)}")
    fields = dict(content)
    name = fields.pop("type", None)
    if not isinstance(name, str) or name not in TYPES:
        raise ClipkitError(f"picture: expected a type of {', '.join(TYPES)}, got {_shown(name)}")
    kind = TYPES[name]
    known = {field.name: field for field in dataclasses.fields(kind)}
    for key, value in fields.items():
        if key not in known:
            raise ClipkitError(f"picture: {name} has no {_shown(key)}; known: {', '.join(known)}")
        if isinstance(value, list):
            fields[key] = tuple(value)
    for key, field in known.items():
        if field.default is dataclasses.MISSING and key not in fields:
            raise ClipkitError(f"picture: {name} needs {key}")
    return kind(**fields)


def _check(name: str, value: object, default: type, is_needed: bool) -> None:
    """Refuse a value of a declaration that is no name, no names, or no yes or no."""
    if default is bool:
        if not isinstance(value, bool):
            raise ClipkitError(f"picture: {name}: expected true or false, got {_shown(value)}")
        return
    if name.endswith((".title", ".axis")):
        if not isinstance(value, str) or len(value) > MAX_TITLE:
            raise ClipkitError(f"picture: {name}: expected a short text, got {_shown(value)}")
        return
    if name.endswith((".values", ".stated")):
        least = int(is_needed)
        if not isinstance(value, tuple) or not least <= len(value) <= MAX_VALUES:
            expected = f"{least} to {MAX_VALUES} names of columns"
            raise ClipkitError(f"picture: {name}: expected {expected}, got {_shown(value)}")
        names = value
        is_needed = True
    else:
        names = (value,)
    for column in names:
        is_name = isinstance(column, str) and len(column) <= MAX_NAME
        if not is_name or (is_needed and not column):
            raise ClipkitError(f"picture: {name}: expected a column, got {_shown(column)}")


def _shown(value: object) -> str:
    """Return a value as one short line: it may be of any size, and hold any characters."""
    if not isinstance(value, str):
        return type(value).__name__
    return ascii(value[:40])
