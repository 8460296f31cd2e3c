"""Compare results on the same images: their accuracies, differences and untrained controls."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from clipkit.analysis import results
from clipkit.analysis.compare import comparison
from clipkit.analysis.results import Row, newest_entry
from clipkit.base.console import count
from clipkit.base.errors import ClipkitError
from clipkit.base.markdown import escape
from clipkit.features.columns import HIGHER, SHARE, all_columns
from clipkit.features.model import known_columns
from clipkit.features.provenance import provenance
from clipkit.report import summary
from clipkit.report.blocks import Bar, Block, Cell, Fact, Heading, Measurement, Number, Table
from clipkit.report.markdown import (
    format_measurement,
    format_measurements,
    format_percent,
    format_range,
    highest,
    mean_measurement,
)
from clipkit.report.scored import Scored
from clipkit.report.steps import newest_settings
from clipkit.report.tables import Pair, difference_table, layer_table
from clipkit.statistics import main_number
from clipkit.statistics.claims import control_sentences

MOST_RUNS = 100  # of a file in a table
NUMBERED = (
    "These images were imported without ids, so that row numbers are their ids. Results on other "
    "imports are in tables of their own, even if the row numbers are equal."
)
CONTROL = "untrained control (%)"
SETTING_COLUMNS = ("classifier", "C", "temperature", "k", "shots")
# Ranks of a result with one run, with and without a control; see `_rank`
CONTROLLED, UNCONTROLLED = (False, False, False), (False, False, True)
TEXT_COLUMNS = {"file", "model", "prompts", "result of", "classifier"}
KEY_COLUMNS = ("file", "model", "prompts", "result of", *SETTING_COLUMNS, "runs", "draws", "run")
OF_DRAWS = (
    "Each row is the mean over the draws of training images. Brackets have the lowest and the "
    "highest accuracy of a draw."
)
# The columns of runs that are shown, besides their accuracy
SHOWN = [column for column in all_columns() if column.unit is SHARE and column.better == HIGHER]
TRAINING_IMAGES = "another draw of training images"


@dataclass(frozen=True)
class SameImages:
    """Results on the same images with the same classes.

    `wholes` are the names of those that were scored on further images, too.
    """

    results: Sequence[Scored]
    wholes: Sequence[str] = ()

    @property
    def trained(self) -> list[Scored]:
        """The results that are no controls."""
        return [scored for scored in self.results if not scored.is_control]

    def controls_of(self, scored: Scored, run: int | None = None) -> list[Scored]:
        """Return the results of untrained models that were made as a result was.

        They keep the runs with the settings of the given run, by default of the only run. Without
        either, they keep all. A control has none.
        """
        controls: list[Scored] = []
        if scored.is_control or not scored.settings:
            return controls
        if run is None and scored.has_one_run:
            run = 0
        for other in self.results:
            if not other.is_control or other.settings != scored.settings:
                continue
            if run is not None:
                other = other.runs_like(scored, run)
            if other.runs:
                controls.append(other)
        return controls

    def pairs(self) -> list[tuple[Scored, Scored]]:
        """Return each result with each of its controls."""
        pairs = []
        for scored in self.trained:
            for control in self.controls_of(scored):
                pairs.append((scored, control))
        return pairs

    def _matched(self) -> set[str]:
        """Return the names of the controls that belong to a result."""
        return {control.name for _, control in self.pairs()}

    def section(self) -> list[Block]:
        """Return the accuracies and their paired differences, below a heading."""
        blocks: list[Block] = [self._heading(), self._accuracies(), *self._notes()]
        single = [one for one in self.results if one.has_one_run and not one.untestable]
        blocks += SameImages(single)._paired_differences()
        several = [scored for scored in self.trained if not scored.has_one_run]
        if several and len(self.results) > 1:
            blocks.append(
                f"Not compared, since they have several runs: {_names(several)}. Choose one with "
                "clipkit compare --run or clipkit probe --val."
            )
        return blocks

    def changes(self) -> list[Block]:
        """Return the accuracies by layer, and of the runs of each result with several."""
        blocks = self._layers() + self._sweeps()
        return [self._heading(), *blocks] if blocks else []

    def _heading(self) -> Heading:
        """Return the heading: the data set, the split, and the numbers of images and classes."""
        first = self.results[0]
        dataset = provenance(first.file).dataset or "images"
        classes = results.class_count(first.file, int(first.labels.max()))
        classes -= results.NONE in (first.file.class_names or [])  # no class of images
        heading = f"{dataset}, {first.split}: {len(first.ids):,} images, {classes} classes"
        heading += results.labels_suffix(first.file)
        return Heading(3, escape(heading))

    def _notes(self) -> list[str]:
        """Return what limits the accuracies, and which runs and images are not shown."""
        first = self.results[0]
        notes: list[str] = []
        for scored in self.results:
            notes += map(escape, results.caveat_notes({scored.name: scored.file}, scored.split))
            if len(scored.runs) > MOST_RUNS:
                notes.append(
                    f"{escape(scored.name)} has {len(scored.runs):,} runs on "
                    f"{escape(scored.split)}. The table has the first {MOST_RUNS}."
                )
        if self.wholes:
            names = ", ".join(map(escape, self.wholes))
            notes.append(
                f"These images are some of the split {escape(first.origin.split)}. "
                f"Of {names}, only the predictions for these are counted here."
            )
        if first.origin.is_numbered:
            notes.append(NUMBERED)
        return notes

    def _accuracies(self) -> Table:
        """Return the table of all results; several runs of one have their range.

        The control of a result is a column.
        """
        matched = self._matched()
        shown = [scored for scored in self.results if scored.name not in matched]
        rows = [self._result_cells(scored) for scored in shown]
        return _key_table(rows, [scored.name for scored in shown])

    def _sweeps(self) -> list[Block]:
        """Return a table of the runs of each result with several, below its name."""
        blocks: list[Block] = []
        matched = self._matched()
        for scored in self.results:
            if scored.has_one_run or scored.name in matched:
                continue
            groups = scored.draws()[:MOST_RUNS]
            rows = [self._run_cells(scored, numbers) for numbers in groups]
            if len(set(map(itemgetter(*SETTING_COLUMNS), rows))) < len(rows):
                for numbers, row in zip(groups, rows, strict=True):
                    row["run"] = f"{numbers[0]}"
            blocks.append(Heading(4, f"{escape(scored.name)}: {count(len(scored.runs), 'run')}"))
            if any(len(numbers) > 1 for numbers in groups):
                blocks.append(OF_DRAWS)
            blocks.append(_key_table(rows, [scored.name] * len(rows)))
        return blocks

    def _result_cells(self, scored: Scored) -> dict[str, Cell]:
        """Return the cells of a result by the titles of their columns."""
        source = provenance(scored.file)
        cells: dict[str, Cell] = {
            "file": escape(scored.name),
            "model": escape(source.model or "-"),
            "prompts": escape(source.prompts),
            "result of": escape(newest_entry(scored.file)["command"]),
        }
        numbers = range(len(scored.runs))
        if len(scored.draws()) == 1:
            return cells | self._run_cells(scored, numbers)
        runs = [scored.measure(number).value for number in numbers]
        of_controls = self._measure_controls(scored, numbers[:MOST_RUNS])
        best = highest(of_controls)
        bar = Bar(max(runs), reference=_mean(scored.chances), control=best, runs=runs)
        cells |= _setting_cells(scored.runs)
        cells["runs"] = f"{len(runs):,}"
        cells[f"{scored.main} (%)"] = Number(format_range(runs), bar)
        cells[CONTROL] = format_range([measured.value for measured in of_controls])
        return cells

    def _run_cells(self, scored: Scored, numbers: Sequence[int]) -> dict[str, Cell]:
        """Return the cells of a run or, of several draws, of their mean and range."""
        runs = [scored.runs[number] for number in numbers]
        measured = [scored.measure(number) for number in numbers]
        of_controls = self._measure_controls(scored, numbers)
        best = highest(of_controls)
        mean = mean_measurement(measured)
        chance = _mean([scored.chances[number] for number in numbers])
        bar = Bar(mean.value, mean.low, mean.high, chance, best)
        cells: dict[str, Cell] = dict(_setting_cells(runs))
        cells["draws"] = f"{len(runs)}" if len(runs) > 1 else ""
        cells[f"{scored.main} (%)"] = Number(format_measurement(mean), bar)
        cells[CONTROL] = format_measurements(of_controls)
        known = known_columns(scored.file)
        for column in SHOWN:
            if column.heading.title == scored.main:
                continue
            share = math.nan
            if known.get(column.name) == column:
                share = float(np.mean([run.get(column.name, np.nan) for run in runs]))
            cells[f"{column.heading.title} (%)"] = format_percent(share)
        return cells

    def _measure_controls(self, scored: Scored, numbers: Sequence[int]) -> list[Measurement]:
        """Return the accuracies of the controls of some runs; a control itself has none."""
        if scored.is_control:
            return []
        measured = []
        for number in numbers:
            measured += [control.measure() for control in self.controls_of(scored, number)]
        return measured

    def _layers(self) -> list[Block]:
        """Return the accuracy by layer, if there are results of layers."""
        single = [one.file for one in self.results if one.has_one_run]
        probes = {newest_settings(file) for file in single if "layer" in file.history.model}
        if not probes:
            return []
        files = [file for file in single if newest_settings(file) in probes]
        try:
            return layer_table(files)
        except ClipkitError:  # their layers are not of one curve
            return []

    def _paired_differences(self) -> list[Block]:
        """Return the differences of results of one run: from the first, and from controls."""
        pairs = self.pairs()
        blocks = _differences_from_first(self.trained or self.results)
        blocks += _differences_from_controls(pairs)
        matched = self._matched()
        others = [one for one in self.results if one.is_control and one.name not in matched]
        if self.trained and others:
            blocks.append(
                "Not compared, since no result was made in the same way from the same prompts: "
                f"{_names(others)}."
            )
        unknown = [scored for scored in self.results if not scored.settings]
        if unknown and others:
            blocks.append(
                "The history does not tell from which prompts these were made: "
                f"{_names(unknown)}. Embed the prompts again with this clipkit."
            )
        return blocks


def group_by_images(scored: Iterable[Scored]) -> list[SameImages]:
    """Return the results of each set of images and classes.

    If the images were held out of a split, results on the whole split are in both groups.
    """
    scored = list(scored)
    groups: dict[str, list[Scored]] = {}
    for one in scored:
        groups.setdefault(one.images_digest(), []).append(one)
    found = []
    for group in groups.values():
        wholes = [one for one in scored if one.holds(group[0])]
        taken = [one.take_images_of(group[0]) for one in wholes]
        found.append(SameImages([*group, *taken], [one.name for one in wholes]))
    return found


def _names(group: Iterable[Scored]) -> str:
    return ", ".join(escape(scored.name) for scored in group)


def _key_table(rows: Sequence[Mapping[str, Cell]], sources: Sequence[str]) -> Table:
    """Return a table of rows, in which names and settings say what a row is about."""
    names = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    keys = [name for name in KEY_COLUMNS if name in names]
    header = list(dict.fromkeys([*keys, *names]))
    cells = [[row.get(name, "") for name in header] for row in rows]
    return Table(header, cells, len(TEXT_COLUMNS.intersection(keys)), sources, len(keys))


def _setting_cells(runs: Sequence[Row]) -> dict[str, str]:
    """Return the settings of runs by the titles of their columns; numbers have their range."""
    classifiers = dict.fromkeys(str(run.get("classifier", "")) for run in runs)
    cells = {"classifier": escape(", ".join(classifiers))}
    for name in SETTING_COLUMNS[1:]:
        numbers = [float(run[name]) for run in runs if _is_number(run.get(name))]
        cells[name] = ""
        if numbers:
            ends = f"{min(numbers):g}", f"{max(numbers):g}"
            cells[name] = "–".join(dict.fromkeys(ends))
    return cells


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def _differences_from_first(single: Sequence[Scored]) -> list[Block]:
    if len(single) < 2:
        return []
    try:
        paired = comparison.pair([scored.file for scored in single], single[0].split)
    except ClipkitError:  # their images or clusters differ
        return []
    first, *others = single
    base, *of_others = paired.right
    pairs = []
    for scored, right in zip(others, of_others, strict=True):
        pairs.append(
            Pair([escape(scored.name)], scored.name, right, base, paired.clusters, paired.unequal)
        )
    name = escape(first.name)
    images = f"the {len(base):,} images that all have" if paired.common else paired.images
    value, what = base.mean(), ""
    if paired.unequal is not None:
        value = main_number.values_of(paired.unequal, base[None])[0]
        what = f"of {main_number.MEAN_RECALL} "
    which = f"{what}from {name} ({100 * value:.2f} %) on {images}"
    return difference_table(pairs, [f"against {name}"], name, which, TRAINING_IMAGES)


def _differences_from_controls(pairs: Sequence[tuple[Scored, Scored]]) -> list[Block]:
    compared = []
    for scored, control in pairs:
        labels = [escape(scored.name), escape(control.name)]
        right, of_control = scored.right[0], control.right[0]
        images = scored.clusters, scored.unequal
        compared.append(Pair(labels, scored.name, right, of_control, *images))
    return difference_table(
        compared,
        ["against its control", "control"],
        "the control",
        "of results from their own untrained controls",
        f"{TRAINING_IMAGES} or of random weights",
    )


class MainResults(NamedTuple):
    """The main result of each model on each data set, what was found, and the lowest class."""

    results: list[Scored]
    facts: list[Fact]
    lowest: list[Fact]


def sum_up(groups: Iterable[SameImages]) -> MainResults:
    """Sum up the main result of each model on each data set, and name the lowest class of one.

    The main result is the most accurate: of those of one run if there are any, and of those that
    have a control. The most accurate model on a data set comes first.
    """
    by_source: dict[tuple[str, str], list[tuple[Scored, SameImages]]] = {}
    for group in groups:
        for scored in group.trained:
            found = provenance(scored.file)
            by_source.setdefault((found.model, found.dataset), []).append((scored, group))
    main = MainResults([], [], [])
    has_control = False
    chosen = []
    for source, candidates in by_source.items():
        has_control |= any(len(group.trained) < len(group.results) for _, group in candidates)
        ranks = [_rank(candidate) for candidate in candidates]
        best = min(ranks)
        equal = [one for one, rank in zip(candidates, ranks, strict=True) if rank == best]
        has_rival = best == CONTROLLED and UNCONTROLLED in ranks
        chosen.append((source, equal, max(equal, key=_accuracy_and_settings), has_rival))
    datasets = [dataset for _, dataset in by_source]
    chosen.sort(key=lambda one: (datasets.index(one[0][1]), _rank(one[2]), -_accuracy(one[2])))
    for source, equal, (scored, group), has_rival in chosen:
        # of several runs, the most accurate
        predictions = results.predictions(scored.file, scored.split)
        tried = sum(len(candidate.runs) for candidate, _ in equal)
        fact = _main_fact(scored, group, predictions, tried, has_rival)
        main.facts.append(replace(fact, name=_title(source, [*by_source])))
        main.results.append(scored)
        if len(main.facts) == 1 and not scored.untestable:
            main.lowest.extend(summary.lowest_class(predictions, scored.name))
    if main.facts and not has_control:
        main.facts.append(Fact("Control", control_sentences()))
    return main


def _accuracy_and_settings(candidate: tuple[Scored, SameImages]) -> tuple[float, str]:
    """Return what decides between candidates, without their files' names."""
    return _accuracy(candidate), candidate[0].settings


