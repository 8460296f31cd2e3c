"""k-means, and how well its clusters agree with the classes: purity, NMI, ARI."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    normalized_mutual_info_score,
)
from sklearn.metrics.cluster import contingency_matrix
from threadpoolctl import threadpool_limits

from clipkit.analysis.held_out import distinct_rows
from clipkit.analysis.row_clusters import own_clusters
from clipkit.base import console
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.base.matrices import BlockMatrix, Floats, Int64
from clipkit.features.arguments import Features, Several, as_file, as_list, checked
from clipkit.features.matching import choose_splits
from clipkit.features.model import FeatureFile, Split
from clipkit.statistics import metrics
from clipkit.statistics.dependence import permute

N_INIT = 10  # starts of k-means, the best of which counts (the thesis's protocol)
N_PERMUTATIONS = 20
N_TABLES = 150  # permutations that decide whether clusters agree with the classes: 3 / 151 is 2 %
LARGE = 10**8  # rows times clusters, above which there is one start, from a sample's centres
MIDDLE = 2 * 10**6  # above which a sample tells which starts are worth all rows
N_BEST = 3
SAMPLE = 4  # of so many rows, one is in that sample
CACHE_ROWS = 1 << 10  # that are converted to float64 at once
SAMPLED = 50  # rows for each cluster
FEWER = 2  # a start from the centres of a sample takes so many times fewer steps, about


def kmeans(
    features: NDArray[np.floating[Any]],
    k: int,
    *,
    seed: int = 42,
    report_progress: console.Update = lambda *_: None,
) -> Int64:
    """Return the cluster (N,) of each row (N, D), as scikit-learn's `KMeans` with ten starts.

    It runs on one thread: with several, the order of summation, and so the clusters, may vary.
    Features are clustered as they are. There must be at least k distinct rows. If rows times
    clusters exceed MIDDLE, the ten starts run on a quarter of the rows, and the centres of the best
    three are where three starts on all rows begin: the sum of squares was within 0.14 % of that
    of ten starts, which differ by 0.4 to 1.7 %. If they exceed LARGE, there is one start, from the
    centres of a smaller sample.

    `report_progress` is called with the rows that starts have clustered, and with those of all
    starts.

    The features are shifted in place, and shifted back, which rounds them: a copy would take as
    much memory again.
    """
    if k < 1:
        raise UsageError(f"k: expected at least 1, got {k}")
    if len(features) < k:
        raise ClipkitError(
            f"expected at least as many rows as clusters, got {len(features)} and {k}",
            f"choose -k {len(features)} or smaller",
        )
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # too few distinct rows: an error below
        features = _in_range(features)
        starts = count_starts(len(features), k)
        if starts == N_INIT:
            model = _fit(features, k, _Starts(starts), starts, seed)
        else:
            model = _fit_from_sample(features, k, starts, seed, report_progress)
    assignments: Int64 = model.labels_.astype(np.int64)
    distinct = len(np.unique(assignments))
    if distinct < k:
        raise ClipkitError(
            f"expected at least as many distinct rows as clusters, got {distinct} and {k}",
            f"choose -k {distinct} or smaller",
        )
    return assignments


def _fit(features: NDArray[np.floating[Any]], k: int, init: Any, starts: int, seed: int) -> KMeans:
    return KMeans(k, init=init, n_init=starts, random_state=seed, copy_x=False).fit(features)


def _fit_from_sample(
    features: NDArray[np.floating[Any]],
    k: int,
    starts: int,
    seed: int,
    report_progress: console.Update,
) -> KMeans:
    """Return the best of some starts on all rows, from the centres of the best ones on a sample."""
    size, on_sample = SAMPLED * k, 1
    if starts > 1:
        size, on_sample = max(size, len(features) // SAMPLE), N_INIT
    sample = features[np.random.RandomState(seed).permutation(len(features))[:size]]
    done, total = 0, on_sample * len(sample) + starts * len(features)
    init = _Starts(N_INIT) if starts > 1 else "k-means++"
    fitted = []
    began = time.monotonic()
    for number in range(on_sample):
        fitted.append(_fit(sample, k, init, 1, seed))
        done += len(sample)
        if number == 0:
            rate = len(sample) / (time.monotonic() - began)
            seconds = (on_sample * len(sample) + starts * len(features) / FEWER) / rate
            console.note_if_long(f"k-means with {k:,} clusters", seconds)
        report_progress(done, total)
    fitted.sort(key=lambda one: one.inertia_)
    of_all = []
    for first in fitted[:starts]:
        of_all.append(_fit(features, k, first.cluster_centers_, 1, seed))
        done += len(features)
        report_progress(done, total)
    return min(of_all, key=lambda one: one.inertia_)


class _Starts:
    """The first centres of several starts of `KMeans`, which calls this before each of them.

    They are those of its own k-means++ (Arthur and Vassilvitskii 2007), which takes ten times as
    long as all that follows: it converts the rows to float64 for every centre of every start. Here,
    all starts choose their centres together.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._rows: Iterator[Int64] = iter(())

    def __call__(
        self, X: NDArray[np.floating[Any]], k: int, random_state: np.random.RandomState
    ) -> NDArray[np.floating[Any]]:
        """Return the centres (k, D) of the next start, which are rows of X (N, D)."""
        rows = next(self._rows, None)
        if rows is None:
            self._rows = iter(_choose_centres(X, k, self.count, random_state))
            rows = next(self._rows)
        return X[rows]


