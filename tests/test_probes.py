"""Probes agree with scikit-learn, whatever the scale, labels, company or number of threads."""

from __future__ import annotations

import itertools
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from factories import assert_computed_alike
from scipy.special import log_softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import top_k_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from clipkit import probes
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.features.model import PROBE_ARRAYS, TYPES
from clipkit.probes import (
    active_set,
    interior_point,
    libsvm,
    logistic,
    mlp,
    reduction,
    svm,
    sweep_context,
    sweeps,
)
from clipkit.probes.classifiers import LINEAR
from clipkit.probes.models import Hyperplanes
from clipkit.statistics import metrics

ALL = sorted(probes.CLASSIFIERS)
OF_LENGTH = [name for name in ALL if not probes.CLASSIFIERS[name].compares_directions]
WITH_FURTHER_ACCURACIES = [name for name in ALL if not probes.CLASSIFIERS[name].fits_pairs]


@pytest.fixture(autouse=True, scope="module")
def one_thread_and_short_training():
    with threadpool_limits(1), pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlp, "STEPS", 100)
        yield


def split(X, y, rows=1000):
    """Features and labels to fit on, then those to predict."""
    return X[:rows].astype(np.float32), y[:rows], X[rows:].astype(np.float32), y[rows:]


def blobs(rows, classes, dim, spread):
    rng = np.random.default_rng(0)
    y = rng.integers(classes, size=rows)
    X = spread * rng.standard_normal((classes, dim))[y] + rng.standard_normal((rows, dim))
    return X, y


def digits():
    return split(*load_digits(return_X_y=True))


def unbalanced():
    X, y = load_digits(return_X_y=True)
    rows = np.arange(len(y))
    dropped = (y % 3 == 0) & (rows < 1000) & (rows % 20 > 0)
    return split(X[~dropped], y[~dropped], 1000 - dropped.sum())


def overlapping():
    return split(*blobs(1500, 7, 6, 0.7))


def two_classes():
    return split(*blobs(1200, 2, 20, 0.3), 700)


def odd_ids():
    X, y, X_eval, y_eval = digits()
    ids = np.array([-40, -3, 0, 7, 8, 100, 101, 5000, 10**9, 10**12])
    return X, ids[y], X_eval, ids[y_eval]


def cosines():
    """Like those of 32 prompts: nearly constant; at C = 1 every row is a support vector."""
    X, y = blobs(1600, 10, 32, 0.5)
    return split(0.25 + 0.02 * X, y)


def problems(*functions):
    return pytest.mark.parametrize("problem", functions, ids=lambda function: function.__name__)


def predict(X, y, X_eval, classifier="svm", **options):
    run, *_ = probes.sweep(X, y, X_eval, classifier=classifier, **options)
    return run.predicted


def svc(X, y, X_eval, **options):
    """Predict as scikit-learn's SVC does."""
    model = SVC(kernel="linear", **options)
    return model.fit(X.astype(float), y).predict(X_eval.astype(float))


def assert_agree(a, b, least=0.998):
    """Check the share of equal predictions: rows on a margin may fall on either side."""
    assert np.mean(a == b) >= least


def fit_pairs_by_libsvm_alone(monkeypatch):
    monkeypatch.setattr(svm, "fit_overlapping", lambda rows, signs, C: [None] * len(rows))
    for method in ("fit_bounded", "fit_separable"):
        monkeypatch.setattr(svm, method, lambda rows, signs, C, margins: None)


@pytest.mark.long
@pytest.mark.parametrize("pairs", ["at once", "one by one", "one by one by libsvm"])
@pytest.mark.parametrize("C", [0.01, 1, 100])
@problems(digits, unbalanced, overlapping, two_classes, odd_ids, cosines)
def test_svm_predicts_as_svc_does(monkeypatch, problem, C, pairs):
    X, y, X_eval, _ = problem()
    if pairs != "at once":
        monkeypatch.setattr(svm, "GRAM_ROWS", len(y) - 1)
    if pairs == "one by one by libsvm":
        fit_pairs_by_libsvm_alone(monkeypatch)
        monkeypatch.setattr(libsvm, "MAX_WORK", 2**31)
    (run,) = probes.sweep(X, y, X_eval, C=[C])
    assert (run.converged, run.predicted.dtype) == (True, np.int64)
    assert_agree(run.predicted, svc(X, y, X_eval, C=C))


@pytest.mark.parametrize("gram_rows", [700, 16])
@pytest.mark.parametrize(("spread", "C"), [(0.5, 1), (0.1, 1e-3), (0.1, 1)])
@pytest.mark.long
def test_libsvm_gives_the_same_hyperplane_without_a_gram_matrix(monkeypatch, gram_rows, spread, C):
    X, y, X_eval, _ = split(*blobs(3000, 2, 12, spread), 1500)
    monkeypatch.setattr(libsvm, "GRAM_ROWS", gram_rows)
    fit_pairs_by_libsvm_alone(monkeypatch)
    assert_agree(predict(X, y, X_eval, C=[C]), svc(X, y, X_eval, C=C))


def separable():
    """Few rows, many columns; at C = 0.01, some coefficients reach C."""
    return split(*blobs(700, 3, 300, 0.1), 400)


def svm_loss(plane, rows, signs, C, margin=1.0):
    """Return half the squared normal, and C for each unit that a row lacks to the margin."""
    plane = plane.astype(float)
    losses = np.maximum(0, margin - signs * (rows.astype(float) @ plane[:-1] + plane[-1]))
    return plane[:-1] @ plane[:-1] / 2 + C * losses.sum()


