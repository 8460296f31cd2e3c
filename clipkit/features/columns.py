"""The columns of results and reports: one record for each.

Everything that is said of a column by its name is derived from its record: what `validate` checks,
which names `--columns` knows, what people read above a column, what becomes unknown with other
labels or other rows, and what a page or a leaderboard shows of a result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from clipkit.base.errors import LARGEST, SMALLEST
from clipkit.base.tables import Heading, format_number, format_p

# What a value depends on. What depends on labels depends on the rows, too.
LABELS = "labels"  # the class, value, partner or group of each row
ROWS = "rows"  # which rows are scored
NOTHING = "nothing"  # neither: settings and names
HIGHER, LOWER = "higher", "lower"  # which values are better

SCORE = "score_"  # before the class, in the columns of zeroshot --scores
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
P = Unit(format=lambda p: format_number(p) if p else format_p(p), low=0, high=1)


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
    """

    name: str
    unit: Unit
    depends_on: str
    title: str = ""
    better: str | None = None
    has_interval: bool = False
    relatives: str = ""
    is_checked: bool = False
    is_setting: bool = False
    of_images: bool = False
    on_leaderboards: bool = False
    is_limit: bool = False

    @cached_property
    def heading(self) -> Heading:
        """What people read above the column, and how they read its numbers."""
        title = self.title or self.name.replace("_", " ")
        return Heading(title, self.unit.symbol, self.unit.format)

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
            )


