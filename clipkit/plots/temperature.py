"""Accuracy and entropy against temperature."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import ArrayLike

from clipkit.analysis import metrics, results
from clipkit.base.errors import ClipkitError, unknown
from clipkit.base.names import differing, tell_apart
from clipkit.base.options import split_option
from clipkit.features.history import is_untrained, provenance
from clipkit.features.model import FeatureFile
from clipkit.plots import style
from clipkit.plots.picture import Picture
from clipkit.plots.style import Drawn, Floats, clipkit_style

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Sweep", "temperature"]

MAX_CURVES = 100
MAX_LABEL = 48
MAX_TICKS = 200  # more temperatures than this have no minor ticks
COLUMNS = {"classifier", "C", "temperature", "eval_split", "acc1", "mean_entropy"}


class Sweep:
    """One curve of `temperature`: R temperatures and what was measured at each.

    Parameters
    ----------
    label : str
        Classifier, C and split, as the legend shows them.
    tau : array (R,)
        Temperatures, > 0, in any order.
    accuracy, low, high : array (R,)
        Fractions, with the ends of their intervals. NaN leaves a gap.
    entropy : array (R,)
        Mean entropies in nats.
    chance : float, optional
        Fraction.
    is_control : bool
        Whether the model is untrained.

    Attributes
    ----------
    tau, percent, entropy, low, high : (R,) float64, rising in tau
    best : int or None
        Index of the highest accuracy.
    plateau : slice
        The temperatures around the best one with accuracies in its interval.
    """

    def __init__(  # noqa: PLR0913 - a documented constructor
        self,
        label: str,
        tau: ArrayLike,
        accuracy: ArrayLike,
        entropy: ArrayLike,
        low: ArrayLike,
        high: ArrayLike,
        *,
        chance: float = math.nan,
        is_control: bool = False,
    ) -> None:
        columns = np.array([tau, accuracy, entropy, low, high], np.float64)
        columns[[1, 3, 4]] *= 100
        self.label, self.chance, self.is_control = label, 100 * chance, is_control
        self.tau, self.percent, self.entropy, self.low, self.high = columns[:, np.argsort(tau)]
        self.best: int | None = None
        self.plateau = slice(0)
        if np.isfinite(self.percent).any():
            self.best = best = int(np.nanargmax(self.percent))
            worse = np.flatnonzero(~(self.percent >= self.low[best]))
            first = worse[worse < best].max(initial=-1) + 1
            self.plateau = slice(int(first), int(worse[worse > best].min(initial=len(self.tau))))


def draw_sweeps(
    files: Sequence[FeatureFile],
    split: Annotated[
        str | None, split_option("Split to draw (default: all with several runs).")
    ] = None,
) -> Drawn:
    """Draw accuracy and mean entropy against temperature, for one or several sweeps."""
    sweeps = temperature_sweeps(files, split)
    title = "Accuracy and entropy against temperature"
    figure = temperature(sweeps, common_prompt_count(files), title=title)
    rows = itertools.chain.from_iterable(_rows_of_sweeps(file, split) for file in files)
    source = results.sources_label(files, results.column(rows, "eval_split"))
    return style.state(figure, _finding(sweeps), source)


def _has_several_runs(result: FeatureFile) -> bool:
    return result.run_count > 1


TEMPERATURE = Picture(
    "temperature",
    draw_sweeps,
    "clipkit plot temperature probe.h5 -o tau.png",
    of=("probe",),
    draws_several=True,
    is_reported=_has_several_runs,
)


def _finding(sweeps: Sequence[Sweep]) -> str:
    """State the best accuracy with its temperature, beside the best of controls or chance."""
    bests = {one: one.percent[one.best] for one in sweeps if one.best is not None}
    controls = [one for one in bests if one.is_control]
    trained = [one for one in bests if not one.is_control]
    if not trained:
        return ""
    sweep = max(trained, key=bests.__getitem__)
    finding = f"At best {bests[sweep]:.1f} %"
    if np.count_nonzero(sweep.percent == bests[sweep]) == 1:
        finding += f", at τ {sweep.tau[sweep.best]:g}"
    if not controls:
        return finding + (f"; chance is {sweep.chance:.1f} %" if sweep.chance > 0 else "")
    control = max(controls, key=bests.__getitem__)
    if control.low[control.best] <= control.chance:
        return f"{finding}; untrained is not shown to be above chance"
    return f"{finding}; untrained reaches {bests[control]:.1f} %"


def temperature_sweeps(files: Sequence[FeatureFile], split: str | None = None) -> list[Sweep]:
    """Return the accuracies of results of `probe` on logits, with Wilson's 95 % interval.

    There is a curve for each classifier, C and split of each result. By default, these are the
    splits with several runs, or all if none has: a sweep is drawn without the run that was chosen
    from it.
    """
    curves: dict[tuple[int, str, str], list[results.Row]] = {}
    for number, file in enumerate(files):
        _check_sweep(file)
        for row in _rows_of_sweeps(file, split):
            words = [*results.run_settings(row, numbers=["C"]), row["eval_split"]]
            label = ", ".join(words)
            if results.newest_entry(file).get("features") == "probs":
                label += " (probs)"
            key = (number, label, str(row["C"]))  # as text, NaN equals NaN
            curves.setdefault(key, []).append(row)
    if len(curves) > MAX_CURVES:
        raise ClipkitError(
            f"expected at most {MAX_CURVES} curves, got {len(curves):,}",
            "choose a split with --split, or draw fewer files",
        )
    labels = name_curves(files, [(number, label) for number, label, _ in curves])
    sweeps = []
    for label, (number, *_), rows in zip(labels, curves, curves.values(), strict=True):
        sweeps.append(_sweep(files[number], label, rows))
    return sweeps


def _rows_of_sweeps(file: FeatureFile, split: str | None) -> list[results.Row]:
    if split is not None:
        return _rows_on(file, split)
    rows = file.rows()
    counts = Counter(results.column(rows, "eval_split"))
    return [row for row in rows if counts[row["eval_split"]] > 1] or rows


def _rows_on(file: FeatureFile, split: str) -> list[results.Row]:
    """Return the runs of a sweep that were scored on a split, which must have some."""
    rows = file.runs_on(split)
    if not rows:
        splits = set(file.runs["eval_split"].tolist())
        raise unknown(f"split of {file.display_name}", split, splits)
    return rows


def _check_sweep(file: FeatureFile) -> None:
    """Refuse a file that holds no sweep over temperatures."""
    results.check_run_count(file)
    if not COLUMNS.issubset(file.runs) or not np.isfinite(file.runs["temperature"]).all():
        raise ClipkitError(
            f"{file.display_name}: expected a sweep over temperatures, got a result of "
            f"{results.newest_entry(file)['command']}",
            "make one with: clipkit probe logits.h5 -t 1,0.5,0.07 -o probe.h5",
        )


def name_curves(files: Sequence[FeatureFile], curves: Sequence[tuple[int, str]]) -> list[str]:
    """Return the labels of curves, given with the numbers of their files, so that no two are equal.

    If the files differ in model, data set or prompts, these stand in front. Otherwise equal labels
    get the file's name, with its folder if need be.
    """
    parts = []
    for file in files:
        source = provenance(file)
        parts.append(source._replace(model=source.model or "no model")._asdict())
    sources = [", ".join(filter(None, part.values())) for part in differing(parts)]
    labels = [label for _, label in curves]
    if not any(sources) and len(set(labels)) == len(labels):
        return labels
    paths = [Path(file.display_name).with_suffix("").parts for file in files]
    stems = [path[-1] for path in paths]
    with_folders = ["/".join(path[-2:]) for path in paths]
    return tell_apart(curves, (sources, stems, with_folders), MAX_LABEL - 1)


def _sweep(file: FeatureFile, label: str, rows: list[results.Row]) -> Sweep:
    names = ("temperature", "acc1", "mean_entropy")
    taus, accuracies, entropies = [results.column(rows, name) for name in names]
    labels = results.scored_runs(file, rows[0]["eval_split"]).labels
    low, high = np.transpose([metrics.wilson(accuracy, len(labels)) for accuracy in accuracies])
    facts: dict[str, Any] = {"chance": results.chance(labels), "is_control": is_untrained(file)}
    return Sweep(label, taus, accuracies, entropies, low, high, **facts)


def common_prompt_count(files: Sequence[FeatureFile]) -> int | None:
    """Return K, the number of prompts that results of `probe` share; None if they differ."""
    counts = {results.prompt_count(results.newest_entry(file).get("prompts")) for file in files}
    return counts.pop() if len(counts) == 1 else None


@clipkit_style
def temperature(
    sweeps: Sequence[Sweep], n_prompts: int | None = None, *, title: str | None = None
) -> Figure:
    """Draw accuracy against temperature, and below it mean entropy with its maximum ln K.

    A star marks each curve's best accuracy, which the legend states; the best of all is written
    next to its star. A band covers the temperatures around it with accuracies in its interval.
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
    handles = []
    for i, sweep in enumerate(sweeps):
        handles.append(_draw_accuracy(top, sweep, i, moves[i]))
    labels = list(map(_legend_label, sweeps))
    for chance in sorted({sweep.chance for sweep in sweeps if math.isfinite(sweep.chance)}):
        handles.append(top.axhline(chance, color=style.GREY, linestyle=":", linewidth=1.4))
        labels.append(f"chance: {chance:.2f} %")
    _name_best(top, sweeps, moves)
    facts = "bars: 95 % intervals; star: best on these images; band: its interval"
    if len(sweeps) > 1:
        facts += "; points at one τ are set apart"
    top.set_title(facts, loc="left", color=style.GREY)
    top.set_ylabel("accuracy (%)")
    top.margins(y=0.16)
    top.set_ylim(bottom=max(top.get_ylim()[0], -2))
    style.use_plain_numbers(top.yaxis)
    _draw_entropies(bottom, sweeps)
    if n_prompts is not None:
        _mark_maximum(bottom, n_prompts)
    _set_tau_axis(bottom, np.concatenate([sweep.tau for sweep in sweeps]))
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


