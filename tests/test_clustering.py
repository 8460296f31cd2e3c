"""k-means is scikit-learn's, and measures of agreement ignore the numbers of clusters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from factories import feature_file
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics.cluster import contingency_matrix
from threadpoolctl import threadpool_limits

from clipkit import clustering
from clipkit.errors import ClipkitError, UsageError


@pytest.mark.parametrize("seed", [42, 7])
def test_kmeans_is_scikit_learns_with_ten_starts_on_one_thread(seed):
    X = load_digits().data[:600].astype(np.float32) + 50
    assignments = clustering.kmeans(X, 10, seed=seed)
    with threadpool_limits(1):
        expected = KMeans(10, random_state=seed, n_init=10).fit(X).labels_
    assert assignments.dtype == np.int64
    assert np.array_equal(assignments, expected)


def test_one_cluster_holds_all_rows_and_as_many_clusters_as_rows_hold_one_each():
    X = np.random.default_rng(0).random((6, 3))
    assert clustering.kmeans(X, 1).tolist() == [0] * 6
    assert sorted(clustering.kmeans(X, 6)) == list(range(6))


@pytest.mark.parametrize(
    ("features", "k", "error", "message"),
    [
        (np.eye(3), 0, UsageError, "k: expected at least 1, got 0"),
        (np.eye(3), 4, ClipkitError, "expected at least as many rows as clusters, got 3 and 4"),
        (
            np.repeat(np.eye(2), 5, axis=0),
            3,
            ClipkitError,
            "expected at least as many distinct rows as clusters, got 2 and 3",
        ),
    ],
)
def test_more_clusters_than_distinct_rows_are_refused(features, k, error, message):
    with pytest.raises(error) as caught:
        clustering.kmeans(features, k)
    assert caught.value.message == message


@given(
    st.lists(st.tuples(st.integers(-2, 3), st.integers(0, 4)), min_size=1, max_size=40),
    st.permutations(range(5)),
)
def test_agreement_ignores_how_clusters_are_numbered(pairs, numbers):
    labels, assignments = np.array(pairs).T
    counts = contingency_matrix(labels, assignments)
    agreement = clustering.agreement(labels, assignments)
    assert agreement["purity"] == pytest.approx(counts.max(axis=0).sum() / len(labels))
    renumbered = np.array(numbers)[assignments]
    assert clustering.agreement(labels, renumbered) == pytest.approx(agreement)
    perfect = clustering.agreement(labels, labels)
    assert perfect == pytest.approx({"purity": 1, "nmi": 1, "ari": 1})


def test_a_result_has_a_run_per_split_and_k_and_names_classes_if_k_allows():
    file = feature_file("images")
    assert [(row["split"], row["k"]) for row in clustering.cluster(file).rows()] == [("test", 2)]
    result = clustering.cluster(file, ["train", "test"], [2, 3])
    points = [(row["split"], row["k"]) for row in result.rows()]
    assert points == [("train", 2), ("train", 3), ("test", 2), ("test", 3)]
    assert result.splits["train"].predicted.shape == (2, 6)
    assert result.class_names is None  # no class is called 2
    assert clustering.cluster(file, k=[2]).class_names == ["cat", "dog"]


def test_without_labels_k_is_required_and_agreement_is_nan():
    file = feature_file("images", datasets={"class_names": None})
    file.splits["test"] = replace(file.splits["test"], labels=None)
    with pytest.raises(ClipkitError, match="test: expected labels to count classes, got none"):
        clustering.cluster(file)
    (row,) = clustering.cluster(file, k=[2]).rows()
    assert all(np.isnan(row[name]) for name in ("purity", "nmi", "ari"))
    assert clustering.cluster(file, ["train"]).rows()[0]["k"] == 2
