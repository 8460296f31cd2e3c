"""The sweep: check the input, standardise, solve each distinct setting once, predict."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from clipkit.analysis.metrics import best_classes
from clipkit.analysis.probes.fitted import (
    NEIGHBOURS,
    FittedProbe,
    MLPWeights,
    Neighbours,
    Preparation,
    largest_magnitude,
    unit_rows,
)
from clipkit.analysis.probes.logistic import logreg
from clipkit.analysis.probes.svm import svm
from clipkit.analysis.probes.sweep_context import (
    ProgressCallback,
    Setting,
    SharedRows,
    Solution,
    SweepContext,
    Workers,
)
from clipkit.base.errors import LARGEST, SMALLEST, ClipkitError, UsageError, check_positive, unknown
from clipkit.features.model import BlockMatrix, Float32, Floats, Int64, row_blocks

HIDDEN = 256  # units of the MLP
BATCH = 200  # rows in a step of Adam
EPOCHS = 40
STEPS = 1000  # the MLP trains for EPOCHS, or for this many steps where that is longer
PEAK_RATE, WARMUP = 0.01, 0.3  # of Adam's one-cycle rate: its highest, after this share of epochs
BLOCK = 2**22  # numbers that are prepared at a time
LINEAR = ("svm", "logreg")  # their solution depends on C * scale**2 alone


@dataclass(frozen=True)
class Run:
    """A classifier fitted at one (scale, C), and the best class ids (M, k) of each row.

    k is 5, or 1 of an SVM or if there are 5 classes or fewer. If fewer classes have a neighbour,
    the best is repeated. C is NaN for kNN, which has none. An SVM or logistic regression that
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
    classifier: str = "svm",
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
    classifier : {"svm", "logreg", "mlp", "knn"}
        `svm` predicts as `SVC(kernel="linear")`: one classifier per pair of classes votes.
        `logreg` is multinomial. `mlp` has one hidden layer of 256 units, trained by Adam with a
        one-cycle rate for 40 epochs, or for 1,000 steps where that is longer. `knn` weights the
        nearest rows by exp(cosine / 0.07).
    C : sequence of float
        Inverse strength of the L2 penalty: the sum of losses has weight C against ||w||^2 / 2.
    scales : sequence of float
        Factors that multiply the features. Cosines at temperature tau have scale 1 / tau.
    standardize : bool
        Give each column mean 0 and variance 1, measured on `X`. Scales then have no
        effect.
    balanced : bool
        Of `logreg`: weight each row's loss by N / (n * rows of its class) for n classes, so that
        all classes count alike, as ``class_weight="balanced"`` in scikit-learn.
    seed : int
        Only the MLP draws random numbers.
    k : int, optional
        Of `knn`: number of nearest rows, 20 by default.
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
        If the classifier is unknown, a C or scale is out of range, kNN gets a C, another classifier
        gets a `k`, or another one than `logreg` is to be balanced.
    ClipkitError
        If there are fewer than two classes, the arrays' shapes do not agree, or the features are so
        large or small that fits would overflow or take forever.

    Examples
    --------
    >>> X, y = np.array([[0.0, 1.0], [0.0, 2.0], [3.0, 1.0], [4.0, 1.0]]), np.array([7, 7, 9, 9])
    >>> [run.predicted for run in sweep(X, y, X[1:3], scales=[1, 10])]
    [array([7, 9]), array([7, 9])]
    """
    _check_settings(classifier, C, scales)
    if balanced and classifier != "logreg":
        raise UsageError(f"balanced: expected the classifier logreg, got {classifier}")
    if k is not None and classifier != "knn":
        raise UsageError(f"k: expected the classifier knn, got {classifier}")
    _check_arrays(X, y, X_eval)
    classes, numbers = np.unique(y, return_inverse=True)
    shared = shared or SharedRows()
    if shared.prepared is None:
        prepared, preparation = _prepare(classifier, standardize, X)
        shared.prepared = prepared, preparation, _apply(preparation, X_eval)
    rows, preparation, eval_rows = shared.prepared

    grid = [Setting(float(scale), float(c)) for scale, c in itertools.product(scales, C)]
    reduced = [_reduce(setting, classifier, standardize, preparation.rms) for setting in grid]
    distinct = sorted(set(reduced))
    with threadpool_limits(1), Workers(progress) as workers, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # Run.converged reports it
        # scikit-learn doubts that labels are classes where most of them occur once
        warnings.filterwarnings("ignore", "The number of unique classes")
        weights = len(y) / (len(classes) * np.bincount(numbers)) if balanced else None
        rest = (distinct, seed, workers, weights, keep, k or NEIGHBOURS, shared)
        context = SweepContext(rows, numbers, eval_rows, *rest)
        predictions = dict(zip(distinct, CLASSIFIERS[classifier](context), strict=True))

    runs = []
    for setting, reduced_setting in zip(grid, reduced, strict=True):
        solution = predictions[reduced_setting]
        best = classes[solution.best]
        c = math.nan if classifier == "knn" else setting.C
        fitted = None
        if keep:
            factor = reduced_setting.scale if classifier == "mlp" else 1.0
            fitted = FittedProbe(
                classifier, classes, solution.model, preparation, factor, balanced=balanced
            )
        runs.append(Run(classifier, c, setting.scale, best, solution.converged, fitted))
    return runs


def _check_settings(classifier: str, C: Sequence[float], scales: Sequence[float]) -> None:
    if classifier not in CLASSIFIERS:
        raise unknown("classifier", classifier, CLASSIFIERS)
    if classifier == "knn" and list(C) != [1]:
        raise UsageError("C: expected none for knn, which has no regularisation", "leave C out")
    for name, values in (("C", C), ("scale", scales)):
        for value in values:
            check_positive(name, value)


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
    classifier: str, standardize: bool, X: Floats | BlockMatrix
) -> tuple[Float32, Preparation]:
    """Standardise if asked to, centre except for kNN, and divide by the RMS for linear classifiers.

    Intercepts are not penalised, so a shift changes no solution. But products of centred rows keep
    their precision in float32, L-BFGS needs a fraction of the iterations, and the MLP's Adam gets
    further in its epochs. If the scale of the features matters, it must not be too small or large.
    """
    if classifier == "knn" and not standardize:
        return _apply(Preparation(), X), Preparation()
    largest, scaler = 0.0, StandardScaler()
    for block in row_blocks(X, BLOCK):
        largest = max(largest, largest_magnitude(block))
        scaler.partial_fit(block.astype(np.float64))
    is_extreme = not SMALLEST <= largest <= LARGEST  # their squares are beyond float32
    dtype = np.result_type(getattr(X, "dtype", np.float32), np.float64 if is_extreme else "f4")
    mean, deviation = scaler.mean_.astype(dtype), scaler.scale_.astype(dtype)
    if standardize:
        preparation = Preparation(mean, deviation)
        centre = ((scaler.mean_ - mean) / deviation).astype(dtype)
    else:
        preparation, centre = Preparation(), mean
    if classifier != "knn":
        preparation = replace(preparation, centre=centre)
    rows = _apply(preparation, X)
    if classifier in LINEAR:
        squares = sum(np.square(block, dtype=np.float64).sum() for block in row_blocks(rows, BLOCK))
        preparation = replace(preparation, rms=math.sqrt(squares / rows.size) or 1.0)
        rows /= preparation.rms
    return rows, preparation


def _apply(preparation: Preparation, X: Floats | BlockMatrix) -> Float32:
    """Return prepared rows (N, D), whose features are read a block at a time."""
    rows = np.empty(X.shape, np.float32)
    start = 0
    for block in row_blocks(X, BLOCK):
        rows[start : start + len(block)] = preparation.apply(block)
        start += len(block)
    return rows


def _reduce(setting: Setting, classifier: str, standardize: bool, rms: float) -> Setting:
    """Return the equivalent setting for prepared features, equal for settings of equal solution.

    For linear classifiers, multiplying the features by s is multiplying C by s^2.
    """
    scale = rms if standardize else rms * setting.scale
    if classifier in LINEAR:
        return Setting(1.0, float(f"{setting.C * scale**2:.9g}"))
    return Setting(scale, setting.C)


def mlp(context: SweepContext) -> list[Solution]:
    """Train one hidden layer of ReLU units by cross-entropy and Adam.

    The rate follows one cycle (Smith and Topin 2018), from 0 to PEAK_RATE and back. Training ends
    after a fixed number of epochs, whether or not the loss still falls.
    """
    rows = len(context.y)
    classes = np.arange(context.n_classes)
    batch = min(BATCH, rows)
    epochs = max(EPOCHS, math.ceil(STEPS * batch / rows))
    report_progress = context.workers.progress(len(context.settings) * epochs)

    def solve(setting: Setting) -> Solution:
        scale = np.float32(setting.scale)
        alpha = batch / (setting.C * rows)  # scikit-learn divides it by the rows of a batch
        # partial_fit would start a generator anew from a number, and shuffle all epochs alike
        rng = np.random.RandomState(context.seed)
        network = MLPClassifier(HIDDEN, alpha=alpha, batch_size=batch, random_state=rng)
        for epoch in range(epochs):
            network.learning_rate_init = _one_cycle((epoch + 0.5) / epochs)
            if epoch:  # the first epoch makes the optimizer, which keeps a rate of its own
                network._optimizer.learning_rate_init = network.learning_rate_init
            network.partial_fit(context.X * scale, context.y, classes=classes)
            report_progress(1)
        model = MLPWeights(*map(_with_intercepts, network.coefs_, network.intercepts_))
        if context.n_classes == 2:
            # scikit-learn has one output: the score of the second class above that of the first
            output = np.column_stack([np.zeros_like(model.output), model.output])
            model = replace(model, output=output)
        best = best_classes(model.scores(context.X_eval * scale))
        return Solution(best, model=context.kept_model(model))

    return context.workers.map(solve, context.settings)


def _one_cycle(done: float) -> float:
    """Return the rate after a share of the epochs: it rises by a line and falls by a cosine."""
    if done < WARMUP:
        return PEAK_RATE * done / WARMUP
    return PEAK_RATE * (1 + math.cos(math.pi * (done - WARMUP) / (1 - WARMUP))) / 2


def _with_intercepts(weights: Floats, intercepts: Floats) -> Floats:
    return np.vstack([weights, intercepts]).astype(np.float32)


def knn(context: SweepContext) -> list[Solution]:
    """Predict by the nearest rows, weighted by exp(cosine / temperature), as DINOv2 does."""
    model = Neighbours(unit_rows(context.X), context.y, context.n_classes, context.k)
    blocks = list(model.blocks(context.X_eval))
    report_progress = context.workers.progress(len(blocks))

    def vote(block: Floats) -> Int64:
        votes = model.vote(block)
        has_neighbour = votes > 0
        best = best_classes(votes)
        report_progress(1)
        return np.where(np.take_along_axis(has_neighbour, best, axis=1), best, best[:, :1])

    best = np.concatenate(context.workers.map(vote, blocks))
    # neither scale nor C matters
    return [Solution(best, model=context.kept_model(model))] * len(context.settings)


CLASSIFIERS: dict[str, Callable[[SweepContext], list[Solution]]] = {
    "svm": svm,
    "logreg": logreg,
    "mlp": mlp,
    "knn": knn,
}
