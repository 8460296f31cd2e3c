"""Multinomial logistic regression, fitted until its weights are close to the optimum.

scikit-learn's tolerance bounds the gradient of the mean loss. With a large C, its solvers reach
that bound far from the optimum, and the stopping rule regularises in place of C. This module bounds
the error of the weights instead. The optimizers are scipy's. They get the features along their
principal axes, with each coordinate scaled so that its curvature is about 1. There L-BFGS gets
near the optimum in fewer passes over the rows than Newton-CG, which goes the rest of the way.
"""

from __future__ import annotations

from collections.abc import Callable

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
SMALL_STEP = 0.1  # of the tolerance
UNIT = 1e6  # of the objective: Newton-CG takes a curvature below 1e-15 for 0
LOWEST_LOGIT = -60  # below the row's highest; exp of less gives float32 numbers that are slow

Float64 = NDArray[np.float64]


def logreg(context: SweepContext) -> list[Predictions]:
    """Fit multinomial logistic regression, and predict the class of the highest score."""
    X = context.X.astype(np.float64)
    variances, axes = np.linalg.eigh(X.T @ X)
    resolved = variances > 1e-12 * variances.max()  # float32 features resolve no smaller ones
    variances, axes = variances[resolved], axes[:, resolved]
    X = X @ axes
    X_eval = context.X_eval.astype(np.float64)
    X_float32 = X.astype(np.float32)
    report_progress = context.workers.progress(len(context.settings) * USUAL_STEPS)

    def solve(setting: Setting) -> Predictions:
        # Of two classes, scikit-learn penalises the difference of their weights. Its square is
        # twice the sum of the two squares.
        C = setting.C / 2 if context.n_classes == 2 else setting.C
        objective = Objective(X_float32, context.y, C, variances, context.class_weights)
        v = _minimize(objective, X, report_progress)
        table = objective.coefficients(v)
        model = Coefficients(np.vstack([axes @ table[:-1], table[-1:]]))
        return Predictions(model.predict(X_eval), objective.converged, context.kept(model))

    return context.workers.map(solve, context.settings)


def _minimize(objective: Objective, X: Float64, report_progress: Callable[[int], None]) -> Float64:
    """Minimise the objective, and return its parameters. X is its X in float64."""
    steps = 0

    def after_step(is_newton: bool) -> None:
        nonlocal steps
        steps += 1
        report_progress(int(steps < USUAL_STEPS))
        objective.finish_step(is_newton)
        if objective.converged:
            raise StopIteration
        if not is_newton and objective.gradient_fell_to(LBFGS_GRADIENT):
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

    solution = minimize(
        objective,
        np.zeros(objective.size),
        method="L-BFGS-B",
        jac=True,
        callback=after_lbfgs_step,
        options={"maxiter": min(MAX_LBFGS_ITER, MAX_ITER), "ftol": 0, "gtol": 0},
    )
    if not objective.converged:
        solution = improve(solution.x, MAX_ITER)
    if not objective.converged and solution.nit < MAX_ITER:
        objective.X = X  # float32 is twice as fast, but its rounding can stop the line search
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
    ) -> None:
        self.X, self.y, self.C = X, y, C
        self.row_weights = None if class_weights is None else class_weights[y].astype(np.float32)
        self.n_classes = int(y.max()) + 1
        self.size = (X.shape[1] + 1) * self.n_classes
        # a softmax over n classes has a curvature of about 1 / n where it is flat
        curvatures = 1 + C / self.n_classes * variances
        intercept_curvature = C / self.n_classes * len(X)
        self.step_sizes = 1 / np.sqrt(np.append(curvatures, intercept_curvature))[:, None]
        self.converged = False
        self._previous = np.zeros((X.shape[1], self.n_classes))  # weights of the last step
        self._first_gradient = 0.0  # its norm, in steps

    def __call__(self, v: Float64) -> tuple[float, Float64]:
        """Return the objective and its gradient at v."""
        rows = np.arange(len(self.y))
        scores = self.scores(self.X, v)
        scores -= scores.max(axis=1, keepdims=True)
        true_scores = scores[rows, self.y]
        np.maximum(scores, LOWEST_LOGIT, out=scores)
        exponentials = np.exp(scores, out=scores)
        sums = exponentials.sum(axis=1, keepdims=True)
        losses = self._weighted(np.log(sums) - true_scores[:, None])
        loss = losses.sum(dtype=np.float64)
        self._probabilities = exponentials / sums
        errors = self._probabilities.copy()
        errors[rows, self.y] -= 1

        weights = self._table(v)[:-1] * self.step_sizes[:-1]
        gradient = self.C * self._backward(errors)
        gradient[:-1] += weights
        self._weights, self._gradient = weights, gradient
        if not self._first_gradient:
            self._first_gradient = float(np.linalg.norm(gradient * self.step_sizes))
        value = self.C * float(loss) + 0.5 * float((weights**2).sum())
        return UNIT * value, UNIT * (gradient * self.step_sizes).ravel()

    def hessian_product(self, direction: Float64) -> Float64:
        """Return the Hessian times a direction, at the point of the last call."""
        changes = self.scores(self.X, direction)
        changes -= (self._probabilities * changes).sum(axis=1, keepdims=True)
        product = self.C * self._backward(self._probabilities * changes)
        product[:-1] += self._table(direction)[:-1] * self.step_sizes[:-1]
        return np.asarray(UNIT * (product * self.step_sizes).ravel())

    def scores(self, X: Floats, v: Float64) -> Floats:
        """Return the scores (N, n) of all classes."""
        weights = self.coefficients(v).astype(X.dtype)
        return np.asarray(X @ weights[:-1] + weights[-1])

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

    def _weighted(self, values: Floats) -> Floats:
        """Multiply values (N, n) by the weights of their rows."""
        return values if self.row_weights is None else values * self.row_weights[:, None]

    def _backward(self, errors: Floats) -> Float64:
        """Return the gradient (D + 1, n) of errors (N, n) in the scores."""
        errors = self._weighted(errors)
        intercepts = errors.sum(axis=0, dtype=np.float64)
        return np.vstack([self.X.T @ errors, intercepts]).astype(np.float64)
