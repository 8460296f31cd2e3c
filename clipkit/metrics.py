"""Metrics of classification.

They are plain numpy, because `zeroshot` and `plot` use them and importing `sklearn.metrics` or
`scipy.stats` would take longer than these commands do. Tests compare them with scikit-learn's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipkit.features import Int64

Floats = NDArray[np.floating[Any]]

QUANTILE = 1.959964  # of the normal distribution, for 95 % confidence


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


def topk_accuracy(scores: Floats, labels: Int64, k: int) -> float:
    """Return the fraction of rows whose class is among the `k` highest scores.

    Of equal scores, the lower class ranks first.

    Parameters
    ----------
    scores : array (N, C)
    labels : array (N,)
        Columns of `scores`.
    k : int
        With k >= C, every row counts as correct.
    """
    true = np.asarray(labels)[:, None]  # (N, 1)
    true_score = np.take_along_axis(scores, true, axis=1)
    ranks_before = np.arange(scores.shape[1]) < true  # (N, C)
    is_ahead = (scores > true_score) | ((scores == true_score) & ranks_before)
    return float(np.mean(is_ahead.sum(axis=1) < k))


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
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    rows = np.bincount(labels, minlength=n_classes)
    correct = np.bincount(labels[labels == predicted], minlength=n_classes)
    total = rows + np.bincount(predicted, minlength=n_classes)
    f1: Floats = np.full(n_classes, np.nan)
    np.divide(2 * correct, total, out=f1, where=rows > 0)
    return f1


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the p-value of McNemar's exact test that two classifiers are equally accurate.

    Parameters
    ----------
    only_first, only_second : int
        Rows of one test set that only the first, and only the second, predicts correctly.

    >>> mcnemar(9, 1), mcnemar(0, 0)
    (0.021484375, 1.0)
    """
    from scipy.stats import binomtest

    trials = only_first + only_second
    return float(binomtest(only_first, trials).pvalue) if trials else 1.0


def wilson(fraction: float, n: int) -> tuple[float, float]:
    """Return Wilson's score interval for a fraction of `n` rows at 95 % confidence (Wilson 1927).

    >>> low, high = wilson(0.5, 100)
    >>> round(low, 4), round(high, 4)
    (0.4038, 0.5962)
    """
    z = QUANTILE
    centre = fraction + z**2 / (2 * n)
    half = z * np.sqrt(fraction * (1 - fraction) / n + z**2 / (4 * n**2))
    divisor = 1 + z**2 / n
    return float((centre - half) / divisor), float((centre + half) / divisor)
