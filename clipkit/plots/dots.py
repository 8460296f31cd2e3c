"""Dots in rows: recall of attributes, importance of prompts, and cosines with prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from clipkit.plots.style import (
    GREY,
    PALETTE,
    Floats,
    add_legend,
    clipkit_style,
    dodge,
    line_style,
    name_rows,
    new_figure,
    sanitize_names,
    use_plain_numbers,
)

ROW_INCHES = 0.42
MAX_ROWS = 40  # of more prompts, those that differ the most are drawn
PROMPT_INCHES = 0.24
MOST_PROMPTS = 30


class Dots(NamedTuple):
    """One kind of number of A rows, as fractions, with the ends of its lines; NaN is not drawn."""

    values: ArrayLike
    low: ArrayLike
    high: ArrayLike


class _Style(NamedTuple):
    color: str
    marker: str
    size: float
    offset: float  # in rows, so that equal numbers stay apart


# By the order of the series; the first is drawn last, above the others.
STYLES = (
    _Style(PALETTE[0], "o", 7, -0.3),
    _Style(PALETTE[6], "s", 6, -0.1),
    _Style(PALETTE[2], "D", 5, 0.1),
    _Style(PALETTE[1], "^", 6, 0.3),
)


@clipkit_style
def attributes(
    names: Sequence[str],
    chance: ArrayLike,
    series: Mapping[str, Dots],
    reach: ArrayLike,
    *,
    title: str | None = None,
) -> Figure:
    """Draw a line per attribute, from chance to 100 %, with up to four kinds of numbers on it.

    Attributes come by falling reach, which is written beside them; those without it come last.

    Parameters
    ----------
    names : sequence of A str
        Shown literally, cut after 28 characters.
    chance : array (A,)
        Fractions.
    series : mapping of str to Dots
        Legend text -> fractions. Those without a number are left out.
    reach : array (A,)
        NaN where it is not defined.
    """
    reached = np.asarray(reach, np.float64)
    order = np.argsort(-np.nan_to_num(reached, nan=-np.inf), kind="stable")
    y = np.arange(len(order), dtype=np.float64)
    at_chance = 100 * np.asarray(chance, np.float64)[order]
    fig = new_figure(7.0, ROW_INCHES * len(order) + 0.9, title)
    ax = fig.add_subplot()
    ax.hlines(y, at_chance, 100, color="#cccccc", linewidth=1.0, zorder=1)
    handles: list[Artist] = [
        ax.plot(at_chance, y, "|", color=GREY, markersize=13, markeredgewidth=1.8, zorder=2)[0]
    ]
    labels = ["chance"]
    for number, (label, dots) in enumerate(series.items()):
        if np.isfinite(np.asarray(dots.values)).any():
            handles.append(_draw_dots(ax, y, dots, order, STYLES[number], zorder=9 - number))
            labels.append(label)
    name_rows(ax, y, sanitize_names([names[row] for row in order], 28), 0.6, fontsize=9.5)
    ax.set_xlim(0, 101)
    ax.set_xlabel("mean recall per value (%)")
    fact = "lines: 95 % intervals; of random directions and controls, the range"
    ax.set_title(fact, loc="left", color=GREY)
    if np.isfinite(reached).any():
        _write_reach(ax, y, reached[order])
    add_legend(fig, handles, labels)
    return fig


@clipkit_style
def importance(
    names: Sequence[str],
    costs: Dots,
    *,
    noun: str = "prompt",
    title: str | None = None,
) -> Figure:
    """Draw the accuracy that permuting each of K prompts costs, for the 30 largest costs.

    Parameters
    ----------
    names : sequence of K str
        Shown literally, cut after 44 characters.
    costs : Dots
        Fractions with the ends of their 95 % intervals.
    noun : str
        What a name stands for: a prompt or a group.
    """
    order = np.argsort(-np.asarray(costs.values, np.float64), kind="stable")[:MOST_PROMPTS]
    y = np.arange(len(order), dtype=np.float64)
    fig = new_figure(7.5, PROMPT_INCHES * len(order) + 1.1, title)
    ax = fig.add_subplot()
    ax.axvline(0, color=GREY, linewidth=1.0, zorder=1)
    _draw_dots(ax, y, costs, order, STYLES[0]._replace(offset=0.0, size=5), zorder=3)
    name_rows(ax, y, sanitize_names([names[row] for row in order], 44), 0.6, fontsize=9)
    ax.set_xlabel(f"accuracy lost if the {noun} is permuted (points)")
    fact = "lines: 95 % intervals over images"
    if len(names) > len(order):
        fact += f"; {len(names) - len(order):,} more {noun}s cost less"
    ax.set_title(fact, loc="left", color=GREY)
    return fig


def _draw_dots(
    ax: Axes, y: Floats, dots: Dots, order: NDArray[np.int64], style: _Style, zorder: int
) -> Artist:
    values, low, high = 100 * np.asarray(dots, np.float64)[:, order]
    y = y + style.offset
    ax.hlines(y, low, high, color=style.color, linewidth=1.6, zorder=zorder)
    (line,) = ax.plot(
        values,
        y,
        linestyle="none",
        marker=style.marker,
        markersize=style.size,
        color=style.color,
        markeredgecolor="white",
        markeredgewidth=0.5,
        zorder=zorder,
    )
    return line


def _write_reach(ax: Axes, y: Floats, reach: Floats) -> None:
    """Write the reach of each row at the right edge."""
    place = ax.get_yaxis_transform()
    ax.text(1.02, -0.75, "reach", transform=place, fontsize=9, color=GREY, va="bottom")
    for position, value in zip(y, reach, strict=True):
        text = "–" if np.isnan(value) else f"{value:.2f}"
        ax.text(1.02, position, text, transform=place, fontsize=9, va="center")


@clipkit_style
def logits(
    cosines: ArrayLike, labels: Sequence[str], texts: Sequence[str], *, title: str | None = None
) -> Figure:
    """Draw a row per prompt, with a dot at the cosine of each image or class mean.

    Of more than 40 prompts, those are drawn in which the images or classes differ the most; for a
    single image or class, those with the highest cosines.

    Parameters
    ----------
    cosines : array (M, K)
        Cosine similarities; NaN is not drawn.
    labels : sequence of M str
        What each series of dots is: an image's id, a class's name.
    texts : sequence of K str
        Prompts, shown literally, cut after 48 characters.
    """
    values = np.asarray(cosines, np.float64)
    M, K = values.shape
    rows = _most_different(values)
    prompts = sanitize_names([texts[row] for row in rows], 48, rows.tolist())
    row_inches = min(0.15 + 0.022 * M, 0.5)
    fig = new_figure(7.5, row_inches * len(rows) + 0.8, title)
    ax = fig.add_subplot()
    y = np.arange(len(rows), dtype=np.float64)
    ax.hlines(y + 0.5, 0, 1, transform=ax.get_yaxis_transform(), color="#eeeeee", linewidth=0.6)
    handles: list[Artist] = []
    for i, series in enumerate(values[:, rows]):
        style = {**line_style(i), "linestyle": "none", "markersize": 5.5}
        offset = dodge(i, M, 0.14, 0.66)
        handles += ax.plot(series, y + offset, markeredgecolor="white", mew=0.4, **style)
    name_rows(ax, y, prompts, 0.5, fontsize=9)
    use_plain_numbers(ax.xaxis)
    ax.set_xlabel("cosine similarity")
    if len(rows) < K:
        choice = "largest differences" if M > 1 else "highest cosines"
        ax.set_title(f"{len(rows)} of {K:,} prompts: the {choice}", loc="left", color=GREY)
    add_legend(fig, handles, sanitize_names(labels, 32))
    return fig


def _most_different(values: Floats) -> NDArray[np.int64]:
    """Return the columns to draw of (M, K) values, at most 40, in their order."""
    M, K = values.shape
    if K <= MAX_ROWS:
        return np.arange(K)
    size = values[0]
    if M > 1:
        filled = np.ma.masked_invalid(values)
        size = np.ma.filled(filled.max(axis=0) - filled.min(axis=0), -np.inf)
    largest = np.argsort(-np.nan_to_num(size, nan=-np.inf), kind="stable")[:MAX_ROWS]
    return np.sort(largest)
