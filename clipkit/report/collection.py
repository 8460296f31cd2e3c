"""Report any set of result files. Their histories say what they hold; their names do not matter."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from clipkit import comparison, console, features, metrics, results, tables
from clipkit.errors import ClipkitError
from clipkit.features import FeatureFile
from clipkit.features.isolation import one_subprocess
from clipkit.features.model import RESULTS
from clipkit.features.provenance import dataset_entries, identities, original_split, provenance
from clipkit.layout import Column
from clipkit.report import summary, understanding
from clipkit.report.blocks import Bar, Block, Cell, Drawing, Fact, Heading, Number, Page, Table
from clipkit.report.chapters import ATTRIBUTES_CAPTION
from clipkit.report.claims import Run
from clipkit.report.command_lines import make_origin
from clipkit.report.controls import are_prompts_known, is_untrained, run_settings, settings
from clipkit.report.formatting import escape
from clipkit.tables import distinct_names

MOST_RUNS = 100  # of a file in a table
MOST_CLASSES = 3  # that are predicted most often for images without labels
TEXT_COLUMNS = {"file", "model", "prompts", "result of", "classifier"}
NUMERIC = re.compile(r"-|[-+]?\d.*|")  # a cell of a column of numbers
ABOUT = (
    "The history of a file says what it holds. Results on the same images are in one table. "
    "Brackets after an accuracy hold Wilson's 95 % interval. The intervals of two results on the "
    "same images say little about their difference, so differences are paired. Chance is the "
    "share of the most frequent class. An untrained control belongs to the results that were made "
    "in the same way from the same prompts. Of several controls, the summary and the bars have the "
    "most accurate."
)


@dataclass(frozen=True)
class Scored:
    """What the runs of a result predicted on its evaluated split, under the result's name.

    The images are in the order of their ids.
    """

    name: str
    file: FeatureFile
    split: str
    rows: list[Run]
    ids: list[str]
    labels: np.ndarray[Any, np.dtype[np.int64]]
    right: np.ndarray[Any, np.dtype[np.bool_]]  # (R, N)

    @property
    def is_control(self) -> bool:
        """Whether the model is an untrained control."""
        return is_untrained(self.file)

    @cached_property
    def settings(self) -> str:
        """What a result and its control share, or "" if the history does not tell the prompts."""
        return settings(self.file) if are_prompts_known(self.file) else ""

    def runs_like(self, other: Scored, run: int) -> Scored:
        """Return only the runs with the settings of a run of another result."""
        wanted = run_settings(other.file, other.rows[run])
        is_alike = np.array([run_settings(self.file, row) == wanted for row in self.rows])
        return replace(self, rows=list(compress(self.rows, is_alike)), right=self.right[is_alike])


@one_subprocess()
def of_files(paths: Sequence[Path]) -> Page:
    """Report feature files, most of them results.

    A file that is damaged or missing is left out, with the reason.

    Raises
    ------
    ClipkitError
        If no file can be reported.
    """
    left_out: dict[str, str] = {}
    files: dict[str, FeatureFile] = {}
    path_of = dict(zip(_names(paths), paths, strict=True))
    for name, path in path_of.items():
        try:
            files[name] = _read(path)
        except ClipkitError as error:
            left_out[name] = _reason(error, str(path))
    blocks, facts = _sections(files, left_out)
    reasons = [f"{name}: {reason}" for name, reason in left_out.items()]
    if not blocks:
        raise ClipkitError(f"expected files that can be reported, got none: {'; '.join(reasons)}")
    for reason in reasons:
        console.warn(f"left out {reason}")
    name_of = {file.digest: name for name, file in files.items()}
    reported = [file for name, file in files.items() if name not in left_out]
    title = escape(results.sources_label(reported))
    return Page(
        title,
        [ABOUT],
        blocks,
        [escape(reason) for reason in reasons],
        lead=_lead(files.values()),
        summary=[Fact("What was run", f"{title}: {_count(reported)}"), *facts],
        origins={name: make_origin(file, name, name_of.get) for name, file in files.items()},
        files={name: path for name, path in path_of.items() if name not in left_out},
    )


def _reason(error: ClipkitError, file: str) -> str:
    """Return why a file is left out, without its name."""
    return error.message.removeprefix(f"{file}: ").removeprefix(f"cannot read {file}: ")


def _lead(files: Iterable[FeatureFile]) -> Drawing | None:
    """Return the picture of the first result of `attributes`."""
    columns = set(understanding.ATTRIBUTES.split())
    for file in files:
        if results.last_entry(file)["command"] == "attributes" and columns.issubset(file.runs):
            return Drawing(file, ATTRIBUTES_CAPTION)
    return None


def _count(files: Sequence[FeatureFile]) -> str:
    n = sum(file.kind in RESULTS for file in files)
    others = len(files) - n
    parts = ["1 result" if n == 1 else f"{n} results"]
    if others:
        parts.append("1 feature file" if others == 1 else f"{others} feature files")
    return " and ".join(parts)


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the files' names or, if names are equal, their paths in the folder of all."""
    names = [path.name for path in paths]
    if len(set(names)) == len(names):
        return names
    absolute = [path.absolute() for path in paths]
    folder = os.path.commonpath([path.parent for path in absolute])
    return [str(path.relative_to(folder)) for path in absolute]


