"""The columns of results and reports: one record for each.

Everything that is said of a column is derived from its record: what `validate` checks, which names
`--columns` knows, what people read above a column, what becomes unknown with other labels or other
rows, and what a page or a leaderboard shows of a result. A name may mean different things in
different commands, so a column is found by its command and its name, with `columns_of_command`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from clipkit.base.errors import LARGEST, SMALLEST, unknown
from clipkit.base.tables import Heading, format_number, format_p

# What a value depends on. What depends on labels depends on the rows, too.
LABELS = "labels"  # the class, value, partner or group of each row
ROWS = "rows"  # which rows are scored
NOTHING = "nothing"  # neither: settings and names
HIGHER, LOWER = "higher", "lower"  # which values are better

CLUSTERED = "probe zeroshot retrieve choose align describe threshold compare"  # by --cluster
SCORE = "score_"  # before the class, in the columns of --scores
NUMBER_TYPES = frozenset({"<i8", "<f8"})


class Unit(NamedTuple):
    """What the values of a column are: the symbol behind its title, their format and limits."""

    symbol: str = ""
    format: Callable[[float], str] = format_number
    low: float = -LARGEST
    high: float = LARGEST
    types: frozenset[str] = NUMBER_TYPES  # in a file


TEXT = Unit(types=frozenset({"S"}))
FLAG = Unit()  # true or false, which a file holds as 1 and 0
NUMBER = Unit()
COUNT = Unit(low=0)
SCALE = Unit(low=SMALLEST)  # a temperature or a penalty
SHARE = Unit("%", lambda share: f"{100 * share:.2f}", low=0, high=1)
NATS = Unit("nats", lambda nats: f"{nats:.4f}")
POINTS = Unit("points", lambda difference: f"{100 * difference:+.2f}", low=-1, high=1)
P = Unit(format=format_p, low=0, high=1)

UNITS = {  # by their names in a history
    **{"text": TEXT, "flag": FLAG, "number": NUMBER, "count": COUNT, "scale": SCALE},
    **{"share": SHARE, "nats": NATS, "points": POINTS, "p": P},
}


@dataclass(frozen=True)
class Column:
    """A column of a result or report.

    Attributes
    ----------
    name : str
        In files and machine formats.
    unit : Unit
    depends_on : {"labels", "rows", "nothing"}
        With other labels, a value that depends on them is computed again or unknown. The same holds
        for values that depend on rows, if other rows are scored.
    title : str
        What people read above it; by default the words of the name.
    better : {"higher", "lower", None}
    has_interval : bool
        Whether there are columns `<name>_low` and `<name>_high`.
    relatives : str
        Endings of further columns of the same kind, such as ``null control`` for `<name>_null` and
        `<name>_control`, which has a range if there are several controls.
    is_checked : bool
        Whether `validate` checks the type and the limits of a result's column.
    is_setting : bool
        Whether it distinguishes the runs of a result on a split.
    of_images : bool
        Whether it is a share of all scored images, so that Wilson's interval fits.
    on_leaderboards : bool
        Whether the JSON object of CLIP_benchmark has it, under the same name.
    is_limit : bool
        Whether it is an end of an interval.
    by_metric : bool
        Whether it is a share unless the metric is an error, which has the unit of the labels.
    of : str
        The commands whose reports have it, such as ``probe zeroshot``; "" for any.
    """

    name: str
    unit: Unit
    depends_on: str = LABELS
    title: str = ""
    better: str | None = None
    has_interval: bool = False
    relatives: str = ""
    is_checked: bool = False
    is_setting: bool = False
    of_images: bool = False
    on_leaderboards: bool = False
    is_limit: bool = False
    by_metric: bool = False
    of: str = ""

    @cached_property
    def heading(self) -> Heading:
        """What people read above the column, and how they read its numbers."""
        title = self.title or self.name.replace("_", " ")
        return Heading(title, self.unit.symbol, self.unit.format)

    def as_json(self) -> dict[str, Any]:
        """Return what a history says of the column of a researcher's own question."""
        unit = next(name for name, unit in UNITS.items() if unit is self.unit)
        described = {"name": self.name, "unit": unit, "title": self.title, "better": self.better}
        return {**described, "has_interval": self.has_interval, "relatives": self.relatives}

    @classmethod
    def from_json(cls, described: object) -> Column | None:
        """Return the column that a history describes, or None if it describes none."""
        if not isinstance(described, dict):
            return None
        name, title = described.get("name"), described.get("title", "")
        unit, relatives = described.get("unit"), described.get("relatives", "")
        texts = (name, title, unit, relatives)
        if not all(isinstance(text, str) for text in texts) or unit not in UNITS:
            return None
        better = described.get("better")
        return cls(
            str(name),
            UNITS[str(unit)],
            title=str(title),
            better=better if better in (HIGHER, LOWER) else None,
            has_interval=described.get("has_interval") is True,
            relatives=str(relatives),
        )

    def family(self) -> Iterator[Column]:
        """Yield the column, its interval and its relatives."""
        yield self
        limits = ("low", "high") if self.has_interval else ()
        relatives = self.relatives.split()
        if "control" in relatives:
            relatives += ["control_low", "control_high"]  # the range of several controls
        for ending in (*limits, *relatives):
            yield Column(
                f"{self.name}_{ending}",
                self.unit,
                self.depends_on,
                is_checked=self.is_checked,
                is_limit=ending in limits,
                by_metric=self.by_metric,
                of=self.of,
            )


