"""Matrices as colours: confusion, class x cluster, class x prompt similarity, accuracy over (tau, C)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from clipkit.plots.style import GREY, VERMILLION, literal, new, plain_numbers, styled

Floats = NDArray[np.float64]

LABEL_INCHES = 0.062  # of one character of a 7 pt label, about
MOST_TEXTS = 128  # more prompts than this are numbered, not spelt out
MOST_NUMBERS = 20  # classes in a confusion matrix with numbers in its cells


def _inches(n: int, roomy: float) -> float:
    """Length of an axis with n cells: `roomy` inches a cell when few, 8 pt a cell up to 200, then no longer."""
    return max(min(n * roomy, 7.2), min(n, 200) * 0.112)


def _width_of(labels: Sequence[str]) -> float:
    return max(map(len, labels), default=0) * LABEL_INCHES


def _tick(
    ax: Axes, axis: Literal["x", "y"], labels: Sequence[str], inches: float, slant: bool = False
) -> None:
    """Label the cells of an axis `inches` long, every k-th where they are too dense."""
    points = inches * 72 / len(labels)
    size = min(9.0, max(6.0, 0.85 * points))
    ticks = range(0, len(labels), math.ceil(1.05 * size / points))
    shown = [labels[i] for i in ticks]
    if axis == "y":
        ax.set_yticks(ticks, shown, fontsize=size)
    elif slant:
        ax.set_xticks(ticks, shown, fontsize=size, rotation=45, ha="right", rotation_mode="anchor")
    else:
        ax.set_xticks(ticks, shown, fontsize=size, rotation=90)


def _colours(fig: Figure, ax: Axes, values: Floats, label: str, **style: object) -> AxesImage:
    """The matrix and its colour bar; cells without a value are grey."""
    image = ax.imshow(np.ma.masked_invalid(values), aspect="auto", interpolation="nearest", **style)  # type: ignore[arg-type]
    ax.set_facecolor("#cccccc")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=2, color=GREY)
    height = fig.get_figheight()
    bar = fig.colorbar(
        image,
        ax=ax,
        label=label,
        shrink=min(1.0, 5 / height),
        aspect=22,
        pad=0.02,
        anchor=(0.0, 1.0),
    )
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_locator(MaxNLocator(6))
    plain_numbers(bar.ax.yaxis)
    return image


def _numbers(
    ax: Axes, image: AxesImage, values: Floats, texts: Sequence[Sequence[str]], size: float
) -> None:
    """Write into each cell, in black or white, whichever can be read on its colour, over any lines."""
    colours = np.asarray(image.to_rgba(values))  # (R, S, 4)
    light = colours[..., :3] @ np.array([0.299, 0.587, 0.114]) > 0.55
    for i, j in np.ndindex(*values.shape):
        if np.isfinite(values[i, j]):
            box = {"facecolor": colours[i, j], "edgecolor": "none", "pad": 1.0}
            ink = "black" if light[i, j] else "white"
            ax.text(j, i, texts[i][j], ha="center", va="center", fontsize=size, color=ink, bbox=box)


@styled
def confusion(
    counts: ArrayLike,
    class_names: Sequence[str],
    *,
    title: str | None = None,
    order: Sequence[int] | None = None,
) -> Figure:
    """Confusion matrix in percent of each true class, with accuracy and N above it.

    Up to 20 classes have their percentages in the cells; exact zeros are left blank. Colours follow the square root, so
    that a confusion of 2 % is seen.

    Parameters
    ----------
    counts : array (C, C) int
        Images of true class i (row) predicted as class j (column). A row without images is grey.
    class_names : sequence of C str
        Shown as they are, cut after 24 characters.
    title : str, optional
        Above the figure.
    order : sequence of int, optional
        Class indices in the order to show, so that related classes stand together. A subset shows its rows and columns;
        accuracy and N remain those of all `counts`.

    Returns
    -------
    Figure
    """
    counts = np.asarray(counts, np.float64)  # (C, C)
    shown = list(range(len(counts))) if order is None else [int(i) for i in order]
    names = [literal(class_names[i], 24) for i in shown]
    fact = f"accuracy {100 * np.trace(counts) / max(counts.sum(), 1):.2f} %"
    return _shares(counts, fact, (shown, names), (shown, names), "predicted class", title)


@styled
def clusters(counts: ArrayLike, class_names: Sequence[str], *, title: str | None = None) -> Figure:
    """Where each class went: percent of its images in each cluster, with purity and N above it.

    Clusters stand in the order of the classes with which they agree best, one to one (Hungarian method), so that
    classes found without labels are a diagonal; clusters that are left over follow. The x axis names their numbers.

    Parameters
    ----------
    counts : array (C, K) int
        Images of class i in cluster j. A row without images is grey.
    class_names : sequence of C str
        Shown as they are, cut after 24 characters.
    title : str, optional
        Above the figure.

    Returns
    -------
    Figure
    """
    from scipy.optimize import linear_sum_assignment  # slow to load, and only for this

    counts = np.asarray(counts, np.float64)  # (C, K)
    matched = linear_sum_assignment(-counts)[1]
    order = [*matched.tolist(), *np.setdiff1d(np.arange(counts.shape[1]), matched).tolist()]
    names = [literal(name, 24) for name in class_names]
    fact = f"purity {counts.max(axis=0).sum() / max(counts.sum(), 1):.4f}"
    return _shares(
        counts, fact, (range(len(names)), names), (order, [f"{j}" for j in order]), "cluster", title
    )


Shown = tuple[Sequence[int], Sequence[str]]  # which rows or columns, and what they are called


def _shares(
    counts: Floats, fact: str, rows: Shown, columns: Shown, xlabel: str, title: str | None
) -> Figure:
    """Percent of each row of counts, in numbers while they are few; above it the fact, and N."""
    total = counts.sum(axis=1, keepdims=True)
    facts = f"{fact}, N = {counts.sum():,.0f}" if counts.any() else "N = 0"
    facts += "" if total.all() else " (grey: no images)"
    percent = 100 * np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
    percent = percent[np.ix_(rows[0], columns[0])]
    C, K = percent.shape
    height, width, margin = (
        max(_inches(C, 0.5), 2.2),
        max(_inches(K, 0.5), 2.2),
        _width_of(rows[1]) + 0.6,
    )
    fig = new(max(width + margin + 1.1, 5.0), height + _width_of(columns[1]) + 0.9, title)
    ax = fig.add_subplot()
    norm = PowerNorm(0.5, vmin=0, vmax=100)
    image = _colours(fig, ax, percent, "% of the true class", cmap="Blues", norm=norm)
    fig.axes[1].set_yticks([0, 1, 5, 10, 25, 50, 75, 100])
    most = max(C, K)
    _tick(ax, "x", columns[1], width, slant=most <= MOST_NUMBERS)
    _tick(ax, "y", rows[1], height)
    if most <= MOST_NUMBERS:
        texts = [[f"{v:.{1 if most <= 12 else 0}f}" if v else "" for v in row] for row in percent]
        _numbers(ax, image, percent, texts, size=8.5 if most <= 12 else 7.5)
    else:  # to follow a row or a column to its name
        for edge in np.arange(10, C, 10) - 0.5:
            ax.axhline(edge, color="#cccccc", linewidth=0.5)
        for edge in np.arange(10, K, 10) - 0.5:
            ax.axvline(edge, color="#cccccc", linewidth=0.5)
    ax.set(xlabel=xlabel, ylabel="true class")
    ax.set_title(facts, loc="left", color=GREY)
    return fig


@styled
def similarity(
    means: ArrayLike,
    class_names: Sequence[str],
    texts: Sequence[str],
    *,
    centred: bool = False,
    title: str | None = None,
) -> Figure:
    """Heatmap of the mean cosine of each class's images with each prompt; prompts are rows, so that they can be read.

    Parameters
    ----------
    means : array (C, K)
        Mean cosine similarity. NaN (a class without images) is grey.
    class_names : sequence of C str
        Shown as they are, cut after 24 characters.
    texts : sequence of K str
        Prompts; above 128 they are numbered from 0 instead.
    centred : bool
        Show each prompt's difference from its mean over classes, on a diverging scale. Prompts usually differ more from
        one another than classes do on one prompt; this shows the classes.
    title : str, optional
        Above the figure.

    Returns
    -------
    Figure
    """
    cosines = np.asarray(means, np.float64).T  # (K, C)
    K, C = cosines.shape
    names = [literal(name, 24) for name in class_names]
    spelt = K <= MOST_TEXTS
    rows = [literal(text) for text in texts] if spelt else []
    if centred:
        present = np.isfinite(cosines)
        total = np.where(present, cosines, 0).sum(axis=1, keepdims=True)
        cosines = cosines - total / np.maximum(present.sum(axis=1, keepdims=True), 1)
    width, height = max(_inches(C, 0.4), 2.5), max(_inches(K, 0.2), 2.4) if spelt else 12.0
    fig = new(max(width + _width_of(rows) + 2.0, 5.0), height + _width_of(names) + 0.6, title)
    ax = fig.add_subplot()
    low, high = _limits(cosines)
    if centred:
        high = max(abs(low), abs(high))
        _colours(
            fig, ax, cosines, "cosine − the prompt's mean", cmap="RdBu_r", vmin=-high, vmax=high
        )
    else:
        _colours(fig, ax, cosines, "mean cosine similarity", cmap="viridis", vmin=low, vmax=high)
    _tick(ax, "x", names, width, slant=C <= MOST_NUMBERS)
    if spelt:
        _tick(ax, "y", rows, height)
    else:
        ax.yaxis.set_major_locator(MaxNLocator(24, steps=[1, 2, 5, 10]))
    ax.set(xlabel="class", ylabel="prompt" if spelt else "number of the prompt, from 0")
    return fig


def _limits(values: Floats) -> tuple[float, float]:
    """Least and largest finite value; never equal."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return (low, high) if high - low > 1e-9 else (low - 1e-3, high + 1e-3)