def reference_plane(rows, signs, C, **options):
    model = SVC(kernel="linear", C=C, **options).fit(rows.astype(float), signs)
    return np.append(model.coef_[0], model.intercept_)


def assert_optimal(hyperplane, rows, signs, C, *, tolerance, **options):
    """Compare the loss of a hyperplane with that of scikit-learn's SVC, and return the latter."""
    expected = reference_plane(rows, signs, C, **options)
    least = svm_loss(expected, rows, signs, C)
    assert svm_loss(hyperplane, rows, signs, C) <= least * (1 + tolerance)
    return expected


@pytest.mark.parametrize("C", [1e-60, 1e-6, 1e-3, 1])
@problems(digits, overlapping, two_classes, cosines)
def test_the_interior_point_method_finds_the_optimum(problem, C):
    X, y, *_ = problem()
    rows = X[y < 2] - X[y < 2].mean(axis=0)
    rows /= np.sqrt((rows**2).mean())
    signs = np.where(y[y < 2] == 0, -1, 1).astype(np.float32)
    ones = np.ones((1, len(rows)))
    (hyperplane,) = interior_point.fit_overlapping(rows[None], signs[None], C * ones)
    pair = reduction.Pairs.of([rows[signs < 0], rows[signs > 0]], [(0, 1)])
    (hyperplane,) = pair.with_best_intercepts(hyperplane[None].astype(np.float32))
    expected = assert_optimal(hyperplane, rows, signs, C, tolerance=1e-5, tol=1e-6)
    assert hyperplane == pytest.approx(expected, abs=1e-3 * np.abs(expected).max())
    large, huge = (
        interior_point.fit_overlapping(rows[None], signs[None], C * ones)[0] for C in (1e8, 1e60)
    )
    assert huge == pytest.approx(large, abs=1e-4 * np.abs(large).max())


@pytest.mark.parametrize("columns", [20, 200])
def test_the_active_set_method_finds_the_widest_margin(columns):
    rng = np.random.default_rng(0)
    signs = np.repeat(np.float32([-1, 1]), [60, 150])
    rows = rng.standard_normal((210, columns)).astype(np.float32)
    rows[:, 0] += 4 * signs
    svc = SVC(kernel="linear", C=1e9, tol=1e-6).fit(rows.astype(float), signs)
    separation = active_set.fit_separable(rows, signs, 1e9, signs * rows[:, 0])
    expected = np.append(svc.coef_[0], svc.intercept_)
    assert separation.hyperplane == pytest.approx(expected, abs=2e-3 * np.abs(expected).max())
    assert separation.least_c >= np.abs(svc.dual_coef_).max() * 0.99
    assert active_set.fit_separable(rows, signs, separation.least_c, signs * rows[:, 0]) is not None
    too_small = np.abs(svc.dual_coef_).max() * 0.9
    assert active_set.fit_separable(rows, signs, too_small, signs * rows[:, 0]) is None
    bounded = active_set.fit_bounded(rows, signs, 1e9, signs * rows[:, 0])
    assert bounded == pytest.approx(expected, abs=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("columns", [2, 40])
def test_the_active_set_method_leaves_overlapping_and_equal_rows_to_libsvm(columns):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, columns)).astype(np.float32)
    signs = np.repeat(np.float32([-1, 1]), 150)
    assert active_set.fit_separable(rows, signs, 1e9, signs * rows[:, 0]) is None
    with np.errstate(all="ignore"):
        assert active_set.fit_separable(np.zeros_like(rows), signs, 1e9, signs) is None


def test_each_pair_is_fitted_by_the_method_for_its_shape(monkeypatch):
    for problem, other in ((cosines, "fit_separable"), (separable, "fit_overlapping")):
        X, y, X_eval, _ = problem()
        with monkeypatch.context() as patch:
            patch.setattr(svm, "GRAM_ROWS", len(y) - 1)
            patch.setattr(svm, other, None)
            assert_agree(predict(X, y, X_eval), svc(X, y, X_eval))


@pytest.mark.parametrize(("limit", "number"), [("GRAM_ROWS", 50), ("MANY_PER_COLUMN", 0.5)])
def test_the_interior_point_method_fits_pairs_of_which_many_rows_are_left(
    monkeypatch, limit, number
):
    """They are more than a Gram matrix holds, or many for each column."""
    X, y, X_eval, _ = split(*blobs(1300, 2, 101, 0.05), 900)
    C = 0.9 * svm.LARGE_C / len(y)
    monkeypatch.setattr(svm, limit, number)
    monkeypatch.setattr(svm, "fit_bounded", lambda rows, signs, C, margins: None)
    monkeypatch.setattr(svm, "ENOUGH_ROWS", 0.001)
    monkeypatch.setattr(libsvm, "fit_pair", None)
    assert_agree(predict(X, y, X_eval, C=[C]), svc(X, y, X_eval, C=C))


@pytest.mark.parametrize("n", [*range(2, 30), 121, 122])
def test_each_pair_of_classes_is_on_one_line(n):
    lines = list(svm._lines(n))
    pairs_of_lines = [pair for line in lines for pair in itertools.combinations(sorted(line), 2)]
    assert sorted(pairs_of_lines) == list(itertools.combinations(range(n), 2))


