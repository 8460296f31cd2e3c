"""The main number of classified rows: the accuracy or, of unequal classes, the mean recall.

A classifier that names one frequent class for every image may be right more often than one that
recognises every class. The mean recall gives each class the same weight, and by chance it is 1 / K
for K classes.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipkit.base.matrices import Floats, Int64
from clipkit.statistics import metrics
from clipkit.statistics.dependence import (
    ALL_FLIPS,
    LEAST,
    LEVEL,
    PairedTest,
    flip_interval,
    p_of_flips,
)
from clipkit.statistics.power import POWER_QUANTILE

RATIO = 1.5  # of the rows of the most and of the least frequent class
EQUAL = 0.01  # of the test that classes are equally frequent
ACCURACY, MEAN_RECALL = "accuracy", "mean recall"
RECALL_COLUMN, RECALL_CHANCE, MAJORITY = "mean_per_class_recall", "recall_chance", "majority"


def is_unequal(labels: Int64) -> bool:
    """Whether the scored classes are of unequal size, by their labels (N,).

    The most frequent of the K classes that occur has at least RATIO times as many rows as the
    least frequent one, and a draw of equally frequent classes would hardly differ as much: p of the
    chi-squared test with K - 1 degrees of freedom is below EQUAL.

    >>> is_unequal(np.repeat([0, 1], [90, 10])), is_unequal(np.repeat([0, 1], [7, 3]))
    (True, False)
    """
    counts = np.unique(labels, return_counts=True)[1]
    if len(counts) < 2 or counts.max() < RATIO * counts.min():
        return False
    from scipy.special import chdtrc

    mean = counts.mean()
    statistic = np.square(counts - mean).sum() / mean
    return bool(chdtrc(len(counts) - 1, statistic) < EQUAL)


def name_of(labels: Int64) -> str:
    """Return what the main number of scored labels (N,) is called."""
    return MEAN_RECALL if is_unequal(labels) else ACCURACY


def unless_equal(labels: Int64 | None) -> Int64 | None:
    """Return labels (N,) of classes of unequal size, or None."""
    return labels if labels is not None and is_unequal(labels) else None


def values_of(labels: Int64, right: NDArray[np.bool_]) -> Floats:
    """Return the main number (R,) of R runs, by which rows (R, N) each gets right."""
    if not is_unequal(labels):
        return np.asarray(right.mean(axis=1))
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return np.array([(np.bincount(index, run) / counts).mean() for run in right])


class MainNumber(NamedTuple):
    """An accuracy or a mean recall, with its 95 % interval, and what chance gives."""

    value: float
    low: float
    high: float
    chance: float


def mean_recall(
    labels: Int64, right: Any, clusters: Int64 | None = None, level: float = LEVEL
) -> MainNumber:
    """Return the mean recall of the classes of labels (N,), by which rows (N,) are right.

    The interval is that of `metrics.wider_recall_interval`.
    """
    predicted = np.where(np.asarray(right, bool), labels, -1)
    value = metrics.mean_per_class_recall(labels, predicted)
    limits = metrics.wider_recall_interval(labels, predicted, clusters, level)
    return MainNumber(value, *limits, 1 / len(np.unique(labels)))


def paired_recall_test(
    labels: Int64, first: Any, second: Any, clusters: Int64 | None = None
) -> PairedTest:
    """Test that two results have the same mean recall, by which of the same rows (N,) are right.

    The mean recall is the mean of right rows with a weight of N / (K n) for each of the n rows of a
    class, so that flips of whole clusters test it as they test an accuracy. They know a rare class
    by its few rows alone, which `metrics.recall_covariance` takes to be uncertain. Of the two, the
    interval has the farther ends, and p is the larger one.
    """
    from scipy.special import ndtr

    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    of_cluster = np.arange(len(labels))
    if clusters is not None:
        of_cluster = np.unique(clusters, return_inverse=True)[1]
    weights = (len(labels) / len(counts) / counts)[index]
    is_right = np.asarray(first, bool), np.asarray(second, bool)
    sums = np.bincount(of_cluster, weights * (is_right[0].astype(float) - is_right[1]))
    sizes = np.bincount(of_cluster, weights)
    pairs, times = np.unique(np.stack([sums, sizes]), axis=1, return_counts=True)
    if len(sums) <= ALL_FLIPS:  # each choice of signs is tried
        pairs, times = np.stack([sums, sizes]), np.ones(len(sums), np.int64)
    p = p_of_flips(pairs[0], times)
    low, high = flip_interval(pairs[0], pairs[1], times, is_different=p <= LEVEL)
    predictions = [np.where(one, labels, -1) for one in is_right]
    covariance = metrics.recall_covariance(labels, predictions, clusters)
    error = math.sqrt(max(0.0, float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])))
    difference = float(sums.sum()) / len(labels)
    half = metrics.QUANTILE * error
    if error:
        p = max(p, 2 * float(ndtr(-abs(difference) / error)))
    detectable = (metrics.QUANTILE + POWER_QUANTILE) * error
    if np.count_nonzero(sums) < LEAST or detectable > 1:
        detectable = math.nan
    limits = max(-1.0, min(low, difference - half)), min(1.0, max(high, difference + half))
    return PairedTest(*limits, math.log10(p), detectable)
