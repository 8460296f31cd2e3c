"""Accuracy over temperature and C."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from clipkit.analysis import results
from clipkit.base.errors import ClipkitError
from clipkit.features.model import FeatureFile
from clipkit.plots import heatmap, style
from clipkit.plots.style import Drawn, Floats, clipkit_style
from clipkit.plots.temperature import check_sweep, rows_on


class AccuracyGrid(NamedTuple):
    """Accuracies (S, T) as fractions: row s at `Cs[s]`, column t at `temperatures[t]`."""

    values: Floats
    Cs: list[float]
    temperatures: list[float]
    label: str
    split: str


def draw_grid(file: FeatureFile, split: str | None) -> Drawn:
    """Draw a result of `probe`; see `accuracy_grid`."""
    values, Cs, taus, title, split = accuracy_grid(file, split)
    return grid(values, Cs, taus, title=title), results.source_label(file, split)


def accuracy_grid(file: FeatureFile, split: str | None = None) -> AccuracyGrid:
    """Arrange the accuracies of a sweep as a grid of at least two temperatures and values of C.

    By default, the split is the one with the most runs.
    """
    check_sweep(file)
    if split is None:
        counts = Counter(results.column(file.rows(), "eval_split"))
        split = min(counts, key=lambda name: (-counts[name], name))
    settings = itemgetter("C", "temperature")
    rows = sorted(rows_on(file, split), key=settings)
    classifiers = sorted(set(results.column(rows, "classifier")))
    if len(classifiers) > 1:
        raise ClipkitError(
            f"{file.display_name}: expected a grid of one classifier, got {', '.join(classifiers)}"
        )
    taus = sorted(set(results.column(rows, "temperature")))
    Cs = sorted({C for C in results.column(rows, "C") if not math.isnan(C)})
    is_grid = list(map(settings, rows)) == list(itertools.product(Cs, taus))
    if not is_grid or min(len(taus), len(Cs)) < 2:
        raise ClipkitError(
            f"{file.display_name}: expected a grid of at least 2 temperatures x 2 C on {split}, "
            f"got {len(rows)} runs of {len(taus)} x {len(Cs)}",
            "make one with: clipkit probe logits.h5 -t 1,0.5,0.25 -C 1,4,16 -o grid.h5",
        )
    accuracy = np.reshape(results.column(rows, "acc1"), (len(Cs), len(taus)))
    is_probs = results.newest_entry(file).get("features") == "probs"
    features = f"{file.similarity_name} / τ"
    if is_probs:
        features = f"softmax({features})"
    label = f"{classifiers[0]} on {features}, scored on {split}"
    return AccuracyGrid(accuracy, Cs, taus, label, split)


@clipkit_style
def grid(
    accuracy: ArrayLike, C: Sequence[float], tau: Sequence[float], *, title: str | None = None
) -> Figure:
    """Draw accuracy over (tau, C) as a heatmap, with lines along which C / tau^2 is constant.

    A linear SVM on cosine / tau depends on C / tau^2 alone.

    Parameters
    ----------
    accuracy : array (S, T)
        Fractions; row s at C[s], column t at tau[t], in any order.
    C, tau : sequences of S and T float
        Both > 0. C grows upwards, and the temperatures fall to the right.
    """
    rows, columns = np.argsort(C)[::-1], np.argsort(tau)[::-1]
    Cs = np.asarray(C, np.float64)[rows]
    taus = np.asarray(tau, np.float64)[columns]
    percent = 100 * np.asarray(accuracy, np.float64)[np.ix_(rows, columns)]
    width = heatmap.axis_inches(len(taus), 0.62, 3.0)
    height = heatmap.axis_inches(len(Cs), 0.42, 1.6)
    fig, ax = style.new_axes(width + 1.8, height + 0.8, title)
    low, high = heatmap.limits(percent)
    image = heatmap.draw(fig, ax, percent, "accuracy (%)", cmap="cividis", vmin=low, vmax=high)
    tau_labels, C_labels = [f"{value:g}" for value in taus], [f"{value:g}" for value in Cs]
    if max(percent.shape) <= heatmap.MAX_NUMBERS:
        ax.set_xticks(range(len(taus)), tau_labels)
        ax.set_yticks(range(len(Cs)), C_labels)
        heatmap.write_numbers(ax, image, percent, decimals=1, size=9)
    else:
        heatmap.label_cells(ax, "x", tau_labels, width)
        heatmap.label_cells(ax, "y", C_labels, height)
    ax.set(xlabel="temperature τ", ylabel="C")
    if len(taus) > 1 and len(Cs) > 1:
        _draw_isolines(ax, np.log10(Cs), np.log10(taus))
        ax.set_title("dashed: C / τ² is constant", loc="left", color=style.GREY)
    return fig


def _draw_isolines(ax: Axes, log_C: Floats, log_tau: Floats) -> None:
    """Draw log C = c + 2 log tau, which fall, for at most about eight whole numbers c."""
    y_cells, log_C = _extend_to_edges(log_C)
    x_cells, log_tau = _extend_to_edges(log_tau)
    x = np.linspace(x_cells[0], x_cells[-1], 400)
    log_tau = np.interp(x, x_cells, log_tau)
    lowest = log_C[-1] - 2 * log_tau[0]
    highest = log_C[0] - 2 * log_tau[-1]
    step = max(1, math.ceil((highest - lowest) / 8))
    for c in range(math.ceil(lowest), math.floor(highest) + 1, step):
        line = c + 2 * log_tau
        inside = (line >= log_C[-1]) & (line <= log_C[0])
        y = np.interp(line[inside], log_C[::-1], y_cells[::-1])  # interp needs rising values
        dashes = (0, (4, 3))
        ax.plot(x[inside], y, color=style.VERMILLION, linewidth=1.2, linestyle=dashes, zorder=2)


def _extend_to_edges(values: Floats) -> tuple[Floats, Floats]:
    """Return cell coordinates and values, both continued by half a cell at either end."""
    n = len(values)
    first = values[0] - (values[1] - values[0]) / 2
    last = values[-1] + (values[-1] - values[-2]) / 2
    return np.array([-0.5, *range(n), n - 0.5]), np.array([first, *values, last])
