"""Distributions and bars: entropy, confidence, F1 per class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from clipkit.base.errors import UsageError
from clipkit.plots.style import (
    BLUE,
    GREY,
    VERMILLION,
    Floats,
    add_legend,
    clipkit_style,
    name_rows,
    new_figure,
    sanitize_names,
    use_plain_numbers,
)

BINS = 60
MAX_PANELS = 20
MAX_BARS = 30  # of more classes, the best and the worst half as many are shown
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class _Quantity:
    """A number of each image, bounded on one side by its value for a uniform softmax.

    Where all values are within `near` of the bound, their distance to it is shown instead.
    """

    axis_label: str
    mean_format: str
    bound: float
    bound_label: str
    bound_is_maximum: bool
    near: float
    distance_label: str
    unit: str


@clipkit_style
def entropy(
    values: Mapping[float, ArrayLike], n_prompts: int, *, title: str | None = None
) -> Figure:
    """Draw histograms over images of the entropy of softmax(cosine / tau), one per temperature.

    Each panel marks the maximum ln K and the mean. Where all entropies are within 0.01 nats of
    ln K, it shows ln K - H on a separate scale, with the maximum still on the right. A panel whose
    entropies would fill less than two bins has a separate axis. The other panels share one
    axis and the edges of its bins.

    Parameters
    ----------
    values : mapping of float to array (N,)
        Temperature -> entropies in nats. Values that are not finite are left out.
    n_prompts : int
        K.
    """
    bound = math.log(n_prompts)
    quantity = _Quantity(
        axis_label="entropy H (nats)",
        mean_format="{:.4f} nats",
        bound=bound,
        bound_label=f"maximum, ln {n_prompts} = {bound:.4f} nats",
        bound_is_maximum=True,
        near=0.01,
        distance_label=f"ln {n_prompts} − H",
        unit="nats",
    )
    arrays = {tau: np.asarray(array, np.float64) for tau, array in values.items()}
    return _histograms(arrays, quantity, title)


@clipkit_style
def confidence(
    values: Mapping[float, ArrayLike], n_prompts: int, *, title: str | None = None
) -> Figure:
    """Draw histograms over images of the top-1 confidence, one per temperature.

    Each panel marks the minimum 1/K and the mean. Where all confidences are within one percentage
    point of 1/K, it shows the distance from it on a separate scale. A panel whose confidences
    would fill less than two bins has a separate axis. The other panels share one axis and the
    edges of its bins.

    Parameters
    ----------
    values : mapping of float to array (N,)
        Temperature -> largest probability (a fraction). Values that are not finite are left out.
    n_prompts : int
        K.
    """
    bound = 100 / n_prompts
    quantity = _Quantity(
        axis_label="confidence max p (%)",
        mean_format="{:.2f} %",
        bound=bound,
        bound_label=f"minimum, 1/{n_prompts} = {bound:.4g} %",
        bound_is_maximum=False,
        near=1.0,
        distance_label=f"max p − 1/{n_prompts}",
        unit="percentage points",
    )
    percent = {tau: 100 * np.asarray(array, np.float64) for tau, array in values.items()}
    return _histograms(percent, quantity, title)


def _histograms(values: Mapping[float, Floats], quantity: _Quantity, title: str | None) -> Figure:
    if len(values) > MAX_PANELS:
        raise UsageError(f"expected at most {MAX_PANELS} temperatures to draw, got {len(values)}")
    panels = {tau: values[tau][np.isfinite(values[tau])] for tau in sorted(values, reverse=True)}
    near = {tau for tau, panel in panels.items() if _is_near(panel, quantity)}
    far = [tau for tau in panels if tau not in near]
    span = _span([panels[tau] for tau in far], quantity.bound)
    narrow = {tau for tau in far if _is_narrow(panels[tau], span)}
    wide = [tau for tau in far if tau not in narrow]
    span = _span([panels[tau] for tau in wide], quantity.bound)

    height = 1.75 * len(panels) - 0.25 * max(len(wide) - 1, 0) + 0.3
    fig = new_figure(7.0, height, title)
    axes = fig.subplots(len(panels), 1, squeeze=False)[:, 0]
    for ax, (tau, panel) in zip(axes, panels.items(), strict=True):
        _panel_titles(ax, tau, panel, quantity)
        ax.set_ylabel("images (%)")
        ax.yaxis.set_major_locator(MaxNLocator(4))
        if tau in near:
            _distance_histogram(ax, panel, quantity)
        elif tau in narrow:
            _narrow_histogram(ax, panel, quantity)
        else:
            _histogram(ax, panel, quantity.bound, span)
        if wide and tau == wide[-1]:
            ax.set_xlabel(quantity.axis_label)
    marks = [Line2D([], [], color="black", linestyle="--"), Line2D([], [], color=VERMILLION)]
    add_legend(fig, marks, [quantity.bound_label, "mean"])
    return fig


def _is_near(values: Floats, quantity: _Quantity) -> bool:
    return bool(np.all(np.abs(values - quantity.bound) < quantity.near))


def _span(panels: Sequence[Floats], bound: float) -> tuple[float, float]:
    """Return the least and the largest value of some panels and of the bound."""
    pooled = np.concatenate([[bound], *panels])
    return float(pooled.min()), float(pooled.max())


def _is_narrow(values: Floats, span: tuple[float, float]) -> bool:
    """Return whether 90 % of the values would fill less than two bins, and all less than 15."""
    if not len(values):
        return False
    bin_width = (span[1] - span[0]) / BINS
    low, high = np.quantile(values, [0.05, 0.95])
    return bool(high - low < 2 * bin_width and np.ptp(values) < 15 * bin_width)


def _panel_titles(ax: Axes, tau: float, values: Floats, quantity: _Quantity) -> None:
    mean = "no finite value"
    if len(values):
        mean = f"mean {quantity.mean_format.format(values.mean())}"
    ax.set_title(f"τ = {tau:g}", loc="left", fontweight="bold")
    ax.set_title(mean, loc="right", color=VERMILLION)


def _histogram(ax: Axes, values: Floats, bound: float, span: tuple[float, float]) -> None:
    """Draw a histogram with bins of equal width over the span, so that panels share their edges."""
    if len(values):
        counts, edges = np.histogram(values, BINS, range=span)
        ax.stairs(100 * counts / len(values), edges, fill=True, color=BLUE, alpha=0.8)
        ax.axvline(float(values.mean()), color=VERMILLION)
    ax.axvline(bound, color="black", linestyle="--")
    low, high = span
    pad = 0.03 * (high - low or 1.0)
    ax.set_xlim(low - pad, high + pad)
    use_plain_numbers(ax.xaxis)


def _distance_histogram(ax: Axes, values: Floats, quantity: _Quantity) -> None:
    """Show the distance to the bound, in the power of ten that suits it; the bound is at 0."""
    distance = values - quantity.bound
    if quantity.bound_is_maximum:
        distance = -distance
    exponent = math.floor(math.log10(np.abs(distance).max(initial=0.0) or 1.0))
    unit = quantity.unit
    if exponent < -1:
        distance = distance / 10.0**exponent
        unit = f"10{str(exponent).translate(SUPERSCRIPT)} {unit}"
    _histogram(ax, distance, 0.0, (distance.min(initial=0.0), distance.max(initial=0.0)))
    if quantity.bound_is_maximum:
        ax.invert_xaxis()
    ax.set_xlabel(f"{quantity.distance_label} ({unit})")


def _narrow_histogram(ax: Axes, values: Floats, quantity: _Quantity) -> None:
    """Draw a histogram on a separate axis, which shows the bound only if it is close."""
    low, high = float(values.min()), float(values.max())
    least = 1e-3 * max(quantity.bound, high)  # bins need a width, and labels few digits
    if high - low < least:
        low, high = low - least, high + least
    distance = max(low - quantity.bound, quantity.bound - high)
    if distance < 5 * (high - low):
        low, high = min(low, quantity.bound), max(high, quantity.bound)
    _histogram(ax, values, quantity.bound, (low, high))
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.set_xlabel(f"{quantity.axis_label}, on a separate axis")


@clipkit_style
def classes(
    f1: ArrayLike,
    class_names: Sequence[str],
    *,
    support: ArrayLike,
    noun: str = "class",
    title: str | None = None,
) -> Figure:
    """Draw F1 per class as bars, the best first, and mark the mean of all classes.

    Of more than 30 classes, the 15 best and the 15 worst are shown.

    Parameters
    ----------
    f1 : array (C,)
        F1 scores, 0..1. NaN (a class without images) is left out and counted.
    class_names : sequence of C str
        Shown literally, cut after 28 characters.
    support : array (C,) int
        Images per class, written after its name.
    noun : {"class", "group"}
        What the scores are of.
    """
    f1 = np.asarray(f1, np.float64)
    order = np.argsort(-f1, kind="stable")[: np.isfinite(f1).sum()]  # NaN sorts last
    omitted = max(len(order) - MAX_BARS, 0)
    half = MAX_BARS // 2
    rows = np.delete(order, slice(half, half + omitted)).tolist()
    counts = np.asarray(support)
    names = sanitize_names([class_names[row] for row in rows], 28, rows)
    labels = [f"{name} ({counts[row]:,})" for name, row in zip(names, rows, strict=True)]
    y = np.arange(len(rows), dtype=np.float64)
    colors = [BLUE] * len(rows)
    height = 0.215 * len(rows) + 0.95
    if omitted:
        y[half:] += 1.2  # leaves a gap between the best and the worst
        colors[half:] = [VERMILLION] * half
        height += 0.3

    fig = new_figure(7.0, height, title)
    ax = fig.add_subplot()
    ax.barh(y, f1[rows], height=0.78, color=colors)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    for position, value in zip(y, f1[rows], strict=True):
        ax.text(value + 0.008, position, f"{value:.2f}", va="center", fontsize=8.5, bbox=box)
    name_rows(ax, y, labels, 0.7, fontsize=9)
    ax.set_xlim(0, 1.08)
    ax.set_xticks(np.linspace(0, 1, 6))
    ax.set_xlabel("F1")
    if omitted:
        _mark_omitted(ax, half + 0.1, f"{_counted(omitted, noun)} between")
    _mark_mean(ax, f1, noun)
    return fig


@clipkit_style
def variance(
    attributes: Sequence[str],
    share: ArrayLike,
    *,
    unique: ArrayLike,
    control: tuple[ArrayLike, ArrayLike, ArrayLike] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw how much of the embeddings' variance each attribute explains, the most first.

    Parameters
    ----------
    attributes : sequence of A str
    share, unique : arrays (A,)
        Adjusted R squared alone, and what is lost without the attribute; fractions. NaN is not
        drawn.
    control : (mean, lowest, highest), each (A,), optional
        Shares of the untrained controls.
    """
    shares = np.asarray(share, np.float64)
    order = np.argsort(-np.nan_to_num(shares), kind="stable")
    y = np.arange(len(order), dtype=np.float64)
    row_inches, height, offset = 0.26, 0.7, 0.0
    if control:
        row_inches, height, offset = 0.36, 0.38, 0.19
    fig = new_figure(7.0, row_inches * len(order) + 0.9, title)
    ax = fig.add_subplot()
    handles: list[Any] = [
        ax.barh(y - offset, 100 * shares[order], height, color=BLUE),
        ax.scatter(100 * np.asarray(unique)[order], y - offset, color="black", s=14, zorder=3),
    ]
    labels = ["alone", "lost without it (unique)"]
    if control:
        mean, low, high = 100 * np.asarray(control, np.float64)[:, order]
        handles.append(ax.barh(y + offset, mean, height, color=VERMILLION))
        ax.hlines(y + offset, low, high, color="black", linewidth=1.2)
        labels.append("untrained control")
        if np.any(high > low):
            fact = "lines: range of the untrained controls; their bars: the mean"
            ax.set_title(fact, loc="left", color=GREY)
    name_rows(ax, y, sanitize_names([attributes[row] for row in order], 28), 0.6)
    ax.set_xlabel("share of the embeddings' variance (%, adjusted R²)")
    add_legend(fig, handles, labels)
    return fig


def _counted(n: int, noun: str) -> str:
    """Return `1 class` or `2 classes`."""
    plural = {"class": "classes", "group": "groups"}
    return f"{n} {noun if n == 1 else plural[noun]}"


def _mark_omitted(ax: Axes, y: float, text: str) -> None:
    ax.axhline(y, color=GREY, linewidth=0.8)
    ax.text(
        1.08,
        y,
        text,
        fontsize=8.5,
        ha="right",
        va="center",
        color=GREY,
        backgroundcolor="white",
    )


def _mark_mean(ax: Axes, f1: Floats, noun: str) -> None:
    """Mark the mean, and state how many classes it is of and how many have no images."""
    finite = f1[np.isfinite(f1)]
    facts = [_counted(len(finite), noun)]
    if len(finite):
        ax.axvline(float(finite.mean()), color="black", linestyle="--", linewidth=1.2)
        facts.append(f"mean F1 {finite.mean():.3f} (dashed)")
    if len(finite) < len(f1):
        facts.append(f"{len(f1) - len(finite)} without images left out")
    ax.set_title(", ".join(facts), loc="left", color=GREY)
