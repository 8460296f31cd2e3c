"""Distributions and bars: entropy, confidence, per-class F1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from clipkit.plots.style import (
    BLUE,
    GREY,
    VERMILLION,
    legend,
    literal,
    new,
    plain_numbers,
    styled,
)

Floats = NDArray[np.float64]

BINS = 40
MOST_CLASSES = 30  # in the bar chart; of more, the best and worst half as many
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class _Quantity:
    """A number an image has, bounded on one side by what a uniform softmax gives."""

    label: str  # of the axis
    gap: str  # of the axis, where every value is next to the bound
    unit: str
    bound: float
    bound_name: str
    is_maximum: bool
    near: float  # every value within this of the bound: show the distance to it
    mean_format: str


@styled
def entropy(
    values: Mapping[float, ArrayLike], n_prompts: int, *, title: str | None = None
) -> Figure:
    """Histograms over images of the entropy of softmax(cosine / tau), a panel a temperature, with ln K and the mean.

    Where all entropies are within 0.01 nats of ln K, the panel shows ln K - H on a scale of its own, the maximum still
    on the right. The other panels share one axis.

    Parameters
    ----------
    values : mapping of float to array (N,)
        Temperature -> entropies in nats. Values that are not finite are left out.
    n_prompts : int
        K.
    title : str, optional
        Above the figure.

    Returns
    -------
    Figure
    """
    bound = math.log(n_prompts)
    name = f"ln {n_prompts}"
    maximum = f"maximum, {name} = {bound:.4f} nats"
    quantity = _Quantity(
        "entropy H (nats)", f"{name} − H", "nats", bound, maximum, True, 0.01, "{:.4f} nats"
    )
    return _histograms(
        {tau: np.asarray(v, np.float64) for tau, v in values.items()}, quantity, title
    )


@styled
def confidence(
    values: Mapping[float, ArrayLike], n_prompts: int, *, title: str | None = None
) -> Figure:
    """Histograms over images of the top-1 confidence, a panel a temperature, with 1/K and the mean.

    Where all confidences are within one percentage point of 1/K, the panel shows the distance from it on a scale of its
    own. The other panels share one axis.

    Parameters
    ----------
    values : mapping of float to array (N,)
        Temperature -> largest probability (a fraction). Values that are not finite are left out.
    n_prompts : int
        K.
    title : str, optional
        Above the figure.

    Returns
    -------
    Figure
    """
    bound = 100 / n_prompts
    name = f"1/{n_prompts}"
    minimum, unit = f"minimum, {name} = {bound:.4g} %", "percentage points"
    quantity = _Quantity(
        "confidence max p (%)", f"max p − {name}", unit, bound, minimum, False, 1.0, "{:.2f} %"
    )
    return _histograms(
        {tau: 100 * np.asarray(v, np.float64) for tau, v in values.items()}, quantity, title
    )


def _histograms(values: Mapping[float, Floats], quantity: _Quantity, title: str | None) -> Figure:
    panels = {tau: v[np.isfinite(v)] for tau, v in sorted(values.items(), reverse=True)}
    wide = [tau for tau, v in panels.items() if np.any(np.abs(v - quantity.bound) >= quantity.near)]
    pooled = np.concatenate([[quantity.bound], *(panels[tau] for tau in wide)])
    limits = _padded(pooled.min(), pooled.max())

    fig = new(7.0, 1.75 * len(panels) - 0.25 * max(len(wide) - 1, 0) + 0.3, title)
    for ax, (tau, v) in zip(
        fig.subplots(len(panels), 1, squeeze=False)[:, 0], panels.items(), strict=True
    ):
        mean = quantity.mean_format.format(v.mean()) if len(v) else "no finite value"
        ax.set_title(f"τ = {tau:g}", loc="left", fontweight="bold")
        ax.set_title(f"mean {mean}" if len(v) else mean, loc="right", color=VERMILLION)
        ax.set_ylabel("images (%)")
        ax.yaxis.set_major_locator(MaxNLocator(4))
        if tau in wide:
            _panel(ax, v, quantity.bound, limits, quantity.label if tau == wide[-1] else "")
        else:
            _near_panel(ax, v, quantity)
    marks = [Line2D([], [], color="black", linestyle="--"), Line2D([], [], color=VERMILLION)]
    legend(fig, marks, [quantity.bound_name, "mean"])
    return fig


def _padded(low: float, high: float) -> tuple[float, float]:
    pad = 0.03 * (high - low or 1.0)
    return low - pad, high + pad


def _panel(ax: Axes, values: Floats, bound: float, limits: tuple[float, float], label: str) -> None:
    if len(values):
        narrowest = abs(limits[1] - limits[0]) / 400  # equal values still make a bar that is seen
        middle, half = (values.min() + values.max()) / 2, max(np.ptp(values) / 2, narrowest)
        counts, edges = np.histogram(
            values, BINS if half > narrowest else 1, range=(middle - half, middle + half)
        )
        ax.stairs(100 * counts / len(values), edges, fill=True, color=BLUE, alpha=0.8)
        ax.axvline(float(values.mean()), color=VERMILLION)
    ax.axvline(bound, color="black", linestyle="--")
    ax.set_xlim(limits)
    ax.set_xlabel(label)
    plain_numbers(ax.xaxis)


def _near_panel(ax: Axes, values: Floats, quantity: _Quantity) -> None:
    """The distance to the bound, in the power of ten that suits it; the bound is at 0."""
    gap = quantity.bound - values if quantity.is_maximum else values - quantity.bound
    exponent = math.floor(math.log10(np.abs(gap).max(initial=0.0) or 1.0))
    if exponent >= -1:
        exponent = 0  # 0.25 reads better than 2.5 x 10^-1
    gap = gap / 10.0**exponent
    low, high = _padded(min(0.0, gap.min(initial=0.0)), gap.max(initial=0.0))
    unit = (
        f"10{str(exponent).translate(SUPERSCRIPT)} {quantity.unit}" if exponent else quantity.unit
    )
    _panel(
        ax,
        gap,
        0.0,
        (high, low) if quantity.is_maximum else (low, high),
        f"{quantity.gap} ({unit})",
    )


@styled
def classes(
    f1: ArrayLike,
    class_names: Sequence[str],
    *,
    support: ArrayLike | None = None,
    title: str | None = None,
) -> Figure:
    """Per-class F1 as bars, best first; of more than 30 classes the 15 best and the 15 worst. Marks the mean of all.

    Parameters
    ----------
    f1 : array (C,)
        F1 scores, 0..1. NaN (a class without images) is left out and counted.
    class_names : sequence of C str
        Shown as they are, cut after 24 characters.
    support : array (C,) int, optional
        Images of each class, written after its name.
    title : str, optional
        Above the figure.

    Returns
    -------
    Figure
    """
    f1 = np.asarray(f1, np.float64)
    order = np.argsort(-f1, kind="stable")[: np.isfinite(f1).sum()]  # NaN sorts last
    half = MOST_CLASSES // 2
    split = len(order) > MOST_CLASSES
    shown = np.concatenate([order[:half], order[-half:]]) if split else order
    y = np.arange(len(shown)) + (np.arange(len(shown)) >= half) * (1.2 if split else 0)
    names = [literal(class_names[i], 28) for i in shown.tolist()]
    if support is not None:
        names = [
            f"{name} ({n:,})" for name, n in zip(names, np.asarray(support)[shown], strict=True)
        ]

    fig = new(7.0, 0.215 * len(shown) + (1.25 if split else 0.95), title)
    ax = fig.add_subplot()
    worst = (np.arange(len(shown)) >= half) & split
    ax.barh(y, f1[shown], height=0.78, color=np.where(worst, VERMILLION, BLUE).tolist())
    for at, value in zip(y, f1[shown], strict=True):
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
        ax.text(value + 0.008, at, f"{value:.2f}", va="center", fontsize=8.5, bbox=box)
    ax.set_yticks(y, names, fontsize=9)
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(0, 1.08)
    ax.set_xticks(np.linspace(0, 1, 6))
    ax.set_ylim((y[-1] if len(y) else 0) + 0.7, -0.7)
    ax.grid(False, axis="y")
    ax.set_xlabel("F1")
    if split:
        between = f"{len(order) - 2 * half} classes between"
        ax.axhline(half + 0.1, color=GREY, linewidth=0.8)
        style = {
            "fontsize": 8.5,
            "ha": "right",
            "va": "center",
            "color": GREY,
            "backgroundcolor": "white",
        }
        ax.text(1.08, half + 0.1, between, **style)  # type: ignore[arg-type]
    _mean_line(ax, f1)
    return fig


def _mean_line(ax: Axes, f1: Floats) -> None:
    """Mark the mean; say how many classes it is of and how many have none."""
    finite = f1[np.isfinite(f1)]
    missing = len(f1) - len(finite)
    facts = [f"{len(finite)} classes" if len(finite) != 1 else "1 class"]
    if len(finite):
        ax.axvline(float(finite.mean()), color="black", linestyle="--", linewidth=1.2)
        facts.append(f"mean F1 {finite.mean():.3f} (dashed)")
    if missing:
        facts.append(f"{missing} without images left out")
    ax.set_title(", ".join(facts), loc="left", color=GREY)
