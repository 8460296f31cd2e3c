"""Multinomial logistic regression, fitted until its weights are close to the optimum.

scikit-learn's tolerance bounds the gradient of the mean loss. With a large C, its solvers reach
that bound far from the optimum, and the stopping rule regularises in place of C. This module bounds
the error of the weights instead. The optimizers are scipy's. They get the features along their
principal axes, with each coordinate scaled so that its curvature is about 1. There L-BFGS gets
near the optimum in fewer passes over the rows than Newton-CG, which goes the rest of the way.

Sums over the rows are sums over fixed blocks of rows, in their order, so that results do not depend
on the number of threads.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, minimize

from clipkit.analysis.probes.context import Floats, Predictions, Setting, SweepContext
from clipkit.analysis.probes.fitted import Coefficients
from clipkit.features import Int64

MAX_ITER = 200  # Newton steps
MAX_LBFGS_ITER = 100
USUAL_STEPS = 80  # more do not advance the progress
TOLERANCE = 0.003  # error of the weights, relative to their norm
SMALL_GRADIENT = 1e-4  # of the first
LBFGS_GRADIENT = 1e-3  # likewise; from there on, Newton-CG is as fast as L-BFGS
CERTAIN = 0.1  # of the mean probability of wrong classes; Hessians leave out rows that have less
BLOCK = 2**17  # scores that are computed together; they stay in the cache
MAX_BLOCKS = 16  # each has a gradient in memory
SMALL_STEP = 0.1  # of the tolerance
UNIT = 1e6  # of the objective: Newton-CG takes a curvature below 1e-15 for 0
RESOLUTION = 1e-12  # of variances: float32 has 7 digits
LOWEST_LOGIT = -60  # below the row's highest; exp of less gives float32 numbers that are slow

Float64 = NDArray[np.float64]
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


def logreg(context: SweepContext) -> list[Predictions]:
    """Fit multinomial logistic regression, and predict the class of the highest score.

    Principal axes of less than RESOLUTION of the largest variance get no weights. float32 features
    hold little but rounding errors along them. The mean square of X is 1, so that the penalty would
    keep such weights near 0, too, unless C N D / n were about 1e12 (N rows, D columns, n classes).
    """
    workers = context.workers
    parts = np.array_split(context.X, MAX_BLOCKS)
    variances, axes = _principal_axes(context.X, workers.map)
    X_eval = context.X_eval.astype(np.float64)

    def rotate(X: Floats) -> Floats:
        return np.asarray((X.astype(np.float64) @ axes).astype(np.float32))

    X = np.vstack(workers.map(rotate, parts))
    report_progress = workers.progress(len(context.settings) * USUAL_STEPS)
    # threads share the settings, or the rows of one setting after the other if these are few
    is_few = len(context.settings) < workers.count
    map_settings: Map = map if is_few else workers.map
    map_blocks: Map = workers.map if is_few else map

    def solve(setting: Setting) -> Predictions:
        # Of two classes, scikit-learn penalises the difference of their weights. Its square is
        # twice the sum of the two squares.
        C = setting.C / 2 if context.n_classes == 2 else setting.C
        objective = Objective(X, context.y, C, variances, context.class_weights, map_blocks)
        descent = Descent(objective, report_progress)
        v = descent.run()
        table = objective.coefficients(v)
        model = Coefficients(np.vstack([axes @ table[:-1], table[-1:]]))
        return Predictions(model.predict(X_eval), descent.converged, context.kept_model(model))

    return list(map_settings(solve, context.settings))


class Descent:
    """The way to the optimum of an objective.

    scipy's optimizers see the objective as functions of its parameters, so the last point is kept:
    they ask for its value, then for products with its Hessian.

    Parameters
    ----------
    objective : Objective
    report_progress : callable
        Gets numbers of finished steps, USUAL_STEPS in all.

    Attributes
    ----------
    converged : bool
        Whether the weights were within TOLERANCE of the optimum after the last step.
    """

    def __init__(self, objective: Objective, report_progress: Callable[[int], None]) -> None:
        self._objective = objective
        self._report_progress = report_progress
        self._point = objective.evaluate(np.zeros(objective.size))
        self._first_gradient = self._point.gradient_norm
        self._weights = self._point.weights  # of the last step
        self._steps = 0
        self.converged = False

    def run(self) -> Float64:
        """Minimise the objective, and return its parameters."""
        v = self._run_lbfgs()
        if not self.converged:
            solution = self._run_newton(v, MAX_ITER)
            v = solution.x
            if not self.converged and solution.nit < MAX_ITER:
                # float32 is twice as fast, but its rounding can stop a line search
                self._objective = self._objective.in_float64()
                self._point = self._objective.evaluate(v)
                v = self._run_newton(v, MAX_ITER - solution.nit).x
        self._report_progress(USUAL_STEPS - min(self._steps, USUAL_STEPS - 1))
        return np.asarray(v)

    def _run_lbfgs(self) -> Float64:
        # in a unit that suits L-BFGS, which begins with a step of 1; the curvature is 1 there
        first_step = self._first_gradient

        def value_and_gradient(u: Float64) -> tuple[float, Float64]:
            point = self._point_at(first_step * u)
            return point.value, first_step * point.gradient

        def after_step(intermediate_result: OptimizeResult) -> None:
            point = self._point_at(first_step * intermediate_result.x)
            self._finish_step(point, is_newton=False)
            is_near = point.gradient_norm <= LBFGS_GRADIENT * self._first_gradient
            if self.converged or is_near:
                raise StopIteration  # ends scipy's loop

        solution = minimize(
            value_and_gradient,
            np.zeros(self._objective.size),
            method="L-BFGS-B",
            jac=True,
            callback=after_step,
            options={"maxiter": min(MAX_LBFGS_ITER, MAX_ITER), "ftol": 0, "gtol": 0},
        )
        return np.asarray(first_step * solution.x)

    def _run_newton(self, start: Float64, max_steps: int) -> OptimizeResult:
        def value_and_gradient(v: Float64) -> tuple[float, Float64]:
            point = self._point_at(v)
            return point.value, point.gradient

        def hessian_product(v: Float64, direction: Float64) -> Float64:
            self._report_progress(0)  # ends the fit of a cancelled sweep
            return self._point_at(v).hessian_product(direction)

        def after_step(intermediate_result: OptimizeResult) -> None:
            self._finish_step(self._point_at(intermediate_result.x), is_newton=True)
            if self.converged:
                raise StopIteration

        return minimize(
            value_and_gradient,
            start,
            method="Newton-CG",
            jac=True,
            hessp=hessian_product,
            callback=after_step,
            options={"maxiter": max_steps, "xtol": 0},
        )

    def _point_at(self, v: Float64) -> Point:
        if not np.array_equal(v, self._point.v):
            self._point = self._objective.evaluate(v)
        return self._point

    def _finish_step(self, point: Point, is_newton: bool) -> None:
        """Check whether the weights are within TOLERANCE of the optimum.

        Where the data give much more curvature than the penalty, the bound on the error is far too
        high. There a small gradient and a small Newton step together tell that the optimum is near.
        """
        self._steps += 1
        self._report_progress(int(self._steps < USUAL_STEPS))
        allowed = TOLERANCE * np.linalg.norm(point.weights)
        is_small_step = np.linalg.norm(point.weights - self._weights) <= SMALL_STEP * allowed
        is_small_gradient = point.gradient_norm <= SMALL_GRADIENT * self._first_gradient
        is_near = is_newton and is_small_step and is_small_gradient
        self.converged = bool(point.error_bound <= allowed or is_near)
        self._weights = point.weights


class Objective:
    """UNIT times the objective: C times the cross-entropies, plus half the squared weights.

    Its parameters v are a flat array of (D + 1, n): a row of weights per feature, and the
    intercepts, divided by `step_sizes`.

    Parameters
    ----------
    X : array (N, D)
        Centred features along their principal axes.
    y : array (N,)
        Class numbers 0..n-1.
    C : float
    variances : array (D,)
        Sums of squares of the columns of X.
    class_weights : array (n,), optional
        Weights of the cross-entropies of each class's rows.
    map_blocks : callable
        Applies a function to all blocks of rows, as `map`.
    """

    def __init__(
        self,
        X: Floats,
        y: Int64,
        C: float,
        variances: Float64,
        class_weights: Floats | None = None,
        map_blocks: Map = map,
    ) -> None:
        self.X, self.y, self.C = X, y, C
        self.n_classes = int(y.max()) + 1
        self.row_weights = None if class_weights is None else class_weights[y].astype(np.float32)
        size = max(BLOCK // self.n_classes, -(-len(y) // MAX_BLOCKS))
        self._blocks = [slice(start, start + size) for start in range(0, len(y), size)]
        self._map = map_blocks if len(self._blocks) > 1 else map
        self.size = (X.shape[1] + 1) * self.n_classes
        # a softmax over n classes has a curvature of about 1 / n where it is flat
        curvatures = 1 + C / self.n_classes * variances
        intercept_curvature = C / self.n_classes * len(X)
        self.step_sizes = 1 / np.sqrt(np.append(curvatures, intercept_curvature))[:, None]

    def in_float64(self) -> Objective:
        """Return the same objective, computed in float64."""
        objective = copy.copy(self)
        objective.X = self.X.astype(np.float64)
        return objective

    def evaluate(self, v: Float64) -> Point:
        """Return the objective at v."""
        table = self.coefficients(v).astype(self.X.dtype)

        def evaluate_block(block: slice) -> tuple[np.float64, Float64, Floats]:
            X, y = self.X[block], self.y[block]
            rows = np.arange(len(y))
            scores = _scores(X, table)
            scores -= scores.max(axis=1, keepdims=True)
            true_scores = scores[rows, y]
            np.maximum(scores, LOWEST_LOGIT, out=scores)
            exponentials = np.exp(scores, out=scores)
            sums = exponentials.sum(axis=1, keepdims=True)
            losses = self._weighted(np.log(sums) - true_scores[:, None], block)
            probabilities = exponentials / sums
            errors = probabilities.copy()
            errors[rows, y] -= 1
            gradient = _backward(X, self._weighted(errors, block))
            return losses.sum(dtype=np.float64), gradient, probabilities

        parts = self._map(evaluate_block, self._blocks)
        losses, gradients, probabilities = zip(*parts, strict=True)
        weights = self._table(v)[:-1] * self.step_sizes[:-1]
        gradient = self.C * sum(gradients)
        gradient[:-1] += weights
        loss = self.C * float(sum(losses)) + 0.5 * float((weights**2).sum())
        return Point(self, v.copy(), loss, gradient, weights, probabilities)

    def hessian_product(self, rows: list[UncertainRows], direction: Float64) -> Float64:
        """Return about the Hessian times a direction, where these rows are uncertain."""
        table = self.coefficients(direction).astype(self.X.dtype)

        def multiply(block: UncertainRows) -> Float64:
            changes = _scores(block.X, table)
            changes -= np.einsum("ij,ij->i", block.probabilities, changes)[:, None]
            changes *= block.weighted
            return _backward(block.X, changes)

        product = np.asarray(self.C * sum(self._map(multiply, rows)))
        product[:-1] += self._table(direction)[:-1] * self.step_sizes[:-1]
        return np.asarray(UNIT * (product * self.step_sizes).ravel())

    def uncertain_rows(self, probabilities: Sequence[Floats]) -> list[UncertainRows]:
        """Return each block's rows of uncertain class.

        The other rows add little to the Hessian. Where classes are separable, they are many.
        """

        def wrong(i: int) -> Floats:
            # a sum, since 1 - p of the true class is 0 too soon in float32
            others = self._weighted(probabilities[i], self._blocks[i]).copy()
            others[np.arange(len(others)), self.y[self._blocks[i]]] = 0
            return np.asarray(others.sum(axis=1))

        numbers = range(len(self._blocks))
        totals = list(self._map(wrong, numbers))
        lowest = CERTAIN * np.concatenate(totals).mean(dtype=np.float64)

        def select(i: int) -> UncertainRows:
            chosen = np.flatnonzero(totals[i] >= lowest)
            rows = self._blocks[i].start + chosen
            uncertain = probabilities[i][chosen]
            return UncertainRows(self.X[rows], uncertain, self._weighted(uncertain, rows))

        return list(self._map(select, numbers))

    def coefficients(self, v: Float64) -> Float64:
        """Return the weights of the features and the intercepts (D + 1, n)."""
        return np.asarray(self._table(v) * self.step_sizes)

    def _table(self, v: Float64) -> Float64:
        return v.reshape(-1, self.n_classes)

    def _weighted(self, values: Floats, rows: slice | Int64) -> Floats:
        """Multiply values (rows, n) by the weights of their rows."""
        return values if self.row_weights is None else values * self.row_weights[rows, None]


class UncertainRows(NamedTuple):
    """Rows of a block (R, D), their probabilities (R, n), and these times the rows' weights."""

    X: Floats
    probabilities: Floats
    weighted: Floats


