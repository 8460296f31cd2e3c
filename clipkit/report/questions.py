"""Arrange results by the questions that they answer: the sections of a page, in their order."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from clipkit.analysis import results
from clipkit.analysis.attributes import ANALYSIS as ATTRIBUTES
from clipkit.analysis.sections import (
    BETTER,
    CAPTIONS,
    CHANGES,
    EXPLAINED,
    KNOWN,
    MADE,
    MISTAKES,
    PROBABILITIES,
    RIGHT,
    SECTIONS,
)
from clipkit.analysis.verdicts import claims_of
from clipkit.base import console
from clipkit.base.console import count
from clipkit.base.errors import ClipkitError, listed, shorten
from clipkit.base.markdown import escape
from clipkit.base.views import of_command
from clipkit.features.arguments import FilePath, Several, as_list
from clipkit.features.matching import choose_split
from clipkit.features.model import RESULTS, FeatureFile
from clipkit.features.provenance import is_untrained, provenance
from clipkit.plots import PICTURES, pictures_of, style
from clipkit.plots.attributes import draw_attributes, draw_two_models
from clipkit.plots.confusion import draw_classes, draw_confusion
from clipkit.plots.dumbbells import LABELS, dumbbells, ways
from clipkit.plots.marks import Points
from clipkit.plots.picture import Picture as PictureRecord
from clipkit.plots.style import Drawn
from clipkit.report.blocks import (
    Bar,
    Block,
    Cell,
    Drawing,
    Fact,
    Heading,
    Measurement,
    Number,
    Page,
    Picture,
    Question,
    Table,
)
from clipkit.report.collection import Files, Parts, pictures_in
from clipkit.report.command_lines import NO_COMMANDS, Commands
from clipkit.report.expected import compare_figures, read_table
from clipkit.report.markdown import format_percent
from clipkit.report.same_images import SameImages, sum_up
from clipkit.report.scored import Scored
from clipkit.report.steps import settings_of_any_model
from clipkit.report.summary import answer, name_model, of_others, shared_errors
from clipkit.report.tables import provenance_table
from clipkit.report.ways import (
    ModelPair,
    Way,
    best_ways,
    describe,
    main_of,
    pair_facts,
    pair_models,
    pair_table,
    place_in,
    way_labels,
    way_table,
)
from clipkit.statistics import claims
from clipkit.statistics.main_number import ACCURACY

IN_MEMORY = "this result"  # the name of one that was not read from a file
ABOUT = (
    "Brackets hold Wilson's 95 % interval. Chance is what permuted predictions give; for "
    "retrieval, what images give with the texts of others. An untrained control was made in the "
    "same way from the same prompts."
)
NOT_COMPARED = (
    "Results on other images, or with other classes, are in tables of their own and are not "
    "compared."
)
MOST_ROWS, MOST_COLUMNS = 12, 7  # of a table that stands open
MOST_CONFUSIONS = 5
MOST_NAMED = 4  # ways in a title
REPORTED_HINT = "name results or a folder of them; probe -o and zeroshot -o write them"


def section_of(file: FeatureFile) -> str:
    """Return the section of a result; a file that is no result shows how others were made."""
    question = of_command(str(results.newest_entry(file)["command"]))
    return KNOWN if question is None else str(question.section)


def can_draw_attributes(file: FeatureFile) -> bool:
    """Whether a file is a result of `attributes` with shares, which has all columns."""
    if results.newest_entry(file)["command"] != ATTRIBUTES.name or "null5" in file.runs:
        return False
    return set(ATTRIBUTES.needs.split()).issubset(file.runs)


def count_decided(file: FeatureFile) -> int:
    """Return about how many attributes something is said."""
    return sum(claim.verdict != claims.NOT_DECIDED for claim in claims_of(file))


class Sections:
    """The questions of a page, as they are filled.

    Parameters
    ----------
    named : mapping of str to FeatureFile
        The files that are reported.
    groups : sequence of SameImages
    """

    def __init__(self, named: Mapping[str, FeatureFile], groups: Sequence[SameImages]) -> None:
        self._facts: dict[str, list[Fact]] = {name: [] for name in SECTIONS}
        self._folded: dict[str, list[Block]] = {name: [] for name in SECTIONS}
        self._drawings: dict[str, list[Drawing]] = {name: [] for name in SECTIONS}
        self._tables: dict[str, Table] = {}
        self._named = named
        # Whether attributes were held against the errors
        self._is_explained = MISTAKES in map(section_of, named.values())
        # The models that are compared first, the better one first
        self._better: Sequence[str] = ()
        self._compare_models(groups)
        self._say_accuracies(groups)
        self._say_attributes()
        for section, facts in of_others(named).items():
            self._facts[section] += facts
        self._draw_others()

    def add(self, section: str, blocks: Iterable[Block]) -> None:
        """Fold blocks into a section. Its first small table stands open."""
        for block in blocks:
            is_small = isinstance(block, Table) and _is_small(block)
            if is_small and section not in self._tables and section in (CAPTIONS, PROBABILITIES):
                self._tables[section] = block  # type: ignore[assignment]
            else:
                self._folded[section].append(block)

    def say(self, section: str, facts: Iterable[Fact]) -> None:
        """Add facts to a section."""
        self._facts[section] += facts

    def add_pictures(self, pictures: Iterable[Picture]) -> None:
        """Fold pictures of a folder, each into the section of the result that it is named after."""
        of_section: dict[str, list[Block]] = {}
        for picture in pictures:
            of_section.setdefault(self._section_of_picture(picture), []).append(picture)
        for section, blocks in of_section.items():
            self._folded[section] += [Heading(3, "Pictures of the folder"), *blocks]

    def _section_of_picture(self, picture: Picture) -> str:
        stems = {Path(name).stem: file for name, file in self._named.items()}
        name = picture.path.stem
        record = PICTURES.get(name.rpartition(".")[2])
        if record is not None and record.section:
            return record.section
        while name not in stems and "." in name:
            name = name.rpartition(".")[0]
        if name in stems:
            return section_of(stems[name])
        if record is not None and record.of:
            question = of_command(record.of[0])
            return MADE if question is None else str(question.section)
        return MADE

    def questions(self) -> list[Question]:
        """Return the questions that have an answer, in the order of SECTIONS."""
        found = []
        for section in SECTIONS:
            drawings: list[Drawing] = self._drawings[section]
            folded: list[Block] = [*drawings[1:], *self._folded[section]]
            table = self._tables.get(section)
            if not (drawings or folded or table or self._facts[section]):
                continue
            first = drawings[0] if drawings else None
            is_explained = section == MISTAKES and self._is_explained
            text = EXPLAINED if is_explained else SECTIONS[section]
            found.append(Question(section, text, self._facts[section], first, table, folded))
        return found

    def _compare_models(self, groups: Sequence[SameImages]) -> None:
        """Compare models that were asked alike, and draw two of them in one picture."""
        pairs = pair_models(groups)
        if not pairs:
            return
        self._facts[BETTER] += pair_facts(pairs)
        self._tables[BETTER] = pair_table(pairs)
        lead = pairs[0]
        self._better = lead.models
        attributes = [
            file
            for model in lead.models
            for file in self._attribute_results()
            if provenance(file).model == model
        ]
        if len(attributes) == 2 and draws_together(*attributes):
            self._drawings[BETTER].append(Drawing(draw_two_models, attributes))
        of_two = [pair for pair in pairs if set(pair.models) == set(lead.models)]
        self._drawings[BETTER].append(Drawing(_draw_pairs, [of_two]))

    def _say_accuracies(self, groups: Sequence[SameImages]) -> None:
        """Say how often models are right by each way of asking, and what the main one confuses."""
        main = sum_up(groups)
        self._facts[RIGHT] += main.facts
        best = best_ways(groups, self._better)
        if best:
            self._tables[RIGHT] = way_table(best)
            if len(best) > 1 or best[0].controls:
                self._drawings[RIGHT].append(Drawing(_draw_ways, [best]))
        for group in groups:
            self._folded[RIGHT] += group.section()
            changes = group.changes()
            if changes:
                self._folded[CHANGES] += changes
        for scored in main.results[:1]:
            options = scored.file, choose_split(scored.file)[1], None, None
            self._drawings[MISTAKES] = [
                Drawing(draw_confusion, options, is_linked=True),
                Drawing(draw_classes, options),
            ]
            predictions = results.predictions(scored.file, scored.split)
            shared = shared_errors(predictions, scored.file, scored.split, scored.name)
            mistakes = shared + main.lowest
            if len({provenance(other.file).model for other in main.results}) > 1:
                mistakes = [name_model(fact, scored.file) for fact in mistakes]
            self._facts[MISTAKES] += mistakes
            self._is_explained |= bool(shared)
            table = _confusion_table(scored)
            if table is not None:
                self._tables[MISTAKES] = table

    def _attribute_results(self) -> list[FeatureFile]:
        """Return the results of `attributes` that can be drawn.

        Those of the better model come first, and those that a model says.
        """
        found = [
            file
            for file in self._named.values()
            if can_draw_attributes(file) and not is_untrained(file)
        ]

        def order(file: FeatureFile) -> tuple[int, bool, int]:
            place = place_in(self._better, provenance(file).model)
            return place, not file.is_dot_product, -count_decided(file)

        return sorted(found, key=order)

    def _say_attributes(self) -> None:
        """Say which attributes each model knows, and draw those of the first one."""
        found = self._attribute_results()
        name_of = {id(file): name for name, file in self._named.items()}
        models = {provenance(file).model for file in found}
        for number, file in enumerate(found):
            facts = answer(file, name_of[id(file)])
            if len(models) > 1 and facts:
                facts[0] = name_model(facts[0], file)
            self._facts[KNOWN] += facts[: None if number == 0 else 1]
            self._drawings[KNOWN].append(Drawing(draw_attributes, [file]))
        if found:
            self._tables[KNOWN] = attribute_table(found[0])

    def _draw_others(self) -> None:
        """Draw the results of other questions; results of one picture that differ are one."""
        chosen: dict[tuple[str, ...], tuple[PictureRecord, list[FeatureFile]]] = {}
        for name, file in self._named.items():
            if file.kind == "images" or not file.runs or is_untrained(file):
                continue
            for picture in pictures_of(file):
                if not picture.is_reported(file):
                    continue
                settings = settings_of_any_model(file) or name
                key: tuple[str, ...] = (picture.name, settings, str(provenance(file).model))
                if picture.draw_together is not None:
                    key = (picture.name,)
                chosen.setdefault(key, (picture, []))[1].append(file)
        for picture, members in chosen.values():
            drawings = self._drawings[picture.section or section_of(members[0])]
            if picture.draw_together is not None:
                drawings.insert(0, Drawing(picture.draw_together, [members]))
            else:
                drawings.append(Drawing(picture.draw_file, [members[0]]))


def _is_small(table: Table) -> bool:
    """Whether a table may stand open: it has few rows, and its columns fit beside each other."""
    arranged = table.arranged()
    return len(arranged.rows) <= MOST_ROWS and len(arranged.header) <= MOST_COLUMNS


def draws_together(first: FeatureFile, second: FeatureFile) -> bool:
    """Whether two results have attributes in common."""
    names = set(first.runs["attribute"].tolist())
    return bool(names.intersection(second.runs["attribute"].tolist()))


def asked_questions(files: Iterable[FeatureFile]) -> list[Fact]:
    """Say which questions generative models were asked about each image."""
    asked = dict.fromkeys(str(file.history.model.get("question", "")) for file in files)
    texts = [f"“{escape(shorten(question))}”" for question in asked if question]
    return [Fact("Asked of each image", listed(texts, MOST_NAMED))] if texts else []


def attribute_table(file: FeatureFile) -> Table:
    """Return a row for each attribute: what words and a probe reach, and what may be said of it."""
    rows: list[list[Cell]] = []
    found = claims_of(file)
    for number, run in enumerate(file.rows()):
        cells: list[Cell] = [escape(run["attribute"])]
        for name in ("zeroshot", "probe"):
            control = run["control"] if name == "probe" else math.nan
            low, high = (run.get(f"{name}_{end}", math.nan) for end in ("low", "high"))
            bar = Bar(run[name], low, high, run["chance"], control)
            text = format_percent(run[name])
            cells.append(Number(text, bar) if text else "")
        cells.append(format_percent(run["control"]))
        verdicts = [claim.verdict for claim in found if claim.run == number]
        rows.append([cells[0], escape("; ".join(verdicts)), *cells[1:]])
    header = ["attribute", "verdict", "words (%)", "probe (%)", "probe of the control (%)"]
    return Table(header, rows, 2, key_columns=1)


def _confusion_table(scored: Scored) -> Table | None:
    """Return the most frequent errors of a result; None without any."""
    matrix = results.count(results.predictions(scored.file, scored.split))
    errors = np.asarray(matrix.counts) * (1 - np.eye(len(matrix.counts), dtype=np.int64))
    order = np.argsort(-errors, axis=None, kind="stable")[:MOST_CONFUSIONS]
    names = style.sanitize_names(matrix.class_names, 40)
    rows = []
    for place in order.tolist():
        true, predicted = divmod(place, len(errors))
        if errors[true, predicted]:
            total = int(np.asarray(matrix.counts)[true].sum())
            cells = [escape(names[true]), escape(names[predicted])]
            rows.append([*cells, f"{int(errors[true, predicted]):,}", f"{total:,}"])
    if not rows:
        return None
    return Table(["true class", "predicted class", "images", "of"], rows, 2, key_columns=1)


def _draw_pairs(pairs: Sequence[ModelPair]) -> Drawn:
    """Draw two models' accuracies by each way of asking that they share."""
    models = pairs[0].models
    values = []
    for model in models:
        of_model = []
        for pair in pairs:
            one = pair.first if pair.models[0] == model else pair.second
            of_model.append(one.measure().value)
        values.append(Points(of_model, of_model, of_model))
    decided = []
    for pair in pairs:
        low, high = claims.paired_limits(pair.row)
        decided.append(low > 0 or high < 0)
    names = [describe(pair.first) for pair in pairs]
    what = pairs[0].first.main
    kinds = {what: (values[0], values[1])}
    chance = [pair.first.chance() for pair in pairs]
    texts = (f"{what} (%)", LABELS[1])
    title = claims.difference_sentence(pairs[0].row, "image")
    figure = dumbbells(
        names, kinds, {what: decided}, models, chance=chance, texts=texts, title=title
    )
    files = [pairs[0].first.file, pairs[0].second.file]
    return figure, results.sources_label(files, [pairs[0].first.split])


