"""The principal axes of the rows that a probe is fitted on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipkit.features.model import Floats, row_blocks

ROTATED = 2**20  # features in float64 at a time
PARTS = 16  # of the rows; each has a matrix in memory

Float64 = NDArray[np.float64]
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


def principal_axes(X: Floats, resolution: float, map_parts: Map) -> Float64:
    """Return the principal axes (D, d) of X (N, D), the largest last.

    Those of less variance than this share of the largest are left out. With fewer rows than
    columns, the smaller matrix X X^T = U S^2 U^T is decomposed. The axes are V = X^T U / S, since
    X = U S V^T.
    """
    if len(X) < X.shape[1]:
        rows = X.astype(np.float64)
        variances, U = np.linalg.eigh(rows @ rows.T)
        resolved = variances > resolution * variances.max()
        return np.asarray(rows.T @ U[:, resolved] / np.sqrt(variances[resolved]))
    parts = np.array_split(X, PARTS)
    variances, axes = np.linalg.eigh(sum(map_parts(_squares, parts)))
    return np.asarray(axes[:, variances > resolution * variances.max()])


def _squares(X: Floats) -> Float64:
    sums = np.zeros((X.shape[1], X.shape[1]))
    for block in row_blocks(X, ROTATED):
        rows = block.astype(np.float64)
        sums += rows.T @ rows
    return sums