RECORDS = (
    # The settings of a run
    Column("classifier", TEXT, NOTHING, is_checked=True, is_setting=True),
    Column("C", SCALE, NOTHING, is_checked=True, is_setting=True),
    Column("temperature", SCALE, NOTHING, is_checked=True, is_setting=True),
    Column("standardize", FLAG, NOTHING, is_checked=True, is_setting=True),
    Column("k", NUMBER, NOTHING, is_checked=True, is_setting=True),
    Column("shots", COUNT, NOTHING, is_checked=True, is_setting=True),
    Column("draw", COUNT, NOTHING, is_setting=True),
    # What a row of a report is about
    Column("split", TEXT, NOTHING, is_checked=True),
    Column("fit_split", TEXT, NOTHING, is_checked=True),
    Column("eval_split", TEXT, NOTHING, is_checked=True),
    Column("seed", COUNT, NOTHING),
    Column("file", TEXT, NOTHING),
    Column("model", TEXT, NOTHING),
    Column("dataset", TEXT, NOTHING),
    Column("attribute", TEXT, NOTHING),
    Column("category", TEXT, NOTHING),
    Column("class", TEXT, NOTHING),
    Column("group", TEXT, LABELS),
    Column("measure", TEXT, NOTHING),
    Column("metric", TEXT, NOTHING),
    Column("scope", TEXT, NOTHING),
    Column("scores", TEXT, NOTHING),
    Column("unit", TEXT, NOTHING),
    Column("untested", TEXT, NOTHING),
    Column("a", TEXT, NOTHING),
    Column("b", TEXT, NOTHING),
    Column("value_a", NUMBER, LABELS),
    Column("value_b", NUMBER, LABELS),
    Column("prompt", TEXT, ROWS),
    Column("prompts", NUMBER, NOTHING),  # their name, or how many are in a group
    Column("values", COUNT, LABELS),
    # Numbers of rows
    Column("rows", COUNT, LABELS, is_checked=True),
    Column("clusters", COUNT, ROWS, is_checked=True),
    Column("items", COUNT, ROWS),
    Column("queries", COUNT, ROWS),
    Column("candidates", COUNT, ROWS),
    Column("known", COUNT, ROWS),
    Column("unknown", COUNT, ROWS),
    Column("unique_rows", COUNT, ROWS),
    Column("matching", COUNT, LABELS),
    Column("other", COUNT, LABELS),
    Column("positives", COUNT, LABELS),
    Column("support", COUNT, LABELS),
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
    ),
    Column(
        "mean_per_class_recall",
        SHARE,
        LABELS,
        title="mean recall",
        better=HIGHER,
        is_checked=True,
        on_leaderboards=True,
    ),
    Column("chance", SHARE, LABELS),
    Column(
        "coverage",
        SHARE,
        ROWS,
        title="with an answer",
        better=HIGHER,
        has_interval=True,
        of_images=True,
    ),
    Column(
        "acc1_answered",
        SHARE,
        LABELS,
        title="accuracy of answers",
        better=HIGHER,
        has_interval=True,
    ),
    Column("precision", SHARE, LABELS, better=HIGHER),
    Column(
        "recall",
        SHARE,
        LABELS,
        better=HIGHER,
        has_interval=True,
        relatives="null random_ranks control",
    ),
    Column("f1", SHARE, LABELS, better=HIGHER),
    # Softmax, and how well it is calibrated
    Column("mean_entropy", NATS, ROWS, is_checked=True),
    Column("max_entropy", NATS, NOTHING, is_checked=True),
    Column("mean_confidence", SHARE, ROWS, is_checked=True),
    Column("entropy", NATS, ROWS),
    Column("confidence", SHARE, ROWS),
    Column("fitted", FLAG, NOTHING),
    Column("low", NUMBER, LABELS),
    Column("high", NUMBER, LABELS),
    Column("nll", NUMBER, LABELS, better=LOWER),
    Column("information", NUMBER, LABELS, better=HIGHER),
    Column("brier", NUMBER, LABELS, better=LOWER),
    Column("ece", SHARE, LABELS, better=LOWER, relatives="equal_width"),
    Column("ece_null", SHARE, ROWS),
    Column("ece_null95", SHARE, ROWS),
    # Clusters
    Column(
        "purity",
        SHARE,
        LABELS,
        better=HIGHER,
        relatives="chance",
        is_checked=True,
        of_images=True,
    ),
    Column("nmi", NUMBER, LABELS, better=HIGHER, relatives="chance", is_checked=True),
    Column("ari", NUMBER, LABELS, better=HIGHER, relatives="sd", is_checked=True),
    Column("ami", NUMBER, LABELS, better=HIGHER, relatives="sd", is_checked=True),
    # Retrieval
    Column(
        "mrr",
        NUMBER,
        LABELS,
        better=HIGHER,
        has_interval=True,
        relatives="null random_ranks control",
    ),
    Column(
        "median_rank",
        NUMBER,
        LABELS,
        better=LOWER,
        has_interval=True,
        relatives="null random_ranks control",
    ),
    Column("gap", NUMBER, ROWS, relatives="within_one_side control"),
    Column("gap_null", NUMBER, LABELS),
    Column("gap_p", P, LABELS),
    Column("relative_gap", NUMBER, LABELS, relatives="null control"),
    Column("relative_gap_within_one_side", NUMBER, ROWS),
    Column("hubness", NUMBER, ROWS, better=LOWER, relatives="null within_one_side control"),
    # Choices among texts or images
    Column(
        "accuracy",
        SHARE,
        LABELS,
        title="right",
        better=HIGHER,
        has_interval=True,
        relatives="control",
    ),
    Column("shuffled", SHARE, LABELS, title="images shuffled", relatives="control"),
    Column("shuffled95", SHARE, LABELS),
    Column("angle", SHARE, ROWS, title="by angle"),
    Column("ceiling", SHARE, LABELS, title="blind to order"),
    # Thresholds
    Column("threshold", NUMBER, LABELS),
    Column("fpr_asked", SHARE, NOTHING),
    Column("tpr", SHARE, LABELS, better=HIGHER, has_interval=True),
    Column("fpr", SHARE, LABELS, better=LOWER, has_interval=True),
    Column("auroc", SHARE, LABELS, better=HIGHER, has_interval=True),
    # Comparisons of results
    Column("acc_a", SHARE, LABELS, better=HIGHER, is_checked=True),
    Column("acc_b", SHARE, LABELS, better=HIGHER, is_checked=True),
    Column("difference", NUMBER, LABELS, relatives="control"),
    Column("mde80", NUMBER, LABELS),
    Column("both", COUNT, LABELS),
    Column("only_a", COUNT, LABELS),
    Column("only_b", COUNT, LABELS),
    Column("neither", COUNT, LABELS),
    Column("p", P, LABELS),
    Column("p_min", P, NOTHING),
    Column("control_p", P, LABELS),
    Column("p_holm", P, LABELS),
    Column("p_adjusted", P, LABELS),
    Column("log10_p", NUMBER, LABELS),
    Column("kappa", NUMBER, LABELS),
    Column("null", NUMBER, LABELS),
    Column("null5", NUMBER, LABELS),
    Column("null95", SHARE, LABELS),
    Column("t", NUMBER, LABELS, relatives="control null95"),
    # Attributes: accuracies or errors, by the metric
    Column("zeroshot", NUMBER, LABELS, has_interval=True),
    Column("names", NUMBER, LABELS),
    Column("random", NUMBER, LABELS, has_interval=True),
    Column("probe", NUMBER, LABELS, has_interval=True),
    Column("control", NUMBER, LABELS),
    Column("reach", NUMBER, LABELS, better=HIGHER, has_interval=True),
    Column("gain", NUMBER, LABELS, has_interval=True),
    # Variance, and its controls' range
    Column("share", SHARE, LABELS),
    Column("unique", SHARE, LABELS, relatives="null95"),
    Column("random99", SHARE, LABELS),
    Column("embedding", SHARE, LABELS),
    Column("above", FLAG, LABELS),
    Column("control_share", SHARE, LABELS),
    Column("control_low", SHARE, LABELS),
    Column("control_high", SHARE, LABELS),
    # The importance of prompts
    Column("cost", NUMBER, LABELS, better=HIGHER),
    Column("changed", NUMBER, ROWS),
    Column("weight", NUMBER, LABELS),
    # The alignment of models
    Column("similarity", NUMBER, ROWS, better=HIGHER, relatives="null null95"),
    Column("calibrated", NUMBER, ROWS, better=HIGHER),
    Column("rank_b", NUMBER, ROWS),
    Column("cosine_a", NUMBER, ROWS),
    Column("cosine_b", NUMBER, ROWS),
    Column("blind", NUMBER, ROWS, relatives="null"),
    # Lists of images
    Column("id", TEXT, ROWS),
    Column("label", TEXT, LABELS),
    Column("rank", NUMBER, NOTHING),
    Column("prediction", TEXT, ROWS),
    Column("score", NUMBER, ROWS),
    Column("runner_up", TEXT, ROWS),
    Column("runner_up_score", NUMBER, ROWS),
)
COLUMNS = {column.name: column for record in RECORDS for column in record.family()}
HEADINGS = {name: column.heading for name, column in COLUMNS.items()}
SETTINGS = tuple(column.name for column in RECORDS if column.is_setting)


def depends_on_labels(name: str) -> bool:
    """Whether the values of a column of this name depend on labels; False for an unknown one."""
    return name in COLUMNS and COLUMNS[name].depends_on == LABELS


def depends_on_rows(name: str) -> bool:
    """Whether the values of a column of this name depend on the rows that are scored."""
    return name in COLUMNS and COLUMNS[name].depends_on in (LABELS, ROWS)