def assert_within_the_stop(hyperplane, rows, signs, C):
    """Check the loss where rows may lack TOLERANCE of the margin, which is when solvers stop.

    The dual coefficients add up to at most twice the loss. If each row of the margin is within
    TOLERANCE of it, the duality gap is at most TOLERANCE times their sum.
    """
    least = svm_loss(reference_plane(rows, signs, C, tol=1e-6), rows, signs, C)
    reached = svm_loss(hyperplane, rows, signs, C)
    short = svm_loss(hyperplane, rows, signs, C, margin=1 - active_set.TOLERANCE)
    assert short <= least + 2 * active_set.TOLERANCE * reached


@pytest.mark.parametrize("C", [0.01, 1])
@problems(digits, unbalanced, separable)
def test_pairs_of_a_group_and_single_pairs_are_fitted_to_within_the_stated_stop(problem, C):
    X, y, *_ = problem()
    X, numbers = X - X.mean(axis=0), np.unique(y, return_inverse=True)[1]
    rows = [X[numbers == c] for c in range(numbers.max() + 1)]
    sizes = np.bincount(numbers)
    guesses = reduction.Guesses(X, numbers, len(rows))
    fit_group = partial(svm._fit_group, np.concatenate(rows), sizes, [C], guesses)
    for group in svm._group_pairs(sizes.tolist(), X.shape[1]):
        (together,) = fit_group(group)
        for (i, j), fit in zip(group.pairs, together, strict=True):
            ((alone,),) = fit_group(svm.Group([(i, j)], is_line=False))
            rows_of_pair = np.concatenate([rows[i], rows[j]])
            signs = np.repeat([-1, 1], [len(rows[i]), len(rows[j])])
            assert_within_the_stop(fit.hyperplane, rows_of_pair, signs, C)
            assert_within_the_stop(alone.hyperplane, rows_of_pair, signs, C)


def guess(kind, signs):
    random = np.random.default_rng(0).normal(1, 1, signs.shape)
    guesses = {"all within": -9, "all beyond": 9, "all near": 1, "one class": signs * 9}
    return guesses.get(kind, random) * np.ones(signs.shape, np.float32)


@pytest.mark.parametrize("C", [0.01, 1])
@pytest.mark.parametrize("kind", ["all within", "all beyond", "all near", "one class", "random"])
@problems(overlapping, two_classes, unbalanced)
def test_a_wrong_guess_of_the_rows_that_decide_a_pair_gives_its_solution(problem, kind, C):
    X, y, *_ = problem()
    X = X - X.mean(axis=0)
    of_two_pairs = reduction.Pairs.of([X[y == 0], X[y == 1]], [(0, 1), (1, 0)])

    def fit(problems):
        return [libsvm.fit_pair(*problem, C)[0] for problem in zip(*problems, strict=True)]

    fits = reduction.fit_reduced(of_two_pairs, guess(kind, of_two_pairs.signs), fit)
    for hyperplane, rows, signs in zip(fits, of_two_pairs.rows, of_two_pairs.signs, strict=True):
        assert_within_the_stop(hyperplane, rows, signs, C)


def test_the_mean_of_rows_within_the_margin_stands_for_them():
    X, y, *_ = overlapping()
    pair = reduction.Pairs.of([X[y == 0], X[y == 1]], [(0, 1)])
    margins = np.full(pair.signs.shape, -9, np.float32)
    margins[0, :7] = margins[0, -7:] = [1, 1.1, 0.9, 1.2, 9, 9, 9]
    nothing = np.zeros(margins.shape, bool)
    reduced = reduction.Reduction(pair, margins, 0.3, nothing).problems
    of_classes = X[y == 0][7:], X[y == 1][:-7]
    means = np.stack([rows.mean(axis=0) for rows in of_classes])
    assert reduced.counts[0].tolist() == [1] * 10 + list(map(len, of_classes))
    assert reduced.rows[0, -2:] == pytest.approx(means, abs=1e-5)


def test_columns_without_variance_of_their_own_are_left_out_of_the_fit(monkeypatch):
    """Cosines with many prompts lie in the space of a model's few columns."""
    X, y, X_eval, _ = digits()
    mixing = np.random.default_rng(0).standard_normal((64, 200)).astype(np.float32)
    monkeypatch.setattr(svm, "GRAM_ROWS", len(y) - 1)
    few, many = (
        probes.sweep(X @ to, y, X_eval @ to, keep=True)[0]
        for to in (np.linalg.svd(mixing)[0], np.linalg.qr(mixing.T)[0].T)
    )
    assert many.fitted.model.hyperplanes.shape[1] == 201
    assert_agree(many.predicted, few.predicted)
    assert_agree(many.predicted, svc(X, y, X_eval))
    assert_agree(many.predicted, many.fitted.predict(X_eval @ np.linalg.qr(mixing.T)[0].T))


def test_columns_of_little_variance_count_at_a_large_c():
    """They alone tell the classes apart, by a normal that only a large C makes so long."""
    rng = np.random.default_rng(0)
    y = np.arange(400) % 2
    X = rng.standard_normal((400, 9)).astype("f4")
    X[:, 6:] = 3e-6 * (0.3 * X[:, 6:] + 2 * y[:, None] - 1)
    small, large = probes.sweep(X, y, X, C=[1, 1e10], keep=True)
    assert_agree(small.predicted, svc(X, y, X), 1)
    assert large.converged
    assert np.array_equal(large.predicted, y)
    for C, run in ((1, small), (1e10, large)):
        (alone,) = probes.sweep(X, y, X, C=[C], keep=True)
        assert_computed_alike(alone.fitted.model.hyperplanes, run.fitted.model.hyperplanes)


