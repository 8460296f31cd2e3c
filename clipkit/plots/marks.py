"""Marks that pictures share: dots with lines, in rows, curves with bars, and histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from clipkit.plots import style
from clipkit.plots.style import Floats

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

__all__ = ["Points"]

ROW_INCHES = 0.42
MANY, MANY_INCHES = 20, 0.34  # rows that have less space
SINGLE_INCHES = 0.24  # of many rows with one dot each
MAX_DIRECT = 28  # characters of a line of a name at the end of a curve
DIRECT_LINES = 2  # of such a name, at most
LEAST_GAP = 0.07  # of the axis: the height of a line of text
LEAST_END = 0.8  # of the axis: where a curve ends beside its name
NAME_ROWS = 0.5  # rows that the names of two dots take above the first one
BAND = 0.8  # rows that the name of a group takes


class Points(NamedTuple):
    """One kind of number of A rows, with the ends of its lines."""

    values: ArrayLike
    low: ArrayLike
    high: ArrayLike


class Look(NamedTuple):
    """How a series of dots looks."""

    color: str
    marker: str
    size: float
    offset: float  # in rows, so that equal numbers stay apart


# By the order of the series; the first is drawn last, above the others.
LOOKS = (
    Look(style.PALETTE[0], "o", 7, -0.3),
    Look(style.PALETTE[6], "s", 6, -0.1),
    Look(style.PALETTE[2], "D", 5, 0.3),
    Look(style.PALETTE[1], "^", 6, 0.1),
    Look(style.GREY, "v", 4, -0.3),
)


def draw_points(ax: Axes, y: Floats, points: Points, look: Look, zorder: float) -> Artist:
    """Draw a dot with its line at each `y`."""
    y = y + look.offset
    ax.hlines(y, points.low, points.high, color=look.color, linewidth=1.6, zorder=zorder)
    marks: dict[str, Any] = {"color": look.color, "ms": look.size, "mec": "white", "mew": 0.5}
    (line,) = ax.plot(points.values, y, look.marker, zorder=zorder, **marks)
    return line


class DotRows(NamedTuple):
    """Rows of dots as they are drawn: their axes, their places, and what a legend names."""

    figure: Figure
    axes: Axes
    y: Floats
    handles: list[Artist]
    labels: list[str]


def dot_rows(
    names: Sequence[str],
    series: Mapping[str, Points],
    *,
    reference: tuple[str, Floats] | None = None,
    best: float | None = None,
    bands: Sequence[tuple[str, int]] = (),
    looks: Sequence[Look] = LOOKS,
    title: str | None = None,
) -> DotRows:
    """Draw a row of dots for each name, with at most five kinds of numbers.

    Parameters
    ----------
    names : sequence of A str
        As they are written.
    series : mapping of str to Points
        Legend text -> numbers (A,). Those without a number are left out.
    reference : (str, array (A,)), optional
        What is drawn as a short stroke: its legend text and its numbers.
    best : float, optional
        Where a thin line ends that begins at the reference.
    bands : sequence of (str, int), optional
        The name of each group of rows, and how many there are; from the top.
    looks : sequence of Look, optional
        Of the series, in their order.
    """
    A = len(names)
    y = np.arange(A, dtype=np.float64)
    row_inches = ROW_INCHES
    if A > MANY:
        row_inches = SINGLE_INCHES if len(series) == 1 else MANY_INCHES
    fig, ax = style.new_axes(7.0, row_inches * A + 0.9, title)
    if bands:
        y = _draw_bands(fig, ax, bands)
    handles: list[Artist] = []
    labels = []
    if reference is not None:
        text, at = reference
        if best is not None:
            ax.hlines(y, at, best, color="#cccccc", linewidth=1.0, zorder=1)
        handles += ax.plot(at, y, "|", color=style.GREY, ms=13, mew=1.8, zorder=2)
        labels.append(text)
    for number, (label, points) in enumerate(series.items()):
        if np.isfinite(np.asarray(points.values)).any():
            handles.append(draw_points(ax, y, points, looks[number], zorder=9 - number))
            labels.append(label)
    style.name_rows(ax, y, names, 0.6, fontsize=9.5)
    return DotRows(fig, ax, y, handles, labels)


def _draw_bands(fig: Figure, ax: Axes, bands: Sequence[tuple[str, int]]) -> Floats:
    """Draw a band with a name for each group of rows; return the rows' places below the names."""
    fig.set_figheight(fig.get_figheight() + ROW_INCHES * BAND * len(bands))
    counts = [count for _, count in bands]
    places = np.repeat(np.arange(len(bands)), counts)
    y = np.arange(len(places)) + BAND * (1 + places)
    look: dict[str, Any] = {"va": "top", "fontsize": 9.5, "fontweight": "bold"}
    for number, (name, _) in enumerate(bands):
        top, bottom = y[places == number][[0, -1]] + [-0.5 - BAND, 0.5]
        ax.axhspan(top, bottom, color=("#f1f4f6", "white")[number % 2], zorder=0)
        ax.text(0.01, top + 0.1, name, transform=ax.get_yaxis_transform(), **look)
    return y


