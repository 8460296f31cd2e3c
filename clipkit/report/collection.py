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
from clipkit.base import cells, tables
from clipkit.base.console import count
from clipkit.base.errors import ClipkitError
from clipkit.base.files import display_name
from clipkit.base.markdown import escape
from clipkit.base.names import distinct_names, select
from clipkit.base.tables import Column
from clipkit.base.views import of_command
from clipkit.features.columns import NOTHING, all_columns
from clipkit.features.compatibility import origin
from clipkit.features.matching import choose_split
from clipkit.features.model import RESULTS, FeatureFile
from clipkit.features.provenance import identities, is_untrained, provenance
from clipkit.report.blocks import (
    Bar,
    Block,
    Cell,
    Heading,
    Number,
    Origin,
    Picture,
    Table,
)
from clipkit.report.command_lines import Commands, make_origin
from clipkit.report.same_images import MOST_RUNS, group_by_images
from clipkit.report.scored import Scored
from clipkit.statistics import metrics

MOST_CLASSES = 3  # that are predicted most often for images without labels
SETTING_TITLES = {column.heading.title for column in all_columns() if column.depends_on == NOTHING}
NUMERIC = re.compile(r"-|[-+]?\d.*|")  # a cell of a column of numbers


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


class Files:
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
                self.left_out[name] = _reason(error, display_name(path))
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
                raise ClipkitError(
                    f"{path}: expected results of an untrained control, got none",
                    "ask the questions of the control, too, with -o: clipkit probe CONTROL -o FILE",
                )

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


def pictures_in(paths: Iterable[Path]) -> list[Picture]:
    """Return the pictures in the given folders."""
    pictures = []
    for folder in paths:
        for path in sorted(folder.glob("*.png")):
            pictures.append(Picture(path, escape(path.stem)))
    return pictures


def _reason(error: ClipkitError, file: str) -> str:
    """Return why a file is left out, without its name."""
    return error.message.removeprefix(f"{file}: ").removeprefix(f"cannot read {file}: ")


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Return files by their names or, if two are equal, by their paths in the common folder."""
    files = _list_files(paths)
    names = [display_name(path.name) for path in files]
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


class Parts:
    """What files hold, by their names: results on the same images, others, and feature files.

    `left_out` says why some are not shown.
    """

    def __init__(self, files: Mapping[str, FeatureFile]) -> None:
        self.left_out: dict[str, str] = {}
        scored: list[Scored] = []
        self.others: dict[_Source, dict[str, FeatureFile]] = {}  # results by their names
        self._feature_files: dict[str, FeatureFile] = {}
        for name, file in files.items():
            try:
                if file.kind not in RESULTS:
                    self._feature_files[name] = file
                elif results.holds_classes(file) and not _is_unlabelled(file):
                    scored.append(Scored.read(name, file))
                elif file.runs or results.holds_classes(file):
                    self.others.setdefault(_source(file), {})[name] = file
                else:
                    raise ClipkitError("expected runs, got none")
            except ClipkitError as error:
                self._leave_out(name, file, error)
        self.groups = group_by_images(scored)

    def blocks(self) -> list[Block]:
        """Return all tables, for a notebook."""
        blocks: list[Block] = []
        for group in self.groups:
            blocks += group.section() + group.changes()
        for source, files in self.others.items():
            blocks += self.of_source(source, files)
        return blocks + self.feature_files()

    def feature_files(self) -> list[Block]:
        """Return the table of the files that are no results, below a heading."""
        if not self._feature_files:
            return []
        return [Heading(3, "Feature files"), _feature_table(self._feature_files)]

    def of_source(self, source: _Source, files: dict[str, FeatureFile]) -> list[Block]:
        """Return the tables of results of a command on the same images, below a heading."""
        if any(map(_is_unlabelled, files.values())):
            blocks = _unlabelled_table(files)
        else:
            blocks = _explained_table(source.command, files)
        caveats = map(escape, results.caveat_notes(files))
        return [Heading(3, escape(source.heading)), *blocks, *caveats]

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
