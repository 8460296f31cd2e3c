"""Metrics of attributes: recall, AUROC and average precision for labels, and for numbers.

Labels and scores are arrays (N,).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from clipkit.base.matrices import Floats, Int64
from clipkit.statistics import metrics

DRAWS = 200  # of rows, for the metrics without a formula
BLOCK = 1 << 22  # rows of draws that are in memory at once
PENALTIES = 10.0 ** np.arange(-6, 3)  # of the ridge regression, for each row


def _auroc_deviations(labels: Floats, scores: Floats) -> Floats:
    """Return what each row (N,) adds to an AUROC, by its placement (DeLong et al. 1988)."""
    from scipy.stats import rankdata

    is_positive = labels == 1
    positives, negatives = is_positive.sum(), (~is_positive).sum()
    ranks = rankdata(scores)
    # the share of negatives below each positive, and of positives above each negative
    below = ranks[is_positive] - rankdata(scores[is_positive])
    above = positives - (ranks[~is_positive] - rankdata(scores[~is_positive]))
    deviations = np.empty(len(labels))
    deviations[is_positive] = _deviations_of_mean(below / negatives)
    deviations[~is_positive] = _deviations_of_mean(above / positives)
    return deviations


def _deviations_of_mean(values: Floats) -> Floats:
    """Return numbers (N,) with a sum of squares that is the variance of a mean; NaN for one."""
    if len(values) < 2:
        return np.full(len(values), np.nan)
    return np.asarray((values - values.mean()) / math.sqrt(len(values) * (len(values) - 1)))


def _r2_deviations(labels: Floats, scores: Floats) -> Floats:
    """Return what each row (N,) adds to R squared = 1 - SSE / SST, by the delta method."""
    total = (labels - labels.mean()) ** 2
    error = (labels - scores) ** 2
    return _deviations_of_mean((error.mean() / total.mean() * total - error) / total.mean())


def _of_rows(formula: Callable[[Floats, Floats], Floats]) -> Callable[..., Floats]:
    """Return deviations that sum what each row adds over its cluster; see `ScoreMetric`."""

    def deviations(labels: Floats, scores: Floats, clusters: Int64 | None = None) -> Floats:
        of_rows = formula(labels, scores)
        if clusters is None:
            return of_rows
        sums, _, wider = metrics.summed_by_cluster(of_rows[None], clusters)
        return np.asarray(sums[0] * math.sqrt(wider))

    return deviations


def _precisions(labels: Floats, scores: Floats, weights: Int64) -> Floats:
    """Return the average precision (B,) of each draw, in which rows are `weights` (B, N) times."""
    order = np.argsort(-scores, kind="stable")  # of all draws, so that one sort is enough
    falling, positives = -scores[order], np.flatnonzero(labels[order])
    ends = np.searchsorted(falling, falling[positives], side="right") - 1  # of equal scores
    of_positives = weights[:, order[positives]]
    found = np.cumsum(of_positives, axis=1, dtype=np.int32)
    found_at = found[:, np.searchsorted(positives, ends, side="right") - 1]
    all_rows = np.cumsum(weights[:, order], axis=1, dtype=np.int32)[:, ends]
    precision = found_at / np.maximum(all_rows, 1)
    return np.asarray((of_positives * precision).sum(axis=1) / np.maximum(found[:, -1], 1))


def _correlations(labels: Floats, scores: Floats, weights: Int64) -> Floats:
    """Return the correlation of ranks (B,) of each draw (see above); 0 if all are equal."""
    a, b = (_ranks_from_middle(values, weights) for values in (labels, scores))
    scale = np.sqrt((weights * a**2).sum(axis=1) * (weights * b**2).sum(axis=1))
    return np.asarray((weights * a * b).sum(axis=1) / np.where(scale > 0, scale, 1))


def _ranks_from_middle(values: Floats, weights: Int64) -> Floats:
    """Return the ranks (B, N) of values (N,) that are `weights` (B, N) times in each draw.

    Equal values have their mean rank. The middle rank is 0.
    """
    order = np.argsort(values)
    rising = values[order]
    counts = np.cumsum(weights[:, order], axis=1)
    counts = np.concatenate([np.zeros((len(weights), 1), counts.dtype), counts], axis=1)
    below = counts[:, np.searchsorted(rising, values, "left")]
    up_to = counts[:, np.searchsorted(rising, values, "right")]
    return np.asarray((below + up_to - counts[:, -1:]) / 2)


def _taus(labels: Floats, scores: Floats, weights: Int64) -> Floats:
    """Return Kendall's tau-b (B,) of each draw (see above); 0 if all are equal."""
    from scipy.stats import kendalltau

    taus = []
    for counts in weights:
        taus.append(kendalltau(np.repeat(labels, counts), np.repeat(scores, counts)).statistic)
    return np.nan_to_num(np.array(taus, np.float64))


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