def _choose_centres(
    X: NDArray[np.floating[Any]], k: int, starts: int, random_state: np.random.RandomState
) -> Int64:
    """Choose k rows of X (N, D) for each start, as row numbers (starts, k).

    The next centre of a start is the best of several rows, drawn with a probability that is
    proportional to the squared distance to the nearest centre. Numbers are drawn and rounded in the
    order of scikit-learn 1.9, start by start.
    """
    N, trials = len(X), 2 + int(np.log(k))
    ones = np.ones(N, X.dtype)
    chosen = np.empty((starts, k), np.int64)
    draws = np.empty((starts, k, trials))
    for start in range(starts):
        chosen[start, 0] = random_state.choice(N, p=ones / ones.sum())
        draws[start, 1:] = random_state.uniform(size=(k - 1, trials))
    nearest = _squared_distances(X, chosen[:, 0])  # (starts, N)
    sums = np.array([row @ ones for row in nearest[:, None]], np.float64)
    for number in range(1, k):
        limits = draws[:, number] * sums
        pairs = zip(nearest, limits, strict=True)
        candidates = np.array([np.searchsorted(np.cumsum(row), limit) for row, limit in pairs])
        candidates = np.minimum(candidates, N - 1)  # (starts, trials)
        distances = _squared_distances(X, candidates.ravel()).reshape(starts, trials, N)
        for start, of_start in enumerate(distances):
            np.minimum(of_start, nearest[start], out=of_start)
            sums_of_start = of_start @ ones[:, None]  # (trials, 1)
            best = int(np.argmin(sums_of_start))
            sums[start] = sums_of_start[best]
            nearest[start] = of_start[best]
            chosen[start, number] = candidates[start, best]
    return chosen


def _squared_distances(X: NDArray[np.floating[Any]], rows: Int64) -> NDArray[np.floating[Any]]:
    """Return the squared distances (M, N) of some rows (M,) of X (N, D) to all of them."""
    centres = X[rows].astype(np.float64)
    squares = np.einsum("ij,ij->i", centres, centres)[:, None]
    distances = np.empty((len(rows), len(X)), X.dtype)
    for start in range(0, len(X), CACHE_ROWS):
        block = X[start : start + CACHE_ROWS].astype(np.float64)
        of_block = -2 * (centres @ block.T)
        of_block += squares
        of_block += np.einsum("ij,ij->i", block, block)
        distances[:, start : start + CACHE_ROWS] = of_block
    return np.maximum(distances, 0, out=distances)


def count_starts(rows: int, k: int) -> int:
    """Return the number of starts of k-means on all rows, for many rows after those on a sample."""
    if rows * k > LARGE:
        return 1
    return N_BEST if rows * k > MIDDLE else N_INIT


