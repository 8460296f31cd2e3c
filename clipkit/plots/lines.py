"""Curves: accuracy against temperature, images or confidence, and singular values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import ArrayLike

from clipkit.analysis.metrics import Reliability
from clipkit.plots.style import (
    BLUE,
    GREY,
    Floats,
    add_legend,
    clipkit_style,
    dodge,
    line_style,
    new_figure,
    sanitize_label,
    use_plain_numbers,
)

MAX_TICKS = 200  # more temperatures than this have no minor ticks
BAND = "#cccccc"
PANELS = 3  # side by side


class Sweep:
    """One curve of `temperature`: R temperatures and what was measured at each.

    Parameters
    ----------
    label : str
        Classifier, C and split, as the legend shows them, cut after MAX_LABEL characters.
    tau : array (R,)
        Temperatures, > 0, in any order.
    accuracy : array (R,)
        Fractions. NaN leaves a gap.
    entropy : array (R,)
        Mean entropies in nats.
    low, high : array (R,)
        Interval of the accuracy.

    Attributes
    ----------
    tau, entropy : (R,) float64, rising in tau
    percent, low, high : (R,) float64
        Accuracy and its interval in percent, in the order of tau.
    best : (float, float) or None
        Temperature and highest accuracy in percent; of equals, the first that was given. None if
        all accuracies are NaN.
    """

    MAX_LABEL = 48

    def __init__(
        self,
        label: str,
        tau: ArrayLike,
        accuracy: ArrayLike,
        entropy: ArrayLike,
        low: ArrayLike,
        high: ArrayLike,
    ) -> None:
        tau = np.asarray(tau, np.float64)
        percent = 100 * np.asarray(accuracy, np.float64)
        order = np.argsort(tau)
        self.label = label
        self.tau = tau[order]
        self.percent = percent[order]
        self.entropy = np.asarray(entropy, np.float64)[order]
        self.low = 100 * np.asarray(low, np.float64)[order]
        self.high = 100 * np.asarray(high, np.float64)[order]
        self.best: tuple[float, float] | None = None
        if not np.isnan(percent).all():
            best = np.nanargmax(percent)
            self.best = float(tau[best]), float(percent[best])


@clipkit_style
def temperature(
    sweeps: Sequence[Sweep], n_prompts: int | None = None, *, title: str | None = None
) -> Figure:
    """Draw accuracy against temperature, and below it mean entropy with its maximum ln K.

    A star marks each curve's best accuracy, which the legend states; the best of all is written
    next to its star. Temperature is on a log axis and falls to the right; the points of several
    curves at one temperature are moved apart. Entropies that all sweeps share are drawn once.

    Parameters
    ----------
    sweeps : sequence of Sweep
        At least one.
    n_prompts : int, optional
        K; marks ln K.
    """
    fig = new_figure(7.0, 5.0, title)
    top, bottom = fig.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    moves = _moves(sweeps)
    handles = []
    for i, sweep in enumerate(sweeps):
        handles.append(_draw_accuracy(top, sweep, i, moves[i]))
    _name_best(top, sweeps, moves)
    facts = "bars: 95 % intervals over images; star: best"
    if len(sweeps) > 1:
        facts = f"{facts.replace('star', 'stars')} of each curve; points at one τ are set apart"
    top.set_title(facts, loc="left", color=GREY)
    top.set_ylabel("accuracy (%)")
    top.margins(y=0.16)
    use_plain_numbers(top.yaxis)
    _draw_entropies(bottom, sweeps)
    if n_prompts is not None:
        _mark_maximum(bottom, n_prompts)
    _set_tau_axis(bottom, np.concatenate([sweep.tau for sweep in sweeps]))
    add_legend(fig, handles, [_legend_label(sweep) for sweep in sweeps])
    return fig


def _moves(sweeps: Sequence[Sweep]) -> list[float]:
    """Return the factor by which the temperatures of each curve are drawn too large or small."""
    logs = np.log(np.unique(np.concatenate([sweep.tau for sweep in sweeps])))
    gap = float(np.diff(logs).min(initial=np.ptp(logs) or 1.0))
    span = float(np.ptp(logs)) or 1.0
    room = min(0.5 * gap, 0.08 * span)  # the axis ends 0.05 spans beyond the last temperature
    n = len(sweeps)
    return [math.exp(-dodge(i, n, 0.012 * span, room)) for i in range(n)]  # τ falls to the right


def _draw_accuracy(ax: Axes, sweep: Sweep, i: int, move: float) -> Artist:
    style = line_style(i)
    tau = sweep.tau * move
    (line,) = ax.plot(tau, sweep.percent, **style)
    ax.vlines(tau, sweep.low, sweep.high, color=style["color"], linewidth=1.2, alpha=0.7)
    if sweep.best is not None:
        star: dict[str, Any] = {"marker": "*", "markersize": 15, "markeredgecolor": "white"}
        best_tau, accuracy = sweep.best
        ax.plot(best_tau * move, accuracy, color=style["color"], zorder=5, **star)
    return line


def _name_best(ax: Axes, sweeps: Sequence[Sweep], moves: Sequence[float]) -> None:
    """Write the best accuracy of all sweeps above its star and its interval."""
    bests = []
    for sweep, move in zip(sweeps, moves, strict=True):
        if sweep.best is not None:
            tau, accuracy = sweep.best
            high = np.nanmax(np.append(sweep.high[sweep.tau == tau], accuracy))
            bests.append((accuracy, tau * move, float(high)))
    if not bests:
        return
    accuracy, tau, high = max(bests, key=lambda best: best[0])
    ax.annotate(
        f"{accuracy:.2f} %",
        (tau, high),
        xytext=(0, 9 if high == accuracy else 4),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontweight="bold",
    )


def _legend_label(sweep: Sweep) -> str:
    if sweep.best is None:
        return sweep.label
    tau, accuracy = sweep.best
    return f"{sanitize_label(sweep.label, sweep.MAX_LABEL)}: best {accuracy:.2f} % at τ = {tau:g}"


def _draw_entropies(ax: Axes, sweeps: Sequence[Sweep]) -> None:
    first = sweeps[0]
    if all(_has_equal_entropy(sweep, first) for sweep in sweeps):
        ax.plot(first.tau, first.entropy, color="black", marker="o")
    else:
        for i, sweep in enumerate(sweeps):
            ax.plot(sweep.tau, sweep.entropy, **line_style(i))
    ax.set_ylabel("mean entropy (nats)")
    use_plain_numbers(ax.yaxis)


def _has_equal_entropy(a: Sweep, b: Sweep) -> bool:
    if not np.array_equal(a.tau, b.tau):
        return False
    return np.allclose(a.entropy, b.entropy, atol=1e-9, equal_nan=True)


def _mark_maximum(ax: Axes, n_prompts: int) -> None:
    """Draw a line at ln K, with its name above it."""
    maximum = math.log(n_prompts)
    entropies = np.concatenate([np.asarray(line.get_ydata(), np.float64) for line in ax.lines])
    lowest = float(np.nanmin(np.append(entropies, maximum)))
    span = max(maximum - lowest, 1e-6)
    ax.set_ylim(lowest - 0.1 * span, maximum + 0.35 * span)
    ax.axhline(maximum, color=GREY, linestyle="--", linewidth=1.2)
    ax.annotate(
        f"ln {n_prompts} = {maximum:.4f}",
        (0.995, maximum),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color=GREY,
        fontsize=9,
    )


def _set_tau_axis(ax: Axes, tau: Floats) -> None:
    """Set a log axis that falls to the right, labelled at the temperatures where there is room."""
    tau = np.unique(tau)[::-1]  # falling
    ax.set_xscale("log")
    ax.xaxis.set_minor_formatter(NullFormatter())
    span = math.log(tau[0] / tau[-1]) or 1.0
    labelled: list[float] = []
    for value in tau:
        if not labelled or math.log(labelled[-1] / value) > 0.055 * span:
            labelled.append(float(value))
    ax.set_xticks(labelled, [f"{value:g}" for value in labelled])
    if len(tau) <= MAX_TICKS:
        ax.set_xticks(tau, minor=True)
    pad = math.exp(0.05 * span)
    ax.set_xlim(tau[0] * pad, tau[-1] / pad)
    ax.set_xlabel("temperature τ (log scale, falling)")


class ShotCurve(NamedTuple):
    """One curve of `shots`.

    Attributes
    ----------
    label : str
        As the legend shows it.
    shots : array (S,) int
        Labelled images per class, rising.
    mean, low, high : arrays (S,)
        Of the draws' accuracies, fractions.
    """

    label: str
    shots: ArrayLike
    mean: ArrayLike
    low: ArrayLike
    high: ArrayLike


@clipkit_style
def shots(
    curves: Sequence[ShotCurve],
    zeroshot: tuple[float, str] | None = None,
    *,
    title: str | None = None,
) -> Figure:
    """Draw accuracy against labelled images per class, with the range of the draws.

    The points of several curves at one number of images are moved apart.

    Parameters
    ----------
    curves : sequence of ShotCurve
    zeroshot : (float, str), optional
        Accuracy of the zero-shot classification, a fraction, and its legend text.
    """
    fig = new_figure(7.0, 3.8, title)
    ax = fig.add_subplot()
    handles: list[Artist] = []
    for i, curve in enumerate(curves):
        low, mean, high = 100 * np.array([curve.low, curve.mean, curve.high])
        x = np.asarray(curve.shots) * 2 ** dodge(i, len(curves), 0.05, 0.5)
        handles += ax.plot(x, mean, **line_style(i))
        ax.vlines(x, low, high, color=line_style(i)["color"], linewidth=1.6)
    labels = [sanitize_label(curve.label, 76) for curve in curves]
    if zeroshot is not None:
        handles.append(ax.axhline(100 * zeroshot[0], color="black", linestyle="--"))
        labels.append(zeroshot[1])
    ax.set_xscale("log", base=2)
    ticks = np.unique(np.concatenate([curve.shots for curve in curves])).astype(int)
    ax.set_xticks(ticks, list(map(str, ticks)))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_ylim(0)
    ax.set(xlabel="labelled images per class (log scale)", ylabel="accuracy (%)")
    facts = "points: mean of the draws; bars: their range"
    if len(curves) > 1:
        facts += "; points at one number are set apart"
    ax.set_title(facts, loc="left", color=GREY)
    add_legend(fig, handles, labels)
    return fig


@clipkit_style
def spectrum(
    values: Mapping[str, ArrayLike],
    effective_rank: Mapping[str, float],
    *,
    title: str | None = None,
) -> Figure:
    """Draw singular values of prompt matrices on a log scale, each with its effective rank marked.

    Parameters
    ----------
    values : mapping of str to array (min(K, D),)
        Singular values of each prompt set; zeros are left out.
    effective_rank : mapping of str to float
        Of the same prompt sets.
    """
    fig = new_figure(7.0, 3.8, title)
    ax = fig.add_subplot()
    handles: list[Artist] = []
    labels = []
    for i, (name, sigma) in enumerate(values.items()):
        falling = np.sort(np.asarray(sigma, np.float64))[::-1]
        falling = np.where(falling > 0, falling, np.nan)
        index = np.arange(1, len(falling) + 1)
        handles += ax.plot(index, falling, **{**line_style(i), "marker": ""})
        rank = effective_rank[name]
        labels.append(f"{sanitize_label(name, 52)}: effective rank {rank:.1f}")
        height = float(np.exp(np.interp(rank, index, np.log(falling))))
        ax.plot(rank, height, markersize=9, markeredgecolor="white", **line_style(i))
        color = line_style(i)["color"]
        ax.plot([rank, rank], [0, height], color=color, linewidth=1, linestyle=":")
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="index of the singular value", ylabel="singular value (log scale)")
    ax.set_title("marks: effective rank", loc="left", color=GREY)
    add_legend(fig, handles, labels)
    return fig


@clipkit_style
def reliability(
    diagrams: Mapping[float, Reliability],
    *,
    notes: Mapping[float, str] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw accuracy against confidence, one panel per temperature.

    Each point is a bin of as many images as the others. A calibrated model's points lie on the
    dashed diagonal, and 95 % of them within the grey band. Below the diagonal, the model is
    overconfident.

    Parameters
    ----------
    diagrams : mapping of float to Reliability
        Temperature -> see `metrics.reliability`. At least one.
    notes : mapping of float to str, optional
        Temperature -> what to write after it, `fitted on train` for example.
    """
    columns = min(len(diagrams), PANELS)
    rows = math.ceil(len(diagrams) / columns)
    fig = new_figure(max(3.2 * columns, 4.6), 3.8 * rows, title)
    axes = fig.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for ax in axes.flat[len(diagrams) :]:
        ax.remove()
    handles: list[Artist] = []
    for ax, (tau, diagram) in zip(axes.flat, diagrams.items(), strict=False):
        handles = _draw_reliability(ax, diagram)
        name = f"τ = {tau:g}"
        if notes and tau in notes:
            name += f", {notes[tau]}"
        ax.set_title(name, loc="left", fontweight="bold", pad=19)
        error, null = 100 * diagram.ece, 100 * diagram.ece_null
        facts = f"ECE {error:.1f} %, a calibrated model's {null:.1f} %"
        ax.text(0, 1.03, facts, transform=ax.transAxes, fontsize=9, color=GREY)
        ax.xaxis.set_tick_params(labelbottom=True)
        ax.set_xlabel("confidence max p (%)")
    for ax in axes[:, 0]:
        ax.set_ylabel("accuracy (%)")
    labels = ["images, in bins of equal size", "calibrated", "95 % of calibrated models"]
    add_legend(fig, handles, labels)
    return fig


def _draw_reliability(ax: Axes, diagram: Reliability) -> list[Artist]:
    confidence = 100 * diagram.confidence
    band = ax.fill_between(
        confidence, 100 * diagram.low, 100 * diagram.high, color=BAND, linewidth=3
    )
    (diagonal,) = ax.plot([0, 100], [0, 100], color="black", linestyle="--", linewidth=1.2)
    (points,) = ax.plot(confidence, 100 * diagram.accuracy, color=BLUE, marker="o", markersize=5)
    ax.set_aspect("equal")
    ticks = np.linspace(0, 100, 5)
    ax.set(xlim=(-3, 103), ylim=(-3, 103), xticks=ticks, yticks=ticks)
    ax.text(5, 95, "underconfident", color=GREY, fontsize=8.5)
    ax.text(98, 1, "overconfident", color=GREY, fontsize=8.5, ha="right")
    return [points, diagonal, band]