def _absolute_deviations(labels: Floats, scores: Floats) -> Floats:
    return _deviations_of_mean(np.abs(labels - scores))


def _r2(labels: Floats, scores: Floats) -> float:
    return float(1 - ((labels - scores) ** 2).mean() / labels.var())


class ScoreMetric(NamedTuple):
    """A metric of the truth (N,) and of predictions or scores (N,), and what it is by chance.

    `deviations` are numbers for each row or, of rows in clusters (N,), for each cluster, in the
    order of their numbers; or for each of several draws. Over another draw of rows or clusters, two
    scores have the scalar product of their deviations as covariance. An error is better if it is
    lower, and has the unit of the truth.
    """

    title: str
    value: Callable[[Any, Any], float]
    deviations: Callable[[Any, Any, Int64 | None], Floats]
    chance: Callable[[Any], float]
    is_error: bool = False

    def covariance(
        self, truth: Any, scores: Sequence[Any], clusters: Int64 | None = None
    ) -> Floats:
        """Return the covariance (M, M) of M scores over another draw of rows, or clusters (N,)."""
        deviations = np.stack([self.deviations(truth, values, clusters) for values in scores])
        return np.asarray(deviations @ deviations.T)

    def quantile(self, truth: Any, clusters: Int64 | None = None) -> float:
        """Return half a 95 % interval in standard errors."""
        return metrics.QUANTILE

    def interval(
        self, truth: Any, scores: Any, clusters: Int64 | None = None
    ) -> tuple[float, float]:
        """Return a 95 % interval over another draw of rows, or clusters (N,)."""
        value = self.value(truth, scores)
        error = math.sqrt(self.covariance(truth, [scores], clusters)[0, 0])
        half = self.quantile(truth, clusters) * error
        if half <= 1e-9 * abs(value):  # equal or perfect scores do not show how far others would be
            return math.nan, math.nan
        return value - half, value + half if self.is_error else min(1.0, value + half)


class _OfLabels(ScoreMetric):
    def quantile(self, truth: Floats, clusters: Int64 | None = None) -> float:
        """Return Student's quantile, since few rows of a label say little about its variance."""
        from scipy.special import stdtrit

        return float(stdtrit(_rarer(truth, clusters) - 1, 0.975))  # NaN for one row

    def interval(
        self, truth: Floats, scores: Floats, clusters: Int64 | None = None
    ) -> tuple[float, float]:
        """Return the limits by the logit of the value (Pepe 2003), which is skewed near 1."""
        from scipy.special import expit, logit

        value = self.value(truth, scores)
        error = math.sqrt(self.covariance(truth, [scores], clusters)[0, 0])
        slope = value * (1 - value)
        if min(error, slope) < 1e-9:  # a perfect order does not show how far another would be
            return metrics.wilson(value, _rarer(truth, clusters))
        half = self.quantile(truth, clusters) * error / slope
        return float(expit(logit(value) - half)), float(expit(logit(value) + half))


def _rarer(truth: Floats, clusters: Int64 | None) -> float:
    """Return how many independent rows have the rarer of two labels."""
    rows = min(truth.sum(), (1 - truth).sum())
    return float(rows * metrics.effective_share(truth, clusters))


