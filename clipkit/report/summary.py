"""Sum up results: what was found, beside chance and controls, and in which class least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from clipkit.analysis import results
from clipkit.analysis.compare.comparison import compare_right
from clipkit.analysis.for_people import findings
from clipkit.analysis.mistakes.kept import OF_NAMES, own_values
from clipkit.analysis.results import Predictions, Row
from clipkit.analysis.sections import KNOWN
from clipkit.analysis.verdicts import claims_of
from clipkit.base import console
from clipkit.base.cells import format_p
from clipkit.base.markdown import escape
from clipkit.base.names import distinct_names
from clipkit.base.views import of_command
from clipkit.features.columns import OWN_QUESTION
from clipkit.features.model import FeatureFile
from clipkit.features.provenance import is_untrained, provenance
from clipkit.report.blocks import Bar, Fact
from clipkit.report.markdown import p_name
from clipkit.statistics import claims, main_number, metrics
from clipkit.statistics.claims import CONTROL
from clipkit.statistics.shared_errors import shared_error

MAIN = "Main result"


def found(
    means: str,
    scored: Predictions,
    controls: Sequence[Predictions],
    source: str,
    missing: str = "",
    untestable: str = "",
    tried: int = 1,
) -> Fact:
    """Say how accurate `means` is, of how many classes, beside chance and untrained controls.

    It is the most accurate of `tried` runs. Without a control on the same images, the sentence
    `missing` replaces the comparison. With a reason in `untestable`, the accuracy is compared with
    nothing.
    """
    right, clusters = scored.right, scored.clusters
    unequal = main_number.unless_equal(scored.labels)
    accuracy, n = float(right.mean()), len(right)
    classes = len({*scored.class_names} - {results.NONE})
    images = f"{n:,} images of {classes:,} classes"
    text = f"**{_percent(accuracy)}** of {images} are right by {means}"
    if unequal is not None:
        accuracy = metrics.mean_per_class_recall(scored.labels, scored.predicted)
        text = f"**{_percent(accuracy)}** is the mean recall of {images} by {means}"
    if untestable:
        return Fact(MAIN, f"{text}. {untestable}", source, Bar(accuracy))
    low, high = metrics.wilson(accuracy, metrics.effective_rows(right, clusters))
    chance = results.chance(scored.labels, scored.predicted)
    what = "Chance is what the predictions give if they are permuted"
    if unequal is not None:
        _, low, high, chance = main_number.mean_recall(unequal, right, clusters)
        what = (
            "The classes are of unequal size, so that each class has the same weight, and chance "
            f"is 1 / K. Right are {_percent(right.mean())} of the images"
        )
    majority = _percent(results.majority(scored.labels))
    rows = _compare_with(controls, scored)
    row = min(rows, key=lambda row: row["difference"], default=None)  # the most accurate control
    control = CONTROL
    if len(rows) > 1:
        control = f"the most accurate of {len(rows)} untrained controls"
    made = claims.accuracy_claims(means, right, chance, row, control, tried, clusters, unequal)
    relations = claims.relations(made, 2).replace(" %", "\N{NO-BREAK SPACE}%")
    text = f"{text}: {relations}."
    details = (
        f"Measured in {escape(source)}. The 95 % interval is {_percent(low)} to "
        f"{_percent(high)}. {what}; the most frequent class alone has {majority}."
    )
    if row is None:
        bar = Bar(accuracy, low, high, chance)
        return Fact(MAIN, f"{text} {missing}", source, bar, details=details)
    p = format_p(row["p"])
    if not p.startswith("<"):
        p = f"= {p}"
    details += (
        f" Against {control}, on the same images, the difference is "
        f"{100 * row['difference']:+.2f} points ({100 * row['low']:+.2f} to "
        f"{100 * row['high']:+.2f}; {p_name(clusters, is_recall=unequal is not None)} {p})."
    )
    bar = Bar(accuracy, low, high, chance, claims.main_of(row)["b"])
    return Fact(MAIN, text, source, bar, details=details)


def _compare_with(controls: Sequence[Predictions], scored: Predictions) -> list[Row]:
    """Compare a result with each control that has the same images."""
    rows = []
    unequal = main_number.unless_equal(scored.labels)
    for control in controls:
        is_right = dict(zip(control.ids, control.right, strict=True))
        if is_right.keys() == set(scored.ids):
            control_right = np.array([is_right[row_id] for row_id in scored.ids])
            rows.append(compare_right(scored.right, control_right, scored.clusters, unequal))
    return rows


def lowest_class(scored: Predictions, source: str) -> list[Fact]:
    """Name the class with the fewest right images, and the wrong class predicted most often for it.

    Return nothing if equal classes could have such a lowest one. Several classes with one share are
    named if equal classes would hardly have so many.
    """
    C = len(scored.class_names)
    counts = np.bincount(scored.labels, minlength=C)
    right = np.bincount(scored.labels[scored.right], minlength=C)
    places, claim = claims.lowest_class(right, counts, scored.independent)
    known = np.count_nonzero(counts)
    if len(places) == known:
        return []
    lowest = places[0]
    printable = distinct_names(list(map(console.escaped, scored.class_names)))
    names = list(map(escape, printable))
    if len(places) > 1:
        if not claims.are_lower(right, counts, places, scored.independent):
            return []
        share = _percent(right[lowest] / counts[lowest]) if right[lowest] else "no image"
        text = f"{len(places):,} of {known:,} classes have {share} right"
        example = f"{text}, such as {names[lowest]}."
        return [Fact("Lowest classes", example, source, class_name=printable[lowest])]
    if claim is None or claim.verdict != claims.BELOW:
        return []
    predicted = scored.predicted[scored.labels == lowest]
    wrong = np.bincount(predicted[predicted != lowest], minlength=C)
    relation = claims.relations([claim])
    text = f"**{names[lowest]}**: {right[lowest]} of {len(predicted)} images right, {relation}"
    most = np.flatnonzero(wrong == wrong.max())
    if wrong.any() and len(most) <= claims.NAMED:
        listed = " or ".join(names[place] for place in most)
        each = " each" * (len(most) > 1)
        text += f"; most often predicted as {listed} ({wrong.max()}{each})"
    return [Fact("Lowest class", f"{text}.", source, class_name=printable[lowest])]


def shared_errors(scored: Predictions, result: FeatureFile, split: str, source: str) -> list[Fact]:
    """Say which change of an attribute's value the errors share, or that none explains them.

    Words of class names are attributes only if they do.
    """
    held = own_values(result, split, scored)
    shared = shared_error(held.counts(scored), held.values)
    if shared is not None:
        text = claims.shared_error_sentence(shared)
    elif held.source != OF_NAMES and not scored.right.all():
        text = claims.no_shared_error_sentence([*held.values])
    else:
        return []
    return [Fact("Shared errors", f"{escape(text)}.", source)]


def name_model(fact: Fact, result: FeatureFile) -> Fact:
    """Return a fact whose name says of which model it is."""
    model = escape(provenance(result).model) or "another model"
    return replace(fact, name=f"{fact.name} of {model}")


def answer(result: FeatureFile, source: str = "") -> list[Fact]:
    """Count and name the attributes of each group."""
    found = claims_of(result)
    facts = [Fact("Attributes", f"{claims.attributes_sentence(found)}.", source)] if found else []
    for group, names in claims.attribute_names(found).items():
        (text,) = claims.with_steps([names])
        facts.append(Fact(group.capitalize(), escape(text)))
    return facts


def of_others(named: Mapping[str, FeatureFile]) -> dict[str, list[Fact]]:
    """Say what results without classes of their own found, one line for each, by section.

    Untrained models come last. They are named and, of several trained models, all are.
    """
    facts: dict[str, list[Fact]] = {}
    trained = {provenance(file).model for file in named.values() if not is_untrained(file)}
    for name, result in sorted(named.items(), key=lambda item: is_untrained(item[1])):
        command = str(results.newest_entry(result)["command"])
        question = of_command(command)
        section, topic = KNOWN, "Found" if command == OWN_QUESTION else ""
        if question is not None:
            section, topic = question.section, question.topic
        if not topic:
            continue
        for sentence in map(escape, findings(result)):
            fact = Fact(topic, f"{sentence}.", name)
            if is_untrained(result) or len(trained) > 1:
                fact = name_model(fact, result)
            facts.setdefault(section, []).append(fact)
    return facts


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}\N{NO-BREAK SPACE}%"