def _read(path: Path) -> FeatureFile:
    """Read a result into memory; of another file, all but the features."""
    with features.open_file(str(path)) as file:
        if file.kind in RESULTS:
            results.check_run_count(file)
            return file.in_memory()
        return file


def _sections(
    files: dict[str, FeatureFile], left_out: dict[str, str]
) -> tuple[list[Block], list[Fact]]:
    """Return all blocks and facts. Results that cannot be shown are added to `left_out`."""
    groups: dict[str, list[Scored]] = {}
    others: dict[tuple[str, str], dict[str, FeatureFile]] = {}
    context = {}
    for name, file in files.items():
        command = str(results.last_entry(file)["command"])
        try:
            if file.kind not in RESULTS:
                context[name] = file
            elif _holds_classes(file) and not _is_unlabelled(file):
                scored = _score(name, file)
                groups.setdefault(_rows_key(scored), []).append(scored)
            elif file.runs or _is_unlabelled(file):
                others.setdefault((command, _source(file)), {})[name] = file
            else:
                raise ClipkitError("expected runs, got none")
        except ClipkitError as error:
            left_out[name] = _reason(error, file.display_name)
    blocks: list[Block] = []
    for group in groups.values():
        blocks += _scored_section(group)
    for (command, source), of_source in others.items():
        blocks += _other_section(command, source, of_source, left_out)
    if context:
        blocks += _context_section(context)
    return blocks, _facts(groups.values())


def _holds_classes(file: FeatureFile) -> bool:
    return bool(file.splits) and not file.holds_clusters


def _is_unlabelled(file: FeatureFile) -> bool:
    """Whether a result has predicted classes, but no true ones."""
    return _holds_classes(file) and file.splits[results.choose_split(file)].labels is None


def _score(name: str, file: FeatureFile) -> Scored:
    split = results.choose_split(file)
    scored = results.scored_runs(file, split)
    right = scored.predicted == scored.labels
    order = sorted(range(len(scored.ids)), key=scored.ids.__getitem__)
    ids = sorted(scored.ids)
    return Scored(name, file, split, scored.rows, ids, scored.labels[order], right[:, order])


def _rows_key(scored: Scored) -> str:
    """Return a digest of the images that a result was evaluated on, and of their classes.

    Images of different data sets may have the same ids.
    """
    names = results.class_names(scored.file, scored.labels.max())
    classes = [names[label] for label in scored.labels]
    rows = sorted(zip(scored.ids, classes, strict=True))
    key = f"{_rows_digest(scored.file, scored.split)}\n{rows!r}"
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _rows_digest(file: FeatureFile, split: str) -> str:
    """Return the digest of the data set's rows that a split is from; "" if it is not known."""
    try:
        split = original_split(file, split)
    except ClipkitError:
        return ""
    for dataset in dataset_entries(file):
        splits = dataset.get("splits")
        if isinstance(splits, dict) and isinstance(splits.get(split), dict):
            return str(splits[split].get("rows"))
    return ""


