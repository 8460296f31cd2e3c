"""Accuracy and entropy against temperature."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from clipkit.analysis import results
from clipkit.analysis.sections import CHANGES
from clipkit.analysis.temperature_sweeps import (
    Sweep,
    best_sweep,
    common_prompt_count,
    rows_of_sweeps,
    temperature_sweeps,
)
from clipkit.base.errors import ClipkitError
from clipkit.base.options import split_option
from clipkit.features.model import FeatureFile
from clipkit.features.provenance import provenance
from clipkit.plots import marks, style
from clipkit.plots.picture import Picture
from clipkit.plots.style import Drawn, Floats, clipkit_style
from clipkit.statistics import claims

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

__all__ = ["Sweep", "temperature"]

MAX_CURVES = 6  # of trained models that a page draws
MAX_TICKS = 200  # more temperatures than this have no minor ticks


def draw_sweeps(
    files: Sequence[FeatureFile],
    split: Annotated[
        str | None, split_option("Split to draw (default: all with several runs).")
    ] = None,
) -> Drawn:
    """Draw accuracy and mean entropy against temperature, for one or several sweeps."""
    sweeps = temperature_sweeps(files, split)
    title = f"{_name(sweeps).capitalize()} and entropy against temperature"
    figure = temperature(sweeps, common_prompt_count(files), title=title)
    rows = itertools.chain.from_iterable(rows_of_sweeps(file, split) for file in files)
    source = results.sources_label(files, results.column(rows, "eval_split"))
    return style.state(figure, _finding(sweeps), source)


def _has_several_runs(result: FeatureFile) -> bool:
    return result.run_count > 1


def draw_groups(files: Sequence[FeatureFile]) -> Drawn:
    """Draw sweeps that differ in their seed as one curve, and only the highest curves.

    A page draws all sweeps of a folder in this picture. Results that are no sweep are left out.
    Curves on the scored images come first: the highest on a validation set is chosen on it.
    """
    alike: dict[tuple[Any, ...], list[Sweep]] = {}
    drawn = []
    for file in files:
        try:
            found = temperature_sweeps([file])
        except ClipkitError:
            continue
        drawn.append(file)
        source = provenance(file)
        for sweep in found:
            if len(sweep.tau) < 2:
                continue
            label = ", ".join(filter(None, [source.prompts, sweep.label]))
            if sweep.is_control:
                label += ", untrained"
            key = (source.model, source.dataset, label, sweep.is_control, *sweep.tau.tolist())
            alike.setdefault(key, []).append(sweep)
    merged = []
    for (model, _, label, *_), members in alike.items():
        merged.append((model, _merge(label, members)))
    models = {model for model, _ in merged}
    sweeps = []
    for model, sweep in merged:
        if len(models) > 1:
            sweep.label = f"{model}: {sweep.label}"
        sweeps.append(sweep)
    if not sweeps:
        raise ClipkitError("expected sweeps over temperatures, got none")
    ordered = sorted(sweeps, key=lambda sweep: (sweep.is_validation, -sweep.highest))
    trained = [sweep for sweep in ordered if not sweep.is_control][:MAX_CURVES]
    shown = trained + [sweep for sweep in ordered if sweep.is_control][:1]
    title = f"{_name(shown).capitalize()} and entropy against temperature"
    if len(shown) < len(sweeps):
        title += f", {len(shown)} of {len(sweeps)} curves"
    figure = temperature(shown, common_prompt_count(drawn), title=title)
    controls = shown[len(trained) :]
    finding = _finding([*trained[:1], *controls])
    if len(trained) > 1 and finding:
        finding = f"{trained[0].label}: {finding[0].lower()}{finding[1:]}"
    return style.state(figure, finding, results.sources_label(drawn))


TEMPERATURE = Picture(
    "temperature",
    draw_sweeps,
    "clipkit plot temperature probe.h5 -o tau.png",
    of=("probe",),
    draws_several=True,
    section=CHANGES,
    draw_together=draw_groups,
    is_reported=_has_several_runs,
)


def _merge(label: str, sweeps: Sequence[Sweep]) -> Sweep:
    """Return one curve of sweeps at the same temperatures: of several, the mean and the range."""
    first = sweeps[0]
    if len(sweeps) == 1:
        low, high, accuracy = first.low, first.high, first.percent
    else:
        all_of_them = np.array([sweep.percent for sweep in sweeps])
        accuracy, low, high = all_of_them.mean(0), all_of_them.min(0), all_of_them.max(0)
        label += f", {len(sweeps)} seeds"
    entropy = np.mean([sweep.entropy for sweep in sweeps], axis=0)
    return Sweep(
        label,
        first.tau,
        accuracy / 100,
        entropy,
        low / 100,
        high / 100,
        chance=first.chance / 100,
        is_control=first.is_control,
        is_validation=first.is_validation,
        what=first.what,
    )


def _name(sweeps: Sequence[Sweep]) -> str:
    """Return what the numbers of sweeps are."""
    return " or ".join(sorted({sweep.what for sweep in sweeps}))


def _finding(sweeps: Sequence[Sweep]) -> str:
    """State the highest accuracy of all trained models, beside that of controls or chance."""
    best, control = best_sweep(sweeps), best_sweep(sweeps, of_controls=True)
    if best is None:
        return ""
    highest = math.nan if control is None else control.highest / 100
    return best.sentence() + claims.control_of_best(highest, best.chance / 100)


@clipkit_style
def temperature(
    sweeps: Sequence[Sweep], n_prompts: int | None = None, *, title: str | None = None
) -> Figure:
    """Draw accuracy against temperature, and below it mean entropy with its maximum ln K.

    Stars mark each curve's best accuracy, which stands behind its name; the best of all is written
    next to a star. A band covers the temperatures around it that it is not decided against.
    Untrained controls are dashed and have neither, and chance is dotted. Temperature is on a log
    axis and falls to the right; the points of several curves at one temperature are moved apart.
    Entropies that all sweeps share are drawn once.

    Parameters
    ----------
    sweeps : sequence of Sweep
        At least one.
    n_prompts : int, optional
        K; marks ln K.
    """
    fig = style.new_figure(7.0, 5.0, title)
    top, bottom = fig.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    moves = _moves(sweeps)
    handles: list[Line2D] = []
    for i, sweep in enumerate(sweeps):
        handles.append(_draw_accuracy(top, sweep, i, moves[i]))
    labels = list(map(_legend_label, sweeps))
    for chance in sorted({sweep.chance for sweep in sweeps if math.isfinite(sweep.chance)}):
        handles.append(top.axhline(chance, color=style.GREY, linestyle=":", linewidth=1.4))
        labels.append(f"chance: {chance:.2f} %")
    _name_best(top, sweeps, moves)
    facts = "bars: 95 % intervals; star: highest; band: not decided against it"
    if len(sweeps) > 1:
        facts += "; points at one τ are set apart"
    top.set_title(facts, loc="left", color=style.GREY)
    top.set_ylabel(f"{_name(sweeps)} (%)")
    top.margins(y=0.16)
    top.set_ylim(bottom=max(top.get_ylim()[0], -2))
    style.use_plain_numbers(top.yaxis)
    first = sweeps[0]
    if all(_has_equal_entropy(sweep, first) for sweep in sweeps):
        bottom.plot(first.tau, first.entropy, color="black", marker="o")
    else:
        for i, sweep in enumerate(sweeps):
            bottom.plot(sweep.tau, sweep.entropy, **style.line_style(i))
    bottom.set_ylabel("mean entropy (nats)")
    style.use_plain_numbers(bottom.yaxis)
    if n_prompts is not None:
        _mark_maximum(bottom, n_prompts)
    _set_tau_axis(bottom, np.concatenate([sweep.tau for sweep in sweeps]))
    ends = [sweep.label for sweep in sweeps]
    if len(sweeps) > 1:  # the title states the best accuracy of a single curve
        ends = [_name_end(sweep) for sweep in sweeps]
    if not marks.name_ends(top, handles, ends + labels[len(sweeps) :]):
        style.add_legend(fig, handles, labels)
    return fig


def _moves(sweeps: Sequence[Sweep]) -> list[float]:
    """Return the factor by which the temperatures of each curve are drawn too large or small."""
    logs = np.log(np.unique(np.concatenate([sweep.tau for sweep in sweeps])))
    gap = float(np.diff(logs).min(initial=np.ptp(logs) or 1.0))
    span = float(np.ptp(logs)) or 1.0
    room = min(0.5 * gap, 0.08 * span)  # the axis ends 0.05 spans beyond the last temperature
    n = len(sweeps)
    shifts = [style.dodge(i, n, 0.012 * span, room) for i in range(n)]
    return [math.exp(-shift) for shift in shifts]  # τ falls to the right


def _draw_accuracy(ax: Axes, sweep: Sweep, i: int, move: float) -> Line2D:
    look = style.line_style(i)
    if sweep.is_control:
        look |= {"linestyle": "--", "markerfacecolor": "white"}
    tau, color = sweep.tau * move, look["color"]
    line = marks.draw_curve(ax, tau, sweep.percent, (sweep.low, sweep.high), look)
    if sweep.best is not None and not sweep.is_control:
        is_best = sweep.percent == sweep.percent[sweep.best]
        best = (tau[is_best], sweep.percent[is_best])
        ax.plot(*best, "*", color=color, zorder=5, markersize=15, markeredgecolor="white")
        plateau = tau[sweep.plateau], sweep.percent[sweep.plateau]
        ax.plot(*plateau, color=color, linewidth=11, alpha=0.25, solid_capstyle="round")
    return line


def _name_best(ax: Axes, sweeps: Sequence[Sweep], moves: Sequence[float]) -> None:
    """Write the best accuracy of all sweeps above its star and its interval."""
    bests = []
    for sweep, move in zip(sweeps, moves, strict=True):
        if sweep.best is not None and not sweep.is_control:
            high = float(np.fmax(sweep.high, sweep.percent)[sweep.best])
            bests.append((sweep.percent[sweep.best], sweep.tau[sweep.best] * move, high))
    if bests:
        accuracy, tau, high = max(bests, key=itemgetter(0))
        up = 9 if high == accuracy else 4
        offset: dict[str, Any] = {"xytext": (0, up), "textcoords": "offset points", "va": "bottom"}
        ax.annotate(f"{accuracy:.2f} %", (tau, high), ha="center", fontweight="bold", **offset)


def _name_end(sweep: Sweep) -> str:
    """Return the name of a curve with its best accuracy."""
    return sweep.label if sweep.best is None else f"{sweep.label}: {sweep.highest:.1f} %"


def _legend_label(sweep: Sweep) -> str:
    """Return the label of a curve with its best accuracy and the temperatures of its plateau."""
    if sweep.best is None:
        return sweep.label
    label = style.sanitize_label(sweep.label, results.MAX_LABEL)
    names = [f"τ {name}" for name in sweep.names]
    return claims.best_label(label, names, sweep.percent / 100)


def _has_equal_entropy(a: Sweep, b: Sweep) -> bool:
    is_same_tau = np.array_equal(a.tau, b.tau)
    return is_same_tau and np.allclose(a.entropy, b.entropy, atol=1e-9, equal_nan=True)


def _mark_maximum(ax: Axes, n_prompts: int) -> None:
    """Draw a line at ln K, with its name above it."""
    maximum = math.log(n_prompts)
    entropies = np.concatenate([np.asarray(line.get_ydata(), np.float64) for line in ax.lines])
    lowest = float(np.nanmin(np.append(entropies, maximum)))
    span = max(maximum - lowest, 1e-6)
    ax.set_ylim(lowest - 0.1 * span, maximum + 0.35 * span)
    ax.axhline(maximum, color=style.GREY, linestyle="--", linewidth=1.2)
    text, at = f"ln {n_prompts} = {maximum:.4f}", (0.995, maximum)
    offset: dict[str, Any] = {"xytext": (0, 3), "textcoords": "offset points", "va": "bottom"}
    place = ("axes fraction", "data")
    ax.annotate(text, at, xycoords=place, ha="right", color=style.GREY, fontsize=9, **offset)


def _set_tau_axis(ax: Axes, tau: Floats) -> None:
    """Set a log axis that falls to the right, labelled at the temperatures where there is room."""
    tau = np.unique(tau)[::-1]  # falling
    ax.set_xscale("log")
    style.hide_minor_labels(ax.xaxis)
    span = math.log(tau[0] / tau[-1]) or 1.0
    labelled = style.spaced_on_log(tau)
    ax.set_xticks(labelled, [f"{value:g}" for value in labelled])
    if len(tau) <= MAX_TICKS:
        ax.set_xticks(tau, minor=True)
    pad = math.exp(0.05 * span)
    ax.set_xlim(tau[0] * pad, tau[-1] / pad)
    ax.set_xlabel("temperature τ (log scale, falling)")
