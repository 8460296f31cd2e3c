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

    Of unequal classes, it is the mean recall against 1 / K; see `main_number`.

    Intervals are for as many comparisons as there are runs on a split (Bonferroni), so that the
    most accurate of them may be named. Without labels, with one class, or with images whose
    accuracy says nothing (see `results.untestable`), there is no claim.
    """
    from clipkit.analysis import results
    from clipkit.statistics import claims, main_number

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
        what = main_number.MEAN_RECALL if main_number.is_unequal(split.labels) else ""
        for run, row, predicted in zip(
            result.numbers_on(name), scored.rows, scored.predicted, strict=True
        ):
            words = [what, *(results.run_settings(row, SETTINGS) if tried > 1 else [])]
            settings = ", ".join(filter(None, words)) or "right"
            right = predicted == split.labels
            chance = results.chance(split.labels, predicted)
            subject = f"{settings} on {name}:"
            (claim,) = claims.accuracy_claims(
                subject, right, chance, None, "", tried, split.cluster, split.labels
            )
            made.append(replace(claim, run=run))
    return made


def accuracy_findings(result: FeatureFile) -> list[str]:
    """Say of each split how accurate its runs are: the best of several; of draws, how many."""
    import numpy as np

    from clipkit.analysis import results
    from clipkit.analysis.verdicts import claims_of
    from clipkit.statistics import claims, main_number

    found = claims_of(result)
    if "draw" in result.runs or not found:
        return claims.sentences(found)
    names = result.split_of_runs
    recalls = results.recalls_of_runs(result)
    limits_of_runs = []
    for row, recall in zip(result.rows(), recalls, strict=True):
        name = main_number.RECALL_COLUMN if recall else "acc1"
        limits_of_runs.append([(row | recall)[f"{name}_{end}"] for end in ("low", "high")])
    of_splits: dict[str, list[Claim]] = {}
    for claim in found:
        of_splits.setdefault(names[claim.run], []).append(claim)
    said = []
    for members in of_splits.values():
        limits = [limits_of_runs[claim.run] for claim in members]
        said.append(claims.best_run_sentence(members, list(np.transpose(limits))))
    return said
