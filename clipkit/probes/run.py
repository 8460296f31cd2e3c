"""The sweep: checks, standardisation, which members are one problem, and their predictions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from joblib import cpu_count  # type: ignore[import-untyped]
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from clipkit.errors import ClipkitError, UsageError, unknown
from clipkit.probes.classifiers import knn, logreg, mlp
from clipkit.probes.problem import Floats, Ints, Problem, Progress, Solved
from clipkit.probes.svm import svm

CLASSIFIERS: dict[str, Callable[[Problem], Solved]] = {
    "svm": svm,
    "logreg": logreg,
    "mlp": mlp,
    "knn": knn,
}
LINEAR = ("svm", "logreg")  # these know C * scale**2 alone


@dataclass(frozen=True)
class Run:
    """One member of a sweep: a classifier fitted at one (scale, C), and what it predicts.

    `C` is NaN for kNN, which has none. `predicted` maps each evaluation array's name to class ids (M,) int64.
    `converged` is False where logistic regression stopped at its iteration limit.
    """

    classifier: str
    C: float
    scale: float
    predicted: Mapping[str, Ints]
    converged: bool = True


def sweep(
    fit_features: Floats,
    fit_labels: Ints,
    eval_features: Mapping[str, Floats],
    *,
    classifier: str = "svm",
    C: Sequence[float] = (1.0,),
    scales: Sequence[float] = (1.0,),
    standardize: bool = False,
    seed: int = 42,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> list[Run]:
    """Fit a classifier at every (scale, C) and predict every evaluation array; runs come scale by scale.

    A run does not depend on which others share its sweep. To a linear classifier the scale s matters only through
    C s^2, so members that agree in it are solved once.

    Parameters
    ----------
    fit_features, fit_labels : arrays (N, D) and (N,)
        What is fitted on, and its class ids.
    eval_features : mapping of name to array (M, D)
        What is predicted; validation and test rows come from the same fit.
    classifier : {"svm", "logreg", "mlp", "knn"}
        `svm` predicts as `SVC(kernel="linear")`, by votes of one classifier a pair of classes; `logreg` is multinomial;
        `mlp` has one hidden layer of 256 units, trained by Adam for 20 epochs, or 1,000 steps where that is more; `knn`
        weighs the 20 nearest by cosine with exp(cosine / 0.07).
    C : sequence of float
        Inverse strength of the L2 penalty: the sum of the losses has weight C against ||w||^2 / 2.
    scales : sequence of float
        Factors that multiply the features; cosines at temperature tau are scale 1 / tau.
    standardize : bool
        Give each column mean 0 and variance 1, as measured on `fit_features` after scaling: scales no longer matter.
    seed, jobs : int
        For the MLP, which alone draws random numbers; threads, by default as many as cores.
    progress : callable, optional
        Called as `progress(done, total)` in units of work, from any thread, one call at a time.

    Raises
    ------
    UsageError
        Unknown classifier; C or scale not finite and positive; several values of C for kNN.
    ClipkitError
        Fewer than two classes to tell apart; arrays whose shapes do not agree.

    Examples
    --------
    >>> X, y = np.array([[0.0, 1.0], [0.0, 2.0], [3.0, 1.0], [4.0, 1.0]]), np.array([7, 7, 9, 9])
    >>> [run.predicted["test"] for run in sweep(X, y, {"test": X[1:3]}, scales=[1, 10])]
    [array([7, 9]), array([7, 9])]
    """
    _check(fit_features, fit_labels, eval_features, classifier, C, scales)
    classes, y = np.unique(fit_labels, return_inverse=True)
    ends = np.cumsum([0, *map(len, eval_features.values())])
    X, E, size = _prepare(
        classifier, standardize, fit_features, np.vstack([*eval_features.values()])
    )
    grid = [(float(scale), float(c)) for scale in scales for c in C]
    members = [(size * (1 if standardize else scale), c) for scale, c in grid]
    if classifier in LINEAR:
        members = [(1.0, float(f"{c * scale**2:.9g}")) for scale, c in members]
    unique = sorted(set(members))
    # OpenMP counts its threads for each thread, so every worker sets its own limit
    workers = ThreadPoolExecutor(jobs or cpu_count(), initializer=threadpool_limits, initargs=(1,))
    with threadpool_limits(1), workers as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # Run.converged says it
        problem = Problem(X, y, E, unique, seed, pool, progress)
        try:
            solved = CLASSIFIERS[classifier](problem)
        finally:  # after an interrupt nothing that waits may start, and what runs ends at its next tick
            problem.stopped = True
            pool.shutdown(cancel_futures=True)
    runs = []
    for (scale, c), member in zip(grid, members, strict=True):
        predicted, converged = solved[unique.index(member)]
        named = {
            name: classes[predicted[a:b]]
            for name, a, b in zip(eval_features, ends, ends[1:], strict=False)
        }
        runs.append(
            Run(classifier, math.nan if classifier == "knn" else c, scale, named, converged)
        )
    return runs


def _check(
    X: Floats, y: Ints, evals: Mapping[str, Floats], classifier: str, *grid: Sequence[float]
) -> None:
    if classifier not in CLASSIFIERS:
        raise unknown("classifier", classifier, CLASSIFIERS)
    if classifier == "knn" and len(grid[0]) > 1:
        raise UsageError(f"knn has no C to sweep over; got {len(grid[0])} values", "leave C out")
    for what, values in zip(("C", "a scale"), grid, strict=True):
        for value in values:
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"{what} must be finite and above 0; got {value}")
    if len(X) != len(y):
        raise ClipkitError(f"features and labels must have as many rows; got {len(X)} and {len(y)}")
    if (n := len(np.unique(y))) < 2:
        raise ClipkitError(
            f"a probe must have two classes or more to tell apart; got {n}", "fit on more rows"
        )
    for name, array in evals.items():
        if array.shape[1:] != X.shape[1:]:
            raise ClipkitError(
                f"{name} must have as many columns as what is fitted on; got {array.shape}, {X.shape}"
            )


def _prepare(
    classifier: str, standardize: bool, X: Floats, E: Floats
) -> tuple[Floats, Floats, float]:
    """Standardise; centre but for kNN; for linear classifiers divide by the RMS, which comes third and C takes up.

    Intercepts are not penalised, so a shift changes no solution, but products of centred rows keep their precision in
    float32, L-BFGS needs a fraction of the iterations, and the MLP's Adam comes further in its epochs.
    """
    size = 1.0
    if standardize:
        scaler = StandardScaler().fit(X)
        X, E = scaler.transform(X), scaler.transform(E)
    if classifier != "knn":
        centre = X.mean(axis=0, dtype=np.float64).astype(np.result_type(X, np.float32))
        X, E = X - centre, E - centre
    if classifier in LINEAR:
        size = float(np.linalg.norm(X)) / math.sqrt(X.size) or 1.0
    return (X / size).astype(np.float32), (E / size).astype(np.float32), size
