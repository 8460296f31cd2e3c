"""Report files of results. Their histories say what they hold; their names do not matter."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clipkit import features
from clipkit.analysis import for_people, metrics, results
from clipkit.base import console, tables
from clipkit.base.console import count
from clipkit.base.errors import ClipkitError
from clipkit.base.names import distinct_names
from clipkit.base.tables import Column
from clipkit.features.columns import HEADINGS
from clipkit.features.compatibility import origin
from clipkit.features.model import RESULTS, FeatureFile
from clipkit.features.provenance import identities, is_untrained, provenance
from clipkit.report.blocks import Block, Fact, Heading, Page, Picture, Table
from clipkit.report.command_lines import NO_COMMANDS, Commands, make_origin
from clipkit.report.expected import compare_figures, read_table
from clipkit.report.markdown import escape
from clipkit.report.same_images import MOST_RUNS, Scored, group_by_images, sum_up
from clipkit.report.summary import answer, of_captions
from clipkit.report.tables import (
    EXPLANATIONS,
    RESULT_COLUMNS,
    attribute_table,
    provenance_table,
    variance_table,
)

MOST_CLASSES = 3  # that are predicted most often for images without labels
NUMERIC = re.compile(r"-|[-+]?\d.*|")  # a cell of a column of numbers
ABOUT = (
    "The history of a file says what it holds. Results on the same images are in one table. "
    "Brackets after an accuracy hold Wilson's 95 % interval. The intervals of two results on the "
    "same images say little about their difference, so differences are paired. Chance is the "
    "share of the most frequent class; for retrieval, what random ranks give. An untrained "
    "control belongs to the results that were made in the same way from the same prompts. The "
    "summary and the bars have the most accurate of several controls."
)


class _Source(NamedTuple):
    """The command, data set, origins of rows and labels that the results of a table share."""

    command: str
    dataset: str
    rows: tuple[tuple[str, ...], ...]
    labels: str


def of_files(
    paths: Sequence[Path],
    controls: Sequence[Path] = (),
    expected: str | None = None,
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
    figures = read_table(expected) if expected else []
    path_of = _named(paths)
    control_paths = _files(controls)
    names = [f"{path.resolve().parent.name}/{path.name}" for path in control_paths]
    control_of = dict(zip(distinct_names(names), control_paths, strict=True))
    files, left_out = _read_all(path_of | control_of, stack)
    name_of = {file.digest: name for name, file in files.items()}.get
    for name in filter(files.__contains__, control_of):
        _check_is_control(files[name])
        if files[name].kind not in RESULTS and name not in path_of:
            del files[name]
    for path in controls:
        members = [name for name, file in control_of.items() if path in (file, file.parent)]
        if not any(name in files or name in left_out for name in members):
            raise ClipkitError(f"{path}: expected results of an untrained control, got none")
    sections = _Sections(files)
    left_out |= sections.left_out
    for name in sections.left_out:
        del files[name]
    reasons = [f"{name}: {reason}" for name, reason in left_out.items()]
    reported = {name: files[name] for name in path_of if name in files}
    if not reported:
        got = "; ".join(reasons) or f"no .h5 file in {', '.join(map(str, paths))}"
        raise ClipkitError(f"expected files that can be reported, got none: {got}")
    for reason in reasons:
        console.warn(f"left out {reason}")
    facts, blocks = sections.facts, sections.blocks + _pictures(paths)
    if expected:
        table, fact = compare_figures(figures, files, expected, same_as)
        facts, blocks = fact + facts, table + blocks
    lead = _lead(reported.values())
    if lead is not None:
        facts = [*facts[:1], *answer(lead), *facts[1:]]
    facts = [*facts, *of_captions(reported)]
    title = escape(results.sources_label([*reported.values()]))
    found = {name: file for name, file in reported.items() if file.kind in RESULTS}
    others = [file for file in reported.values() if file.kind not in RESULTS]
    return Page(
        title,
        [provenance_table(files.values()), ABOUT],
        blocks,
        list(map(escape, reasons)),
        lead=lead,
        summary=[*facts, _count(title, len(found), len(others))],
        origins={name: make_origin(file, name, name_of, commands) for name, file in files.items()},
        results=found,
        feature_files=others if stack is not None else (),
        controls=[files[name] for name in control_of if name in files],
    )


def _files(paths: Iterable[Path]) -> list[Path]:
    """Return the given files, and the feature files in the given folders."""
    found: list[Path] = []
    for path in paths:
        found += sorted(path.glob("*.h5")) if path.is_dir() else [path]
    return found


def _pictures(paths: Iterable[Path]) -> list[Block]:
    """Return the pictures in the given folders."""
    found = [picture for path in paths for picture in sorted(path.glob("*.png"))]
    pictures: list[Block] = [Picture(path, escape(path.stem)) for path in found]
    return [Heading(2, "Pictures"), *pictures] if pictures else []


def _check_is_control(file: FeatureFile) -> None:
    if file.kind in RESULTS and not is_untrained(file):
        model = provenance(file).model or "a model that the history does not name"
        raise ClipkitError(
            f"{file.display_name}: expected a result of an untrained model, got one of {model}",
            "embed the images with: clipkit embed --untrained 7",
        )


def _count(title: str, found: int, others: int) -> Fact:
    """Return what was run: the title with the number of results and of other files."""
    text = f"{title}: {count(found, 'result')}"
    if others:
        text += f" and {count(others, 'feature file')}"
    return Fact("What was run", text)


def _reason(error: ClipkitError, file: str) -> str:
    """Return why a file is left out, without its name."""
    return error.message.removeprefix(f"{file}: ").removeprefix(f"cannot read {file}: ")


def _lead(files: Iterable[FeatureFile]) -> FeatureFile | None:
    """Return a result of `attributes` that can be drawn; a model that answers comes first."""
    columns = set(RESULT_COLUMNS["attributes"].split())
    found = []
    for file in files:
        is_drawn = columns.issubset(file.runs) and "null5" not in file.runs
        if results.newest_entry(file)["command"] == "attributes" and is_drawn:
            found.append(file)
    found.sort(key=lambda file: not file.is_dot_product)
    return found[0] if found else None


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Return the files by their names or, if names are equal, their paths in the folder of all."""
    files = _files(paths)
    names = [path.name for path in files]
    if len(set(names)) < len(names):
        absolute = [path.absolute() for path in files]
        folder = os.path.commonpath([path.parent for path in absolute])
        names = [str(path.relative_to(folder)) for path in absolute]
    return dict(zip(names, files, strict=True))


