"""Accuracy against confidence, beside what a calibrated model would show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import numpy as np

from clipkit.analysis.calibrate import calibration
from clipkit.base.options import option, parse_temperatures
from clipkit.features.matching import choose_split
from clipkit.features.model import FeatureFile
from clipkit.plots import style
from clipkit.plots.entropy import counted_source
from clipkit.plots.picture import Picture, Split
from clipkit.plots.style import Drawn, clipkit_style
from clipkit.statistics import claims
from clipkit.statistics.metrics import Reliability

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["reliability"]

PANELS = 3  # side by side


def draw_reliability(
    file: FeatureFile,
    split: Split = None,
    temperature: Annotated[
        list[str],
        option(
            "TAU[,TAU...]",
            "Divide the similarities by TAU; 'model' is the model's own temperature, 'fitted' the "
            "one that is fitted on train (default: both, if the file has train).",
            "--temperature",
            "-t",
            has_commas=True,
        ),
    ] = [],  # noqa: B006
    bins: Annotated[int, option("N", "Points, each of as many images.", min=1)] = 15,
) -> Drawn:
    """Draw accuracy against confidence, with what a calibrated model would show."""
    file, split = choose_split(file, split)
    words, notes = list(temperature), {}
    if not words:
        words = ["model" if file.logit_scale else repr(file.default_temperature)]
        if calibration.can_fit_on_train(file, split):
            words.append("fitted")
    if "fitted" in words:
        fitted = calibration.fitted_on_train(file, split)
        words = [repr(fitted) if word == "fitted" else word for word in words]
        notes[fitted] = "fitted on train"
    taus = parse_temperatures(words, file.logit_scale)
    diagrams = calibration.reliability(file, split, taus, bins)
    figure = reliability(diagrams, notes=notes, title="Accuracy against confidence")
    made = []
    n = len(file.splits[split])
    for run, (tau, one) in enumerate(diagrams.items()):
        name = f"τ {tau:.4g}"
        made.append(claims.calibration_claim(name, one.ece, one.ece_null, one.ece_null975, n, run))
    finding = claims.calibration_sentence(made)
    return style.state(figure, finding, counted_source(file, split))


RELIABILITY = Picture(
    "reliability",
    draw_reliability,
    "clipkit plot reliability class-logits.h5 -t model,0.0318 -o reliability.png",
    kinds=("logits",),
    draws_dot_products=True,
    of=("logits",),
)


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
    fig = style.new_figure(max(3.2 * columns, 4.6), 3.8 * rows, title)
    axes = fig.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for ax in axes.flat[len(diagrams) :]:
        ax.remove()
    handles: list[Artist] = []
    for ax, (tau, diagram) in zip(axes.flat, diagrams.items(), strict=False):
        handles = _draw_reliability(ax, diagram)
        name = f"τ = {tau:.4g}"
        if notes and tau in notes:
            name += f", {notes[tau]}"
        ax.set_title(name, loc="left", fontweight="bold", pad=19)
        error, null = 100 * diagram.ece, 100 * diagram.ece_null
        facts = f"ECE {error:.1f} %, mean of the null {null:.1f} %"
        ax.text(0, 1.03, facts, transform=ax.transAxes, fontsize=9, color=style.GREY)
        ax.xaxis.set_tick_params(labelbottom=True)
        ax.set_xlabel("confidence max p (%)")
    for ax in axes[:, 0]:
        ax.set_ylabel("accuracy (%)")
    labels = ["images, in bins of equal size", "accuracy = confidence", "null: 95 % of draws"]
    style.add_legend(fig, handles, labels)
    return fig


def _draw_reliability(ax: Axes, diagram: Reliability) -> list[Artist]:
    confidence = 100 * diagram.confidence
    low, high = 100 * diagram.low, 100 * diagram.high
    band = ax.fill_between(confidence, low, high, color="#cccccc", linewidth=3)
    (diagonal,) = ax.plot([0, 100], [0, 100], color="black", linestyle="--", linewidth=1.2)
    (points,) = ax.plot(confidence, 100 * diagram.accuracy, "o-", color=style.BLUE, markersize=5)
    ax.set_aspect("equal")
    ticks = np.linspace(0, 100, 5)
    ax.set(xlim=(-3, 103), ylim=(-3, 103), xticks=ticks, yticks=ticks)
    ax.text(5, 95, "underconfident", color=style.GREY, fontsize=8.5)
    ax.text(98, 1, "overconfident", color=style.GREY, fontsize=8.5, ha="right")
    return [points, diagonal, band]
