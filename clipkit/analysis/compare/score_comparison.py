"""Compare how well results of `attributes` rank the same images, for each label and on average.

Scores of the same images are not independent, so differences are paired. The labels of an image are
not independent, either, so the interval of their mean comes from the mean of their deviations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipkit.analysis import results as result_files
from clipkit.analysis.compare.pairing import (
    describe_pairing,
    match_ids,
    name_files,
    same_split,
    warn_of_caveats,
)
from clipkit.analysis.results import (
    Row,
    check_columns,
    column,
    is_testable,
    make_result,
    newest_entry,
)
from clipkit.base import console
from clipkit.base.bounds import MAX_CLASSES
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.base.matrices import Floats, Int64
from clipkit.features.matching import choose_split
from clipkit.features.model import FeatureFile
from clipkit.statistics.dependence import join
from clipkit.statistics.score_metrics import METRICS, RANKED

SCORES = ("zeroshot", "probe")  # by words, and by a probe
Ranks = Mapping[str, Int64]  # of each attribute (3, N): of the truth, and of SCORES; 0 marks none


class Difference(NamedTuple):
    """The difference of two values on some of N images, and what its interval is made of."""

    rows: NDArray[np.bool_]
    values: Floats  # (2,)
    deviations: Floats  # of the difference, of each image or cluster, or of draws: `ScoreMetric`
    quantile: float


def compare(
    results: Sequence[FeatureFile],
    split: str | None = None,
    *,
    common: bool = False,
    same_rows: bool = False,
) -> FeatureFile:
    """Compare the first result of `attributes` with each of the others.

    The results have one metric of `score_metrics.RANKED`. See `comparison.pair` for the options.

    Returns
    -------
    FeatureFile
        A result with rows for each other result: `a`, `b`, `split`, `metric`; `scores`, which are
        `zeroshot` (by words) or of the `probe`; `scope`, which is `mean` or `attribute`; the name
        of an `attribute` that both have; `rows`, the number of images; `value_a`, `value_b` and
        their `difference`, with a 95 % interval from `low` to `high`. NaN marks what does not
        apply. Means are over the attributes that have an interval, and `attribute` counts these.
        Means of other metrics than AUROC have no interval if the attributes have values for
        different images. Intervals of probes are NaN if one of the two results is not
        `results.is_testable`.
    """
    if len(results) < 2:
        raise UsageError("expected two results of attributes or more, got one")
    metric = _common_metric(results)
    _, split = choose_split(results[0], split)
    splits = [same_split(result, results[0], split, same_rows)[1] for result in results]
    orders = match_ids(results, splits, common or len(set(splits)) > 1)
    names = name_files(results, [0] * len(results))
    caveats = list(map(result_files.caveats, results, splits))
    named_caveats = warn_of_caveats(names, caveats)
    first, *others = map(_ranks, results, splits, orders)
    inputs = {"a": results[0].digest}
    rows = []
    for number, other in enumerate(others, 1):
        inputs[f"b{number}"] = results[number].digest
        where = {"a": names[0], "b": names[number], "split": split, "metric": metric}
        tested = is_testable(caveats[0] + caveats[number])
        named = [results[i].splits[splits[i]].cluster for i in (0, number)]
        used = [
            one[orders[i]] for one, i in zip(named, (0, number), strict=True) if one is not None
        ]
        clusters = join(used) if used else None
        rows += _compare_pair(first, other, where, tested, clusters)
    history = results[0].extended_history(
        "compare",
        names=names,
        **describe_pairing(results, splits, common=common, same_rows=same_rows),
        caveats=named_caveats or None,
        inputs=inputs,
    )
    return make_result(history, rows)


def _common_metric(results: Sequence[FeatureFile]) -> str:
    """Return the metric of all results, which must keep ranks."""
    expected: Sequence[str] = RANKED
    for result in results:
        metric = str(newest_entry(result).get("metric", "recall"))
        if metric not in expected:
            names = ", ".join(expected)
            raise ClipkitError(f"{result.display_name}: expected {names}, got {metric}")
        if not result.splits:
            raise ClipkitError(
                f"{result.display_name}: expected ranks of the scored images, got none",
                f"clipkit attributes stores ranks only for fewer than {MAX_CLASSES:,} images",
            )
        expected = [metric]  # of the others, too
    return metric


def _ranks(result: FeatureFile, split: str, order: Int64) -> Ranks:
    """Return the ranks of each attribute, of images in the given order."""
    check_columns(result, "attribute")
    names, ranks = column(result.rows(), "attribute"), np.asarray(result.splits[split].predicted)
    if len(ranks) != 3 * len(names):
        message = f"{split}: expected {3 * len(names)} rows of ranks, got {len(ranks)}"
        raise ClipkitError(f"{result.display_name}: {message}")
    return dict(zip(names, ranks[:, order].reshape(len(names), 3, -1), strict=True))


def _compare_pair(
    a: Ranks, b: Ranks, where: Row, is_tested: bool, clusters: Int64 | None
) -> list[Row]:
    """Return the rows of two results: by words and by probes, the mean and each attribute."""
    names = f"{where['a']} and {where['b']}"
    shared = _shared_attributes(a, b, names)
    rows = []
    for number, scores in enumerate(SCORES, 1):
        found = {}
        for name in shared:
            what = f"{names}: {name}"
            sides = a[name], b[name], number
            found[name] = _compare_attribute(what, *sides, where["metric"], clusters)
        if all(np.isnan(difference.values).all() for difference in found.values()):
            continue  # one of the results has no words
        of_scores = [_mean(list(found.values()), where["metric"])]
        for name, difference in found.items():
            of_scores.append({"scope": "attribute", "attribute": name, **_row(difference)})
        for row in of_scores:
            if scores == "probe" and not is_tested:
                row |= {"low": np.nan, "high": np.nan}
            rows.append({**where, "scores": scores, **row})
    return rows


def _shared_attributes(a: Ranks, b: Ranks, names: str) -> list[str]:
    """Return the attributes that both results have; note the others."""
    shared = [name for name in a if name in b]
    if not shared:
        raise ClipkitError(f"{names}: expected attributes in common, got none")
    left_out = [name for name in [*a, *b] if name not in shared]
    if left_out:
        console.note(
            f"{names}: left out {result_files.join_names(left_out)}, which only one of them has"
        )
    return shared


def _compare_attribute(
    what: str, a: Int64, b: Int64, number: int, metric_name: str, clusters: Int64 | None
) -> Difference:
    """Compare two results (3, N) by the scores in one of their rows; see `ScoreMetric`."""
    metric = METRICS[metric_name]
    has_value = (a[0] > 0) & (b[0] > 0)
    a, b = a[:, has_value], b[:, has_value]
    truth = _number_values(a[0])
    if not np.array_equal(truth, _number_values(b[0])):
        raise ClipkitError(f"{what}: expected equal values in both, got others")
    first, second = a[number], b[number]
    if not (truth.any() and first.any() and second.any()):
        return Difference(has_value, np.full(2, np.nan), np.full(1, np.nan), np.nan)
    values = np.array([metric.value(truth, first), metric.value(truth, second)])
    used = None if clusters is None else clusters[has_value]
    deviations = metric.deviations(truth, first, used) - metric.deviations(truth, second, used)
    if metric_name == "auroc":  # those of all images, so that attributes of other images fit
        numbers = np.arange(len(has_value)) if clusters is None else clusters
        of_all = np.zeros(int(numbers.max()) + 1)
        of_all[np.unique(numbers[has_value])] = deviations
        deviations = of_all
    return Difference(has_value, values, deviations, metric.quantile(truth, used))


def _number_values(ranks: Int64) -> Floats:
    """Return the numbers of the different values, from 0, as floats."""
    return np.unique(ranks, return_inverse=True)[1].astype(float)


def _mean(differences: Sequence[Difference], metric_name: str) -> Row:
    """Return the row of the mean over the attributes that have an interval."""
    found = [one for one in differences if not np.isnan(one.quantile)]
    row: Row = {"scope": "mean", "attribute": f"{len(found)} of {len(differences)}"}
    if not found:
        return row | _row(differences[0]._replace(values=np.full(2, np.nan)))
    of_images, values, deviations, quantiles = map(np.stack, zip(*found, strict=True))
    mean = deviations.mean(axis=0)
    if metric_name != "auroc" and (of_images != of_images[0]).any():
        mean = np.full(1, np.nan)  # draws of other rows are not the same draws
    any_image = np.asarray(of_images.any(axis=0))
    difference = Difference(any_image, values.mean(axis=0), mean, quantiles.mean())
    return row | _row(difference)


def _row(difference: Difference) -> Row:
    a, b = difference.values
    # equal or perfect scores do not show how far others would be
    half = difference.quantile * float(np.linalg.norm(difference.deviations)) or np.nan
    return {
        "rows": int(difference.rows.sum()),
        "value_a": a,
        "value_b": b,
        "difference": a - b,
        "low": a - b - half,
        "high": a - b + half,
    }
