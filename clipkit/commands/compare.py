"""`clipkit compare`: which of several results is better on the same images, and where."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

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
from clipkit.commands._options import Cluster, Common, Report, SameRows, Seed, Table

if TYPE_CHECKING:
    from clipkit.analysis.comparison import PairedResults
    from clipkit.features.model import FeatureFile


def compare(
    report: Report,
    a: Annotated[
        str,
        typer.Argument(
            metavar="A", help="Result of probe, zeroshot, retrieve, choose or attributes."
        ),
    ],
    b: Annotated[
        list[str] | None,
        typer.Argument(metavar="B", help="Results to compare with A, each separately."),
    ] = None,
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
    ] = [],  # noqa: B006
    table: Table = None,
    attribute: Annotated[
        str | None, attribute_option("Compare by this attribute of TABLE; A*B combines two.")
    ] = None,
    cluster: Cluster = None,
    groups: Annotated[
        str | None,
        option(
            "FILE",
            "Compare by groups of classes; each line of FILE is: class TAB group.",
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
) -> None:
    """Compare results on the same images: McNemar's test and a paired interval of the difference.

    `difference` is the accuracy of A minus the accuracy of B. `kappa` is 0 if A and B err
    independently and 1 if they err on the same images. With groups, the `scope` of a row is all
    images, a group, or the worst group of a result, compared with random groups.

    Example: clipkit compare probe.h5 zeroshot.h5 --table shapes --attribute pattern
    """
    from clipkit import features
    from clipkit.analysis import comparison, score_comparison
    from clipkit.base import console

    if leaderboard:  # of all images
        chooses_images = any((attribute, groups, ids))
        if chooses_images or (table and not cluster):
            raise UsageError(
                "expected --leaderboard without --attribute, --groups, --list, and --table only "
                "with --cluster"
            )
    inputs = [a, *(b or [])]
    report.check_output(*inputs, table, groups)
    results = features.read_all(inputs, kinds=["result"])
    if all(result.holds_ranks for result in results):
        if any((run, table, attribute, cluster, groups, ids, leaderboard)):
            raise UsageError(
                "expected no --run, --table, --attribute, --cluster, --groups, --list and "
                "--leaderboard for results of attributes"
            )
        report.show(score_comparison.compare(results, split, common=common, same_rows=same_rows))
        return
    paired = comparison.pair(
        results, split, run, common=common, same_rows=same_rows, table=table, cluster=cluster
    )
    _name_runs(results, paired.runs)
    if ids is not None:
        asks_for_more = any((table, attribute, groups, cluster))
        if asks_for_more or report != Report(force=report.force):
            raise UsageError(
                "expected --list without --table, --attribute, --groups, --cluster, --output and "
                "options of the report"
            )
        for row_id in comparison.list_ids(paired, ids):
            sys.stdout.write(f"{console.escaped(row_id)}\n")
        return
    by = table
    if cluster is not None and not attribute:
        by = None  # the table names clusters alone
    result = comparison.compare(paired, by=by, column=attribute, groups=groups, seed=seed)
    if leaderboard:
        _show_leaderboard(report, paired, result)
    else:
        report.show(result)


def _show_leaderboard(report: Report, paired: PairedResults, compared: FeatureFile) -> None:
    """Print a leaderboard, and save the comparison that it is of."""
    from clipkit.analysis.for_people import findings
    from clipkit.analysis.leaderboard import leaderboard

    board = leaderboard(paired, compared)
    report.show(compared, board.rows(), notes=findings(board))


def _name_runs(results: Sequence[FeatureFile], runs: Sequence[str]) -> None:
    """Name the runs that were chosen."""
    from clipkit.base import console

    for result, label in zip(results, runs, strict=True):
        if "chosen" in label or "recall@" in label:
            console.note(f"{result.display_name}: {label}")
