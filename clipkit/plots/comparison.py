"""Results on the same images: their accuracies, by group, and the differences between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from clipkit.plots.style import (
    GREY,
    Floats,
    add_legend,
    clipkit_style,
    line_style,
    name_rows,
    new_figure,
    sanitize_label,
    sanitize_names,
)

MAX_GROUPS = 30  # of more, those with the lowest accuracies are shown


@clipkit_style
def compare(
    accuracy: ArrayLike,
    difference: ArrayLike,
    names: Sequence[str],
    *,
    groups: Sequence[str] = (),
    null5: ArrayLike | None = None,
    title: str | None = None,
) -> Figure:
    """Draw accuracies with intervals, and beside them the first one's lead over the others.

    With groups, each has a line with a mark for every result, the group with the lowest accuracy
    of the first result at the top. Of more than 30 groups, the lowest 30 are shown. Without groups,
    each result has a line.

    Parameters
    ----------
    accuracy : array (F, G, 3)
        Of F results in G groups: a fraction, and the low and the high end of its interval.
    difference : array (F - 1, G, 3)
        Of the first result minus each other. The panel is left out if F is 1.
    names : sequence of F str
        Of the results, cut after 32 characters.
    groups : sequence of G str
        Without groups, G is 1.
    null5 : array (F,), optional
        Accuracy below which the worst group of each result lies in one of twenty permutations;
        marked by a dotted line. NaN for none.
    """
    accuracy = 100 * np.asarray(accuracy, np.float64)
    difference = 100 * np.asarray(difference, np.float64)
    marks = np.full(len(names), np.nan)
    if null5 is not None:
        marks = 100 * np.asarray(null5, np.float64)
    order = np.argsort(accuracy[0, :, 0], kind="stable")[:MAX_GROUPS]
    labels = short = sanitize_names(names, 32)
    line_inches = 0.29
    if groups:
        labels = sanitize_names([groups[i] for i in order], 28, order.tolist())
        line_inches = 0.16 + 0.13 * len(names)
    fig = new_figure(7.5, len(labels) * line_inches + 1.0, title)
    axes = fig.subplots(1, min(len(names), 2), squeeze=False, sharey=True)[0]
    _draw_points(axes[0], accuracy[:, order], 0, bool(groups))
    for i, mark in enumerate(marks):
        axes[0].axvline(mark, color=line_style(i)["color"], linestyle=":", linewidth=1.4)
    axes[0].set_xlabel("accuracy (%)")
    if len(difference):
        _draw_points(axes[1], difference[:, order], 1, bool(groups))
        axes[1].axvline(0, color="black", linewidth=1)
        other = sanitize_label(names[1], 18) if len(names) == 2 else "the other"
        axes[1].set_xlabel(f"{sanitize_label(names[0], 18)} minus {other} (% points)")
    for ax in axes:
        name_rows(ax, np.arange(len(labels), dtype=np.float64), labels, 0.5)
        ax.xaxis.set_major_locator(MaxNLocator(6))
    _title_panels(axes, len(groups))
    _add_legend(fig, short if groups else [], bool(np.isfinite(marks).any()), len(groups))
    return fig


def _draw_points(ax: Axes, values: Floats, first: int, grouped: bool) -> None:
    """Draw values (S, G, 3) of the results from number `first` on, with their intervals.

    Those of a group are on one line. Without groups, each result has its own line.
    """
    S, G, _ = values.shape
    y = np.arange(first, first + S, dtype=np.float64)[:, None]
    if grouped:
        y = np.arange(G) + np.linspace(-0.5, 0.5, S + 2)[1:-1, None]
    for row in range(S):
        style = {**line_style(first + row), "linestyle": ""}
        low, high = values[row, :, 1], values[row, :, 2]
        ax.hlines(y[row], low, high, color=style["color"], linewidth=1.6)
        ax.plot(values[row, :, 0], y[row], markeredgecolor="white", markeredgewidth=0.6, **style)


def _title_panels(axes: Sequence[Axes], n_groups: int) -> None:
    facts = "bars: 95 % intervals over images"
    if n_groups > MAX_GROUPS:
        facts += f", {MAX_GROUPS} of {n_groups} groups"
    axes[0].set_title(facts, loc="left", color=GREY)
    if len(axes) > 1:
        axes[1].set_title("bars: paired 95 % intervals over images", loc="left", color=GREY)


def _add_legend(fig: Figure, names: Sequence[str], has_null: bool, n_groups: int) -> None:
    handles: list[Artist] = []
    for i in range(len(names)):
        handles.append(Line2D([], [], **{**line_style(i), "linestyle": ""}))
    labels = list(names)
    if has_null:
        handles.append(Line2D([], [], color=GREY, linestyle=":", linewidth=1.4))
        labels.append(f"the worst of {n_groups} random groups is left of this in 5 % of draws")
    if handles:
        add_legend(fig, handles, labels)