@dataclass(frozen=True, eq=False)
class Point:
    """An objective at parameters v.

    Attributes
    ----------
    objective : Objective
    v : array
    loss : float
        The objective, without its unit.
    slope : array (D + 1, n)
        The gradient of the loss in the weights and the intercepts.
    weights : array (D, n)
    probabilities : sequence of arrays (B, n)
        Per block of rows.
    """

    objective: Objective
    v: Float64
    loss: float
    slope: Float64
    weights: Float64
    probabilities: Sequence[Floats]

    @property
    def value(self) -> float:
        """The objective."""
        return UNIT * self.loss

    @cached_property
    def gradient(self) -> Float64:
        """Its gradient in v."""
        return np.asarray(UNIT * (self.slope * self.objective.step_sizes).ravel())

    @property
    def gradient_norm(self) -> float:
        """The norm of the loss's gradient in v."""
        return float(np.linalg.norm(self.gradient)) / UNIT

    @property
    def error_bound(self) -> float:
        """An upper bound on the norm of the weights' error.

        The penalty gives the loss a curvature of at least 1 in the weights, so the gradient's norm
        bounds their error. Intercepts have no penalty and count in units of `step_sizes`.
        """
        intercepts = self.slope[-1] * self.objective.step_sizes[-1]
        return float(np.hypot(np.linalg.norm(self.slope[:-1]), np.linalg.norm(intercepts)))

    @cached_property
    def _uncertain_rows(self) -> list[UncertainRows]:
        return self.objective.uncertain_rows(self.probabilities)

    def hessian_product(self, direction: Float64) -> Float64:
        """Return about the Hessian times a direction."""
        return self.objective.hessian_product(self._uncertain_rows, direction)