def _source(file: FeatureFile) -> str:
    """Return what the results of one table have in common."""
    digests = [_rows_digest(file, split) for split in ("test", "train", "all")]
    return f"{provenance(file).dataset} {digests}"


def _scored_section(group: Sequence[Scored]) -> list[Block]:
    """Return the accuracies of results on the same images, and their paired differences."""
    first = group[0]
    dataset = provenance(first.file).dataset or "images"
    classes = results.class_count(first.file, int(first.labels.max()))
    heading = f"{dataset}, {first.split}: {len(first.ids):,} images, {classes} classes"
    blocks: list[Block] = [Heading(2, escape(heading)), _accuracies(group)]
    for scored in group:
        if len(scored.rows) > MOST_RUNS:
            runs = f"{escape(scored.name)} has {len(scored.rows):,} runs on {escape(scored.split)}"
            blocks.append(f"{runs}. The table has the first {MOST_RUNS}.")
    blocks += _paired([scored for scored in group if len(scored.rows) == 1])
    several = [scored for scored in group if len(scored.rows) > 1]
    if several and len(group) > 1:
        blocks.append(
            "Results with several runs are not among the paired differences: "
            f"{_names_of(several)}. Choose a run with clipkit compare --run or clipkit probe --val."
        )
    return blocks


def _names_of(group: Sequence[Scored]) -> str:
    return ", ".join(escape(scored.name) for scored in group)


def _accuracies(group: Sequence[Scored]) -> Table:
    rows = []
    sources = []
    for scored in group:
        for run in range(min(MOST_RUNS, len(scored.rows))):
            rows.append(_accuracy_cells(scored, run, group))
            sources.append(scored.name)
    header = [name for name in rows[0] if any(row[name] for row in rows)]
    cells = [[row[name] for name in header] for row in rows]
    return Table(header, cells, len(TEXT_COLUMNS.intersection(header)), sources)


def _accuracy_cells(scored: Scored, run: int, group: Sequence[Scored]) -> dict[str, Cell]:
    """Return the cells of a run by the titles of their columns."""
    source, row = provenance(scored.file), scored.rows[run]
    cells: dict[str, Cell] = {
        "file": escape(scored.name),
        "model": escape(source.model or "-"),
        "prompts": escape(source.prompts),
        "result of": escape(results.last_entry(scored.file)["command"]),
        "classifier": escape(row.get("classifier", "")),
    }
    for name in ("C", "temperature", "shots", "draw"):
        cells[name] = _number(row.get(name), "g")
    cells["accuracy (%)"] = _accuracy(scored, run, group)
    cells["top 5 (%)"] = _number(100 * row.get("acc5", np.nan), ".2f")
    cells["mean recall (%)"] = _number(100 * row.get("mean_per_class_recall", np.nan), ".2f")
    return cells


def _number(value: object, form: str) -> str:
    """Format a number; return "" for what is none."""
    if not isinstance(value, int | float) or not np.isfinite(value):
        return ""
    return format(value, form)


def _accuracy(scored: Scored, run: int, group: Sequence[Scored]) -> Number:
    value = float(scored.right[run].mean())
    low, high = metrics.wilson(value, len(scored.ids))
    bar = Bar(value, low, high, results.chance(scored.labels))
    if not scored.is_control:
        controls = _controls(scored, group, run)
        best = [float(control.right.mean(axis=1).max()) for control in controls]
        bar = replace(bar, control=max(best, default=np.nan))
    return Number(f"{100 * value:.2f} ({100 * low:.2f}–{100 * high:.2f})", bar)


def _controls(scored: Scored, group: Iterable[Scored], run: int | None) -> list[Scored]:
    """Return the results of untrained models that were made as a result was.

    Of each, only the runs with the settings of the given run are kept, or all if it is None.
    """
    if not scored.settings:
        return []
    controls = [other for other in group if other.is_control and other.settings == scored.settings]
    if run is not None:
        controls = [control.runs_like(scored, run) for control in controls]
    return [control for control in controls if control.rows]


