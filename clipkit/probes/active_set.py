"""A linear SVM of two classes by an active-set method, for hundreds of columns.

Linear equations give the hyperplane once it is known which rows lie on the margin, and which within
it. Each step solves them for a guess. Rows on the margin whose coefficient is not between 0 and C
then leave it, and rows on the wrong side of it join it: the primal-dual active-set method of
Hintermüller, Ito & Kunisch (2002, doi:10.1137/S1052623401383558). About seven steps replace
libsvm's thousands of iterations. With few columns, guesses are often repeated, and no step is the
last.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dpotrs

from clipkit.base.matrices import Floats, Int64

TOLERANCE = 1e-3  # of the margin, as in SVC
ROUNDING = 1e-6  # of coefficients, relative to the largest
WIDE_C = 2  # times the rows: from here, solutions resemble the widest margin
# How far a row must be on the wrong side of the margin to join it, step by step. Most rows that
# join the first guesses at a large C would leave again.
SHORTFALLS = (TOLERANCE,) * 30
WIDE_SHORTFALLS = (0.3, 0.1, *[TOLERANCE] * 28)
# Rows on the margin in the first guess, relative to the rows or columns
FIRST_SHARE = 0.2
WIDE_FIRST_SHARE = 0.4
# If a guess has nearly as many rows on the margin as columns, the equations are nearly singular,
# and the next guess is worse. So rows join up to the usual share of the columns, then a few at a
# time.
USUAL_SHARE = 0.75
FEW_SHARE = 0.03
MOST_FULL = 8  # guesses with the usual share: more of them hardly ever end
OVERSHOOT = 2.0  # of a guess's coefficients: those of the solution are likely to be smaller


class Separation(NamedTuple):
    """The hyperplane (D + 1,) of the widest margin, and the least C for which it is taken.

    Every SVM has this hyperplane if its C is at least its largest coefficient. `least_c` is larger
    if a guess exceeded it by more than OVERSHOOT, since the search for a smaller C ends there.
    """

    hyperplane: Floats
    least_c: float


class Guess(NamedTuple):
    """The numbers of the rows on the margin, and which rows (N,) are within it."""

    on: Int64
    within: NDArray[np.bool_]


class Fit(NamedTuple):
    """The hyperplane (D + 1,) of a guess, which gives its rows on the margin a margin of 1.

    Of the rows on the margin, `coefficients` and which of these are out of bounds. Of all rows
    (N,), the margins, and by how much rows that are not on the margin are on its wrong side.
    """

    hyperplane: Floats
    coefficients: Floats
    out_of_bounds: NDArray[np.bool_]
    margins: Floats
    shortfalls: Floats


def fit_separable(rows: Floats, signs: Floats, C: float, margins: Floats) -> Separation | None:
    """Find the hyperplane of the widest margin between rows (N, D) of signs (N,) -1 and 1, float32.

    The search starts from a guess of all margins (N,). Return None if the classes overlap, the
    widest margin needs a larger C, or none is confirmed.
    """
    guess = Guess(_smallest(margins, _share(rows, WIDE_FIRST_SHARE)), np.zeros(len(rows), bool))
    least_c = 0.0
    for fit, is_solution in _search(rows, signs, math.inf, guess, WIDE_SHORTFALLS):
        largest = float(fit.coefficients.max())
        least_c = max(least_c, largest / OVERSHOOT)
        if not least_c <= C:  # also if it is NaN
            return None
        if is_solution:
            least_c = max(least_c, largest)
            return Separation(fit.hyperplane, least_c) if least_c <= C else None
    return None


def fit_bounded(rows: Floats, signs: Floats, C: float, margins: Floats) -> Floats | None:
    """Find the hyperplane (D + 1,) between rows (N, D) of signs (N,) -1 and 1, float32.

    The search starts from a guess of all margins (N,). Return None if it does not end.
    """
    is_wide = C * len(rows) > WIDE_C
    count = _share(rows, WIDE_FIRST_SHARE if is_wide else FIRST_SHARE)
    on = _smallest(np.abs(margins - 1), count)
    within = margins < 1
    within[on] = False
    shortfalls = WIDE_SHORTFALLS if is_wide else SHORTFALLS
    full = 0
    for fit, is_solution in _search(rows, signs, C, Guess(on, within), shortfalls):
        if is_solution:
            return fit.hyperplane
        full += len(fit.coefficients) >= int(USUAL_SHARE * rows.shape[1])
        if full > MOST_FULL:
            return None
    return None


def _search(
    rows: Floats, signs: Floats, C: float, guess: Guess, shortfalls: Sequence[float]
) -> Iterator[tuple[Fit, bool]]:
    """Yield the fit of each guess, and whether it is the solution."""
    for shortfall in shortfalls:
        fit = _fit(rows, signs, C, guess)
        if fit is None:
            return
        yield fit, _is_solution(fit, guess)
        guess = _next_guess(guess, fit, C, shortfall)


def _share(rows: Floats, share: float) -> int:
    """Return a share of the rows or columns, whichever are fewer."""
    return max(1, int(share * min(rows.shape)))


def _fit(rows: Floats, signs: Floats, C: float, guess: Guess) -> Fit | None:
    """Return the hyperplane of a guess, whose rows within the margin have the coefficient C.

    The normal is the sum of rows times their signs and coefficients. The coefficients of both
    classes add up to the same.
    """
    on, within = guess
    if not 0 < len(on) <= rows.shape[1]:
        return None
    rows_on, signs_on = rows[on], signs[on]
    normal, total = np.zeros(rows.shape[1], rows.dtype), 0.0
    if within.any():
        bounded = np.where(within, C * signs, 0)
        normal, total = bounded.astype(rows.dtype) @ rows, bounded.sum()
    gram = (rows_on @ rows_on.T).astype(np.float64)
    # the functions of scipy.linalg take as long to start as small matrices need
    factor, info = dpotrf(gram.T, overwrite_a=True)
    if info:  # it is not positive definite
        return None
    right_sides = np.column_stack([signs_on - rows_on @ normal, np.ones(len(on))])
    solution, solution_of_ones = dpotrs(factor, right_sides)[0].T
    intercept = (solution.sum() + total) / solution_of_ones.sum()
    weights = solution - intercept * solution_of_ones
    normal += weights.astype(rows.dtype) @ rows_on
    margins = signs * (rows @ normal + rows.dtype.type(intercept))
    shortfalls = np.where(within, margins - 1, 1 - margins)
    shortfalls[on] = 0
    coefficients = signs_on * weights
    outside = _are_out_of_bounds(coefficients, C)
    return Fit(np.append(normal, intercept), coefficients, outside, margins, shortfalls)


def _is_solution(fit: Fit, guess: Guess) -> bool:
    """Return whether all rows lie where the guess has them, and no coefficient is out of bounds."""
    return bool(
        np.abs(fit.margins[guess.on] - 1).max() <= TOLERANCE
        and not fit.out_of_bounds.any()
        and fit.shortfalls.max() <= TOLERANCE
    )


def _next_guess(guess: Guess, fit: Fit, C: float, least: float) -> Guess:
    """Let the rows on the margin leave it that are out of bounds, and wrong others join."""
    columns = len(fit.hyperplane) - 1
    staying = guess.on[~fit.out_of_bounds]
    within = guess.within.copy()
    within[guess.on[fit.coefficients > C]] = True
    joining = np.flatnonzero(fit.shortfalls > least)
    room = max(int(USUAL_SHARE * columns) - len(staying), int(FEW_SHARE * columns), 1)
    joining = joining[_smallest(-fit.shortfalls[joining], room)]
    on = np.concatenate([staying, joining])
    if not len(on):
        on = np.array([np.abs(fit.margins - 1).argmin()])
    within[on] = False
    return Guess(on, within)


def _are_out_of_bounds(coefficients: Floats, C: float) -> NDArray[np.bool_]:
    """Return which coefficients (n,) are not between 0 and C, beyond rounding errors."""
    slack = ROUNDING * np.abs(coefficients).max()
    return np.asarray((coefficients < -slack) | (coefficients > C + slack))


def _smallest(values: Floats, count: int) -> Int64:
    """Return the positions of the smallest values, or all if there are no more."""
    if len(values) <= count:
        return np.arange(len(values))
    return np.argpartition(values, count)[:count]
