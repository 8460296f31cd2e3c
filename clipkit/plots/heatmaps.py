"""Matrices as colours: confusion, clusters, similarity, accuracy over (tau, C)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from clipkit.plots.style import (
    GREY,
    VERMILLION,
    Floats,
    clipkit_style,
    new_figure,
    sanitize_names,
    text_width,
    use_plain_numbers,
)

CHARACTER_INCHES = 0.062  # width of a character of a 7 pt label, about
MAX_TEXTS = 128  # more prompts than this are numbered
MAX_NUMBERS = 20  # with more classes or clusters, cells hold no numbers


def _axis_inches(n: int, cell: float, least: float) -> float:
    """Return the length of an axis with n cells.

    A cell has `cell` inches as long as 7.2 inches suffice, and then at least 8 pt. The length of
    the axis does not grow beyond 200 cells.
    """
    return max(min(n * cell, 7.2), min(n, 200) * 0.112, least)


def _text_inches(labels: Sequence[str]) -> float:
    """Return the width of the longest label."""
    return max(map(text_width, labels), default=0) * CHARACTER_INCHES


def _label_cells(
    ax: Axes, axis: Literal["x", "y"], names: Sequence[str], inches: float, slanted: bool = False
) -> None:
    """Label the cells of an axis `inches` long; where they are too dense, every k-th."""
    cell_points = inches * 72 / len(names)
    size = min(9.0, max(6.0, 0.85 * cell_points))
    ticks = range(0, len(names), math.ceil(1.05 * size / cell_points))
    labels = [names[i] for i in ticks]
    if axis == "y":
        ax.set_yticks(ticks, labels, fontsize=size)
    elif slanted:
        ax.set_xticks(ticks, labels, fontsize=size, rotation=45, ha="right", rotation_mode="anchor")
    else:
        ax.set_xticks(ticks, labels, fontsize=size, rotation=90)


def _heatmap(fig: Figure, ax: Axes, values: Floats, label: str, **style: Any) -> AxesImage:
    """Draw a matrix and its colour bar. Cells without a value are grey."""
    masked = np.ma.masked_invalid(values)
    image = ax.imshow(masked, aspect="auto", interpolation="nearest", **style)
    ax.set_facecolor("#cccccc")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=2, color=GREY)
    bar = fig.colorbar(
        image,
        ax=ax,
        label=label,
        shrink=min(1.0, 5 / fig.get_figheight()),
        aspect=22,
        pad=0.02,
        anchor=(0.0, 1.0),
    )
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_locator(MaxNLocator(6))
    use_plain_numbers(bar.ax.yaxis)
    return image


def _write_numbers(
    ax: Axes, image: AxesImage, values: Floats, decimals: int, size: float, zeros: bool = True
) -> None:
    """Write each value into its cell, in black or white, whichever is legible on its colour."""
    colors = np.asarray(image.to_rgba(values))  # (R, S, 4)
    is_light = colors[..., :3] @ np.array([0.299, 0.587, 0.114]) > 0.55
    for i, j in np.ndindex(*values.shape):
        value = values[i, j]
        if not np.isfinite(value) or (value == 0 and not zeros):
            continue
        box = {"facecolor": colors[i, j], "edgecolor": "none", "pad": 1.0}  # hides isolines
        ink = "black" if is_light[i, j] else "white"
        text = f"{value:.{decimals}f}"
        ax.text(j, i, text, ha="center", va="center", fontsize=size, color=ink, bbox=box)


@clipkit_style
def confusion(
    counts: ArrayLike,
    class_names: Sequence[str],
    *,
    class_accuracy: float | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a confusion matrix in percent of each true class, with accuracy and N above it.

    With up to 20 classes, cells hold their percentages; zeros are left blank. Colours follow the
    square root, so that a confusion of 2 % is visible.

    Parameters
    ----------
    counts : array (C, C) int
        Images of true class i (row) predicted as class j (column). A row without images is grey.
    class_names : sequence of C str
        Shown literally, cut after 24 characters.
    class_accuracy : float, optional
        If rows and columns are groups of classes: the accuracy by class, a fraction, which is shown
        beside that by group.
    """
    counts = np.asarray(counts, np.float64)  # (C, C)
    names = sanitize_names(class_names, 24)
    accuracy = f"{100 * np.trace(counts) / max(counts.sum(), 1):.2f} %"
    if class_accuracy is None:
        fact = f"accuracy {accuracy}"
        return _row_percentages(counts, names, names, "predicted class", fact, title)
    fact = f"accuracy by group {accuracy}, accuracy by class {100 * class_accuracy:.2f} %"
    return _row_percentages(counts, names, names, "predicted group", fact, title, noun="group")