def _principal_axes(X: Floats, map_parts: Map) -> tuple[Float64, Float64]:
    """Return the sums of squares (d,) along the principal axes (D, d) of at most N and D.

    Of fewer rows than columns, the smaller matrix X X^T = U S^2 U^T is decomposed. Its axes are
    V = X^T U / S, since X = U S V^T.
    """
    if len(X) < X.shape[1]:
        rows = X.astype(np.float64)
        variances, U = np.linalg.eigh(rows @ rows.T)
        resolved = variances > RESOLUTION * variances.max()
        axes = rows.T @ U[:, resolved] / np.sqrt(variances[resolved])
        return variances[resolved], axes
    parts = np.array_split(X, MAX_BLOCKS)
    variances, axes = np.linalg.eigh(sum(map_parts(_squares, parts)))
    resolved = variances > RESOLUTION * variances.max()
    return variances[resolved], axes[:, resolved]


def _squares(X: Floats) -> Float64:
    X = X.astype(np.float64)
    return np.asarray(X.T @ X)


def _scores(X: Floats, table: Floats) -> Floats:
    """Return the scores (N, n) of all classes, with the coefficients (D + 1, n)."""
    scores = X @ table[:-1]
    scores += table[-1]
    return scores


def _backward(X: Floats, errors: Floats) -> Float64:
    """Return the gradient (D + 1, n) of errors (N, n) in the scores."""
    intercepts = errors.sum(axis=0, dtype=np.float64)
    return np.vstack([X.T @ errors, intercepts])
