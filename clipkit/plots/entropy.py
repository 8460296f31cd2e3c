"""Distributions over images of the softmax's entropy and of its largest probability."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike

from clipkit.analysis import results
from clipkit.analysis.calibrate import calibration
from clipkit.base import console
from clipkit.base.errors import UsageError, check_positive
from clipkit.base.options import Temperatures, parse_temperatures
from clipkit.features.matching import choose_split
from clipkit.features.model import FeatureFile
from clipkit.plots import style
from clipkit.plots.picture import Picture, Split, always
from clipkit.plots.style import Drawn, Floats, clipkit_style
from clipkit.statistics import claims, links

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["confidence", "entropy"]

BINS = 60
MAX_PANELS = 20
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def draw_entropy(
    file: FeatureFile,
    split: Split = None,
    temperature: Temperatures = [],  # noqa: B006
) -> Drawn:
    """Draw the distribution, over images, of the entropy of the softmax over prompts."""
    return _draw_statistic(file, "entropy", temperature, split)


ENTROPY = Picture(
    "entropy",
    draw_entropy,
    "clipkit plot entropy logits.h5 -t 1,0.07,0.02 -o entropy.png",
    kinds=("logits",),
    draws_dot_products=True,
    of=("logits",),
    is_first=always,
)


def draw_confidence(
    file: FeatureFile,
    split: Split = None,
    temperature: Temperatures = [],  # noqa: B006
) -> Drawn:
    """Draw the distribution, over images, of the largest softmax probability."""
    return _draw_statistic(file, "confidence", temperature, split)


CONFIDENCE = Picture(
    "confidence",
    draw_confidence,
    "clipkit plot confidence logits.h5 -t 1,0.07,0.02 -o confidence.png",
    kinds=("logits",),
    draws_dot_products=True,
    of=("logits",),
)


def _draw_statistic(
    file: FeatureFile,
    statistic: Literal["entropy", "confidence"],
    temperature: Sequence[str],
    split: str | None,
) -> Drawn:
    """Draw a statistic of the probabilities per image.

    By default, the temperatures are the model's own and, of prompts of classes, the fitted one.
    """
    file, split = choose_split(file, split)
    taus = parse_temperatures(temperature, file.logit_scale) or default_temperatures(file, split)
    cosines = file.cosines(split).read()
    link = links.distribution(file.history)
    number, draw = 0, entropy
    if statistic == "confidence":
        number, draw = 1, confidence
    prepared = link.prepare(cosines)
    values = {tau: link.entropy_and_confidence(prepared, tau)[number] for tau in taus}
    title = f"{statistic.capitalize()} of the {link.name} over prompts, per image"
    figure = draw(values, cosines.shape[1], title=title)
    tau = min(values) if temperature else taus[0]
    finding = claims.softmax_sentence(statistic, tau, values[tau], cosines.shape[1])
    return style.state(figure, finding, counted_source(file, split))


def default_temperatures(file: FeatureFile, split: str) -> list[float]:
    """Return the model's own temperature and, of prompts of classes, the one fitted on train."""
    taus = [1 / file.logit_scale if file.logit_scale else file.default_temperature]
    classes = np.asarray([] if file.class_index is None else file.class_index)
    is_of_classes = len(classes) > 0 and bool((classes >= 0).all())
    if is_of_classes and calibration.can_fit_on_train(file, split):
        taus.append(calibration.fitted_on_train(file, split))
    return [check_positive("temperature", tau) for tau in dict.fromkeys(taus)]


def counted_source(file: FeatureFile, split: str) -> str:
    """Name what a split is about, with its number of images."""
    images = console.count(len(file.splits[split]), "image")
    return f"{results.source_label(file, split)}, {images}"


@dataclass(frozen=True)
class _Quantity:
    """A number of each image, bounded by its value for a uniform softmax.

    `sign` is -1 if the bound is the maximum. Where all values are within `near` of the bound, their
    distance to it is shown instead.
    """

    axis_label: str
    mean_format: str
    bound: float
    bound_label: str
    sign: int
    near: float
    distance_label: str
    unit: str


