"""Set what was measured beside published figures, which a table holds.

The table is a .tsv with the columns of `TABLE_HEADER`. `where` selects a result by what its history
and its runs say, in words such as `command=probe prompts=generic32 temperature=0.5`.
"""

from __future__ import annotations

import io
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from clipkit.analysis import metrics, results
from clipkit.analysis.results import Row
from clipkit.base import csv_rows, files
from clipkit.base.errors import ClipkitError
from clipkit.features.columns import COLUMNS, SETTINGS
from clipkit.features.compatibility import origin
from clipkit.features.model import FeatureFile
from clipkit.features.provenance import downsample, is_untrained, provenance
from clipkit.report.blocks import Bar, Block, Cell, Fact, Heading, Measurement, Number, Table
from clipkit.report.markdown import (
    escape,
    format_difference,
    format_measurement,
    format_measurements,
)

TABLE_HEADER = ("section", "title", "where", "column", "value", "comparable", "source")
HISTORY_WORDS = (
    "command", "model", "dataset", "prompts", "prompts_sha256", "features", "seed", "pool", "norm",
    "link",
)  # fmt: skip
# What makes another experiment: a result that has one of these has to be selected by it
VARIATIONS = ("val", "shots", "random", "whiten", "labels", "layer", "projection", "downsample")
NAMES = ("model", "dataset")  # words of which the value may be a path
IDENTITIES = (*NAMES, "prompts", "prompts_sha256")
# Which runs and classes count, and how many images there must be
CHOICES = ("split", "images", "class")
WORDS = tuple(dict.fromkeys((*HISTORY_WORDS, *SETTINGS, *VARIATIONS, *CHOICES)))
CONTROL, VERDICT = "untrained control", "in the interval"
NOT_MEASURED = "not measured"
SAME_AS = (
    "If only the name differs, as for a model in a folder, say so with clipkit report --same-as "
    "model=NAME or dataset=NAME."
)
ROUNDED = "A number without an interval, such as an entropy, counts if it rounds to the figure."
HEADING = Heading(2, "Published figures")
HEADER = ("result", "source", "measured", CONTROL, "published", "difference", VERDICT)


@dataclass(frozen=True)
class Figure:
    """A published figure, or an experiment without one."""

    section: str
    title: str
    where: Mapping[str, str]  # what selects the result
    column: str
    value: float  # NaN without a figure
    reason: str  # why a result is not comparable with it, or ""
    source: str

    @property
    def unit(self) -> str:
        """The unit of the value: %, nats or ""."""
        return COLUMNS[self.column].unit.symbol

    @property
    def is_share_of_images(self) -> bool:
        """Whether the value is a share of the images, so that it has Wilson's interval."""
        return COLUMNS[self.column].of_images


_Described = tuple[str, FeatureFile, dict[str, Any]]  # a result with its name and facts


class _Run(NamedTuple):
    """A run of a result that a figure selects."""

    name: str
    file: FeatureFile
    split: str
    row: Row

    @property
    def images(self) -> tuple[str, ...]:
        """What a run shares with another one on the same images."""
        return origin(self.file, self.split).key


def read_table(path: str) -> list[Figure]:
    """Read published figures. An error names the line and the column."""
    stream = io.BytesIO(files.read_bytes(path))
    lines = csv_rows.read_rows(stream, path, "\t", quotes=False)
    _, header = next(lines, (1, [""]))
    if header != list(TABLE_HEADER):
        columns = f"the columns {', '.join(TABLE_HEADER)} between tabs"
        raise _error(f"{path}, line 1", columns, ", ".join(header))
    figures: list[Figure] = []
    for number, cells in lines:
        place = f"{path}, line {number}"
        if len(cells) != len(TABLE_HEADER):
            raise _error(place, f"{len(TABLE_HEADER)} cells", len(cells))
        figures.append(_parse(dict(zip(TABLE_HEADER, cells, strict=True)), place))
    return figures


def _parse(cells: Mapping[str, str], place: str) -> Figure:
    where = _parse_where(cells["where"], f"{place}, where")
    if cells["column"] not in COLUMNS:
        raise _error(f"{place}, column", "a column of a result, such as acc1", cells["column"])
    try:
        value = float(cells["value"] or "nan")
    except ValueError:
        value = math.inf
    if math.isinf(value):
        raise _error(f"{place}, value", "a number, or nothing", cells["value"])
    answer, _, reason = cells["comparable"].partition(":")
    is_answer = cells["comparable"] == "yes" or (answer == "no" and reason.strip())
    if cells["value"] and not is_answer:
        raise _error(f"{place}, comparable", "yes, or no: REASON", cells["comparable"])
    for name in ("section", "title"):
        if not cells[name].strip():
            raise _error(f"{place}, {name}", "a text", cells[name])
    section, title = cells["section"], cells["title"]
    return Figure(section, title, where, cells["column"], value, reason.strip(), cells["source"])