@styled
def grid(
    accuracy: ArrayLike,
    C: Sequence[float],
    tau: Sequence[float],
    *,
    title: str | None = None,
    isolines: bool = True,
) -> Figure:
    """Accuracy over (tau, C) as a heatmap with numbers, and lines along which C / tau^2 is constant.

    A linear SVM on cosine / tau depends on C / tau^2 alone: its accuracy is constant along the lines.

    Parameters
    ----------
    accuracy : array (S, T)
        Fractions; row s at C[s], column t at tau[t], in any order. NaN is grey.
    C : sequence of S float
        The SVM's C, > 0. It grows upwards.
    tau : sequence of T float
        Temperatures, > 0. They fall to the right.
    title : str, optional
        Above the figure.
    isolines : bool
        Draw the lines at powers of ten.

    Returns
    -------
    Figure
    """
    rows, columns = np.argsort(C)[::-1], np.argsort(tau)[::-1]
    percent = 100 * np.asarray(accuracy, np.float64)[np.ix_(rows, columns)]
    Cs, taus = np.asarray(C, np.float64)[rows], np.asarray(tau, np.float64)[columns]
    width, height = max(0.62 * len(taus), 3.0), max(0.42 * len(Cs), 1.6)
    fig = new(width + 1.8, height + 0.8, title)
    ax = fig.add_subplot()
    low, high = _limits(percent)
    image = _colours(fig, ax, percent, "accuracy (%)", cmap="cividis", vmin=low, vmax=high)
    ax.set_xticks(range(len(taus)), [f"{t:g}" for t in taus])
    ax.set_yticks(range(len(Cs)), [f"{c:g}" for c in Cs])
    ax.set(xlabel="temperature τ", ylabel="C")
    _numbers(ax, image, percent, [[f"{v:.1f}" for v in row] for row in percent], size=9)
    if isolines and len(taus) > 1 and len(Cs) > 1:
        _isolines(ax, Cs, taus)
        ax.set_title("dashed: C / τ² is constant", loc="left", color=GREY)
    return fig


