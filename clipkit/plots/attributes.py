"""Dots in rows: recall of attributes, choices by category, and what permuting a prompt costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clipkit.analysis import results
from clipkit.features.model import FeatureFile
from clipkit.features.provenance import provenance
from clipkit.plots import style
from clipkit.plots.picture import Picture, always
from clipkit.plots.style import Drawn, Floats, clipkit_style
from clipkit.statistics import claims, metrics
from clipkit.statistics.score_metrics import METRICS

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Dots", "attributes", "importance"]

ROW_INCHES, PROMPT_INCHES = 0.42, 0.24
MANY, MANY_INCHES = 20, 0.34  # rows that have less space
MOST_PROMPTS, MOST_CATEGORIES = 30, 60
# What a picture calls chance, its axis and its lines
RECALL_LABELS = (
    "chance",
    "mean recall per value (%)",
    "lines: 95 % intervals; of random directions and controls, the range",
)
CHOICE_LABELS = (
    "random directions",
    "right (%)",
    "lines: 95 % intervals; green: up to the 95 % quantile",
)
BAND = 0.8  # rows that the name of a group takes
BANDS = tuple(dict.fromkeys([*claims.SAID.values(), *claims.GROUPS]))  # from the top
OTHER_WORDS = ("other_words", "other_words95")
LEGEND = {
    "zeroshot": "zero-shot, by words",
    "probe": "probe",
    "random": "random directions",
    "control": "probe of the untrained control",
}


class Dots(NamedTuple):
    """One kind of number of A rows, as fractions, with the ends of its lines."""

    values: ArrayLike
    low: ArrayLike
    high: ArrayLike


class _Look(NamedTuple):
    color: str
    marker: str
    size: float
    offset: float  # in rows, so that equal numbers stay apart


# By the order of the series; the first is drawn last, above the others.
LOOKS = (
    _Look(style.PALETTE[0], "o", 7, -0.3),
    _Look(style.PALETTE[6], "s", 6, -0.1),
    _Look(style.PALETTE[2], "D", 5, 0.3),
    _Look(style.PALETTE[1], "^", 6, 0.1),
    _Look(style.GREY, "v", 4, -0.3),
)


def draw_attributes(result: FeatureFile) -> Drawn:
    """Draw the recall of each attribute by words, probes, random directions and controls."""
    columns = results.attribute_recalls(result)
    rows = result.rows()
    order = metrics.falling_order(columns["probe"])
    columns = {name: column[order] for name, column in columns.items()}
    series = {}
    for name, label in LEGEND.items():
        if name == "zeroshot" and result.is_dot_product:
            label = "what the model says"
        series[label] = Dots(columns[name], columns[f"{name}_low"], columns[f"{name}_high"])
    mean, quantile = (columns[name] for name in OTHER_WORDS)
    series["other words in their place, up to 95 %"] = Dots(mean, mean, quantile)
    names = columns["attribute"].tolist()
    groups = [claims.group_of(rows[number]) for number in order]
    facts = columns["chance"], series, columns["reach"]
    metric = METRICS.get(str(results.newest_entry(result).get("metric")))
    texts, title = RECALL_LABELS, "Recall of each attribute"
    if metric:
        texts = (texts[0], f"{metric.title} (%)", texts[2])
        title = f"{metric.title[0].upper()}{metric.title[1:]} of each attribute"
    finding = claims.attributes_sentence(groups, result.is_dot_product)
    groups = claims.group_names(groups, result.is_dot_product)
    figure = attributes(names, *facts, groups=groups, texts=texts, title=title)
    split = str(results.newest_entry(result).get("eval_split"))
    return style.state(figure, finding, results.source_label(result, split))


ATTRIBUTES = Picture(
    "attributes",
    draw_attributes,
    "clipkit plot attributes attributes.h5 -o attributes.png",
    of=("attributes",),
)


@clipkit_style
def attributes(
    names: Sequence[str],
    chance: ArrayLike,
    series: Mapping[str, Dots],
    reach: ArrayLike,
    *,
    groups: Sequence[str] = (),
    texts: tuple[str, str, str] = RECALL_LABELS,
    title: str | None = None,
) -> Figure:
    """Draw a line per attribute, from chance to 100 %, with up to five kinds of numbers on it.

    Attributes come by falling reach, which is written beside them; those without it come last.
    With groups, each group is a band with its name.

    Parameters
    ----------
    names : sequence of A str
    chance : array (A,)
        Fractions.
    series : mapping of str to Dots
        Legend text -> fractions. Those without a number are left out.
    reach : array (A,)
        NaN where it is not defined.
    groups : sequence of A str, optional
        The name of the group of each attribute, of `claims.GROUPS` or `claims.SAID`.
    texts : (str, str, str)
        What chance, the axis and the lines are called.
    """
    reached = np.asarray(reach, np.float64)
    order = metrics.falling_order(reached)
    bands = [name for name in BANDS if name in groups]
    places = np.array([bands.index(group) for group in groups], np.int64)
    if len(places):
        order = order[np.argsort(places[order], kind="stable")]
    y = np.arange(len(order), dtype=np.float64)
    at_chance = 100 * np.asarray(chance, np.float64)[order]
    height = ROW_INCHES if len(order) <= MANY else MANY_INCHES
    fig, ax = style.new_axes(7.0, height * len(order) + 0.9, title)
    if bands:
        y = _draw_bands(fig, ax, places[order], bands)
    ax.hlines(y, at_chance, 100, color="#cccccc", linewidth=1.0, zorder=1)
    handles: list[Artist] = [
        *ax.plot(at_chance, y, "|", color=style.GREY, ms=13, mew=1.8, zorder=2)
    ]
    labels = [texts[0]]
    for number, (label, dots) in enumerate(series.items()):
        if np.isfinite(np.asarray(dots.values)).any():
            handles.append(_draw_dots(ax, y, dots, order, LOOKS[number], zorder=9 - number))
            labels.append(label)
    style.name_rows(ax, y, style.sanitize_names(names, 28, order), 0.6, fontsize=9.5)
    drawn = np.array([dots.low for dots in series.values()], np.float64)
    lowest = drawn[np.isfinite(drawn)].min(initial=0)  # R squared may be below 0
    ax.set_xlim(100 * lowest, 101)
    ax.set_xlabel(texts[1])
    ax.set_title(texts[2], loc="left", color=style.GREY)
    if np.isfinite(reached).any():
        _write_reach(ax, y, reached[order])
    style.add_legend(fig, handles, labels)
    return fig


def _draw_bands(fig: Figure, ax: Axes, places: NDArray[np.int64], names: Sequence[str]) -> Floats:
    """Draw a band with a name for each group of rows; return the rows' places below the names."""
    y = np.arange(len(places)) + BAND * (1 + places)
    fig.set_figheight(fig.get_figheight() + ROW_INCHES * BAND * len(names))
    look: dict[str, Any] = {"va": "top", "fontsize": 9.5, "fontweight": "bold"}
    for number, name in enumerate(names):
        top, bottom = y[places == number][[0, -1]] + [-0.5 - BAND, 0.5]
        ax.axhspan(top, bottom, color=("#f1f4f6", "white")[number % 2], zorder=0)
        ax.text(0.01, top + 0.1, name, transform=ax.get_yaxis_transform(), **look)
    return y


