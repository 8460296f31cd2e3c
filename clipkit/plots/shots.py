"""Accuracy of few-shot probes against the labelled images per class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from clipkit.analysis import results
from clipkit.analysis.compare.comparison import Bools, compare_right
from clipkit.analysis.sections import CHANGES
from clipkit.base.errors import ClipkitError
from clipkit.base.matrices import Int64
from clipkit.base.options import option
from clipkit.features.compatibility import have_same_images, matching_split
from clipkit.features.hdf5 import read
from clipkit.features.matching import find_ids
from clipkit.features.model import FeatureFile, Split
from clipkit.features.provenance import is_untrained
from clipkit.plots import marks, style
from clipkit.plots.picture import Picture
from clipkit.plots.style import Drawn, clipkit_style
from clipkit.statistics import claims, main_number
from clipkit.statistics.dependence import join

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

__all__ = ["ShotCurve", "shots"]


class ShotCurve(NamedTuple):
    """One curve of `shots`: accuracies (S,) of draws, as fractions, by images per class (S,)."""

    label: str
    shots: ArrayLike
    mean: ArrayLike
    low: ArrayLike
    high: ArrayLike
    probe: int = 0  # the number of the result that it is of
    runs: Sequence[Sequence[int]] = ()  # at each number of images, counted on the scored split


def draw_shots(
    probes: Sequence[FeatureFile],
    zeroshot: Annotated[
        str | None, option("FILE", "Result of zeroshot, to draw as a line.", kinds=("result",))
    ] = None,
) -> Drawn:
    """Draw the accuracy of few-shot probes against the labelled images per class."""
    curves = shot_curves(probes)
    source = results.sources_label(probes, list(map(_scored_split, probes)))
    trained = [probe for probe in probes if not is_untrained(probe)] or probes
    line, finding = None, ""
    if zeroshot is not None:
        curve = next(curve for curve in curves if probes[curve.probe] is trained[0])
        of_zeroshot = read(zeroshot, kinds=["result"])
        accuracy, sentence = zeroshot_line(of_zeroshot, trained[0], curve)
        line = accuracy, f"zero-shot, {100 * accuracy:.1f} %"
        if len(trained) == 1:
            finding = sentence
    what = results.name_of_numbers((probe, _scored_split(probe)) for probe in probes)
    title = f"{what.capitalize()} by labelled images per class"
    figure = shots(curves, line, what=what, title=title)
    return style.state(figure, finding, source)


SHOTS = Picture(
    "shots",
    draw_shots,
    "clipkit plot shots shots.h5 --zeroshot zeroshot.h5 -o shots.png",
    of=("probe",),
    is_first=results.has_several_shots,
    draws_several=True,
    is_reported=results.has_several_shots,
    section=CHANGES,
)


def _scored_split(probe: FeatureFile) -> str:
    """Return the last split that a probe was scored on: the one that nothing was chosen on."""
    return str(probe.runs["eval_split"][-1])


def shot_curves(probes: Sequence[FeatureFile]) -> list[ShotCurve]:
    """Return a curve for each result of `probe --shots`, classifier, C and temperature."""
    columns = "shots classifier C temperature eval_split acc1"
    draws: dict[tuple[int, str], list[results.Row]] = {}
    for number, probe in enumerate(probes):
        results.columns_of(probe, "probe --shots", columns)
        results.check_finite(probe, "acc1")
        results.check_finite(probe, "shots", low=1)
        split = _scored_split(probe)
        _, numbers = results.main_numbers(probe, split)
        for run, row in enumerate(probe.runs_on(split)):
            label = ", ".join([*results.run_settings(row), f"on {split}"])
            of_run = {"run": run, "value": numbers[run].value}
            draws.setdefault((number, label), []).append(row | of_run)
    labels = results.name_curves(probes, list(draws))
    curves = []
    for label, ((number, _), rows) in zip(labels, draws.items(), strict=True):
        shots = np.array([_images_per_class(row) for row in rows])
        accuracies = np.array(results.column(rows, "value"))
        runs = np.array(results.column(rows, "run"))
        counts = np.unique(shots).tolist()
        points = []
        for n in counts:
            of_draws = accuracies[shots == n]
            points.append((of_draws.mean(), of_draws.min(), of_draws.max()))
        mean, low, high = np.transpose(points).tolist()
        runs_at = [runs[shots == n].tolist() for n in counts]
        curves.append(ShotCurve(label, counts, mean, low, high, number, runs_at))
    return curves


def _images_per_class(row: results.Row) -> float:
    """Return the images per class that a run had, which may be fewer than it asked for."""
    had = row.get("fitted_per_class", math.nan)
    return float(had if math.isfinite(had) else row["shots"])


def zeroshot_line(zeroshot: FeatureFile, probe: FeatureFile, curve: ShotCurve) -> tuple[float, str]:
    """Return the accuracy of zero-shot classification, and between which probes it lies.

    It is above or below the probes on some number of images if it is so in every draw, by a paired
    interval. Refuse a result of other images than the probe's.
    """
    scored = _scored_split(probe)
    found = _right_on(zeroshot, probe, scored) if scored in probe.splits else None
    if found is None or not have_same_images(zeroshot, probe):
        raise ClipkitError(
            f"{zeroshot.display_name}: expected zero-shot predictions of the images of "
            f"{probe.display_name}, got others"
        )
    right, *named = found
    named.append(probe.splits[scored].cluster)
    known = [clusters for clusters in named if clusters is not None]
    clusters = join(known) if known else None
    of_probe = results.scored_runs(probe, scored)
    unequal = main_number.unless_equal(of_probe.labels)
    above = []
    for runs in curve.runs:
        draws = [of_probe.predicted[run] == of_probe.labels for run in runs]
        rows = [compare_right(right, of_draw, clusters, unequal) for of_draw in draws]
        limits = np.array([claims.paired_limits(row) for row in rows])
        above.append(claims.decide(limits[:, 0].min(), limits[:, 1].max(), 0, 0))
    (accuracy,) = main_number.values_of(of_probe.labels, right[None]).tolist()
    shots = np.asarray(curve.shots, np.float64).tolist()
    return accuracy, claims.shots_sentence(accuracy, len(right), shots, above, unequal is not None)


def _right_on(
    result: FeatureFile, other: FeatureFile, name: str
) -> tuple[Bools, Int64 | None] | None:
    """Return which rows of a split of another result the first run gets right, and their clusters.

    Return None if it lacks some of them.
    """
    split = result.splits.get(matching_split(result, other, name) or "", Split())
    rows = find_ids(other.splits[name].ids, split.ids).places
    if split.labels is None or split.predicted is None or (rows < 0).any():
        return None
    right = np.asarray(split.labels[rows] == split.predicted[0, rows])
    return right, None if split.cluster is None else split.cluster[rows]


@clipkit_style
def shots(
    curves: Sequence[ShotCurve],
    zeroshot: tuple[float, str] | None = None,
    *,
    what: str = "accuracy",
    title: str | None = None,
) -> Figure:
    """Draw accuracy against labelled images per class, with the range of the draws.

    The points of several curves at one number of images are moved apart.

    Parameters
    ----------
    curves : sequence of ShotCurve
    zeroshot : (float, str), optional
        Accuracy of the zero-shot classification, a fraction, and its name.
    what : str
        What the fractions are.
    """
    fig, ax = style.new_axes(7.0, 3.8, title)
    handles: list[Line2D] = []
    for i, curve in enumerate(curves):
        low, mean, high = 100 * np.array([curve.low, curve.mean, curve.high])
        x = np.asarray(curve.shots) * 2 ** style.dodge(i, len(curves), 0.05, 0.5)
        handles.append(marks.draw_curve(ax, x, mean, (low, high), style.line_style(i)))
    labels = [style.sanitize_label(curve.label, 76) for curve in curves]
    if zeroshot is not None:
        handles.append(ax.axhline(100 * zeroshot[0], color="black", linestyle="--"))
        labels.append(zeroshot[1])
    ax.set_xscale("log", base=2)
    ticks = np.unique(np.concatenate([curve.shots for curve in curves]))
    ax.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    style.hide_minor_labels(ax.xaxis)
    ax.set_ylim(0)
    ax.set(xlabel="labelled images per class (log scale)", ylabel=f"{what} (%)")
    facts = "points: mean of the draws; bars: their range"
    if len(curves) > 1:
        facts += "; points at one number are set apart"
    ax.set_title(facts, loc="left", color=style.GREY)
    if not marks.name_ends(ax, handles, labels):
        style.add_legend(fig, handles, labels)
    return fig