def _paired(single: Sequence[Scored]) -> list[Block]:
    """Return the paired differences of results of one run: from the first, and from controls."""
    trained = [scored for scored in single if not scored.is_control]
    pairs = []
    for scored in trained:
        pairs += [(scored, control) for control in _controls(scored, single, run=0)]
    blocks = _differences(trained or single) + _differences_from_controls(pairs)
    matched = {control.name for _, control in pairs}
    others = [one for one in single if one.is_control and one.name not in matched]
    if trained and others:
        blocks.append(
            "Not among the paired differences, since no result was made in the same way from the "
            f"same prompts: {_names_of(others)}."
        )
    unknown = [scored for scored in single if not scored.settings]
    if unknown and others:
        blocks.append(
            "The history does not tell from which prompts these were made: "
            f"{_names_of(unknown)}. Embed the prompts again with this clipkit."
        )
    return blocks


def _differences(single: Sequence[Scored]) -> list[Block]:
    if len(single) < 2:
        return []
    try:
        paired = comparison.pair([scored.file for scored in single], single[0].split)
    except ClipkitError as error:
        return [f"The results are not compared: {escape(error.message)}"]
    first, *others = [scored.name for scored in single]
    labels = {name: escape(name) for name in others}
    return understanding.difference_table(paired, escape(first), labels)


def _differences_from_controls(pairs: Sequence[tuple[Scored, Scored]]) -> list[Block]:
    """Return the table of the differences of results from their untrained controls."""
    if not pairs:
        return []
    compared = [comparison.compare_right(a.right[0], b.right[0]) for a, b in pairs]
    intervals = [(row["difference"], row["low"], row["high"]) for row in compared]
    differences = understanding.difference_cells(intervals)
    p_values = metrics.holm([row["p"] for row in compared])
    rows: list[list[Cell]] = []
    for pair, row, cell, p in zip(pairs, compared, differences, p_values, strict=True):
        names = [escape(scored.name) for scored in pair]
        rows.append([*names, cell, f"{row['only_a']}", f"{row['only_b']}", f"{p:.2g}"])
    text = understanding.explain_differences(
        "of results from their own untrained controls",
        len(pairs),
        "another draw of training images or of random weights",
    )
    header = ["against its control", "control", "difference (points)"]
    header += ["only this", "only the control", "p"]
    return [text, Table(header, rows, 2, [scored.name for scored, _ in pairs])]


def _facts(groups: Iterable[Sequence[Scored]]) -> list[Fact]:
    """Sum up the first result: one of one run if possible, and one that has a control."""
    candidates = []
    for group in groups:
        for scored in group:
            if not scored.is_control:
                run = 0 if len(scored.rows) == 1 else None
                candidates.append((scored, _controls(scored, group, run), group))
    if not candidates:
        return []
    scored, untrained, group = min(candidates, key=_rank)
    runs = len(scored.rows)
    predictions = results.predictions(scored.file, scored.split)  # of several runs, the best
    controls = [results.predictions(control.file, control.split) for control in untrained]
    command = results.last_entry(scored.file)["command"]
    means = f"{command} ({scored.name})"
    if runs > 1:
        means += f", the best of {runs:,} runs by its accuracy on {scored.split} (optimistic)"
    missing = "There is no untrained control of it."
    if not controls and any(other.is_control for other in group):
        missing = "No untrained control was made in the same way from the same prompts."
    fact = summary.against_references(
        "Main result", escape(means), predictions, controls, scored.name, missing
    )
    if runs > 1 and controls:
        fact = replace(fact, text=f"{fact.text} The control's run is the best of its runs, too.")
    return [fact, summary.worst_class(predictions, scored.name)]


def _rank(candidate: tuple[Scored, list[Scored], Sequence[Scored]]) -> tuple[bool, bool]:
    scored, controls, _ = candidate
    return len(scored.rows) > 1, not controls


