"""Multinomial logistic regression, fitted until its weights are close to the optimum.

scikit-learn's tolerance bounds the gradient of the mean loss. With a large C, its solvers reach
that bound far from the optimum, and the stopping rule regularises in place of C. This module bounds
the error of the weights instead.

The optimizer is L-BFGS (Nocedal and Wright, Numerical Optimization, algorithm 7.4). Its first guess
of each step comes from a model of the curvature, which costs one more product with the rows and
twice the memory of the weights. No probability outlives its block of rows. Sums over the rows are
sums over fixed blocks, in their order, so that results do not depend on the number of threads.
"""

from __future__ import annotations

import copy
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from clipkit.base import console
from clipkit.base.matrices import Floats, Int64, row_blocks
from clipkit.probes.axes import ROTATED, Map, principal_axes
from clipkit.probes.models import Coefficients
from clipkit.probes.sweep_context import Float64, Setting, Solution, SweepContext
from clipkit.statistics.metrics import best_classes

MAX_ITER = 5000  # steps
PROGRESS_STEPS = 100  # of each fit
EVALUATIONS = 20  # of each fit, about, by which its time is estimated
TOLERANCE = 0.003  # error of the weights, relative to their norm
LAST = 4  # the last fourth of the steps tells how near the optimum is
SMALL_GRADIENT = 1e-4  # of the first
MEMORY = 10  # steps that L-BFGS remembers; with older ones, it is not faster
SUFFICIENT = 1e-4  # of the decrease of the loss that its slope promises
ROUNDING = 1e-6  # of the loss in float32
MAX_TRIALS = 20  # of the length of a step
BLOCK = 2**17  # scores that are computed together; they stay in the cache
MIN_ROWS = 2**12  # of a block, since products of fewer are slow
MAX_BLOCK = 2**22  # scores of a block of MIN_ROWS
TWO_CLASS_BLOCK = 2**19  # features of a block of two classes, which is read twice
TWO_CLASS_ROWS = 2**8  # at least
MAX_GROUPS = 16  # of blocks; each has a gradient in memory
TINY = 1e-200  # against divisions by 0
RESOLUTION = 1e-12  # of variances: float32 has 7 digits
LOWEST_LOGIT = -60  # below the row's highest; exp of less gives float32 numbers that are slow


def logreg(context: SweepContext) -> list[Solution]:
    """Fit multinomial logistic regression, and predict the class of the highest score.

    Principal axes of less than RESOLUTION of the largest variance get no weights. float32 features
    hold little but rounding errors along them. The mean square of X is 1, so that the penalty would
    keep such weights near 0, too, unless C N D / n were about 1e12 (N rows, D columns, n classes).
    The rotated rows take the place of `context.X`.
    """
    workers = context.workers
    if context.shared.axes is None:
        context.shared.axes = rotate(context.X, workers.map)
    axes = context.shared.axes
    X = context.X[:, : axes.shape[1]]
    report_progress = workers.progress(len(context.settings) * PROGRESS_STEPS)
    # threads share the settings, or the rows of one setting after the other if these are few
    rounds = math.ceil(len(context.settings) / workers.count)
    map_settings: Map = workers.map
    map_groups: Map = map
    if len(context.settings) < workers.count:
        rounds = len(context.settings)
        map_settings, map_groups = map_groups, map_settings

    def solve(setting: Setting) -> Solution:
        # For two classes, scikit-learn penalises the difference of their weights. Its square is
        # twice the sum of the two squares.
        C = setting.C / 2 if context.n_classes == 2 else setting.C
        objective = Objective(
            X, context.y, C, context.class_weights, map_groups, workers.check_cancelled
        )
        began = time.monotonic()
        search = Search(objective)
        if setting == context.settings[-1]:
            seconds = EVALUATIONS * rounds * (time.monotonic() - began)
            console.note_if_long("fitting logreg", seconds)
        table, converged = minimize(search, report_progress)
        model = Coefficients(np.vstack([axes @ table[:-1], table[-1:]]))
        blocks = row_blocks(context.X_eval, ROTATED)
        best = np.concatenate([best_classes(model.scores(rows)) for rows in blocks])
        return Solution(best, converged, context.kept_model(model))

    # the largest C takes longest, so that it begins first
    solutions = list(map_settings(solve, context.settings[::-1]))
    return solutions[::-1]


