"""Metrics of classification, zero-shot scores, and splits of the rows: plain numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipkit.errors import ClipkitError, UsageError

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]


def accuracy(labels: Ints, predicted: Ints) -> float:
    """Fraction of rows predicted right (top-1).

    >>> accuracy(np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2]))
    0.75
    """
    return float(np.mean(np.asarray(labels) == np.asarray(predicted)))


def mean_per_class_recall(labels: Ints, predicted: Ints) -> float:
    """Mean over the classes that occur in `labels` of the fraction of their rows predicted right.

    >>> mean_per_class_recall(np.array([7, 7, 7, 9]), np.array([7, 7, 9, 7]))
    0.3333333333333333
    """
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    right = np.bincount(index, weights=np.asarray(labels) == np.asarray(predicted))
    return float(np.mean(right / counts))


def topk_accuracy(scores: Floats, labels: Ints, k: int) -> float:
    """Fraction of rows whose own class is among the `k` highest scores; of equal scores the lower class comes first.

    Parameters
    ----------
    scores : array (N, C)
    labels : array (N,)
        Columns of `scores`.
    k : int
        With k >= C every row counts as right.
    """
    rows, columns = np.arange(len(labels)), np.arange(scores.shape[1])
    own = scores[rows, labels][:, None]
    ahead = (scores > own) | ((scores == own) & (columns < np.asarray(labels)[:, None]))
    return float(np.mean(ahead.sum(axis=1) < k))


def confusion(labels: Ints, predicted: Ints, n_classes: int) -> Ints:
    """Confusion matrix (C, C): row the true class, column the predicted one, both 0..C-1.

    >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
    array([[1, 1],
           [0, 1]])
    """
    pairs = np.asarray(labels) * n_classes + np.asarray(predicted)
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


@dataclass(frozen=True)
class PerClass:
    """Precision, recall, F1 and number of true rows of each class, each (C,); 0 where nothing defines it."""

    precision: Floats
    recall: Floats
    f1: Floats
    support: Ints


def per_class(matrix: Ints) -> PerClass:
    """Precision, recall and F1 of each class from a confusion matrix (C, C)."""
    right, true, called = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    precision = right / np.maximum(called, 1)
    recall = right / np.maximum(true, 1)
    f1 = 2 * right / np.maximum(true + called, 1)
    return PerClass(precision, recall, f1, true)


def wilson(fraction: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a fraction of `n` rows; 95 % by default (Wilson 1927).

    >>> low, high = wilson(0.5, 100)
    >>> round(low, 4), round(high, 4)
    (0.4038, 0.5962)
    """
    centre = fraction + z**2 / (2 * n)
    half = z * np.sqrt(fraction * (1 - fraction) / n + z**2 / (4 * n**2))
    return float((centre - half) / (1 + z**2 / n)), float((centre + half) / (1 + z**2 / n))


def zero_shot(cosines: Floats, class_index: Ints, n_classes: int) -> tuple[Floats, Ints]:
    """Score of each class, the highest cosine among its prompts, and the class that wins.

    Parameters
    ----------
    cosines : array (N, K)
        Cosine similarities (or logits) of images with prompts.
    class_index : array (K,)
        The class of each prompt, 0..C-1; -1 for a prompt that belongs to none.
    n_classes : int
        C.

    Returns
    -------
    scores : array (N, C)
        -inf for a class without a prompt.
    predicted : array (N,) int64
        The lower class where two are equal.

    Raises
    ------
    ClipkitError
        No prompt belongs to a class.
    """
    class_index = np.asarray(class_index)
    if not (class_index >= 0).any():
        raise ClipkitError(
            "zero-shot needs prompts that belong to classes; got none",
            "make them with textembed --classes",
        )
    scores = np.full((len(cosines), n_classes), -np.inf, dtype=cosines.dtype)
    for c in np.unique(class_index[class_index >= 0]):
        scores[:, c] = cosines[:, class_index == c].max(axis=1)
    return scores, scores.argmax(axis=1)


def split_off(labels: Ints, fraction: float, seed: int = 42) -> tuple[Ints, Ints]:
    """Set a fraction of every class aside for validation.

    Of each class the nearest whole number of rows, but at least one; a class of a single row is all fitted on.

    Parameters
    ----------
    labels : array (N,)
    fraction : float
        Between 0 and 1, both excluded.
    seed : int

    Returns
    -------
    fit, val : arrays of row numbers, ascending
    """
    if not 0 < fraction < 1:
        raise UsageError(f"a validation fraction must lie between 0 and 1; got {fraction}")
    rng = np.random.default_rng(seed)
    aside = np.zeros(len(labels), dtype=bool)
    for c in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == c))
        aside[rows[: min(max(1, round(fraction * len(rows))), len(rows) - 1)]] = True
    return np.flatnonzero(~aside), np.flatnonzero(aside)


def few_shot(labels: Ints, shots: int, seed: int = 42) -> Ints:
    """Row numbers, ascending, of `shots` rows drawn from every class (all rows of a smaller class)."""
    if shots < 1:
        raise UsageError(f"few-shot needs at least one row a class; got {shots}")
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(np.flatnonzero(labels == c))[:shots] for c in np.unique(labels)]
    return np.sort(np.concatenate(drawn))


def unseen(fit_labels: Ints, eval_labels: Ints) -> Ints:
    """Class ids that occur in `eval_labels` and not in `fit_labels`: their rows can only count as wrong."""
    return np.setdiff1d(eval_labels, fit_labels)
