"""The sweep: check the input, standardise, solve each distinct setting once, predict.

Columns are measured in numpy, since importing scikit-learn takes longer than most few-shot fits.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from clipkit.base.errors import LARGEST, SMALLEST, ClipkitError, UsageError, check_positive
from clipkit.base.matrices import BlockMatrix, Float32, Floats, Int64, row_blocks
from clipkit.probes import classifiers
from clipkit.probes.classifiers import Classifier
from clipkit.probes.fitted import FittedProbe
from clipkit.probes.preparation import Preparation, largest_magnitude
from clipkit.probes.sweep_context import (
    ProgressCallback,
    Setting,
    SharedRows,
    Solution,
    SweepContext,
    Workers,
)

BLOCK = 2**22  # numbers that are prepared at a time


@dataclass(frozen=True)
class Run:
    """A classifier fitted at one (scale, C), and the best class ids (M, k) of each row.

    k is 5, or 1 of an SVM or if there are 5 classes or fewer. If fewer classes have a neighbour,
    the best is repeated. C is NaN for a classifier without one. An SVM or logistic regression that
    stopped at its iteration limit has not converged. `fitted` is kept if the sweep keeps its
    probes.
    """

    classifier: str
    C: float
    scale: float
    best: Int64
    converged: bool = True
    fitted: FittedProbe | None = None

    @property
    def predicted(self) -> Int64:
        """Predicted class ids (M,)."""
        return self.best[:, 0]


def sweep(  # noqa: PLR0913
    X: Floats | BlockMatrix,
    y: Int64,
    X_eval: Floats | BlockMatrix,
    *,
    classifier: str = classifiers.DEFAULT,
    C: Sequence[float] = (1.0,),
    scales: Sequence[float] = (1.0,),
    standardize: bool = False,
    balanced: bool = False,
    seed: int = 42,
    k: int | None = None,
    keep: bool = False,
    shared: SharedRows | None = None,
    progress: ProgressCallback | None = None,
) -> list[Run]:
    """Fit a classifier at every scale and C, and predict the evaluation rows.

    Runs come scale by scale, C by C. A run does not depend on which others share its sweep.

    Parameters
    ----------
    X, y : arrays (N, D) and (N,)
        The rows to fit on, and their class ids. Features may be a `BlockMatrix`, of which one copy
        is then in memory.
    X_eval : array (M, D)
        The rows to predict.
    classifier : str
        A key of `CLASSIFIERS`. The solver of each says what it fits.
    C : sequence of float
        Inverse strength of the L2 penalty: the sum of losses has weight C against ||w||^2 / 2.
    scales : sequence of float
        Factors that multiply the features. Cosines at temperature tau have scale 1 / tau.
    standardize : bool
        Give each column mean 0 and variance 1, measured on `X`. Scales then have no
        effect.
    balanced : bool
        Weight each row's loss by N / (n * rows of its class) for n classes, so that
        all classes count alike, as ``class_weight="balanced"`` in scikit-learn.
    seed : int
        For a classifier that draws random numbers.
    k : int, optional
        Number of nearest rows that vote, 20 by default.
    keep : bool
        Return the fitted probes too, which may take much memory: an SVM has a hyperplane for each
        pair of classes.
    shared : SharedRows, optional
        What earlier sweeps of the same rows and classifier have prepared, for other labels.
    progress : callable, optional
        Called as `progress(done, total, reached)` in units of work, from any thread, one call at a
        time. `reached` says how near a logistic regression is to its optimum, or nothing.

    Raises
    ------
    UsageError
        If the classifier is unknown or does not take a setting that is given, or if a C or scale is
        out of range.
    ClipkitError
        If there are fewer than two classes, the arrays' shapes do not agree, or the features are so
        large or small that fits would overflow or take forever.

    Examples
    --------
    >>> X, y = np.array([[0.0, 1.0], [0.0, 2.0], [3.0, 1.0], [4.0, 1.0]]), np.array([7, 7, 9, 9])
    >>> [run.predicted for run in sweep(X, y, X[1:3], scales=[1, 10])]
    [array([7, 9]), array([7, 9])]
    """
    method = classifiers.find(classifier)
    _check_settings(method, C, scales)
    _check_takes(method, "balanced", is_given=balanced)
    _check_takes(method, "k", is_given=k is not None)
    _check_arrays(X, y, X_eval)
    classes, numbers = np.unique(y, return_inverse=True)
    shared = shared or SharedRows()
    if shared.prepared is None:
        prepared, preparation = _prepare(method, standardize, X)
        shared.prepared = prepared, preparation, _apply(preparation, X_eval)
    rows, preparation, eval_rows = shared.prepared

    grid = [Setting(float(scale), float(c)) for scale, c in itertools.product(scales, C)]
    reduced = [_reduce(setting, method, standardize, preparation.rms) for setting in grid]
    distinct = sorted(set(reduced))
    weights = None
    if balanced:  # all classes count alike
        counts = np.bincount(numbers)
        weights = len(numbers) / (len(counts) * counts)
    with Workers(progress) as workers:
        context = SweepContext(
            rows, numbers, eval_rows, distinct, seed, workers, weights, keep, k, shared
        )
        solutions = dict(zip(distinct, _solve(method, context), strict=True))

    runs = []
    for setting, reduced_setting in zip(grid, reduced, strict=True):
        solution = solutions[reduced_setting]
        C_of_run = setting.C if "C" in method.settings else math.nan
        run = Run(classifier, C_of_run, setting.scale, classes[solution.best], solution.converged)
        if keep:
            factor = reduced_setting.scale
            fitted = FittedProbe(
                classifier, classes, solution.model, preparation, factor, balanced=balanced
            )
            run = replace(run, fitted=fitted)
        runs.append(run)
    return runs


def _solve(method: Classifier, context: SweepContext) -> list[Solution]:
    """Solve each setting of the context with one BLAS thread per worker, without warnings."""
    solve = method.load_solver()  # before the limit, which holds for libraries that are loaded
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Solver terminated early")  # Run.converged reports it
        # scikit-learn doubts that labels are classes where most of them occur once
        warnings.filterwarnings("ignore", "The number of unique classes")
        return solve(context)


def _check_settings(method: Classifier, C: Sequence[float], scales: Sequence[float]) -> None:
    if "C" not in method.settings and list(C) != [1]:
        message = f"C: expected none for {method.name}, which has no regularisation"
        raise UsageError(message, "leave C out")
    for name, values in (("C", C), ("scale", scales)):
        for value in values:
            check_positive(name, value)


def _check_takes(method: Classifier, setting: str, *, is_given: bool) -> None:
    """Refuse a setting that the classifier does not take."""
    if is_given and setting not in method.settings:
        names = " or ".join(classifiers.names_taking(setting))
        raise UsageError(
            f"{setting}: expected the classifier {names}, got {method.name}",
            f"add --classifier {names}",
        )


def _check_arrays(X: Floats | BlockMatrix, y: Int64, X_eval: Floats | BlockMatrix) -> None:
    if len(X) != len(y):
        raise ClipkitError(f"expected as many features as labels, got {len(X)} and {len(y)}")
    n_classes = len(np.unique(y))
    if n_classes < 2:
        raise ClipkitError(
            f"expected at least two classes to fit a probe on, got {n_classes}", "fit on more rows"
        )
    if X_eval.shape[1:] != X.shape[1:]:
        raise ClipkitError(f"X_eval: expected {X.shape[1]} columns, got {X_eval.shape[1]}")


def _prepare(
    method: Classifier, standardize: bool, X: Floats | BlockMatrix
) -> tuple[Float32, Preparation]:
    """Standardise rows if asked to, centre them, and divide them by their RMS.

    Rows whose directions are compared are not centred. Only those of linear classifiers are divided
    by the RMS. If the scale of the features matters, it must not be too small or large.

    Intercepts are not penalised, so a shift changes no solution. But products of centred rows keep
    their precision in float32, L-BFGS needs a fraction of the iterations, and the MLP's Adam gets
    further in its epochs.
    """
    is_centred = not method.compares_directions
    preparation = Preparation()
    if standardize or is_centred:
        preparation = _measure(X, standardize, is_centred)
    rows = _apply(preparation, X)
    if method.is_linear:
        squares = sum(np.square(block, dtype=np.float64).sum() for block in row_blocks(rows, BLOCK))
        preparation = replace(preparation, rms=math.sqrt(squares / rows.size) or 1.0)
        rows /= preparation.rms
    return rows, preparation


def _measure(X: Floats | BlockMatrix, standardize: bool, is_centred: bool) -> Preparation:
    """Return the preparation with the means and deviations of the columns."""
    largest, means, deviations = _column_statistics(X)
    is_extreme = not SMALLEST <= largest <= LARGEST  # their squares are beyond float32
    precision = np.float64 if is_extreme else np.float32
    dtype = np.result_type(getattr(X, "dtype", np.float32), precision)
    centre = mean = means.astype(dtype)
    preparation = Preparation()
    if standardize:
        deviation = deviations.astype(dtype)
        preparation = Preparation(mean, deviation)
        centre = ((means - mean) / deviation).astype(dtype)  # what rounding left
    return replace(preparation, centre=centre) if is_centred else preparation


def _column_statistics(X: Floats | BlockMatrix) -> tuple[float, Floats, Floats]:
    """Return the largest magnitude of X (N, D), and the means and deviations (D,) of its columns.

    As in scikit-learn's StandardScaler, a column that rounding alone may vary has the deviation 1.
    Sums are of differences from the first row, so that little is lost where they cancel.
    """
    largest, N = 0.0, len(X)
    first: Any = 0.0
    sums, squares = np.zeros(X.shape[1]), np.zeros(X.shape[1])
    for number, block in enumerate(row_blocks(X, BLOCK)):
        rows = block.astype(np.float64)
        if number == 0:
            first = rows[0].copy()
        largest = max(largest, largest_magnitude(block))
        rows -= first
        sums += rows.sum(axis=0)
        squares += np.einsum("ij,ij->j", rows, rows)
    offsets = sums / N
    means = first + offsets
    variances = np.maximum(squares / N - offsets**2, 0)
    rounding = (N * np.finfo(np.float64).eps * means) ** 2
    return largest, means, np.sqrt(np.where(variances <= rounding, 1.0, variances))


def _apply(preparation: Preparation, X: Floats | BlockMatrix) -> Float32:
    """Return prepared rows (N, D), whose features are read a block at a time."""
    rows = np.empty(X.shape, np.float32)
    start = 0
    for block in row_blocks(X, BLOCK):
        rows[start : start + len(block)] = preparation.apply(block)
        start += len(block)
    return rows


def _reduce(setting: Setting, method: Classifier, standardize: bool, rms: float) -> Setting:
    """Return the equivalent setting for prepared features, equal for settings of equal solution.

    For linear classifiers, multiplying the features by s is multiplying C by s^2.
    """
    if method.compares_directions:
        return Setting(1.0, setting.C)
    scale = rms if standardize else rms * setting.scale
    if method.is_linear:
        return Setting(1.0, float(f"{setting.C * scale**2:.9g}"))
    return Setting(scale, setting.C)