@clipkit_style
def clusters(counts: ArrayLike, class_names: Sequence[str], *, title: str | None = None) -> Figure:
    """Draw the percentage of each class in each cluster, with purity and N above it.

    Clusters are matched to the classes with which they agree best, one to one (Hungarian method),
    so that a clustering that equals the classes is a diagonal. The remaining clusters follow. The
    x axis shows the clusters' numbers, each with the class that it matches.

    Parameters
    ----------
    counts : array (C, K) int
        Images of class i in cluster j. A row without images is grey.
    class_names : sequence of C str
        Shown literally, cut after 24 characters.
    """
    from scipy.optimize import linear_sum_assignment  # slow to load, and only for this

    counts = np.asarray(counts, np.float64)  # (C, K)
    rows, matched = linear_sum_assignment(-counts)
    remaining = np.setdiff1d(np.arange(counts.shape[1]), matched)
    order = np.concatenate([matched, remaining])
    names = sanitize_names(class_names, 24)
    labels = [str(j) for j in order]
    for position, (i, j) in enumerate(zip(rows, matched, strict=True)):
        if counts[i, j]:
            labels[position] += f" ({names[i]})"
    fact = f"purity {counts.max(axis=0).sum() / max(counts.sum(), 1):.4f}"
    xlabel = "cluster (and the class that it matches)"
    return _row_percentages(counts[:, order], names, labels, xlabel, fact, title)


def _row_percentages(
    counts: Floats,
    rows: Sequence[str],
    columns: Sequence[str],
    xlabel: str,
    fact: str,
    title: str | None,
    noun: str = "class",
) -> Figure:
    """Draw counts in percent of their row, with the names of rows and columns, a fact and N."""
    total = counts.sum(axis=1, keepdims=True)
    percent = 100 * np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
    C, K = percent.shape
    height = _axis_inches(C, 0.5, 2.2)
    width = _axis_inches(K, 0.5, 2.2)
    figure_width = max(width + _text_inches(rows) + 1.7, 5.0)
    fig = new_figure(figure_width, height + _text_inches(columns) + 0.9, title)
    ax = fig.add_subplot()
    norm = PowerNorm(0.5, vmin=0, vmax=100)
    image = _heatmap(fig, ax, percent, f"% of the true {noun}", cmap="Blues", norm=norm)
    colorbar_axes = fig.axes[1]
    colorbar_axes.set_yticks([0, 1, 5, 10, 25, 50, 75, 100])
    has_numbers = max(C, K) <= MAX_NUMBERS
    _label_cells(ax, "x", columns, width, slanted=has_numbers)
    _label_cells(ax, "y", rows, height)
    if not has_numbers:
        _rule_every_tenth(ax, C, K)
    elif max(C, K) <= 12:
        _write_numbers(ax, image, percent, decimals=1, size=8.5, zeros=False)
    else:
        _write_numbers(ax, image, percent, decimals=0, size=7.5, zeros=False)
    ax.set(xlabel=xlabel, ylabel=f"true {noun}")
    facts = f"N = {counts.sum():,.0f}"
    if counts.any():
        facts = f"{fact}, {facts}"
    if not counts.any(axis=1).all():
        facts += " (grey: no images)"
    ax.set_title(facts, loc="left", color=GREY)
    return fig