def minimize(search: Search, report_progress: Callable[..., None]) -> tuple[Float64, bool]:
    """Return the coefficients (D + 1, n), and whether the weights are within TOLERANCE.

    `report_progress` gets numbers of finished steps, PROGRESS_STEPS in all, and the error.
    """
    first_excess, done = 0.0, 0
    while search.excess > 1 and search.steps < MAX_ITER and search.advance():
        first_excess = first_excess or search.excess
        share = 1 - math.log(max(search.excess, 1)) / math.log(max(first_excess, 2))
        finished = max(done, int(PROGRESS_STEPS * share))
        error = f"{100 * TOLERANCE * search.excess:.1f} %"
        report_progress(finished - done, f"weights within {error} (goal: {100 * TOLERANCE:g} %)")
        done = finished
    report_progress(PROGRESS_STEPS - done)
    # without a step that decreases the loss, the optimum is where the search began
    return search.table, search.excess <= 1 or not search.steps


class Curvature(NamedTuple):
    """A model of the loss's Hessian: one block of (D + 1, D + 1) for each class.

    The Hessian's block is C sum_i w_i x_i x_i^T plus the penalty, with w_i = p_i (1 - p_i) for row
    i. Here the rows of a class have the weight C sum_i w_i (n,) and their weighted mean (D, n).
    Around the means, all classes share the variances (D,) of the columns, as in linear discriminant
    analysis.
    """

    weights: Float64
    means: Float64
    variances: Float64

    def solve(self, slope: Float64) -> Float64:
        """Return the step (D + 1, n) whose product with the model is `slope` (D + 1, n).

        A change that all classes share changes no probability and is left out.
        """
        steps = slope[:-1] - self.means * slope[-1]
        steps /= self.variances[:, None] * self.weights + 1
        intercepts = slope[-1] / self.weights - np.einsum("ij,ij->j", self.means, steps)
        table = np.vstack([steps, intercepts])
        table -= table.mean(axis=1, keepdims=True)
        return table


class Point(NamedTuple):
    """The loss and its gradient (D + 1, n) at some coefficients; the curvature, if asked for."""

    loss: float
    slope: Float64
    curvature: Curvature | None


