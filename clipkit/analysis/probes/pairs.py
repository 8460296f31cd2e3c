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

from typing import NamedTuple

import numpy as np
from numpy.linalg import LinAlgError
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from clipkit.features.model import Floats, Int64

Float64 = NDArray[np.float64]

TOLERANCE = 1e-3  # of the margin, as in SVC
# How far within the margin a row must be to join, step by step. Most rows that join the first
# guesses would leave again.
SHORTFALLS = (0.3, 0.1, *[TOLERANCE] * 28)
FIRST_SHARE = 0.5  # support vectors in the first guess, relative to the rows or columns
# If a guess has nearly as many support vectors as columns, the equations are nearly singular, and
# the next guess is worse. So rows join up to the usual share of the columns, then a few at a time.
USUAL_SHARE = 0.75
FEW_SHARE = 0.03
MAX_STEPS = 60
GAP_TOLERANCE = 1e-6  # of the duality gap and of the residuals
SHORTER = 0.995  # share of the longest step that is taken, so that no variable reaches 0


class Separation(NamedTuple):
    """The hyperplane (D + 1,) of the widest margin, and the largest coefficient of any guess.

    Every SVM with a C of at least this coefficient has this hyperplane.
    """

    hyperplane: Floats
    largest_coefficient: float


def fit_separable(rows: Floats, signs: Floats, C: float) -> Separation | None:
    """Find the hyperplane of the widest margin between rows (N, D) of signs (N,) -1 and 1, float32.

    Return None if the classes overlap, a guess has a coefficient above C, or none is confirmed.
    Raise LinAlgError if the equations of the first guess are singular, as they are if columns
    depend on each other.
    """
    columns = rows.shape[1]
    support = _nearest_rows(rows, signs, int(FIRST_SHARE * min(rows.shape)))
    largest_coefficient = 0.0
    for shortfall in SHORTFALLS:
        if not 0 < len(support) <= columns:
            return None
        try:
            weights, intercept = _solve(rows[support], signs[support])
        except LinAlgError:
            if largest_coefficient == 0:
                raise
            return None
        coefficients = signs[support] * weights
        largest_coefficient = max(largest_coefficient, float(coefficients.max()))
        if not largest_coefficient <= C:  # also if it is NaN
            return None
        normal = weights.astype(rows.dtype) @ rows[support]
        margins = signs * (rows @ normal + rows.dtype.type(intercept))
        is_exact = np.abs(margins[support] - 1).max() <= TOLERANCE
        if is_exact and coefficients.min() >= 0 and margins.min() >= 1 - TOLERANCE:
            return Separation(np.append(normal, intercept), largest_coefficient)
        support = _next_guess(support, coefficients, 1 - margins, shortfall, columns)
    return None


