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

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, minimize

from clipkit.features import Int64
from clipkit.probes.context import Floats, Predictions, Setting, SweepContext
from clipkit.probes.fitted import Coefficients

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
LOWEST_LOGIT = -60  # below the row's highest; exp of less gives float32 numbers that are slow

Float64 = NDArray[np.float64]
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


def logreg(context: SweepContext) -> list[Predictions]:
    """Fit multinomial logistic regression, and predict the class of the highest score."""
    workers = context.workers
    parts = np.array_split(context.X, MAX_BLOCKS)
    variances, axes = np.linalg.eigh(sum(workers.map(_squares, parts)))
    resolved = variances > 1e-12 * variances.max()  # float32 features resolve no smaller ones
    variances, axes = variances[resolved], axes[:, resolved]
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
        v = _minimize(objective, report_progress)
        table = objective.coefficients(v)
        model = Coefficients(np.vstack([axes @ table[:-1], table[-1:]]))
        return Predictions(model.predict(X_eval), objective.converged, context.kept(model))

    return list(map_settings(solve, context.settings))


def _minimize(objective: Objective, report_progress: Callable[[int], None]) -> Float64:
    """Minimise the objective, and return its parameters."""
    steps = 0

    def after_step(is_newton: bool) -> None:
        nonlocal steps
        steps += 1
        report_progress(int(steps < USUAL_STEPS))
        objective.finish_step(is_newton)
        is_near = not is_newton and objective.gradient_fell_to(LBFGS_GRADIENT)
        if objective.converged or is_near:
            raise StopIteration

    def after_lbfgs_step(intermediate_result: OptimizeResult) -> None:
        after_step(is_newton=False)

    def after_newton_step(intermediate_result: OptimizeResult) -> None:
        after_step(is_newton=True)

    def hessian_product(_: Float64, direction: Float64) -> Float64:
        report_progress(0)  # ends the fit of a cancelled sweep
        return objective.hessian_product(direction)

    def improve(start: Float64, steps: int) -> OptimizeResult:
        return minimize(
            objective,
            start,
            method="Newton-CG",
            jac=True,
            hessp=hessian_product,
            callback=after_newton_step,
            options={"maxiter": steps, "xtol": 0},
        )

    zero = np.zeros(objective.size)
    first_step = float(np.linalg.norm(objective(zero)[1])) / UNIT  # where the curvature is 1

    def in_first_steps(u: Float64) -> tuple[float, Float64]:
        """Return the objective and its gradient in a unit that suits L-BFGS: it begins with 1."""
        value, gradient = objective(first_step * u)
        return value, first_step * gradient

    solution = minimize(
        in_first_steps,
        zero,
        method="L-BFGS-B",
        jac=True,
        callback=after_lbfgs_step,
        options={"maxiter": min(MAX_LBFGS_ITER, MAX_ITER), "ftol": 0, "gtol": 0},
    )
    solution.x *= first_step
    if not objective.converged:
        solution = improve(solution.x, MAX_ITER)
    if not objective.converged and solution.nit < MAX_ITER:
        objective.use_float64()
        solution = improve(solution.x, MAX_ITER - solution.nit)
    report_progress(USUAL_STEPS - min(steps, USUAL_STEPS - 1))
    return np.asarray(solution.x)


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

    Attributes
    ----------
    converged : bool
        Whether the weights were within TOLERANCE of the optimum after the last step.
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
        self.converged = False
        self._previous = np.zeros((X.shape[1], self.n_classes))  # weights of the last step
        self._first_gradient = 0.0  # its norm, in steps
        self._last: tuple[Float64, tuple[float, Float64]] | None = None  # call

    def __call__(self, v: Float64) -> tuple[float, Float64]:
        """Return the objective and its gradient at v."""
        if self._last and np.array_equal(v, self._last[0]):
            return self._last[1]  # a solver starts where another one ended
        table = self.coefficients(v).astype(self.X.dtype)

        def evaluate(block: slice) -> tuple[np.float64, Float64, Floats]:
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

        parts = self._map(evaluate, self._blocks)
        losses, gradients, self._probabilities = zip(*parts, strict=True)
        self._uncertain: list[tuple[Floats, Floats, Floats]] = []
        weights = self._table(v)[:-1] * self.step_sizes[:-1]
        gradient = self.C * sum(gradients)
        gradient[:-1] += weights
        self._weights, self._gradient = weights, gradient
        if not self._first_gradient:
            self._first_gradient = float(np.linalg.norm(gradient * self.step_sizes))
        value = self.C * float(sum(losses)) + 0.5 * float((weights**2).sum())
        result = UNIT * value, UNIT * (gradient * self.step_sizes).ravel()
        self._last = v.copy(), result
        return result

    def use_float64(self) -> None:
        """Compute in float64. float32 is twice as fast, but its rounding can stop a line search."""
        self.X = self.X.astype(np.float64)
        self._last = None

    def hessian_product(self, direction: Float64) -> Float64:
        """Return about the Hessian times a direction, at the point of the last call."""
        table = self.coefficients(direction).astype(self.X.dtype)

        def multiply(rows: tuple[Floats, Floats, Floats]) -> Float64:
            X, probabilities, weighted = rows
            changes = _scores(X, table)
            changes -= np.einsum("ij,ij->i", probabilities, changes)[:, None]
            changes *= weighted
            return _backward(X, changes)

        if not self._uncertain:
            self._uncertain = self._uncertain_rows()
        product = np.asarray(self.C * sum(self._map(multiply, self._uncertain)))
        product[:-1] += self._table(direction)[:-1] * self.step_sizes[:-1]
        return np.asarray(UNIT * (product * self.step_sizes).ravel())

    def _uncertain_rows(self) -> list[tuple[Floats, Floats, Floats]]:
        """Return each block's rows of uncertain class: X, probabilities, weighted probabilities.

        The other rows add little to the Hessian. Where classes are separable, they are many.
        """

        def wrong(i: int) -> Floats:
            # a sum, since 1 - p of the true class is 0 too soon in float32
            others = self._weighted(self._probabilities[i], self._blocks[i]).copy()
            others[np.arange(len(others)), self.y[self._blocks[i]]] = 0
            return np.asarray(others.sum(axis=1))

        numbers = range(len(self._blocks))
        totals = list(self._map(wrong, numbers))
        lowest = CERTAIN * np.concatenate(totals).mean(dtype=np.float64)

        def select(i: int) -> tuple[Floats, Floats, Floats]:
            chosen = np.flatnonzero(totals[i] >= lowest)
            rows = self._blocks[i].start + chosen
            probabilities = self._probabilities[i][chosen]
            return self.X[rows], probabilities, self._weighted(probabilities, rows)

        return list(self._map(select, numbers))

    def coefficients(self, v: Float64) -> Float64:
        """Return the weights of the features and the intercepts (D + 1, n)."""
        return np.asarray(self._table(v) * self.step_sizes)

    def finish_step(self, is_newton: bool) -> None:
        """Check whether the weights are within TOLERANCE of the optimum.

        The penalty gives the objective a curvature of at least 1 in the weights, so the gradient's
        norm bounds their error. Where the data give much more curvature, the bound is far too
        high. There a small gradient and a small Newton step together tell that the optimum is near.
        Intercepts have no penalty and count in units of `step_sizes`.
        """
        allowed = TOLERANCE * np.linalg.norm(self._weights)
        scaled = self._gradient * self.step_sizes
        bound = np.hypot(np.linalg.norm(self._gradient[:-1]), np.linalg.norm(scaled[-1]))
        step = np.linalg.norm(self._weights - self._previous)
        is_near = is_newton and step <= SMALL_STEP * allowed
        self.converged = bool(
            bound <= allowed or (is_near and self.gradient_fell_to(SMALL_GRADIENT))
        )
        self._previous = self._weights

    def gradient_fell_to(self, share: float) -> bool:
        """Tell whether the gradient's norm, in steps, is at most a share of the first."""
        norm = np.linalg.norm(self._gradient * self.step_sizes)
        return bool(norm <= share * self._first_gradient)

    def _table(self, v: Float64) -> Float64:
        return v.reshape(-1, self.n_classes)

    def _weighted(self, values: Floats, rows: slice | Int64) -> Floats:
        """Multiply values (rows, n) by the weights of their rows."""
        return values if self.row_weights is None else values * self.row_weights[rows, None]


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