def draw_curve(
    ax: Axes,
    x: ArrayLike,
    y: ArrayLike,
    ends: tuple[ArrayLike, ArrayLike] | None,
    look: Mapping[str, Any],
) -> Line2D:
    """Draw a curve with a vertical bar at each of its points, if the bars' ends are given."""
    (line,) = ax.plot(x, y, **look)
    if ends is not None:
        ax.vlines(x, *ends, color=look["color"], linewidth=1.2, alpha=0.7)
    return line


def name_ends(ax: Axes, lines: Sequence[Line2D], labels: Sequence[str]) -> bool:
    """Name lines beside the axes if they end there, and there is room for all names.

    Names of lines that end close to each other are moved apart. Return whether they are named.
    """
    ax.autoscale_view()  # matplotlib would set the limits later, and lines would end elsewhere
    ends = []
    for line in lines:
        points = line.get_transform().transform(np.asarray(line.get_xydata(), np.float64))
        places = ax.transAxes.inverted().transform(points)
        drawn = places[np.isfinite(places).all(1)]
        if not len(drawn):
            return False
        ends.append(drawn[drawn[:, 0].argmax()])
    x, y = np.transpose(ends)
    names = [style.wrap(label, MAX_DIRECT) for label in labels]
    most_lines = max(map(len, names))
    gap = LEAST_GAP * most_lines
    if most_lines > DIRECT_LINES or gap * len(names) > 1 or x.min() < LEAST_END:
        return False
    for line, name, height in zip(lines, names, _spread(y, gap).tolist(), strict=True):
        look: dict[str, Any] = {"color": line.get_color(), "fontsize": 9.5, "va": "center"}
        place: dict[str, Any] = {"xytext": (5, 0), "textcoords": "offset points"}
        ax.annotate("\n".join(name), (1, height), xycoords="axes fraction", **place, **look)
    return True


def name_pair(ax: Axes, pair: ArrayLike, colors: Sequence[str], names: Sequence[str]) -> bool:
    """Name the two dots of the first row, each on its side, above a row that becomes higher.

    Return whether they are named: both need a number, and short names.
    """
    first, second = np.asarray(pair, np.float64)[:, 0].tolist()
    is_short = max(map(style.text_width, names)) <= MAX_DIRECT
    if not is_short or not np.isfinite([first, second]).all():
        return False
    sides = ("right", "left") if first < second else ("left", "right")
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom, top - NAME_ROWS)
    # a line may pass behind a name
    back = {"facecolor": ax.get_facecolor(), "edgecolor": "none", "pad": 1}
    for value, color, name, side in zip((first, second), colors, names, sides, strict=True):
        ax.text(value, top, name, color=color, ha=side, va="bottom", fontsize=9.5, bbox=back)
    return True


def _spread(heights: Floats, gap: float) -> Floats:
    """Return heights from 0 to 1 that keep their order, and are at least a gap apart."""
    order = np.argsort(heights, kind="stable")
    steps = gap * np.arange(len(heights))
    rising = np.maximum.accumulate(heights[order] - steps)
    spread = np.empty(len(heights))
    spread[order] = np.minimum(rising, max(1 - steps[-1], 0.0)) + steps
    return spread


def draw_histogram(ax: Axes, values: Floats, edges: Floats, color: str) -> Artist:
    """Draw a histogram of values, in percent of them, through which others can be seen."""
    counts, _ = np.histogram(values, edges)
    shares = 100 * counts / max(len(values), 1)
    area = ax.stairs(shares, edges, color=color, fill=True, alpha=0.45)
    ax.stairs(shares, edges, color=color, linewidth=1.4)
    return area
