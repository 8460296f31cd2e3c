"""A leaderboard: a row per result, with its accuracy and its paired difference to the first."""

from __future__ import annotations

import numpy as np

from clipkit.analysis.compare.comparison import (
    OVERALL,
    PairedResults,
    as_paired,
    compare,
    count_rows,
)
from clipkit.analysis.results import Row, holds_classes, make_result, newest_entry
from clipkit.base.errors import UsageError
from clipkit.features.arguments import Features, Several, as_file, checked
from clipkit.features.model import FeatureFile
from clipkit.statistics import claims, main_number, metrics


@checked
def leaderboard(
    paired: PairedResults | Several[Features], compared: Features | None = None
) -> FeatureFile:
    """Return a row per result: what `clipkit compare --leaderboard` reports.

    Parameters
    ----------
    paired : PairedResults, or sequence of FeatureFile or paths
        Of one result or more. Files are paired as `comparison.pair` does by default.
    compared : Features, optional
        What `comparison.compare` returned for them, if it did.

    Returns
    -------
    FeatureFile
        A result with a row per compared result, in the given order: its name `result`; `model`,
        `prompts` and `shots`, as its history names them; the `settings` of its run; `split`,
        `rows` and, of rows that depend on each other, `clusters`; `chance`, what its
        permuted predictions give, if there are classes; `acc1` with Wilson's interval, by
        `metrics.effective_rows`; of unequal classes the columns of `results.recalls_of_runs`;
        `to_first`, its accuracy minus that of the first, with the interval of `compared`; `p_holm`
        of the difference, with Holm's correction for the pairs of this table, and not for groups
        that were compared; and a `verdict` (see
        `claims.verdict_of_b`). What does not apply is NaN or "".
    """
    paired = as_paired(paired)
    compared = compare(paired) if compared is None else as_file(compared, "compared", "result")
    if newest_entry(compared).command != "compare":
        raise UsageError(
            f"compared: expected a result of compare, got one of {newest_entry(compared).command}",
            "give several results as a list: leaderboard([a, b])",
        )
    prompts = paired.entry["prompts"] or [""] * len(paired.names)
    of_first: Row = dict.fromkeys(("to_first", "to_first_low", "to_first_high", "p_holm"), np.nan)
    differences = [of_first | {"verdict": ""}]
    if len(paired.names) > 1:
        pairs = [row for row in compared.rows() if row.get("scope", OVERALL) == OVERALL]
        first, *others = paired.names
        n = len(paired.right[0])
        if [(row["a"], row["b"], row["rows"]) for row in pairs] != [(first, b, n) for b in others]:
            raise UsageError(
                "compared: expected the comparison of these results in this order, got another",
                "leave it out, and it is computed",
            )
        p_values = metrics.holm([pair["p"] for pair in pairs]).tolist()
        for pair, p in zip(pairs, p_values, strict=True):
            difference = {
                "to_first": 0.0 - pair["difference"],  # 0 has no sign
                "to_first_low": 0.0 - pair["high"],
                "to_first_high": 0.0 - pair["low"],
                "p_holm": p,
                "verdict": claims.verdict_of_b(pair),
            }
            differences.append(difference)
    rows: list[Row] = []
    for number, difference in enumerate(differences):
        share, low, high = paired.accuracy(number)
        by_chance = paired.chances[number] if holds_classes(paired.first) else np.nan
        split = paired.splits[number]
        row: Row = {
            "result": paired.names[number],
            "model": paired.entry["models"][number],
            "prompts": prompts[number],
            "shots": paired.shots[number],
            "settings": paired.runs[number].replace(f", on {split}", "", 1),
            "split": split,
            **count_rows(len(paired.right[number]), paired.clusters),
        }
        recall = paired.recall(number)
        alone = {name: recall.pop(name) for name in [main_number.MAJORITY] if name in recall}
        row |= {**recall, "chance": by_chance, "acc1": share, "acc1_low": low, "acc1_high": high}
        row |= alone
        rows.append(row | difference)
    history = compared.extended_history("leaderboard", inputs={"compared": compared.digest})
    return make_result(history, rows)