def _rule_every_tenth(ax: Axes, rows: int, columns: int) -> None:
    """Draw lines that help to follow a row or a column to its name."""
    for edge in np.arange(10, rows, 10) - 0.5:
        ax.axhline(edge, color="#cccccc", linewidth=0.5)
    for edge in np.arange(10, columns, 10) - 0.5:
        ax.axvline(edge, color="#cccccc", linewidth=0.5)


@clipkit_style
def similarity(
    means: ArrayLike,
    class_names: Sequence[str],
    texts: Sequence[str],
    *,
    centred: bool = False,
    title: str | None = None,
) -> Figure:
    """Draw a heatmap of the mean cosine of each class's images with each prompt, one row a prompt.

    Parameters
    ----------
    means : array (C, K)
        Mean cosine similarity. NaN (a class without images) is grey.
    class_names : sequence of C str
        Shown literally, cut after 24 characters.
    texts : sequence of K str
        Prompts; above 128 they are numbered from 0 instead.
    centred : bool
        Show each prompt's difference from its mean over classes, on a diverging scale. Prompts
        usually differ more from one another than classes do on one prompt; this shows the classes.
    """
    cosines = np.asarray(means, np.float64).T  # (K, C)
    K, C = cosines.shape
    names = sanitize_names(class_names, 24)
    width = _axis_inches(C, 0.4, 2.5)
    if K <= MAX_TEXTS:
        prompts = sanitize_names(texts, 40)
        height = _axis_inches(K, 0.2, 2.4)
    else:
        prompts = []
        height = 12.0
    figure_width = max(width + _text_inches(prompts) + 2.0, 5.0)
    fig = new_figure(figure_width, height + _text_inches(names) + 0.6, title)
    ax = fig.add_subplot()
    if centred:
        mean = np.ma.masked_invalid(cosines).mean(axis=1, keepdims=True)
        cosines = cosines - mean.filled(np.nan)
        high = max(map(abs, _limits(cosines)))
        label = "cosine − the prompt's mean"
        _heatmap(fig, ax, cosines, label, cmap="RdBu_r", vmin=-high, vmax=high)
    else:
        low, high = _limits(cosines)
        _heatmap(fig, ax, cosines, "mean cosine similarity", cmap="viridis", vmin=low, vmax=high)
    _label_cells(ax, "x", names, width, slanted=C <= MAX_NUMBERS)
    ax.set_xlabel("class")
    if prompts:
        _label_cells(ax, "y", prompts, height)
        ax.set_ylabel("prompt")
    else:
        ax.yaxis.set_major_locator(MaxNLocator(24, steps=[1, 2, 5, 10]))
        ax.set_ylabel("number of the prompt, from 0")
    return fig


@clipkit_style
def prompt_variance(
    share: ArrayLike,
    above: ArrayLike,
    prompts: Sequence[str],
    attributes: Sequence[str],
    *,
    title: str | None = None,
) -> Figure:
    """Draw how much of the variance of each prompt's cosines each attribute explains.

    Parameters
    ----------
    share : array (K, A)
        Adjusted R squared, fractions. NaN is grey.
    above : array (K, A) of bool
        Cells with a number: above 99 % of random directions and 95 % of unrelated attributes.
    prompts : sequence of K str
        Shown literally, cut after 40 characters.
    attributes : sequence of A str
    """
    percent = 100 * np.asarray(share, np.float64)
    K, A = percent.shape
    texts = sanitize_names(prompts, 40)
    names = sanitize_names(attributes, 24)
    width = _axis_inches(A, 0.42, 2.5)
    height = _axis_inches(K, 0.22, 1.5)
    fig = new_figure(width + _text_inches(texts) + 2.0, height + _text_inches(names) + 0.9, title)
    ax = fig.add_subplot()
    label = "share of variance (%)"
    image = _heatmap(fig, ax, percent, label, cmap="Blues", vmin=0, vmax=100)
    _label_cells(ax, "x", names, width, slanted=True)
    _label_cells(ax, "y", texts, height)
    if K <= MAX_TEXTS:
        shown = np.where(np.asarray(above, bool), percent, np.nan)
        _write_numbers(ax, image, shown, decimals=0, size=7.5)
        cells = int(np.isfinite(percent).sum())
        fact = f"numbers: above both nulls; by chance {0.01 * cells:.2g} of {cells:,} cells"
        ax.set_title(fact, loc="left", color=GREY)
    ax.set(xlabel="attribute", ylabel="prompt")
    return fig


