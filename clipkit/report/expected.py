"""Set what was measured beside the published figures of a table.

The table is a .tsv with the columns of `TABLE_HEADER`. `where` selects a result by what its history
and its runs say, in words such as `command=probe prompts=generic32 temperature=0.5`.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NamedTuple

from clipkit.analysis import results
from clipkit.analysis.results import Row
from clipkit.base import csv_rows, files
from clipkit.base.errors import ClipkitError
from clipkit.base.markdown import escape
from clipkit.base.names import select
from clipkit.datasets.registry import REGISTRY
from clipkit.features import model_settings
from clipkit.features.columns import SETTINGS, SHARE, Column, all_columns, columns_of_command
from clipkit.features.compatibility import origin
from clipkit.features.matching import default_split
from clipkit.features.model import FeatureFile
from clipkit.features.provenance import is_untrained, provenance
from clipkit.report.blocks import Bar, Block, Cell, Fact, Heading, Measurement, Number, Table
from clipkit.report.markdown import (
    format_difference,
    format_measurement,
    format_measurements,
    highest,
)
from clipkit.statistics import claims, main_number, metrics

TABLE_HEADER = ("section", "title", "where", "column", "value", "comparable", "source")
HISTORY_WORDS = (
    "command", "model", "dataset", "prompts", "prompts_sha256", "features", "seed", "link",
)  # fmt: skip
# What makes another experiment, and so do settings of the model: a result that has one of these has
# to be selected by it
VARIATIONS = ("val", "shots", "random", "whiten", "labels")
NAMES = ("model", "dataset")  # their values may be paths
IDENTITIES = (*NAMES, "prompts", "prompts_sha256")
# Which runs and classes count, and how many images there must be
CHOICES = ("split", "images", "class")
CONTROL, VERDICT = "untrained control", "in the interval"
NOT_MEASURED = "not measured"
MOST_DIGITS = 30  # before and after the point of a published number
ROUNDING_ERROR = 1e-9  # of floats, so that half of a last digit is still rounded
SAME_AS = (
    "If only the name differs, as for a model in a folder, say so with clipkit report --same-as "
    "model=NAME or dataset=NAME."
)
ROUNDED = "A number without an interval, such as an entropy, counts if it rounds to the figure."
HEADING = Heading(3, "Published figures")
HEADER = ("result", "source", "measured", CONTROL, "published", "difference", VERDICT)


@dataclass(frozen=True)
class Figure:
    """A published figure, or an experiment without one."""

    section: str
    title: str
    where: Mapping[str, str]  # what selects the result
    column: str
    digits: str  # the number as it was published; "" without a figure
    reason: str  # why a result is not comparable with it, or ""
    source: str

    @property
    def value(self) -> float:
        """The number; NaN without a figure."""
        return float(self.digits or "nan")

    @property
    def rounding(self) -> float:
        """By how much the number may differ from the one that was rounded to it."""
        exponent = Decimal(self.digits).as_tuple().exponent
        assert isinstance(exponent, int)  # the number is finite
        return 0.5 * 10.0**exponent + ROUNDING_ERROR

    @property
    def published(self) -> str:
        """The digits as the page shows them: a share in percent."""
        if not self.digits:
            return ""
        places = 2 if self.unit == "%" else 0
        return f"{Decimal(self.digits).scaleb(places):f}"

    @property
    def _record(self) -> Column:
        return _columns_of(self.where)[self.column]

    @property
    def unit(self) -> str:
        """The unit of the value: %, nats or ""."""
        return self._record.unit.symbol

    @property
    def is_share_of_images(self) -> bool:
        """Whether the value is a share of the images, so that it has Wilson's interval."""
        return self._record.of_images

    @property
    def is_rounded(self) -> bool:
        """Whether a result is compared with the figure as it is rounded, without an interval."""
        has_interval = self.is_share_of_images or self._record.has_interval
        return not has_interval and self.column != "f1" and not self.reason


class _Described(NamedTuple):
    """A result with its name, and its facts by the words of `where`."""

    name: str
    file: FeatureFile
    facts: dict[str, Any]


class _Run(NamedTuple):
    """A run of a result that a figure selects."""

    name: str
    file: FeatureFile
    split: str
    row: Row
    number: int  # among the runs on the split

    @property
    def images(self) -> tuple[str, ...]:
        """What a run shares with another one on the same images."""
        return origin(self.file, self.split).key


@dataclass
class _Row:
    """A figure beside what was measured: its cells by the titles of the columns."""

    figure: Figure
    cells: dict[str, Cell]
    source: str = ""  # the name of the result
    absent: str = ""  # a word of the figure that no result has
    width: float = math.nan  # of the interval of a share
    is_measured: bool = True  # also if several results fit


