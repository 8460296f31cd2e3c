"""What is recognised of an attribute within the values of a confounder.

Predictions that hold nothing of an attribute but by way of another one, its confounder, are
independent of it within each value of the confounder: they are at chance there.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipkit.base.matrices import Floats, Int64
from clipkit.statistics import metrics
from clipkit.statistics.score_metrics import RANKED, ScoreMetric

LEAST = 0.1  # of the association: the lower limit of an attribute that counts as a confounder
DEGREE = 3  # of the polynomials in the ranks of a confounder's numbers
FEWEST = 10  # rows of numbers with a confounder


class Given(NamedTuple):
    """A score within the values of a confounder, with its 95 % interval; NaN if none shows it."""

    value: float
    low: float
    high: float


UNKNOWN = Given(math.nan, math.nan, math.nan)


def cramers_v_low(a: Int64, b: Int64, rows_per_cluster: float = 1.0) -> float:
    """Return the lower limit of the 95 % interval of Cramer's V of two codes (N,) from 0.

    The noncentrality of chi squared has the limit at which the observed one is 1.96 standard
    deviations above its mean (Smithson 2003); its variance is 2 (df + 2 noncentrality).

    >>> round(cramers_v_low(np.arange(400) % 2, np.arange(400) % 2), 2)
    0.91
    """
    _, a = np.unique(a, return_inverse=True)
    _, b = np.unique(b, return_inverse=True)
    K, S = int(a.max(initial=0)) + 1, int(b.max(initial=0)) + 1
    if len(a) == 0 or min(K, S) < 2:
        return 0.0
    pairs, counts = np.unique(a * S + b, return_counts=True)
    of_a, of_b = np.bincount(a), np.bincount(b)
    # the sum of (observed - expected)^2 / expected, with the empty cells
    ratio = float((counts**2 / (of_a[pairs // S] * of_b[pairs % S])).sum())
    n = len(a) / rows_per_cluster
    df, z = (K - 1) * (S - 1), metrics.QUANTILE
    excess = n * (ratio - 1) - df
    inside = 4 * z**2 * excess + 4 * z**4 + 2 * z**2 * df
    noncentrality = excess + 2 * z**2 - math.sqrt(max(0.0, inside))
    if excess <= 0 or noncentrality <= 0:
        return 0.0
    return min(1.0, math.sqrt(noncentrality / (n * (min(K, S) - 1))))


def correlation_low(a: Floats, b: Floats, rows_per_cluster: float = 1.0) -> float:
    """Return the lower limit of the 95 % interval of |r| of the ranks of numbers (N,) (Fisher)."""
    n = len(a) / rows_per_cluster
    if n < FEWEST or len(np.unique(a)) < 2 or len(np.unique(b)) < 2:
        return 0.0
    r = abs(float(np.corrcoef(_ranks(a), _ranks(b))[0, 1]))
    half = metrics.QUANTILE / math.sqrt(n - 3)
    return max(0.0, math.tanh(math.atanh(min(r, 1 - 1e-12)) - half))


def _ranks(values: Floats) -> Floats:
    from scipy.stats import rankdata

    return np.asarray(rankdata(values), np.float64)


def determines(b: Int64, a: Int64) -> bool:
    """Tell whether each value of b (N,) occurs with one value of a (N,), and a has fewer values.

    Then a is a part of b, as the outline is of the class: no images could show it without b.
    """
    pairs = np.unique(np.stack([a, b]), axis=1)
    values = len(np.unique(b))
    return pairs.shape[1] == values and len(np.unique(a)) < values


def recall_given(
    labels: Int64, predicted: Int64, strata: Int64, clusters: Int64 | None = None
) -> Given:
    """Return the mean recall of labels (N,) within strata (N,), by predictions (N,).

    A stratum with K_s values has the chance 1 / K_s. Its recall r_s counts as
    e_s = (r_s - 1 / K_s) / (1 - 1 / K_s), from 0 by chance to 1. The mean of e_s, weighted by its
    inverse variance at chance, is set on the scale of the whole attribute: 1 / K + (1 - 1 / K) e.
    The interval is that of `metrics.recall_interval`, also of rows in clusters (N,). Strata with
    one value say nothing; if all are such, the result is UNKNOWN.

    >>> noise = np.arange(800) // 2 % 2
    >>> hour = np.where(np.arange(800) % 10 < 8, noise, 1 - noise)
    >>> [round(float(end), 2) for end in recall_given(hour, noise, noise)]
    [0.5, 0.49, 0.51]
    """
    rows = [np.asarray(labels), np.asarray(predicted), np.asarray(strata)]
    (labels, predicted, strata), clusters = metrics.without_copies(rows, clusters)
    values, a = np.unique(labels, return_inverse=True)
    _, s = np.unique(strata, return_inverse=True)
    cell = s * len(values) + a
    is_used = np.bincount(np.unique(cell) // len(values))[s] > 1
    if not is_used.any():
        return UNKNOWN
    cells, cell, counts = np.unique(cell[is_used], return_inverse=True, return_counts=True)
    _, stratum, K_s = np.unique(cells // len(values), return_inverse=True, return_counts=True)
    weights = K_s**2 * (K_s - 1) / np.bincount(stratum, 1 / counts)
    weights /= weights.sum()
    of_cells = (weights / (K_s - 1))[stratum]  # of e_s, a sum of recalls
    right = (labels == predicted)[is_used]
    excess = float(of_cells @ (np.bincount(cell, right) / counts) - (weights / (K_s - 1)).sum())
    of_used = None if clusters is None else clusters[is_used]
    below, above = metrics.recall_margins(cell, np.where(right, cell, -1), of_used, of_cells)
    return _above_chance(excess, below, above, 1 / len(values))


def score_given(
    metric: ScoreMetric, truth: Floats, scores: Floats, strata: Int64, rows_per_cluster: float = 1.0
) -> Given:
    """Return a score of labels of 0 and 1 (N,) within strata (N,); see `recall_given`.

    Strata have at least two rows of each label.
    """
    found = []
    for stratum in np.unique(strata):
        rows = strata == stratum
        positives = float(truth[rows].sum())
        negatives = float(rows.sum()) - positives
        if min(positives, negatives) < 2:
            continue
        labels, of_stratum = truth[rows], scores[rows]
        variance = float(metric.covariance(labels, [of_stratum])[0, 0]) * rows_per_cluster
        # a perfect order does not show how far another would be
        least = 0.25 / (4 * min(positives, negatives) ** 2)
        weight = 1 / (1 / positives + 1 / negatives)
        found.append(
            (metric.value(labels, of_stratum), max(variance, least), metric.chance(labels), weight)
        )
    if not found:
        return UNKNOWN
    values, variances, chances, weights = np.array(found, np.float64).T
    return _pooled(values, variances, chances, weights, metric.chance(truth))


def _pooled(
    values: Floats, variances: Floats, chances: Floats, weights: Floats, chance: float
) -> Given:
    """Return the weighted mean of values (S,) of strata above their chances, above one chance."""
    if len(values) == 0:
        return UNKNOWN
    weights = weights / weights.sum()
    excess = float(weights @ ((values - chances) / (1 - chances)))
    variance = float(weights**2 @ (variances / (1 - chances) ** 2))
    half = metrics.QUANTILE * math.sqrt(variance)
    return _above_chance(excess, half, half, chance)


def _above_chance(excess: float, below: float, above: float, chance: float) -> Given:
    """Set a mean of scores, from 0 by chance to 1, and its margins on the scale of one chance."""
    ends = (chance + (1 - chance) * end for end in (excess, excess - below, excess + above))
    value, low, high = (max(0.0, end) for end in ends)
    return Given(value, low, max(0.0, min(1.0, high)))


def number_given(
    metric: ScoreMetric,
    name: str,
    truth: Floats,
    scores: Floats,
    confounder: Floats,
    clusters: Int64 | None = None,
) -> Given:
    """Return a score of numbers (N,) without what a confounder (N,) says of them.

    The truth and the scores, or their ranks, are residuals of polynomials in its ranks. An error is
    on the scale of the whole truth, by the errors of the mean of each.
    """
    if len(truth) < FEWEST:
        return UNKNOWN
    if name in RANKED:
        truth, scores = _ranks(truth), _ranks(scores)
    basis = np.polynomial.legendre.legvander(_scaled(_ranks(confounder)), DEGREE)
    residuals = []
    for numbers in (truth, scores):
        fitted: NDArray[Any] = basis @ np.linalg.lstsq(basis, numbers, rcond=None)[0]
        residuals.append(numbers - fitted)
    if residuals[0].std() <= 1e-9 * max(float(np.std(truth)), 1e-300):
        return UNKNOWN
    low, high = metric.interval(residuals[0], residuals[1], clusters)
    found = Given(float(metric.value(*residuals)), low, high)
    if not metric.is_error:
        return found
    scale = _error_of_mean(metric, truth) / _error_of_mean(metric, residuals[0])
    return Given(*(scale * end for end in found))


def _error_of_mean(metric: ScoreMetric, truth: Floats) -> float:
    return float(metric.value(truth, np.full(len(truth), truth.mean())))


def _scaled(values: Floats) -> Floats:
    """Return numbers (N,) on the interval from -1 to 1."""
    span = values.max() - values.min()
    if span == 0:
        return np.zeros(len(values))
    return np.asarray(2 * (values - values.min()) / span - 1)
