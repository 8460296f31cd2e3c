"""Recall of image-text retrieval against the number of candidates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from clipkit.analysis import results
from clipkit.analysis.retrieve.retrieval import TASKS, first_rows
from clipkit.features.model import FeatureFile
from clipkit.features.provenance import provenance
from clipkit.plots import marks, style
from clipkit.plots.picture import Picture, always
from clipkit.plots.style import Drawn, clipkit_style
from clipkit.statistics import claims

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

__all__ = ["RecallCurve", "retrieval"]

TITLES = dict(zip(TASKS, ("images for a text", "texts for an image"), strict=True))
COLUMNS = "split k queries candidates recall recall_low recall_high recall_null"


class RecallCurve(NamedTuple):
    """Recalls (K,) at `k` (K,) candidates, as fractions, with limits of intervals or None."""

    k: ArrayLike
    recall: ArrayLike
    limits: tuple[ArrayLike, ArrayLike] | None = None


def draw_retrieval(file: FeatureFile) -> Drawn:
    """Draw recall against k of image-text retrieval, with the control and chance."""
    results.columns_of(file, "retrieve", COLUMNS)
    panels = {}
    for task in TASKS:
        rows = file.runs_on(task)
        if not rows:
            continue
        k = results.column(rows, "k")
        limits = (results.column(rows, "recall_low"), results.column(rows, "recall_high"))
        name = provenance(file).model or "model"
        curves = {name: RecallCurve(k, results.column(rows, "recall"), limits)}
        if "recall_control" in rows[0]:
            curves["untrained control"] = RecallCurve(k, results.column(rows, "recall_control"))
        curves["chance"] = RecallCurve(k, results.column(rows, "recall_null"))
        row = rows[0]
        sizes = f"{row['queries']:,.0f} queries among {row['candidates']:,.0f}"
        panels[f"{TITLES[task]}: {sizes}"] = curves
    figure = retrieval(panels, title="Recall of retrieval")
    (split,) = results.newest_entry(file).get("splits", [""])
    finding = claims.retrieval_sentence(first_rows(file))
    return style.state(figure, finding, results.source_label(file, str(split)))


RETRIEVE = Picture(
    "retrieve",
    draw_retrieval,
    "clipkit plot retrieve retrieve.h5 -o retrieve.png",
    of=("retrieve",),
    is_reported=always,
)


@clipkit_style
def retrieval(
    panels: Mapping[str, Mapping[str, RecallCurve]], *, title: str | None = None
) -> Figure:
    """Draw recall against k, a panel for each task.

    Parameters
    ----------
    panels : mapping of str to mapping of str to RecallCurve
        Name of a panel -> name of a curve -> its points. The curve `chance` is dashed.
    """
    fig = style.new_figure(3.8 * max(len(panels), 1), 3.6, title)
    axes: list[Axes] = fig.subplots(1, len(panels), sharey=True, squeeze=False)[0].tolist()
    handles: dict[str, Line2D] = {}
    for ax, (name, curves) in zip(axes, panels.items(), strict=True):
        for number, (label, curve) in enumerate(curves.items()):
            handles[label] = _draw_curve(ax, number, label, curve)
        ax.set_xscale("log")
        ticks = np.unique(np.concatenate([curve.k for curve in curves.values()])).astype(int)
        ax.set_xticks(ticks, list(map(str, ticks)))
        style.hide_minor_ticks(ax.xaxis)
        ax.set(ylim=(-2, 102), xlabel="k (log scale)")
        ax.set_title(name, loc="left", color=style.GREY)
    axes[0].set_ylabel("recall@k (%)")
    lines, labels = list(handles.values()), list(handles)
    of_last = all(line.axes is axes[-1] for line in lines)
    if not of_last or not marks.name_ends(axes[-1], lines, labels):
        style.add_legend(fig, lines, labels)
    return fig


def _draw_curve(ax: Axes, number: int, label: str, curve: RecallCurve) -> Line2D:
    look = style.line_style(number)
    if label == "chance":
        look = {"color": "black", "linestyle": "--", "linewidth": 1.2}
    ends = None
    if curve.limits is not None:
        ends = 100 * np.asarray(curve.limits[0]), 100 * np.asarray(curve.limits[1])
    return marks.draw_curve(ax, curve.k, 100 * np.asarray(curve.recall), ends, look)