def read_table(path: str) -> list[Figure]:
    """Read published figures. An error names the line and the column."""
    table = csv_rows.read_table(files.read_bytes(path), path, ".tsv")
    if table.columns != list(TABLE_HEADER):
        columns = f"the columns {', '.join(TABLE_HEADER)}"
        error = _error(f"{path}, line 1", columns, ", ".join(table.columns))
        error.hint = "the first line names these columns, with tabs between them"
        raise error
    figures: list[Figure] = []
    for number, cells in table.lines:
        place = f"{path}, line {number}"
        figures.append(_parse(dict(zip(TABLE_HEADER, cells, strict=True)), place))
    return figures


def _parse(cells: Mapping[str, str], place: str) -> Figure:
    where = _parse_where(cells["where"], f"{place}, where")
    known = _columns_of(where)
    if cells["column"] not in known:
        raise _error(f"{place}, column", "a column of a result, such as acc1", cells["column"])
    digits = _parse_digits(cells["value"], known[cells["column"]], f"{place}, value")
    answer, _, reason = cells["comparable"].partition(":")
    is_answer = cells["comparable"] == "yes" or (answer == "no" and reason.strip())
    if cells["value"] and not is_answer:
        raise _error(f"{place}, comparable", "yes, or no: REASON", cells["comparable"])
    for name in ("section", "title"):
        if not cells[name].strip():
            raise _error(f"{place}, {name}", "a text", cells[name])
    section, title = cells["section"], cells["title"]
    return Figure(section, title, where, cells["column"], digits, reason.strip(), cells["source"])


def _columns_of(where: Mapping[str, str]) -> dict[str, Column]:
    """Return the columns that a figure may name. `where` does not say the metric of attributes.

    A figure may name a column that its command lacks. It is not measured then.
    """
    maybe_errors = [column.number_with for column in all_columns()]
    own = columns_of_command(where.get("command", ""), maybe_errors)
    return columns_of_command("", maybe_errors) | own


def _parse_digits(text: str, column: Column, place: str) -> str:
    """Return a published number as it is written; "" for an empty cell."""
    if not text:
        return ""
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite() or abs(number.adjusted()) > MOST_DIGITS:
        raise _error(place, "a number, or nothing", text)
    if not column.unit.low <= number <= column.unit.high:
        expected = f"a number from {column.unit.low:g} to {column.unit.high:g}"
        if column.unit is SHARE:
            expected = "a share from 0 to 1, such as 0.7801 for 78.01 %"
        raise _error(place, expected, text)
    return f"{number:f}"


def _parse_where(text: str, place: str) -> dict[str, str]:
    try:
        words = shlex.split(text)
    except ValueError:  # an open quote
        words = [""]
    where: dict[str, str] = {}
    known = _words()
    for word in words:
        key, _, value = word.partition("=")
        key = "temperature" if key == "tau" else key
        if key not in known or not value or key in where:
            raise _error(place, f"words such as command=probe, of {', '.join(known)}", text)
        where[key] = value
    return where


def _words() -> list[str]:
    """Return the words that `where` may have."""
    named = [setting.key for setting in model_settings.SETTINGS if setting.is_named]
    return list(dict.fromkeys((*HISTORY_WORDS, *SETTINGS, *VARIATIONS, *named, *CHOICES)))


def _variations() -> list[str]:
    """Return the words of what makes another experiment."""
    settings = [setting.key for setting in model_settings.SETTINGS if setting.is_variation]
    return [*VARIATIONS, *settings]


def _error(place: str, expected: str, got: object) -> ClipkitError:
    return ClipkitError(f"{place}: expected {expected}, got {got!r}")


def compare_figures(
    figures: Sequence[Figure],
    named: Mapping[str, FeatureFile],
    table: str,
    same_as: Mapping[str, str] | None = None,
) -> tuple[list[Block], list[Fact]]:
    """Return the section that sets a table's figures beside results, and its summary.

    `named` has the results by their names. `same_as` has values of the words in `NAMES`, which
    replace those in the histories of the results.
    """
    same_as = dict(same_as or {})
    _check_classes(named, same_as)
    trained = _describe_all(named, same_as, untrained=False)
    controls = _describe_all(named, same_as, untrained=True)
    rows = [_row(figure, trained, controls) for figure in figures]
    blocks: list[Block] = [HEADING]
    if same_as:
        names = " and ".join(f"{word} {name}" for word, name in same_as.items())
        text = f"all results of trained models count as results of the {escape(names)}."
        blocks.append(f"As --same-as says, {text}")
    if not any(row.is_measured for row in rows):
        return blocks + _nothing_measured(rows, table), []
    counts = _count_verdicts(rows)
    blocks.append(counts)
    if any(figure.is_rounded for figure in figures):
        blocks.append(ROUNDED)
    header = list(HEADER)
    if not controls:
        header.remove(CONTROL)
    return blocks + _tables(rows, header), [Fact(HEADING.text, counts)]


