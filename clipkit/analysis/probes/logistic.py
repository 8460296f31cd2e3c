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
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, minimize

from clipkit.analysis.metrics import best_classes
from clipkit.analysis.probes.fitted import Coefficients
from clipkit.analysis.probes.sweep_context import Setting, Solution, SweepContext
from clipkit.features.model import Floats, Int64

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


def logreg(context: SweepContext) -> list[Solution]:
    """Fit multinomial logistic regression, and predict the class of the highest score.

    Principal axes of less than RESOLUTION of the largest variance get no weights. float32 features
    hold little but rounding errors along them. The mean square of X is 1, so that the penalty would
    keep such weights near 0, too, unless C N D / n were about 1e12 (N rows, D columns, n classes).
    """
    workers = context.workers
    if context.shared.rotated is None:
        context.shared.rotated = rotate(context.X, workers.map)
    X, variances, axes = context.shared.rotated
    X_eval = context.X_eval.astype(np.float64)
    report_progress = workers.progress(len(context.settings) * USUAL_STEPS)
    # threads share the settings, or the rows of one setting after the other if these are few
    is_few = len(context.settings) < workers.count
    map_settings: Map = map if is_few else workers.map
    map_blocks: Map = workers.map if is_few else map

    def solve(setting: Setting) -> Solution:
        # Of two classes, scikit-learn penalises the difference of their weights. Its square is
        # twice the sum of the two squares.
        C = setting.C / 2 if context.n_classes == 2 else setting.C
        objective = Objective(X, context.y, C, variances, context.class_weights, map_blocks)
        v, converged = minimize_objective(objective, report_progress, workers.check_cancelled)
        table = objective.coefficients(v)
        model = Coefficients(np.vstack([axes @ table[:-1], table[-1:]]))
        return Solution(best_classes(model.scores(X_eval)), converged, context.kept_model(model))

    return list(map_settings(solve, context.settings))


def minimize_objective(
    objective: Objective,
    report_progress: Callable[[int], None],
    check_cancelled: Callable[[], None],
) -> tuple[Float64, bool]:
    """Return the parameters of the optimum, and whether the weights are within TOLERANCE of it.

    `report_progress` gets numbers of finished steps, USUAL_STEPS in all.
    """
    rule = StoppingRule(objective)

    def finish_step(v: Float64, is_newton: bool) -> None:
        rule.finish_step(objective, v, is_newton)
        report_progress(int(rule.steps < USUAL_STEPS))

    def after_lbfgs_step(intermediate_result: OptimizeResult) -> None:
        v = rule.first_gradient * intermediate_result.x
        finish_step(v, is_newton=False)
        if rule.converged or objective.gradient_norm(v) <= LBFGS_GRADIENT * rule.first_gradient:
            raise StopIteration  # ends scipy's loop

    def after_newton_step(intermediate_result: OptimizeResult) -> None:
        finish_step(intermediate_result.x, is_newton=True)
        if rule.converged:
            raise StopIteration

    v = _run_lbfgs(objective, rule.first_gradient, after_lbfgs_step)
    steps = 0
    if not rule.converged:
        v, steps = _run_newton(objective, v, MAX_ITER, after_newton_step, check_cancelled)
    if not rule.converged and steps < MAX_ITER:
        # float32 is twice as fast, but its rounding can stop a line search
        objective = objective.in_float64()
        v, _ = _run_newton(objective, v, MAX_ITER - steps, after_newton_step, check_cancelled)
    report_progress(USUAL_STEPS - min(rule.steps, USUAL_STEPS - 1))
    return v, rule.converged


def _run_lbfgs(
    objective: Objective, unit: float, after_step: Callable[[OptimizeResult], None]
) -> Float64:
    """Minimise in a unit that suits L-BFGS, which begins with a step of 1; the curvature is 1."""

    def value_gradient(u: Float64) -> tuple[float, Float64]:
        value, gradient = objective.value_gradient(unit * u)
        return value, unit * gradient

    solution = minimize(
        value_gradient,
        np.zeros(objective.size),
        method="L-BFGS-B",
        jac=True,
        callback=after_step,
        options={"maxiter": min(MAX_LBFGS_ITER, MAX_ITER), "ftol": 0, "gtol": 0},
    )
    return np.asarray(unit * solution.x)


def _run_newton(
    objective: Objective,
    start: Float64,
    max_steps: int,
    after_step: Callable[[OptimizeResult], None],
    check_cancelled: Callable[[], None],
) -> tuple[Float64, int]:
    """Return the parameters after at most `max_steps`, and the number of steps."""

    def hvp(v: Float64, direction: Float64) -> Float64:
        check_cancelled()
        return objective.hvp(v, direction)

    solution = minimize(
        objective.value_gradient,
        start,
        method="Newton-CG",
        jac=True,
        hessp=hvp,
        callback=after_step,
        options={"maxiter": max_steps, "xtol": 0},
    )
    return np.asarray(solution.x), solution.nit


