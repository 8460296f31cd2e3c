"""Curves: accuracy and entropy against temperature, cosines along the prompts, singular values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import ArrayLike, NDArray

from clipkit.plots.style import GREY, legend, literal, new, pen, plain_numbers, styled

Floats = NDArray[np.float64]

MOST_TEXTS = 40  # more prompts than this are numbered, not spelt out


@dataclass(frozen=True, eq=False)
class Sweep:
    """One curve of `temperature`: R temperatures and what was found at each.

    Attributes
    ----------
    label : str
        Classifier, C and split, as the legend is to say it.
    tau : array (R,)
        Temperatures, > 0, in any order.
    accuracy : array (R,)
        Fractions.
    entropy : array (R,), optional
        Mean entropies in nats.
    low, high : array (R,), optional
        Interval of the accuracy.
    """

    label: str
    tau: ArrayLike
    accuracy: ArrayLike
    entropy: ArrayLike | None = None
    low: ArrayLike | None = None
    high: ArrayLike | None = None


@styled
def temperature(
    sweeps: Sequence[Sweep], n_prompts: int | None = None, *, title: str | None = None
) -> Figure:
    """Accuracy against temperature, and below it mean entropy with its maximum ln K.

    Each curve's best accuracy is starred and named in the legend, the best of all beside its star. Temperature is on a
    log axis and falls to the right. The lower panel is there if any sweep has entropies; a curve that all share is
    drawn once.

    Parameters
    ----------
    sweeps : sequence of Sweep
        At least one.
    n_prompts : int, optional
        K; marks ln K.
    title : str, optional
        Above the figure.

    Returns
    -------
    Figure
    """
    with_entropy = any(sweep.entropy is not None for sweep in sweeps)
    fig = new(7.0, 5.0 if with_entropy else 3.4, title)
    heights = [3, 2] if with_entropy else [3]
    panels = fig.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)
    top = panels[0, 0]
    handles = [_accuracy(top, sweep, i) for i, sweep in enumerate(sweeps)]
    _name_best(top, sweeps)
    top.set_ylabel("accuracy (%)")
    top.margins(y=0.16)
    plain_numbers(top.yaxis)
    if with_entropy:
        _entropies(panels[1, 0], sweeps, n_prompts)
    _tau_axis(
        panels[-1, 0], np.concatenate([np.asarray(sweep.tau, np.float64) for sweep in sweeps])
    )
    legend(fig, handles, [_legend_line(sweep) for sweep in sweeps])
    return fig


def _best(sweep: Sweep) -> int | None:
    """Index of the highest accuracy (the first of equals); None without any."""
    accuracy = np.asarray(sweep.accuracy, np.float64)
    return int(np.nanargmax(accuracy)) if np.isfinite(accuracy).any() else None


def _accuracy(ax: Axes, sweep: Sweep, i: int) -> Artist:
    tau, accuracy = np.asarray(sweep.tau, np.float64), 100 * np.asarray(sweep.accuracy, np.float64)
    order = np.argsort(tau)
    style = pen(i)
    (line,) = ax.plot(tau[order], accuracy[order], **style)  # type: ignore[arg-type]
    if sweep.low is not None and sweep.high is not None:
        low, high = (
            100 * np.asarray(sweep.low, np.float64),
            100 * np.asarray(sweep.high, np.float64),
        )
        ax.vlines(tau, low, high, color=style["color"], linewidth=1.2, alpha=0.7)
    best = _best(sweep)
    if best is not None:
        star = {"marker": "*", "markersize": 15, "markeredgecolor": "white", "zorder": 5}
        ax.plot(tau[best], accuracy[best], color=style["color"], **star)  # type: ignore[arg-type]
    return line


def _name_best(ax: Axes, sweeps: Sequence[Sweep]) -> None:
    """Write the best accuracy of all beside its star."""
    points = [
        (100 * float(np.asarray(sweep.accuracy)[best]), float(np.asarray(sweep.tau)[best]))
        for sweep in sweeps
        if (best := _best(sweep)) is not None
    ]
    if points:
        accuracy, tau = max(points, key=lambda point: point[0])
        place = {"xytext": (0, 9), "textcoords": "offset points", "ha": "center", "va": "bottom"}
        ax.annotate(f"{accuracy:.2f} %", (tau, accuracy), fontweight="bold", **place)  # type: ignore[arg-type]


def _legend_line(sweep: Sweep) -> str:
    best = _best(sweep)
    if best is None:
        return sweep.label
    accuracy, tau = 100 * np.asarray(sweep.accuracy)[best], np.asarray(sweep.tau)[best]
    return f"{literal(sweep.label, 32)}: best {accuracy:.2f} % at τ = {tau:g}"


def _entropies(ax: Axes, sweeps: Sequence[Sweep], n_prompts: int | None) -> None:
    curves: list[tuple[Floats, Floats]] = []
    for sweep in sweeps:
        if sweep.entropy is not None:
            order = np.argsort(np.asarray(sweep.tau, np.float64))
            curves.append(
                (
                    np.asarray(sweep.tau, np.float64)[order],
                    np.asarray(sweep.entropy, np.float64)[order],
                )
            )
    tau, entropy = curves[0]
    if all(
        np.array_equal(tau, t) and np.allclose(entropy, h, atol=1e-9, equal_nan=True)
        for t, h in curves
    ):
        ax.plot(tau, entropy, color="black", marker="o")
    else:
        for i, sweep in enumerate(sweeps):
            if sweep.entropy is not None:
                ax.plot(*curves.pop(0), **pen(i))  # type: ignore[arg-type]
    ax.set_ylabel("mean entropy (nats)")
    plain_numbers(ax.yaxis)
    if n_prompts is not None:
        _mark_maximum(ax, n_prompts)


def _mark_maximum(ax: Axes, n_prompts: int) -> None:
    """A line at ln K, with room above it for its name."""
    maximum = math.log(n_prompts)
    heights = np.concatenate([np.asarray(line.get_ydata(), np.float64) for line in ax.lines])
    lowest = float(np.nanmin(np.append(heights, maximum)))
    room = max(maximum - lowest, 1e-6)
    ax.set_ylim(lowest - 0.1 * room, maximum + 0.35 * room)
    ax.axhline(maximum, color=GREY, linestyle="--", linewidth=1.2)
    place = {
        "xycoords": ("axes fraction", "data"),
        "xytext": (0, 3),
        "textcoords": "offset points",
        "ha": "right",
    }
    name = f"ln {n_prompts} = {maximum:.4f}"
    ax.annotate(name, (0.995, maximum), va="bottom", color=GREY, fontsize=9, **place)  # type: ignore[arg-type]


def _tau_axis(ax: Axes, tau: Floats) -> None:
    """A log axis that falls to the right, ticked at the temperatures themselves where there is room for the label."""
    tau = np.unique(tau)[::-1]  # falling
    ax.set_xscale("log")
    ax.xaxis.set_minor_formatter(NullFormatter())
    span = math.log(tau[0] / tau[-1]) or 1.0
    labelled: list[float] = []
    for value in tau:
        if not labelled or math.log(labelled[-1] / value) > 0.055 * span:
            labelled.append(float(value))
    ax.set_xticks(labelled, [f"{value:g}" for value in labelled])
    ax.set_xticks(tau, minor=True)
    pad = math.exp(0.05 * span)
    ax.set_xlim(tau[0] * pad, tau[-1] / pad)
    ax.set_xlabel("temperature τ (log scale, falling)")


@styled
def logits(
    cosines: ArrayLike, labels: Sequence[str], texts: Sequence[str], *, title: str | None = None
) -> Figure:
    """Cosine with each prompt, one line an image or class.

    Parameters
    ----------
    cosines : array (M, K)
        Cosine similarities; NaN leaves a gap.
    labels : sequence of M str
        What each line is: an image's id, a class's name.
    texts : sequence of K str
        Prompts; above 40 they are numbered from 0 instead.
    title : str, optional
        Above the figure.

    Returns
    -------
    Figure
    """
    cosines = np.asarray(cosines, np.float64)
    K = cosines.shape[1]
    spelt = K <= MOST_TEXTS
    rows = [literal(text) for text in texts] if spelt else []
    room = 0.8 * 0.07 * max(map(len, rows), default=0)  # of the slanted prompts
    fig = new(max(7.0, 0.26 * K + 1.2) if spelt else 9.0, 3.0 + max(room, 0.3), title)
    ax = fig.add_subplot()
    handles: list[Artist] = []
    for i, line in enumerate(cosines):
        style = pen(i) if spelt else {**pen(i), "marker": ""}
        handles += ax.plot(
            np.arange(K), line, markersize=4, linewidth=1.4 if spelt else 0.9, **style
        )  # type: ignore[arg-type]
    plain_numbers(ax.yaxis)
    if spelt:
        ax.set_xticks(range(K), rows, rotation=60, ha="right", rotation_mode="anchor", fontsize=8.5)
    ax.set_xlim(-0.6, K - 0.4)
    ax.set(xlabel="prompt" if spelt else "number of the prompt, from 0", ylabel="cosine similarity")
    legend(fig, handles, [literal(label, 32) for label in labels])
    return fig


@styled
def spectrum(
    values: Mapping[str, ArrayLike],
    effective_rank: Mapping[str, float] | None = None,
    *,
    title: str | None = None,
) -> Figure:
    """Singular values of prompt matrices, log scale, with each effective rank marked on its curve.

    Parameters
    ----------
    values : mapping of str to array (min(K, D),)
        Singular values of each prompt set; zeros are left out.
    effective_rank : mapping of str to float, optional
        Of some or all of them.
    title : str, optional
        Above the figure.

    Returns
    -------
    Figure
    """
    ranks = effective_rank or {}
    fig = new(7.0, 3.8, title)
    ax = fig.add_subplot()
    handles: list[Artist] = []
    labels = []
    for i, (name, given) in enumerate(values.items()):
        sigma = np.sort(np.asarray(given, np.float64))[::-1]
        sigma = np.where(sigma > 0, sigma, np.nan)
        index = np.arange(1, len(sigma) + 1)
        style = {**pen(i), "marker": ""}
        handles += ax.plot(index, sigma, **style)  # type: ignore[arg-type]
        labels.append(name)
        if name in ranks:
            at = float(np.exp(np.interp(ranks[name], index, np.log(sigma))))
            ax.plot(ranks[name], at, **{**pen(i), "markersize": 9, "markeredgecolor": "white"})  # type: ignore[arg-type]
            ax.plot([ranks[name]] * 2, [0, at], color=style["color"], linewidth=1, linestyle=":")
            labels[-1] = f"{literal(name, 32)}: effective rank {ranks[name]:.1f}"
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="index of the singular value", ylabel="singular value (log scale)")
    legend(fig, handles, labels)
    return fig
