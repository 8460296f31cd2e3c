"""Report files of results. Their histories say what they hold; their names do not matter."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clipkit import features
from clipkit.analysis import for_people, results
from clipkit.analysis.attributes import ANALYSIS as ATTRIBUTES
from clipkit.base import cells, console, tables
from clipkit.base.console import count
from clipkit.base.errors import ClipkitError
from clipkit.base.markdown import escape
from clipkit.base.names import distinct_names, select
from clipkit.base.tables import Column
from clipkit.base.views import of_command
from clipkit.features.arguments import FilePath, Several, as_list
from clipkit.features.columns import NOTHING, all_columns
from clipkit.features.compatibility import origin
from clipkit.features.matching import choose_split
from clipkit.features.model import RESULTS, FeatureFile
from clipkit.features.provenance import identities, is_untrained, provenance
from clipkit.report.blocks import (
    Bar,
    Block,
    Cell,
    Fact,
    Heading,
    Number,
    Origin,
    Page,
    Picture,
    Table,
)
from clipkit.report.command_lines import NO_COMMANDS, Commands, make_origin
from clipkit.report.expected import compare_figures, read_table
from clipkit.report.same_images import MOST_RUNS, Scored, group_by_images, sum_up
from clipkit.report.summary import answer, of_others
from clipkit.report.tables import provenance_table
from clipkit.statistics import metrics

MOST_CLASSES = 3  # that are predicted most often for images without labels
SETTING_TITLES = {column.heading.title for column in all_columns() if column.depends_on == NOTHING}
IN_MEMORY = "this result"  # the name of one that was not read from a file
NUMERIC = re.compile(r"-|[-+]?\d.*|")  # a cell of a column of numbers
ABOUT = (
    "The history of a file says what it holds. Results on the same images are in one table. "
    "Brackets after an accuracy hold Wilson's 95 % interval. The intervals of two results on the "
    "same images say little about their difference, so differences are paired. Chance is what "
    "the predictions give if they are permuted; for retrieval, what images give with the texts of "
    "others. "
    "An untrained control belongs to the results that were made in the same way from the same "
    "prompts. The summary and the bars have the most accurate of several controls."
)


class _Source(NamedTuple):
    """What the results of a table share.

    They have the command, the data set, the origin of the rows of each split, and the labels.
    """

    command: str
    dataset: str
    rows: tuple[tuple[str, ...], ...]
    labels: str

    @property
    def heading(self) -> str:
        """The heading of the table."""
        text = self.command
        if self.dataset:
            text += f" on {self.dataset}"
        return text + self.labels


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
    files = _Files(paths, controls, stack)
    sections = _Sections(files.by_name)
    files.leave_out(sections.left_out)
    reported = files.reported()
    reasons = files.reasons()
    if not reported:
        got = "; ".join(reasons) or f"no .h5 file in {', '.join(map(str, paths))}"
        raise ClipkitError(f"expected files that can be reported, got none: {got}")
    for reason in reasons:
        console.warn(f"left out {reason}")
    blocks = sections.blocks + _pictures(paths)
    published: list[Fact] = []
    if expected:
        figure_blocks, published = compare_figures(figures, files.by_name, expected, same_as)
        blocks = figure_blocks + blocks
    lead = _lead(reported)
    title = escape(results.sources_label([*reported.values()]))
    of_results = {}
    others = []
    for name, file in reported.items():
        if file.kind in RESULTS:
            of_results[name] = file
        else:
            others.append(file)
    what_was_run = f"{title}: {count(len(of_results), 'result')}"
    if others:
        what_was_run += f" and {count(len(others), 'feature file')}"
    facts = [
        *_facts(sections, reported, lead),
        *published,
        Fact("What was run", what_was_run),
    ]
    return Page(
        title,
        [provenance_table(files.by_name.values()), ABOUT],
        blocks,
        list(map(escape, reasons)),
        lead=reported.get(lead),
        summary=facts,
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
    sections = _Sections(named)
    for name, reason in sections.left_out.items():
        raise ClipkitError(f"{name}: {reason}")
    blocks: list[Block] = []
    for block in sections.blocks:
        blocks.append(block.without_file() if isinstance(block, Table) else block)
    return Page("", [], blocks, summary=_facts(sections, named, _lead(named)))


def _facts(sections: _Sections, reported: Mapping[str, FeatureFile], lead: str) -> list[Fact]:
    """Return what the reported files say, and the attributes of the result `lead`, if any."""
    of_attributes = answer(reported[lead], lead) if lead else []
    return [*sections.facts, *of_attributes, *of_others(reported)]


class _Files:
    """The files of a page by their names: those that it reports, and untrained controls.

    `left_out` has the names of the files that cannot be shown, with the reasons.
    """

    def __init__(
        self, paths: Sequence[Path], controls: Sequence[Path], stack: contextlib.ExitStack | None
    ) -> None:
        path_of = _named(paths)
        control_of = _named_controls(controls)
        self._reported = list(path_of)
        self._controls = list(control_of)
        self.by_name: dict[str, FeatureFile] = {}
        self.left_out: dict[str, str] = {}
        for name, path in (path_of | control_of).items():
            try:
                self.by_name[name] = _read(path, stack)
            except ClipkitError as error:
                self.left_out[name] = _reason(error, str(path))
        self._name_of = {file.digest: name for name, file in self.by_name.items()}
        for file in self.controls():
            if file.kind in RESULTS and not is_untrained(file):
                model = provenance(file).model or "a model that the history does not name"
                raise ClipkitError(
                    f"{file.display_name}: expected a result of an untrained model, got one of "
                    f"{model}",
                    "embed the images with: clipkit embed --untrained 7",
                )
        for name in control_of.keys() - path_of.keys() - self.left_out.keys():
            if self.by_name[name].kind not in RESULTS:
                del self.by_name[name]
        known = self.by_name.keys() | self.left_out.keys()
        for path in controls:
            members = [name for name, file in control_of.items() if path in (file, file.parent)]
            if known.isdisjoint(members):
                raise ClipkitError(f"{path}: expected results of an untrained control, got none")

    def leave_out(self, reasons: Mapping[str, str]) -> None:
        """Leave out files by their names, for the given reasons."""
        for name in reasons:
            del self.by_name[name]
        self.left_out |= reasons

    def reported(self) -> dict[str, FeatureFile]:
        """Return the files that the page reports, by their names."""
        return select(self.by_name, self._reported)

    def controls(self) -> list[FeatureFile]:
        """Return the results of untrained models."""
        return [*select(self.by_name, self._controls).values()]

    def reasons(self) -> list[str]:
        """Return why files are left out, with their names."""
        return [f"{name}: {reason}" for name, reason in self.left_out.items()]

    def origins(self, commands: Commands) -> dict[str, Origin]:
        """Return how each file was made, by its name."""
        origins = {}
        for name, file in self.by_name.items():
            origins[name] = make_origin(file, name, self._name_of.get, commands)
        return origins


def _list_files(paths: Iterable[Path]) -> list[Path]:
    """Return the given files, and the feature files in the given folders."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(path.glob("*.h5"))
        else:
            files.append(path)
    return files