def _draw_ways(best: Sequence[Way]) -> Drawn:
    """Draw the accuracy of the best of each way of asking."""
    measured = [way.measurement for way in best]
    values = [one.value for one in measured]
    accuracy = Points(values, [one.low for one in measured], [one.high for one in measured])
    controls = [way.control or Measurement(math.nan) for way in best]
    control_points = Points(
        [one.value for one in controls],
        [one.low for one in controls],
        [one.high for one in controls],
    )
    names = way_labels(best)
    datasets, _, models = map(set, zip(*[way.of for way in best], strict=True))
    parts = []
    for way, value in zip(best, values, strict=True):
        dataset, _, model = way.of
        name = way.kind
        if len(models) > 1:
            name = f"{model} {name}"
        elif len(datasets) > 1:
            name = f"{dataset} {name}"
        parts.append(f"{name} {100 * value:.1f} %")
    what = main_of(best)
    lead = "Right" if what == ACCURACY else what.capitalize()
    title = f"{lead}: {listed(parts, MOST_NAMED)}"
    chance = [way.chance for way in best]
    figure = ways(names, accuracy, control_points, chance, what=what, title=title)
    scored = [way.members[0] for way in best]
    files = [one.file for one in scored]
    return figure, results.sources_label(files, [one.split for one in scored])


