"""Ways of asking the same images: the best of each kind, and two models that are asked alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from clipkit.analysis import results
from clipkit.analysis.compare import comparison
from clipkit.analysis.results import Row, newest_entry
from clipkit.base.cells import format_p
from clipkit.base.markdown import escape
from clipkit.base.names import omit
from clipkit.features.provenance import provenance, shots
from clipkit.report.blocks import Bar, Cell, Fact, Measurement, Number, Table
from clipkit.report.markdown import (
    format_measurement,
    format_measurements,
    highest,
    mean_measurement,
)
from clipkit.report.scored import Group, Scored
from clipkit.report.steps import run_settings, settings_of_any_model
from clipkit.statistics import claims

ZEROSHOT, OF_IMAGES, FEW_SHOTS, OF_PROMPTS = (
    "zero-shot",
    "probe of images",
    "few shots",
    "probe of prompts",
)
KINDS = (ZEROSHOT, OF_IMAGES, FEW_SHOTS, OF_PROMPTS)


def kind_of(scored: Scored) -> str:
    """Return how a result asks: one of KINDS, or its command."""
    command = str(newest_entry(scored.file)["command"])
    if command == "zeroshot":
        return ZEROSHOT
    if command != "probe":
        return command
    if shots(scored.file) is not None or results.has_several_shots(scored.file):
        return FEW_SHOTS
    return OF_PROMPTS if provenance(scored.file).prompts else OF_IMAGES


def describe(scored: Scored) -> str:
    """Return the kind of a result with its prompts, classifier and shots."""
    parts = [kind_of(scored), provenance(scored.file).prompts]
    classifiers = {str(run["classifier"]) for run in scored.runs if "classifier" in run}
    parts.insert(1, ", ".join(sorted(classifiers)))
    of_class = shots(scored.file)
    if of_class is not None:
        parts.insert(2, f"{of_class} per class")
    return " · ".join(filter(None, parts))


def settings_but_seed(scored: Scored) -> str:
    """Return what results that differ in model and seed alone share; "" if that is not known."""
    shared = settings_of_any_model(scored.file)
    if not shared:
        return ""
    unseeded = [omit(run, ("seed", "draw")) for run in scored.runs]
    of_runs = {repr(run_settings(scored.file, run)) for run in unseeded}
    return f"{shared} {sorted(of_runs)}"


@dataclass(frozen=True)
class Way:
    """A way of asking: results that differ in nothing but their seed.

    `of` is what the results are of: the data set, the split and the model. `tried` counts the runs
    of its kind, of which it is the most accurate.
    """

    of: tuple[str, ...]
    members: Sequence[Scored]
    controls: Sequence[Measurement]
    tried: int = 1

    @property
    def kind(self) -> str:
        """How it asks: one of KINDS, or the command."""
        return kind_of(self.members[0])

    @property
    def measurement(self) -> Measurement:
        """The accuracy of its most accurate run or, of several seeds, the mean with the range."""
        return mean_measurement([scored.measure() for scored in self.members])

    @property
    def main(self) -> str:
        """What its number is: the accuracy or, of unequal classes, the mean recall."""
        return self.members[0].main

    @property
    def chance(self) -> float:
        """What permuted predictions give; NaN if nothing may be tested."""
        first = self.members[0]
        return math.nan if first.untestable else first.chance()

    @property
    def control(self) -> Measurement | None:
        """The accuracy of its untrained control; the mean of several."""
        return mean_measurement(self.controls) if self.controls else None


def best_ways(groups: Sequence[Group], better: Sequence[str] = ()) -> list[Way]:
    """Return the most accurate way of each kind, for each model and each set of images.

    The models in `better` come first, in their order, and then those that are the most accurate.
    """
    best: dict[tuple[str, ...], list[Way]] = {}
    for group in groups:
        for way in _ways(group):
            best.setdefault((*way.of, way.kind), []).append(way)
    found = []
    for ways in best.values():
        tried = sum(len(scored.runs) for way in ways for scored in way.members[:1])
        top = max(ways, key=lambda way: (way.measurement.value, way.members[0].settings))
        found.append(Way(top.of, top.members, top.controls, tried))
    highest_of: dict[tuple[str, ...], float] = {}
    for way in found:
        highest_of[way.of] = max(way.measurement.value, highest_of.get(way.of, 0.0))

    def order(way: Way) -> tuple[object, ...]:
        dataset, split, model = way.of
        place = place_in(better, model)
        return dataset, split, place, -highest_of[way.of], model, place_in(KINDS, way.kind)

    return sorted(found, key=order)


def place_in(names: Sequence[str], name: str) -> int:
    """Return the place of a name among others; those that are not among them come last."""
    return names.index(name) if name in names else len(names)


def _ways(group: Group) -> list[Way]:
    ways: dict[tuple[str, ...], list[Scored]] = {}
    for scored in group.trained:
        source = provenance(scored.file)
        labels = results.labels_suffix(scored.file)
        of = f"{source.dataset}{labels}", scored.split, source.model
        settings = settings_but_seed(scored) or scored.name
        ways.setdefault((*of, settings), []).append(scored)
    found = []
    for (dataset, split, model, *_), members in ways.items():
        controls = []
        for scored in members:
            of_run = group.controls_of(scored, scored.best)
            controls += [control.measure() for control in of_run]
        found.append(Way((dataset, split, model), members, controls))
    return found


def way_labels(ways: Sequence[Way]) -> list[str]:
    """Return what each way is called: how it asks and, where they differ, what it is of."""
    columns = list(zip(*[way.of for way in ways], strict=True))
    differs = [len(set(column)) > 1 for column in columns]
    labels = []
    for way in ways:
        parts = [describe(way.members[0])]
        parts += [part for part, is_shown in zip(way.of, differs, strict=True) if is_shown and part]
        if len(way.members) > 1:
            parts.append(f"{len(way.members)} seeds")
        labels.append(" · ".join(parts))
    return labels


def main_of(ways: Sequence[Way]) -> str:
    """Return what the numbers of ways are."""
    return " or ".join(sorted({way.main for way in ways}))


def way_table(ways: Sequence[Way]) -> Table:
    """Return a row for each way: its accuracy, that of its control, and of how many it is best."""
    rows: list[list[Cell]] = []
    for label, way in zip(way_labels(ways), ways, strict=True):
        value, low, high = way.measurement.value, way.measurement.low, way.measurement.high
        control = highest(way.controls)
        bar = Bar(value, low, high, way.chance, control)
        number = Number(format_measurement(way.measurement), bar)
        of_control = format_measurements(way.controls)
        best = f"{way.tried:,}" if way.tried > 1 else ""
        rows.append([escape(label), number, of_control, best])
    header = ["asked by", f"{main_of(ways)} (%)", "untrained control (%)", "best of"]
    return Table(header, rows, 1, [way.members[0].name for way in ways])


@dataclass(frozen=True)
class ModelPair:
    """Two results of different models that were asked in the same way, the better one first.

    `row` is that of `comparison.compare_right`, with p corrected for all pairs.
    """

    first: Scored
    second: Scored
    row: Row

    @property
    def models(self) -> tuple[str, str]:
        """The names of the two models."""
        return tuple(provenance(one.file).model or "?" for one in (self.first, self.second))  # type: ignore[return-value]


def pair_models(groups: Sequence[Group]) -> list[ModelPair]:
    """Pair the results of different models on the same images that were asked in the same way.

    Of several models, the most accurate is paired with each other one. The p of each is corrected
    for all pairs of models and all ways (Bonferroni), since the first is chosen by its accuracy.
    """
    found: list[tuple[Scored, Scored]] = []
    comparisons = 0
    for group in groups:
        alike: dict[str, dict[str, Scored]] = {}
        for scored in group.trained:
            settings = settings_but_seed(scored)
            if settings and scored.has_one_run and not scored.untestable:
                model = provenance(scored.file).model
                alike.setdefault(settings, {}).setdefault(model, scored)
        for of_models in alike.values():
            ordered = sorted(of_models.values(), key=lambda one: (-one.values[0], one.settings))
            comparisons += len(ordered) * (len(ordered) - 1) // 2
            found += [(ordered[0], other) for other in ordered[1:]]
    pairs = []
    for first, second in found:
        right = first.right[0], second.right[0]
        row = comparison.compare_right(*right, first.clusters, first.unequal)
        row["p_holm"] = min(1.0, row["p"] * comparisons)
        row["a"], row["b"] = (provenance(one.file).model or "?" for one in (first, second))
        row.setdefault("rows", len(first.ids))
        pairs.append(ModelPair(first, second, row))
    return sorted(pairs, key=lambda pair: place_in(KINDS, kind_of(pair.first)))


def pair_facts(pairs: Sequence[ModelPair]) -> list[Fact]:
    """Say which model is better, by how much, and whether that is decided, for each way."""
    facts = []
    for pair in pairs:
        sentence = escape(claims.difference_sentence(pair.row, "image"))
        for finding in (claims.NOT_DECIDED, claims.in_points(pair.row)):
            if finding in sentence:
                sentence = sentence.replace(finding, f"**{finding}**", 1)
                break
        facts.append(Fact(escape(describe(pair.first)), f"{sentence}.", pair.first.name))
    return facts


def pair_table(pairs: Sequence[ModelPair]) -> Table:
    """Return a row for each way in which two models were asked."""
    furthest = max(max(abs(pair.row["low"]), abs(pair.row["high"])) for pair in pairs)
    names = {pair.models for pair in pairs}
    rows: list[list[Cell]] = []
    for pair in pairs:
        label = describe(pair.first)
        if len(names) > 1:
            label += f" · {pair.models[0]} and {pair.models[1]}"
        accuracies = [f"{100 * value:.2f}" for value in claims.main_of(pair.row).values()]
        interval = pair.row["difference"], pair.row["low"], pair.row["high"]
        span = (-furthest, furthest)
        bar = Bar(*interval, reference=0.0, span=span, reference_name="no difference")
        ends = f"{100 * interval[1]:+.2f} to {100 * interval[2]:+.2f}"
        difference = Number(f"{100 * interval[0]:+.2f} ({ends})", bar)
        rows.append([escape(label), *accuracies, difference, format_p(pair.row["p_holm"])])
    first, second = "better (%)", "other (%)"
    if len(names) == 1:
        first, second = (f"{escape(name)} (%)" for name in pairs[0].models)
    header = ["asked by", first, second, "difference (points)", "p"]
    return Table(header, rows, 1, [pair.first.name for pair in pairs])