def _parse_where(text: str, place: str) -> dict[str, str]:
    try:
        words = shlex.split(text)
    except ValueError:  # an open quote
        words = [""]
    where: dict[str, str] = {}
    for word in words:
        key, _, value = word.partition("=")
        key = "temperature" if key == "tau" else key
        if key not in WORDS or not value or key in where:
            raise _error(place, f"words such as command=probe, of {', '.join(WORDS)}", text)
        where[key] = value
    return where


def _error(place: str, expected: str, got: object) -> ClipkitError:
    return ClipkitError(f"{place}: expected {expected}, got {got!r}")


def compare_figures(
    figures: Sequence[Figure],
    named: Mapping[str, FeatureFile],
    table: str,
    same_as: Mapping[str, str] | None = None,
) -> tuple[list[Block], list[Fact]]:
    """Return the section of a table's figures beside results by their names, and its summary.

    `same_as` has values of `NAMES` that count in place of what the histories of the results say.
    """
    trained: list[_Described] = []
    controls: list[_Described] = []
    for name, file in named.items():
        kind = controls if is_untrained(file) else trained
        if file.runs:
            kind.append((name, file, _describe(file) | dict(same_as or {})))
    header = [name for name in HEADER if controls or name != CONTROL]
    blocks: list[Block] = [HEADING]
    if same_as:
        said = " and ".join(f"{word} {name}" for word, name in same_as.items())
        text = f"all results of trained models count as results of the {escape(said)}."
        blocks.append(f"As --same-as says, {text}")
    sections: dict[str, list[dict[str, Cell]]] = {}
    rows = []
    absent: dict[str, None] = {}  # words that no result has, each once
    for figure in figures:
        row = _row(figure, _select(figure, trained), _select(figure, controls))
        if row["measured"] == NOT_MEASURED:
            missing = _absent_words(figure, trained)[:1]
            absent |= dict.fromkeys(missing)
            row["measured"] = escape(": no ".join([NOT_MEASURED, *missing]))
        rows.append(row)
        sections.setdefault(figure.section, []).append(row)
    if all(str(row["measured"]).startswith(NOT_MEASURED) for row in rows):
        reason = "no result fits any of them"
        if absent:
            reason = f"no result has {escape(', '.join(absent))}"
        count = sum(not math.isnan(figure.value) for figure in figures)
        text = (
            f"None of the {count} published figures of {escape(Path(table).name)} was "
            f"measured here: {reason}."
        )
        return [*blocks, text, *([SAME_AS] if absent else [])], []
    text = _count_verdicts([row.get(VERDICT) for row in rows])
    blocks.append(text)
    if any(not figure.is_share_of_images and not figure.reason for figure in figures):
        blocks.append(ROUNDED)
    for section, rows in sections.items():
        sources = [str(cells.get("file", "")) for cells in rows]
        lines = [[cells.get(name, "") for name in header] for cells in rows]
        blocks += [Heading(3, escape(section)), Table(header, lines, 2, sources)]
    return blocks, [Fact(HEADING.text, text)]


def _absent_words(figure: Figure, described: Sequence[_Described]) -> list[str]:
    """Return the words of a figure that name a model, data set or prompts that no result has."""
    absent = []
    for word in IDENTITIES:
        wanted = figure.where.get(word)
        if wanted and not any(_is_equal(word, facts[word], wanted) for *_, facts in described):
            absent.append(f"{word}={wanted}")
    return absent


def _count_verdicts(verdicts: Sequence[Cell | None]) -> str:
    total = verdicts.count("yes") + verdicts.count("no")
    if not total:
        return "No measured figure is comparable with a published one: each row says why."
    return f"{verdicts.count('yes')} of {total} comparable figures lie within the interval."


def _row(figure: Figure, runs: Sequence[_Run], controls: Sequence[_Run]) -> dict[str, Cell]:
    """Return the cells of a figure's row, with the name of the result as `file`."""
    cells: dict[str, Cell] = {"result": escape(figure.title), "source": escape(figure.source)}
    if not math.isnan(figure.value):
        cells["published"] = format_measurement(Measurement(figure.value, figure.unit))
    values = {run.row[figure.column] for run in runs}
    if len(values) != 1:
        names = ", ".join(dict.fromkeys(run.name for run in runs))
        cells["measured"] = escape(f"several fit: {names}" if runs else NOT_MEASURED)
        return cells
    run = runs[0]
    cells["file"] = run.name
    controls = [control for control in controls if control.images == run.images]
    measured = _measure(figure, run)
    cells["measured"] = format_measurement(measured)
    if figure.unit == "%":
        best = max((control.row[figure.column] for control in controls), default=math.nan)
        bar = Bar(measured.value, measured.low, measured.high, control=best)
        cells["measured"] = Number(format_measurement(measured), bar)
    of_controls = [_measure(figure, control) for control in controls]
    cells[CONTROL] = format_measurements(of_controls) or NOT_MEASURED
    reason = figure.reason or _reservation(figure, run)
    if not math.isnan(figure.value):
        cells[VERDICT] = escape(f"not comparable: {reason}")
        if not reason:
            cells["difference"] = format_difference(measured, figure.value)
            cells[VERDICT] = "yes" if _is_within(figure, measured) else "no"
    return cells


