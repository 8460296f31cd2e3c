"""Linear SVMs of two classes by an interior-point method, for many more rows than columns.

Where classes overlap, most rows are support vectors, and libsvm takes many iterations. The 5 to 40
steps here each solve D + 1 equations, whose matrix is one product of all rows: Mehrotra's (1992)
predictor and corrector, applied to linear SVMs as by Ferris & Munson (2002,
doi:10.1137/S1052623400374379).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.linalg import LinAlgError
from numpy.typing import NDArray
from scipy.linalg.lapack import dgetrf, dgetrs

from clipkit.base.matrices import Floats

MAX_STEPS = 60
GAP_TOLERANCE = 1e-6  # of the duality gap and of the residuals
# The first steps need half the time in float32, which loses digits near the optimum or at a C of
# another magnitude.
SINGLE_STEPS = 10  # at most
SINGLE_GAP = 1e-2
SINGLE_C = (1e-6, 1e4)
SHORTER = 0.995  # share of the longest step that is taken, so that no variable reaches 0


class Variables(NamedTuple):
    """The variables of P problems and their duals, or changes to them.

    They are the hyperplanes (P, D + 1), and for each row two pairs (P, 2, N) of a dual variable and
    a slack. The first pair is the dual variable alpha, and by how much the margin is above 1. The
    second is C - alpha, and by how much the margin is below 1. All but the hyperplanes stay above
    0. At the optimum, the product of each pair is 0.
    """

    hyperplane: Floats
    duals: Floats
    slacks: Floats

    def astype(self, dtype: type[np.floating[Any]]) -> Variables:
        """Return the variables in another precision."""
        return Variables(*(x.astype(dtype) for x in self))

    def moved(self, steps: Floats, changes: Variables) -> Variables:
        """Return the variables after a step (P,) of each problem along the changes."""
        hyperplane = self.hyperplane + steps[:, None] * changes.hyperplane
        duals = self.duals + steps[:, None, None] * changes.duals
        slacks = self.slacks + steps[:, None, None] * changes.slacks
        return Variables(hyperplane, duals, slacks)

    def longest_steps(self, changes: Variables) -> Floats:
        """Return the longest steps (P,), at most 1, that leave no variable below 0."""
        of_duals = (-changes.duals / self.duals).max(axis=(1, 2))
        of_slacks = (-changes.slacks / self.slacks).max(axis=(1, 2))
        return np.asarray(1 / np.maximum(1, np.maximum(of_duals, of_slacks)))

    def gaps(self) -> Floats:
        """Return the duality gaps (P,), if all equations hold."""
        return np.asarray((self.duals * self.slacks).sum(axis=(1, 2)))


class Residuals(NamedTuple):
    """By how much points miss the equations of the normal (P, D + 1) and of the margins (P, N)."""

    normal: Floats
    margin: Floats


def fit_overlapping(rows: Floats, signs: Floats, C: Floats) -> list[Floats | None]:
    """Fit P hyperplanes (D + 1,) between rows (P, N, D) of signs (P, N) -1 and 1.

    Each row has its own C (P, N). A hyperplane is a normal and an intercept. The root mean square
    of the features should be near 1. None takes the place of a hyperplane if rounding errors exceed
    the tolerance.

    Small problems share the time that numpy takes to start an operation.
    """
    count, n_rows, _ = rows.shape
    intercepts = np.ones((count, n_rows, 1))
    A = np.concatenate([rows, intercepts], axis=2, dtype=np.float64) * signs[:, :, None]
    point = _first_steps(A, C)
    solved: list[Floats | None] = [None] * count
    left = np.arange(count)
    for _ in range(MAX_STEPS):
        residuals = _find_residuals(A, point)
        is_optimal = _are_optimal(point, residuals, C, GAP_TOLERANCE)
        for number, hyperplane in zip(left[is_optimal], point.hyperplane[is_optimal], strict=True):
            solved[number] = hyperplane
        if is_optimal.any():
            left, A, C = left[~is_optimal], A[~is_optimal], C[~is_optimal]
            point = Variables(*(x[~is_optimal] for x in point))
            residuals = Residuals(*(x[~is_optimal] for x in residuals))
        if not len(left):
            break
        try:
            point = _take_step(A, point, residuals)
        except LinAlgError:
            break
    return solved


def _first_steps(A: Floats, C: Floats) -> Variables:
    """Return where steps in float32 bring the first problem near its optimum, or where they start.

    They start with hyperplanes of zeros. Later steps correct what rounding did.
    """
    n_problems, n_rows, columns = A.shape
    ones = np.ones((n_problems, 2, n_rows))
    start = Variables(np.zeros((n_problems, columns)), ones * C[:, None] / 2, ones)
    if not SINGLE_C[0] <= C.min() <= C.max() <= SINGLE_C[1]:
        return start
    single, point = A.astype(np.float32), start.astype(np.float32)
    with suppress(LinAlgError):
        for _ in range(SINGLE_STEPS):
            residuals = _find_residuals(single, point)
            if _are_optimal(point, residuals, C, SINGLE_GAP).any():
                break
            point = _take_step(single, point, residuals)
    is_valid = all(np.isfinite(x).all() for x in point)
    return point.astype(np.float64) if is_valid else start


def _find_residuals(A: Floats, point: Variables) -> Residuals:
    """Return by how much ``normal, 0 = A.T @ alpha`` and the margins of the slacks are missed."""
    above, below = point.slacks[:, 0], point.slacks[:, 1]
    margin = _margins(A, point.hyperplane) - 1 - above + below
    normal = point.hyperplane.copy()
    normal[:, -1] = 0
    return Residuals(normal - _sums(A, point.duals[:, 0]), margin)


def _are_optimal(
    point: Variables, residuals: Residuals, C: Floats, tolerance: float
) -> NDArray[np.bool_]:
    """Return (P,) where the gap is small against the objective, and all equations hold."""
    above, below = point.slacks[:, 0], point.slacks[:, 1]
    losses = np.maximum(0, below - above - residuals.margin)
    lengths = np.linalg.norm(point.hyperplane[:, :-1], axis=1)
    objectives = 0.5 * lengths**2 + (C * losses).sum(axis=1)
    largest = tolerance * lengths + tolerance**2 * C.sum(axis=1)
    return np.asarray(
        (point.gaps() <= tolerance * objectives)
        & (np.linalg.norm(residuals.normal, axis=1) <= largest)
        & (np.abs(residuals.margin).max(axis=1) <= tolerance)
    )


def _take_step(A: Floats, point: Variables, residuals: Residuals) -> Variables:
    """Approach the optimum, where the residuals and the products of all pairs are 0.

    Newton's method solves these equations, but for the zeros of the products it takes a small
    number, so that no factor gets there before the other. The changes of all variables but the
    hyperplane are eliminated.
    """
    _, duals, slacks = point
    ratios = slacks / duals
    weights = 1 / ratios.sum(axis=1)
    scaled = A * np.sqrt(weights)[:, :, None]
    matrices = scaled.transpose(0, 2, 1) @ scaled
    normal = np.arange(A.shape[2] - 1)
    matrices[:, normal, normal] += 1  # the intercept has no penalty
    factors = [_factorize(matrix) for matrix in matrices]

    def changes(products: Floats) -> Variables:
        """Return the changes that add these numbers to the products, to first order."""
        parts = products / duals
        target = parts[:, 0] - parts[:, 1] - residuals.margin
        right_sides = _sums(A, weights * target) - residuals.normal
        solutions = [
            dgetrs(*factor, right_side)[0]
            for factor, right_side in zip(factors, right_sides, strict=True)
        ]
        d_hyperplane = np.stack(solutions).astype(A.dtype)
        d_alpha = weights * (target - _margins(A, d_hyperplane))
        d_duals = np.stack([d_alpha, -d_alpha], axis=1)
        return Variables(d_hyperplane, d_duals, parts - ratios * d_duals)

    products = duals * slacks
    predicted = changes(-products)
    gaps = point.gaps()
    gaps_ahead = point.moved(point.longest_steps(predicted), predicted).gaps()
    targets = (gaps_ahead / gaps) ** 3 * gaps / (2 * A.shape[1])
    corrected = changes(targets[:, None, None] - products - predicted.duals * predicted.slacks)
    return point.moved(SHORTER * point.longest_steps(corrected), corrected)


def _factorize(matrix: Floats) -> tuple[Floats, NDArray[np.int32]]:
    """Return the LU factors of a symmetric matrix, as `dgetrs` takes them."""
    factors, pivots, info = dgetrf(matrix.T, overwrite_a=True)
    if info:
        raise LinAlgError("singular matrix")
    return factors, pivots


def _margins(A: Floats, hyperplanes: Floats) -> Floats:
    """Return the products (P, N) of rows (P, N, D + 1) and hyperplanes (P, D + 1)."""
    return np.asarray((A @ hyperplanes[:, :, None])[:, :, 0])


def _sums(A: Floats, factors: Floats) -> Floats:
    """Return the sums (P, D + 1) of rows (P, N, D + 1) times factors (P, N)."""
    return np.asarray((factors[:, None] @ A)[:, 0])