@pytest.mark.parametrize("columns", [8, 120])
def test_classes_of_equal_size_are_told_apart_at_the_least_c(columns):
    """The margins of all rows are nearly 0, and the intercept lies in the middle between them."""
    y = np.arange(600) % 2
    X = np.random.default_rng(0).normal(0.3 * y[:, None], 1, (600, columns)).astype("f4")
    X -= X.mean(axis=0)
    assert_agree(predict(X, y, X, C=[1e-12]), svc(X, y, X, C=1e-12))


@pytest.mark.parametrize("y", [[0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2, 2]])
def test_rows_that_are_all_equal_are_of_the_most_frequent_class(monkeypatch, y):
    X, y = np.ones((len(y), 4)), np.array(y)
    monkeypatch.setattr(svm, "GRAM_ROWS", len(y) - 1)
    (run,) = probes.sweep(X, y, X, keep=True)
    assert run.converged
    assert run.fitted.model.hyperplanes.shape[1] == 5
    assert set(run.predicted) == set(svc(X, y, X)) == {y.max()}


@problems(separable, cosines)
@pytest.mark.long
def test_an_svm_of_one_pair_at_a_time_does_not_depend_on_other_settings(monkeypatch, problem):
    X, y, X_eval, _ = problem()
    monkeypatch.setattr(svm, "GRAM_ROWS", len(y) - 1)
    Cs = [1e-4, 1e-2, 1, 100]
    together = probes.sweep(X, y, X_eval, C=Cs, keep=True)
    for C, run in zip(Cs, together, strict=True):
        (alone,) = probes.sweep(X, y, X_eval, C=[C], keep=True)
        assert_computed_alike(alone.fitted.model.hyperplanes, run.fitted.model.hyperplanes)


def test_few_rows_decide_a_pair_at_a_large_c(monkeypatch):
    """A smaller C, which does not depend on the sweep, tells which."""
    X, y, X_eval, _ = split(*blobs(1600, 2, 6, 0.5), 1200)
    Cs = [C / len(y) for C in (3 * svm.LARGE_C, 1e3 * svm.LARGE_C, 16 * svm.LARGE_C)]
    numbers, fitted_Cs = [], set()

    def fit(rows, signs, C):
        numbers.append(rows.shape[1])
        fitted_Cs.add(C.min())
        return interior_point.fit_overlapping(rows, signs, C)

    monkeypatch.setattr(svm, "fit_overlapping", fit)
    together = probes.sweep(X, y, X_eval, C=Cs, keep=True)
    assert 0 < max(numbers) < len(y) / 2
    for C, run in zip(Cs, together, strict=True):
        fitted_Cs.clear()
        (alone,) = probes.sweep(X, y, X_eval, C=[C], keep=True)
        (hyperplane,) = run.fitted.model.hyperplanes
        assert_computed_alike(alone.fitted.model.hyperplanes[0], hyperplane)
        assert len(fitted_Cs) <= 1 + len(svm.SMALLER_C)
        rows = run.fitted.prepare(X)
        in_units_of_rows = C * run.fitted.preparation.rms**2
        assert_within_the_stop(hyperplane, rows, np.where(y == 0, -1, 1), in_units_of_rows)
        assert_agree(run.predicted, svc(X, y, X_eval, C=C))


@pytest.mark.long
@pytest.mark.parametrize("columns", [24, 200])
def test_a_sweep_of_temperatures_agrees_with_single_fits(monkeypatch, columns):
    """In any order, the sweep and single fits stop within the tolerance, and predict the same."""
    X, y, X_eval, _ = split(*blobs(2000, 3, columns, 0.3), 600)
    monkeypatch.setattr(svm, "GRAM_ROWS", len(y) - 1)
    scales = [0.03, 0.06, 0.4, 3]
    together = probes.sweep(X, y, X_eval, scales=scales, keep=True)
    backwards = probes.sweep(X, y, X_eval, scales=scales[::-1], keep=True)[::-1]
    for scale, run, again in zip(scales, together, backwards, strict=True):
        (alone,) = probes.sweep(X, y, X_eval, scales=[scale], keep=True)
        of_pair = y < 2
        rows = alone.fitted.prepare(X[of_pair])
        signs = np.where(y[of_pair] == 0, -1, 1)
        C = (scale * alone.fitted.preparation.rms) ** 2
        for one in (run, again, alone):
            assert_agree(one.predicted, alone.predicted, 0.999)
            assert_within_the_stop(one.fitted.model.hyperplanes[0], rows, signs, C)


def test_a_rare_class_is_not_lost():
    X, y = blobs(3000, 2, 5, 5)
    chosen = (y == 0) | (np.cumsum(y) <= 3)
    reference = svc(X[chosen], y[chosen], X)
    assert_agree(predict(X[chosen], y[chosen], X), reference)
    assert 0 < reference.mean() < 1


def test_the_first_class_wins_a_tie():
    X = np.array([[np.cos(a), np.sin(a)] for a in (0, 2 * np.pi / 3, 4 * np.pi / 3)] * 2)
    y = np.array([4, 5, 6] * 2)
    middle = np.zeros((1, 2)) + 1e-9
    assert predict(X, y, middle) == svc(X, y, middle)
    on_every_hyperplane = Hyperplanes(np.zeros((3, 3), "f4"), 3).scores(np.ones((1, 2), "f4"))
    assert on_every_hyperplane.tolist() == [[0, 1, 2]]  # as in libsvm, the second of a pair wins


