"""A linear SVM, one against one, that predicts as scikit-learn's SVC does.

libsvm solves every pair of classes, from a Gram matrix that BLAS computes; a hyperplane a pair stands in for libsvm's
prediction by kernels. Pairs are independent: they run in threads, and all members of a sweep share a pair's products.
Where the products of all rows fit into one matrix, libsvm takes all pairs in one call, and members run in threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations, pairwise

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.svm import SVC

from clipkit.probes.problem import Floats, Ints, Problem, Solved

GRAM_ROWS = 4096  # of the largest Gram matrix: 128 MiB in float64
FIRST_ROWS = 1024  # what is fitted on first where a pair has more


def svm(problem: Problem) -> Solved:
    """Votes of a linear SVM for each pair of classes; of classes with equal votes, the first (as libsvm decides)."""
    n = int(problem.y.max()) + 1
    return (
        _few_rows(problem, n) if n > 2 and len(problem.y) <= GRAM_ROWS else _many_rows(problem, n)
    )


def _few_rows(problem: Problem, n: int) -> Solved:
    order = np.argsort(problem.y, kind="stable")
    X, y = problem.X[order], problem.y[order]
    gram = (X @ X.T).astype(np.float64)
    pairs = list(combinations(range(n), 2))
    problem.total = len(problem.members)

    def solve(member: tuple[float, float]) -> tuple[Ints, bool]:
        planes = _hyperplanes(X, y, member[1], gram)
        votes = np.zeros((n, len(problem.E)), dtype=np.int32)
        for start in range(0, len(pairs), 64):
            _vote(votes, pairs[start : start + 64], planes[start : start + 64], problem.E)
        problem.tick()
        return votes.argmax(axis=0), True

    return problem.map(solve, problem.members)


def _many_rows(problem: Problem, n: int) -> Solved:
    rows = [problem.X[problem.y == c] for c in range(n)]
    own = lru_cache(2**26 // max(map(len, rows)) ** 2 + 1)(
        lambda c: rows[c] @ rows[c].T
    )  # up to 256 MiB
    pairs = list(combinations(range(n), 2))
    votes = np.zeros((len(problem.members), n, len(problem.E)), dtype=np.int32)
    problem.total = len(pairs)

    def separate(pair: tuple[int, int]) -> list[Floats]:
        i, j = pair
        small = len(rows[i]) + len(rows[j]) <= GRAM_ROWS
        gram = _joined(own(i), rows[i] @ rows[j].T, own(j)) if small else None
        planes = [_hyperplane(rows[i], rows[j], C, gram) for _, C in problem.members]
        problem.tick()
        return planes

    for start in range(0, len(pairs), 64):
        batch = pairs[start : start + 64]
        planes = np.array(problem.map(separate, batch))  # (pairs, members, D + 1)
        for k, vote in enumerate(votes):
            _vote(vote, batch, planes[:, k], problem.E)
    return [(vote.argmax(axis=0), True) for vote in votes]


def _vote(
    votes: NDArray[np.int32], pairs: Sequence[tuple[int, int]], planes: Floats, E: Floats
) -> None:
    """Count for each row of E (M, D) which side of the planes (pairs, D + 1) it lies on, in votes (n, M)."""
    first = planes[:, :-1] @ E.T + planes[:, -1:] < 0  # (pairs, M)
    for (i, j), won in zip(pairs, first, strict=True):
        votes[i] += won
        votes[j] += ~won


def _hyperplanes(X: Floats, y: Ints, C: float, gram: Floats) -> Floats:
    """Those of all pairs of three classes or more, (pairs, D + 1); the rows of X are sorted by class."""
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        svc = SVC(kernel="precomputed", C=C).fit(gram, y)
    ends = np.cumsum([0, *svc.n_support_])
    spans = [(svc.dual_coef_[:, a:b], X[svc.support_[a:b]]) for a, b in pairwise(ends)]
    parts = [weights @ rows for weights, rows in spans]  # of each class, a row for each other class
    normals = [parts[i][j - 1] + parts[j][i] for i, j in combinations(range(len(parts)), 2)]
    return -np.column_stack([normals, svc.intercept_]).astype(np.float32)


def _joined(first: Floats, cross: Floats, second: Floats) -> Floats:
    """The Gram matrix of two classes' rows, float64 as libsvm takes it."""
    n, m = cross.shape
    gram = np.empty((n + m, n + m))
    gram[:n, :n], gram[:n, n:], gram[n:, :n], gram[n:, n:] = first, cross, cross.T, second
    return gram


def _hyperplane(first: Floats, second: Floats, C: float, gram: Floats | None) -> Floats:
    """Libsvm's maximum-margin hyperplane (w, b) between two classes, (D + 1,); negative on the side of the first.

    Without a Gram matrix by chunking (Boser, Guyon & Vapnik 1992): fit on some of the rows, add those that come inside
    the margin, and again until there are none; rows that are left out have no weight in the solution.
    """
    rows, sizes = np.concatenate([first, second]), (len(first), len(second))
    side = np.repeat([-1, 1], sizes)
    stride = 1 if gram is not None else math.ceil(len(rows) / FIRST_ROWS)
    taken = np.concatenate([np.arange(size) % stride == 0 for size in sizes])
    while True:
        some, products = rows if taken.all() else rows[taken], gram
        if gram is None:
            products = (some @ some.T).astype(np.float64) if len(some) <= GRAM_ROWS else some
        kernel = "linear" if products is some else "precomputed"
        with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
            svc = SVC(kernel=kernel, C=C).fit(products, side[taken])
        plane = np.append(svc.dual_coef_[0] @ some[svc.support_], svc.intercept_).astype(np.float32)
        inside = ~taken
        inside[inside] = (
            side[inside] * (rows[inside] @ plane[:-1] + plane[-1]) < 1 - 1e-3
        )  # SVC's own tolerance
        if not inside.any():
            return plane
        taken |= inside
        taken |= taken.mean() > 0.5
