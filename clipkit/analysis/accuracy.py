"""What intervals of accuracies decide: the runs of `probe` and `zeroshot` against chance.

The records of these questions name the functions below, and a command's help is quick, so that
these import what needs numpy.
"""

from __future__ import annotations

from dataclasses import replace

from clipkit.analysis.question import Claim, FeatureFile

SETTINGS = ("C", "temperature", "k", "shots", "draw")


def accuracy_claims(result: FeatureFile) -> list[Claim]:
    """Hold the accuracy of each run against chance: its own predictions, permuted over the rows.

    Intervals are for as many comparisons as there are runs on a split (Bonferroni), so that the
    most accurate of them may be named. Without labels, with one class, or with images whose
    accuracy says nothing (see `results.untestable`), there is no claim.
    """
    from clipkit.analysis import results
    from clipkit.statistics import claims

    made: list[Claim] = []
    if result.run_count > results.MAX_RUNS:
        return made
    for name in dict.fromkeys(result.split_of_runs):
        split = result.splits.get(name)
        if split is None or split.labels is None or results.untestable(result, name):
            continue
        scored = results.scored_runs(result, name)
        if results.majority(split.labels) == 1:
            continue
        tried = len(scored.rows)
        for run, row, predicted in zip(
            result.numbers_on(name), scored.rows, scored.predicted, strict=True
        ):
            settings = ", ".join(results.run_settings(row, SETTINGS)) if tried > 1 else "right"
            right = predicted == split.labels
            chance = results.chance(split.labels, predicted)
            subject = f"{settings} on {name}:"
            (claim,) = claims.accuracy_claims(
                subject, right, chance, None, "", tried, split.cluster
            )
            made.append(replace(claim, run=run))
    return made


def accuracy_findings(result: FeatureFile) -> list[str]:
    """Say of each split how accurate its runs are: the best of several; of draws, how many."""
    from clipkit.analysis.verdicts import claims_of
    from clipkit.statistics import claims

    found = claims_of(result)
    if "draw" in result.runs or not found:
        return claims.sentences(found)
    rows, names = result.rows(), result.split_of_runs
    of_splits: dict[str, list[Claim]] = {}
    for claim in found:
        of_splits.setdefault(names[claim.run], []).append(claim)
    said = []
    for members in of_splits.values():
        limits = [[rows[claim.run][f"acc1_{end}"] for claim in members] for end in ("low", "high")]
        said.append(claims.best_run_sentence(members, limits))
    return said