@pytest.mark.parametrize("tau", [0.5, 0.07, 0.02])
@pytest.mark.long
def test_a_temperature_is_another_c_to_an_svm(tau):
    X, y, X_eval, _ = cosines()
    reference = SVC(kernel="linear").fit(X / tau, y).predict(X_eval / tau)
    assert_agree(predict(X, y, X_eval, scales=[1 / tau]), reference)
    assert_agree(predict(X, y, X_eval, C=[1 / tau**2]), reference)


@pytest.mark.parametrize(
    ("classifier", "model"),
    [("svm", SVC(kernel="linear")), ("logreg", LogisticRegression(max_iter=1000))],
)
def test_standardising_equals_standard_scaler_at_every_scale(classifier, model):
    X, y, X_eval, _ = digits()  # some columns are constant
    reference = make_pipeline(StandardScaler(), model).fit(X, y).predict(X_eval)
    options = {"classifier": classifier, "scales": [1, 50], "standardize": True}
    first, second = probes.sweep(X, y, X_eval, **options)
    assert_agree(first.predicted, reference, 0.995)
    assert np.array_equal(first.predicted, second.predicted)


def fit_logreg(X, y, C, tau=1):
    """Fit by clipkit and by scikit-learn, check that both reach the same loss, and return both."""
    options = {"classifier": "logreg", "C": [C], "scales": [1 / tau], "keep": True}
    (run,) = probes.sweep(X, y, X, **options)
    centred = (X - X.mean(axis=0, dtype=float)) / tau
    exact = LogisticRegression(C=C, solver="newton-cg", tol=1e-9, max_iter=2000).fit(centred, y)
    rows = np.arange(len(y))
    minimum = 0.5 * (exact.coef_**2).sum() - C * exact.predict_log_proba(centred)[rows, y].sum()
    # two classes have two weight vectors, each half of the one of scikit-learn
    half = 1 if len(exact.classes_) == 2 else 0.5
    penalty = half * ((run.fitted.weights() * tau) ** 2).sum()
    loss = penalty - C * log_softmax(run.fitted.scores(X), axis=1)[rows, y].sum()
    assert run.converged
    assert loss == pytest.approx(minimum, rel=1e-3)
    return run, exact


@problems(overlapping, two_classes, cosines)
@pytest.mark.parametrize("C", [1e-3, 1, 1e3, 1e6])
@pytest.mark.parametrize("tau", [1, 0.07, 0.001])
@pytest.mark.long
def test_logreg_finds_the_optimum_in_any_order_of_rows(problem, C, tau):
    X, y, X_eval, _ = problem()
    order = np.random.default_rng(1).permutation(len(y))
    run, exact = fit_logreg(X, y, C, tau)
    options = {"classifier": "logreg", "C": [C], "scales": [1 / tau]}
    permuted = predict(X[order], y[order], X_eval, **options)
    expected = exact.predict((X_eval - X.mean(axis=0, dtype=float)) / tau)
    assert_agree(run.fitted.predict(X_eval), expected, 0.995)
    assert_agree(permuted, expected, 0.995)


