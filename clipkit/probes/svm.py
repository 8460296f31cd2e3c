"""A linear SVM, one against one, that predicts as scikit-learn's SVC does.

Each pair of classes is fitted by one of three methods. An interior-point method fits pairs of few
columns or, at a large C, of many more rows than columns. An active-set method fits the others.
Where it fails, libsvm takes over, or the interior-point method if many rows are left. Both fit only
the rows that decide a pair, which a guess finds (see `reduction`). The interior-point method also
fits pairs that libsvm does not finish soon, such as equal rows of different classes at a large C.
One hyperplane per pair replaces libsvm's prediction by kernels. Threads fit large pairs. Most calls
for small ones are so short that threads would wait for Python's lock, so processes fit them.

A call of scikit-learn or numpy takes about as long as the fit of a small pair, so that several
pairs share it: pairs with the same number of rows, or small pairs of a few classes. If one Gram
matrix holds all rows, memory all hyperplanes, and pairs do not have many more rows than columns,
libsvm fits all pairs in one call, and settings run in parallel.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipkit.base.matrices import Floats, Int64
from clipkit.probes import libsvm
from clipkit.probes.active_set import (
    TOLERANCE,
    WIDE_C,
    Separation,
    fit_bounded,
    fit_separable,
)
from clipkit.probes.axes import principal_axes
from clipkit.probes.interior_point import fit_overlapping
from clipkit.probes.libsvm import GRAM_ROWS
from clipkit.probes.models import PAIRS, TINY, Hyperplanes, Pair, count_votes
from clipkit.probes.reduction import (
    MAX_COLUMNS,
    Guesses,
    Pairs,
    Problems,
    fit_reduced,
    margins_at_larger_c,
)
from clipkit.probes.sweep_context import Setting, Solution, SweepContext

NORMALS = 2**24  # numbers in the normals of all pairs that are in memory at once
MANY_ROWS = 0.15  # of a pair, per squared column, which no hyperplane is likely to separate
# At a large C, the interior-point method is faster than libsvm from so many rows per squared
# column. At a small C, the columns decide.
ENOUGH_ROWS = 0.04
FEW_COLUMNS = 80
LARGE_C = 20  # times the rows of a pair
# At a large C, the solution at the next smaller C of these, times the rows, is the guess. Of the
# rows, several for each column take part, since a hyperplane separates fewer too easily. So this
# pays if there are many more. From as many, the interior-point method also is faster than libsvm.
SMALLER_C = (LARGE_C, 10 * LARGE_C)
ROWS_PER_COLUMN = 4
MANY_PER_COLUMN = 16
BOUNDED_C = 0.1  # times the rows: with less, hardly any row lies on the margin
SEPARATING_C = 1e9  # of guesses for the widest margin
RESOLUTION = 1e-10  # of variances: rounding leaves as much along axes that mean nothing
FEWER = 0.8  # of the columns, for which rotating all rows pays
BATCH = 2**17  # numbers of the pairs that the interior-point method fits at once: 1 MiB in float64
THREADED = 2**20  # numbers of a pair: threads that fit smaller ones wait for Python's lock
GROUP = 2**21  # numbers of the pairs that are prepared at once
SMALL = 600  # rows of a pair; smaller pairs of a line share a call of libsvm at a small C
LINE = 2**24  # numbers of the pairs of a line, whose rows are copied for each pair


class Fit(NamedTuple):
    """The hyperplane (w, b) of a pair, (D + 1,), and whether it is within the tolerance."""

    hyperplane: Floats
    converged: bool


class Group(NamedTuple):
    """Pairs of classes that are fitted together."""

    pairs: list[Pair]
    is_line: bool  # all pairs of a few classes


@dataclass
class Tally:
    """The votes (n, M) of the pairs that were fitted at one setting, and whether all converged."""

    context: SweepContext
    votes: NDArray[np.int32]
    converged: bool = True
    waiting: list[tuple[Pair, Floats]] = field(default_factory=list)
    hyperplanes: dict[Pair, Floats] = field(default_factory=dict)  # if they are kept

    def add(self, pairs: list[Pair], fits: list[Fit]) -> None:
        """Let pairs vote, PAIRS at a time: the product of many with all rows is the fastest."""
        for pair, fit in zip(pairs, fits, strict=True):
            self.waiting.append((pair, fit.hyperplane.astype(np.float32)))
            self.converged = self.converged and fit.converged
            if len(self.waiting) == PAIRS:
                self._count_waiting()

    def _count_waiting(self) -> None:
        if self.waiting:
            pairs, hyperplanes = zip(*self.waiting, strict=True)
            count_votes(self.votes, list(pairs), np.stack(hyperplanes), self.context.X_eval)
        if self.context.keep:
            self.hyperplanes |= self.waiting
        self.waiting = []

    def predictions(self, axes: Floats | None) -> Solution:
        """Return the classes with the most votes. Kept hyperplanes lie along axes (D, r)."""
        self._count_waiting()
        model = None
        if self.hyperplanes:
            in_order = np.stack([plane for _, plane in sorted(self.hyperplanes.items())])
            if axes is not None:
                in_order = np.column_stack([in_order[:, :-1] @ axes.T, in_order[:, -1]])
            model = Hyperplanes(in_order, len(self.votes))
        return Solution(self.votes.argmax(axis=0)[:, None], self.converged, model)


def _stack(fits: Sequence[Fit]) -> tuple[Floats, bool]:
    """Return the hyperplanes (P, D + 1) of P pairs, and whether all converged."""
    hyperplanes, converged = zip(*fits, strict=True)
    return np.stack(hyperplanes).astype(np.float32), all(converged)


def svm(context: SweepContext) -> list[Solution]:
    """Let linear SVMs of all pairs of classes vote. The first class wins a tie, as in libsvm."""
    n_rows, n_columns = context.X.shape
    normals = math.comb(context.n_classes, 2) * n_columns
    is_small = n_rows <= GRAM_ROWS and normals <= NORMALS
    is_long = 2 * n_rows / context.n_classes >= MANY_ROWS * n_columns**2
    if context.n_classes > 2 and is_small and not is_long:
        return _fit_all_pairs_at_once(context)
    return _fit_along_axes(context)


def _fit_all_pairs_at_once(context: SweepContext) -> list[Solution]:
    order = np.argsort(context.y, kind="stable")
    X, y = context.X[order], context.y[order]
    gram = libsvm.gram(X)
    report_progress = context.workers.progress(len(context.settings))

    def solve(setting: Setting) -> Solution:
        hyperplanes, converged = _stack(_fit_all_pairs(X, y, setting.C, gram))
        model = Hyperplanes(hyperplanes, context.n_classes)
        predicted = model.predict(context.X_eval)
        report_progress(1)
        return Solution(predicted[:, None], converged, context.kept_model(model))

    return context.workers.map(solve, context.settings)


def _fit_along_axes(context: SweepContext) -> list[Solution]:
    """Fit in coordinates along the axes of the rows, up to the C that these suffice for.

    At a larger C, or if the axes are not few, fit in all columns.
    """
    axes, limit = _fewer_axes(context)
    few = [setting for setting in context.settings if limit >= setting.C]
    others = [setting for setting in context.settings if limit < setting.C]
    n_parts = bool(few) + bool(others)
    report_progress = context.workers.progress(n_parts * math.comb(context.n_classes, 2))
    solutions = _fit_settings(context, few, axes, report_progress)
    solutions |= _fit_settings(context, others, None, report_progress)
    return [solutions[setting] for setting in context.settings]


def _fit_settings(
    context: SweepContext,
    settings: list[Setting],
    axes: Floats | None,
    report_progress: Callable[[int], None],
) -> dict[Setting, Solution]:
    """Fit some of the settings, if any."""
    if not settings:
        return {}
    context = replace(context, settings=settings)
    return dict(zip(settings, _fit_in_groups(context, axes, report_progress), strict=True))


def _fewer_axes(context: SweepContext) -> tuple[Floats | None, float]:
    """Return the principal axes (D, d) if there are few, and the largest C they suffice for.

    Normals lie along them. Cosines with many prompts have no more axes than the model has columns.
    Rows that are all equal have none, and stay as they are.

    A normal is a sum of rows with coefficients up to C. So its part along other axes moves the
    margins of a pair by at most C times the largest sum of squares there (root mean square).
    """
    n_rows, n_columns = context.X.shape
    if n_columns > min(n_rows, MAX_COLUMNS):
        return None, 0.0
    axes, left_out = principal_axes(context.X, RESOLUTION, context.workers.map)
    if not 0 < axes.shape[1] <= FEWER * n_columns:
        return None, 0.0
    return axes.astype(np.float32), TOLERANCE / max(left_out, float(TINY))


def _fit_in_groups(
    context: SweepContext, axes: Floats | None, report_progress: Callable[[int], None]
) -> list[Solution]:
    """Fit groups of pairs, in coordinates along axes (D, d) if they are given."""
    if axes is not None:
        context = replace(context, X=context.X @ axes, X_eval=context.X_eval @ axes)
    n = context.n_classes
    order = np.argsort(context.y, kind="stable")
    sizes = np.bincount(context.y)
    guesses = Guesses(context.X, context.y, n)
    Cs = [setting.C for setting in context.settings]
    groups = _group_pairs(sizes.tolist(), context.X.shape[1])
    shape = n, len(context.X_eval)
    tallies = [Tally(context, np.zeros(shape, np.int32)) for _ in Cs]
    fit = partial(_fit_group, context.X[order], sizes, Cs, guesses)
    is_short = 2 * int(sizes.max()) * context.X.shape[1] < THREADED
    for batch in _batches(groups, NORMALS // ((context.X.shape[1] + 1) * len(Cs))):
        found = context.workers.imap(fit, batch, is_short=is_short)
        for group, fits in zip(batch, found, strict=True):
            for tally, fits_of_setting in zip(tallies, fits, strict=True):
                tally.add(group.pairs, fits_of_setting)
            report_progress(len(group.pairs))
    return [tally.predictions(axes) for tally in tallies]


def _batches(groups: list[Group], most: int) -> Iterator[list[Group]]:
    """Yield consecutive groups that together have at most so many pairs, or a single group."""
    batch: list[Group] = []
    count = 0
    for group in groups:
        if batch and count + len(group.pairs) > most:
            yield batch
            batch, count = [], 0
        batch.append(group)
        count += len(group.pairs)
    yield batch


def _group_pairs(sizes: list[int], n_columns: int) -> list[Group]:
    """Divide the pairs of classes, which have so many rows, into groups that are fitted together.

    The pairs of a line share a group if they are small. The others share one if they have as many
    rows.
    """
    groups: list[Group] = []
    by_size: dict[int, list[Pair]] = defaultdict(list)
    small = min(SMALL, MANY_ROWS * n_columns**2)
    for line in _lines(len(sizes)):
        sizes_of_line = [sizes[c] for c in line]
        pairs = list(combinations(line, 2))
        total = sum(sizes_of_line)
        is_small = 2 * max(sizes_of_line, default=0) < small
        # a line has a Gram matrix of all rows, and copies rows for each pair
        fits_memory = total <= GRAM_ROWS and total * len(line) * n_columns <= LINE
        if len(pairs) > 1 and is_small and fits_memory:
            groups.append(Group(pairs, is_line=True))
            continue
        for i, j in pairs:
            by_size[sizes[i] + sizes[j]].append((i, j))
    for size, pairs in by_size.items():
        step = max(1, GROUP // (size * n_columns))
        for start in range(0, len(pairs), step):
            groups.append(Group(pairs[start : start + step], is_line=False))
    return groups


def _lines(n: int) -> Iterator[list[int]]:
    """Yield subsets of about sqrt(n) of n classes, such that each pair of them is in one subset.

    These are the lines of the affine plane of q * q points, for a prime number q: two points have
    one line.
    """
    q = math.isqrt(n - 1) + 1
    while any(q % divisor == 0 for divisor in range(2, math.isqrt(q) + 1)):
        q += 1
    x = np.arange(q)
    for start in range(q):
        yield list(range(start * q, min(start * q + q, n)))
        for slope in range(q):
            line = x * q + (start + slope * x) % q
            yield line[line < n].tolist()


def _fit_group(
    X: Floats, sizes: Int64, Cs: list[float], guesses: Guesses, group: Group
) -> list[list[Fit]]:
    """Fit the hyperplanes of a group of pairs at each C. Scores of the first class are negative.

    The rows X (N, D) are sorted by class, and each class has so many. Nothing else decides the
    result, so any process may compute it.
    """
    rows = np.split(X, np.cumsum(sizes)[:-1])
    fits: dict[float, list[Fit]] = {}
    with np.errstate(all="ignore"):  # numbers that are not finite end a fit, and libsvm takes over
        if group.is_line:
            line = Line([rows[c] for c in np.unique(group.pairs)])
            fits = {C: line.fit(C) for C in Cs if C * line.rows_of_pair <= LARGE_C}
        others = [C for C in Cs if C not in fits]
        if others:
            fits |= zip(others, _fit_by_size(group.pairs, rows, others, guesses), strict=True)
    return [fits[C] for C in Cs]


def _fit_by_size(
    pairs: list[Pair], rows: list[Floats], Cs: list[float], guesses: Guesses
) -> list[list[Fit]]:
    """Fit pairs with the same number of rows together, at each C."""
    by_size: dict[int, list[Pair]] = defaultdict(list)
    for i, j in pairs:
        by_size[len(rows[i]) + len(rows[j])].append((i, j))
    found: list[dict[Pair, Fit]] = [{} for _ in Cs]
    for members in by_size.values():
        alike = FitsOfPairs(Pairs.of(rows, members), max(Cs), guesses)
        for C, fits in zip(Cs, found, strict=True):
            fits |= zip(members, alike.at(C), strict=True)
    return [[fits[pair] for pair in pairs] for fits in found]


class FitsOfPairs:
    """The fits of pairs with the same number of rows."""

    def __init__(self, pairs: Pairs, largest_C: float, guesses: Guesses) -> None:
        self._pairs = pairs
        self._guesses = guesses
        self._separations = _separate(pairs, largest_C, guesses)
        self._fits: dict[float, list[Fit]] = {}

    def at(self, C: float) -> list[Fit]:
        """Take the widest margins, which are the solutions at a large C, and fit the others."""
        if C not in self._fits:
            n_rows = self._pairs.rows.shape[1]
            fits: dict[int, Fit] = {}
            if C * n_rows > WIDE_C:
                for number, separation in enumerate(self._separations):
                    if separation is not None and separation.least_c <= C:
                        fits[number] = Fit(separation.hyperplane, True)
            left = [number for number in range(len(self._pairs.rows)) if number not in fits]
            if left:
                numbers = np.array(left)
                pairs = self._pairs.take(numbers)
                margins = self._guess(pairs, numbers, C)
                fits |= zip(left, _fit_pairs(pairs, C, margins), strict=True)
            self._fits[C] = [fits[number] for number in range(len(self._pairs.rows))]
        return self._fits[C]

    def _guess(self, pairs: Pairs, numbers: Int64, C: float) -> Floats:
        """Guess the margins (P, N) of some of the pairs.

        The smaller C is the same in any sweep, so that a fit does not depend on the others. More of
        them would take longer than they save.
        """
        _, n_rows, n_columns = pairs.rows.shape
        smaller = [number / n_rows for number in SMALLER_C if number / n_rows < C]
        if not smaller or not _is_overlapping(pairs, C):
            return self._guesses.margins(pairs, C)
        if n_rows < MANY_PER_COLUMN * n_columns:
            return np.ones_like(pairs.signs)  # all rows take part
        at_smaller = self.at(smaller[-1])
        fits = [at_smaller[number] for number in numbers]
        return margins_at_larger_c(pairs, _stack(fits)[0], C)


def _separate(pairs: Pairs, largest_C: float, guesses: Guesses) -> list[Separation | None]:
    """Return the widest margins of pairs; None if the classes overlap or need a larger C."""
    n_pairs, n_rows, n_columns = pairs.rows.shape
    if largest_C * n_rows <= WIDE_C or n_rows >= MANY_ROWS * n_columns**2:
        return [None] * n_pairs
    guess = guesses.margins(pairs, SEPARATING_C)
    return [
        fit_separable(pairs.rows[number], pairs.signs[number], largest_C, guess[number])
        for number in range(n_pairs)
    ]


def _fit_pairs(pairs: Pairs, C: float, margins: Floats) -> list[Fit]:
    """Fit pairs by the method for their shape, from a guess of all margins (P, N)."""
    hyperplanes: list[Floats | None] = [None] * len(pairs.rows)
    if C * pairs.rows.shape[1] >= BOUNDED_C and not _is_overlapping(pairs, C):
        hyperplanes = _fit_bounded(pairs, C, margins)
    left = [number for number, hyperplane in enumerate(hyperplanes) if hyperplane is None]
    if left:
        others = _fit_reduced(pairs.take(np.array(left)), C, margins[left])
        for number, hyperplane in zip(left, others, strict=True):
            hyperplanes[number] = hyperplane
    fits = []
    for number, hyperplane in enumerate(hyperplanes):
        if hyperplane is None:
            fits.append(_fit_all_rows(pairs.single(number), C))
        else:
            fits.append(Fit(hyperplane, True))
    return fits


def _fit_bounded(pairs: Pairs, C: float, margins: Floats) -> list[Floats | None]:
    """Fit pairs by the active-set method."""
    hyperplanes: list[Floats | None] = []
    for number, guess in enumerate(margins):
        hyperplane = fit_bounded(pairs.rows[number], pairs.signs[number], C, guess)
        if hyperplane is not None:
            hyperplane = _with_best_intercept(pairs.single(number), hyperplane)
        hyperplanes.append(hyperplane)
    return hyperplanes


def _fit_reduced(pairs: Pairs, C: float, margins: Floats) -> list[Floats | None]:
    """Fit pairs by the interior-point method or by libsvm, on the rows that decide them.

    The interior-point method also takes many rows for each column, since libsvm needs the products
    of all of them. If a Gram matrix does not hold these, libsvm computes them again and again.
    """
    _, n_rows, n_columns = pairs.rows.shape
    many = min(MANY_PER_COLUMN * n_columns, GRAM_ROWS + 1)
    enough = max(many, ENOUGH_ROWS * n_columns**2)
    is_overlapping = _is_overlapping(pairs, C)

    def fit(problems: Problems) -> list[Floats | None]:
        rows_left = problems.rows.shape[1]
        if is_overlapping or rows_left >= enough:
            return _fit_in_batches(fit_overlapping, problems, C)
        fits = [libsvm.fit_pair(*problem, C) for problem in zip(*problems, strict=True)]
        return [hyperplane if converged else None for hyperplane, converged in fits]

    is_large = C * n_rows > LARGE_C
    least_rows = ROWS_PER_COLUMN * n_columns if is_overlapping and is_large else 0
    return fit_reduced(pairs, margins, fit, least_rows)


def _is_overlapping(pairs: Pairs, C: float) -> bool:
    """Return whether the interior-point method is the faster one."""
    _, n_rows, n_columns = pairs.rows.shape
    if C * n_rows > LARGE_C:
        return bool(n_rows >= ENOUGH_ROWS * n_columns**2)
    return bool(n_columns <= FEW_COLUMNS)


def _fit_in_batches(
    fit: Callable[[Floats, Floats, Floats], list[Floats | None]], problems: Problems, C: float
) -> list[Floats | None]:
    """Call `fit` for as many problems at a time as stay in the cache."""
    count, n_rows, n_columns = problems.rows.shape
    step = max(1, BATCH // (n_rows * (n_columns + 1)))
    hyperplanes: list[Floats | None] = []
    for start in range(0, count, step):
        rows, signs, counts = (array[start : start + step] for array in problems)
        hyperplanes += fit(rows, signs, C * counts)
    return hyperplanes


def _fit_all_rows(pair: Pairs, C: float) -> Fit:
    """Fit a pair where another fit did not converge."""
    (hyperplane,) = _fit_in_batches(fit_overlapping, pair.problems, C)
    if hyperplane is None:
        return Fit(*libsvm.fit_pair(pair.rows[0], pair.signs[0], pair.problems.counts[0], C))
    return Fit(_with_best_intercept(pair, hyperplane), True)


def _with_best_intercept(pair: Pairs, hyperplane: Floats) -> Floats:
    """Replace the intercept of a single pair's hyperplane (D + 1,)."""
    (best,) = pair.with_best_intercepts(hyperplane[None].astype(np.float32))
    return np.asarray(best)