class Search:
    """L-BFGS from coefficients of 0, and the rule that ends it.

    The penalty gives the loss a curvature of at least 1 in the weights, so the gradient's norm
    bounds their error. Where the data give much more curvature than the penalty, this bound is far
    too high. There the optimum is near if the gradient is small, and the last fourth of the steps
    and the next one are together shorter than TOLERANCE allows. So a slow fit has to be near for
    more steps.

    Attributes
    ----------
    table : array (D + 1, n)
        The weights of the features and the intercepts.
    excess : float
        The estimated error of the weights, as a multiple of the allowed one.
    """

    def __init__(self, objective: Objective) -> None:
        self.table = np.zeros((objective.X.shape[1] + 1, objective.n_classes))
        self.steps = 0
        self.excess = math.inf
        self._lengths: list[float] = []  # of the steps, in the weights
        self._begin(objective)
        self._first_slope = np.linalg.norm(self._point.slope)

    def _begin(self, objective: Objective) -> None:
        self._objective = objective
        self._pairs: deque[tuple[Float64, Float64, float]] = deque(maxlen=MEMORY)
        self._point = objective.evaluate(self.table, with_curvature=True)
        assert self._point.curvature is not None
        self._model = self._point.curvature
        self._first_weights = self._model.weights
        self._direction = self._newton_step()

    def advance(self) -> bool:
        """Take a step, and return False if rounding hides the way to the optimum."""
        advanced = self._advance()
        if not advanced and self._objective.dtype != np.float64:
            self._begin(self._objective.in_float64())  # half as fast
            advanced = self._advance()
        return advanced

    def _advance(self) -> bool:
        step, point = self._find_step()
        change = point.slope - self._point.slope
        product = float(np.vdot(step, change))
        if product <= 0:  # the loss is convex, so this comes from rounding
            return False
        self.steps += 1
        self.table += step
        self._point = point
        if point.curvature:
            # rows that have become certain say little of the curvature on the way to the optimum
            floor = self._first_weights / self.steps**2
            weights = np.maximum(point.curvature.weights, floor)
            self._model = point.curvature._replace(weights=weights)
        self._pairs.append((step, change, product))
        self._direction = self._newton_step()
        self._compare(step)
        return True

    def _find_step(self) -> tuple[Float64, Point]:
        """Return the first step along the direction that decreases the loss, and where it leads.

        Next to the optimum, the loss changes by less than its rounding. There the slope at the end
        decides (the approximate condition of Hager and Zhang 2005). If no step decreases the loss,
        return a step of 0.
        """
        with_curvature = self.steps & (self.steps - 1) == 0  # it changes less and less
        loss, length = self._point.loss, 1.0
        slope = float(np.vdot(self._point.slope, self._direction))
        for _ in range(MAX_TRIALS):
            step = length * self._direction
            point = self._objective.evaluate(self.table + step, with_curvature)
            rise = point.loss - loss
            if rise <= SUFFICIENT * length * slope:
                return step, point
            is_flat = np.vdot(point.slope, self._direction) <= -0.5 * slope
            if is_flat and rise <= ROUNDING * loss:
                return step, point
            # to the minimum of the parabola, if it is not too near one of the ends
            parabola = -slope * length / (2 * (rise - slope * length))
            length *= min(max(parabola, 0.1), 0.5)
        return np.zeros_like(self.table), self._point

    def _newton_step(self) -> Float64:
        """Return the step to the optimum, as the curvature and the pairs estimate it."""
        rest = -self._point.slope
        shares = []
        for step, change, product in reversed(self._pairs):
            shares.append(np.vdot(step, rest) / product)
            rest -= shares[-1] * change
        result = self._model.solve(rest)
        if self._pairs:
            _, change, product = self._pairs[-1]
            result *= product / np.vdot(change, self._model.solve(change))
        for (step, change, product), share in zip(self._pairs, reversed(shares), strict=True):
            result += (share - np.vdot(change, result) / product) * step
        return result

    def _compare(self, step: Float64) -> None:
        """Set `excess` after a step."""
        allowed = TOLERANCE * np.linalg.norm(self.table[:-1]) + TINY
        slope = self._point.slope
        # intercepts have no penalty, and about this curvature
        unit = math.sqrt(self._objective.C * len(self._objective.y) / slope.shape[1])
        bound = np.hypot(np.linalg.norm(slope[:-1]), np.linalg.norm(slope[-1]) / unit)
        self._lengths.append(float(np.linalg.norm(step[:-1])))
        path = sum(self._lengths[-max(2, self.steps // LAST) :])
        path += float(np.linalg.norm(self._direction[:-1]))
        share = np.linalg.norm(slope) / self._first_slope
        is_near = max(path / allowed, share / SMALL_GRADIENT)
        self.excess = float(min(bound / allowed, is_near))


class Sums:
    """What blocks of rows add to the loss, its gradient and its curvature, in float64."""

    def __init__(self, width: int, n_classes: int, with_curvature: bool) -> None:
        self.loss = 0.0
        self.slope = np.zeros((width + 1, n_classes))
        self.with_curvature = with_curvature
        self.moments = np.zeros_like(self.slope)
        self.squares = np.zeros(width)

    def add(self, X: Floats, y: Int64, table: Floats, weights: Floats | None) -> None:
        """Add rows (B, D) of classes (B,), weighted by (B,)."""
        rows = np.arange(len(y))
        scores = X @ table[:-1]
        scores += table[-1]
        scores -= scores.max(axis=1, keepdims=True)
        true_scores = scores[rows, y].astype(np.float64)
        np.maximum(scores, LOWEST_LOGIT, out=scores)
        errors = np.exp(scores, out=scores)
        # 1 - p of the true class is a sum of the others, since a difference is 0 too soon
        true = errors[rows, y].astype(np.float64)
        errors[rows, y] = 0
        others = errors.sum(axis=1).astype(np.float64)
        totals = others + true
        losses = np.log(totals) - true_scores
        errors /= totals.astype(errors.dtype)[:, None]
        errors[rows, y] = -others / totals
        weighted = errors if weights is None else errors * weights[:, None]
        self.loss += float(losses.sum() if weights is None else losses @ weights)
        self._add_products(self.slope, X, weighted)
        if not self.with_curvature:
            return
        # p (1 - p) of all classes, since the error is p or p - 1
        curvatures = np.abs(weighted)
        curvatures *= 1 - np.abs(errors)
        self._add_products(self.moments, X, curvatures)
        self.squares += (X * X).T @ curvatures.sum(axis=1)

    def _add_products(self, sums: Float64, X: Floats, values: Floats) -> None:
        """Add to `sums` (D + 1, n) the products of X (B, D) and of a column of 1 with values."""
        sums[:-1] += X.T @ values
        # with a tiny C, scores are tiny, too, and an intercept of float32's rounding decides
        sums[-1] += values.sum(axis=0, dtype=np.float64)


class TwoClassSums(Sums):
    """`Sums` of two classes, from the difference of their scores.

    A product with one vector takes a third of the time of one with two, and so do the functions of
    one column.
    """

    def add(self, X: Floats, y: Int64, table: Floats, weights: Floats | None) -> None:
        """Add rows (B, D) of classes (B,), weighted by (B,)."""
        difference = table[:, 1] - table[:, 0]
        sign = (2 * y - 1).astype(X.dtype)
        margins = (X @ difference[:-1] + difference[-1]) * sign
        odds = np.exp(np.maximum(-np.abs(margins), LOWEST_LOGIT))  # of the less probable class
        losses = np.log1p(odds, dtype=np.float64) + np.maximum(-margins, 0)
        likely, unlikely = 1 / (1 + odds), odds / (1 + odds)
        is_right = margins > 0
        errors = np.where(is_right, unlikely, likely)
        if weights is not None:
            losses *= weights
        weighted = errors if weights is None else errors * weights
        self.loss += float(losses.sum())
        self._add_column(self.slope, X, -sign * weighted, sign=-1)
        if self.with_curvature:
            curvatures = weighted * np.where(is_right, likely, unlikely)
            self._add_column(self.moments, X, curvatures, sign=1)
            self.squares += 2 * ((X * X).T @ curvatures)

    def _add_column(self, sums: Float64, X: Floats, values: Floats, sign: int) -> None:
        """Add products of X (B, D) and 1 with values (B,) to column 1, `sign` times them to 0."""
        column = np.append(X.T @ values, values.sum(dtype=np.float64))
        sums[:, 1] += column
        sums[:, 0] += sign * column


class Objective:
    """C times the cross-entropies, plus half the squared weights.

    Parameters
    ----------
    X : array (N, D)
        Centred features along their principal axes.
    y : array (N,)
        Class numbers 0..n-1.
    C : float
    class_weights : array (n,), optional
        Weights of the cross-entropies of each class's rows.
    map_groups : callable
        Applies a function to all groups of blocks, as `map`.
    check_cancelled : callable
        Called before each block; raises an exception to end the work.
    """

    def __init__(
        self,
        X: Floats,
        y: Int64,
        C: float,
        class_weights: Floats | None,
        map_groups: Map,
        check_cancelled: Callable[[], None],
    ) -> None:
        self.X, self.y, self.C = X, y, C
        self.dtype: Any = X.dtype
        self.n_classes = int(y.max()) + 1
        self._row_weights = None if class_weights is None else class_weights[y].astype(np.float32)
        n = self.n_classes
        size = max(BLOCK // n, min(MIN_ROWS, MAX_BLOCK // n), 1)
        if n == 2:
            size = min(size, max(TWO_CLASS_BLOCK // X.shape[1], TWO_CLASS_ROWS))
        self._sums: type[Sums] = TwoClassSums if n == 2 else Sums
        blocks = [slice(start, start + size) for start in range(0, len(y), size)]
        per_group = -(-len(blocks) // MAX_GROUPS)
        starts = range(0, len(blocks), per_group)
        self._groups = [blocks[start : start + per_group] for start in starts]
        self._map = map_groups if len(self._groups) > 1 else map
        self._check_cancelled = check_cancelled

    def in_float64(self) -> Objective:
        """Return the same objective, computed in float64."""
        objective = copy.copy(self)
        objective.dtype = np.dtype(np.float64)
        return objective

    def evaluate(self, table: Float64, with_curvature: bool = False) -> Point:
        """Return the objective at coefficients (D + 1, n)."""
        coefficients = table.astype(self.dtype)
        width = len(table) - 1

        def sum_group(blocks: list[slice]) -> Sums:
            sums = self._sums(width, self.n_classes, with_curvature)
            for block in blocks:
                self._check_cancelled()
                weights = None if self._row_weights is None else self._row_weights[block]
                X = self.X[block].astype(self.dtype, copy=False)
                sums.add(X, self.y[block], coefficients, weights)
            return sums

        sums = list(self._map(sum_group, self._groups))
        slope = np.asarray(self.C * sum(part.slope for part in sums))
        slope[:-1] += table[:-1]
        penalty = 0.5 * float(np.vdot(table[:-1], table[:-1]))
        loss = self.C * sum(part.loss for part in sums) + penalty
        return Point(loss, slope, self._curvature(sums) if with_curvature else None)

    def _curvature(self, sums: list[Sums]) -> Curvature:
        moments = np.asarray(self.C * sum(part.moments for part in sums))
        weights = np.maximum(moments[-1], RESOLUTION * moments[-1].max())
        means = moments[:-1] / weights
        squares = self.C * sum(part.squares for part in sums) - (means * means) @ weights
        return Curvature(weights, means, np.maximum(squares, 0) / weights.sum())


def rotate(X: Floats, map_parts: Map) -> Float64:
    """Turn X (N, D), in place, to its principal axes (D, d), and return these.

    The first d columns are the coordinates.
    """
    axes, _ = principal_axes(X, RESOLUTION, map_parts)

    def rotate_rows(rows: Floats) -> None:
        rows[:, : axes.shape[1]] = rows.astype(np.float64) @ axes

    for _ in map_parts(rotate_rows, row_blocks(X, ROTATED)):
        pass
    return axes