@pytest.mark.parametrize("spread", [0.1, 1, 100])
@pytest.mark.parametrize("weighted", [False, True])
def test_two_classes_have_the_sums_of_a_softmax(spread, weighted):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((200, 5)), rng.integers(0, 2, 200)
    half = spread * rng.standard_normal((6, 1))
    weights = rng.uniform(0.5, 2, 200) if weighted else None
    found, expected = (kind(5, 2, True) for kind in (logistic.TwoClassSums, logistic.Sums))
    for sums in (found, expected):
        sums.add(X, y, np.hstack([-half, half]), weights)
    for name in ("loss", "slope", "moments", "squares"):
        sizes = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(*sizes, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("C", [1e-2, 1, 1e3])
def test_logreg_finds_the_optimum_of_fewer_rows_than_columns(C):
    X = np.random.default_rng(1).normal(size=(80, 300)) * np.geomspace(1, 1e-3, 300)
    fit_logreg(X.astype("f4"), np.arange(80) % 4, C)


def test_logreg_of_a_tiny_c_predicts_by_the_means_of_the_classes():
    rng = np.random.default_rng(1)
    y = np.arange(4000) % 20
    X = rng.normal(size=(20, 32))[y] + rng.normal(size=(4000, 32))
    centred = X - X.mean(axis=0)
    means = np.stack([centred[y == label].mean(axis=0) for label in range(20)])
    predicted = predict(X, y, X, "logreg", C=[1e-12])
    assert_agree(predicted, (centred @ means.T).argmax(axis=1))  # no intercept is left


def test_logreg_of_constant_columns_and_equal_classes_has_converged_without_a_step():
    (run,) = probes.sweep(np.ones((60, 8)), np.arange(60) % 5, np.ones((1, 8)), classifier="logreg")
    assert run.converged


@pytest.mark.parametrize("balanced", [False, True])
def test_logreg_gives_the_same_weights_with_any_number_of_threads(monkeypatch, balanced):
    monkeypatch.setattr(logistic, "BLOCK", 1000)
    monkeypatch.setattr(logistic, "MIN_ROWS", 100)
    X, y, X_eval, _ = digits()
    options = {"classifier": "logreg", "C": [1e-3], "balanced": balanced, "keep": True}
    weights = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(sweep_context, "cpu_count", lambda threads=threads: threads)
        (run,) = probes.sweep(X, y, X_eval, **options)
        weights.append(run.fitted.model.coefficients)
    for found in weights[1:]:
        assert_computed_alike(found, weights[0])


@pytest.mark.parametrize(
    ("classifier", "problem"), [("logreg", digits), ("svm", overlapping), ("svm", two_classes)]
)
def test_a_fit_that_did_not_converge_says_so(monkeypatch, classifier, problem):
    monkeypatch.setattr(logistic, "MAX_ITER", 4)
    monkeypatch.setattr(libsvm, "MAX_WORK", 1_000_000)
    fit_pairs_by_libsvm_alone(monkeypatch)
    X, y, X_eval, _ = problem()
    easy, hard = probes.sweep(X, y, X_eval, classifier=classifier, C=[1e-6, 1e6])
    assert (easy.converged, hard.converged) == (True, False)


@pytest.mark.parametrize("classifier", ["logreg", "mlp"])
@pytest.mark.long
def test_one_row_per_class_is_no_reason_for_a_warning(classifier):
    assert predict(np.eye(4), np.arange(4), np.eye(4), classifier).tolist() == [0, 1, 2, 3]


def test_the_mlp_shuffles_its_rows_anew_in_every_epoch(monkeypatch):
    orders = []

    def record(rows, random_state):
        orders.append(random_state.permutation(len(rows)).tolist())
        return rows[orders[-1]]

    monkeypatch.setattr("sklearn.neural_network._multilayer_perceptron.shuffle", record)
    X, y, X_eval, _ = overlapping()
    predict(X, y, X_eval, "mlp")
    assert len(orders) == mlp.EPOCHS
    assert len({tuple(order) for order in orders}) == len(orders)


def test_the_rate_of_the_mlp_rises_to_its_peak_and_falls_to_zero(monkeypatch):
    rates = []
    fit = mlp.MLPClassifier.partial_fit

    def record(network, *arguments, **settings):
        fit(network, *arguments, **settings)
        rates.append(network._optimizer.learning_rate_init)

    monkeypatch.setattr(mlp.MLPClassifier, "partial_fit", record)
    X, y, X_eval, _ = overlapping()
    predict(X, y, X_eval, "mlp")
    top = int(np.argmax(rates))
    assert top == pytest.approx(0.3 * len(rates), abs=1)
    assert rates[top] == pytest.approx(0.01, rel=0.05)
    assert (np.diff(rates[:top]) > 0).all()
    assert (np.diff(rates[top:]) < 0).all()
    assert max(rates[0], rates[-1]) < 0.001


@pytest.mark.parametrize("classifier", ALL)
@pytest.mark.parametrize("size", [1e-20, 1e20])
def test_the_size_of_features_does_not_overflow(classifier, size):
    X, y, X_eval, y_eval = overlapping()
    compares = probes.CLASSIFIERS[classifier].compares_directions
    predicted = predict(X * size, y, X_eval * size, classifier, standardize=not compares)
    assert metrics.accuracy(y_eval, predicted) > 0.5


def test_knn_weights_the_20_nearest_rows_by_cosine_at_every_scale():
    X, y, X_eval, _ = digits()
    expected = []
    for row in normalize(X_eval) @ normalize(X).T:
        nearest = np.argsort(-row)[:20]
        expected.append(np.bincount(y[nearest], weights=np.exp(row[nearest] / 0.07)).argmax())
    for scale in (1, 30):
        assert np.array_equal(predict(X, y, X_eval, "knn", scales=[scale]), expected)


def test_knn_accepts_fewer_rows_than_neighbours_and_rows_of_zeros():
    X, y = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), np.array([3, 3, 9])
    X_eval = np.array([[1.0, 0.1], [0.0, 2.0], [0.0, 0.0]])
    assert predict(X, y, X_eval, "knn").tolist() == [3, 9, 3]


def test_one_neighbour_gives_no_second_chance():
    X, y, X_eval, y_eval = digits()
    (run,) = probes.sweep(X, y, X_eval, classifier="knn", k=1)
    found = metrics.accuracies(y_eval, run.best)
    assert found["acc5"] == found["acc1"] < 1


def test_mlp_separates_what_a_hyperplane_cannot():
    X = np.random.default_rng(0).uniform(-1, 1, (1500, 2))
    X, y, X_eval, y_eval = split(X, (X[:, 0] * X[:, 1] > 0).astype(int))
    assert metrics.accuracy(y_eval, predict(X, y, X_eval, "svm")) < 0.7
    assert metrics.accuracy(y_eval, predict(X, y, X_eval, "mlp")) > 0.95


@pytest.fixture(scope="module")
def shared():
    """300 rows of digits to fit on, 600 to predict."""
    X, y = load_digits(return_X_y=True)
    return split(X[:900] / 16, y[:900], 300)


@pytest.fixture(scope="module", params=ALL)
def classifier(request):
    return request.param


@pytest.fixture(scope="module")
def predicted(shared, classifier):
    return predict(*shared[:3], classifier)


@pytest.mark.long
def test_renaming_classes_renames_predictions(shared, classifier, predicted):
    X, y, X_eval, _ = shared
    renamed = predict(X, y * 7 - 20, X_eval, classifier)
    assert np.array_equal(renamed, predicted * 7 - 20)
    # another order of classes: ties of votes and the MLP's start differ
    shuffled = np.random.default_rng(1).permutation(10)
    again = predict(X, shuffled[y], X_eval, classifier)
    assert_agree(again, shuffled[predicted], 0.95)