@clipkit_style
def entropy(
    values: Mapping[float, ArrayLike], n_prompts: int, *, title: str | None = None
) -> Figure:
    """Draw histograms over images of the entropy of softmax(cosine / tau), one per temperature.

    Each panel marks the maximum ln K and the mean. If all entropies are within 0.01 nats of ln K,
    it shows ln K - H, with the maximum still on the right. If they would fill less than two bins,
    it has a separate axis. The other panels share one axis and the edges of its bins.

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
        sign=-1,
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

    Each panel marks the minimum 1/K and the mean. See `entropy`; here one percentage point is near.

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
        sign=1,
        near=1.0,
        distance_label=f"max p − 1/{n_prompts}",
        unit="percentage points",
    )
    percent = {tau: 100 * np.asarray(array, np.float64) for tau, array in values.items()}
    return _histograms(percent, quantity, title)


def _histograms(values: Mapping[float, Floats], quantity: _Quantity, title: str | None) -> Figure:
    """Draw a panel per temperature. Values that are far from the bound and spread share an axis."""
    if len(values) > MAX_PANELS:
        raise UsageError(f"expected at most {MAX_PANELS} temperatures to draw, got {len(values)}")
    panels = {}
    for tau in sorted(values, reverse=True):
        panels[tau] = values[tau][np.isfinite(values[tau])]
    far = []
    for tau, panel in panels.items():
        if (np.abs(panel - quantity.bound) >= quantity.near).any():
            far.append(tau)
    span_of_far = _span([panels[tau] for tau in far], quantity.bound)
    wide = [tau for tau in far if not _is_narrow(panels[tau], span_of_far)]
    span = _span([panels[tau] for tau in wide], quantity.bound)

    height = 1.75 * len(panels) - 0.25 * max(len(wide) - 1, 0) + 0.3
    fig = style.new_figure(7.0, height, title)
    axes = fig.subplots(len(panels), 1, squeeze=False)[:, 0]
    for ax, (tau, panel) in zip(axes, panels.items(), strict=True):
        mean = "no finite value"
        if len(panel):
            mean = f"mean {quantity.mean_format.format(panel.mean())}"
        ax.set_title(f"τ = {tau:.4g}", loc="left", fontweight="bold")
        ax.set_title(mean, loc="right", color=style.VERMILLION)
        ax.set_ylabel("images (%)")
        style.limit_ticks(ax.yaxis, 4)
        if tau in wide:
            _histogram(ax, panel, quantity.bound, span)
        elif tau in far:
            _narrow_histogram(ax, panel, quantity)
        else:
            _distance_histogram(ax, panel, quantity)
    if wide:
        axes[[*panels].index(wide[-1])].set_xlabel(quantity.axis_label)
    axes[0].set_title(f"dashed: {quantity.bound_label}", color=style.GREY)
    return fig


def _span(panels: Sequence[Floats], bound: float) -> tuple[float, float]:
    """Return the least and the largest value of some panels and of the bound."""
    pooled = np.concatenate([[bound], *panels])
    return float(pooled.min()), float(pooled.max())


def _is_narrow(values: Floats, span: tuple[float, float]) -> bool:
    """Return whether 90 % of the values would fill less than two bins, and all less than 15."""
    bin_width = (span[1] - span[0]) / BINS
    low, high = np.quantile(values, [0.05, 0.95])
    return bool(high - low < 2 * bin_width and np.ptp(values) < 15 * bin_width)


def _histogram(ax: Axes, values: Floats, bound: float, span: tuple[float, float]) -> None:
    """Draw a histogram with bins of equal width over the span, so that panels share their edges."""
    if len(values):
        counts, edges = np.histogram(values, BINS, range=span)
        ax.stairs(100 * counts / len(values), edges, fill=True, color=style.BLUE, alpha=0.8)
        ax.axvline(float(values.mean()), color=style.VERMILLION)
    ax.axvline(bound, color="black", linestyle="--")
    low, high = span
    pad = 0.03 * (high - low or 1.0)
    ax.set_xlim(low - pad, high + pad)
    style.use_plain_numbers(ax.xaxis)


def _distance_histogram(ax: Axes, values: Floats, quantity: _Quantity) -> None:
    """Show the distance to the bound, in the power of ten that suits it; the bound is at 0."""
    distance = quantity.sign * (values - quantity.bound)
    exponent = math.floor(math.log10(np.abs(distance).max(initial=0.0) or 1.0))
    unit = quantity.unit
    if exponent < -1:
        distance = distance / 10.0**exponent
        unit = f"10{str(exponent).translate(SUPERSCRIPT)} {unit}"
    _histogram(ax, distance, 0.0, (distance.min(initial=0.0), distance.max(initial=0.0)))
    if quantity.sign < 0:
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
    style.limit_ticks(ax.xaxis, 6)
    ax.set_xlabel(f"{quantity.axis_label}, on a separate axis")