def _in_range(features: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Scale features by a power of two if their squares over- or underflow in float32."""
    largest = float(max(features.max(), -features.min()))
    if largest == 0 or 1e-12 < largest < 1e12:
        return features
    return np.asarray(np.ldexp(features, -int(np.frexp(largest)[1])), features.dtype)


def purity(labels: Int64, assignments: Int64) -> float:
    """Return the fraction of rows that belong to the largest class of their cluster.

    >>> purity(np.array([5, 5, 6, 6, 6]), np.array([0, 0, 0, 1, 1]))
    0.8
    """
    counts = contingency_matrix(labels, assignments, sparse=True)  # (C, K)
    return float(counts.max(axis=0).sum() / len(labels))


def agreement(
    labels: Int64 | None, assignments: Int64, clusters: Int64 | None = None
) -> dict[str, float]:
    """Return how well clusters agree with classes, however both are numbered.

    `purity`; `nmi` (normalised mutual information, 0..1, by the arithmetic mean of the entropies);
    `ari` and `ami` (the adjusted Rand index and the adjusted mutual information: 1 for equal
    partitions, about 0 for a random one); `purity_chance` and `nmi_chance` (the means of purity and
    NMI over 20 fixed permutations of the labels); `ari_sd` and `ami_sd` (the standard deviations of
    the adjusted ones over these permutations). All are NaN without labels. Rows of one of the
    `clusters` (N,) are permuted together.
    """
    names = ("purity", "nmi", "ari", "ami", "purity_chance", "nmi_chance", "ari_sd", "ami_sd")
    if labels is None:
        return dict.fromkeys(names, np.nan)
    (labels, assignments), clusters = metrics.without_copies([labels, assignments], clusters)
    random = np.random.RandomState(0)  # NumPy never changes its stream
    n = len(labels)
    permuted = [labels[permute(random, n, clusters)] for _ in range(N_PERMUTATIONS)]
    permuted_nmi = [normalized_mutual_info_score(order, assignments) for order in permuted]
    # The AMI takes long. 1 - AMI is the same multiple of 1 - NMI for all permutations, since they
    # have the expectation and the maximum of the mutual information in common.
    lowest = int(np.argmin(permuted_nmi))
    its_ami = adjusted_mutual_info_score(permuted[lowest], assignments)
    ratio = (1 - its_ami) / max(1 - permuted_nmi[lowest], 1e-9)
    values = (
        purity(labels, assignments),
        normalized_mutual_info_score(labels, assignments),
        adjusted_rand_score(labels, assignments),
        adjusted_mutual_info_score(labels, assignments),
        np.mean([purity(order, assignments) for order in permuted]),
        np.mean(permuted_nmi),
        np.std([adjusted_rand_score(order, assignments) for order in permuted], ddof=1),
        np.std(permuted_nmi, ddof=1) * ratio,
    )
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def ari_by_chance(
    labels: Int64, assignments: Int64, clusters: Int64 | None = None
) -> tuple[float, Floats]:
    """Return the adjusted Rand index, and its values for N_TABLES permutations of the labels (R,).

    A permutation gives a random table of classes and clusters with the same sizes. Rows of one of
    the `clusters` (N,) are permuted together.
    """
    from scipy.stats import random_table

    (labels, assignments), clusters = metrics.without_copies([labels, assignments], clusters)
    counts = contingency_matrix(labels, assignments).astype(np.int64)  # (C, K)
    sizes = counts.sum(axis=1), counts.sum(axis=0)
    random = np.random.RandomState(0)
    squares = [np.square(counts).sum()]
    for _ in range(N_TABLES):
        if clusters is None:
            table = random_table.rvs(*sizes, random_state=random)
        else:
            drawn = labels[permute(random, len(labels), clusters)]
            table = contingency_matrix(drawn, assignments).astype(np.int64)
        squares.append(np.square(table).sum())
    n = len(labels)
    pairs = (np.array(squares, np.float64) - n) / 2  # that are together in both
    of_classes, of_clusters = ((np.square(size).sum() - n) / 2 for size in sizes)
    expected = of_classes * of_clusters / max(n * (n - 1) / 2, 1)
    most = (of_classes + of_clusters) / 2
    ari = (pairs - expected) / max(most - expected, 1e-9)
    return float(ari[0]), ari[1:]


@checked
def cluster(
    file: Features,
    splits: Several[str] | None = None,
    k: Several[int] | None = None,
    seed: int = 42,
) -> FeatureFile:
    """Cluster embeddings or logits: what `clipkit cluster` reports.

    Parameters
    ----------
    file : Features
        Of kind images or logits.
    splits : str or sequence of str, optional
        `test` by default, if there is such a split; else all.
    k : int or sequence of int, optional
        Numbers of clusters; as many as classes by default.
    seed : int

    Returns
    -------
    FeatureFile
        A result with one run per split and k: `split`, `k` and the columns of `agreement`. Its
        predictions are cluster numbers. Its class names are the file's.
    """
    file = as_file(file, "file", "images logits")
    splits, k = as_list(splits, "splits", str), as_list(k, "k", int)
    if splits is None and "test" in file.splits:
        splits = ["test"]
    file, names = choose_splits(file, splits)
    result = FeatureFile("result", class_names=file.class_names)
    init = None
    rows: list[dict[str, Any]] = []
    for name in names:
        split = file.splits[name]
        distinct, equal_to = distinct_rows(split)
        matrix = BlockMatrix.from_array(split.features).take(distinct)
        clusters = own_clusters(file, name)
        runs = []
        for count in k or [_count_classes(file, name)]:
            starts = count_starts(len(matrix), count)
            if starts != N_INIT:
                init = "sample"
                which = "one start" if starts == 1 else f"{starts} starts"
                console.note(
                    f"{name}: {which} from the centres of a sample in place of {N_INIT} starts, "
                    f"since there are over {LARGE if starts == 1 else MIDDLE:,} rows times clusters"
                )
            with console.progress(f"clustering {name} (k = {count})") as report_progress:
                X = matrix.read()
                assignments = kmeans(X, count, seed=seed, report_progress=report_progress)
            if count == len(matrix):
                console.warn(
                    f"{name}: each of the {count} rows is a separate cluster, so the scores say "
                    "nothing about the classes"
                )
            runs.append(assignments[equal_to])
            found = agreement(split.labels, runs[-1], clusters)
            rows.append({"split": name, "k": count, **found})
        result.splits[name] = Split(None, split.labels, split.ids, np.stack(runs), clusters)
    result.history = file.extended_history(
        "cluster", splits=names, k=k, init=init, seed=seed, inputs={"features": file.digest}
    )
    result.set_rows(rows)
    return result


def _count_classes(file: FeatureFile, name: str) -> int:
    if file.class_names:
        return len(file.class_names)
    labels = file.splits[name].labels
    if labels is None:
        raise ClipkitError(
            f"{file.display_name}: {name}: expected labels to count classes, got none",
            "give the number of clusters: -k 10",
        )
    return len(np.unique(labels))
