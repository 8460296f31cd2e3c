"""Sum up results: what was run, the main result against chance and controls, the worst class."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.stats import binomtest

from clipkit.analysis import choices, metrics, results, retrieval
from clipkit.analysis.attribute_groups import GROUPS, SAID, group_of
from clipkit.analysis.comparison import compare_right
from clipkit.analysis.results import Predictions, Row
from clipkit.base import console
from clipkit.base.errors import ClipkitError
from clipkit.base.names import distinct_names
from clipkit.base.tables import format_p
from clipkit.features.model import FeatureFile
from clipkit.report.blocks import Bar, Fact
from clipkit.report.markdown import escape

NOT_DECIDED = "Not decided"  # the title of the attributes that are in no group
SIGNIFICANT = 0.05  # a p below it shows a difference


def against_references(
    title: str,
    means: str,
    scored: Predictions,
    controls: Sequence[Predictions],
    source: str,
    missing: str = "There is no untrained control of it.",
    untestable: str = "",
) -> Fact:
    """Compare an accuracy with chance and, on the same images, with untrained controls.

    Without a control, the sentence `missing` replaces the comparison. With a reason in
    `untestable`, the accuracy is compared with nothing.
    """
    right = scored.predicted == scored.labels
    accuracy, n = float(right.mean()), len(right)
    text = f"**{_percent(accuracy)}** of {n:,} images are classified correctly by {means}"
    if untestable:
        return Fact(title, f"{text}. {untestable}", source, Bar(accuracy))
    low, high = metrics.wilson(accuracy, n)
    chance = results.chance(scored.labels)
    is_above = low > chance and binomtest(right.sum(), n, chance).pvalue < SIGNIFICANT
    verdict = f"{_above(is_above)} chance"
    details = (
        f"The 95 % interval is {_percent(low)} to {_percent(high)}. This is {verdict} "
        f"({_percent(chance)}, the share of the most frequent class). "
    )
    rows = _compare_with(controls, scored)
    if not rows:
        bar = Bar(accuracy, low, high, chance)
        return Fact(title, f"{text}: {verdict}. {missing}", source, bar, details=details)
    row = min(rows, key=lambda row: row["difference"])  # against the best of the controls
    which = "the untrained control" if len(rows) == 1 else "the best untrained control"
    is_above = row["difference"] > 0 and row["p"] < SIGNIFICANT
    from_control = f"{_above(is_above)} {which} ({_percent(row['acc_b'])})"
    details += f"It is {from_control}: {_describe_difference(row)}."
    bar = Bar(accuracy, low, high, chance, row["acc_b"])
    return Fact(title, f"{text}: {verdict}, {from_control}.", source, bar, details=details)


def _above(is_above: bool) -> str:
    return "above" if is_above else "not shown to be above"


def _describe_difference(row: Row) -> str:
    """Return a paired difference in words, with its interval and p."""
    p = format_p(row["p"])
    if not p.startswith("<"):
        p = f"= {p}"
    return (
        f"on the same images, the difference is {100 * row['difference']:+.2f} points "
        f"({100 * row['low']:+.2f} to {100 * row['high']:+.2f}; McNemar's exact p {p})"
    )


def _compare_with(controls: Sequence[Predictions], scored: Predictions) -> list[Row]:
    """Compare a result with each control that has the same images."""
    right = scored.predicted == scored.labels
    rows = []
    for control in controls:
        is_right = dict(zip(control.ids, control.predicted == control.labels, strict=True))
        if is_right.keys() == set(scored.ids):
            control_right = np.array([is_right[row_id] for row_id in scored.ids])
            rows.append(compare_right(right, control_right))
    return rows


def worst_class(scored: Predictions, source: str) -> list[Fact]:
    """Name the class with the lowest F1, and the wrong class predicted most often for it.

    Return nothing if all predictions are right.
    """
    C = len(scored.class_names)
    f1 = metrics.f1_per_class(scored.labels, scored.predicted, C)
    worst = int(np.nanargmin(f1))
    if f1[worst] == 1:
        return []
    printable = distinct_names(list(map(console.escaped, scored.class_names)))
    names = list(map(escape, printable))
    predicted = scored.predicted[scored.labels == worst]
    wrong = np.bincount(predicted[predicted != worst], minlength=C)
    right = int((predicted == worst).sum())
    text = f"**{names[worst]}**: F1 {f1[worst]:.2f}, {right} of {len(predicted)} images right"
    if wrong.any():
        text += f"; most often predicted as {names[int(wrong.argmax())]} ({wrong.max()})"
    return [Fact("Worst class", f"{text}.", source, class_name=printable[worst])]


def answer(result: FeatureFile) -> list[Fact]:
    """Name the attributes of each group; return nothing if no attribute is in one."""
    names_of: dict[str, list[str]] = defaultdict(list)
    for row in result.rows():
        names_of[group_of(row) or NOT_DECIDED].append(escape(row["attribute"]))
    if not names_of.keys() - {NOT_DECIDED}:
        return []
    facts = []
    for group in GROUPS:
        title = SAID.get(group, group) if result.is_dot_product else group
        names = ", ".join(names_of[group]) or "none of the attributes"
        facts.append(Fact(title.capitalize(), names))
    if NOT_DECIDED in names_of:
        facts.append(Fact(NOT_DECIDED, ", ".join(names_of[NOT_DECIDED])))
    return facts


def of_captions(named: Mapping[str, FeatureFile]) -> list[Fact]:
    """Say what the first results of `retrieve` and `choose` found."""
    facts: dict[str, Fact] = {}
    for name, result in named.items():
        command = str(results.newest_entry(result)["command"])
        if command not in CAPTIONS or command in facts:
            continue
        title, columns, finding = CAPTIONS[command]
        with contextlib.suppress(ClipkitError):  # another program's columns
            results.columns_of(result, command, columns)
            facts[command] = Fact(title, escape(finding(result)), name)
    return [fact for fact in facts.values() if fact.text]


def _chosen(result: FeatureFile) -> str:
    """Count the categories of texts that are understood, and name the others."""
    others = []
    for categories in choices.understood(result).values():
        for category, is_understood in categories.items():
            if not is_understood:
                others.append(category)
    text = choices.finding(result)
    if others:
        text += f"; not shown: {results.join_names(others)}"
    return text


# What results about captions are called, the columns that they have, and what says their finding
CAPTIONS: dict[str, tuple[str, str, Callable[[FeatureFile], str]]] = {
    "retrieve": ("Captions", "split k recall", retrieval.finding),
    "choose": ("Texts", "split category accuracy_low shuffled95 ceiling", _chosen),
}


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}\N{NO-BREAK SPACE}%"
