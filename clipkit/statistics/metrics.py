"""Metrics of classification.

They are plain numpy, because `zeroshot` and `plot` use them and importing `sklearn.metrics` or
`scipy.stats` would take longer than these commands do. Tests compare them with scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clipkit.base.matrices import Floats, Int64

QUANTILE = 1.959964  # of the normal distribution, for 95 % confidence
TOPS = (1, 5)  # for each reported accuracy, among how many of the best classes it looks
ORDER_STEP = 2.0**-20  # of the largest value; smaller differences may be rounding errors
DRAWS = 1000  # of a calibrated model's outcomes
DRAWN_AT_ONCE = 1 << 22  # numbers


def accuracy(labels: Int64, predicted: Int64) -> float:
    """Return the fraction of rows that are predicted correctly (top-1).

    >>> accuracy(np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2]))
    0.75
    """
    return float(np.mean(np.asarray(labels) == np.asarray(predicted)))


def mean_per_class_recall(labels: Int64, predicted: Int64) -> float:
    """Return the mean recall of the classes that occur in `labels`.

    >>> mean_per_class_recall(np.array([7, 7, 7, 9]), np.array([7, 7, 9, 7]))
    0.3333333333333333
    """
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    correct = np.bincount(index, weights=np.asarray(labels) == np.asarray(predicted))
    return float(np.mean(correct / counts))


def accuracy_names() -> dict[str, int]:
    """Return the columns of accuracies, and among how many of the best classes each looks.

    >>> accuracy_names()
    {'acc1': 1, 'acc5': 5}
    """
    return {f"acc{count}": count for count in TOPS}


def accuracies(labels: Int64 | None, best: Int64) -> dict[str, float]:
    """Return the accuracies among up to k of the best classes, and `mean_per_class_recall`.

    `best` (N, k) are the k best classes of each row, (N,) the best alone. Without labels, all are
    NaN.
    """
    best = best.reshape(len(best), -1)
    counts = {name: count for name, count in accuracy_names().items() if count <= best.shape[1]}
    if labels is None:
        return dict.fromkeys([*counts, "mean_per_class_recall"], np.nan)
    is_found = best == labels[:, None]
    values = {name: float(is_found[:, :count].any(axis=1).mean()) for name, count in counts.items()}
    values["mean_per_class_recall"] = mean_per_class_recall(labels, best[:, 0])
    return values


def recall_interval(
    labels: Int64, predicted: Int64, clusters: Int64 | None = None
) -> tuple[float, float]:
    """Return a 95 % interval of `mean_per_class_recall` over another draw of the rows.

    It is a normal interval around the estimate; see `recall_covariance`. Of rows in clusters (N,),
    it is that of `wider_recall_interval`.

    >>> low, high = recall_interval(np.arange(200) % 2, np.arange(200) % 4)
    >>> round(low, 2), round(high, 2)
    (0.43, 0.57)
    """
    (labels, predicted), clusters = without_copies([labels, predicted], clusters)
    mean = mean_per_class_recall(labels, predicted)
    below, above = recall_margins(labels, predicted, clusters)
    return max(0.0, mean - below), min(1.0, mean + above)


def recall_margins(
    labels: Int64,
    predicted: Int64,
    clusters: Int64 | None = None,
    weights: Floats | None = None,
) -> tuple[float, float]:
    """Return how far `recall_interval` reaches below and above the mean recall.

    With `weights` (C,), it is of the sum of the recalls with these.
    """
    if clusters is not None:
        return _wider_margins(labels, predicted, clusters, weights=weights)
    half = QUANTILE * float(np.sqrt(recall_covariance(labels, [predicted], None, weights)[0, 0]))
    return half, half


def wider_recall_interval(
    labels: Int64, predicted: Int64, clusters: Int64 | None = None, level: float = 0.05
) -> tuple[float, float]:
    """Return an interval of `mean_per_class_recall` that also holds it if a class is rare.

    It is the wider one of two, at each end. A normal interval is too short if the rows of a rare
    class are in few clusters. The square root of the sum of squares of the exact intervals of the
    classes (Newcombe 1998, method 10), of as many rows as are effective in each, is too short for
    many classes without a right row.

    >>> rare = np.arange(200) // 10 == 0
    >>> low, high = wider_recall_interval(rare, np.ones(200), np.arange(200) // 10)
    >>> round(low, 2), round(high, 2)
    (0.01, 0.98)
    """
    mean = mean_per_class_recall(labels, predicted)
    below, above = _wider_margins(labels, predicted, clusters, level)
    return max(0.0, mean - below), min(1.0, mean + above)


def _wider_margins(
    labels: Int64,
    predicted: Int64,
    clusters: Int64 | None = None,
    level: float = 0.05,
    weights: Floats | None = None,
) -> tuple[float, float]:
    """Return how far `wider_recall_interval` reaches; see `recall_margins`."""
    from scipy.special import ndtri

    hits = np.asarray(labels) == np.asarray(predicted)
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    recalls = np.bincount(index, hits) / counts
    if weights is None:
        weights = np.full(len(counts), 1 / len(counts))
    error = float(np.sqrt(recall_covariance(labels, [predicted], clusters, weights)[0, 0]))
    squares = np.zeros(2)
    rows_of = np.split(np.argsort(index, kind="stable"), np.cumsum(counts)[:-1])
    for recall, weight, rows in zip(recalls.tolist(), weights.tolist(), rows_of, strict=True):
        n = effective_rows(hits[rows], None if clusters is None else clusters[rows])
        squares += np.square(weight * np.subtract(exact_interval(recall, n, level), recall))
    normal = float(ndtri(1 - level / 2)) * error
    below, above = np.maximum(np.sqrt(squares), normal).tolist()
    return below, above


def recall_covariance(
    labels: Int64,
    predictions: Sequence[Int64],
    clusters: Int64 | None = None,
    weights: Floats | None = None,
) -> NDArray[np.float64]:
    """Estimate the covariance (M, M) of `mean_per_class_recall` of M predictions of the same rows.

    With `weights` (C,), it is that of the sum of the recalls with these. The classes are
    independent binomials. Their proportions are estimated with four more rows, two of them right
    (Agresti and Coull 1998): a class of few rows that are all right is uncertain too.

    Rows of one cluster (N,) depend on each other. The covariance is then that of sums over
    clusters, and the four more rows are added to the effective rows of each class.
    """
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    right = np.stack([np.asarray(labels) == np.asarray(row) for row in predictions])  # (M, N)
    if weights is None:
        weights = np.full(len(counts), 1 / len(counts))
    if clusters is None:
        return _recall_covariance(right, index, weights, 1.0, 2)
    of_right = np.stack([np.bincount(index, row, len(counts)) for row in right])  # (M, C)
    deviations = (right - (of_right / counts)[:, index]) * (weights / counts)[index]
    by_cluster, factor, wider = summed_by_cluster(deviations, clusters)
    plain = _recall_covariance(right, index, weights, factor, 0)
    more_rows = _recall_covariance(right, index, weights, factor, 2)
    return np.asarray(by_cluster @ by_cluster.T + (more_rows - plain)) * wider


def _recall_covariance(
    right: NDArray[Any], index: Int64, weights: Floats, factor: float, more: int
) -> NDArray[np.float64]:
    """Return the covariance with `more` right and wrong rows; `factor` rows count as one."""
    M, C = len(right), len(weights)
    rows = np.bincount(index, minlength=C) / factor
    of_right = np.stack([np.bincount(index, row, C) for row in right]) / factor  # (M, C)
    proportions = (of_right + more) / (rows + 2 * more)
    covariance = np.empty((M, M))
    for i in range(M):
        for j in range(M):
            extra = more if i == j else more / 2
            both = (np.bincount(index, right[i] & right[j], C) / factor + extra) / (rows + 2 * more)
            of_class = (both - proportions[i] * proportions[j]) / rows
            covariance[i, j] = weights**2 @ of_class
    return covariance


def without_copies(
    rows: Sequence[NDArray[Any]], clusters: Int64 | None
) -> tuple[Sequence[NDArray[Any]], Int64 | None]:
    """Return one row of each cluster (N,) and None, if clusters of one size hold a row repeatedly.

    `rows` are arrays (N,). Rows that are not so are returned with their clusters.

    >>> without_copies([np.array([3, 5, 3, 5])], np.array([0, 1, 0, 1]))
    ([array([3, 5])], None)
    """
    if clusters is None:
        return rows, None
    _, first, index, sizes = np.unique(
        clusters, return_index=True, return_inverse=True, return_counts=True
    )
    if (sizes != sizes[0]).any() or any((row != row[first][index]).any() for row in rows):
        return rows, clusters
    return [row[np.sort(first)] for row in rows], None


def summed_by_cluster(deviations: Floats, clusters: Int64) -> tuple[Floats, float, float]:
    """Sum what rows add to M estimates (M, N) over clusters (N,).

    Return the sums (M, G), how many rows count as one, and by how much the variance is wider since
    it is estimated from few clusters; see `effective_rows`.
    """
    from scipy.special import stdtrit

    index = np.unique(clusters, return_inverse=True)[1]
    sizes = np.bincount(index)
    G, N = len(sizes), len(index)
    sums = np.stack([np.bincount(index, row).astype(float) for row in deviations])
    g = N**2 / float((sizes**2).sum())
    of_rows = float(np.square(deviations).sum())
    factor = N / g  # of equal rows
    if of_rows:
        factor = max(1.0, float(np.square(sums).sum()) / of_rows)
    t, t_of_clusters = stdtrit(np.maximum(1, [N / factor - 1, g - 1]), 0.975)
    wider = max(1.0, float(t_of_clusters / t) ** 2)
    if G == N:
        factor = wider = 1.0
    return sums, factor, wider


def best_classes(scores: Floats) -> Int64:
    """Return the best k classes (N, k) by their scores (N, C).

    k is the largest of TOPS below C, or 1. The first of equal scores is first. The scores are
    overwritten.
    """
    count = max((top for top in TOPS if top < scores.shape[1]), default=1)
    best = np.empty((len(scores), count), np.int64)
    rows = np.arange(len(scores))
    for place in range(count):
        best[:, place] = scores.argmax(axis=1)
        scores[rows, best[:, place]] = -np.inf
    return best


def highest(values: Floats, count: int) -> Int64:
    """Return the places (B, count) of the highest values of each row (B, M), in falling order.

    The first of equal values is first, as in a stable sort. Of fewer than `count`, all are
    returned.

    >>> highest(np.array([[0.1, 0.5, 0.3, 0.5]]), 3).tolist()
    [[1, 3, 2]]
    """
    B, M = values.shape
    count = min(count, M)
    if count == 0:
        return np.empty((B, 0), np.int64)
    least = np.partition(values, M - count, axis=1)[:, M - count, None]
    is_taken = values >= least
    for row in np.flatnonzero(np.count_nonzero(is_taken, axis=1) > count):
        equal = np.flatnonzero(values[row] == least[row])  # to the last that is taken
        is_taken[row, equal[count - int(is_taken[row].sum()) :]] = False
    places = np.nonzero(is_taken)[1].reshape(B, count)
    order = np.argsort(-np.take_along_axis(values, places, axis=1), axis=1, kind="stable")
    return np.take_along_axis(places, order, axis=1)


def falling_order(values: ArrayLike) -> Int64:
    """Return the places (n,) of values (n,) from the highest to the lowest; NaN comes last.

    Fractions are first rounded to multiples of ORDER_STEP of the largest magnitude, and those that
    are then equal keep their order. So the last bits, in which processors differ, do not decide it.

    >>> falling_order([0.5, 0.7 - 1e-9, np.nan, 0.7]).tolist()
    [1, 3, 0, 2]
    """
    numbers = np.asarray(values, np.float64)
    finite = numbers[np.isfinite(numbers)]
    step = ORDER_STEP * np.abs(finite).max(initial=0.0)
    if step > 0 and (finite != np.rint(finite)).any():
        numbers = np.round(numbers / step)
    return np.argsort(-numbers, kind="stable")


def confusion(labels: Int64, predicted: Int64, n_classes: int) -> Int64:
    """Return the confusion matrix (C, C): rows are true classes, columns predicted ones.

    >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
    array([[1, 1],
           [0, 1]])
    """
    pairs = np.asarray(labels) * n_classes + np.asarray(predicted)
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def f1_per_class(labels: Int64, predicted: Int64, n_classes: int) -> Floats:
    """Return the F1 (C,) of each class; NaN for one without rows.

    >>> f1_per_class(np.array([0, 0]), np.array([0, 1]), 2).round(2)
    array([0.67,  nan])
    """
    scores = class_scores(labels, predicted, n_classes)
    return np.where(scores["support"] > 0, scores["f1"], np.nan)


def kept_by_chance(labels: Int64, predicted: Int64, groups: Int64) -> float:
    """Return the expected share of errors that keep the group (C) of their class by chance.

    An error then gets the predicted class of any error, if that is not its own class (N).
    """
    is_error = labels != predicted
    true = np.bincount(labels[is_error], minlength=len(groups))  # (C)
    wrong = np.bincount(predicted[is_error], minlength=len(groups))
    kept = np.bincount(groups, weights=wrong)[groups] - wrong
    return float(true @ (kept / np.maximum(wrong.sum() - wrong, 1)) / max(true.sum(), 1))


def class_scores(
    labels: Int64, predicted: Int64, n_classes: int
) -> dict[str, NDArray[np.float64] | Int64]:
    """Return `precision`, `recall`, `f1` and `support` (C,) of each class.

    A ratio is 0 if it has no rows, as in scikit-learn with `zero_division=0`. `support` is the
    number of rows of the class.

    >>> scores = class_scores(np.array([0, 0]), np.array([0, 1]), 3)
    >>> scores["precision"].tolist(), scores["recall"].tolist(), scores["support"].tolist()
    ([1.0, 0.0, 0.0], [0.5, 0.0, 0.0], [2, 0, 0])
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    support = np.bincount(labels, minlength=n_classes)
    claimed = np.bincount(predicted, minlength=n_classes)
    correct = np.bincount(labels[labels == predicted], minlength=n_classes)
    return {
        "precision": correct / np.maximum(claimed, 1),
        "recall": correct / np.maximum(support, 1),
        "f1": 2 * correct / np.maximum(claimed + support, 1),
        "support": support,
    }


def mean_f1(
    labels: Int64,
    predicted: Int64,
    classes: Sequence[int],
    n_classes: int,
    clusters: Int64 | None = None,
) -> tuple[float, float, float]:
    """Return the mean F1 of some classes and its 95 % interval over another draw of the rows.

    The F1 of a class that no row has is 0. The interval is Wilson's, of as many rows as have the
    variance that the jackknife over clusters (N,) finds, around the mean without the jackknife's
    estimate of its bias. A class of few rows leaves few clusters that the variance is known from.
    So the number is multiplied with (1.96 / t(df))^2 for the 97.5 % quantile of Student's t, where
    df is (sum of d^2)^2 / sum of d^4 of the shifts d of the mean, as by Satterthwaite.
    """
    from scipy.special import stdtrit

    C, N = len(classes), len(labels)
    place = np.full(n_classes, -1)
    place[list(classes)] = np.arange(C)
    index = np.arange(N) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    sizes = np.bincount(index)
    G, g = len(sizes), N**2 / float((sizes**2).sum())
    # Each cluster and class, with the rows of this label and of this prediction, and those of both
    keys = [(index * C + place[of_rows])[place[of_rows] >= 0] for of_rows in (labels, predicted)]
    known, rows = np.unique(np.concatenate(keys), return_counts=True)
    right = (labels == predicted) & (place[labels] >= 0)
    both = np.bincount(
        np.searchsorted(known, (index * C + place[labels])[right]), minlength=len(known)
    )
    cluster, column = np.divmod(known, C)
    all_rows, all_both = np.bincount(column, rows, C), np.bincount(column, both, C)
    f1 = _f1(all_both, all_rows)
    mean = float(f1.mean())
    without = _f1(all_both[column] - both, all_rows[column] - rows) - f1[column]
    shifts = np.bincount(cluster, without, G) / C  # of the mean, without a cluster
    centre = mean - (G - 1) * float(shifts.mean())
    shifts -= shifts.mean()
    variance = float((shifts**2).sum()) * (G - 1) / G
    if 0 < mean < 1 and variance > 0:
        if not 0 < centre < 1:
            centre = mean
        n = centre * (1 - centre) / variance
        df = min(g - 1, float((shifts**2).sum()) ** 2 / float((shifts**4).sum()))
    else:  # all right or none: the rows of equal classes, as many as tell as much
        n = g / N * C**2 / float((1 / np.maximum(all_rows / 2, 0.5)).sum())
        centre, df = mean, n - 1
    low, high = wilson(centre, max(1.0, n * float(QUANTILE / stdtrit(max(1.0, df), 0.975)) ** 2))
    return mean, min(low, mean), max(high, mean)


def _f1(both: NDArray[Any], rows: NDArray[Any]) -> Floats:
    """Return F1 by the rows with a label and prediction, and those with each; 0 without rows."""
    return np.asarray(2 * both / np.maximum(rows, 1))


def exchange_interval(
    differences: NDArray[np.integer[Any]], donors: Int64, clusters: Int64 | None = None
) -> tuple[float, float]:
    """Return a 95 % interval of the mean of `differences`, each of which depends on two rows.

    Row i gets a value of row `donors[r, i]`, and another draw of rows changes both. Differences
    that share a row, in either role, are correlated. So each row m contributes the averages of its
    differences as receiver and as donor, A_m + B_m, which is the projection of a U-statistic
    (Hoeffding 1948). The variance of the mean is the dyadic cluster-robust one (Fafchamps and
    Gubert 2007; Aronow, Samii and Assenova 2015, doi:10.1093/pan/mpv018):

        (sum over m of (A_m + B_m - 2 mean)^2 - sum over r, i of (d_ri - mean)^2 / R^2) / N^2

    The second sum is what the first counts twice, a difference with itself. As in
    `dependence.difference_interval`, two rows are added: half of one loses, half of one gains.

    Rows of one cluster depend on each other, so that the terms of a cluster are added before they
    are squared. Two clusters are added, and the quantile is Student's.

    Parameters
    ----------
    differences : array (R, N) int
        Between -1 and 1, of R permutations of N rows.
    donors : array (R, N) int
        Row numbers; each line is a permutation, of whole clusters if there are any.
    clusters : array (N,) of int, optional

    >>> [round(end, 4) for end in exchange_interval(np.zeros((1, 98)), np.arange(98)[None])]
    [-0.0196, 0.0196]
    """
    repeat, n = differences.shape
    index, size, quantile = np.arange(n), 1.0, QUANTILE
    if clusters is not None:
        index = np.unique(clusters, return_inverse=True)[1]
        size = float((np.bincount(index) ** 2).sum()) / n  # of the cluster of a row, on average
        quantile = _quantile_of_clusters(n / size)
    centre = float(differences.mean()) * n / (n + 2 * size)
    received = differences.mean(axis=0)
    given = np.bincount(donors.ravel(), differences.ravel(), n) / repeat
    uses = np.bincount(donors.ravel(), minlength=n) / repeat  # 1 in a permutation
    squares = (np.bincount(index, received - centre + given - uses * centre) ** 2).sum()
    for row in differences:
        squares -= (np.bincount(index, row - centre) ** 2).sum() / repeat**2
    # few rows may give less than 0
    squares = max(squares, (np.bincount(index, received - centre) ** 2).sum())
    half = quantile * np.sqrt(squares + size**2 * (1 + 2 * centre**2)) / (n + 2 * size)
    return float(max(-1.0, centre - half)), float(min(1.0, centre + half))


def _quantile_of_clusters(count: float) -> float:
    """Return Student's 97.5 % quantile for so many clusters, in place of QUANTILE."""
    from scipy.special import stdtrit

    return float(stdtrit(max(1.0, count - 1), 0.975))


def error_consistency(both: int, only_a: int, only_b: int, neither: int) -> float:
    """Return how far two results agree on which rows they get right: Cohen's kappa.

    It is the error consistency of Geirhos, Meding and Wichmann (2020): 0 if the errors of the two
    are independent, 1 if they are the same, NaN if both results get all rows right or all wrong.

    >>> error_consistency(25, 25, 25, 25), error_consistency(50, 0, 0, 50)
    (0.0, 1.0)
    """
    n = both + only_a + only_b + neither
    # in whole numbers: chance agreement times n^2
    by_chance = (both + only_a) * (both + only_b) + (only_b + neither) * (only_a + neither)
    if by_chance == n * n:
        return float("nan")
    return (n * (both + neither) - by_chance) / (n * n - by_chance)


def holm(p: ArrayLike) -> Floats:
    """Return p-values (m,) corrected for m tests by Holm's step-down method (Holm 1979).

    NaN is no test, and stays.

    >>> holm([0.01, 0.04, np.nan, 0.03]).tolist()
    [0.03, 0.06, nan, 0.06]
    """
    p = np.asarray(p, np.float64)
    tests = np.count_nonzero(~np.isnan(p))
    order = np.argsort(p, kind="stable")[:tests]  # NaN is last
    factors = np.arange(tests, 0, -1)
    corrected = np.full(len(p), np.nan)
    corrected[order] = np.minimum(1, np.maximum.accumulate(factors * p[order]))
    return corrected


def wilson(fraction: float, n: float) -> tuple[float, float]:
    """Return Wilson's score interval for a fraction of `n` rows at 95 % confidence (Wilson 1927).

    >>> low, high = wilson(0.5, 100)
    >>> round(low, 4), round(high, 4)
    (0.4038, 0.5962)
    """
    z = QUANTILE
    centre = fraction + z**2 / (2 * n)
    half = z * np.sqrt(fraction * (1 - fraction) / n + z**2 / (4 * n**2))
    divisor = 1 + z**2 / n
    low, high = (centre - half) / divisor, (centre + half) / divisor
    # rounding misses the limits by about 1e-19
    if fraction == 0:
        low = 0.0
    if fraction == 1:
        high = 1.0
    return float(low), float(high)


def exact_interval(share: float, n: float, level: float = 0.05) -> tuple[float, float]:
    """Return the exact interval of a share of `n` rows (Clopper and Pearson 1934).

    Each end is wrong in at most half of `level`, also for few rows and for shares near 0, where
    Wilson's interval is not. `n` may be a number of effective rows.

    >>> [round(end, 4) for end in exact_interval(0.03, 100)]
    [0.0062, 0.0852]
    """
    from scipy.special import betaincinv as quantile

    hits = share * n
    low = quantile(hits, n - hits + 1, level / 2) if hits > 0 else 0.0
    high = quantile(hits + 1, n - hits, 1 - level / 2) if hits < n else 1.0
    return float(low), float(high)


def effective_rows(values: ArrayLike, clusters: Int64 | None) -> float:
    """Return how many independent rows tell as much about the mean of `values` (N,) as these do.

    Rows of one cluster (N,) depend on each other; None means that no rows do. n independent rows
    have the variance(values) / (n - 1) of the mean that the jackknife over clusters finds. As this
    is uncertain, n is multiplied with (t(n - 1) / t(g - 1))^2, at most 1, for the 97.5 % quantiles
    of Student's t (Korn and Graubard 1998) and g = N^2 / sum of squared sizes (Carter, Schnepel and
    Steigerwald 2017). The result is N if each row is a cluster, N / m if each is there m times, and
    g if all values are equal.

    >>> effective_rows([0, 1, 0, 1], np.array([0, 1, 2, 3]))
    4.0
    >>> round(effective_rows([0, 0, 1, 1, 1, 1], np.array([0, 0, 1, 1, 2, 2])), 12)
    3.0
    """
    rows = np.asarray(values, np.float64)
    N = len(rows)
    if clusters is None:
        return float(N)
    _, index, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    G = len(sizes)
    if G in (1, N):
        return float(G)
    g = N**2 / float((sizes**2).sum())
    variance = float(rows.var())
    if not variance:
        return g
    from scipy.special import stdtrit  # scipy.stats takes longer to load

    shifts = np.bincount(index, rows - rows.mean()) / (N - sizes)  # of the mean, without a cluster
    n = 1 + variance / max(float((shifts**2).sum()) * (G - 1) / G, variance / (N - 1))
    t, t_of_clusters = stdtrit(np.maximum(1, [n - 1, g - 1]), 0.975)
    return max(1.0, n * min(1.0, float(t / t_of_clusters) ** 2))


def effective_share(values: ArrayLike, clusters: Int64 | None) -> float:
    """Return `effective_rows` by row: 1 if no rows depend on each other."""
    return effective_rows(values, clusters) / len(np.asarray(values))


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the probability that a score with the label 1 is larger than one with 0.

    Equal scores count half. NaN without scores of one of the labels.

    >>> auroc([0, 1, 1], [0.3, 0.3, 0.5])
    0.75
    """
    is_positive, values = np.asarray(labels) == 1, np.asarray(scores)
    positives, negatives = values[is_positive], np.sort(values[~is_positive])
    if not len(positives) or not len(negatives):
        return np.nan
    below = np.searchsorted(negatives, positives, "left")
    below = below + np.searchsorted(negatives, positives, "right")
    return float(below.mean() / 2 / len(negatives))


def share(name: str, hits: NDArray[Any], clusters: Int64 | None = None) -> dict[str, float]:
    """Return the share `name` of hits (N,) with Wilson's 95 % interval, `_low` and `_high`.

    Rows of one cluster (N,) are counted together. All are NaN without rows.
    """
    mean = low = high = np.nan
    if len(hits):
        mean = float(hits.mean())
        low, high = wilson(mean, effective_rows(hits, clusters))
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def accuracy_interval(
    labels: Int64 | None, predicted: Int64, clusters: Int64 | None = None
) -> dict[str, float]:
    """Return `acc1_low` and `acc1_high`, Wilson's 95 % interval of `accuracy`.

    It is for another draw of the rows, or of their clusters (N,). Both are NaN without labels.
    """
    right = np.empty(0) if labels is None else labels == predicted
    limits = share("acc1", right, clusters)
    return {name: limits[name] for name in ("acc1_low", "acc1_high")}


def answered(
    labels: Int64 | None, predicted: Int64, none: int, clusters: Int64 | None = None
) -> dict[str, float]:
    """Return the share of rows with an answer, and the accuracy among these; see `share`.

    Rows whose prediction is the class `none` have no answer. The shares are called `coverage` and
    `acc1_answered`.
    """
    has_answer = predicted != none
    right = np.empty(0) if labels is None else (labels == predicted)[has_answer]
    of_answers = None if clusters is None else clusters[has_answer]
    return share("coverage", has_answer, clusters) | share("acc1_answered", right, of_answers)


def scores(
    labels: Int64 | None, best: Int64, none: int | None = None, clusters: Int64 | None = None
) -> dict[str, float]:
    """Return all columns that follow from the best classes of each row; see `accuracies`.

    These are the accuracies with their interval and, if a class is `none`, those of `answered`.
    """
    predicted = best if best.ndim == 1 else best[:, 0]
    found = accuracies(labels, best) | accuracy_interval(labels, predicted, clusters)
    if none is not None:
        found |= answered(labels, predicted, none, clusters)
    return found


@dataclass(frozen=True)
class Reliability:
    """Confidence and accuracy in B bins of as many rows, beside a calibrated model.

    `low` and `high` hold 95 % of the accuracies that a calibrated model has in these bins. `ece` is
    the expected calibration error: the mean over the rows of |accuracy - confidence| of their bin.
    `ece_null`, `ece_null95` and `ece_null975` are the mean and the 95 % and 97.5 % quantiles of the
    error of a calibrated model.
    `ece_equal_width` is the error in B bins of equal width.
    """

    confidence: Floats
    accuracy: Floats
    low: Floats
    high: Floats
    ece: float
    ece_null: float
    ece_null95: float
    ece_null975: float
    ece_equal_width: float


def equal_width_ece(confidence: Floats, right: ArrayLike, bins: int = 15) -> float:
    """Return the expected calibration error in bins of equal width, (low, high] (Guo et al. 2017).

    >>> round(equal_width_ece(np.array([0.9, 0.6, 0.55]), [True, False, True], bins=2), 3)
    0.017
    """
    number = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence, side="left")
    gaps = np.bincount(number, np.asarray(right, np.float64) - confidence)
    return float(np.abs(gaps).sum() / len(confidence))


def reliability(
    confidence: ArrayLike,
    right: ArrayLike,
    bins: int = 15,
    seed: int = 42,
    clusters: Int64 | None = None,
) -> Reliability:
    """Compare confidence with accuracy, bin by bin (Guo et al. 2017, with bins of equal mass).

    Even a calibrated model has an error above 0, since the accuracy of a bin varies. Its error is
    estimated by 1,000 draws of `right`, each row with the probability `confidence` (Broecker and
    Smith 2007, Vaicenavicius et al. 2019).

    Parameters
    ----------
    confidence : array (N,)
        Probability of the predicted class.
    right : array (N,) of bool
    bins : int
        B, at most one per row.
    seed : int
        Random seed of the draws, and of the order of rows with equal confidence.
    clusters : array (N,) of int, optional
        Rows of one cluster depend on each other: they share the uniform number that decides, with
        the confidence of each, whether it is right.

    >>> always_sure = reliability(np.ones(4), np.array([True, True, False, True]), bins=1)
    >>> always_sure.ece, always_sure.ece_null
    (0.25, 0.0)
    """
    values, hits = np.asarray(confidence, np.float64), np.asarray(right, np.float64)
    (values, hits), clusters = without_copies([values, hits], clusters)
    rng = np.random.RandomState(seed)
    n = len(values)
    # rows often come sorted by class, which must not decide on the bins of equal confidences
    order = rng.permutation(n)
    order = order[np.argsort(values[order], kind="stable")]
    values, hits = values[order], hits[order]
    edges = np.linspace(0, n, min(bins, n) + 1).astype(np.int64)
    sizes = np.diff(edges)

    def bin_means(rows: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(np.add.reduceat(rows, edges[:-1], axis=-1, dtype=np.float64) / sizes)

    expected, accuracies = bin_means(values), bin_means(hits)
    step = max(1, DRAWN_AT_ONCE // n)
    counts = [min(step, DRAWS - start) for start in range(0, DRAWS, step)]
    number = np.arange(n)
    if clusters is not None:
        number = np.unique(clusters, return_inverse=True)[1][order]
    size = int(number.max()) + 1
    blocks = []
    for count in counts:
        uniform = rng.random_sample((count, size))[:, number]
        blocks.append(bin_means(uniform < values))
    drawn = np.concatenate(blocks)
    null = np.abs(drawn - expected) @ sizes / n
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return Reliability(
        expected,
        accuracies,
        low,
        high,
        ece=float(np.abs(accuracies - expected) @ sizes / n),
        ece_null=float(null.mean()),
        ece_null95=float(np.quantile(null, 0.95)),
        ece_null975=float(np.quantile(null, 0.975, method="higher")),
        ece_equal_width=equal_width_ece(values, hits, bins),
    )