def _check_classes(named: Mapping[str, FeatureFile], same_as: Mapping[str, str]) -> None:
    """Refuse results of another number of classes than the data set that they are said to be of."""
    dataset = same_as.get("dataset", "")
    record = REGISTRY.get(dataset)
    if record is None or record.class_names is None:
        return
    expected = len(record.class_names())
    for name, file in named.items():
        if not file.runs or not results.holds_classes(file) or results.labels_suffix(file):
            continue
        count = len({*(file.class_names or [])} - {results.NONE})
        if count and count != expected:
            raise ClipkitError(
                f"--same-as dataset={dataset}: expected results of {expected} classes, got {count} "
                f"in {name}"
            )


def _tables(rows: Iterable[_Row], header: Sequence[str]) -> list[Block]:
    """Return a table of each section, below its heading."""
    sections: dict[str, list[_Row]] = {}
    for row in rows:
        sections.setdefault(row.figure.section, []).append(row)
    blocks: list[Block] = []
    for section, members in sections.items():
        cells = [[row.cells.get(title, "") for title in header] for row in members]
        sources = [row.source for row in members]
        blocks += [Heading(4, escape(section)), Table(header, cells, 2, sources)]
    return blocks


def _describe_all(
    named: Mapping[str, FeatureFile], same_as: dict[str, str], *, untrained: bool
) -> list[_Described]:
    """Describe the results of trained or of untrained models. `same_as` replaces their facts."""
    described = []
    for name, file in named.items():
        if file.runs and is_untrained(file) == untrained:
            described.append(_Described(name, file, _describe(file) | same_as))
    return described


def _nothing_measured(rows: Sequence[_Row], table: str) -> list[Block]:
    """Say that no result fits a figure of the table, and which words no result has."""
    absent = list(dict.fromkeys(row.absent for row in rows if row.absent))
    count = sum(bool(row.figure.digits) for row in rows)
    published = f"None of the {count} published figures of {escape(Path(table).name)} was"
    if not absent:
        return [f"{published} measured here: no result fits any of them."]
    return [f"{published} measured here: no result has {escape(', '.join(absent))}.", SAME_AS]


def _absent_word(figure: Figure, described: Sequence[_Described]) -> str:
    """Return the first model, data set or prompts of a figure that no result has, or ""."""
    for word in IDENTITIES:
        wanted = figure.where.get(word)
        if wanted and not any(_is_equal(word, one.facts[word], wanted) for one in described):
            return f"{word}={wanted}"
    return ""


def _count_verdicts(rows: Sequence[_Row]) -> str:
    answers = [row.cells.get(VERDICT) for row in rows]
    within, total = answers.count("yes"), answers.count("yes") + answers.count("no")
    if not total:
        return "No measured figure is comparable with a published one: each row says why."
    widths = [row.width for row in rows if row.cells.get(VERDICT) in ("yes", "no")]
    return claims.published_sentence(within, total, widths)


def _row(figure: Figure, trained: Sequence[_Described], controls: Sequence[_Described]) -> _Row:
    """Set a figure beside the run that it selects, if there is one, and the run's controls."""
    row = _Row(figure, {"result": escape(figure.title), "source": escape(figure.source)})
    if figure.digits:
        row.cells["published"] = figure.published
    runs = _select(figure, trained)
    if not runs:
        row.is_measured = False
        row.absent = _absent_word(figure, trained)
        row.cells["measured"] = NOT_MEASURED
        if row.absent:
            row.cells["measured"] = escape(f"{NOT_MEASURED}: no {row.absent}")
        return row
    if len({run.row[figure.column] for run in runs}) > 1:
        names = ", ".join(dict.fromkeys(run.name for run in runs))
        row.cells["measured"] = escape(f"several fit: {names}")
        return row
    run = runs[0]
    row.source = run.name
    measured = _measure(figure, run)
    of_controls = []
    for control in _select(figure, controls):
        if control.images == run.images:
            of_controls.append(_measure(figure, control))
    text = format_measurement(measured)
    row.cells["measured"] = text
    row.cells[CONTROL] = format_measurements(of_controls) or NOT_MEASURED
    if figure.unit == "%":
        bar = Bar(measured.value, measured.low, measured.high, control=highest(of_controls))
        row.cells["measured"] = Number(text, bar)
        row.width = measured.high - measured.low
    if not figure.digits:
        return row
    reason = figure.reason or _reservation(figure, run)
    if reason:
        row.cells[VERDICT] = escape(f"not comparable: {reason}")
        return row
    row.cells[VERDICT] = "yes" if _is_within(figure, measured) else "no"
    row.cells["difference"] = format_difference(measured, figure.value)
    return row