def _unlabelled_table(files: dict[str, FeatureFile]) -> list[Block]:
    """Return what results predict most often for images without labels."""
    rows = []
    for name, file in files.items():
        source, split = provenance(file), results.choose_split(file)
        predicted = file.splits[split].predicted
        assert predicted is not None  # a result's split without predictions is invalid
        counts = np.bincount(predicted[0])
        names = distinct_names(results.class_names(file, len(counts) - 1))
        frequent = np.argsort(-counts, kind="stable")[:MOST_CLASSES]
        predictions = ", ".join(f"{names[c]} {counts[c]:,}" for c in frequent if counts[c])
        cells = [name, source.model or "-", source.prompts, split, predictions]
        rows.append([*(escape(cell) for cell in cells), f"{predicted.shape[1]:,}"])
    header = ["file", "model", "prompts", "split", "most frequent predictions", "images"]
    text = "These images have no labels, so that there is no accuracy."
    return [text, Table(header, rows, len(header) - 1, [*files])]


def _other_section(
    command: str, source: str, files: dict[str, FeatureFile], left_out: dict[str, str]
) -> list[Block]:
    """Return the tables of results of a command on the same images."""
    dataset = source.partition(" [")[0]
    heading = Heading(2, escape(" on ".join(filter(None, [command, dataset]))))
    blocks: list[Block] = []
    if command in ("attributes", "variance"):
        for name, file in files.items():
            try:
                table = _recognised_table(command, name, file)
                blocks += [Heading(3, escape(name)), *table]
            except ClipkitError as error:
                left_out[name] = _reason(error, file.display_name)
    elif any(map(_is_unlabelled, files.values())):
        blocks += _unlabelled_table(files)
    else:
        blocks.append(_joined_table(files))
    return [heading, *blocks] if blocks else []


def _recognised_table(command: str, name: str, file: FeatureFile) -> list[Block]:
    """Return the table of `attributes` or `variance`, with bars."""
    if command == "attributes":
        results.columns_of(file, command, understanding.ATTRIBUTES)
        return understanding.attribute_table(file.rows(), name)
    if "prompt" in file.runs:
        return [_joined_table({name: file})]
    results.columns_of(file, command, understanding.VARIANCE)
    return understanding.variance_table(file.rows(), name)


def _joined_table(files: dict[str, FeatureFile]) -> Table:
    """Return the rows of results with columns that tell the results apart."""
    reports = []
    sources = []
    for (name, file), identity in zip(files.items(), identities([*files.values()]), strict=True):
        rows = results.rows_for_people(file)[:MOST_RUNS]
        reports.append([{"file": name, **identity, **row} for row in rows])
        sources += [name] * len(rows)
        if file.run_count > MOST_RUNS:
            console.note(f"{name}: the table has the first {MOST_RUNS} of {file.run_count:,} rows")
    columns = tables.columns_for_people(tables.join(reports))
    texts = [column for column in columns if not _is_numeric(column)]
    columns = texts + [column for column in columns if _is_numeric(column)]
    header = [escape(column.title) for column in columns]
    cells = [[_known(cell) for cell in column.cells] for column in columns]
    return Table(header, list(zip(*cells, strict=True)), len(texts), sources)


def _is_numeric(column: Column) -> bool:
    return all(map(NUMERIC.fullmatch, column.cells))


def _known(cell: str) -> str:
    """Return the Markdown of a cell; `-` marks what does not apply."""
    return "" if cell == "-" else escape(cell)


def _context_section(files: dict[str, FeatureFile]) -> list[Block]:
    """Return a table of the files that are no results."""
    rows = []
    for name, file in files.items():
        source = provenance(file)
        counts = [f"{split} {len(part):,}" for split, part in file.splits.items()]
        if file.texts:
            counts.append(f"{len(file.texts):,} prompts")
        cells = [name, file.kind, source.model, source.dataset, source.prompts, ", ".join(counts)]
        rows.append([escape(cell) for cell in cells])
    header = ["file", "kind", "model", "data set", "prompts", "holds"]
    return [Heading(2, "Feature files"), Table(header, rows, len(header), [*files])]
