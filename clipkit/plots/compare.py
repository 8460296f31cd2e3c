"""Results on the same images: their accuracies, by group, and the differences between them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from clipkit.analysis import for_people, results
from clipkit.analysis.verdicts import claims_of
from clipkit.base.errors import ClipkitError
from clipkit.features.model import FeatureFile
from clipkit.features.provenance import provenance
from clipkit.plots import style
from clipkit.plots.marks import name_pair
from clipkit.plots.picture import Picture, always
from clipkit.plots.style import Drawn, Floats, clipkit_style
from clipkit.statistics import metrics
from clipkit.statistics.main_number import ACCURACY, MEAN_RECALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["compare"]

MOST_NAMED = 2  # pairs in a title
MAX_GROUPS = 30  # of more, those with the lowest accuracies are shown


class Comparison(NamedTuple):
    """The rows of a result of `compare` as arrays; see the function `compare` for these."""

    names: list[str]
    groups: list[str]
    accuracy: Floats
    difference: Floats
    null5: Floats
    label: str
    images: int


def draw_comparison(file: FeatureFile) -> Drawn:
    """Draw the accuracies of compared results, and their differences with paired intervals."""
    names, groups, accuracy, difference, null5, title, images = read_comparison(file)
    entry = results.newest_entry(file)
    models, prompts = list(map(str, entry.list_of("models"))), entry.list_of("prompts")
    if len(models) == len(names) and len(set(models)) > 1:
        names = [f"{name} ({model})" for name, model in zip(names, models, strict=True)]
    what = MEAN_RECALL if "recall_a" in file.runs else ACCURACY
    options: dict[str, Any] = {"groups": groups, "null5": null5, "what": what, "title": title}
    figure = compare(accuracy, difference, names, **options)
    on_data = [results.join_names(models) or "no model", provenance(file).dataset]
    facts = [" on ".join(filter(None, on_data)), file.rows()[0]["split"], f"{images:,} images"]
    if any(prompts):
        facts.append(results.NAMED_PROMPTS + results.join_names(list(map(str, prompts))))
    source = ". ".join(filter(None, [", ".join(facts), results.caveat_note(file)]))
    return style.state(figure, _finding(file), source)


def _finding(file: FeatureFile) -> str:
    """Say which result is better; of more than two pairs, how many are."""
    found = for_people.findings(file)
    if len(found) <= MOST_NAMED:
        return "; ".join(found)
    made = [claim.verdict for claim in claims_of(file)]
    counts = [f"{made.count(verdict)} {verdict}" for verdict in dict.fromkeys(made)]
    first = str(file.rows()[0]["a"])
    return f"{first} against {len(made)} others: {', '.join(counts)}"


COMPARE = Picture(
    "compare",
    draw_comparison,
    "clipkit plot compare compare.h5 -o compare.png",
    of=("compare",),
    is_reported=always,
)


def read_comparison(file: FeatureFile) -> Comparison:
    """Arrange the rows of a result of `compare`; refuse other results."""
    if "value_a" in file.runs:
        raise ClipkitError(f"{file.display_name}: expected accuracies, got scores of attributes")
    columns = results.columns_of(file, "compare", "a split rows acc_a low high")
    names = [str(columns["a"][0])]
    if "b" in file.runs:
        columns |= results.columns_of(file, "compare", "b acc_b difference")
        names += filter(None, dict.fromkeys(columns["b"].tolist()))
    results.check_finite(file, "rows", low=1)
    by_pair, worst = _rows_by_pair(file, names)
    firsts = by_pair[0]
    main = "recall" if "recall_a" in file.runs else "acc"
    accuracy = [_accuracies(firsts, f"{main}_a")]
    difference = np.empty((0, len(firsts), 3))
    label = names[0]
    if len(names) > 1:
        label += f" against {', '.join(names[1:])}"
        accuracy += [_accuracies(of_pair, f"{main}_b") for of_pair in by_pair]
        with_ends = itemgetter("difference", "low", "high")
        difference = np.array([list(map(with_ends, of_pair)) for of_pair in by_pair])
    groups: list[str] = []
    null5 = np.full(len(names), np.nan)
    if worst:
        label += f", by {results.newest_entry(file).get('column', 'group')}"
        groups = results.column(firsts, "group")
        if main == "acc":  # it is of accuracies
            null5 = np.array(results.column(worst, "null5"))
    images = int(sum(results.column(firsts, "rows")))
    return Comparison(names, groups, np.array(accuracy), difference, null5, label, images)


def _rows_by_pair(
    file: FeatureFile, names: Sequence[str]
) -> tuple[list[list[results.Row]], list[results.Row]]:
    """Return the rows of groups for each pair of results, and those of the worst groups."""
    rows = file.rows()
    worst = [row for row in rows if not np.isnan(row.get("null", np.nan))]
    if worst:
        results.columns_of(file, "compare", "group null null5")
    rows = [row for row in rows[: len(rows) - len(worst)] if row.get("scope") != "all"]
    pairs = max(1, len(names) - 1)  # the rows of a group come one after the other
    if not rows or len(rows) % pairs or len(worst) not in (0, len(names)):
        raise ClipkitError(f"{file.display_name}: expected {pairs} rows for each group, got others")
    return [rows[start::pairs] for start in range(pairs)], worst


def _accuracies(rows: Sequence[results.Row], column: str) -> list[tuple[float, float, float]]:
    """Return the accuracies of rows with the ends of Wilson's 95 % interval.

    The ends are NaN if rows depend on each other: their interval would need the clusters. So they
    are for a mean recall, unless it is of one result.
    """
    found = []
    for row in rows:
        low, high = metrics.wilson(row[column], int(row["rows"]))
        if "clusters" in row or "recall_a" in row:
            low = high = np.nan
        if "recall_a" in row and "b" not in row:
            low, high = row["low"], row["high"]
        found.append((row[column], low, high))
    return found


@clipkit_style
def compare(
    accuracy: ArrayLike,
    difference: ArrayLike,
    names: Sequence[str],
    *,
    groups: Sequence[str] = (),
    null5: ArrayLike | None = None,
    what: str = ACCURACY,
    title: str | None = None,
) -> Figure:
    """Draw accuracies with intervals, and beside them the first one's lead over the others.

    With groups, each has a line with a mark for every result, the group with the lowest accuracy
    of the first result at the top. The lowest 30 groups are shown if there are more. Without
    groups, each result has a line.

    Parameters
    ----------
    accuracy : array (F, G, 3)
        Of F results in G groups: a fraction, and the low and the high end of its interval.
    difference : array (F - 1, G, 3)
        Of the first result minus each other. The panel is left out if F is 1.
    names : sequence of F str
    groups : sequence of G str
        Without groups, G is 1.
    null5 : array (F,), optional
        Accuracy below which the worst group of each result lies in one of twenty permutations.
    what : str
        What the fractions are.
    """
    accuracy = 100 * np.asarray(accuracy, np.float64)
    difference = 100 * np.asarray(difference, np.float64)
    marks = np.full(len(names), np.nan)
    if null5 is not None:
        marks = 100 * np.asarray(null5, np.float64)
    order = metrics.falling_order(-accuracy[0, :, 0])[:MAX_GROUPS]
    labels = short = style.sanitize_names(names, 32)
    line_inches = 0.29
    if groups:
        labels = style.sanitize_names(groups, 28, order.tolist())
        line_inches = 0.16 + 0.13 * len(names)
    fig = style.new_figure(7.5, len(labels) * line_inches + 1.0, title)
    axes = fig.subplots(1, min(len(names), 2), squeeze=False, sharey=True)[0]
    _draw_points(axes[0], accuracy[:, order], 0, bool(groups))
    for i, mark in enumerate(marks):
        axes[0].axvline(mark, color=style.line_style(i)["color"], linestyle=":", linewidth=1.4)
    axes[0].set_xlabel(f"{what} (%)")
    if len(difference):
        _draw_points(axes[1], difference[:, order], 1, bool(groups))
        axes[1].axvline(0, color="black", linewidth=1)
        other = style.sanitize_label(names[1], 18) if len(names) == 2 else "the other"
        first = style.sanitize_label(names[0], 18)
        axes[1].set_xlabel(f"{first}\nminus {other} (% points)")
    for ax in axes:
        style.name_rows(ax, np.arange(len(labels), dtype=np.float64), labels, 0.5)
        style.limit_ticks(ax.xaxis, 6)
    facts = "bars: 95 % intervals over images"
    if np.isnan(accuracy[:, :, 1]).all():
        facts = "without intervals"
        axes[0].set_xlim(0, 100)
    if len(groups) > MAX_GROUPS:
        facts += f", {MAX_GROUPS} of {len(groups)} groups"
    if np.isfinite(marks).any():
        facts += f"; dotted: 5 % limit of the worst of {len(groups)} random groups"
    axes[0].set_title(facts, loc="left", color=style.GREY)
    if len(axes) > 1:
        axes[1].set_title("bars: paired 95 % intervals", loc="left", color=style.GREY)
    if groups and len(names) > 1:
        looks = [style.line_style(i) for i in range(len(names))]
        colors = [look["color"] for look in looks]
        is_pair = len(names) == 2
        if not is_pair or not name_pair(axes[0], accuracy[:, order, 0], colors, short):
            handles = [style.legend_line(**{**look, "linestyle": ""}) for look in looks]
            style.add_legend(fig, handles, short)
    return fig


def _draw_points(ax: Axes, values: Floats, first: int, grouped: bool) -> None:
    """Draw values (S, G, 3) of the results from number `first` on, on a line per group or each."""
    S, G, _ = values.shape
    y = np.arange(first, first + S, dtype=np.float64)[:, None]
    if grouped:
        y = np.arange(G) + np.linspace(-0.5, 0.5, S + 2)[1:-1, None]
    for row in range(S):
        look = {**style.line_style(first + row), "linestyle": ""}
        low, high = values[row, :, 1], values[row, :, 2]
        ax.hlines(y[row], low, high, color=look["color"], linewidth=1.6)
        ax.plot(values[row, :, 0], y[row], markeredgecolor="white", markeredgewidth=0.6, **look)