def _draw_accuracy(ax: Axes, sweep: Sweep, i: int, move: float) -> Artist:
    look = style.line_style(i)
    if sweep.is_control:
        look |= {"linestyle": "--", "markerfacecolor": "white"}
    tau, color = sweep.tau * move, look["color"]
    (line,) = ax.plot(tau, sweep.percent, **look)
    ax.vlines(tau, sweep.low, sweep.high, color=color, linewidth=1.2, alpha=0.7)
    if sweep.best is not None and not sweep.is_control:
        best = (tau[sweep.best], sweep.percent[sweep.best])
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


def _legend_label(sweep: Sweep) -> str:
    """Return the label of a curve with its best accuracy and the temperatures of its plateau."""
    if sweep.best is None:
        return sweep.label
    label = style.sanitize_label(sweep.label, MAX_LABEL)
    label += f": best {sweep.percent[sweep.best]:.2f} % at τ = "
    taus = sweep.tau[sweep.plateau]
    if len(taus) < 2 or sweep.is_control:
        return f"{label}{sweep.tau[sweep.best]:g}"
    return f"{label}{taus[0]:g} to {taus[-1]:g}"


def _draw_entropies(ax: Axes, sweeps: Sequence[Sweep]) -> None:
    first = sweeps[0]
    if all(_has_equal_entropy(sweep, first) for sweep in sweeps):
        ax.plot(first.tau, first.entropy, color="black", marker="o")
    else:
        for i, sweep in enumerate(sweeps):
            ax.plot(sweep.tau, sweep.entropy, **style.line_style(i))
    ax.set_ylabel("mean entropy (nats)")
    style.use_plain_numbers(ax.yaxis)


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