def _as_paths(paths: Several[FilePath], name: str) -> list[Path]:
    """Return the paths of files and folders, of which one may be given alone."""
    return list(map(Path, as_list(paths, name, str)))


def of_files(
    paths: Several[FilePath],
    controls: Several[FilePath] = (),
    expected: FilePath | None = None,
    commands: Commands = NO_COMMANDS,
    stack: contextlib.ExitStack | None = None,
    same_as: Mapping[str, str] | None = None,
) -> Page:
    """Report feature files, most of them results.

    A file that is damaged or missing is left out, with the reason.

    Parameters
    ----------
    paths : sequence of Path
        Files, or folders of `.h5` files and of pictures.
    controls : sequence of Path
        Folders with results of untrained models, or such results.
    expected : str, optional
        A table of published figures; see `expected.read_table`.
    commands : mapping, optional
        The options of each command, for the command lines that made the files; see `Commands`.
    stack : ExitStack, optional
        Keeps feature files open, so that an album can have scores and images of prompts.
    same_as : mapping, optional
        The published names of the `model` and the `dataset` of the results; see `expected`.

    Raises
    ------
    ClipkitError
        If no file can be reported, the table is malformed, or a control is a trained model's.
    """
    paths, controls = _as_paths(paths, "paths"), _as_paths(controls, "controls")
    expected = None if expected is None else os.fspath(expected)
    figures = read_table(expected) if expected else []
    files = Files(paths, controls, stack)
    parts = Parts(files.by_name)
    files.leave_out(parts.left_out)
    reported = files.reported()
    reasons = files.reasons()
    if not reported:
        got = "; ".join(reasons) or f"no .h5 file in {', '.join(map(str, paths))}"
        raise ClipkitError(f"expected files that can be reported, got none: {got}", REPORTED_HINT)
    for reason in reasons:
        console.warn(f"left out {reason}")
    sections = Sections(files.by_name, parts.groups)
    for source, results_of in parts.others.items():
        section = section_of(next(iter(results_of.values())))
        sections.add(section, parts.of_source(source, results_of))
    if expected:
        figure_blocks, published = compare_figures(figures, files.by_name, expected, same_as)
        sections.say(MADE, published)
        sections.add(MADE, figure_blocks)
    title = escape(results.sources_label([*reported.values()]))
    of_results = {}
    others = []
    for name, file in reported.items():
        if file.kind in RESULTS:
            of_results[name] = file
        else:
            others.append(file)
    what_was_run = count(len(of_results), "result")
    if others:
        what_was_run += f" and {count(len(others), 'feature file')}"
    sections.say(MADE, [Fact("What was run", f"{title}: {what_was_run}")])
    sections.add_pictures(pictures_in(paths))
    sections.add(MADE, parts.feature_files())
    about = [ABOUT] if len(parts.groups) < 2 else [ABOUT, NOT_COMPARED]
    sections.add(MADE, [provenance_table(files.by_name.values()), *about])
    return Page(
        title,
        [],
        list(map(escape, reasons)),
        asked_questions(reported.values()),
        questions=sections.questions(),
        origins=files.origins(commands),
        results=of_results,
        feature_files=others if stack is not None else (),  # without a stack, they are closed
        controls=files.controls(),
    )


def of_result(result: FeatureFile) -> Page:
    """Report one result that is in memory: its tables, and what they say.

    Raises
    ------
    ClipkitError
        If it cannot be reported.
    """
    results.check_run_count(result)
    is_read = result.display_name != FeatureFile.display_name
    named = {Path(result.display_name).name if is_read else IN_MEMORY: result}
    parts = Parts(named)
    for name, reason in parts.left_out.items():
        raise ClipkitError(f"{name}: {reason}")
    blocks: list[Block] = []
    for block in parts.blocks():
        blocks.append(block.without_file() if isinstance(block, Table) else block)
    main = sum_up(parts.groups)
    facts = [*main.facts, *main.lowest]
    for name, file in named.items():
        if can_draw_attributes(file):
            facts += answer(file, name)
    for of_section in of_others(named).values():
        facts += of_section
    return Page("", blocks, summary=facts)
