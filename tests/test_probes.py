"""Probes agree with scikit-learn, whatever the scale, labels, company or number of threads."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler, normalize
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from clipkit.analysis import metrics, probes
from clipkit.analysis.probes import logistic, pairs, svm, sweep_context, sweeps
from clipkit.base.errors import ClipkitError, UsageError

ALL = sorted(probes.CLASSIFIERS)


@pytest.fixture(autouse=True, scope="module")
def one_thread_and_short_training():
    with threadpool_limits(1), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps, "STEPS", 200)
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


def agreement(a, b):
    return np.mean(a == b)


def fit_pairs_one_by_one(monkeypatch, gram_rows):
    monkeypatch.setattr(svm, "GRAM_ROWS", gram_rows)


def fit_pairs_by_libsvm_alone(monkeypatch):
    monkeypatch.setattr(svm, "fit_overlapping", lambda rows, signs, C: None)
    monkeypatch.setattr(svm, "fit_separable", lambda rows, signs, C: None)


@pytest.mark.long
@pytest.mark.parametrize("pairs", ["at once", "one by one", "one by one by libsvm"])
@pytest.mark.parametrize("C", [0.01, 1, 100])
@problems(digits, unbalanced, overlapping, two_classes, odd_ids, cosines)
def test_svm_predicts_as_svc_does(monkeypatch, problem, C, pairs):
    X, y, X_eval, _ = problem()
    if pairs != "at once":
        fit_pairs_one_by_one(monkeypatch, len(y) - 1)
    if pairs == "one by one by libsvm":
        fit_pairs_by_libsvm_alone(monkeypatch)
        monkeypatch.setattr(svm, "MAX_WORK", 2**30)
    reference = SVC(kernel="linear", C=C).fit(X.astype(float), y).predict(X_eval.astype(float))
    predicted = predict(X, y, X_eval, C=[C])
    assert predicted.dtype == np.int64
    assert agreement(predicted, reference) >= 0.998


@pytest.mark.parametrize("gram_rows", [700, 300, 16])
@pytest.mark.parametrize(("spread", "C"), [(0.5, 1), (0.1, 1e-3), (0.1, 1)])
@pytest.mark.long
def test_fitting_by_chunks_gives_the_same_hyperplane(monkeypatch, gram_rows, spread, C):
    X, y, X_eval, _ = split(*blobs(3000, 2, 12, spread), 1500)
    reference = SVC(kernel="linear", C=C).fit(X.astype(float), y).predict(X_eval.astype(float))
    fit_pairs_one_by_one(monkeypatch, gram_rows)
    fit_pairs_by_libsvm_alone(monkeypatch)
    monkeypatch.setattr(svm, "FIRST_ROWS", 100)
    assert agreement(predict(X, y, X_eval, C=[C]), reference) >= 0.998


def separable():
    """Few rows, many columns; at C = 0.01, some coefficients reach C."""
    return split(*blobs(700, 3, 300, 0.1), 400)


def two_of(problem):
    """Rows of the first two classes of a problem, of root mean square 1, and their signs."""
    X, y, *_ = problem()
    rows = X[y < 2] - X[y < 2].mean(axis=0)
    return rows / np.sqrt((rows**2).mean()), np.where(y[y < 2] == 0, -1, 1).astype(np.float32)


def hinge_objective(hyperplane, rows, signs, C):
    normal, intercept = hyperplane[:-1], hyperplane[-1]
    losses = np.maximum(0, 1 - signs * (rows.astype(float) @ normal + intercept))
    return normal @ normal / 2 + C * losses.sum()


@pytest.mark.parametrize("C", [1e-60, 1e-6, 1e-3, 1])
@problems(digits, overlapping, two_classes, cosines)
def test_the_interior_point_method_finds_the_optimum(problem, C):
    rows, signs = two_of(problem)
    hyperplane = pairs.fit_overlapping(rows, signs, C)
    svc = SVC(kernel="linear", C=C, tol=1e-6).fit(rows.astype(float), signs)
    expected = np.append(svc.coef_[0], svc.intercept_)
    minimum = hinge_objective(expected, rows, signs, C)
    assert hinge_objective(hyperplane, rows, signs, C) <= minimum * (1 + 1e-5)
    assert hyperplane == pytest.approx(expected, abs=1e-3 * np.abs(expected).max())


@problems(digits, overlapping, two_classes, cosines)
def test_the_interior_point_method_does_not_mind_a_huge_c(problem):
    rows, signs = two_of(problem)
    large, huge = (pairs.fit_overlapping(rows, signs, C) for C in (1e8, 1e60))
    assert huge == pytest.approx(large, abs=1e-4 * np.abs(large).max())


@pytest.mark.parametrize("columns", [20, 200])
def test_the_active_set_method_finds_the_widest_margin(columns):
    rng = np.random.default_rng(0)
    signs = np.repeat(np.float32([-1, 1]), [60, 150])
    rows = rng.standard_normal((210, columns)).astype(np.float32)
    rows[:, 0] += 4 * signs
    svc = SVC(kernel="linear", C=1e9, tol=1e-6).fit(rows.astype(float), signs)
    separation = pairs.fit_separable(rows, signs, 1e9)
    expected = np.append(svc.coef_[0], svc.intercept_)
    assert separation.hyperplane == pytest.approx(expected, abs=2e-3 * np.abs(expected).max())
    assert separation.largest_coefficient >= np.abs(svc.dual_coef_).max() * 0.99
    assert pairs.fit_separable(rows, signs, separation.largest_coefficient) is not None
    assert pairs.fit_separable(rows, signs, np.abs(svc.dual_coef_).max() * 0.9) is None


@pytest.mark.parametrize("columns", [2, 40])
def test_the_active_set_method_leaves_overlapping_and_equal_rows_to_libsvm(columns):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, columns)).astype(np.float32)
    signs = np.repeat(np.float32([-1, 1]), 150)
    assert pairs.fit_separable(rows, signs, 1e9) is None
    with np.errstate(all="ignore"):
        assert pairs.fit_separable(np.zeros_like(rows), signs, 1e9) is None


def test_each_pair_is_fitted_by_the_method_for_its_shape(monkeypatch):
    used = []
    for name in ("fit_overlapping", "fit_separable"):
        method = getattr(svm, name)

        def record(*arguments, name=name, method=method):
            used.append(name)
            return method(*arguments)

        monkeypatch.setattr(svm, name, record)
    for problem, name in ((cosines, "fit_overlapping"), (separable, "fit_separable")):
        used.clear()
        X, y, X_eval, _ = problem()
        fit_pairs_one_by_one(monkeypatch, len(y) - 1)
        reference = SVC(kernel="linear").fit(X.astype(float), y).predict(X_eval.astype(float))
        assert agreement(predict(X, y, X_eval), reference) >= 0.998
        assert set(used) == {name}


def test_few_rows_of_fewer_columns_are_fitted_by_the_interior_point_method(monkeypatch):
    """There, libsvm takes half a minute at C = 100, and need not converge."""
    monkeypatch.setattr(svm, "_fit_libsvm", None)
    X, y = blobs(2000, 10, 32, 0.1)
    run, *_ = probes.sweep(X[:1600], y[:1600], X[1600:], classifier="svm", C=[100])
    assert run.converged


@problems(separable, cosines)
@pytest.mark.long
def test_an_svm_of_one_pair_at_a_time_does_not_depend_on_other_settings(monkeypatch, problem):
    X, y, X_eval, _ = problem()
    fit_pairs_one_by_one(monkeypatch, len(y) - 1)
    Cs = [1e-4, 1e-2, 1, 100]
    together = probes.sweep(X, y, X_eval, C=Cs, keep=True)
    for C, run in zip(Cs, together, strict=True):
        (alone,) = probes.sweep(X, y, X_eval, C=[C], keep=True)
        assert np.array_equal(alone.fitted.model.hyperplanes, run.fitted.model.hyperplanes)


def test_a_rare_class_is_not_lost_between_chunks(monkeypatch):
    monkeypatch.setattr(svm, "GRAM_ROWS", 1000)
    monkeypatch.setattr(svm, "FIRST_ROWS", 100)
    X, y = blobs(3000, 2, 5, 5)
    chosen = (y == 0) | (np.cumsum(y) <= 3)
    reference = SVC(kernel="linear").fit(X[chosen], y[chosen]).predict(X)
    assert agreement(predict(X[chosen], y[chosen], X), reference) >= 0.998
    assert 0 < reference.mean() < 1


def test_the_first_class_wins_a_tie():
    X = np.array([[np.cos(a), np.sin(a)] for a in (0, 2 * np.pi / 3, 4 * np.pi / 3)] * 2)
    y = np.array([4, 5, 6] * 2)
    middle = np.zeros((1, 2)) + 1e-9
    assert predict(X, y, middle) == SVC(kernel="linear").fit(X, y).predict(middle)


@pytest.mark.parametrize("tau", [0.5, 0.07, 0.02])
@pytest.mark.long
def test_a_temperature_is_another_c_to_an_svm(tau):
    X, y, X_eval, _ = cosines()
    reference = SVC(kernel="linear").fit(X / tau, y).predict(X_eval / tau)
    assert agreement(predict(X, y, X_eval, scales=[1 / tau]), reference) >= 0.998
    assert agreement(predict(X, y, X_eval, C=[1 / tau**2]), reference) >= 0.998


@pytest.mark.parametrize(
    ("classifier", "model"),
    [("svm", SVC(kernel="linear")), ("logreg", LogisticRegression(max_iter=1000))],
)
def test_standardising_equals_standard_scaler_at_every_scale(classifier, model):
    X, y, X_eval, _ = digits()  # some columns are constant
    scaler = StandardScaler().fit(X)
    reference = model.fit(scaler.transform(X), y).predict(scaler.transform(X_eval))
    first, second = probes.sweep(
        X, y, X_eval, classifier=classifier, scales=[1, 50], standardize=True
    )
    assert agreement(first.predicted, reference) >= 0.995
    assert np.array_equal(first.predicted, second.predicted)


@problems(overlapping, two_classes, cosines)
@pytest.mark.parametrize("C", [1e-3, 1, 1e3, 1e6])
@pytest.mark.parametrize("tau", [1, 0.07, 0.001])
@pytest.mark.long
def test_logreg_finds_the_optimum_in_any_order_of_rows(monkeypatch, problem, C, tau):
    losses_at_the_end = []

    minimize = logistic.minimize_objective

    def record(objective, *callbacks):
        v, converged = minimize(objective, *callbacks)
        losses_at_the_end.append(objective.in_float64().at(v).loss)
        return v, converged

    monkeypatch.setattr(logistic, "minimize_objective", record)
    X, y, X_eval, _ = problem()
    order = np.random.default_rng(1).permutation(len(y))
    options = {"classifier": "logreg", "C": [C], "scales": [1 / tau]}
    (run,) = probes.sweep(X, y, X_eval, **options)
    (permuted,) = probes.sweep(X[order], y[order], X_eval, **options)

    centred = (X - X.mean(axis=0, dtype=float)) / tau
    exact = LogisticRegression(C=C, solver="newton-cg", tol=1e-9, max_iter=2000).fit(centred, y)
    losses = -exact.predict_log_proba(centred)[
        np.arange(len(y)), np.searchsorted(exact.classes_, y)
    ]
    minimum = C * losses.sum() + 0.5 * (exact.coef_**2).sum()
    # the sweep divides features by their root mean square, and two classes have two weight vectors
    unit = (centred**2).mean() * (0.5 if len(exact.classes_) == 2 else 1)
    assert run.converged
    assert losses_at_the_end[0] == pytest.approx(minimum * unit, rel=1e-3)
    predicted = exact.predict((X_eval - X.mean(axis=0, dtype=float)) / tau)
    assert agreement(run.predicted, predicted) >= 0.995
    assert agreement(run.predicted, permuted.predicted) >= 0.995


@pytest.mark.parametrize("balanced", [False, True])
def test_logreg_gives_the_same_weights_with_any_number_of_threads(monkeypatch, balanced):
    monkeypatch.setattr(logistic, "BLOCK", 1000)
    X, y, X_eval, _ = digits()
    options = {"classifier": "logreg", "C": [1e-3], "balanced": balanced, "keep": True}
    weights = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(sweep_context, "cpu_count", lambda threads=threads: threads)
        (run,) = probes.sweep(X, y, X_eval, **options)
        weights.append(run.fitted.model.coefficients)
    assert np.array_equal(weights[0], weights[1])
    assert np.array_equal(weights[0], weights[2])


def test_logreg_reports_that_it_did_not_converge(monkeypatch):
    monkeypatch.setattr(logistic, "MAX_ITER", 4)
    X, y, X_eval, _ = digits()
    easy, hard = probes.sweep(X, y, X_eval, classifier="logreg", C=[1e-6, 1])
    assert (easy.converged, hard.converged) == (True, False)


@pytest.mark.parametrize("problem", [overlapping, two_classes])
def test_an_svm_reports_that_it_did_not_converge(monkeypatch, problem):
    monkeypatch.setattr(svm, "MAX_WORK", 1_000_000)
    fit_pairs_by_libsvm_alone(monkeypatch)
    X, y, X_eval, _ = problem()
    easy, hard = probes.sweep(X, y, X_eval, C=[1e-6, 1e6])
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
    assert len(orders) == sweeps.EPOCHS
    assert len({tuple(order) for order in orders}) == len(orders)


def test_the_rate_of_the_mlp_rises_to_its_peak_and_falls_to_zero(monkeypatch):
    rates = []
    fit = sweeps.MLPClassifier.partial_fit

    def record(network, *arguments, **settings):
        fit(network, *arguments, **settings)
        rates.append(network._optimizer.learning_rate_init)

    monkeypatch.setattr(sweeps.MLPClassifier, "partial_fit", record)
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
@pytest.mark.long
def test_the_size_of_features_does_not_overflow(classifier, size):
    X, y, X_eval, y_eval = overlapping()
    predicted = predict(X * size, y, X_eval * size, classifier, standardize=classifier != "knn")
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


def test_accuracy_is_decent(shared, predicted):
    assert metrics.accuracy(shared[3], predicted) > 0.8


@pytest.mark.long
def test_renaming_classes_renames_predictions(shared, classifier, predicted):
    X, y, X_eval, _ = shared
    renamed = predict(X, y * 7 - 20, X_eval, classifier)
    assert np.array_equal(renamed, predicted * 7 - 20)
    # another order of classes: ties of votes and the MLP's start differ
    shuffled = np.random.default_rng(1).permutation(10)
    agree = agreement(predict(X, shuffled[y], X_eval, classifier), shuffled[predicted])
    assert agree >= {"svm": 0.95, "mlp": 0.95}.get(classifier, 0.99)


@pytest.mark.long
def test_a_run_does_not_depend_on_its_company(monkeypatch, shared, classifier, predicted):
    X, y, X_eval, _ = shared
    Cs = [1] if classifier == "knn" else [0.1, 1]
    monkeypatch.setattr(sweep_context, "cpu_count", lambda: 3)
    company = np.concatenate([X_eval[:100], X_eval])
    runs = probes.sweep(X, y, company, classifier=classifier, C=Cs, scales=[2, 1])
    assert [run.scale for run in runs] == [scale for scale in (2, 1) for _ in Cs]
    if classifier == "knn":
        assert np.isnan([run.C for run in runs]).all()
    else:
        assert [run.C for run in runs] == Cs * 2
    assert np.array_equal(runs[-1].predicted, np.concatenate([predicted[:100], predicted]))


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
@pytest.mark.long
def test_other_types_of_numbers_are_read_and_not_changed(shared, classifier, predicted, dtype):
    X, y, X_eval = shared[0].astype(dtype), shared[1], shared[2].astype(dtype)
    before = X.copy(), X_eval.copy()
    assert agreement(predict(X, y, X_eval, classifier), predicted) > 0.97
    assert np.array_equal(X, before[0])
    assert np.array_equal(X_eval, before[1])


def test_linear_probes_do_not_mind_features_far_from_the_origin(shared, classifier, predicted):
    if classifier in ("svm", "logreg"):
        X, y, X_eval, _ = shared
        assert agreement(predict(X + 100, y, X_eval + 100, classifier), predicted) > 0.99


@pytest.mark.long
def test_progress_ends_at_its_total(shared, classifier):
    reports = []
    predict(*shared[:3], classifier, scales=[1, 3], progress=lambda *report: reports.append(report))
    done, totals = zip(*reports, strict=True)
    assert len(set(totals)) == 1
    assert list(done) == sorted(set(done))
    assert done[-1] == totals[0]


@pytest.mark.parametrize("interrupted", ["svm", "mlp"])
def test_an_interrupt_ends_the_sweep(monkeypatch, shared, interrupted):
    monkeypatch.setattr(sweep_context, "cpu_count", lambda: 2)
    calls = []

    def interrupt(done, total):
        calls.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(*shared[:3], interrupted, scales=range(1, 9), progress=interrupt)
    assert len(calls) < 20  # of 45 pairs, or of thousands of epochs


def test_a_class_that_does_not_occur_in_the_fit_is_never_predicted():
    X, y, X_eval, _ = digits()
    assert 3 not in predict(X[y != 3], y[y != 3], X_eval)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"classifier": "smv"}, UsageError, "unknown classifier 'smv'"),
        ({"C": [1, 0]}, UsageError, "C: expected a number between 1e-12 and 1e+12, got 0"),
        ({"C": [1e300]}, UsageError, "C: expected a number between 1e-12 and 1e+12, got 1e+300"),
        (
            {"scales": [np.nan]},
            UsageError,
            "scale: expected a number between 1e-12 and 1e+12, got nan",
        ),
        (
            {"classifier": "knn", "C": [5]},
            UsageError,
            "C: expected none for knn, which has no regularisation",
        ),
        (
            {"y": np.zeros(4, int)},
            ClipkitError,
            "expected at least two classes to fit a probe on, got 1",
        ),
        (
            {"y": np.arange(5)},
            ClipkitError,
            "expected as many features as labels, got 4 and 5",
        ),
        (
            {"X_eval": np.ones((2, 3))},
            ClipkitError,
            "X_eval: expected 4 columns, got 3",
        ),
    ],
)
def test_errors_name_what_is_expected(options, error, message):
    arguments = {
        "X": np.eye(4),
        "y": np.array([0, 0, 1, 1]),
        "X_eval": np.eye(4),
    }
    with pytest.raises(error) as caught:
        probes.sweep(**arguments | options)
    assert caught.value.message == message


@pytest.mark.parametrize("classifier", ["svm", "logreg", "mlp"])
@pytest.mark.parametrize("magnitude", [1e-44, 1e-20, 1e19, 3e38])
@pytest.mark.long
def test_features_of_an_extreme_magnitude_must_be_standardised(classifier, magnitude):
    X = np.array([[-1], [-0.8], [0.5], [1]], "f4")
    extreme = X * np.float32(magnitude)
    y = np.array([0, 0, 1, 1])
    message = "expected features of magnitude 1e-12 to 1e\\+12, got "
    for fitted, scored in ((extreme, X), (X, extreme)):
        with pytest.raises(ClipkitError, match=message):
            probes.sweep(fitted, y, scored, classifier=classifier)
    (usual,) = probes.sweep(X, y, X, classifier=classifier, standardize=True)
    (scaled,) = probes.sweep(extreme, y, extreme, classifier=classifier, standardize=True)
    assert scaled.predicted.tolist() == usual.predicted.tolist()


def test_an_svm_of_a_huge_c_ends():
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


@pytest.mark.long
def test_libsvm_ends_where_rounding_errors_exceed_its_tolerance(monkeypatch):
    fit_pairs_by_libsvm_alone(monkeypatch)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(120, 4)).astype("f4"), np.arange(120) % 3
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
    signs = 2.0 * y[rows] - 1
    Z = run.fitted.prepare(X[rows]).astype(np.float64)

    def objective(normal, intercept):
        losses = np.maximum(0, 1 - signs * (Z @ normal + intercept))
        return 0.5 * normal @ normal + 1e4 * losses.sum()

    plane = run.fitted.model.hyperplanes[0].astype(np.float64)
    svc = SVC(kernel="linear", C=1e4, max_iter=200_000).fit(Z, signs)
    assert objective(plane[:-1], plane[-1]) <= 1.001 * objective(svc.coef_[0], svc.intercept_[0])


def test_fewer_rows_than_columns_give_the_weights_of_the_larger_decomposition(monkeypatch):
    rng = np.random.default_rng(1)
    X = (rng.normal(size=(80, 300)) * np.geomspace(1, 1e-3, 300)).astype("f4")
    y = np.arange(80) % 4
    options = {"classifier": "logreg", "C": [1e-2, 1, 1e3], "keep": True}
    few = probes.sweep(X, y, X, **options)
    variances, axes = np.linalg.eigh((X - X.mean(0)).astype(float).T @ (X - X.mean(0)))
    resolved = variances > logistic.RESOLUTION * variances.max()
    rms = few[0].fitted.preparation.rms
    larger = (variances[resolved] / rms**2, axes[:, resolved])
    monkeypatch.setattr(logistic, "_principal_axes", lambda *_: larger)
    for run, other in zip(few, probes.sweep(X, y, X, **options), strict=True):
        weights, expected = run.fitted.weights(), other.fitted.weights()
        assert run.converged
        assert other.converged
        allowed = 2 * logistic.TOLERANCE * np.linalg.norm(expected)
        assert np.linalg.norm(weights - expected) <= allowed
        np.testing.assert_array_equal(run.predicted, other.predicted)
