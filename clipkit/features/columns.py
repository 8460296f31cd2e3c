"""The columns of results and reports: one record for each.

Everything that is said of a column is derived from its record: what `validate` checks, which names
`--columns` knows, what people read above a column, what becomes unknown with other labels or other
rows, and what a page or a leaderboard shows of a result. A name may mean different things in
different commands, so a column is found by its command and its name, with `columns_of_command`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
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
SMALL = 0.1  # a share below it may have more decimals
NUMBER_TYPES = frozenset({"<i8", "<f8"})


class Unit(NamedTuple):
    """What the values of a column are: the symbol behind its title, their format and limits.

    People read `scale` times the value, with `sign` before it, if any.
    """

    symbol: str = ""
    format: Callable[[float], str] = format_number
    scale: float = 1
    sign: str = ""
    low: float = -LARGEST
    high: float = LARGEST
    types: frozenset[str] = NUMBER_TYPES  # in a file


TEXT = Unit(types=frozenset({"S"}))
FLAG = Unit()  # true or false, which a file holds as 1 and 0
NUMBER = Unit()
COUNT = Unit(low=0)
SCALE = Unit(low=SMALLEST)  # a temperature or a penalty
SHARE = Unit("%", lambda share: f"{100 * share:.2f}", 100, low=0, high=1)
NATS = Unit("nats", lambda nats: f"{nats:.4f}")
POINTS = Unit("points", lambda difference: f"{100 * difference:+.2f}", 100, "+", low=-1, high=1)
DISTANCE = Unit("points", lambda distance: f"{100 * distance:.2f}", 100, low=0, high=1)
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
    decimals : int, optional
        For people; by default those of the unit.
    small_decimals : int, optional
        For people, of a share that is below SMALL with its interval.
    has_interval : bool
        Whether there are columns `<name>_low` and `<name>_high`.
    interval : (str, str)
        The ends of its interval, if they have other names.
    beside : str
        The column of the 95 % quantile, such as of a null, which stands in brackets behind it.
    reference : str
        The column of what chance gives; by default `<name>_null`, if this is a relative.
    reference_name : str
        What the reference is called below a table.
    control : str
        The column of an untrained control; by default `<name>_control`, if this is a relative.
    control_p : str
        The column of the p of its difference from the control, which stands behind the control.
    p : str
        Of what chance or a control gives: the column of the p that stands behind it.
    least_p : str
        Of a p: the column of the least p that its draws can give.
    at : str
        The setting that it is measured at, such as ``k`` for the recall at k.
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
    number_with : str
        A column beside which it is a number in the unit of the labels, such as an error.
    is_relative : bool
        Whether it belongs to another column, as what chance or a control gives for it.
    of : str
        The commands whose reports have it, such as ``probe zeroshot``; "" for any.
    """

    name: str
    unit: Unit
    depends_on: str = LABELS
    title: str = ""
    better: str | None = None
    decimals: int | None = None
    small_decimals: int | None = None
    has_interval: bool = False
    interval: tuple[str, str] | tuple[()] = ()
    beside: str = ""
    reference: str = ""
    reference_name: str = "chance"
    control: str = ""
    control_p: str = ""
    p: str = ""
    least_p: str = ""
    at: str = ""
    relatives: str = ""
    is_checked: bool = False
    is_setting: bool = False
    of_images: bool = False
    on_leaderboards: bool = False
    is_limit: bool = False
    number_with: str = ""
    is_relative: bool = False
    of: str = ""

    @cached_property
    def heading(self) -> Heading:
        """What people read above the column, and how they read its numbers."""
        title = self.title or self.name.replace("_", " ")
        return Heading(title, self.unit.symbol, self.format)

    def format(self, value: float, *, is_small: bool = False) -> str:
        """Format a number for people; a small share may have more decimals."""
        decimals = self.decimals
        if is_small and self.small_decimals is not None:
            decimals = self.small_decimals
        if decimals is None:
            return self.unit.format(value)
        return f"{self.unit.scale * value:{self.unit.sign}.{decimals}f}"

    @property
    def ends(self) -> tuple[str, str] | tuple[()]:
        """The columns of the ends of its interval, if it has one."""
        if self.has_interval:
            return f"{self.name}_low", f"{self.name}_high"
        return self.interval

    @property
    def chance_column(self) -> str:
        """The column of what chance gives, or ""."""
        return self.reference or self._relative("null")

    @property
    def control_column(self) -> str:
        """The column of what an untrained control gives, or ""."""
        return self.control or self._relative("control")

    def _relative(self, ending: str) -> str:
        return f"{self.name}_{ending}" if ending in self.relatives.split() else ""

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
        """Yield the column, its interval and its relatives; all of them have its unit."""
        yield self
        common = replace(
            self, title="", better=None, has_interval=False, interval=(), beside="", reference="",
            control="", control_p="", at="", relatives="", is_setting=False, of_images=False,
            on_leaderboards=False,
        )  # fmt: skip
        # A setting that is fitted has its interval from the labels
        depends_on = LABELS if self.depends_on == NOTHING else self.depends_on
        for name in self.ends:
            yield replace(common, name=name, depends_on=depends_on, is_limit=True)
        for ending in self.relatives.split():
            name = f"{self.name}_{ending}"
            relative = replace(common, name=name, is_relative=True)
            if ending == "control":  # several controls have a range
                relative = replace(relative, has_interval=True, p=self.control_p)
            yield relative
            for end in relative.ends:
                yield replace(common, name=end, is_relative=True)


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
        of="entropy probe",
    ),
    Column("temperature", SCALE, NOTHING, interval=("low", "high"), of="calibrate"),
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
        reference="chance",
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
    Column("chance", SHARE, LABELS, of="probe predict zeroshot compare"),
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
        control_p="control_p",
        at="k",
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
        title="MRR",
        better=HIGHER,
        decimals=4,
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
    Column(
        "gap",
        NUMBER,
        ROWS,
        decimals=4,
        reference="gap_null",
        relatives="within_one_side control",
        of="retrieve",
    ),
    Column("gap_null", NUMBER, LABELS, decimals=4, p="gap_p", is_relative=True, of="retrieve"),
    Column("gap_p", P, LABELS, least_p="p_min", of="retrieve"),
    Column("relative_gap", NUMBER, LABELS, decimals=4, relatives="null control", of="retrieve"),
    Column("relative_gap_within_one_side", NUMBER, ROWS, is_relative=True, of="retrieve"),
    Column(
        "hubness",
        NUMBER,
        ROWS,
        better=LOWER,
        decimals=4,
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
        decimals=1,
        has_interval=True,
        reference="shuffled",
        reference_name="images shuffled",
        relatives="control",
        of="choose",
    ),
    Column(
        "shuffled",
        SHARE,
        LABELS,
        title="images shuffled",
        decimals=1,
        beside="shuffled95",
        relatives="control",
        of="choose",
    ),
    Column("shuffled95", SHARE, LABELS, decimals=1, of="choose"),
    Column("angle", SHARE, ROWS, title="by angle", decimals=1, of="choose"),
    Column("ceiling", SHARE, LABELS, title="blind to order", decimals=1, of="choose"),
    # Thresholds
    Column("threshold", NUMBER, LABELS, of="threshold"),
    Column("fpr_asked", SHARE, NOTHING, of="threshold"),
    Column(
        "tpr",
        SHARE,
        LABELS,
        better=HIGHER,
        decimals=1,
        small_decimals=2,
        has_interval=True,
        of="threshold",
    ),
    Column(
        "fpr",
        SHARE,
        LABELS,
        better=LOWER,
        decimals=1,
        small_decimals=2,
        has_interval=True,
        of="threshold",
    ),
    Column(
        "auroc",
        SHARE,
        LABELS,
        better=HIGHER,
        decimals=1,
        small_decimals=2,
        has_interval=True,
        of="threshold",
    ),
    # Comparisons of results
    Column("acc_a", SHARE, LABELS, better=HIGHER, is_checked=True, of="compare"),
    Column("acc_b", SHARE, LABELS, better=HIGHER, is_checked=True, of="compare"),
    Column(
        "difference",
        POINTS,
        LABELS,
        interval=("low", "high"),
        number_with="value_a",
        of="compare",
    ),
    Column("difference", NUMBER, LABELS, relatives="control", of="describe"),
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
    Column("mde80", DISTANCE, LABELS, of="compare"),
    Column("both", COUNT, LABELS, of="compare"),
    Column("only_a", COUNT, LABELS, of="compare"),
    Column("only_b", COUNT, LABELS, of="compare"),
    Column("neither", COUNT, LABELS, of="compare"),
    Column("p", P, LABELS, least_p="p_min", of="compare align"),
    Column("p_min", P, NOTHING, of="align describe retrieve"),
    Column("control_p", P, LABELS, of="choose retrieve"),
    Column("p_holm", P, LABELS, of="compare"),
    Column("p_adjusted", P, LABELS, least_p="p_min", of="describe"),
    Column("log10_p", NUMBER, LABELS, of="compare"),
    Column("kappa", NUMBER, LABELS, decimals=2, of="compare"),
    Column("null", SHARE, LABELS, of="compare"),
    Column("null5", SHARE, LABELS, of="compare"),
    Column("null95", SHARE, LABELS, of="variance"),
    Column("t", NUMBER, LABELS, relatives="control null95", of="describe"),
    # Attributes: accuracies or errors, by the metric
    Column("chance", SHARE, LABELS, decimals=1, number_with="null5", of="attributes"),
    Column("null", NUMBER, LABELS, of="attributes"),
    Column("null5", NUMBER, LABELS, of="attributes"),
    Column("null95", SHARE, LABELS, decimals=1, number_with="null5", of="attributes"),
    Column(
        "zeroshot",
        SHARE,
        LABELS,
        decimals=1,
        has_interval=True,
        reference="chance",
        number_with="null5",
        of="attributes",
    ),
    Column(
        "other_words",
        SHARE,
        LABELS,
        decimals=1,
        beside="other_words95",
        number_with="null5",
        of="attributes",
    ),
    Column("other_words95", SHARE, LABELS, decimals=1, number_with="null5", of="attributes"),
    Column(
        "names",
        SHARE,
        LABELS,
        decimals=1,
        reference="chance",
        number_with="null5",
        of="attributes",
    ),
    Column(
        "random",
        SHARE,
        LABELS,
        decimals=1,
        has_interval=True,
        reference="chance",
        number_with="null5",
        of="attributes",
    ),
    Column(
        "probe",
        SHARE,
        LABELS,
        decimals=1,
        has_interval=True,
        reference="chance",
        control="control",
        number_with="null5",
        of="attributes",
    ),
    Column(
        "control",
        SHARE,
        LABELS,
        decimals=1,
        has_interval=True,
        number_with="null5",
        of="attributes",
    ),
    Column("reach", NUMBER, LABELS, better=HIGHER, decimals=2, has_interval=True, of="attributes"),
    Column(
        "gain",
        SHARE,
        LABELS,
        decimals=1,
        has_interval=True,
        number_with="null5",
        of="attributes",
    ),
    # Variance, and its controls' range
    Column(
        "share",
        SHARE,
        LABELS,
        reference="null95",
        reference_name="95 % of unrelated attributes",
        control="control_share",
        of="variance",
    ),
    Column("unique", SHARE, LABELS, relatives="null95", of="variance"),
    Column("random99", SHARE, LABELS, of="variance"),
    Column("embedding", SHARE, LABELS, of="variance"),
    Column("above", FLAG, LABELS, of="variance"),
    Column(
        "control_share",
        SHARE,
        LABELS,
        interval=("control_low", "control_high"),
        of="variance",
    ),
    # The importance of prompts
    Column("cost", POINTS, LABELS, better=HIGHER, interval=("low", "high"), of="importance"),
    Column("changed", SHARE, ROWS, of="importance"),
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


def columns_of_command(command: str, present: Collection[str] = ()) -> dict[str, Column]:
    """Return the columns that the reports of a command may have, by their names.

    Another program's results have the columns whose names mean one thing in all commands. `present`
    are the columns of a result, if there is one: beside some of them, others are no shares.
    """
    columns: dict[str, Column] = {}
    ambiguous = set()
    for column in COLUMNS:
        if command in COMMANDS and column.of and command not in column.of.split():
            continue
        if column.name in columns and columns[column.name].unit != column.unit:
            ambiguous.add(column.name)
        if column.number_with and column.number_with in present:
            column = replace(column, unit=NUMBER, decimals=None)
        columns.setdefault(column.name, column)
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