@pytest.mark.long
def test_a_run_does_not_depend_on_its_company(monkeypatch, shared, classifier, predicted):
    X, y, X_eval, _ = shared
    takes_C = "C" in probes.CLASSIFIERS[classifier].settings
    Cs = [0.1, 1] if takes_C else [1]
    monkeypatch.setattr(sweep_context, "cpu_count", lambda: 3)
    company = np.concatenate([X_eval[:100], X_eval])
    runs = probes.sweep(X, y, company, classifier=classifier, C=Cs, scales=[2, 1])
    expected = [(scale, C) for scale in (2, 1) for C in Cs]
    assert [(run.scale, run.C) for run in runs] == expected or not takes_C
    assert np.isnan([run.C for run in runs]).all() == (not takes_C)
    assert np.array_equal(runs[-1].predicted, np.concatenate([predicted[:100], predicted]))


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
@pytest.mark.long
def test_other_types_of_numbers_are_read_and_not_changed(shared, classifier, predicted, dtype):
    X, y, X_eval = shared[0].astype(dtype), shared[1], shared[2].astype(dtype)
    before = X.copy(), X_eval.copy()
    assert_agree(predict(X, y, X_eval, classifier), predicted, 0.97)
    np.testing.assert_equal((X, X_eval), before)


def test_linear_probes_do_not_mind_features_far_from_the_origin(shared, classifier, predicted):
    X, y, X_eval, y_eval = shared
    assert metrics.accuracy(y_eval, predicted) > 0.8
    if classifier in LINEAR:
        assert_agree(predict(X + 100, y, X_eval + 100, classifier), predicted, 0.99)


@pytest.mark.long
def test_progress_ends_at_its_total(shared, classifier):
    reports = []
    predict(*shared[:3], classifier, scales=[1, 3], progress=lambda *report: reports.append(report))
    done, totals, _ = zip(*reports, strict=True)
    assert len(set(totals)) == 1
    assert list(done) == sorted(set(done))
    assert done[-1] == totals[0]


def test_only_a_classifier_that_takes_a_seed_depends_on_it(shared, classifier):
    first, other = (kept_arrays(shared, classifier, seed=seed) for seed in (1, 2))
    if "seed" in probes.CLASSIFIERS[classifier].settings:
        assert any(not np.array_equal(first[name], other[name]) for name in first)
    else:
        for name in first:
            assert_computed_alike(first[name], other[name])


def test_a_classifier_keeps_the_arrays_of_its_record_under_names_of_its_own(shared, classifier):
    record = probes.CLASSIFIERS[classifier]
    kept = kept_arrays(shared, classifier)
    assert kept.keys() == record.arrays.keys()
    taken = {*PROBE_ARRAYS, *TYPES}
    for other in probes.CLASSIFIERS.values():
        if other is not record:
            taken.update(other.arrays)
    assert kept.keys() & taken == set()


def table_of_docs(page, heading):
    """Return the cells of a table in docs/, by row; it follows the heading of its columns."""
    page = Path(__file__).parents[1] / "docs" / page
    lines = page.read_text().split(heading)[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_documentation_of_the_format_describes_the_arrays_of_a_kept_probe():
    arrays = {name: (array, "") for name, array in PROBE_ARRAYS.items()}
    for one in probes.CLASSIFIERS.values():
        arrays |= {name: (array, f"`{one.name}`") for name, array in one.arrays.items()}
    types = {"S": "text", "<i8": "int64", "<f4": "float32", "<f8": "float64"}
    listed = set()
    for cell, owner, *_ in table_of_docs("format.md", "| name | of | value |"):
        for names, *said in re.findall(r"((?:`\w+`,? )+)\((.+?)\) (\w+(?: or \w+)?)", cell):
            for name in re.findall(r"\w+", names):
                array, classifier = arrays[name]
                shape = ", ".join(array.axes.split()).replace("+", " + 1")
                shape = shape.replace("P", "n (n - 1) / 2")
                assert said == [shape, " or ".join(types[one] for one in sorted(array.types))], name
                assert owner.startswith(classifier), name
                assert ("optional" in owner) == (name == "row_hashes"), name
                listed.add(name)
    assert listed == set(arrays)


def test_the_documentation_lists_all_classifiers():
    lists = [
        [cells[2] for cells in table_of_docs("format.md", "| name | of | value |")][:1],
        [cells[0] for cells in table_of_docs("commands/predict.md", "| classifier | score |")],
        [cells[0] for cells in table_of_docs("commands/probe.md", "| classifier | what it is |")],
    ]
    for cells in lists:
        assert re.findall("`([^`]+)`", " ".join(cells)) == list(probes.CLASSIFIERS)


def kept_arrays(shared, classifier, **settings):
    """Return the arrays of the model that a sweep keeps."""
    (run,) = probes.sweep(*shared[:3], classifier=classifier, keep=True, **settings)
    return run.fitted.model.to_arrays()


@pytest.mark.parametrize("interrupted", ["svm", "mlp"])
def test_an_interrupt_ends_the_sweep(monkeypatch, shared, interrupted):
    monkeypatch.setattr(sweep_context, "cpu_count", lambda: 2)
    calls = []

    def interrupt(done, total, reached):
        calls.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(*shared[:3], interrupted, scales=range(1, 9), progress=interrupt)
    assert len(calls) < 20  # of 45 pairs, or of thousands of epochs


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"classifier": "smv"}, UsageError, "unknown classifier 'smv'"),
        ({"C": [1, 0]}, UsageError, "C: expected a number between 1e-12 and 1e+12, got 0"),
        ({"C": [1e300]}, UsageError, "C: expected a number between 1e-12 and 1e+12, got 1e+300"),
        ({"scales": [np.nan]}, UsageError, "scale: expected a number between 1e-12 and 1e+12"),
        ({"classifier": "knn", "C": [5]}, UsageError, "C: expected none for knn, which has no"),
        ({"balanced": True}, UsageError, "balanced: expected the classifier logreg, got svm"),
        ({"y": np.zeros(4, int)}, ClipkitError, "expected at least two classes to fit a probe on"),
        ({"y": np.arange(5)}, ClipkitError, "expected as many features as labels, got 4 and 5"),
        ({"X_eval": np.ones((2, 3))}, ClipkitError, "X_eval: expected 4 columns, got 3"),
    ],
)
def test_errors_name_what_is_expected(options, error, message):
    arguments = {"X": np.eye(4), "y": np.array([0, 0, 1, 1]), "X_eval": np.eye(4)}
    with pytest.raises(error) as caught:
        probes.sweep(**arguments | options)
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize("block", [8, 4096])
def test_columns_are_measured_as_by_standard_scaler_in_one_block_or_many(monkeypatch, block):
    monkeypatch.setattr(sweeps, "BLOCK", block)
    X = np.random.default_rng(0).standard_normal((101, 5))
    X[0] += 1000
    X[:, 1:4] = X[:, 1:4] * [1e-3, 1e-15, 0] + [1e4, 1e4, 0.1]
    X[:, 4] *= 1e100
    scaler = StandardScaler().fit(X)
    assert scaler.scale_[2] == scaler.scale_[3] == 1  # they are constant but for rounding
    largest, means, deviations = sweeps._column_statistics(X)
    assert largest == np.abs(X).max()
    assert np.allclose(means, scaler.mean_, rtol=1e-12, atol=0)
    assert np.allclose(deviations, scaler.scale_, rtol=1e-9, atol=0)


