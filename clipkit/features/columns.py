"""The columns of results and reports: one record for each.

Everything that is said of a column is derived from its record: what `validate` checks, which names
`--columns` knows, what people read above a column, what becomes unknown with other labels or other
rows, and what a page or a leaderboard shows of a result. A name may mean different things in
different commands, so a column is found by its command and its name, with `columns_of_command`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from clipkit.base.cells import Heading, format_number, format_p
from clipkit.base.errors import LARGEST, SMALLEST, unknown
from clipkit.base.views import QUESTIONS

# What a value depends on. What depends on labels depends on the rows, too.
LABELS = "labels"  # the class, value, partner or group of each row
ROWS = "rows"  # which rows are scored
NOTHING = "nothing"  # neither: settings and names
HIGHER, LOWER = "higher", "lower"  # which values are better

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

OWN_QUESTION = "run"  # the command that asks a researcher's own question
MAX_WORDS = 200  # characters of a name, a title or relatives, which any program may have written
DESCRIBED: dict[str, Any] = {  # what a history says of the column of such a question, by its type
    **dict.fromkeys(("name", "depends_on", "title", "relatives"), str),
    **dict.fromkeys(("beside", "reference", "reference_name", "control", "control_p"), str),
    **dict.fromkeys(("p", "least_p", "at"), str),
    **dict.fromkeys(("decimals", "small_decimals"), int | None),
    "better": str | None,
    "has_interval": bool,
}
UNITS = {  # by their names in a history
    **{"text": TEXT, "flag": FLAG, "number": NUMBER, "count": COUNT, "scale": SCALE},
    **{"share": SHARE, "nats": NATS, "points": POINTS, "distance": DISTANCE, "p": P},
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
        described = {name: getattr(self, name) for name in DESCRIBED}
        return {**described, "unit": unit, "interval": list(self.interval)}

    @classmethod
    def from_json(cls, described: object) -> Column | None:
        """Return the column that a history describes, or None if it describes none."""
        if not isinstance(described, dict) or described.get("unit") not in UNITS:
            return None
        fields: dict[str, Any] = {}
        for name, kinds in DESCRIBED.items():
            value = described.get(name, getattr(cls, name, None))
            is_long = isinstance(value, str) and len(value) > MAX_WORDS
            if not isinstance(value, kinds) or is_long:
                return None
            fields[name] = value
        ends = described.get("interval")
        if isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, str) for end in ends):
            fields["interval"] = tuple(ends)
        return cls(unit=UNITS[described["unit"]], **fields)

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


# ---- Columns of several commands, and those that mean the same in every file ----

CLASSIFIER = Column("classifier", TEXT, NOTHING, is_checked=True, is_setting=True)
C = Column("C", SCALE, NOTHING, is_checked=True, is_setting=True)
TEMPERATURE = Column(
    "temperature",
    SCALE,
    NOTHING,
    is_checked=True,
    is_setting=True,
)
STANDARDIZE = Column("standardize", FLAG, NOTHING, is_checked=True, is_setting=True)
K = Column("k", NUMBER, NOTHING, is_checked=True, is_setting=True)
SHOTS = Column("shots", COUNT, NOTHING, is_checked=True, is_setting=True)
DRAW = Column("draw", COUNT, NOTHING, is_setting=True)
SPLIT = Column("split", TEXT, NOTHING, is_checked=True)
FIT_SPLIT = Column("fit_split", TEXT, NOTHING, is_checked=True)
EVAL_SPLIT = Column("eval_split", TEXT, NOTHING, is_checked=True)
SEED = Column("seed", COUNT, NOTHING)
MODEL = Column("model", TEXT, NOTHING)
DATASET = Column("dataset", TEXT, NOTHING)
ATTRIBUTE = Column("attribute", TEXT, NOTHING)
CLASS = Column("class", TEXT, NOTHING)
GROUP = Column("group", TEXT, LABELS)
MEASURE = Column("measure", TEXT, NOTHING)
METRIC = Column("metric", TEXT, NOTHING)
A = Column("a", TEXT, NOTHING)
B = Column("b", TEXT, NOTHING)
PROMPT = Column("prompt", TEXT, ROWS)
PROMPTS = Column("prompts", NUMBER, NOTHING)
VALUES = Column("values", COUNT, LABELS)
ROW_COUNT = Column("rows", COUNT, LABELS, is_checked=True)
CLUSTERS = Column("clusters", COUNT, ROWS, is_checked=True)
OTHER = Column("other", COUNT, LABELS)
SUPPORT = Column("support", COUNT, LABELS)
ACC1 = Column(
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
)
ACC5 = Column(
    "acc5",
    SHARE,
    LABELS,
    title="top 5",
    better=HIGHER,
    is_checked=True,
    of_images=True,
    on_leaderboards=True,
)
MEAN_PER_CLASS_RECALL = Column(
    "mean_per_class_recall",
    SHARE,
    LABELS,
    title="mean recall",
    better=HIGHER,
    has_interval=True,
    reference="recall_chance",
    is_checked=True,
    on_leaderboards=True,
)
RECALL_CHANCE = Column("recall_chance", SHARE, LABELS, title="recall by chance")
CHANCE = Column("chance", SHARE, LABELS)
MAJORITY = Column("majority", SHARE, LABELS, title="most frequent class alone")
COVERAGE = Column(
    "coverage",
    SHARE,
    ROWS,
    title="with an answer",
    better=HIGHER,
    has_interval=True,
    of_images=True,
)
ACC1_ANSWERED = Column(
    "acc1_answered",
    SHARE,
    LABELS,
    title="accuracy of answers",
    better=HIGHER,
    has_interval=True,
)
PRECISION = Column("precision", SHARE, LABELS, better=HIGHER)
RECALL = Column(
    "recall",
    SHARE,
    LABELS,
    better=HIGHER,
    has_interval=True,
    relatives="null random_ranks control",
    control_p="control_p",
    at="k",
)
F1 = Column("f1", SHARE, LABELS, better=HIGHER)
MEAN_ENTROPY = Column("mean_entropy", NATS, ROWS, is_checked=True)
MAX_ENTROPY = Column("max_entropy", NATS, NOTHING, is_checked=True)
MEAN_CONFIDENCE = Column("mean_confidence", SHARE, ROWS, is_checked=True)
PURITY = Column(
    "purity",
    SHARE,
    LABELS,
    better=HIGHER,
    relatives="chance",
    is_checked=True,
    of_images=True,
)
NMI = Column("nmi", NUMBER, LABELS, better=HIGHER, relatives="chance", is_checked=True)
ARI = Column("ari", NUMBER, LABELS, better=HIGHER, relatives="sd", is_checked=True)
AMI = Column("ami", NUMBER, LABELS, better=HIGHER, relatives="sd", is_checked=True)
ACC_A = Column("acc_a", SHARE, LABELS, better=HIGHER, is_checked=True)
ACC_B = Column("acc_b", SHARE, LABELS, better=HIGHER, is_checked=True)
P_VALUE = Column("p", P, LABELS, least_p="p_min")
P_MIN = Column("p_min", P, NOTHING)
CONTROL_P = Column("control_p", P, LABELS)
ID = Column("id", TEXT, ROWS)
LABEL = Column("label", TEXT, LABELS)
RANK = Column("rank", NUMBER, NOTHING)
PREDICTION = Column("prediction", TEXT, ROWS)
CLASS_SCORE = Column("score", NUMBER, ROWS)
RUNNER_UP = Column("runner_up", TEXT, ROWS)
RUNNER_UP_SCORE = Column("runner_up_score", NUMBER, ROWS)
VERDICT = Column("verdict", TEXT, LABELS)
BECAUSE = Column("because", TEXT, LABELS)
NEEDS = Column("needs", COUNT, LABELS)
ANY = (SHOTS, SPLIT, MODEL, DATASET, PROMPTS, VERDICT, BECAUSE, NEEDS)  # columns of all reports
FILE = Column("file", TEXT, NOTHING, of="info")
SHARED = tuple(value for value in globals().values() if isinstance(value, Column))
SETTINGS = tuple(column.name for column in SHARED if column.is_setting)
# In files, whichever command or program made them: these names mean the same everywhere
CHECKED_UNITS = {
    column.name: column.unit for record in SHARED for column in record.family() if column.is_checked
}


@functools.cache
def records() -> tuple[Column, ...]:
    """Return the records of all columns, with the commands whose reports have them.

    Those that several commands share come first, and so stand for columns of other programs.
    """
    commands: dict[Column, list[str]] = {column: [] for column in SHARED}
    for command, question in QUESTIONS.items():
        for column in question().columns:
            commands.setdefault(column, []).append(command)
    of_commands = []
    for column, names in commands.items():
        if names:
            of_commands.append(replace(column, of=" ".join(names)))
    return (*ANY, FILE, *of_commands)


@functools.cache
def all_columns() -> tuple[Column, ...]:
    """Return the columns of all reports: those of `records`, with intervals and relatives."""
    return tuple(column for record in records() for column in record.family())


def _question_of(command: str) -> str:
    """Return the question that makes a result as one of its `also`; or else the command."""
    for name, question in QUESTIONS.items():
        if command in [other.name for other in question().also]:
            return name
    return command


def columns_of_command(command: str, present: Collection[str] = ()) -> dict[str, Column]:
    """Return the columns that the reports of a command may have, by their names.

    Another program's results have the columns whose names mean one thing in all commands. `present`
    are the columns of a result, if there is one: beside some of them, others are no shares.
    """
    columns: dict[str, Column] = {}
    ambiguous = set()
    command = _question_of(command)
    is_known = command in QUESTIONS or command == FILE.of
    for column in all_columns():
        if is_known and column.of and command not in column.of.split():
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
        return list(all_columns())
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