RECORDS = (
    # The settings of a run
    Column("classifier", TEXT, NOTHING, is_checked=True, is_setting=True, of="probe"),
    Column("C", SCALE, NOTHING, is_checked=True, is_setting=True, of="probe"),
    Column(
        "temperature",
        SCALE,
        NOTHING,
        is_checked=True,
        is_setting=True,
        of="entropy probe calibrate",
    ),
    Column("standardize", FLAG, NOTHING, is_checked=True, is_setting=True, of="probe"),
    Column(
        "k", NUMBER, NOTHING, is_checked=True, is_setting=True, of="probe cluster retrieve align"
    ),
    Column("shots", COUNT, NOTHING, is_checked=True, is_setting=True),
    Column("draw", COUNT, NOTHING, is_setting=True, of="probe"),
    Column("fitted_per_class", COUNT, NOTHING, of="probe"),
    # What a row of a report is about
    Column("split", TEXT, NOTHING, is_checked=True),
    Column("fit_split", TEXT, NOTHING, is_checked=True, of="probe"),
    Column("eval_split", TEXT, NOTHING, is_checked=True, of="probe calibrate"),
    Column("seed", COUNT, NOTHING, of="probe cluster"),
    Column("file", TEXT, NOTHING, of="info"),
    Column("model", TEXT, NOTHING),
    Column("dataset", TEXT, NOTHING),
    Column("attribute", TEXT, NOTHING, of="compare variance attributes"),
    Column("category", TEXT, NOTHING, of="choose"),
    Column("class", TEXT, NOTHING, of="probe predict zeroshot importance"),
    Column("group", TEXT, LABELS, of="compare importance describe"),
    Column("measure", TEXT, NOTHING, of="threshold align"),
    Column("metric", TEXT, NOTHING, of="compare attributes"),
    Column("scope", TEXT, NOTHING, of="compare"),
    Column("scores", TEXT, NOTHING, of="compare"),
    Column("unit", TEXT, NOTHING, of="importance"),
    Column("untested", TEXT, NOTHING, of="describe"),
    Column("a", TEXT, NOTHING, of="compare align"),
    Column("b", TEXT, NOTHING, of="compare align"),
    Column("value_a", NUMBER, LABELS, of="compare"),
    Column("value_b", NUMBER, LABELS, of="compare"),
    Column("query", TEXT, ROWS, of="nearest"),
    Column("prompt", TEXT, ROWS, of="entropy threshold importance variance describe nearest"),
    Column("prompts", NUMBER, NOTHING),  # their name, or how many are in a group
    Column("values", COUNT, LABELS, of="variance attributes"),
    # Numbers of rows
    Column("rows", COUNT, LABELS, is_checked=True, of="compare align variance attributes describe"),
    Column("clusters", COUNT, ROWS, is_checked=True, of=CLUSTERED),
    Column("items", COUNT, ROWS, of="choose"),
    Column("queries", COUNT, ROWS, of="retrieve"),
    Column("candidates", COUNT, ROWS, of="retrieve"),
    Column("known", COUNT, ROWS, of="threshold"),
    Column("unknown", COUNT, ROWS, of="threshold"),
    Column("unique_rows", COUNT, ROWS, of="variance"),
    Column("matching", COUNT, LABELS, of="threshold"),
    Column("other", COUNT, LABELS, of="threshold align"),
    Column("positives", COUNT, LABELS, of="attributes"),
    Column("support", COUNT, LABELS, of="probe predict zeroshot"),
    # The accuracy of predicted classes
    Column(
        "acc1",
        SHARE,
        LABELS,
        title="accuracy",
        better=HIGHER,
        has_interval=True,
        is_checked=True,
        of_images=True,
        on_leaderboards=True,
        of="probe predict zeroshot calibrate importance compare",
    ),
    Column(
        "acc5",
        SHARE,
        LABELS,
        title="top 5",
        better=HIGHER,
        is_checked=True,
        of_images=True,
        on_leaderboards=True,
        of="probe zeroshot",
    ),
    Column(
        "mean_per_class_recall",
        SHARE,
        LABELS,
        title="mean recall",
        better=HIGHER,
        is_checked=True,
        on_leaderboards=True,
        of="probe predict zeroshot",
    ),
    Column("chance", SHARE, LABELS, of="probe predict zeroshot attributes compare"),
    Column(
        "coverage",
        SHARE,
        ROWS,
        title="with an answer",
        better=HIGHER,
        has_interval=True,
        of_images=True,
        of="predict zeroshot",
    ),
    Column(
        "acc1_answered",
        SHARE,
        LABELS,
        title="accuracy of answers",
        better=HIGHER,
        has_interval=True,
        of="predict zeroshot",
    ),
    Column("precision", SHARE, LABELS, better=HIGHER, of="probe predict zeroshot"),
    Column(
        "recall",
        SHARE,
        LABELS,
        better=HIGHER,
        has_interval=True,
        relatives="null random_ranks control",
        of="probe predict zeroshot retrieve",
    ),
    Column("f1", SHARE, LABELS, better=HIGHER, of="probe predict zeroshot"),
    # Softmax, and how well it is calibrated
    Column("mean_entropy", NATS, ROWS, is_checked=True, of="entropy probe"),
    Column("max_entropy", NATS, NOTHING, is_checked=True, of="entropy"),
    Column("mean_confidence", SHARE, ROWS, is_checked=True, of="entropy probe calibrate"),
    Column("entropy", NATS, ROWS, of="entropy"),
    Column("confidence", SHARE, ROWS, of="entropy"),
    Column("fitted", FLAG, NOTHING, of="calibrate"),
    Column("low", NUMBER, LABELS, of="calibrate compare importance"),
    Column("high", NUMBER, LABELS, of="calibrate compare importance"),
    Column("nll", NUMBER, LABELS, better=LOWER, of="calibrate"),
    Column("information", NUMBER, LABELS, better=HIGHER, of="calibrate"),
    Column("brier", NUMBER, LABELS, better=LOWER, of="calibrate"),
    Column("ece", SHARE, LABELS, better=LOWER, relatives="equal_width", of="calibrate"),
    Column("ece_null", SHARE, ROWS, of="calibrate"),
    Column("ece_null95", SHARE, ROWS, of="calibrate"),
    Column("ece_null975", SHARE, ROWS, of="calibrate"),
    # Clusters
    Column(
        "purity",
        SHARE,
        LABELS,
        better=HIGHER,
        relatives="chance",
        is_checked=True,
        of_images=True,
        of="cluster",
    ),
    Column("nmi", NUMBER, LABELS, better=HIGHER, relatives="chance", is_checked=True, of="cluster"),
    Column("ari", NUMBER, LABELS, better=HIGHER, relatives="sd", is_checked=True, of="cluster"),
    Column("ami", NUMBER, LABELS, better=HIGHER, relatives="sd", is_checked=True, of="cluster"),
    # Retrieval
    Column(
        "mrr",
        NUMBER,
        LABELS,
        better=HIGHER,
        has_interval=True,
        relatives="null random_ranks control",
        of="retrieve",
    ),
    Column(
        "median_rank",
        NUMBER,
        LABELS,
        better=LOWER,
        has_interval=True,
        relatives="null random_ranks control",
        of="retrieve",
    ),
    Column("gap", NUMBER, ROWS, relatives="within_one_side control", of="retrieve"),
    Column("gap_null", NUMBER, LABELS, of="retrieve"),
    Column("gap_p", P, LABELS, of="retrieve"),
    Column("relative_gap", NUMBER, LABELS, relatives="null control", of="retrieve"),
    Column("relative_gap_within_one_side", NUMBER, ROWS, of="retrieve"),
    Column(
        "hubness",
        NUMBER,
        ROWS,
        better=LOWER,
        relatives="null within_one_side control",
        of="retrieve",
    ),
    # Choices among texts or images
    Column(
        "accuracy",
        SHARE,
        LABELS,
        title="right",
        better=HIGHER,
        has_interval=True,
        relatives="control",
        of="choose",
    ),
    Column("shuffled", SHARE, LABELS, title="images shuffled", relatives="control", of="choose"),
    Column("shuffled95", SHARE, LABELS, of="choose"),
    Column("angle", SHARE, ROWS, title="by angle", of="choose"),
    Column("ceiling", SHARE, LABELS, title="blind to order", of="choose"),
    # Thresholds
    Column("threshold", NUMBER, LABELS, of="threshold"),
    Column("fpr_asked", SHARE, NOTHING, of="threshold"),
    Column("tpr", SHARE, LABELS, better=HIGHER, has_interval=True, of="threshold"),
    Column("fpr", SHARE, LABELS, better=LOWER, has_interval=True, of="threshold"),
    Column("auroc", SHARE, LABELS, better=HIGHER, has_interval=True, of="threshold"),
    # Comparisons of results
    Column("acc_a", SHARE, LABELS, better=HIGHER, is_checked=True, of="compare"),
    Column("acc_b", SHARE, LABELS, better=HIGHER, is_checked=True, of="compare"),
    Column("difference", NUMBER, LABELS, relatives="control", of="compare describe"),
    Column("result", TEXT, NOTHING, of="compare"),
    Column("settings", TEXT, NOTHING, of="compare"),
    Column(
        "to_first",
        POINTS,
        LABELS,
        title="difference to first",
        better=HIGHER,
        has_interval=True,
        of="compare",
    ),
    Column("verdict", TEXT, LABELS, of="compare"),
    Column("mde80", NUMBER, LABELS, of="compare"),
    Column("both", COUNT, LABELS, of="compare"),
    Column("only_a", COUNT, LABELS, of="compare"),
    Column("only_b", COUNT, LABELS, of="compare"),
    Column("neither", COUNT, LABELS, of="compare"),
    Column("p", P, LABELS, of="compare align"),
    Column("p_min", P, NOTHING, of="align describe retrieve"),
    Column("control_p", P, LABELS, of="choose retrieve"),
    Column("p_holm", P, LABELS, of="compare"),
    Column("p_adjusted", P, LABELS, of="describe"),
    Column("log10_p", NUMBER, LABELS, of="compare"),
    Column("kappa", NUMBER, LABELS, of="compare"),
    Column("null", NUMBER, LABELS, of="compare attributes"),
    Column("null5", NUMBER, LABELS, of="compare attributes"),
    Column("null95", SHARE, LABELS, of="variance attributes"),
    Column("t", NUMBER, LABELS, relatives="control null95", of="describe"),
    # Attributes: accuracies or errors, by the metric
    Column("zeroshot", SHARE, LABELS, has_interval=True, by_metric=True, of="attributes"),
    Column("other_words", SHARE, LABELS, by_metric=True, of="attributes"),
    Column("other_words95", SHARE, LABELS, by_metric=True, of="attributes"),
    Column("names", SHARE, LABELS, by_metric=True, of="attributes"),
    Column("random", SHARE, LABELS, has_interval=True, by_metric=True, of="attributes"),
    Column("probe", SHARE, LABELS, has_interval=True, by_metric=True, of="attributes"),
    Column("control", SHARE, LABELS, has_interval=True, by_metric=True, of="attributes"),
    Column("reach", NUMBER, LABELS, better=HIGHER, has_interval=True, of="attributes"),
    Column("gain", SHARE, LABELS, has_interval=True, by_metric=True, of="attributes"),
    # Variance, and its controls' range
    Column("share", SHARE, LABELS, of="variance"),
    Column("unique", SHARE, LABELS, relatives="null95", of="variance"),
    Column("random99", SHARE, LABELS, of="variance"),
    Column("embedding", SHARE, LABELS, of="variance"),
    Column("above", FLAG, LABELS, of="variance"),
    Column("control_share", SHARE, LABELS, of="variance"),
    Column("control_low", SHARE, LABELS, of="variance"),
    Column("control_high", SHARE, LABELS, of="variance"),
    # The importance of prompts
    Column("cost", NUMBER, LABELS, better=HIGHER, of="importance"),
    Column("changed", NUMBER, ROWS, of="importance"),
    Column("weight", NUMBER, LABELS, of="importance"),
    # The alignment of models
    Column("similarity", NUMBER, ROWS, better=HIGHER, relatives="null null95", of="align"),
    Column("calibrated", NUMBER, ROWS, better=HIGHER, of="align"),
    Column("rank_b", NUMBER, ROWS, of="align"),
    Column("cosine_a", NUMBER, ROWS, of="align"),
    Column("cosine_b", NUMBER, ROWS, of="align"),
    Column("blind", NUMBER, ROWS, relatives="null", of="align"),
    # Lists of images
    Column("id", TEXT, ROWS, of="entropy probe predict zeroshot align nearest"),
    Column("label", TEXT, LABELS, of="probe predict zeroshot nearest"),
    Column("rank", NUMBER, NOTHING, of="predict zeroshot nearest"),
    Column("cosine", NUMBER, ROWS, of="nearest"),
    Column("prediction", TEXT, ROWS, of="probe predict zeroshot"),
    Column("score", NUMBER, ROWS, of="probe predict zeroshot"),
    Column("runner_up", TEXT, ROWS, of="probe predict zeroshot"),
    Column("runner_up_score", NUMBER, ROWS, of="probe predict zeroshot"),
)
COLUMNS = tuple(column for record in RECORDS for column in record.family())
COMMANDS = frozenset(command for record in RECORDS for command in record.of.split())
SETTINGS = tuple(column.name for column in RECORDS if column.is_setting)
# In files, whichever command or program made them: these names mean the same everywhere
CHECKED_UNITS = {column.name: column.unit for column in COLUMNS if column.is_checked}