def _nearest_rows(rows: Floats, signs: Floats, count: int) -> Int64:
    """Return the rows of smallest margin along the difference of the classes' means."""
    difference = rows[signs > 0].mean(axis=0) - rows[signs < 0].mean(axis=0)
    return _smallest(signs * (rows @ difference), max(count, 1))


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

    They are the hyperplanes (P, D + 1), the dual variables `alpha` (P, N), C less these (`room`),
    and by how much margins are above 1 (`surplus`) and below it (`loss`). All but the hyperplanes
    stay above 0.
    """

    hyperplane: Float64
    alpha: Float64
    room: Float64
    surplus: Float64
    loss: Float64

    def moved(self, steps: Float64, changes: Variables) -> Variables:
        """Return the variables after a step (P,) of each problem along the changes."""
        pairs = zip(self, changes, strict=True)
        return Variables(*(x + steps[:, None] * change for x, change in pairs))

    def longest_steps(self, changes: Variables) -> Float64:
        """Return the longest steps (P,), at most 1, that leave no variable below 0."""
        longest = np.ones(len(self.alpha))
        for x, change in zip(self[1:], changes[1:], strict=True):
            longest = np.maximum(longest, (-change / x).max(axis=1))
        return np.asarray(1 / longest)

    def gaps(self) -> Float64:
        """Return the duality gaps (P,), if all equations hold."""
        return np.asarray((self.alpha * self.surplus + self.room * self.loss).sum(axis=1))


def fit_overlapping(rows: Floats, signs: Floats, C: float) -> list[Float64 | None]:
    """Fit P hyperplanes (D + 1,) between rows (P, N, D) of signs (P, N) -1 and 1.

    A hyperplane is a normal and an intercept. The root mean square of the features should be near
    1. None takes the place of a hyperplane if rounding errors exceed the tolerance.

    Small problems share the time that numpy takes to start an operation.
    """
    intercepts = np.ones((*signs.shape, 1))
    A = np.concatenate([rows, intercepts], axis=2, dtype=np.float64) * signs[:, :, None]
    ones = np.ones(signs.shape)
    hyperplanes = np.zeros((len(A), A.shape[2]))
    point = Variables(hyperplanes, ones * C / 2, ones * C / 2, ones, ones)
    solved: list[Float64 | None] = [None] * len(A)
    left = np.arange(len(A))
    for _ in range(MAX_STEPS):
        is_optimal = _are_optimal(A, point, C)
        for number, hyperplane in zip(left[is_optimal], point.hyperplane[is_optimal], strict=True):
            normal = hyperplane[:-1]
            solved[number] = _with_best_intercept(rows[number], signs[number], normal)
        if is_optimal.any():
            left, A = left[~is_optimal], A[~is_optimal]
            point = Variables(*(x[~is_optimal] for x in point))
        if not len(left):
            break
        try:
            point = _take_step(A, point)
        except LinAlgError:
            break
    return solved


def _take_step(A: Float64, point: Variables) -> Variables:
    """Approach the optimum, where four equations hold.

    These are ``normal, 0 = A.T @ alpha``, ``A @ hyperplane - 1 = surplus - loss``,
    ``alpha * surplus = 0`` and ``room * loss = 0``. Newton's method solves all of them, but for the
    zeros of the products it takes a small number, so that no factor gets there before the other.
    The changes of all variables but the hyperplane are eliminated.
    """
    hyperplane, alpha, room, surplus, loss = point
    penalty = np.append(np.ones(A.shape[2] - 1), 0)  # the intercept has none
    weights = 1 / (surplus / alpha + loss / room)
    margin_residuals = _margins(A, hyperplane) - 1 - surplus + loss
    residuals = penalty * hyperplane - _sums(A, alpha)
    matrices = (A * weights[:, :, None]).transpose(0, 2, 1) @ A + np.diag(penalty)

    def changes(surplus_product: Float64, loss_product: Float64) -> Variables:
        """Return the changes that add these numbers to the two products, to first order."""
        surplus_part = surplus_product / alpha
        loss_part = loss_product / room
        target = surplus_part - loss_part - margin_residuals
        right_sides = _sums(A, weights * target) - residuals
        d_hyperplane = np.linalg.solve(matrices, right_sides[:, :, None])[:, :, 0].astype(float)
        d_alpha = weights * (target - _margins(A, d_hyperplane))
        d_surplus = surplus_part - surplus / alpha * d_alpha
        d_loss = loss_part + loss / room * d_alpha
        return Variables(d_hyperplane, d_alpha, -d_alpha, d_surplus, d_loss)

    predicted = changes(-alpha * surplus, -room * loss)
    gaps = point.gaps()
    gaps_ahead = point.moved(point.longest_steps(predicted), predicted).gaps()
    products = ((gaps_ahead / gaps) ** 3 * gaps / (2 * A.shape[1]))[:, None]
    corrected = changes(
        products - alpha * surplus - predicted.alpha * predicted.surplus,
        products - room * loss - predicted.room * predicted.loss,
    )
    return point.moved(SHORTER * point.longest_steps(corrected), corrected)


def _margins(A: Float64, hyperplanes: Float64) -> Float64:
    """Return the products (P, N) of rows (P, N, D + 1) and hyperplanes (P, D + 1)."""
    return np.asarray((A @ hyperplanes[:, :, None])[:, :, 0])


def _sums(A: Float64, factors: Float64) -> Float64:
    """Return the sums (P, D + 1) of rows (P, N, D + 1) times factors (P, N)."""
    return np.asarray((factors[:, None] @ A)[:, 0])


def _are_optimal(A: Float64, point: Variables, C: float) -> NDArray[np.bool_]:
    """Return (P,) where the gap is small against the objective, and all equations hold."""
    margins = _margins(A, point.hyperplane)  # of each row, times its sign
    normals = point.hyperplane.copy()
    normals[:, -1] = 0
    lengths = np.linalg.norm(normals, axis=1)
    objectives = 0.5 * lengths**2 + C * np.maximum(0, 1 - margins).sum(axis=1)
    residuals = np.linalg.norm(normals - _sums(A, point.alpha), axis=1)
    margin_residuals = np.abs(margins - 1 - point.surplus + point.loss).max(axis=1)
    return np.asarray(
        (point.gaps() <= GAP_TOLERANCE * objectives)
        & (residuals <= GAP_TOLERANCE * lengths + GAP_TOLERANCE**2 * C * A.shape[1])
        & (margin_residuals <= GAP_TOLERANCE)
    )


def _with_best_intercept(rows: Floats, signs: Floats, normal: Float64) -> Float64:
    """Append the intercept of the least loss. If many are best, take their middle, as libsvm does.

    As the intercept grows, the slope of the loss grows by C where a row's margin is 1. It starts at
    -C for each positive row. So it is 0 after as many of these places as there are positive rows.
    """
    places = signs - rows @ normal
    positives = int((signs > 0).sum())
    around = [positives - 1, positives]
    return np.append(normal, np.partition(places, around)[around].mean())
