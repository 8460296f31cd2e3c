"""Metrics against scikit-learn's, zero-shot scores, and splits of the rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from clipkit import metrics
from clipkit.errors import ClipkitError, UsageError

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40).map(
    lambda pairs: np.array(pairs).T
)


@given(PAIRS)
def test_accuracy_recall_and_confusion(pairs):
    y, p = pairs
    assert metrics.accuracy(y, p) == pytest.approx(reference.accuracy_score(y, p))
    recall = reference.recall_score(y, p, labels=np.unique(y), average="macro", zero_division=0)
    assert metrics.mean_per_class_recall(y, p) == pytest.approx(recall)
    assert np.array_equal(
        metrics.confusion(y, p, 5), reference.confusion_matrix(y, p, labels=range(5))
    )


@given(PAIRS)
def test_per_class(pairs):
    y, p = pairs
    found = metrics.per_class(metrics.confusion(y, p, 5))
    expected = reference.precision_recall_fscore_support(y, p, labels=range(5), zero_division=0)
    for ours, theirs in zip(
        (found.precision, found.recall, found.f1, found.support), expected, strict=True
    ):
        assert np.allclose(ours, theirs)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_topk(k):
    rng = np.random.default_rng(0)
    scores, labels = rng.random((200, 6)), rng.integers(6, size=200)
    assert metrics.topk_accuracy(scores, labels, k) == pytest.approx(
        reference.top_k_accuracy_score(labels, scores, k=k, labels=range(6))
    )


def test_topk_counts_every_row_once_when_scores_are_equal():
    scores = np.zeros((3, 3))
    assert [metrics.topk_accuracy(scores, np.arange(3), k) for k in (1, 2, 3)] == pytest.approx(
        [1 / 3, 2 / 3, 1]
    )


def test_top1_is_the_accuracy_of_the_argmax():
    scores = np.random.default_rng(0).integers(3, size=(300, 4))
    labels = np.random.default_rng(1).integers(4, size=300)
    assert metrics.topk_accuracy(scores, labels, 1) == metrics.accuracy(
        labels, scores.argmax(axis=1)
    )


@pytest.mark.parametrize(("right", "n"), [(0, 10), (10, 10), (7, 10), (780, 1000)])
def test_wilson_solves_its_equation(right, n):
    """The bounds are the proportions at which the observed one lies z standard errors away."""
    for bound in metrics.wilson(right / n, n):
        assert (right / n - bound) ** 2 == pytest.approx(
            1.959964**2 * bound * (1 - bound) / n, abs=1e-12
        )
        assert 0 <= bound <= 1


def test_zero_shot_takes_the_best_prompt_of_each_class():
    cosines = np.array([[0.1, 0.3, 0.2, 0.9], [0.5, 0.1, 0.2, 0.9]], dtype=np.float32)
    scores, predicted = metrics.zero_shot(cosines, np.array([2, 0, 0, -1]), 3)
    assert np.array_equal(
        scores, np.array([[0.3, -np.inf, 0.1], [0.2, -np.inf, 0.5]], dtype=np.float32)
    )
    assert predicted.tolist() == [0, 2]
    with pytest.raises(ClipkitError, match="belong to classes"):
        metrics.zero_shot(cosines, np.full(4, -1), 3)


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=80), st.floats(0.01, 0.99), st.integers(0, 3)
)
def test_split_off_is_a_stratified_partition(labels, fraction, seed):
    labels = np.array(labels)
    fit, val = metrics.split_off(labels, fraction, seed)
    assert np.array_equal(np.sort(np.concatenate([fit, val])), np.arange(len(labels)))
    assert np.array_equal(fit, np.sort(fit))
    for c, count in zip(*np.unique(labels, return_counts=True), strict=True):
        held = np.sum(labels[val] == c)
        assert held == (0 if count == 1 else min(max(1, round(fraction * count)), count - 1))


def test_split_off_is_seeded_and_checks_its_fraction():
    labels = np.repeat([0, 1], 50)
    first, again, other = (metrics.split_off(labels, 0.2, seed)[1].tolist() for seed in (1, 1, 2))
    assert first == again != other
    for fraction in (0, 1, -0.1, np.nan):
        with pytest.raises(UsageError, match="between 0 and 1"):
            metrics.split_off(labels, fraction)


def test_few_shot():
    labels = np.array([3] * 10 + [8] * 2)
    rows = metrics.few_shot(labels, 4, seed=0)
    assert np.unique(labels[rows], return_counts=True)[1].tolist() == [4, 2]
    assert np.array_equal(rows, np.unique(rows))
    with pytest.raises(UsageError, match="at least one row"):
        metrics.few_shot(labels, 0)