def _pictures(paths: Iterable[Path]) -> list[Block]:
    """Return the pictures in the given folders, below a heading."""
    blocks: list[Block] = []
    for folder in paths:
        for path in sorted(folder.glob("*.png")):
            blocks.append(Picture(path, escape(path.stem)))
    if blocks:
        blocks.insert(0, Heading(2, "Pictures"))
    return blocks


def _reason(error: ClipkitError, file: str) -> str:
    """Return why a file is left out, without its name."""
    return error.message.removeprefix(f"{file}: ").removeprefix(f"cannot read {file}: ")


def _lead(files: Mapping[str, FeatureFile]) -> str:
    """Name a result of `attributes` that can be drawn, if possible of a model that answers."""
    columns = set(ATTRIBUTES.needs.split())
    lead = ""
    for name, file in files.items():
        is_drawn = columns.issubset(file.runs) and "null5" not in file.runs
        if results.newest_entry(file)["command"] != "attributes" or not is_drawn:
            continue
        if file.is_dot_product:
            return name
        lead = lead or name
    return lead


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Return files by their names or, if two are equal, by their paths in the common folder."""
    files = _list_files(paths)
    names = [path.name for path in files]
    if len(set(names)) < len(names):
        absolute = [path.absolute() for path in files]
        folder = os.path.commonpath([path.parent for path in absolute])
        names = [str(path.relative_to(folder)) for path in absolute]
    return dict(zip(names, files, strict=True))


def _named_controls(paths: Sequence[Path]) -> dict[str, Path]:
    """Return the files of controls, each by the names of its folder and the file."""
    files = _list_files(paths)
    names = [f"{path.resolve().parent.name}/{path.name}" for path in files]
    return dict(zip(distinct_names(names), files, strict=True))


def _read(path: Path, stack: contextlib.ExitStack | None) -> FeatureFile:
    """Read a result into memory, and other files without their features, kept open by a stack."""
    with contextlib.ExitStack() as opened:
        file = opened.enter_context(features.open_file(str(path)))
        if file.kind in RESULTS:
            results.check_run_count(file)
            return file.in_memory()
        if stack is not None:
            stack.enter_context(opened.pop_all())
        return file


class _Sections:
    """The sections and facts of a page on files, by their names, and why some are left out."""

    def __init__(self, files: Mapping[str, FeatureFile]) -> None:
        self.left_out: dict[str, str] = {}
        scored: list[Scored] = []
        others: dict[_Source, dict[str, FeatureFile]] = {}  # results by their names
        feature_files: dict[str, FeatureFile] = {}
        for name, file in files.items():
            try:
                if file.kind not in RESULTS:
                    feature_files[name] = file
                elif results.holds_classes(file) and not _is_unlabelled(file):
                    scored.append(Scored.read(name, file))
                elif file.runs or results.holds_classes(file):
                    others.setdefault(_source(file), {})[name] = file
                else:
                    raise ClipkitError("expected runs, got none")
            except ClipkitError as error:
                self._leave_out(name, file, error)
        groups = group_by_images(scored)
        self.facts = sum_up(groups)
        self.blocks: list[Block] = []
        for group in groups:
            self.blocks += group.section()
        for source, results_of in others.items():
            self.blocks += self._section(source, results_of)
        if feature_files:
            self.blocks += [Heading(2, "Feature files"), _feature_table(feature_files)]

    def _section(self, source: _Source, files: dict[str, FeatureFile]) -> list[Block]:
        """Return the tables of results of a command on the same images, below a heading."""
        if any(map(_is_unlabelled, files.values())):
            blocks = _unlabelled_table(files)
        else:
            blocks = _explained_table(source.command, files)
        caveats = map(escape, results.caveat_notes(files))
        return [Heading(2, escape(source.heading)), *blocks, *caveats]

    def _leave_out(self, name: str, file: FeatureFile, error: ClipkitError) -> None:
        self.left_out[name] = _reason(error, file.display_name)


def _is_unlabelled(file: FeatureFile) -> bool:
    """Whether a result has predicted classes, but no true ones."""
    return results.holds_classes(file) and file.splits[choose_split(file)[1]].labels is None


def _source(file: FeatureFile) -> _Source:
    entry = results.newest_entry(file)
    command = str(entry.object("question").get("asks", entry["command"]))  # of one's own
    keys = tuple(origin(file, split).key for split in ("test", "train", "all"))
    return _Source(command, provenance(file).dataset, keys, results.labels_suffix(file))


def _unlabelled_table(files: dict[str, FeatureFile]) -> list[Block]:
    """Return what results predict most often for images without labels."""
    rows = []
    for name, file in files.items():
        source, split = provenance(file), choose_split(file)[1]
        predicted = file.splits[split].predicted
        assert predicted is not None  # a result's split without predictions is invalid
        counts = np.bincount(predicted[0])
        names = distinct_names(results.class_names(file, len(counts) - 1))
        frequent = metrics.falling_order(counts)[:MOST_CLASSES]
        predictions = ", ".join(f"{names[c]} {counts[c]:,}" for c in frequent if counts[c])
        cells = [name, source.model or "-", source.prompts, split, predictions]
        rows.append([*map(escape, cells), f"{predicted.shape[1]:,}"])
    header = ["file", "model", "prompts", "split", "most frequent predictions", "images"]
    text = "These images have no labels, so that there is no accuracy."
    return [text, Table(header, rows, len(header) - 1, [*files])]


def _explained_table(command: str, files: dict[str, FeatureFile]) -> list[Block]:
    """Return one table of results, below what its columns are.

    A control that the results were compared with is in their columns, and has no further row.
    """
    blocks: list[Block] = []
    question = of_command(command)
    if question is not None:
        explanations = dict.fromkeys(map(question.explain, files.values()))
        blocks += filter(None, explanations)
    if any(map(_has_control_columns, files.values())):
        files = {name: file for name, file in files.items() if not is_untrained(file)}
    return [*blocks, *_joined_table(files)]


def _has_control_columns(file: FeatureFile) -> bool:
    return any(name.endswith("_control") for name in file.runs)


def _joined_table(files: dict[str, FeatureFile]) -> list[Block]:
    """Return the rows of results with columns that distinguish the results, and what is cut off."""
    reports = []
    headings = []
    sources = []
    notes = []
    for (name, file), identity in zip(files.items(), identities([*files.values()]), strict=True):
        rows = for_people.rows_for_people(file)
        if len(rows) > MOST_RUNS:
            has = f"{escape(name)} has {len(rows):,} rows"
            notes.append(f"{has}. The table has the first {MOST_RUNS}.")
        rows = rows[:MOST_RUNS]
        reports.append([{"file": name, **identity, **row} for row in rows])
        headings += [for_people.headings(file)] * len(rows)
        sources += [name] * len(rows)
    columns = tables.columns_for_people(tables.join(reports), headings)
    columns.sort(key=lambda column: (_is_numeric(column), not _is_setting(column)))
    texts = len(columns) - sum(map(_is_numeric, columns))
    settings = sum(_is_numeric(column) and _is_setting(column) for column in columns)
    header = [escape(column.title) for column in columns]
    of_columns = [map(_known, column.cells) for column in columns]
    cells = list(zip(*of_columns, strict=True))
    return [Table(header, cells, texts, sources, texts + settings), *notes]


def _is_numeric(column: Column) -> bool:
    return all(map(NUMERIC.fullmatch, column.cells))


def _is_setting(column: Column) -> bool:
    """Whether a column has names or settings, and no results."""
    return column.name in SETTING_TITLES


def _known(cell: str) -> Cell:
    """Return the Markdown of a cell, and its bar, if any; `-` marks what does not apply."""
    if cell == cells.EMPTY:
        return ""
    text = escape(cell)
    if not isinstance(cell, cells.Cell) or math.isnan(cell.value):
        return text
    bar = Bar(cell.value, cell.low, cell.high, cell.reference, cell.control)
    return Number(text, replace(bar, reference_name=cell.reference_name))


def _feature_table(files: dict[str, FeatureFile]) -> Table:
    """Return the table of the files that are no results."""
    rows = []
    for name, file in files.items():
        source = provenance(file)
        counts = [f"{split} {len(part):,}" for split, part in file.splits.items()]
        if file.texts:
            counts.append(count(len(file.texts), "prompt"))
        cells = [name, file.kind, source.model, source.dataset, source.prompts, ", ".join(counts)]
        rows.append(list(map(escape, cells)))
    header = ["file", "kind", "model", "data set", "prompts", "holds"]
    return Table(header, rows, len(header), [*files])
