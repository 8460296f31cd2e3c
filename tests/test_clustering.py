"""k-means as scikit-learn's, and measures of agreement that do not care how clusters are numbered."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics.cluster import contingency_matrix
from threadpoolctl import threadpool_limits

from clipkit import clustering
from clipkit.errors import ClipkitError, UsageError


@pytest.mark.parametrize("n_init", [1, 4])
@pytest.mark.parametrize("seed", [42, 7])
def test_kmeans_is_scikit_learns(seed, n_init):
    X = load_digits().data[:600].astype(np.float32) + 50
    seen = []
    found = clustering.kmeans(
        X, 10, seed=seed, n_init=n_init, progress=lambda *step: seen.append(step)
    )
    with threadpool_limits(1):
        expected = KMeans(10, random_state=seed, n_init=n_init).fit(X).labels_
    assert found.dtype == np.int64
    assert clustering.ari(expected, found) == pytest.approx(1)
    assert clustering.purity(expected, found) == 1
    assert seen == [(done, n_init) for done in range(1, n_init + 1)]


def test_kmeans_of_one_cluster_and_of_one_cluster_a_row():
    X = np.random.default_rng(0).random((6, 3))
    assert clustering.kmeans(X, 1).tolist() == [0] * 6
    assert len(set(clustering.kmeans(X, 6).tolist())) == 6


def test_kmeans_refuses():
    with pytest.raises(UsageError, match="at least 1; got 0"):
        clustering.kmeans(np.eye(3), 0)
    with pytest.raises(ClipkitError, match="at most 3 distinct rows, 4 clusters"):
        clustering.kmeans(np.eye(3), 4)
    with pytest.raises(ClipkitError, match="2 distinct rows, 3 clusters"):
        clustering.kmeans(np.repeat(np.eye(2), 5, axis=0), 3)


@given(
    st.lists(st.tuples(st.integers(-2, 3), st.integers(0, 4)), min_size=1, max_size=40),
    st.permutations(range(5)),
)
def test_agreement(pairs, names):
    labels, found = np.array(pairs).T
    assert clustering.purity(labels, found) == pytest.approx(
        contingency_matrix(labels, found).max(axis=0).sum() / len(labels)
    )
    for measure in (clustering.purity, clustering.nmi, clustering.ari):
        assert measure(labels, np.array(names)[found]) == pytest.approx(measure(labels, found))
        assert measure(labels, labels) == pytest.approx(1)
