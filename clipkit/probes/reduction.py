"""SVMs of two classes, fitted on the rows that decide them.

Rows well beyond the margin have no part in an SVM. Those well within it all have the coefficient C,
and the sum of their losses is the loss of their mean times their number. So a guess of all margins
leaves out the former, and replaces the latter by a mean for each class. What was fitted on the rest
is the solution if it leaves these rows where they were. Else its margins are the next guess, and in
the end all rows take part. Ogawa, Suzuki & Takeuchi (2013, ICML) leave out such rows by bounds that
always hold, but these bounds reach few rows. Here, each fit is checked instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipkit.base.matrices import Floats, Int64
from clipkit.probes.active_set import TOLERANCE
from clipkit.probes.models import Pair

# Rows whose margin a guess sees within such a distance of 1 take part, fit by fit.
SLACKS = (0.3, 0.3, 0.6, math.inf)
MOST_ROWS = 0.8  # the share from which all rows take part
QUANTILE = 0.8  # of the pairs of a batch, whose number of such rows all have
MAX_COLUMNS = 4096  # of a covariance: 128 MiB
SHARE = 2.0  # of the penalty of the first guess
LEAST_PENALTY = 1e-2  # relative to the mean variance of columns, which is 1
LENGTHS = np.geomspace(0.02, 3, 16)  # of the first guess, to choose from
LONGER = np.geomspace(1, 4, 16)  # how much longer a normal may be at a larger C
NEARLY_NONE = 1e-6
SIGNS = np.array([-1, 1], np.float32)  # of the two classes of a pair


class Problems(NamedTuple):
    """Rows (P, n, D) of P pairs, their signs (P, n), and how many rows each stands for (P, n)."""

    rows: Floats
    signs: Floats
    counts: Floats


class Pairs(NamedTuple):
    """Pairs of classes (P, 2), their rows (P, N, D), and the signs of these (P, N).

    All pairs have N rows. The sign is -1 for the first class of a pair, and 1 for the second.
    """

    classes: Int64
    rows: Floats
    signs: Floats

    @classmethod
    def of(cls, rows_of_classes: list[Floats], pairs: Sequence[Pair]) -> Pairs:
        """Copy the rows of the pairs."""
        sizes = [(len(rows_of_classes[i]), len(rows_of_classes[j])) for i, j in pairs]
        shape = len(pairs), sum(sizes[0]), rows_of_classes[0].shape[1]
        rows = np.empty(shape, rows_of_classes[0].dtype)
        for number, (i, j) in enumerate(pairs):
            np.concatenate([rows_of_classes[i], rows_of_classes[j]], out=rows[number])
        signs = np.stack([np.repeat(SIGNS, sizes_of_pair) for sizes_of_pair in sizes])
        return cls(np.array(pairs), rows, signs)

    def take(self, numbers: Int64) -> Pairs:
        """Return some of the pairs, or these if all are taken."""
        if len(numbers) == len(self.classes):
            return self
        return Pairs(self.classes[numbers], self.rows[numbers], self.signs[numbers])

    def single(self, number: int) -> Pairs:
        """Return one of the pairs, without a copy of its rows."""
        one = slice(number, number + 1)
        return Pairs(self.classes[one], self.rows[one], self.signs[one])

    @property
    def problems(self) -> Problems:
        """The problems with all rows."""
        return Problems(self.rows, self.signs, np.ones(self.signs.shape))

    def margins(self, hyperplanes: Floats) -> Floats:
        """Return the margins (P, N) at hyperplanes (P, D + 1)."""
        return np.asarray(self.signs * (_products(self.rows, hyperplanes) + hyperplanes[:, -1:]))

    def with_best_intercepts(self, hyperplanes: Floats) -> Floats:
        """Replace intercepts by those of the least loss, or the middle of many, as libsvm does.

        As an intercept grows, the slope of the loss grows by C where a row's margin is 1. It starts
        at -C for each positive row. So it is 0 after as many of these places as there are positive
        rows. At a small C, the places are so near 1 and -1 that float32 would merge them.
        """
        products = _products(self.rows, hyperplanes)
        places = np.sort(self.signs - products.astype(np.float64), axis=1)
        positives = (self.signs > 0).sum(axis=1)[:, None]
        around = np.concatenate([positives - 1, positives], axis=1)
        intercepts = np.take_along_axis(places, around, axis=1).mean(axis=1)
        return np.column_stack([hyperplanes[:, :-1], intercepts])


def _products(rows: Floats, hyperplanes: Floats) -> Floats:
    """Return the products (P, N) of rows (P, N, D) and normals, without intercepts."""
    return np.asarray((rows @ hyperplanes[:, :-1, None])[:, :, 0])


class Reduction:
    """The problems that remain of pairs, and where they take the other rows to be."""

    def __init__(
        self,
        pairs: Pairs,
        margins: Floats,
        slack: float,
        joined: NDArray[np.bool_],
        least_rows: int = 0,
    ) -> None:
        """Keep the rows whose guessed margin (P, N) is near 1, and the means of those within it.

        Rows that earlier guesses were wrong about have joined, and are kept, too. So are the
        nearest others, up to `least_rows`.
        """
        n_rows = margins.shape[1]
        distances = np.where(joined, 0, np.abs(margins - 1))
        nearest = _nearest_of_classes(distances, pairs.signs)
        np.put_along_axis(distances, nearest, -1, axis=1)  # so that both classes stay
        usual = int(np.quantile((distances <= slack).sum(axis=1), QUANTILE))
        n_near = 2 + max(usual, least_rows)
        self._left_out = np.zeros(margins.shape, bool)
        self.problems = pairs.problems
        if not n_near <= MOST_ROWS * n_rows:
            return
        near = np.sort(np.argpartition(distances, n_near, axis=1)[:, :n_near], axis=1)
        self._left_out[:] = True
        np.put_along_axis(self._left_out, near, False, axis=1)
        self._within = self._left_out & (margins < 1)
        self.problems = _reduced(pairs, near, nearest, self._within)

    def wrong_rows(self, margins: Floats) -> NDArray[np.bool_]:
        """Return (P, N) which rows that were left out are not where they were taken to be."""
        if not self._left_out.any():
            return self._left_out
        is_wrong = np.where(self._within, margins > 1 + TOLERANCE, margins < 1 - TOLERANCE)
        return np.asarray(is_wrong & self._left_out)


def _nearest_of_classes(distances: Floats, signs: Floats) -> Int64:
    """Return the row (P, 2) of each class with the least distance."""
    of_classes = [np.where(signs == sign, distances, np.inf).argmin(axis=1) for sign in SIGNS]
    return np.stack(of_classes, axis=1)


def _reduced(pairs: Pairs, near: Int64, nearest: Int64, within: NDArray[np.bool_]) -> Problems:
    """Return the near rows, and for each class the mean of the rows within.

    A class without such a row has its nearest row once more, with a count of nearly none.
    """
    rows = np.take_along_axis(pairs.rows, near[:, :, None], axis=1)
    signs = np.take_along_axis(pairs.signs, near, axis=1)
    members = np.stack([within & (pairs.signs == sign) for sign in SIGNS], axis=1)
    counts = members.sum(axis=2)  # (P, 2)
    means = members.astype(np.float32) @ pairs.rows / np.maximum(counts, 1)[:, :, None]
    nearest_rows = np.take_along_axis(pairs.rows, nearest[:, :, None], axis=1)
    means = np.where(counts[:, :, None] > 0, means, nearest_rows).astype(np.float32)
    signs_of_means = np.broadcast_to(SIGNS, counts.shape)
    return Problems(
        np.concatenate([rows, means], axis=1),
        np.concatenate([signs, signs_of_means], axis=1),
        np.concatenate([np.ones(near.shape), np.maximum(counts, NEARLY_NONE)], axis=1),
    )


class Guesses:
    """First guesses of the margins of pairs.

    They are those of ridge regression to the signs, whose direction is the difference of the means
    of two classes times an inverse: of the covariance within classes plus a penalty. A squared loss
    in place of the hinge would make the penalty of N rows 1 / (C N).
    """

    def __init__(self, X: Floats, y: Int64, n_classes: int) -> None:
        sums = np.stack([X[y == c].sum(axis=0) for c in range(n_classes)])
        self._means = sums / np.bincount(y)[:, None].astype(np.float32)
        self._rows_of_pair = 2 * len(X) / n_classes
        self._directions: dict[float, Floats] = {}
        self._axes: Floats | None = None
        if X.shape[1] <= MAX_COLUMNS:
            covariance = (X.T @ X - sums.T @ self._means) / len(X)
            self._variances, self._axes = np.linalg.eigh(covariance)

    def margins(self, pairs: Pairs, C: float) -> Floats:
        """Return margins (P, N) along the directions of pairs, of the lengths of the least loss."""
        directions = self._directions_of_classes(C)
        normals = directions[pairs.classes[:, 1]] - directions[pairs.classes[:, 0]]
        scores = (pairs.rows @ normals[:, :, None])[:, :, 0]
        is_second = pairs.signs > 0
        second = np.mean(scores, axis=1, where=is_second, keepdims=True)
        first = np.mean(scores, axis=1, where=~is_second, keepdims=True)
        lengths = 2 / np.maximum(second - first, np.finfo(np.float32).tiny)
        margins = lengths * pairs.signs * (scores - (first + second) / 2)
        squares = lengths[:, 0] ** 2 * np.einsum("ij,ij->i", normals, normals)
        return _with_least_loss(margins, squares, C, LENGTHS)

    def _directions_of_classes(self, C: float) -> Floats:
        """Return a direction (n, D) for each class. Differences are the directions of pairs."""
        if self._axes is None:
            return self._means
        if C not in self._directions:
            penalty = max(SHARE / (C * self._rows_of_pair), LEAST_PENALTY)
            along_axes = (self._means @ self._axes) / (self._variances + penalty)
            self._directions[C] = np.asarray(along_axes @ self._axes.T, np.float32)
        return self._directions[C]


def margins_at_larger_c(pairs: Pairs, hyperplanes: Floats, C: float) -> Floats:
    """Guess margins (P, N) from the hyperplanes (P, D + 1) at a smaller C."""
    normals = hyperplanes[:, :-1]
    squares = np.einsum("ij,ij->i", normals, normals)
    return _with_least_loss(pairs.margins(hyperplanes), squares, C, LONGER)


def _with_least_loss(margins: Floats, squares: Floats, C: float, factors: Floats) -> Floats:
    """Multiply margins (P, N), of normals with these squared lengths (P,), by the best factors."""
    objectives = []
    for factor in factors.astype(np.float32):
        losses = np.maximum(0, 1 - factor * margins).sum(axis=1)
        objectives.append(C * losses + factor**2 * squares / 2)
    best = factors[np.argmin(objectives, axis=0)].astype(np.float32)
    return np.asarray(best[:, None] * margins)


def fit_reduced(
    pairs: Pairs,
    guess: Floats,
    fit: Callable[[Problems], list[Floats | None]],
    least_rows: int = 0,
) -> list[Floats | None]:
    """Fit hyperplanes (D + 1,) from a guess of all margins (P, N); None where a fit fails.

    `fit` fits problems of at least so many rows, and returns None where it fails.
    """
    hyperplanes: list[Floats | None] = [None] * len(pairs.rows)
    left, margins = np.arange(len(pairs.rows)), guess
    joined = np.zeros(guess.shape, bool)
    for slack in SLACKS:
        reduction = Reduction(pairs, margins, slack, joined, least_rows)
        fits = fit(reduction.problems)
        is_fitted = np.array([hyperplane is not None for hyperplane in fits])
        fitted = np.zeros((len(fits), pairs.rows.shape[2] + 1), np.float32)
        for number in np.flatnonzero(is_fitted):
            fitted[number] = fits[number]
        margins = pairs.margins(fitted)
        is_wrong = reduction.wrong_rows(margins)
        is_solved = is_fitted & ~is_wrong.any(axis=1)
        best = pairs.with_best_intercepts(fitted)
        for number in np.flatnonzero(is_solved):
            hyperplanes[left[number]] = best[number]
        going_on = np.flatnonzero(is_fitted & ~is_solved)
        if not len(going_on):
            break
        joined = (joined | is_wrong)[going_on]
        left, margins, pairs = left[going_on], margins[going_on], pairs.take(going_on)
    return hyperplanes