def _read_all(
    path_of: Mapping[str, Path], stack: contextlib.ExitStack | None
) -> tuple[dict[str, FeatureFile], dict[str, str]]:
    """Read files by their names; return them, and the reasons why others cannot be read."""
    files: dict[str, FeatureFile] = {}
    left_out: dict[str, str] = {}
    for name, path in path_of.items():
        try:
            files[name] = _read(path, stack)
        except ClipkitError as error:
            left_out[name] = _reason(error, str(path))
    return files, left_out


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
        self._scored: list[Scored] = []
        self._tables: dict[_Source, dict[str, FeatureFile]] = {}  # results by their names
        self._feature_files: dict[str, FeatureFile] = {}
        for name, file in files.items():
            self._add(name, file)
        groups = group_by_images(self._scored)
        self.facts = sum_up(groups)
        self.blocks: list[Block] = []
        for group in groups:
            self.blocks += group.section()
        for source, named in self._tables.items():
            tables = self._tables_of(source.command, named)
            if tables:
                heading = " on ".join(filter(None, [source.command, source.dataset]))
                self.blocks += [Heading(2, escape(heading + source.labels)), *tables]
                self.blocks += map(escape, results.caveat_notes(named))
        if self._feature_files:
            self.blocks += [Heading(2, "Feature files"), _feature_table(self._feature_files)]

    def _add(self, name: str, file: FeatureFile) -> None:
        try:
            if file.kind not in RESULTS:
                self._feature_files[name] = file
            elif results.holds_classes(file) and not _is_unlabelled(file):
                self._scored.append(Scored.read(name, file))
            elif file.runs or results.holds_classes(file):
                self._tables.setdefault(_source(file), {})[name] = file
            else:
                raise ClipkitError("expected runs, got none")
        except ClipkitError as error:
            self._leave_out(name, file, error)

    def _tables_of(self, command: str, files: dict[str, FeatureFile]) -> list[Block]:
        """Return the tables of results of a command on the same images."""
        if command not in ("attributes", "variance"):
            if any(map(_is_unlabelled, files.values())):
                return _unlabelled_table(files)
            if any(name.endswith("_control") for file in files.values() for name in file.runs):
                files = {name: file for name, file in files.items() if not is_untrained(file)}
            text = EXPLANATIONS.get(command)
            return [*filter(None, [text]), _joined_table(files)]
        blocks: list[Block] = []
        for name, file in files.items():
            try:
                table = _recognised_table(command, name, file)
                blocks += [Heading(3, escape(name)), *table]
            except ClipkitError as error:
                self._leave_out(name, file, error)
        return blocks

    def _leave_out(self, name: str, file: FeatureFile, error: ClipkitError) -> None:
        self.left_out[name] = _reason(error, file.display_name)