def _measure(figure: Figure, run: _Run) -> Measurement:
    """Return a number of a run with its own 95 % interval.

    By default, it is Wilson's of a share of images, and `main_number.mean_recall`'s of a mean
    recall.
    """
    value = float(run.row[figure.column])
    ends = [run.row.get(f"{figure.column}_{end}", math.nan) for end in ("low", "high")]
    if not any(map(math.isnan, ends)):
        return Measurement(value, figure.unit, *ends)
    if run.split not in run.file.splits:
        return Measurement(value, figure.unit)
    split = run.file.splits[run.split]
    if figure.column == main_number.RECALL_COLUMN and split.predicted is not None:
        assert split.labels is not None  # or the run would have no recall
        right = split.predicted[run.number] == split.labels
        recall = main_number.mean_recall(split.labels, right, split.cluster)
        return Measurement(value, figure.unit, recall.low, recall.high)
    if not figure.is_share_of_images:
        return Measurement(value, figure.unit)
    rows = len(run.file.splits[run.split]) * _effective_share(run)
    return Measurement(value, figure.unit, *metrics.wilson(value, rows))


def _effective_share(run: _Run) -> float:
    """Return the effective rows by row of what a run gets right; 1 without clusters."""
    split = run.file.splits[run.split]
    if split.cluster is None or split.labels is None or split.predicted is None:
        return 1.0
    right = split.predicted[run.number] == split.labels
    return metrics.effective_share(right, split.cluster)


def _is_within(figure: Figure, measured: Measurement) -> bool:
    """Whether what was rounded to a figure lies in the interval or, without one, was measured."""
    low, high = measured.low, measured.high
    if math.isnan(low):
        low = high = measured.value
    return low - figure.rounding <= figure.value <= high + figure.rounding


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
    """Return the runs that a figure selects and that have a number in its column."""
    selected = []
    for name, file, facts in described:
        split, rows = _runs_that_count(file, figure.where.get("split"))
        for index, row in enumerate(rows):
            if not _fits(facts | select(row, SETTINGS), figure.where):
                continue
            if "class" in figure.where:
                row = _class_row(file, split, index, figure.where["class"].split("|"))
            number = row.get(figure.column)
            if isinstance(number, float) and not math.isnan(number):
                selected.append(_Run(name, file, split, row, index))
    return selected


def _class_row(file: FeatureFile, split: str, run: int, names: Sequence[str]) -> Row:
    """Return the mean F1 of classes with its interval; nothing if the result lacks one of them."""
    known = file.class_names or []
    # the numbers of k clusters are no classes
    if "k" in file.runs or split not in file.splits or not set(names) <= set(known):
        return {}
    scored = results.scored_runs(file, split)
    numbers = [known.index(name) for name in names]
    values = metrics.mean_f1(
        scored.labels, scored.predicted[run], numbers, len(known), file.splits[split].cluster
    )
    return dict(zip(("f1", "f1_low", "f1_high"), values, strict=True))


def _runs_that_count(file: FeatureFile, split: str | None) -> tuple[str, list[Row]]:
    """Return the split that counts, by default `test` or else the first, and the runs on it."""
    if not any(file.split_of_runs):
        return split or "", file.rows()
    split = split or default_split(file.split_of_runs)
    return split, file.runs_on(split)


def _fits(facts: Mapping[str, Any], where: Mapping[str, str]) -> bool:
    """Whether facts have what `where` says, and no variation that it does not name."""
    for word in _variations():
        if word not in where and facts.get(word) is not None:
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
    for setting in model_settings.SETTINGS:
        if setting.is_named:
            facts[setting.key] = model.get(setting.key, setting.value(file.history))
    return facts | {
        "command": newest["command"],
        "model": model.get("name"),
        "dataset": " + ".join(origin(file, "").datasets),
        "prompts": provenance(file).prompts,
        "prompts_sha256": file.last_entry("textembed").inputs.get("prompts"),
        "labels": results.labels_suffix(file).removeprefix("; labels: ") or None,
    }