def _limits(values: Floats) -> tuple[float, float]:
    """Return the least and largest finite value, moved apart if they are equal."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    if high - low <= 1e-9:
        return low - 1e-3, high + 1e-3
    return low, high


@clipkit_style
def grid(
    accuracy: ArrayLike, C: Sequence[float], tau: Sequence[float], *, title: str | None = None
) -> Figure:
    """Draw accuracy over (tau, C) as a heatmap, with lines along which C / tau^2 is constant.

    A linear SVM on cosine / tau depends on C / tau^2 alone: its accuracy is constant along the
    lines.

    Parameters
    ----------
    accuracy : array (S, T)
        Fractions; row s at C[s], column t at tau[t], in any order. NaN is grey.
    C : sequence of S float
        The SVM's C, > 0. It grows upwards.
    tau : sequence of T float
        Temperatures, > 0. They fall to the right.
    """
    rows, columns = np.argsort(C)[::-1], np.argsort(tau)[::-1]
    Cs = np.asarray(C, np.float64)[rows]
    taus = np.asarray(tau, np.float64)[columns]
    percent = 100 * np.asarray(accuracy, np.float64)[np.ix_(rows, columns)]
    width = _axis_inches(len(taus), 0.62, 3.0)
    height = _axis_inches(len(Cs), 0.42, 1.6)
    fig = new_figure(width + 1.8, height + 0.8, title)
    ax = fig.add_subplot()
    low, high = _limits(percent)
    image = _heatmap(fig, ax, percent, "accuracy (%)", cmap="cividis", vmin=low, vmax=high)
    tau_labels, C_labels = [f"{value:g}" for value in taus], [f"{value:g}" for value in Cs]
    if max(percent.shape) <= MAX_NUMBERS:
        ax.set_xticks(range(len(taus)), tau_labels)
        ax.set_yticks(range(len(Cs)), C_labels)
        _write_numbers(ax, image, percent, decimals=1, size=9)
    else:
        _label_cells(ax, "x", tau_labels, width)
        _label_cells(ax, "y", C_labels, height)
    ax.set(xlabel="temperature τ", ylabel="C")
    if len(taus) > 1 and len(Cs) > 1:
        _draw_isolines(ax, np.log10(Cs), np.log10(taus))
        ax.set_title("dashed: C / τ² is constant", loc="left", color=GREY)
    return fig


def _draw_isolines(ax: Axes, log_C: Floats, log_tau: Floats) -> None:
    """Draw log C = c + 2 log tau in cell coordinates, for at most about eight whole numbers c.

    Both sequences fall.
    """
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
        ax.plot(x[inside], y, color=VERMILLION, linewidth=1.2, linestyle=(0, (4, 3)), zorder=2)


def _extend_to_edges(values: Floats) -> tuple[Floats, Floats]:
    """Return cell coordinates and values, both continued by half a cell at either end."""
    n = len(values)
    first = values[0] - (values[1] - values[0]) / 2
    last = values[-1] + (values[-1] - values[-2]) / 2
    return np.array([-0.5, *range(n), n - 0.5]), np.array([first, *values, last])