def _isolines(ax: Axes, C: Floats, tau: Floats) -> None:
    """Lines C = c tau^2 in cell coordinates, at most about eight, for powers of ten c; both sequences fall."""
    y_of, x_of = _to_the_edges(np.log10(C)), _to_the_edges(np.log10(tau))
    x = np.linspace(-0.5, len(tau) - 0.5, 400)
    log_tau = np.interp(x, x_of[0], x_of[1])
    lowest, highest = y_of[1][-1] - 2 * log_tau[0], y_of[1][0] - 2 * log_tau[-1]
    for c in range(
        math.ceil(lowest), math.floor(highest) + 1, max(1, math.ceil((highest - lowest) / 8))
    ):
        wanted = c + 2 * log_tau
        inside = (wanted >= y_of[1][-1]) & (wanted <= y_of[1][0])
        y = np.interp(wanted[inside], y_of[1][::-1], y_of[0][::-1])
        ax.plot(x[inside], y, color=VERMILLION, linewidth=1.2, linestyle=(0, (4, 3)), zorder=2)


def _to_the_edges(values: Floats) -> tuple[Floats, Floats]:
    """Cell coordinates and values, continued by half a cell on either side."""
    first, last = (
        values[0] - (values[1] - values[0]) / 2,
        values[-1] + (values[-1] - values[-2]) / 2,
    )
    n = len(values)
    return np.array([-0.5, *range(n), n - 0.5]), np.array([first, *values, last])
