"""Metrics of scores: for labels of 0 and 1 (AUROC, average precision), and for numbers.

Labels and scores are arrays (N,). A covariance is of a metric of M score vectors on the same rows,
over another draw of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from clipkit.features.model import Floats

DRAWS = 200  # of rows, for the metrics without a formula
BLOCK = 1 << 22  # rows of draws that are in memory at once
PENALTIES = 10.0 ** np.arange(-6, 3)  # of the ridge regression, for each row

Covariance = Callable[[Floats, Sequence[Floats]], Floats]


class ScoreMetric(NamedTuple):
    """A metric with what it needs to be reported."""

    title: str
    value: Callable[[Floats, Floats], float]
    covariance: Covariance
    chance: Callable[[Floats], float]
    is_of_numbers: bool


def auroc_covariance(labels: Floats, scores: Sequence[Floats]) -> Floats:
    """Estimate the covariance (M, M) of AUROCs from placements (DeLong et al. 1988)."""
    from scipy.stats import rankdata

    is_positive = labels == 1
    positives, negatives = is_positive.sum(), (~is_positive).sum()
    of_positives, of_negatives = [], []
    for values in scores:
        ranks = rankdata(values)
        # the share of negatives below each positive, and of positives above each negative
        below = ranks[is_positive] - rankdata(values[is_positive])
        above = positives - (ranks[~is_positive] - rankdata(values[~is_positive]))
        of_positives.append(below / negatives)
        of_negatives.append(above / positives)
    return _covariance_of_mean(of_positives) + _covariance_of_mean(of_negatives)


def _covariance_of_mean(values: Sequence[Floats]) -> Floats:
    stacked = np.stack(values)
    if stacked.shape[1] < 2:
        return np.full((len(stacked), len(stacked)), np.nan)
    return np.asarray(np.atleast_2d(np.cov(stacked)) / stacked.shape[1])


def r2_covariance(labels: Floats, scores: Sequence[Floats]) -> Floats:
    """Estimate the covariance (M, M) of R squared = 1 - SSE / SST, by the delta method."""
    total = (labels - labels.mean()) ** 2
    influences = []
    for values in scores:
        error = (labels - values) ** 2
        influences.append((error.mean() / total.mean() * total - error) / total.mean())
    return _covariance_of_mean(influences)


def _resampled(metric: Callable[[Floats, Floats, Floats], Floats]) -> Covariance:
    """Return the covariance of a metric of weighted rows over draws of rows with replacement."""

    def covariance(labels: Floats, scores: Sequence[Floats]) -> Floats:
        generator = np.random.default_rng(0)
        n = len(labels)
        drawn: list[Floats] = []
        at_once = max(1, BLOCK // n)
        for first in range(0, DRAWS, at_once):
            count = min(at_once, DRAWS - first)
            rows = generator.integers(0, n, (count, n))
            weights = np.stack([np.bincount(row, minlength=n) for row in rows]).astype(np.float64)
            drawn.append(np.stack([metric(labels, values, weights) for values in scores]))
        return np.asarray(np.atleast_2d(np.cov(np.concatenate(drawn, axis=1))))

    return covariance


def _weighted_ap(labels: Floats, scores: Floats, weights: Floats) -> Floats:
    """Return the average precision for each row of weights (B, N)."""
    order = np.argsort(-scores, kind="stable")
    falling = -scores[order]
    last = np.searchsorted(falling, falling, side="right") - 1  # equal scores share a threshold
    weights = weights[:, order]
    of_positives = weights * labels[order]
    found, all_rows = np.cumsum(of_positives, axis=1), np.cumsum(weights, axis=1)
    precision = found[:, last] / np.maximum(all_rows[:, last], 1)
    return np.asarray((of_positives * precision).sum(axis=1) / np.maximum(found[:, -1], 1))


def _weighted_spearman(labels: Floats, scores: Floats, weights: Floats) -> Floats:
    """Return the correlation of weighted ranks for each row of weights (B, N)."""
    total = weights.sum(axis=1, keepdims=True)
    ranks = [_weighted_ranks(values, weights) for values in (labels, scores)]
    a, b = (rank - (weights * rank).sum(axis=1, keepdims=True) / total for rank in ranks)
    covariance = (weights * a * b).sum(axis=1)
    scale = np.sqrt((weights * a**2).sum(axis=1) * (weights * b**2).sum(axis=1))
    return np.asarray(np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0))


def _weighted_ranks(values: Floats, weights: Floats) -> Floats:
    """Return the rank of each value (B, N); equal values share the mean of their ranks."""
    order = np.argsort(values, kind="stable")
    rising = values[order]
    sums = np.cumsum(np.pad(weights[:, order], ((0, 0), (1, 0))), axis=1)
    first = np.searchsorted(rising, rising, side="left")
    last = np.searchsorted(rising, rising, side="right")
    ranks = np.empty(weights.shape)
    ranks[:, order] = (sums[:, first] + sums[:, last]) / 2
    return ranks


def ap_by_chance(labels: Floats) -> float:
    """Return the mean average precision of random orders of the rows.

    Of n rows, p positive: [H(n) + (p - 1) / (n - 1) (n - H(n))] / n, with the harmonic number H.

    >>> round(ap_by_chance(np.array([1, 0])), 6)  # the positive row is first or second
    0.75
    """
    n, positives = len(labels), int(np.sum(labels))
    if n < 2:
        return 1.0
    harmonic = float((1 / np.arange(1, n + 1)).sum())
    return float((harmonic + (positives - 1) / (n - 1) * (n - harmonic)) / n)


def _auroc(labels: Floats, scores: Floats) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores))


def _average_precision(labels: Floats, scores: Floats) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(labels, scores))


def _r2(labels: Floats, scores: Floats) -> float:
    from sklearn.metrics import r2_score

    return float(r2_score(labels, scores))


def _spearman(labels: Floats, scores: Floats) -> float:
    return float(_weighted_spearman(labels, scores, np.ones((1, len(labels))))[0])


def _constant(value: float) -> Callable[[Floats], float]:
    return lambda _: value


_ap_covariance = _resampled(_weighted_ap)
_spearman_covariance = _resampled(_weighted_spearman)
METRICS = {
    "auroc": ScoreMetric("AUROC", _auroc, auroc_covariance, _constant(0.5), False),
    "ap": ScoreMetric("average precision", _average_precision, _ap_covariance, ap_by_chance, False),
    "r2": ScoreMetric("R²", _r2, r2_covariance, _constant(0.0), True),
    "spearman": ScoreMetric(
        "Spearman's correlation", _spearman, _spearman_covariance, _constant(0.0), True
    ),
}


def ridge(X: Floats, Y: Floats, X_scored: Floats) -> Floats:
    """Predict T numbers (M, T) of rows (M, D), by a regression on rows (N, D) and their Y (N, T).

    Columns are standardised. The penalty of each number is the one of PENALTIES with the smallest
    error on each row when it is left out.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(np.asarray(X, np.float64))
    model: Any = RidgeCV(alphas=PENALTIES * len(X), alpha_per_target=True)
    model.fit(scaler.transform(X), Y)
    predicted = np.asarray(model.predict(scaler.transform(X_scored)))
    return predicted.reshape(len(X_scored), -1)
