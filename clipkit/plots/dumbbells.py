"""Two models in one picture: a line between their numbers, in a row for each thing measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clipkit.plots import marks, style
from clipkit.plots.marks import Points
from clipkit.plots.style import Floats, clipkit_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["dumbbells"]

ROW_INCHES = 0.34
LABELS = ("accuracy (%)", "filled: decided; empty: not decided")
KINDS = {"o": "circles", "s": "squares"}  # the marks of the first and the second kind of number
OFFSETS = {1: (0.0,), 2: (-0.17, 0.17)}


@clipkit_style
def dumbbells(
    names: Sequence[str],
    kinds: Mapping[str, tuple[Points, Points]],
    decided: Mapping[str, Sequence[bool]],
    models: tuple[str, str],
    *,
    chance: Sequence[float] = (),
    texts: tuple[str, str] = LABELS,
    title: str | None = None,
) -> Figure:
    """Draw numbers of two models, joined by a line, in a row for each name.

    Both dots are filled where the difference is decided, and empty where it is not.

    Parameters
    ----------
    names : sequence of A str
    kinds : mapping of str to (Points, Points)
        Kind of number -> fractions (A,) of the two models; at most two kinds.
    decided : mapping of str to sequence of A bool
        Kind of number -> whether the difference is decided.
    models : (str, str)
    chance : sequence of A float, optional
        Fractions, drawn as strokes.
    texts : (str, str)
        What the axis and the filled dots are called.
    """
    y = np.arange(len(names), dtype=np.float64)
    fig, ax = style.new_axes(7.0, ROW_INCHES * len(names) * max(len(kinds), 1) ** 0.6 + 1.0, title)
    if len(chance):
        ax.plot(100 * np.asarray(chance), y, "|", color=style.GREY, ms=12, mew=1.6, zorder=2)
    colors = style.PALETTE[0], style.PALETTE[1]
    facts = []
    of_first_row: list[Floats] = []
    for (kind, pair), marker, offset in zip(
        kinds.items(), KINDS, OFFSETS[len(kinds)], strict=False
    ):
        is_decided = np.asarray(decided[kind], bool)
        values: list[Floats] = [100 * np.asarray(points.values, np.float64) for points in pair]
        first, second = values
        ax.hlines(y + offset, first, second, color="#999999", linewidth=2.0, zorder=3)
        for color, numbers in zip(colors, values, strict=True):
            look: dict[str, Any] = {"color": color, "marker": marker, "ls": "", "ms": 7, "mew": 1.4}
            full = np.where(is_decided, numbers, np.nan)
            empty = np.where(is_decided, np.nan, numbers)
            ax.plot(full, y + offset, zorder=5, **look)
            ax.plot(empty, y + offset, zorder=4, mfc="white", **look)
        of_first_row = of_first_row or values
        if len(kinds) > 1:
            facts.append(f"{KINDS[marker]}: {kind}")
    facts.append(texts[1])
    if len(chance):
        facts.append("strokes: chance")
    style.name_rows(ax, y, style.sanitize_names(names, 44), 0.6, fontsize=9.5)
    ax.set_xlabel(texts[0])
    ax.set_title("; ".join(facts), loc="left", color=style.GREY)
    if not marks.name_pair(ax, of_first_row, colors, models):
        handles = [style.legend_line(color=color, marker="o", linestyle="") for color in colors]
        style.add_legend(fig, handles, models)
    return fig


@clipkit_style
def ways(
    names: Sequence[str],
    accuracy: Points,
    control: Points,
    chance: Sequence[float],
    *,
    what: str = "accuracy",
    title: str | None = None,
) -> Figure:
    """Draw the accuracy of each way of asking, beside chance and untrained controls.

    Parameters
    ----------
    names : sequence of A str
    accuracy, control : Points
        Fractions (A,); NaN without a control.
    chance : sequence of A float
    what : str
        What the fractions are.
    """
    series = {}
    for label, points in ((what, accuracy), ("untrained control", control)):
        series[label] = Points(*100 * np.asarray(points, np.float64))
    reference = ("chance", 100 * np.asarray(chance, np.float64))
    looks = (marks.LOOKS[0]._replace(offset=0.0), marks.LOOKS[3]._replace(offset=0.0))
    rows = marks.dot_rows(
        style.sanitize_names(names, 56), series, reference=reference, looks=looks, title=title
    )
    rows.axes.set_xlim(0, 101)
    rows.axes.set_xlabel(f"{what} (%)")
    facts = ["lines: 95 % intervals, or ranges", "strokes: chance"]
    if np.isfinite(np.asarray(control.values)).any():
        facts.append("triangles: untrained control")
    rows.axes.set_title("; ".join(facts), loc="left", color=style.GREY)
    return rows.figure