def _draw_dots(
    ax: Axes, y: Floats, dots: Dots, order: NDArray[np.int64], look: _Look, zorder: int
) -> Artist:
    values, low, high = 100 * np.asarray(dots, np.float64)[:, order]
    y = y + look.offset
    ax.hlines(y, low, high, color=look.color, linewidth=1.6, zorder=zorder)
    marks: dict[str, Any] = {"color": look.color, "ms": look.size, "mec": "white", "mew": 0.5}
    (line,) = ax.plot(values, y, look.marker, zorder=zorder, **marks)
    return line


def _write_reach(ax: Axes, y: Floats, reach: Floats) -> None:
    """Write the reach of each row at the right edge."""
    place = ax.get_yaxis_transform()
    head: dict[str, Any] = {"fontsize": 9, "color": style.GREY, "va": "bottom"}
    ax.text(1.02, y.min() - 0.75, "reach", transform=place, **head)
    for position, value in zip(y, reach, strict=True):
        text = "–" if np.isnan(value) else f"{value:.2f}"
        ax.text(1.02, position, text, transform=place, fontsize=9, va="center")


def draw_choices(result: FeatureFile) -> Drawn:
    """Draw the accuracy of choices by category, with the nulls and the control."""
    needed = "category accuracy accuracy_low accuracy_high shuffled shuffled95 angle ceiling"
    columns = results.columns_of(result, "choose", f"split items {needed}")
    columns = {name: column[:MOST_CATEGORIES] for name, column in columns.items()}
    model = provenance(result).model or "model"
    ceiling = np.where(columns["ceiling"] < 1, columns["ceiling"], np.nan)
    no_numbers = np.full(len(ceiling), np.nan)
    control = result.runs.get("accuracy_control", no_numbers)
    limits = [result.runs.get(f"accuracy_control_{end}", control) for end in ("low", "high")]
    of_control = [numbers[: len(ceiling)] for numbers in (control, *limits)]
    shuffled, shuffled95 = columns["shuffled"], columns["shuffled95"]
    series = {
        model: Dots(columns["accuracy"], columns["accuracy_low"], columns["accuracy_high"]),
        "the most for a model blind to the order of words": Dots(*[ceiling] * 3),
        "other items' images: what texts alone give": Dots(shuffled, shuffled, shuffled95),
        "untrained control": Dots(*of_control),
    }
    names = []
    for row in result.rows()[: len(ceiling)]:
        measure = f"{row['split']}: " if len(result.splits) > 1 else ""
        names.append(f"{measure}{row['category']} ({row['items']:,.0f})")
    numbers, title = (columns["angle"], series, no_numbers), "Right choices by category"
    random, axis, lines = CHOICE_LABELS
    if "accuracy_control_low" in result.runs:
        lines += "; controls: the range"
    figure = attributes(names, *numbers, texts=(random, axis, lines), title=title)
    split = ", ".join(map(str, results.newest_entry(result).list_of("splits")))
    finding = claims.choices_sentence(result.rows())
    return style.state(figure, finding, results.source_label(result, split))


