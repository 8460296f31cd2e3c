"""A linear SVM of two classes, by two methods that are faster than libsvm.

Embeddings of hundreds of columns separate most pairs of classes. There, linear equations give the
hyperplane once its support vectors are known. Each step of `fit_separable` solves them for a guess.
Rows with a negative coefficient leave the guess, and rows within the margin join it: the
primal-dual active-set method of Hintermüller, Ito & Kunisch (2002, doi:10.1137/S1052623401383558).
About six steps replace libsvm's thousands of iterations.

Where classes overlap, most rows are support vectors. With many more rows than columns, the 5 to 40
steps of `fit_overlapping` suffice. Each solves D + 1 equations, whose matrix is one product of all
rows: Mehrotra's (1992) predictor and corrector, applied to linear SVMs as by Ferris & Munson (2002,
doi:10.1137/S1052623400374379).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.linalg import LinAlgError
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.linalg.lapack import dgetrf, dgetrs

from clipkit.features.model import Floats, Int64

TOLERANCE = 1e-3  # of the margin, as in SVC
# How far within the margin a row must be to join, step by step. Most rows that join the first
# guesses would leave again.
SHORTFALLS = (0.3, 0.1, *[TOLERANCE] * 28)
FIRST_SHARE = 0.4  # support vectors in the first guess, relative to the rows or columns
# If a guess has nearly as many support vectors as columns, the equations are nearly singular, and
# the next guess is worse. So rows join up to the usual share of the columns, then a few at a time.
USUAL_SHARE = 0.75
FEW_SHARE = 0.03
OVERSHOOT = 2.0  # of a guess's coefficients: those of the solution are likely to be smaller
MAX_STEPS = 60
GAP_TOLERANCE = 1e-6  # of the duality gap and of the residuals
# The first steps need half the time in float32, which loses digits near the optimum or at a C of
# another magnitude.
SINGLE_STEPS = 10  # at most
SINGLE_GAP = 1e-2
SINGLE_C = (1e-6, 1e4)
SHORTER = 0.995  # share of the longest step that is taken, so that no variable reaches 0


class Separation(NamedTuple):
    """The hyperplane (D + 1,) of the widest margin, and the least C for which it is taken.

    Every SVM has this hyperplane if its C is at least its largest coefficient. `least_c` is larger
    if a guess exceeded it by more than OVERSHOOT, since the search for a smaller C ends there.
    """

    hyperplane: Floats
    least_c: float


def fit_separable(rows: Floats, signs: Floats, C: float, guess: Floats) -> Separation | None:
    """Find the hyperplane of the widest margin between rows (N, D) of signs (N,) -1 and 1, float32.

    The search starts from a guess of all margins (N,). Return None if the classes overlap, the
    widest margin needs a larger C, or none is confirmed.
    """
    columns = rows.shape[1]
    support = _smallest(guess, max(1, int(FIRST_SHARE * min(rows.shape))))
    least_c = 0.0
    for shortfall in SHORTFALLS:
        if not 0 < len(support) <= columns:
            return None
        try:
            weights, intercept = _solve(rows[support], signs[support])
        except LinAlgError:
            return None
        coefficients = signs[support] * weights
        largest = float(coefficients.max())
        least_c = max(least_c, largest / OVERSHOOT)
        if not least_c <= C:  # also if it is NaN
            return None
        normal = weights.astype(rows.dtype) @ rows[support]
        margins = signs * (rows @ normal + rows.dtype.type(intercept))
        is_exact = np.abs(margins[support] - 1).max() <= TOLERANCE
        if is_exact and coefficients.min() >= 0 and margins.min() >= 1 - TOLERANCE:
            least_c = max(least_c, largest)
            return Separation(np.append(normal, intercept), least_c) if least_c <= C else None
        support = _next_guess(support, coefficients, 1 - margins, shortfall, columns)
    return None


def _next_guess(
    support: Int64, coefficients: Floats, shortfalls: Floats, least: float, columns: int
) -> Int64:
    """Leave out rows with a negative coefficient, and add those that fall short the most."""
    staying = support[coefficients >= 0]
    shortfalls[support] = 0
    joining = np.flatnonzero(shortfalls > least)
    room = max(int(USUAL_SHARE * columns) - len(staying), int(FEW_SHARE * columns), 1)
    return np.concatenate([staying, joining[_smallest(-shortfalls[joining], room)]])


def _smallest(values: Floats, count: int) -> Int64:
    """Return the positions of the smallest values, or all if there are no more."""
    if len(values) <= count:
        return np.arange(len(values))
    return np.argpartition(values, count)[:count]


def _solve(rows: Floats, signs: Floats) -> tuple[Floats, float]:
    """Return weights of rows, which add up to 0, and an intercept, such that all margins are 1."""
    gram = (rows @ rows.T).astype(np.float64)
    factor = cho_factor(gram.T, overwrite_a=True, check_finite=False)
    right_sides = np.column_stack([signs, np.ones(len(rows))])
    sign_solution, ones_solution = cho_solve(factor, right_sides, check_finite=False).T
    intercept = sign_solution.sum() / ones_solution.sum()
    return sign_solution - intercept * ones_solution, float(intercept)


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
