"""Dots by category: how often the right text is chosen, beside what other causes would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipkit.analysis import results
from clipkit.analysis.choices import MEASURES
from clipkit.features.history import provenance
from clipkit.features.model import FeatureFile
from clipkit.plots import style
from clipkit.plots.style import Drawn, Floats, clipkit_style

COLUMNS = (
    "split category items accuracy accuracy_low accuracy_high shuffled shuffled95 angle ceiling"
)
TITLES = ("texts for each image", "images for each text", "both")
ROW_INCHES = 0.36
MOST_CATEGORIES = 30
MOSTLY_ORDER = 0.75  # a lower ceiling means that most items differ in the order of words alone
# column -> label, look; the first is drawn last, above the others
SERIES: dict[str, tuple[str, dict[str, Any]]] = {
    "accuracy": ("", {"marker": "o", "color": style.BLUE, "ms": 7, "mec": "white", "mew": 0.5}),
    "accuracy_control": ("untrained control", {"marker": "^", "color": style.VERMILLION}),
    "ceiling": (
        "most that a model blind to the order of words can reach",
        {"marker": "s", "color": "black", "mfc": "none", "ms": 8},
    ),
    "angle": ("random directions", {"marker": "x", "color": style.GREY, "ms": 5}),
    "shuffled": (
        "images shuffled: the texts alone, 95 % of draws left of the line's end",
        {"marker": "|", "color": style.GREY, "ms": 13, "mew": 1.8},
    ),
}


def draw_choices(file: FeatureFile) -> Drawn:
    """Draw a result of `choose`."""
    results.columns_of(file, "choose", COLUMNS)
    panels = {}
    for measure, title in zip(MEASURES, TITLES, strict=True):
        rows = file.runs_on(measure)
        if rows:
            panels[f"{measure}: {title}"] = rows
    figure = choices(panels, provenance(file).model or "model", title="Choices between texts")
    (split,) = results.newest_entry(file).get("splits", [""])
    return style.state(figure, _finding(rows or file.rows()), results.source_label(file, split))


def _finding(rows: Sequence[Mapping[str, Any]]) -> str:
    """Count the categories that are understood, by whether the order of words decides them.

    Understood is what the texts alone, the control and a model blind to order do not reach.
    """
    counts = {"words": [0, 0], "order": [0, 0]}
    for row in rows[1:] or rows:
        is_order = row["ceiling"] < MOSTLY_ORDER
        reached = [row.get("accuracy_control", 0)] + [row["ceiling"]] * is_order
        is_understood = row["accuracy"] > row["shuffled95"] and row["accuracy_low"] > max(reached)
        count = counts["order" if is_order else "words"]
        count[0] += is_understood
        count[1] += 1
    (words, of_words), (order, of_order) = counts.values()
    if not of_order:
        return f"Words are understood in {words} of {of_words} categories"
    if not of_words:
        return f"The order of words is understood in {order} of {of_order} categories"
    parts = f"Words are understood in {words} of {of_words} categories"
    return f"{parts}, their order in {order} of {of_order}"


@clipkit_style
def choices(
    panels: Mapping[str, Sequence[Mapping[str, Any]]], model: str, *, title: str | None = None
) -> Figure:
    """Draw accuracies by category, a panel for each measure.

    Parameters
    ----------
    panels : mapping of str to sequence of mapping
        Name of a panel -> rows of `choose`. The first of the rows is about all items. If there are
        more than 30, those of the most items are drawn.
    model : str
        The name of the model in the legend.
    """
    first = next(iter(panels.values()))
    sizes = np.array([-row["items"] for row in first])
    shown = np.sort(np.argsort(sizes, kind="stable")[:MOST_CATEGORIES])
    names = [f"{first[row]['category']} ({first[row]['items']:,.0f})" for row in shown]
    width = 4.0 + 3.5 * len(panels)
    fig = style.new_figure(width, ROW_INCHES * len(shown) + 1.0, title)
    axes: list[Axes] = fig.subplots(1, len(panels), sharey=True, squeeze=False)[0].tolist()
    handles: dict[str, Artist] = {}
    for ax, (name, rows) in zip(axes, panels.items(), strict=True):
        _draw(ax, [rows[row] for row in shown], model, handles)
        ax.set_title(name, loc="left", color=style.GREY)
        ax.set(xlim=(-2, 102), xlabel="right (%; bars: 95 % intervals)")
    y = np.arange(len(shown), dtype=np.float64)
    style.name_rows(axes[0], y, style.sanitize_names(names, 34), 0.6, fontsize=9.5)
    style.add_legend(fig, list(handles.values()), list(handles))
    return fig


def _draw(
    ax: Axes, rows: Sequence[Mapping[str, Any]], model: str, handles: dict[str, Artist]
) -> None:
    """Draw the series of a panel; add those that `handles` lacks."""
    y = np.arange(len(rows))
    for number, (column, (label, look)) in enumerate(SERIES.items()):
        values = _percent(rows, column)
        if column == "ceiling":
            values[values == 100] = np.nan
        if not np.isfinite(values).any():
            continue
        zorder = 9 - number
        if column == "accuracy":
            ends = _percent(rows, "accuracy_low"), _percent(rows, "accuracy_high")
            ax.hlines(y, *ends, color=look["color"], linewidth=1.8, zorder=zorder)
        if column == "shuffled":
            ax.hlines(y, values, _percent(rows, "shuffled95"), color=look["color"], zorder=zorder)
        if column == "angle" and len(np.unique(values)) == 1:
            handle: Artist = ax.axvline(
                values[0], color=look["color"], linestyle="--", linewidth=1.2
            )
        else:
            (handle,) = ax.plot(values, y, linestyle="", **look, zorder=zorder)
        handles.setdefault(label or model, handle)
    ax.grid(False, axis="y")


def _percent(rows: Sequence[Mapping[str, Any]], column: str) -> Floats:
    return np.array([100 * row.get(column, np.nan) for row in rows], np.float64)
