"""A linear SVM of two classes that a hyperplane separates, by an active-set method.

Embeddings of hundreds of columns separate most pairs of classes. There, linear equations give the
hyperplane once its support vectors are known. Each step solves them for a guess. Rows with a
negative coefficient leave the guess, and rows within the margin join it: the primal-dual
active-set method of Hintermüller, Ito & Kunisch (2002, doi:10.1137/S1052623401383558). About six
steps replace libsvm's thousands of iterations.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from clipkit.analysis.probes.context import Floats
from clipkit.features import Int64

TOLERANCE = 1e-3  # of the margin, as in SVC
# How far within the margin a row must be to join, step by step. Most rows that join the first
# guesses would leave again.
SHORTFALLS = (0.3, 0.1, *[TOLERANCE] * 28)
FIRST_SHARE = 0.5  # support vectors in the first guess, relative to the rows or columns
# If a guess has nearly as many support vectors as columns, the equations are nearly singular, and
# the next guess is worse. So rows join up to the usual share of the columns, then a few at a time.
USUAL_SHARE = 0.75
FEW_SHARE = 0.03


class Separation(NamedTuple):
    """The hyperplane (D + 1,) of the widest margin, and the largest coefficient of any guess.

    It is the hyperplane of every SVM whose C is at least this coefficient.
    """

    hyperplane: Floats
    largest_coefficient: float


def fit_separable(rows: Floats, signs: Floats, C: float) -> Separation | None:
    """Find the hyperplane of the widest margin between two classes.

    Parameters
    ----------
    rows : array (N, D) float32
    signs : array (N,) float32
        -1 and 1.
    C : float
        No coefficient of a guess may exceed it.

    Returns
    -------
    Separation, optional
        None if the classes overlap, a coefficient exceeds C, or no guess is confirmed.
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
    """Return weights of rows, whose sum is 0, and an intercept, such that all margins are 1."""
    gram = (rows @ rows.T).astype(np.float64)
    factor = cho_factor(gram.T, overwrite_a=True, check_finite=False)
    right_sides = np.column_stack([signs, np.ones(len(rows))])
    sign_solution, ones_solution = cho_solve(factor, right_sides, check_finite=False).T
    intercept = sign_solution.sum() / ones_solution.sum()
    return sign_solution - intercept * ones_solution, float(intercept)