def _is_unlabelled(file: FeatureFile) -> bool:
    """Whether a result has predicted classes, but no true ones."""
    return results.holds_classes(file) and file.splits[results.choose_split(file)].labels is None


def _source(file: FeatureFile) -> _Source:
    command = str(results.newest_entry(file)["command"])
    keys = tuple(origin(file, split).key for split in ("test", "train", "all"))
    return _Source(command, provenance(file).dataset, keys, results.labels_suffix(file))


def _unlabelled_table(files: dict[str, FeatureFile]) -> list[Block]:
    """Return what results predict most often for images without labels."""
    rows = []
    for name, file in files.items():
        source, split = provenance(file), results.choose_split(file)
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


def _recognised_table(command: str, name: str, file: FeatureFile) -> list[Block]:
    """Return the table of `attributes` or `variance`, with bars."""
    if command == "attributes":
        return attribute_table(file, name)
    if "prompt" in file.runs:
        shares = results.columns_of(file, command, "share above")["share"]
        cells = int(np.isfinite(shares).sum())
        note = f"About {0.01 * cells:.2g} of the {cells:,} cells are above by chance (1 %)."
        return [_joined_table({name: file}), note]
    return variance_table(file, name)


def _joined_table(files: dict[str, FeatureFile]) -> Table:
    """Return the rows of results with columns that tell the results apart."""
    reports = []
    sources = []
    for (name, file), identity in zip(files.items(), identities([*files.values()]), strict=True):
        rows = for_people.rows_for_people(file)[:MOST_RUNS]
        reports.append([{"file": name, **identity, **row} for row in rows])
        sources += [name] * len(rows)
        if file.run_count > MOST_RUNS:
            console.note(f"{name}: the table has the first {MOST_RUNS} of {file.run_count:,} rows")
    columns = tables.columns_for_people(tables.join(reports), HEADINGS)
    columns.sort(key=_is_numeric)  # texts first
    texts = len(columns) - sum(map(_is_numeric, columns))
    header = [escape(column.title) for column in columns]
    cells = [map(_known, column.cells) for column in columns]
    return Table(header, list(zip(*cells, strict=True)), texts, sources)


def _is_numeric(column: Column) -> bool:
    return all(map(NUMERIC.fullmatch, column.cells))


def _known(cell: str) -> str:
    """Return the Markdown of a cell; `-` marks what does not apply."""
    return "" if cell == "-" else escape(cell)


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
