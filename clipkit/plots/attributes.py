"""Dots in rows: recall of attributes, and choices by category."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from clipkit.analysis import results
from clipkit.analysis.verdicts import claims_of
from clipkit.features.model import FeatureFile
from clipkit.features.provenance import provenance
from clipkit.plots import marks, style
from clipkit.plots.dumbbells import dumbbells
from clipkit.plots.marks import Points
from clipkit.plots.picture import Picture, always
from clipkit.plots.style import Drawn, Floats, clipkit_style
from clipkit.statistics import claims, metrics
from clipkit.statistics.score_metrics import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["attributes"]

MOST_CATEGORIES = 60
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
OTHER_WORDS = ("other_words", "other_words95")
LEGEND = {
    "zeroshot": "zero-shot, by words",
    "probe": "probe",
    "random": "random directions",
    "control": "probe of the untrained control",
}


def draw_attributes(result: FeatureFile) -> Drawn:
    """Draw the recall of each attribute by words, probes, random directions and controls."""
    columns = results.attribute_recalls(result)
    order = metrics.falling_order(columns["probe"])
    columns = {name: column[order] for name, column in columns.items()}
    series = {}
    for name, label in LEGEND.items():
        if name == "zeroshot" and result.is_dot_product:
            label = "what the model says"
        series[label] = Points(columns[name], columns[f"{name}_low"], columns[f"{name}_high"])
    mean, quantile = (columns[name] for name in OTHER_WORDS)
    series["other words in their place, up to 95 %"] = Points(mean, mean, quantile)
    names = columns["attribute"].tolist()
    found = claims_of(result)
    groups = [found[number].verdict for number in order] if found else []
    facts = columns["chance"], series, columns["reach"]
    metric = METRICS.get(str(results.newest_entry(result).get("metric")))
    texts, title = RECALL_LABELS, "Recall of each attribute"
    if metric:
        texts = (texts[0], f"{metric.title} (%)", texts[2])
        title = f"{metric.title[0].upper()}{metric.title[1:]} of each attribute"
    finding = claims.attributes_title(found, provenance(result).model or "the model")
    figure = attributes(names, *facts, groups=groups, texts=texts, title=title)
    split = str(results.newest_entry(result).get("eval_split"))
    return style.state(figure, finding, results.source_label(result, split))


ATTRIBUTES = Picture(
    "attributes",
    draw_attributes,
    "clipkit plot attributes attributes.h5 -o attributes.png",
    of=("attributes",),
)


def draw_two_models(first: FeatureFile, second: FeatureFile) -> Drawn:
    """Draw what words and probes of two models reach, for each attribute that both have.

    A difference is decided if its interval excludes 0. The interval has the half widths of the two
    (Newcombe 1998, method 10), which is cautious for the same images, and is widened for all
    differences of the picture (Bonferroni).
    """
    both = [first, second]
    columns = [results.attribute_recalls(file) for file in both]
    names = [column["attribute"].tolist() for column in columns]
    shared = [name for name in names[0] if name in names[1]]
    places = [[of_file.index(name) for name in shared] for of_file in names]
    order = metrics.falling_order(columns[0]["probe"][places[0]])
    chosen = [np.array(of_file)[order] for of_file in places]
    kinds, decided = {}, {}
    better: list[list[str]] = [[], []]
    for name, label in (("zeroshot", "words"), ("probe", "probe")):
        points = []
        for of_file, rows in zip(columns, chosen, strict=True):
            points.append(Points(*(of_file[f"{name}{end}"][rows] for end in ("", "_low", "_high"))))
        if not all(np.isfinite(np.asarray(one.values)).any() for one in points):
            continue
        difference, half = claims.unpaired_difference(points[0], points[1], 2 * len(shared))
        kinds[label] = (points[0], points[1])
        decided[label] = (np.abs(difference) > half).tolist()
        for place, is_better in enumerate((difference > half, -difference > half)):
            number = int(is_better.sum())
            if number:
                better[place].append(f"by {label} in {number}")
    models = [provenance(file).model or "a model" for file in both]
    parts = []
    for model, found in zip(models, better, strict=True):
        if found:
            parts.append(f"{model} knows more {' and '.join(found)}")
    finding = f"Of {len(shared)} attributes, {'; '.join(parts)}" if parts else ""
    if not parts:
        finding = f"Of {len(shared)} attributes, none is decided between {' and '.join(models)}"
    figure = dumbbells(
        [shared[place] for place in order],
        kinds,
        decided,
        (models[0], models[1]),
        chance=columns[0]["chance"][chosen[0]].tolist(),
        texts=(RECALL_LABELS[1], "filled: the interval of the difference excludes 0"),
        title="Recall of each attribute by two models",
    )
    split = str(results.newest_entry(first).get("eval_split"))
    return style.state(figure, finding, results.sources_label(both, [split, split]))


@clipkit_style
def attributes(
    names: Sequence[str],
    chance: ArrayLike,
    series: Mapping[str, Points],
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
    series : mapping of str to Points
        Legend text -> fractions. Those without a number are left out.
    reach : array (A,)
        NaN where it is not defined.
    groups : sequence of A str, optional
        The name of the group of each attribute, of `claims.group_order`.
    texts : (str, str, str)
        What chance, the axis and the lines are called.
    """
    reached = np.asarray(reach, np.float64)
    order = metrics.falling_order(reached)
    bands = sorted(dict.fromkeys(groups), key=claims.group_place)
    places = np.array([bands.index(group) for group in groups], np.int64)
    if len(places):
        order = order[np.argsort(places[order], kind="stable")]
    shown = {}
    for label, points in series.items():
        shown[label] = Points(*100 * np.asarray(points, np.float64)[:, order])
    at_chance = 100 * np.asarray(chance, np.float64)[order]
    rows = marks.dot_rows(
        style.sanitize_names(names, 28, order),
        shown,
        reference=(texts[0], at_chance),
        best=100,
        bands=[(name, int(np.sum(places == number))) for number, name in enumerate(bands)],
        title=title,
    )
    ax = rows.axes
    drawn = np.array([points.low for points in shown.values()], np.float64)
    lowest = drawn[np.isfinite(drawn)].min(initial=0)  # R squared may be below 0
    ax.set_xlim(lowest, 101)
    ax.set_xlabel(texts[1])
    ax.set_title(texts[2], loc="left", color=style.GREY)
    if np.isfinite(reached).any():
        _write_reach(ax, rows.y, reached[order])
    style.add_legend(rows.figure, rows.handles, rows.labels)
    return rows.figure


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
        model: Points(columns["accuracy"], columns["accuracy_low"], columns["accuracy_high"]),
        "the most for a model blind to the order of words": Points(*[ceiling] * 3),
        "other items' images: what texts alone give": Points(shuffled, shuffled, shuffled95),
        "untrained control": Points(*of_control),
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