@pytest.mark.parametrize("classifier", OF_LENGTH)
@pytest.mark.parametrize("magnitude", [1e-44, 1e-20, 1e19, 3e38])
def test_features_of_an_extreme_magnitude_must_be_standardised(classifier, magnitude):
    X, y = np.array([[-1], [-0.8], [0.5], [1]], "f4"), np.array([0, 0, 1, 1])
    extreme = X * np.float32(magnitude)
    message = "expected features of magnitude 1e-12 to 1e\\+12, got "
    for fitted, scored in ((extreme, X), (X, extreme)):
        with pytest.raises(ClipkitError, match=message):
            probes.sweep(fitted, y, scored, classifier=classifier)
    usual, scaled = (
        predict(rows, y, rows, classifier, standardize=True).tolist() for rows in (X, extreme)
    )
    assert scaled == usual


@pytest.mark.long
def test_an_svm_of_a_huge_c_ends(monkeypatch):
    """Features of a size of 1e8 are as a C of 1e16."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(120, 4)).astype("f4"), np.arange(120) % 3
    (run,) = probes.sweep(X * 1e8, y, X * 1e8)
    assert run.converged
    assert run.predicted.tolist() == predict(X, y, X, C=[1e4]).tolist()
    separable = X + 20 * y[:, None]
    (run,) = probes.sweep(separable * 1e8, y, separable * 1e8)
    assert run.converged
    assert run.predicted.tolist() == y.tolist()
    fit_pairs_by_libsvm_alone(monkeypatch)  # its rounding errors exceed its tolerance
    (run,) = probes.sweep(X * 1e8, y, X * 1e8)
    assert not run.converged


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:Solver terminated early")  # of the reference
@pytest.mark.parametrize("n_classes", [2, 3])
def test_equal_rows_of_different_classes_are_fitted_at_a_large_c(n_classes):
    """libsvm takes millions of iterations here, and ends far above the least loss."""
    rng = np.random.default_rng(0)
    half = rng.normal(size=(200 * n_classes, 128)).astype("f4")
    X, y = np.concatenate([half, half]), np.arange(400 * n_classes) % n_classes
    swapped = np.flatnonzero(rng.random(len(half)) < 0.1) + len(half)
    y[swapped] = (y[swapped] + 1) % n_classes
    (run,) = probes.sweep(X, y, X[:0], C=[1e4], keep=True)
    assert run.converged
    rows = np.flatnonzero(y < 2)  # of the first pair
    Z, plane = run.fitted.prepare(X[rows]).astype(np.float64), run.fitted.model.hyperplanes[0]
    assert_optimal(plane, Z, 2.0 * y[rows] - 1, 1e4, tolerance=1e-3, max_iter=200_000)


@pytest.mark.parametrize("classifier", WITH_FURTHER_ACCURACIES)
def test_the_best_five_classes_are_those_of_the_highest_scores(classifier):
    X, y, X_eval, y_eval = digits()
    (run,) = probes.sweep(X, y, X_eval, classifier=classifier, keep=True)
    scores = run.fitted.scores(X_eval)
    acc5 = metrics.accuracies(y_eval, run.best)["acc5"]
    if classifier == "knn":  # a class without a neighbour is not among the best
        of_label = scores[np.arange(len(y_eval)), y_eval]
        place = (scores > of_label[:, None]).sum(axis=1)
        assert acc5 == ((place < 5) & (of_label > scores.min())).mean()
    else:
        assert acc5 == top_k_accuracy_score(y_eval, scores, k=5)
    (few,) = probes.sweep(X[y < 5], y[y < 5], X_eval, classifier=classifier)
    assert few.best.shape == (len(X_eval), 1)
