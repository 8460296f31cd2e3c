"""A linear SVM, one against one, that predicts as scikit-learn's SVC does.

Pairs of classes are fitted in parallel, each by the fastest of three methods: an interior-point
method if it has many more rows than columns, else an active-set method if a hyperplane separates
the classes, else libsvm. The interior-point method also fits pairs that libsvm does not finish
soon, such as equal rows of different classes at a large C. One hyperplane per pair replaces
libsvm's prediction by kernels. A call of scikit-learn or numpy takes about as long as the fit of a
small pair, so that several pairs share it: the pairs of a few classes, or pairs with the same
number of rows. If one Gram matrix holds all rows, memory all hyperplanes, and pairs do not have
many more rows than columns, libsvm fits all pairs in one call, and settings run in parallel.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.linalg import LinAlgError
from numpy.typing import NDArray

from clipkit.analysis.probes.models import PAIRS, Hyperplanes, Pair, count_votes
from clipkit.analysis.probes.pairs import Separation, fit_overlapping, fit_separable
from clipkit.analysis.probes.sweep_context import Setting, Solution, SweepContext
from clipkit.features.model import Floats, Int64

if TYPE_CHECKING:
    from sklearn.svm import SVC

GRAM_ROWS = 4096  # of the largest Gram matrix: 128 MiB in float64
NORMALS = 2**24  # numbers in the normals of all pairs that are in memory at once
MANY_ROWS = 0.04  # per squared column, from which the interior-point method is fastest
FIRST_ROWS = 1024  # what is fitted on first if a pair has more than GRAM_ROWS
TOLERANCE = 1e-3  # of the margin, as in SVC
MAX_WORK = 2**27  # of libsvm for one pair, rows times iterations: one or two seconds
BATCH = 2**17  # numbers of the pairs that the interior-point method fits at once: 1 MiB in float64
LINE = 2**24  # numbers of the pairs of a line, whose rows are copied for each pair


class Fit(NamedTuple):
    """The hyperplane (w, b) of a pair, (D + 1,), and whether it is within the tolerance."""

    hyperplane: Floats
    converged: bool


@dataclass
class Tally:
    """The votes (n, M) of the pairs that were fitted at one setting, and whether all converged."""

    votes: NDArray[np.int32]
    converged: bool = True
    hyperplanes: dict[Pair, Floats] = field(default_factory=dict)  # if they are kept

    def add(self, pairs: list[Pair], fits: Sequence[Fit], context: SweepContext) -> None:
        """Count the votes of a group of pairs."""
        hyperplanes, converged = _stack(fits)
        for start in range(0, len(pairs), PAIRS):
            batch = slice(start, start + PAIRS)
            count_votes(self.votes, pairs[batch], hyperplanes[batch], context.X_eval)
        self.converged = self.converged and converged
        if context.keep:
            self.hyperplanes |= zip(pairs, hyperplanes, strict=True)

    def predictions(self) -> Solution:
        """Return the classes with the most votes."""
        model = None
        if self.hyperplanes:
            in_order = [hyperplane for _, hyperplane in sorted(self.hyperplanes.items())]
            model = Hyperplanes(np.stack(in_order), len(self.votes))
        return Solution(self.votes.argmax(axis=0)[:, None], self.converged, model)


def _stack(fits: Sequence[Fit]) -> tuple[Floats, bool]:
    """Return the hyperplanes (P, D + 1) of P pairs, and whether all converged."""
    hyperplanes, converged = zip(*fits, strict=True)
    return np.stack(hyperplanes), all(converged)


def svm(context: SweepContext) -> list[Solution]:
    """Let linear SVMs of all pairs of classes vote. The first class wins a tie, as in libsvm."""
    n_rows, n_columns = context.X.shape
    normals = math.comb(context.n_classes, 2) * n_columns
    is_small = n_rows <= GRAM_ROWS and normals <= NORMALS
    is_long = _has_many_rows(2 * n_rows / context.n_classes, n_columns)
    if context.n_classes > 2 and is_small and not is_long:
        return _fit_all_pairs_at_once(context)
    return _fit_in_groups(context)


def _has_many_rows(rows_of_pair: float, n_columns: int) -> bool:
    """Return True if the interior-point method is the fastest for a pair of classes."""
    return rows_of_pair >= MANY_ROWS * n_columns**2


def _fit_all_pairs_at_once(context: SweepContext) -> list[Solution]:
    order = np.argsort(context.y, kind="stable")
    X, y = context.X[order], context.y[order]
    gram = _gram(X)
    report_progress = context.workers.progress(len(context.settings))

    def solve(setting: Setting) -> Solution:
        hyperplanes, converged = _stack(_fit_all_pairs(X, y, setting.C, gram))
        model = Hyperplanes(hyperplanes, context.n_classes)
        predicted = model.predict(context.X_eval)
        report_progress(1)
        return Solution(predicted[:, None], converged, context.kept_model(model))

    return context.workers.map(solve, context.settings)


def _fit_in_groups(context: SweepContext) -> list[Solution]:
    n = context.n_classes
    rows = [context.X[context.y == c] for c in range(n)]
    groups = _group_pairs(list(map(len, rows)), context.X.shape[1])
    Cs = [setting.C for setting in context.settings]
    tallies = [Tally(np.zeros((n, len(context.X_eval)), dtype=np.int32)) for _ in Cs]
    report_progress = context.workers.progress(math.comb(n, 2))

    def fit_at_all_settings(pairs: list[Pair]) -> list[list[Fit]]:
        # numbers that are not finite end a fit, and libsvm takes over
        with np.errstate(all="ignore"):
            fits = _fit_group(pairs, rows, Cs)
        report_progress(len(pairs))
        return fits

    for batch in _batches(groups, NORMALS // ((context.X.shape[1] + 1) * len(Cs))):
        fits_of_groups = context.workers.map(fit_at_all_settings, batch)
        for pairs, fits in zip(batch, fits_of_groups, strict=True):
            for tally, fits_of_setting in zip(tallies, fits, strict=True):
                tally.add(pairs, fits_of_setting, context)
    return [tally.predictions() for tally in tallies]


def _batches(groups: list[list[Pair]], most: int) -> Iterator[list[list[Pair]]]:
    """Yield consecutive groups that together have at most so many pairs, or a single group."""
    batch: list[list[Pair]] = []
    for group in groups:
        if batch and sum(map(len, batch)) + len(group) > most:
            yield batch
            batch = []
        batch.append(group)
    yield batch


def _group_pairs(sizes: list[int], n_columns: int) -> list[list[Pair]]:
    """Divide the pairs of classes, which have so many rows, into groups that are fitted together.

    Pairs of many rows share a group if they have as many. The others share one if they are on a
    line, unless their rows or its Gram matrix would be too large.
    """
    groups: list[list[Pair]] = []
    by_size: dict[int, list[Pair]] = defaultdict(list)
    for line in _lines(len(sizes)):
        few_rows: list[Pair] = []
        for i, j in combinations(line, 2):
            size = sizes[i] + sizes[j]
            if _has_many_rows(size, n_columns):
                by_size[size].append((i, j))
            else:
                few_rows.append((i, j))
        if few_rows:
            groups += _divide_line(few_rows, [sizes[c] for c in line], n_columns)
    for size, pairs in by_size.items():
        step = max(1, BATCH // (size * (n_columns + 1)))
        groups += [pairs[start : start + step] for start in range(0, len(pairs), step)]
    return groups


def _divide_line(pairs: list[Pair], sizes: list[int], n_columns: int) -> list[list[Pair]]:
    """Return the pairs of a line of classes of these sizes as one group, or singly if it is large.

    Its Gram matrix has all rows, and each pair has a copy of its rows.
    """
    total = sum(sizes)
    if total <= GRAM_ROWS and total * len(sizes) * n_columns <= LINE:
        return [pairs]
    return [[pair] for pair in pairs]


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


def _fit_group(pairs: list[Pair], rows: list[Floats], Cs: list[float]) -> list[list[Fit]]:
    """Fit the hyperplanes of a group of pairs at each C. Scores of the first class are negative."""
    problems = [LibsvmPair(rows[i], rows[j]) for i, j in pairs]
    if _has_many_rows(*problems[0].rows.shape):
        return _fit_many_rows(problems, Cs)
    separations = _separate(problems, max(Cs))
    line = Line(pairs, rows)
    return [_fit_few_rows(problems, C, separations, line) for C in Cs]


def _fit_many_rows(problems: list[LibsvmPair], Cs: list[float]) -> list[list[Fit]]:
    """Fit pairs with the same number of rows by the interior-point method, at each C."""
    rows = np.stack([problem.rows for problem in problems])
    signs = np.stack([problem.signs for problem in problems])
    fits = []
    for C in Cs:
        hyperplanes = fit_overlapping(rows, signs, C)
        fits.append(_complete(problems, C, hyperplanes))
    return fits


def _separate(problems: list[LibsvmPair], largest_C: float) -> list[Separation | None]:
    """Return the widest margins of pairs; None if the classes overlap or need a larger C."""
    separations: list[Separation | None] = [None] * len(problems)
    with suppress(LinAlgError):  # the other pairs are likely to be singular, too
        for number, problem in enumerate(problems):
            separations[number] = fit_separable(problem.rows, problem.signs, largest_C)
    return separations


def _fit_few_rows(
    problems: list[LibsvmPair], C: float, separations: list[Separation | None], line: Line
) -> list[Fit]:
    """Take the widest margins, which are the solutions at a large C, and let libsvm fit the rest.

    If they leave more than half of the pairs of a line, libsvm fits the whole line in one call.
    """
    hyperplanes: list[Floats | None] = [None] * len(problems)
    for number, separation in enumerate(separations):
        if separation is not None and separation.least_c <= C:
            hyperplanes[number] = separation.hyperplane
    unsolved = sum(hyperplane is None for hyperplane in hyperplanes)
    is_line_faster = len(line.classes) > 2 and unsolved > len(problems) / 2
    fits_of_line = line.fit(C) if is_line_faster else []
    return _complete(problems, C, hyperplanes, fits_of_line)


def _complete(
    problems: list[LibsvmPair],
    C: float,
    hyperplanes: Sequence[Floats | None],
    fits_of_line: Sequence[Fit] = (),
) -> list[Fit]:
    """Return the fits of pairs. libsvm finds those that are None, unless it has fitted the line."""
    fits = []
    for number, hyperplane in enumerate(hyperplanes):
        if hyperplane is not None:
            fits.append(Fit(hyperplane.astype(np.float32), True))
        elif fits_of_line:
            fits.append(fits_of_line[number])
        else:
            problem = problems[number]
            fits.append(_finish(problem.rows, problem.signs, C, problem.fit(C)))
    return fits


def _finish(rows: Floats, signs: Floats, C: float, fit: Fit) -> Fit:
    """Return a fit of libsvm that converged, or fit the rows by the interior-point method."""
    if fit.converged:
        return fit
    (hyperplane,) = fit_overlapping(rows[None], signs[None], C)
    return fit if hyperplane is None else Fit(hyperplane.astype(np.float32), True)


class Line:
    """The rows of a few classes, whose pairs libsvm fits in one call."""

    def __init__(self, pairs: list[Pair], rows: list[Floats]) -> None:
        self.pairs, self._rows = pairs, rows
        self.classes = np.unique(pairs).tolist()

    @cached_property
    def _problem(self) -> tuple[Floats, Int64, Floats]:
        rows = [self._rows[c] for c in self.classes]
        X = np.concatenate(rows)
        return X, np.repeat(np.arange(len(rows)), list(map(len, rows))), _gram(X)

    def fit(self, C: float) -> list[Fit]:
        """Fit the pairs."""
        X, y, gram = self._problem
        fits = dict(zip(combinations(self.classes, 2), _fit_all_pairs(X, y, C, gram), strict=True))
        return [fits[pair] for pair in self.pairs]


def _fit_all_pairs(X: Floats, y: Int64, C: float, gram: Floats) -> list[Fit]:
    """Fit all pairs of three classes or more; rows of X are sorted by class."""
    svc = _fit_libsvm("precomputed", gram, y, C)
    ends = np.cumsum([0, *svc.n_support_])
    # for each class, the share of its support vectors in the normals against each other class
    shares = []
    for start, stop in pairwise(ends):
        shares.append(svc.dual_coef_[:, start:stop] @ X[svc.support_[start:stop]])  # (n - 1, D)
    pairs = list(combinations(range(len(shares)), 2))
    normals = [shares[i][j - 1] + shares[j][i] for i, j in pairs]
    hyperplanes = -np.column_stack([normals, svc.intercept_]).astype(np.float32)
    fits = [Fit(hyperplane, True) for hyperplane in hyperplanes]
    for number in np.flatnonzero(svc.n_iter_ >= MAX_WORK // len(X)):
        members = np.isin(y, pairs[number])
        signs = np.where(y[members] == pairs[number][0], -1, 1).astype(np.float32)
        fits[number] = _finish(X[members], signs, C, Fit(hyperplanes[number], False))
    return fits


class LibsvmPair:
    """Fits of libsvm to rows (N, D) of sign -1 and 1, which share a Gram matrix of all rows."""

    def __init__(self, first: Floats, second: Floats) -> None:
        self.rows = np.concatenate([first, second])
        self.signs = np.repeat([-1, 1], [len(first), len(second)]).astype(np.float32)

    @cached_property
    def _gram(self) -> Floats:
        return _gram(self.rows)

    def fit(self, C: float) -> Fit:
        """Fit all rows, or fit by chunking if their Gram matrix would be too large.

        Chunking (Boser, Guyon & Vapnik 1992) fits some rows, adds those that violate the margin,
        and repeats until none does. Rows that are left out have no weight in the solution.
        """
        rows, signs = self.rows, self.signs
        if len(rows) <= GRAM_ROWS:
            return _fit_rows(rows, signs, C, self._gram)
        stride = math.ceil(len(rows) / FIRST_ROWS)
        used = np.zeros(len(rows), bool)
        for sign in (-1, 1):
            used[np.flatnonzero(signs == sign)[::stride]] = True
        while True:
            gram = _gram(rows[used]) if used.sum() <= GRAM_ROWS else None
            fit = _fit_rows(rows[used], signs[used], C, gram)
            unused = np.flatnonzero(~used)
            margins = signs[unused] * (rows[unused] @ fit.hyperplane[:-1] + fit.hyperplane[-1])
            violators = unused[margins < 1 - TOLERANCE]
            if len(violators) == 0 or not fit.converged:
                return fit
            used[violators] = True
            if used.mean() > 0.5:
                used[:] = True


def _gram(rows: Floats) -> Floats:
    """Return the Gram matrix, float64 as libsvm takes it."""
    return (rows @ rows.T).astype(np.float64)


def _fit_rows(rows: Floats, signs: Floats, C: float, gram: Floats | None) -> Fit:
    """Fit the hyperplane between rows of sign -1 and 1.

    Without a Gram matrix, libsvm computes what it needs.
    """
    if gram is None:
        svc = _fit_libsvm("linear", rows, signs, C)
    else:
        svc = _fit_libsvm("precomputed", gram, signs, C)
    normal = svc.dual_coef_[0] @ rows[svc.support_]
    hyperplane = np.append(normal, svc.intercept_).astype(np.float32)
    return Fit(hyperplane, svc.fit_status_ == 0)


def _fit_libsvm(kernel: str, matrix: Floats, y: Int64 | Floats, C: float) -> SVC:
    import sklearn  # slow to load, and not needed by the other methods
    from sklearn.svm import SVC

    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        return SVC(kernel=kernel, C=C, max_iter=MAX_WORK // len(y)).fit(matrix, y)
