"""The principal axes of the rows that a probe is fitted on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from clipkit.base.matrices import Floats, row_blocks
from clipkit.probes.sweep_context import Float64

ROTATED = 2**20  # features in float64 at a time
PARTS = 16  # of the rows; each has a matrix in memory

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


class Axes(NamedTuple):
    """Principal axes (D, d), the largest last, and the sum of squares along the largest other."""

    axes: Float64
    left_out: float


def principal_axes(X: Floats, resolution: float, map_parts: Map) -> Axes:
    """Return the principal axes of X (N, D).

    Those of less variance than this share of the largest are left out. With fewer rows than
    columns, the smaller matrix X X^T = U S^2 U^T is decomposed. The axes are V = X^T U / S, since
    X = U S V^T.
    """
    if len(X) < X.shape[1]:
        rows = X.astype(np.float64)
        variances, U = np.linalg.eigh(rows @ rows.T)
        resolved = variances > resolution * variances.max()
        axes = rows.T @ U[:, resolved] / np.sqrt(variances[resolved])
    else:
        parts = np.array_split(X, PARTS)
        variances, all_axes = np.linalg.eigh(sum(map_parts(_squares, parts)))
        resolved = variances > resolution * variances.max()
        axes = all_axes[:, resolved]
    return Axes(axes, float(variances[~resolved].max(initial=0)))


def _squares(X: Floats) -> Float64:
    sums = np.zeros((X.shape[1], X.shape[1]))
    for block in row_blocks(X, ROTATED):
        rows = block.astype(np.float64)
        sums += rows.T @ rows
    return sums
