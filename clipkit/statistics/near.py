"""Rows that are nearly equal: those whose cosine is large."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from clipkit.base.matrices import BlockMatrix, Float32, Floats, Int64, row_blocks

AT_ONCE = 2048  # rows of each side of a product
ROUNDING = 1e-6  # of a cosine in float32


def near_components(
    X: Floats | BlockMatrix, cosine: float, report: Callable[[int, int], None] = lambda *_: None
) -> Int64:
    """Return the cluster (N,), from 0, of rows (N, D): near rows are in one, also by way of others.

    Two rows are near if their cosine is at least `cosine`, to within ROUNDING. Each pair is looked
    at, a block of pairs at a time. A row of zeros is near none. `report` is called with the number
    of pairs that are done, and of all.

    >>> near_components(np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.1]]), 0.99).tolist()
    [0, 1, 0]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    unit = _unit_rows(X)
    n = len(unit)
    found: Int64 = np.arange(n)
    done, total = 0, n * (n + 1) // 2
    for start in range(0, n, AT_ONCE):
        rows = slice(start, min(start + AT_ONCE, n))
        for other in range(0, rows.stop, AT_ONCE):
            others = slice(other, min(other + AT_ONCE, rows.stop))
            near = unit[rows] @ unit[others].T >= cosine - ROUNDING
            # Each row that is near one of another cluster is joined with the first such one. This
            # at least halves the clusters, however many pairs are near.
            while near.any():
                near &= found[rows, None] != found[others]
                left, right = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
                links = (
                    np.concatenate([start + left, start + near[:, right].argmax(axis=0)]),
                    np.concatenate([other + near[left].argmax(axis=1), other + right]),
                )
                values = np.ones(len(links[0]), bool)
                graph = coo_array((values, (found[links[0]], found[links[1]])), shape=(n, n))
                found = connected_components(graph, directed=False)[1].astype(np.int64)[found]
            width = rows.stop - rows.start
            same = start == other
            done += width * (width + 1) // 2 if same else width * (others.stop - others.start)
            report(done, total)
    return np.asarray(np.unique(found, return_inverse=True)[1], np.int64)


def _unit_rows(X: Floats | BlockMatrix) -> Float32:
    """Return rows (N, D) with length 1; a row of zeros stays."""
    unit, start = np.empty(X.shape, np.float32), 0
    for block in row_blocks(X):
        exact = np.asarray(block, np.float64)
        norms = np.linalg.norm(exact, axis=1, keepdims=True)
        unit[start : start + len(block)] = exact / np.where(norms > 0, norms, 1)
        start += len(block)
    return unit