def columns_of_command(command: str, *, is_error: bool = False) -> dict[str, Column]:
    """Return the columns that the reports of a command may have, by their names.

    Another program's results have the columns whose names mean one thing in all commands.

    Parameters
    ----------
    command : str
    is_error : bool
        Whether the metric is an error, so that columns `by_metric` are no shares.
    """
    columns: dict[str, Column] = {}
    ambiguous = set()
    for column in COLUMNS:
        if command in COMMANDS and column.of and command not in column.of.split():
            continue
        if column.name in columns:
            ambiguous.add(column.name)
        if column.by_metric and is_error:
            column = replace(column, unit=NUMBER)
        columns[column.name] = column
    for name in ambiguous:
        del columns[name]
    return columns


def printed_by(command: str) -> list[Column]:
    """Return the columns that a command may print; `info` prints the results of all commands."""
    if command == "info":
        return list(COLUMNS)
    return list(columns_of_command(command).values())


def find_column(command: str, word: str) -> str:
    """Return the name of a column of a command's reports, by its name or its heading.

    `info` also prints results of other programs, with columns of any name.

    >>> find_column("choose", "right"), find_column("probe", "accuracy")
    ('accuracy', 'acc1')
    """
    known = {column.name: column.heading.title for column in printed_by(command)}
    if word in known:
        return word
    named = {title: name for name, title in known.items()}
    if word in named:
        return named[word]
    if command == "info":
        return word
    raise unknown(f"column of {command}", word, known, named)
