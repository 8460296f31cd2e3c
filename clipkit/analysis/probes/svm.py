"""A linear SVM, one against one, that predicts as scikit-learn's SVC does.

Pairs of classes are fitted in parallel, each by the fastest of three methods: an interior-point
method if it has many more rows than columns, else an active-set method if a hyperplane separates
the classes, else libsvm. The interior-point method also fits pairs that libsvm does not finish
soon, such as equal rows of different classes at a large C. One hyperplane per pair replaces
libsvm's prediction by kernels. If one Gram matrix holds all rows, memory all hyperplanes, and pairs
do not have many more rows than columns, libsvm fits all pairs in one call instead, and settings run
in parallel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.svm import SVC

from clipkit.analysis.probes.fitted import PAIRS, Hyperplanes, Pair, count_votes
from clipkit.analysis.probes.pairs import fit_overlapping, fit_separable
from clipkit.analysis.probes.sweep_context import Setting, Solution, SweepContext
from clipkit.features.model import Floats, Int64

GRAM_ROWS = 4096  # of the largest Gram matrix: 128 MiB in float64
NORMALS = 2**24  # numbers in the normals of all pairs that are in memory at once
MANY_ROWS = 0.1  # per squared column, from which the interior-point method is fastest
FIRST_ROWS = 1024  # what is fitted on first if a pair has more than GRAM_ROWS
TOLERANCE = 1e-3  # of the margin, as in SVC
MAX_WORK = 2**27  # of libsvm for one pair, rows times iterations: one or two seconds


class Fit(NamedTuple):
    """The hyperplane (w, b) of a pair, (D + 1,), and whether it is within the tolerance."""

    hyperplane: Floats
    converged: bool


@dataclass
class Tally:
    """The votes (n, M) of the pairs that were fitted at one setting, and whether all converged."""

    votes: NDArray[np.int32]
    converged: bool = True
    hyperplanes: list[Floats] = field(default_factory=list)  # in batches, if they are kept

    def add(self, pairs: list[Pair], fits: Sequence[Fit], context: SweepContext) -> None:
        """Count the votes of a batch of pairs."""
        hyperplanes = np.stack([fit.hyperplane for fit in fits])
        count_votes(self.votes, pairs, hyperplanes, context.X_eval)
        self.converged = self.converged and all(fit.converged for fit in fits)
        if context.keep:
            self.hyperplanes.append(hyperplanes)

    def predictions(self) -> Solution:
        """Return the classes with the most votes."""
        model = None
        if self.hyperplanes:
            model = Hyperplanes(np.concatenate(self.hyperplanes), len(self.votes))
        return Solution(self.votes.argmax(axis=0), self.converged, model)


def svm(context: SweepContext) -> list[Solution]:
    """Let linear SVMs of all pairs of classes vote. The first class wins a tie, as in libsvm."""
    n_rows, n_columns = context.X.shape
    normals = math.comb(context.n_classes, 2) * n_columns
    is_small = n_rows <= GRAM_ROWS and normals <= NORMALS
    is_long = _has_many_rows(2 * n_rows / context.n_classes, n_columns)
    if context.n_classes > 2 and is_small and not is_long:
        return _fit_all_pairs_at_once(context)
    return _fit_pairwise(context)


def _has_many_rows(rows_of_pair: float, n_columns: int) -> bool:
    """Return True if the interior-point method is the fastest for a pair of classes."""
    return rows_of_pair >= MANY_ROWS * n_columns**2


def _fit_all_pairs_at_once(context: SweepContext) -> list[Solution]:
    order = np.argsort(context.y, kind="stable")
    X, y = context.X[order], context.y[order]
    gram = _gram(X)
    report_progress = context.workers.progress(len(context.settings))

    def solve(setting: Setting) -> Solution:
        hyperplanes, converged = _hyperplanes_of_all_pairs(X, y, setting.C, gram)
        model = Hyperplanes(hyperplanes, context.n_classes)
        predicted = model.predict(context.X_eval)
        report_progress(1)
        return Solution(predicted, converged, context.kept_model(model))

    return context.workers.map(solve, context.settings)


def _fit_pairwise(context: SweepContext) -> list[Solution]:
    n = context.n_classes
    pairs = list(combinations(range(n), 2))
    rows = [context.X[context.y == c] for c in range(n)]
    Cs = [setting.C for setting in context.settings]
    tallies = [Tally(np.zeros((n, len(context.X_eval)), dtype=np.int32)) for _ in Cs]
    report_progress = context.workers.progress(len(pairs))

    def fit_at_all_settings(pair: Pair) -> list[Fit]:
        i, j = pair
        # numbers that are not finite end a fit, and libsvm takes over
        with np.errstate(all="ignore"):
            fits = _fit_pair(rows[i], rows[j], Cs)
        report_progress(1)
        return fits

    for start in range(0, len(pairs), PAIRS):
        batch = pairs[start : start + PAIRS]
        fits = context.workers.map(fit_at_all_settings, batch)
        for tally, fits_of_setting in zip(tallies, zip(*fits, strict=True), strict=True):
            tally.add(batch, fits_of_setting, context)
    return [tally.predictions() for tally in tallies]


def _hyperplanes_of_all_pairs(X: Floats, y: Int64, C: float, gram: Floats) -> tuple[Floats, bool]:
    """Fit all pairs of three classes or more; rows of X are sorted by class.

    Returns
    -------
    hyperplanes : array (pairs, D + 1)
    converged : bool
    """
    svc = _fit_libsvm("precomputed", gram, y, C)
    ends = np.cumsum([0, *svc.n_support_])
    # for each class, the share of its support vectors in the normals against each other class
    shares = []
    for start, stop in pairwise(ends):
        shares.append(svc.dual_coef_[:, start:stop] @ X[svc.support_[start:stop]])  # (n - 1, D)
    pairs = list(combinations(range(len(shares)), 2))
    normals = [shares[i][j - 1] + shares[j][i] for i, j in pairs]
    hyperplanes = -np.column_stack([normals, svc.intercept_]).astype(np.float32)
    converged = True
    for number in np.flatnonzero(svc.n_iter_ >= MAX_WORK // len(X)):
        members = np.isin(y, pairs[number])
        signs = np.where(y[members] == pairs[number][0], -1, 1).astype(np.float32)
        fit = _finish(X[members], signs, C, Fit(hyperplanes[number], False))
        hyperplanes[number] = fit.hyperplane
        converged = converged and fit.converged
    return hyperplanes, converged


def _fit_pair(first: Floats, second: Floats, Cs: list[float]) -> list[Fit]:
    """Fit the hyperplane between two classes at each C. Scores of the first are negative."""
    rows = np.concatenate([first, second])
    signs = np.repeat([-1, 1], [len(first), len(second)]).astype(np.float32)
    libsvm = LibsvmPair(rows, signs)
    many_rows = _has_many_rows(*rows.shape)
    separation = None if many_rows else fit_separable(rows, signs, max(Cs))

    def fit(C: float) -> Fit:
        hyperplane: Floats | None = None
        if many_rows:
            hyperplane = fit_overlapping(rows, signs, C)
        elif separation is not None and separation.largest_coefficient <= C:
            hyperplane = separation.hyperplane
        if hyperplane is not None:
            return Fit(hyperplane.astype(np.float32), True)
        return _finish(rows, signs, C, libsvm.fit(C))

    return [fit(C) for C in Cs]


def _finish(rows: Floats, signs: Floats, C: float, fit: Fit) -> Fit:
    """Return a fit of libsvm that converged, or fit the rows by the interior-point method."""
    hyperplane = None if fit.converged else fit_overlapping(rows, signs, C)
    return fit if hyperplane is None else Fit(hyperplane.astype(np.float32), True)


class LibsvmPair:
    """Fits of libsvm to rows (N, D) of sign -1 and 1, which share a Gram matrix of all rows."""

    def __init__(self, rows: Floats, signs: Floats) -> None:
        self.rows, self.signs = rows, signs

    @cached_property
    def _gram(self) -> Floats:
        return _gram(self.rows)

    def fit(self, C: float) -> Fit:
        """Fit all rows, or fit by chunking if their Gram matrix would be too large.

        Chunking (Boser, Guyon & Vapnik 1992) fits some rows, adds those that violate the margin,
        and repeats until none does. Rows that are left out have no weight in the solution.
        """
        rows, signs = self.rows, self.signs
        if len(rows) <= GRAM_ROWS:
            return _fit_rows(rows, signs, C, self._gram)
        stride = math.ceil(len(rows) / FIRST_ROWS)
        used = np.zeros(len(rows), bool)
        for sign in (-1, 1):
            used[np.flatnonzero(signs == sign)[::stride]] = True
        while True:
            gram = _gram(rows[used]) if used.sum() <= GRAM_ROWS else None
            fit = _fit_rows(rows[used], signs[used], C, gram)
            unused = np.flatnonzero(~used)
            margins = signs[unused] * (rows[unused] @ fit.hyperplane[:-1] + fit.hyperplane[-1])
            violators = unused[margins < 1 - TOLERANCE]
            if len(violators) == 0 or not fit.converged:
                return fit
            used[violators] = True
            if used.mean() > 0.5:
                used[:] = True


def _gram(rows: Floats) -> Floats:
    """Return the Gram matrix, float64 as libsvm takes it."""
    return (rows @ rows.T).astype(np.float64)


def _fit_rows(rows: Floats, signs: Floats, C: float, gram: Floats | None) -> Fit:
    """Fit the hyperplane between rows of sign -1 and 1.

    Without a Gram matrix, libsvm computes what it needs.
    """
    if gram is None:
        svc = _fit_libsvm("linear", rows, signs, C)
    else:
        svc = _fit_libsvm("precomputed", gram, signs, C)
    normal = svc.dual_coef_[0] @ rows[svc.support_]
    hyperplane = np.append(normal, svc.intercept_).astype(np.float32)
    return Fit(hyperplane, svc.fit_status_ == 0)


def _fit_libsvm(kernel: str, matrix: Floats, y: Int64 | Floats, C: float) -> SVC:
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        return SVC(kernel=kernel, C=C, max_iter=MAX_WORK // len(y)).fit(matrix, y)