class _Recall(ScoreMetric):
    def covariance(
        self, truth: Any, scores: Sequence[Any], clusters: Int64 | None = None
    ) -> Floats:
        """Return the covariance. Of rows in clusters, it is as wide as the interval of each score.

        So it also holds for a value that few clusters have.
        """
        (truth, *scores), clusters = metrics.without_copies([truth, *scores], clusters)
        covariance = metrics.recall_covariance(truth, scores, clusters)
        if clusters is None:
            return covariance
        errors = np.sqrt(covariance.diagonal())
        wider = errors.copy()
        for place, predicted in enumerate(scores):
            value = self.value(truth, predicted)
            low, high = self.interval(truth, predicted, clusters)
            wider[place] = max(wider[place], max(value - low, high - value) / metrics.QUANTILE)
        products = np.outer(errors, errors)
        correlation = np.eye(len(errors))
        np.divide(covariance, products, out=correlation, where=products > 0)
        return np.asarray(correlation * np.outer(wider, wider))

    def interval(
        self, truth: Any, scores: Any, clusters: Int64 | None = None
    ) -> tuple[float, float]:
        return metrics.recall_interval(truth, scores, clusters)


def _resampled(
    title: str,
    metric: Callable[[Floats, Floats, Int64], Floats],
    chance: Callable[[Floats], float],
    kind: type[ScoreMetric] = ScoreMetric,
) -> ScoreMetric:
    """Return a metric of draws, in which rows are `weights` (B, N) times.

    Its deviations (DRAWS,) are those of draws of rows, or of whole clusters.
    """

    def value(labels: Floats, scores: Floats) -> float:
        return float(metric(labels, scores, np.ones((1, len(labels)), np.int64))[0])

    @functools.lru_cache(maxsize=4)  # an interval and a difference need the same draws
    def draw(label_bytes: bytes, score_bytes: bytes, cluster_bytes: bytes) -> Floats:
        generator = np.random.default_rng(0)
        labels, scores = np.frombuffer(label_bytes), np.frombuffer(score_bytes)
        clusters = np.frombuffer(cluster_bytes, np.int64)
        count, drawn = int(clusters.max()) + 1, []
        at_once = max(1, BLOCK // len(labels))
        for first in range(0, DRAWS, at_once):
            chosen = generator.integers(0, count, (min(at_once, DRAWS - first), count))
            weights = np.stack([np.bincount(row, minlength=count) for row in chosen])
            drawn.append(metric(labels, scores, weights[:, clusters]))
        return np.concatenate(drawn)

    def deviations(labels: Floats, scores: Floats, clusters: Int64 | None = None) -> Floats:
        numbers = np.arange(len(labels))
        if clusters is not None:
            numbers = np.unique(clusters, return_inverse=True)[1]
        of_rows = (np.asarray(row, np.float64).tobytes() for row in (labels, scores))
        values = draw(*of_rows, numbers.tobytes())
        return np.asarray((values - values.mean()) / math.sqrt(DRAWS - 1))

    return kind(title, value, deviations, chance)


RECALL = "recall"
RANKED = ("auroc", "ap", "spearman", "kendalltau")  # they depend on the order of scores alone
METRICS = {
    RECALL: _Recall(
        "recall",
        metrics.mean_per_class_recall,
        lambda *_: np.array([np.nan]),  # see `_Recall.covariance`
        lambda labels: 1 / len(np.unique(labels)),
    ),
    "auroc": _OfLabels("AUROC", metrics.auroc, _of_rows(_auroc_deviations), lambda _: 0.5),
    "ap": _resampled("average precision", _precisions, ap_by_chance, _OfLabels),
    "r2": ScoreMetric("R²", _r2, _of_rows(_r2_deviations), lambda _: 0.0),
    "mae": ScoreMetric(
        "mean absolute error",
        lambda labels, scores: float(np.abs(labels - scores).mean()),
        _of_rows(_absolute_deviations),
        lambda _: math.nan,  # see `null`
        is_error=True,
    ),
    "spearman": _resampled("Spearman's correlation", _correlations, lambda _: 0.0),
    "kendalltau": _resampled("Kendall's τ", _taus, lambda _: 0.0),
}


def ridge(X: Floats, Y: Floats, X_scored: Floats) -> Floats:
    """Predict T numbers (M, T) of rows (M, D), by a regression on rows (N, D) and their Y (N, T).

    Columns are standardised. For each number, the penalty is the one of PENALTIES with the smallest
    leave-one-out error.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(np.asarray(X, np.float64))
    model: Any = RidgeCV(alphas=PENALTIES * len(X), alpha_per_target=True)
    model.fit(scaler.transform(X), Y)
    predicted = np.asarray(model.predict(scaler.transform(X_scored)))
    return predicted.reshape(len(X_scored), -1)