class Line:
    """The rows of a few classes, all pairs of which libsvm fits in one call."""

    def __init__(self, rows: list[Floats]) -> None:
        self._rows = rows
        self.rows_of_pair = 2 * max(map(len, rows))

    @cached_property
    def _problem(self) -> tuple[Floats, Int64, Floats]:
        X = np.concatenate(self._rows)
        y = np.repeat(np.arange(len(self._rows)), list(map(len, self._rows)))
        return X, y, libsvm.gram(X)

    def fit(self, C: float) -> list[Fit]:
        """Fit the pairs, in the order of their classes."""
        X, y, gram = self._problem
        return _fit_all_pairs(X, y, C, gram)


def _fit_all_pairs(X: Floats, y: Int64, C: float, gram: Floats) -> list[Fit]:
    """Fit all pairs of three classes or more; rows of X are sorted by class."""
    fits = [Fit(*fit) for fit in zip(*libsvm.fit_all_pairs(X, y, C, gram), strict=True)]
    pairs = list(combinations(range(y[-1] + 1), 2))
    rows = [X[y == c] for c in range(y[-1] + 1)]
    for number, fit in enumerate(fits):
        if not fit.converged:
            fits[number] = _fit_all_rows(Pairs.of(rows, [pairs[number]]), C)
    return fits