def _measure(figure: Figure, run: _Run) -> Measurement:
    """Return a number of a run with its 95 % interval, if it is a share of the images."""
    value = float(run.row[figure.column])
    if figure.column == "f1":
        return Measurement(value, figure.unit, run.row["f1_low"], run.row["f1_high"])
    if not figure.is_share_of_images or run.split not in run.file.splits:
        return Measurement(value, figure.unit)
    return Measurement(value, figure.unit, *metrics.wilson(value, len(run.file.splits[run.split])))


def _is_within(figure: Figure, measured: Measurement) -> bool:
    """Whether a figure lies in the interval or, without one, is what was measured, rounded."""
    if math.isnan(measured.low):
        published = Measurement(figure.value, figure.unit)
        return format_measurement(published) == format_measurement(measured)
    return measured.low <= figure.value <= measured.high


def _reservation(figure: Figure, run: _Run) -> str:
    """Say why a result is no repetition, whatever the table says; "" if it is one."""
    images, count = figure.where.get("images"), _image_count(run)
    if images is not None and str(count) != images:
        return f"{count} images, not {images}"
    return results.untestable(run.file, run.split)


def _image_count(run: _Run) -> int | None:
    """Return the number of images of a run's split; None if neither file nor history has it."""
    if run.split in run.file.splits:
        return len(run.file.splits[run.split])
    for dataset in run.file.history.datasets:
        count = dataset.object("splits", run.split).get("images")
        if isinstance(count, int):
            return count
    return None


def _select(figure: Figure, described: Iterable[_Described]) -> list[_Run]:
    """Return the runs that a figure selects, which have a number in its column."""
    selected = []
    for name, file, facts in described:
        split, rows = _runs(file, figure.where.get("split"))
        for index, row in enumerate(rows):
            known = {word: row[word] for word in SETTINGS if word in row}
            if not _fits(facts | known, figure.where):
                continue
            if "class" in figure.where:
                row = _class_row(file, split, index, figure.where["class"].split("|"))
            number = row.get(figure.column)
            if isinstance(number, float) and not math.isnan(number):
                selected.append(_Run(name, file, split, row))
    return selected


def _class_row(file: FeatureFile, split: str, run: int, names: Sequence[str]) -> Row:
    """Return the mean F1 of classes with its interval; nothing if the result lacks one of them."""
    known = file.class_names or []
    # the numbers of clusters, of which there are k, are no classes
    if "k" in file.runs or split not in file.splits or not set(names) <= set(known):
        return {}
    scored = results.scored_runs(file, split)
    numbers = [known.index(name) for name in names]
    values = metrics.mean_f1(scored.labels, scored.predicted[run], numbers, len(known))
    return dict(zip(("f1", "f1_low", "f1_high"), values, strict=True))


def _runs(file: FeatureFile, split: str | None) -> tuple[str, list[Row]]:
    """Return the split that counts, by default `test` or else the first, and the runs on it."""
    column = next((name for name in ("eval_split", "split") if name in file.runs), None)
    if column is None:
        return split or "", file.rows()
    split = split or results.default_split(map(str, file.runs[column]))
    return split, file.runs_on(split)


def _fits(facts: Mapping[str, Any], where: Mapping[str, str]) -> bool:
    """Whether facts have what `where` says, and no variation that it does not name."""
    if any(facts.get(word) is not None for word in VARIATIONS if word not in where):
        return False
    for word, wanted in where.items():
        if word not in CHOICES and not _is_equal(word, facts.get(word), wanted):
            return False
    return True


def _is_equal(word: str, fact: Any, wanted: str) -> bool:
    """Whether a fact is what is wanted: equal as a number, or a text in any case."""
    names = [str(fact).lower()]
    if word == "prompts_sha256":
        return names[0].startswith(f"sha256:{wanted.lower()}")
    if word in NAMES:  # which may be paths
        names.append(Path(names[0]).name)
    try:
        return float(fact) == float(wanted)
    except (TypeError, ValueError):
        return wanted.lower() in names


def _describe(file: FeatureFile) -> dict[str, Any]:
    """Return what the history of a result says, by the words of `where`."""
    newest, model = results.newest_entry(file), file.history.model
    facts: dict[str, Any] = {"features": "embeddings"}
    for entry in file.history:
        if entry["command"] == "logits":
            facts["features"] = newest.get("features", "logits")
        for word in ("random", "whiten"):
            facts[word] = entry.get(word) or facts.get(word)
    for word in ("val", "shots", "link", "seed"):
        facts[word] = newest.get(word)
    for word in ("layer", "pool", "norm", "projection"):
        facts[word] = model.get(word)
    return facts | {
        "command": newest["command"],
        "model": model.get("name"),
        "dataset": " + ".join(origin(file, "").datasets),
        "prompts": provenance(file).prompts,
        "prompts_sha256": file.last_entry("textembed").inputs.get("prompts"),
        "downsample": downsample(file),
        "labels": results.labels_suffix(file).removeprefix("; labels: ") or None,
    }
