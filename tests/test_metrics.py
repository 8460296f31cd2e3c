"""Metrics agree with scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t
from sklearn import metrics as reference

from clipkit.statistics import metrics

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40).map(
    lambda pairs: np.array(pairs).T
)


@given(PAIRS)
@pytest.mark.long
def test_accuracy_recall_and_confusion_are_scikit_learns(pairs):
    y, p = pairs
    assert metrics.accuracy(y, p) == pytest.approx(reference.accuracy_score(y, p))
    recall = reference.recall_score(y, p, labels=np.unique(y), average="macro", zero_division=0)
    assert metrics.mean_per_class_recall(y, p) == pytest.approx(recall)
    confusion = reference.confusion_matrix(y, p, labels=range(5))
    assert np.array_equal(metrics.confusion(y, p, 5), confusion)


@given(PAIRS)
def test_f1_per_class_is_scikit_learns_and_nan_for_a_class_without_rows(pairs):
    y, p = pairs
    f1 = metrics.f1_per_class(y, p, 5)
    present = np.unique(y)
    expected = reference.f1_score(y, p, labels=present, average=None, zero_division=0)
    assert np.allclose(f1[present], expected)
    assert np.flatnonzero(np.isnan(f1)).tolist() == sorted(set(range(5)) - set(present))


@given(PAIRS)
def test_errors_keep_the_group_by_chance_as_often_as_with_the_predictions_of_all_errors(pairs):
    y, p = pairs
    groups = np.array([0, 1, 0, 2, 1])
    wrong = p[y != p]
    shares = [(groups[wrong[wrong != i]] == groups[i]).mean() for i in y[y != p]]
    assert metrics.kept_by_chance(y, p, groups) == pytest.approx(np.mean(shares or [0]))


def test_the_best_classes_have_scikit_learns_top_5_accuracy_and_the_lower_of_equals_is_first():
    rng = np.random.default_rng(0)
    scores, labels = rng.random((200, 6)), rng.integers(6, size=200)
    expected = reference.top_k_accuracy_score(labels, scores, k=5, labels=range(6))
    found = metrics.accuracies(labels, metrics.best_classes(scores.copy()))
    assert found["acc5"] == pytest.approx(expected)
    assert found["acc1"] == metrics.accuracy(labels, scores.argmax(axis=1))
    assert metrics.best_classes(np.zeros((1, 7))).tolist() == [[0, 1, 2, 3, 4]]
    assert metrics.best_classes(np.array([[0, 1.0, 1.0]])).tolist() == [[1]]


@pytest.mark.parametrize(("correct", "n"), [(0, 10), (10, 10), (7, 10), (780, 1000)])
def test_wilsons_interval_is_scipys(correct, n):
    from scipy.stats import binomtest

    expected = binomtest(correct, n).proportion_ci(method="wilson")
    assert metrics.wilson(correct / n, n) == pytest.approx(expected, abs=1e-7)


def test_equal_values_count_as_one_row_for_each_cluster_of_equal_size():
    assert metrics.effective_rows([1, 1, 1, 1], np.array([0, 0, 1, 1])) == 2
    assert metrics.effective_rows([1, 1, 1, 1], np.array([0, 0, 0, 1])) == 1.6  # 4^2 / (3^2 + 1)


STEP = metrics.ORDER_STEP


@pytest.mark.parametrize(
    ("values", "order"),
    [
        ([], []),
        ([0.0, 0.0], [0, 1]),
        ([0.2, np.inf, -np.inf, np.nan, 0.3], [1, 4, 0, 2, 3]),
        ([0.5, 0.5 + STEP / 100, 1.0], [2, 0, 1]),
        ([0.5, 0.5 + 2 * STEP, 1.0], [2, 1, 0]),
        ([-1.0, -0.5, -0.5 - STEP / 100], [1, 2, 0]),
        ([10_000_000, 1, 3, 2], [0, 2, 3, 1]),  # counts are not rounded
    ],
)
def test_the_falling_order_keeps_that_of_fractions_that_differ_in_their_last_bits(values, order):
    assert metrics.falling_order(values).tolist() == order


def mean_f1_of(labels, predicted, classes):
    found = reference.f1_score(labels, predicted, labels=classes, average=None, zero_division=0)
    return found.mean()


@pytest.mark.parametrize("classes", [[2], [0, 3], [0, 1, 2, 3, 4]])
def test_the_interval_of_a_mean_f1_is_that_of_the_jackknife_over_clusters(classes):
    random = np.random.RandomState(0)
    clusters = np.repeat(np.arange(40), random.randint(1, 5, 40))
    labels = random.randint(5, size=40)[clusters]
    predicted = np.where(random.random_sample(len(labels)) < 0.6, labels, (labels + 1) % 5)
    mean = mean_f1_of(labels, predicted, classes)
    shifts = []
    for cluster in range(40):
        kept = clusters != cluster
        shifts.append(mean_f1_of(labels[kept], predicted[kept], classes) - mean)
    shifts = np.array(shifts)
    centre = mean - 39 * shifts.mean()
    shifts -= shifts.mean()
    g = len(labels) ** 2 / (np.bincount(clusters) ** 2).sum()
    df = min(g - 1, (shifts**2).sum() ** 2 / (shifts**4).sum())
    n = centre * (1 - centre) / ((shifts**2).sum() * 39 / 40) * (1.959964 / t.ppf(0.975, df)) ** 2
    found = metrics.mean_f1(labels, predicted, classes, 5, clusters)
    assert found == pytest.approx((mean, *metrics.wilson(centre, n)), abs=1e-9)
    # Rows that are there three times tell as much as once
    thrice = (np.repeat(values, 3) for values in (labels, predicted))
    assert metrics.mean_f1(*thrice, classes, 5, np.repeat(clusters, 3)) == pytest.approx(found)


@pytest.mark.parametrize("shift", [0, 1])
def test_a_mean_f1_of_only_right_or_wrong_predictions_has_wilsons_interval(shift):
    labels = np.arange(40) % 4
    found = metrics.mean_f1(labels, (labels + shift) % 4, range(4), 4)
    mean = 1.0 - shift
    low, high = metrics.wilson(mean, 40 * (metrics.QUANTILE / t.ppf(0.975, 39)) ** 2)
    assert found == pytest.approx((mean, low, high), abs=1e-9)
    alone = metrics.mean_f1(labels, labels, [0], 4, np.zeros(40, int))
    assert alone[0] == alone[2] == 1
    assert alone[1] < 0.5  # one cluster
