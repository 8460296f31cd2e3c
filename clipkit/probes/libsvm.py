"""Linear SVMs by scikit-learn's libsvm."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipkit.base.matrices import Floats, Int64

if TYPE_CHECKING:
    from sklearn.svm import SVC

GRAM_ROWS = 4096  # of the largest Gram matrix: 128 MiB in float64
MAX_WORK = 2**27  # for one pair, rows times iterations: one or two seconds


def fit_pair(rows: Floats, signs: Floats, counts: Floats, C: float) -> tuple[Floats, bool]:
    """Fit the hyperplane (D + 1,) between rows (N, D) that occur so often, of signs -1 and 1.

    Return it, and whether libsvm reached its stop.
    """
    # without a Gram matrix, libsvm computes what it needs
    kernel, matrix = "linear", rows
    if len(rows) <= GRAM_ROWS:
        kernel, matrix = "precomputed", gram(rows)
    svc = _fit(kernel, matrix, signs, C, counts)
    normal = svc.dual_coef_[0] @ rows[svc.support_]
    return np.append(normal, svc.intercept_), svc.fit_status_ == 0


def fit_all_pairs(X: Floats, y: Int64, C: float, gram: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Fit all pairs of three classes or more; rows of X (N, D) are sorted by class.

    Return the hyperplanes (pairs, D + 1), and which of them reached the stop.
    """
    svc = _fit("precomputed", gram, y, C)
    ends = np.cumsum([0, *svc.n_support_])
    # for each class, the share of its support vectors in the normals against each other class
    shares = []
    for start, stop in pairwise(ends):
        shares.append(svc.dual_coef_[:, start:stop] @ X[svc.support_[start:stop]])  # (n - 1, D)
    pairs = combinations(range(len(shares)), 2)
    normals = [shares[i][j - 1] + shares[j][i] for i, j in pairs]
    hyperplanes = -np.column_stack([normals, svc.intercept_])
    return hyperplanes, svc.n_iter_ < MAX_WORK // len(X)


def gram(rows: Floats) -> Floats:
    """Return the Gram matrix, float64 as libsvm takes it."""
    return (rows @ rows.T).astype(np.float64)


def _fit(
    kernel: str, matrix: Floats, y: Int64 | Floats, C: float, counts: Floats | None = None
) -> SVC:
    import sklearn  # slow to load, and not needed by the other methods
    from sklearn.svm import SVC

    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        svc = SVC(kernel=kernel, C=C, max_iter=MAX_WORK // len(y))
        return svc.fit(matrix, y, counts)
