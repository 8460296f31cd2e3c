"""Which of several results is better on the same images, and where."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from clipkit.analysis.layout import Columns, Layout, Row, make_cell, number
from clipkit.analysis.options import TABLE, Cluster, Common, SameRows, Seed
from clipkit.analysis.question import Analysis, Answer, Claim, FeatureFile, Input
from clipkit.analysis.sections import BETTER
from clipkit.base.errors import UsageError
from clipkit.base.options import (
    OUTPUT_PANEL,
    ROWS_PANEL,
    attribute_option,
    choice,
    flag,
    option,
    split_option,
)
from clipkit.features.columns import (
    ACC1,
    ACC_A,
    ACC_B,
    ATTRIBUTE,
    CHANCE,
    CLUSTERS,
    COUNT,
    DISTANCE,
    GROUP,
    HIGHER,
    LABELS,
    MAJORITY,
    MEAN_PER_CLASS_RECALL,
    METRIC,
    NOTHING,
    NUMBER,
    P_VALUE,
    POINTS,
    RECALL_CHANCE,
    ROW_COUNT,
    SHARE,
    TEXT,
    A,
    B,
    Column,
    P,
)

FIRST = Input("A", "Result of probe, zeroshot, retrieve, choose or attributes.", ("result",))
OTHERS = Input("B", "Results to compare with A, each separately.", ("result",))


def compare(
    a: Annotated[FeatureFile, FIRST],
    b: Annotated[list[FeatureFile] | None, OTHERS] = None,
    split: Annotated[
        str | None, split_option("Split to compare on (default: test, else the first).")
    ] = None,
    run: Annotated[
        list[int],
        option(
            "N",
            "Number of the run, from 0, of all results with several runs; or repeat it for each.",
            min=0,
        ),
    ] = [],
    table: Annotated[str | None, replace(TABLE, member="by")] = None,
    attribute: Annotated[
        str | None,
        attribute_option("Compare by this attribute of TABLE; A*B combines two.", member="column"),
    ] = None,
    cluster: Cluster = None,
    groups: Annotated[
        str | None,
        option(
            "FILE",
            "Compare by groups of classes; each line of FILE is: class TAB group.",
            is_file=True,
            panel=ROWS_PANEL,
        ),
    ] = None,
    common: Common = False,
    same_rows: SameRows = False,
    ids: Annotated[
        str | None,
        choice(
            ("only-a", "only-b", "neither"),
            "Print the ids of the images that only A, only B or neither gets right.",
            "--list",
            panel=OUTPUT_PANEL,
        ),
    ] = None,
    leaderboard: Annotated[
        bool,
        flag(
            "--leaderboard",
            "Print a row per result: its accuracy, and its difference to that of A.",
            panel=OUTPUT_PANEL,
        ),
    ] = False,
    seed: Seed = 42,
) -> Answer:
    """Compare results on the same images: McNemar's test and a paired interval of the difference.

    `difference` is the accuracy of A minus the accuracy of B. `kappa` is 0 if A and B err
    independently and 1 if they err on the same images. `mde80` is the smallest difference that as
    many images decide in 80 % of cases. With groups, the `scope` of a row is all
    images, a group, or the worst group of a result, compared with random groups.

    Example: clipkit compare probe.h5 zeroshot.h5 --table shapes --attribute pattern
    """
    from clipkit.analysis.compare import comparison, score_comparison

    results = [a, *(b or [])]
    if all(result.holds_ranks for result in results):
        if any((run, table, attribute, cluster, groups, ids, leaderboard)):
            raise UsageError(
                "expected no --run, --table, --attribute, --cluster, --groups, --list and "
                "--leaderboard for results of attributes"
            )
        compared = score_comparison.compare(results, split, common=common, same_rows=same_rows)
        return Answer(compared)
    paired = comparison.pair(
        results, split, run, common=common, same_rows=same_rows, table=table, cluster=cluster
    )
    _name_runs(results, paired.runs)
    if ids is not None:
        return Answer(None, lines=comparison.list_ids(paired, ids))
    by = table
    if cluster is not None and not attribute:
        by = None  # the table names clusters alone
    result = comparison.compare(paired, by=by, column=attribute, groups=groups, seed=seed)
    if not leaderboard:
        return Answer(result)
    from clipkit.analysis.compare.leaderboard import leaderboard as arrange
    from clipkit.analysis.for_people import findings

    board = arrange(paired, result)
    return Answer(result, board.rows(), findings(board))


def _check(report: Any, **values: Any) -> None:
    """Refuse options that exclude each other."""
    attribute, groups, table = values["attribute"], values["groups"], values["table"]
    ids, cluster = values["ids"], values["cluster"]
    if values["leaderboard"]:  # of all images
        chooses_images = any((attribute, groups, ids))
        if chooses_images or (table and not cluster):
            raise UsageError(
                "expected --leaderboard without --attribute, --groups, --list, and --table only "
                "with --cluster"
            )
    if ids is not None:
        asks_for_more = any((table, attribute, groups, cluster))
        if asks_for_more or report != type(report)(force=report.force):
            raise UsageError(
                "expected --list without --table, --attribute, --groups, --cluster, --output and "
                "options of the report"
            )


def _name_runs(results: Sequence[FeatureFile], runs: Sequence[str]) -> None:
    """Name the runs that were chosen."""
    from clipkit.base import console

    for result, label in zip(results, runs, strict=True):
        if "chosen" in label or "recall@" in label:
            console.note(f"{result.display_name}: {label}")


COLUMNS = (
    ATTRIBUTE,
    GROUP,
    METRIC,
    Column("scope", TEXT, NOTHING),
    Column("scores", TEXT, NOTHING),
    A,
    B,
    Column("value_a", NUMBER, LABELS),
    Column("value_b", NUMBER, LABELS),
    ROW_COUNT,
    CLUSTERS,
    ACC1,
    MEAN_PER_CLASS_RECALL,
    RECALL_CHANCE,
    CHANCE,
    MAJORITY,
    ACC_A,
    ACC_B,
    Column("recall_a", SHARE, LABELS, title="mean recall a", better=HIGHER),
    Column("recall_b", SHARE, LABELS, title="mean recall b", better=HIGHER),
    Column(
        "difference",
        POINTS,
        LABELS,
        interval=("low", "high"),
        number_with="value_a",
    ),
    Column("result", TEXT, NOTHING),
    Column("settings", TEXT, NOTHING),
    Column(
        "to_first",
        POINTS,
        LABELS,
        title="difference to first",
        better=HIGHER,
        has_interval=True,
    ),
    Column("mde80", DISTANCE, LABELS),
    Column("both", COUNT, LABELS),
    Column("only_a", COUNT, LABELS),
    Column("only_b", COUNT, LABELS),
    Column("neither", COUNT, LABELS),
    P_VALUE,
    Column("p_holm", P, LABELS),
    Column("log10_p", NUMBER, LABELS),
    Column("kappa", NUMBER, LABELS, decimals=2),
    Column("null", SHARE, LABELS),
    Column("null5", SHARE, LABELS),
)


def _claim(result: FeatureFile) -> list[Claim]:
    """Hold a against b in each row that is tested; one result alone is held against nothing."""
    from clipkit.statistics.claims import difference_claim

    if "b" not in result.runs:
        return []
    rows = enumerate(result.rows())
    return [difference_claim(row, run) for run, row in rows if math.isfinite(row["low"])]


def _find(result: FeatureFile) -> list[str]:
    """Say of each pair whether one is more accurate, if the comparison is tested."""
    from clipkit.statistics import claims

    rows = [row for row in result.rows() if row.get("scope", "all") == "all"]
    return [claims.difference_sentence(row) for row in rows if math.isfinite(row["low"])]


def _find_of_leaderboard(result: FeatureFile) -> list[str]:
    """Say what decides between the results, and what their accuracies do not show."""
    from clipkit.analysis.results import caveats, describe_caveat
    from clipkit.statistics import claims

    notes = [f"{describe_caveat(caveat)}." for caveat in caveats(result)]
    return [claims.leaderboard_sentence(result.rows()), *notes]


def _arrange(rows: Sequence[Row], columns: Columns) -> list[Row]:
    """Shorten rows of several pairs or groups, so that they fit 80 columns.

    For one result, the interval is of its accuracy. Of several pairs, p is Holm's. The worst group
    is named after its result.
    """
    unshown: set[str] = set()
    decimals = 1
    if "scope" in rows[0]:
        unshown = {"scope", "mde80", "only_a", "only_b", "kappa"}
    elif len(rows) > 1:
        unshown = {"kappa"}
    else:
        decimals = 2
    if "p_holm" in rows[0]:
        unshown.add("p")
    arranged: list[Row] = []
    for row in rows:
        cells = {name: value for name, value in row.items() if name not in unshown}
        main = "acc_a" if math.isnan(number(row, "recall_a")) else "recall_a"
        for name in ("recall_a", "recall_b", "acc_a", "acc_b", "difference", "mde80"):
            if name in cells:
                column = replace(columns[name], decimals=decimals)
                if name == main and math.isnan(number(row, "difference")):
                    column = replace(column, interval=("low", "high"))
                cells[name] = make_cell(row, column, columns)
        for name in ("only_a", "only_b"):
            if name in cells:
                cells[name] = round(number(row, name), 2)
        if "scope" in row:
            cells |= _names_of_group(row, rows)
        arranged.append(cells)
    return arranged


def _names_of_group(row: Row, rows: Sequence[Row]) -> Row:
    """Name the results and the group of a row. A single pair has the same names in all rows."""
    names = {"a": rows[0]["a"], "group": row["group"]}
    if "b" in row:
        is_one_pair = rows[0]["b"] == rows[-1]["b"]
        names["b"] = rows[0]["b"] if is_one_pair else row["b"]
    if row["scope"] == "all":
        names["group"] = "all images"
    elif row["scope"] == "worst":
        name, null = row["a"] or row.get("b"), 100 * number(row, "null5")
        names["group"] = f"worst of {name}: {row['group']} (null5 {null:.1f} %)"
    return names


LAYOUT = Layout(
    needed="acc_a",
    columns="a b group rows clusters recall_a recall_b acc_a acc_b difference mde80 only_a only_b "
    "kappa p_holm p",
    hidden="split metric both neither log10_p null null5",
    arrange=_arrange,
)


LEADERBOARD = Analysis(
    "leaderboard",
    "Which of several results is more accurate?",
    compare,
    findings=_find_of_leaderboard,
    needs="result rows acc1 to_first p_holm verdict",
)
ANALYSIS = Analysis(
    "compare",
    "Which result is better on the same images, and where?",
    compare,
    columns=COLUMNS,
    section=BETTER,
    layout=LAYOUT,
    claims=_claim,
    findings=_find,
    needs="a b acc_a acc_b difference low high p rows",
    topic="Comparison",
    also=(LEADERBOARD,),
    check=_check,
)