def _accuracy(candidate: tuple[Scored, SameImages]) -> float:
    return candidate[0].measure().value


def _title(source: tuple[str, str], sources: Sequence[tuple[str, str]]) -> str:
    """Return the title of a main result: the model and the data set, where the sources differ."""
    models, datasets = map(set, zip(*sources, strict=True))
    title = summary.MAIN
    if len(models) > 1:
        title += f" of {escape(source[0]) or 'another model'}"
    if len(datasets) > 1:
        title += f" on {escape(source[1]) or 'other images'}"
    return title


def _main_fact(
    scored: Scored,
    group: SameImages,
    predictions: results.Predictions,
    tried: int,
    has_rival: bool,
) -> Fact:
    """Compare a result, the most accurate of `tried` runs, with chance and with its controls.

    With a rival, results without a control were not among those tried.
    """
    controls = []
    for control in group.controls_of(scored):
        if not control.untestable:
            controls.append(results.predictions(control.file, control.split))
    means = _means(scored)
    if not scored.has_one_run:
        runs = f"{len(scored.runs):,} runs on {scored.split} (optimistic)"
        means = f"{means}, the most accurate of {runs}"
    elif has_rival:
        means = f"{means}, best of {count(tried, 'result')} with a control"
    elif tried > 1:
        means = f"{means}, best of {tried:,} results"
    missing = ""
    if len(group.trained) < len(group.results):
        missing = "No untrained control was made in the same way from the same prompts."
    why = escape(scored.untestable)
    fact = summary.found(escape(means), predictions, controls, scored.name, missing, why, tried)
    if controls and not scored.has_one_run:
        chosen = " The control's run is the most accurate of its runs, too."
        fact = replace(fact, details=fact.details + chosen)
    return fact


def _means(scored: Scored) -> str:
    """Say in words how a result classifies, and what it was fitted on."""
    entry = newest_entry(scored.file)
    if entry["command"] == "zeroshot":
        templates = len(scored.file.last_entry("textembed").list_of("templates"))
        prompts = "one prompt" if templates < 2 else f"{templates} prompts"
        return f"zero-shot classification (no training, {prompts} per class)"
    run = scored.runs[0]
    if entry["command"] != "probe" or not {"classifier", "fit_split"} <= run.keys():
        return str(entry["command"])
    return f"a probe ({run['classifier']}, fitted on labelled images of {run['fit_split']})"


def _rank(candidate: tuple[Scored, SameImages]) -> tuple[bool, bool, bool]:
    scored, group = candidate
    return bool(scored.untestable), not scored.has_one_run, not group.controls_of(scored)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
