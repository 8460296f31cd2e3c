"""k-means, and how well its clusters agree with the classes: purity, NMI, ARI."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from copy import deepcopy
from typing import Any

import numpy as np
from joblib import cpu_count  # type: ignore[import-untyped]
from numpy.typing import NDArray
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from clipkit.errors import ClipkitError, UsageError

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]


def kmeans(
    features: Floats,
    k: int,
    *,
    seed: int = 42,
    n_init: int = 10,
    progress: Callable[[int, int], None] | None = None,
) -> Ints:
    """Cluster of each row by k-means: the best of several starts, as `KMeans(k, random_state=seed, n_init=n_init)`.

    The starts are scikit-learn's own, but each runs on one thread, and several at a time, so that the clusters do not
    depend on the number of cores.

    Parameters
    ----------
    features : array (N, D)
        What is clustered, as it is.
    k : int
        Number of clusters; as many as classes in the usual protocol.
    seed, n_init : int
        For k-means++, and how often it starts.
    progress : callable, optional
        Called as `progress(done, total)` after each start.

    Returns
    -------
    array (N,) int64
        Cluster numbers 0..k-1.

    Raises
    ------
    UsageError
        k < 1.
    ClipkitError
        Fewer distinct rows than clusters.
    """
    if k < 1:
        raise UsageError(f"k must be at least 1; got {k}")
    distinct = (
        f"k-means needs as many distinct rows as clusters; got {{}} distinct rows, {k} clusters"
    )
    if len(features) < k:
        raise ClipkitError(distinct.format(f"at most {len(features)}"))
    random = np.random.RandomState(seed)
    # OpenMP counts its threads for each thread, so every worker sets its own limit
    pool = ThreadPoolExecutor(
        min(n_init, cpu_count()), initializer=threadpool_limits, initargs=(1,)
    )
    with threadpool_limits(1), pool, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # too few distinct rows: an error below
        try:
            starts = []
            for _ in range(n_init):
                starts.append(
                    pool.submit(KMeans(k, random_state=deepcopy(random), n_init=1).fit, features)
                )
                kmeans_plusplus(
                    features[:k], k, random_state=random
                )  # draws as many numbers as that start
            for done, _ in enumerate(as_completed(starts), 1):
                if progress:
                    progress(done, n_init)
        finally:  # after an interrupt nothing that waits may start
            pool.shutdown(cancel_futures=True)
    best = min((start.result() for start in starts), key=lambda found: found.inertia_)
    assignments: Ints = best.labels_.astype(np.int64)
    if (found := len(np.unique(assignments))) < k:
        raise ClipkitError(distinct.format(found))
    return assignments


def purity(labels: Ints, assignments: Ints) -> float:
    """Fraction of rows that belong to the largest class of their cluster.

    >>> purity(np.array([5, 5, 6, 6, 6]), np.array([0, 0, 0, 1, 1]))
    0.8
    """
    return float(_contingency(labels, assignments).max(axis=0).sum() / len(labels))


def nmi(labels: Ints, assignments: Ints) -> float:
    """Normalised mutual information, 0..1 (arithmetic mean of the two entropies below the fraction)."""
    return float(normalized_mutual_info_score(labels, assignments))


def ari(labels: Ints, assignments: Ints) -> float:
    """Adjusted Rand index: 1 for the same partition, about 0 for a random one."""
    return float(adjusted_rand_score(labels, assignments))


def _contingency(labels: Ints, assignments: Ints) -> Ints:
    """Rows of class c in cluster j, (C, J)."""
    classes, c = np.unique(labels, return_inverse=True)
    clusters, j = np.unique(assignments, return_inverse=True)
    return np.bincount(c * len(clusters) + j, minlength=len(classes) * len(clusters)).reshape(
        len(classes), -1
    )