CHOOSE = Picture(
    "choose",
    draw_choices,
    "clipkit plot choose choose.h5 -o choose.png",
    of=("choose",),
    is_reported=always,
)


def draw_importance(result: FeatureFile) -> Drawn:
    """Draw the accuracy that permuting each prompt costs a probe, for the 30 largest costs."""
    noun = "group" if "group" in result.runs else "prompt"
    columns = results.columns_of(result, "importance", f"{noun} split acc1 cost low high changed")
    for name in ("acc1", "cost", "low", "high"):
        results.check_finite(result, name)
    costs = Dots(columns["cost"], columns["low"], columns["high"])
    title = f"What the probe relies on (accuracy {100 * columns['acc1'][0]:.1f} %)"
    figure = importance(columns[noun].tolist(), costs, noun=noun, title=title)
    return figure, results.source_label(result, str(columns["split"][0]))


IMPORTANCE = Picture(
    "importance",
    draw_importance,
    "clipkit plot importance importance.h5 -o importance.png",
    of=("importance",),
    is_reported=always,
)


@clipkit_style
def importance(
    names: Sequence[str], costs: Dots, *, noun: str = "prompt", title: str | None = None
) -> Figure:
    """Draw the accuracy that permuting each of K prompts costs, for the 30 largest costs.

    Parameters
    ----------
    names : sequence of K str
    costs : Dots
        Fractions with the ends of their 95 % intervals.
    noun : str
        What a name stands for: a prompt or a group.
    """
    order = metrics.falling_order(costs.values)[:MOST_PROMPTS]
    y = np.arange(len(order), dtype=np.float64)
    fig, ax = style.new_axes(7.5, PROMPT_INCHES * len(order) + 1.1, title)
    ax.axvline(0, color=style.GREY, linewidth=1.0, zorder=1)
    _draw_dots(ax, y, costs, order, LOOKS[0]._replace(offset=0.0, size=5), zorder=3)
    style.name_rows(ax, y, style.sanitize_names(names, 44, order), 0.6, fontsize=9)
    ax.set_xlabel(f"accuracy lost if the {noun} is permuted (points)")
    fact = "lines: 95 % intervals over images"
    if len(names) > len(order):
        fact += f"; {len(names) - len(order):,} more {noun}s cost less"
    ax.set_title(fact, loc="left", color=style.GREY)
    return fig