class StoppingRule:
    """Count the steps, and decide whether the weights are within TOLERANCE of the optimum.

    Where the data give much more curvature than the penalty, the bound on the error is far too
    high. There a small gradient and a small Newton step together tell that the optimum is near.
    """

    def __init__(self, objective: Objective) -> None:
        start = np.zeros(objective.size)
        self.first_gradient = objective.gradient_norm(start)
        self.steps = 0
        self.converged = False
        self._weights = objective.at(start).weights  # of the last step

    def finish_step(self, objective: Objective, v: Float64, is_newton: bool) -> None:
        """Take note of a step to v, and set `converged`."""
        self.steps += 1
        weights = objective.at(v).weights
        allowed = TOLERANCE * np.linalg.norm(weights)
        is_small_step = np.linalg.norm(weights - self._weights) <= SMALL_STEP * allowed
        is_small_gradient = objective.gradient_norm(v) <= SMALL_GRADIENT * self.first_gradient
        is_near = is_newton and is_small_step and is_small_gradient
        self.converged = bool(objective.error_bound(v) <= allowed or is_near)
        self._weights = weights


class Point(NamedTuple):
    """An objective at parameters v.

    `loss` is the objective without its unit, and `slope` (D + 1, n) its gradient in the weights
    (D, n) and the intercepts. The probabilities are arrays (B, n), one per block of rows.
    """

    v: Float64
    loss: float
    slope: Float64
    weights: Float64
    probabilities: Sequence[Floats]


class UncertainRows(NamedTuple):
    """Rows of a block (R, D), their probabilities (R, n), and these times the rows' weights."""

    X: Floats
    probabilities: Floats
    weighted: Floats


class Objective:
    """UNIT times the objective: C times the cross-entropies, plus half the squared weights.

    Its parameters v are a flat array of (D + 1, n): a row of weights per feature, and the
    intercepts, divided by `step_sizes`. scipy's optimizers ask for its value, and then for products
    with its Hessian at the same v, so the last point is kept.

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
        self._point: Point | None = None
        self._uncertain: list[UncertainRows] | None = None  # of that point

    def in_float64(self) -> Objective:
        """Return the same objective, computed in float64."""
        objective = copy.copy(self)
        objective.X = self.X.astype(np.float64)
        objective._point = objective._uncertain = None
        return objective

    def value_gradient(self, v: Float64) -> tuple[float, Float64]:
        """Return the objective and its gradient at v."""
        point = self.at(v)
        return UNIT * point.loss, np.asarray(UNIT * (point.slope * self.step_sizes).ravel())

    def hvp(self, v: Float64, direction: Float64) -> Float64:
        """Return about the product of the Hessian at v with a direction.

        Rows of certain class are left out: they add little. Where classes are separable, they are
        many.
        """
        point = self.at(v)
        if self._uncertain is None:
            self._uncertain = self._uncertain_rows(point.probabilities)
        table = self.coefficients(direction).astype(self.X.dtype)

        def multiply(block: UncertainRows) -> Float64:
            changes = _scores(block.X, table)
            changes -= np.einsum("ij,ij->i", block.probabilities, changes)[:, None]
            changes *= block.weighted
            return _backward(block.X, changes)

        product = np.asarray(self.C * sum(self._map(multiply, self._uncertain)))
        product[:-1] += self._table(direction)[:-1] * self.step_sizes[:-1]
        return np.asarray(UNIT * (product * self.step_sizes).ravel())

    def gradient_norm(self, v: Float64) -> float:
        """Return the norm of the loss's gradient in v."""
        return float(np.linalg.norm(self.value_gradient(v)[1])) / UNIT

    def error_bound(self, v: Float64) -> float:
        """Return an upper bound on the norm of the weights' error.

        The penalty gives the loss a curvature of at least 1 in the weights, so the gradient's norm
        bounds their error. Intercepts have no penalty and count in units of `step_sizes`.
        """
        slope = self.at(v).slope
        intercepts = slope[-1] * self.step_sizes[-1]
        return float(np.hypot(np.linalg.norm(slope[:-1]), np.linalg.norm(intercepts)))

    def at(self, v: Float64) -> Point:
        """Return the point at v, which is computed unless it is the last one."""
        if self._point is None or not np.array_equal(v, self._point.v):
            self._point = self._evaluate(v)
            self._uncertain = None
        return self._point

    def _evaluate(self, v: Float64) -> Point:
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
        slope = self.C * sum(gradients)
        slope[:-1] += weights
        loss = self.C * float(sum(losses)) + 0.5 * float((weights**2).sum())
        return Point(v.copy(), loss, slope, weights, probabilities)

    def _uncertain_rows(self, probabilities: Sequence[Floats]) -> list[UncertainRows]:
        """Return each block's rows of uncertain class."""

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


def rotate(X: Floats, map_parts: Map) -> tuple[Floats, Float64, Float64]:
    """Return X (N, d) along its principal axes, and these; see `_principal_axes`."""
    variances, axes = _principal_axes(X, map_parts)

    def rotate_part(part: Floats) -> Floats:
        return np.asarray((part.astype(np.float64) @ axes).astype(np.float32))

    return np.vstack([*map_parts(rotate_part, np.array_split(X, MAX_BLOCKS))]), variances, axes


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
