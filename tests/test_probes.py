"""Probes against plain scikit-learn, and what must not change when scale, labels, company or threads do."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler, normalize
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from clipkit import metrics, probes
from clipkit.errors import ClipkitError, UsageError
from clipkit.probes import classifiers, svm

ALL = sorted(probes.CLASSIFIERS)


@pytest.fixture(autouse=True, scope="module")
def small():
    """One thread for the references, and short training."""
    with threadpool_limits(1), pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifiers, "STEPS", 200)
        yield


def split(X, y, fit=1000):
    return X[:fit].astype(np.float32), y[:fit], X[fit:].astype(np.float32), y[fit:]


def blobs(rows, classes, dim, spread, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=rows)
    X = spread * rng.standard_normal((classes, dim))[y] + rng.standard_normal((rows, dim))
    return X, y


def digits():
    return split(*load_digits(return_X_y=True))


def unbalanced():
    X, y = load_digits(return_X_y=True)
    few = (y % 3 == 0) & (np.arange(len(y)) < 1000) & (np.arange(len(y)) % 20 > 0)
    return split(X[~few], y[~few], 1000 - few.sum())


def overlapping():
    return split(*blobs(1500, 7, 6, 0.7))


def two_classes():
    return split(*blobs(1200, 2, 20, 0.3), 700)


def odd_ids():
    X, y, E, t = digits()
    ids = np.array([-40, -3, 0, 7, 8, 100, 101, 5000, 10**9, 10**12])
    return X, ids[y], E, ids[t]


def cosines():
    """As of 32 prompts: nearly constant, and so weakly fitted at C = 1 that every row is a support vector."""
    X, y = blobs(1600, 10, 32, 0.5)
    return split(0.25 + 0.02 * X, y)


PROBLEMS = [digits, unbalanced, overlapping, two_classes, odd_ids, cosines]


def predict(problem, classifier="svm", **options):
    X, y, E, _ = problem
    return probes.sweep(X, y, {"test": E}, classifier=classifier, **options)[0].predicted["test"]


@pytest.mark.parametrize("pairs", ["at once", "one by one"])
@pytest.mark.parametrize("C", [0.01, 1, 100])
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.__name__)
def test_svm_predicts_as_svc(monkeypatch, problem, C, pairs):
    X, y, E, _ = problem()
    if pairs == "one by one":
        monkeypatch.setattr(svm, "GRAM_ROWS", len(y) - 1)
    reference = (
        SVC(kernel="linear", C=C, random_state=42).fit(X.astype(float), y).predict(E.astype(float))
    )
    predicted = predict((X, y, E, None), C=[C])
    assert predicted.dtype == np.int64
    assert np.mean(predicted == reference) >= 0.998


@pytest.mark.parametrize("gram_rows", [700, 300, 16])
@pytest.mark.parametrize(("spread", "C"), [(0.5, 1), (0.1, 1e-3), (0.1, 1)])
def test_chunks_of_rows_give_the_same_hyperplane(monkeypatch, gram_rows, spread, C):
    X, y, E, _ = split(*blobs(3000, 2, 12, spread), 1500)
    reference = SVC(kernel="linear", C=C).fit(X.astype(float), y).predict(E.astype(float))
    monkeypatch.setattr(svm, "GRAM_ROWS", gram_rows)
    monkeypatch.setattr(svm, "FIRST_ROWS", 100)
    assert np.mean(predict((X, y, E, None), C=[C]) == reference) >= 0.998


def test_a_rare_class_is_not_lost_between_chunks(monkeypatch):
    monkeypatch.setattr(svm, "GRAM_ROWS", 1000)
    monkeypatch.setattr(svm, "FIRST_ROWS", 100)
    X, y = blobs(3000, 2, 5, 5)
    kept = (y == 0) | (np.cumsum(y) <= 3)
    reference = SVC(kernel="linear").fit(X[kept], y[kept]).predict(X)
    assert np.mean(predict((X[kept], y[kept], X, None)) == reference) >= 0.998
    assert 0 < reference.mean() < 1


def test_equal_votes_go_to_the_first_class():
    X = np.array([[np.cos(a), np.sin(a)] for a in (0, 2 * np.pi / 3, 4 * np.pi / 3)] * 2)
    y = np.array([4, 5, 6] * 2)
    middle = np.zeros((1, 2)) + 1e-9
    assert predict((X, y, middle, None)) == SVC(kernel="linear").fit(X, y).predict(middle)


@pytest.mark.parametrize("tau", [0.5, 0.07, 0.02])
def test_temperature_is_c_in_disguise(tau):
    X, y, E, _ = cosines()
    reference = SVC(kernel="linear").fit(X / tau, y).predict(E / tau)
    (scaled,) = probes.sweep(X, y, {"test": E}, scales=[1 / tau])
    (weaker,) = probes.sweep(X, y, {"test": E}, C=[1 / tau**2])
    assert np.mean(scaled.predicted["test"] == reference) >= 0.998
    assert np.mean(weaker.predicted["test"] == reference) >= 0.998


@pytest.mark.parametrize("classifier", ["svm", "logreg"])
def test_standardising_is_standard_scaler(classifier):
    X, y, E, _ = digits()  # some columns are constant
    scaler = StandardScaler().fit(X)
    plain = {"svm": SVC(kernel="linear"), "logreg": LogisticRegression(max_iter=1000)}[classifier]
    reference = plain.fit(scaler.transform(X), y).predict(scaler.transform(E))
    runs = probes.sweep(X, y, {"test": E}, classifier=classifier, scales=[1, 50], standardize=True)
    assert np.mean(runs[0].predicted["test"] == reference) >= 0.995
    assert np.array_equal(
        runs[0].predicted["test"], runs[1].predicted["test"]
    )  # whatever the scale


@pytest.mark.parametrize("problem", [overlapping, two_classes, cosines], ids=lambda p: p.__name__)
@pytest.mark.parametrize("C", [0.01, 1])
def test_logreg_finds_the_optimum(problem, C):
    X, y, E, _ = problem()
    exact = LogisticRegression(C=C, tol=1e-7, max_iter=5000).fit(X.astype(float), y)
    (run,) = probes.sweep(X, y, {"test": E}, classifier="logreg", C=[C])
    assert run.converged
    assert np.mean(run.predicted["test"] == exact.predict(E)) >= 0.985


def test_logreg_says_when_it_did_not_converge(monkeypatch):
    monkeypatch.setattr(classifiers, "MAX_ITER", 20)
    monkeypatch.setattr(classifiers, "SLICE", 20)
    X, y, E, _ = digits()
    easy, hard = probes.sweep(X, y, {"test": E}, classifier="logreg", C=[1e-6, 1])
    assert (easy.converged, hard.converged) == (True, False)


def test_knn_by_hand():
    X, y, E, _ = digits()
    cosine = normalize(E) @ normalize(X).T
    expected = []
    for row in cosine:
        near = np.argsort(-row)[:20]
        expected.append(np.bincount(y[near], weights=np.exp(row[near] / 0.07)).argmax())
    assert np.array_equal(predict(digits(), "knn"), expected)
    assert np.array_equal(predict(digits(), "knn", scales=[30]), expected)


def test_knn_with_fewer_rows_than_neighbours_and_rows_of_zeros():
    X = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    assert predict(
        (X, np.array([3, 3, 9]), np.array([[1.0, 0.1], [0.0, 2.0]]), None), "knn"
    ).tolist() == [3, 9]
    assert predict((X, np.array([3, 3, 9]), np.zeros((1, 2)), None), "knn").tolist() == [3]


def test_mlp_bends_where_a_line_cannot():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (1500, 2)).astype(np.float32)
    problem = (*split(X, (X[:, 0] * X[:, 1] > 0).astype(int))[:3], None)
    truth = (X[1000:, 0] * X[1000:, 1] > 0).astype(int)
    assert metrics.accuracy(truth, predict(problem, "svm")) < 0.7
    assert metrics.accuracy(truth, predict(problem, "mlp")) > 0.95


@pytest.fixture(scope="module")
def alike():
    """What every classifier is held to: 300 rows of digits, and their predictions."""
    X, y = load_digits(return_X_y=True)
    problem = split(X[:900] / 16, y[:900], 300)
    return problem, {classifier: predict(problem, classifier) for classifier in ALL}


@pytest.mark.parametrize("classifier", ALL)
def test_accuracy_is_decent(alike, classifier):
    (*_, t), predicted = alike
    assert metrics.accuracy(t, predicted[classifier]) > 0.8


@pytest.mark.parametrize("classifier", ALL)
def test_renaming_classes_changes_nothing(alike, classifier):
    (X, y, E, t), predicted = alike
    assert np.array_equal(
        predict((X, y * 7 - 20, E, t), classifier), predicted[classifier] * 7 - 20
    )
    shuffled = np.random.default_rng(1).permutation(
        10
    )  # another order: ties of votes and the MLP's start differ
    agree = np.mean(predict((X, shuffled[y], E, t), classifier) == shuffled[predicted[classifier]])
    assert agree >= {"svm": 0.95, "mlp": 0.95}.get(classifier, 0.99)


@pytest.mark.parametrize("classifier", ALL)
def test_a_run_does_not_depend_on_its_company(alike, classifier):
    (X, y, E, _), predicted = alike
    several = [0.1, 1] if classifier != "knn" else [1]
    runs = probes.sweep(
        X, y, {"a": E[:100], "b": E}, classifier=classifier, C=several, scales=[2, 1], jobs=3
    )
    assert [(run.scale, run.C) for run in runs if classifier != "knn"] == [
        (s, c) for s in (2, 1) for c in several if classifier != "knn"
    ]
    assert np.array_equal(runs[-1].predicted["b"], predicted[classifier])
    assert np.array_equal(runs[-1].predicted["a"], predicted[classifier][:100])


@pytest.mark.parametrize("classifier", ALL)
@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_types_of_numbers(alike, classifier, dtype):
    (X, y, E, t), predicted = alike
    before = X.astype(dtype), E.astype(dtype)
    given = tuple(array.copy() for array in before)
    assert np.mean(predict((given[0], y, given[1], t), classifier) == predicted[classifier]) > 0.97
    assert all(np.array_equal(array, same) for array, same in zip(given, before, strict=True))


@pytest.mark.parametrize("classifier", ["svm", "logreg"])
def test_far_from_the_origin(alike, classifier):
    (X, y, E, t), predicted = alike
    assert np.mean(predict((X + 100, y, E + 100, t), classifier) == predicted[classifier]) > 0.99


@pytest.mark.parametrize("classifier", ALL)
def test_progress_ends_at_its_total(alike, classifier):
    (X, y, E, _), _ = alike
    seen = []
    predict(
        (X, y, E, None),
        classifier,
        scales=[1, 3],
        progress=lambda done, total: seen.append((done, total)),
    )
    assert len({total for _, total in seen}) == 1
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize("classifier", ["svm", "mlp"])
def test_an_interrupt_ends_the_sweep(alike, classifier):
    (X, y, E, _), _ = alike
    calls = []

    def interrupt(done, total):
        calls.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict((X, y, E, None), classifier, scales=range(1, 9), jobs=2, progress=interrupt)
    assert len(calls) < 20  # of 45 pairs, or of thousands of epochs


def test_a_class_that_fit_lacks_is_never_predicted():
    X, y, E, t = digits()
    kept = y != 3
    predicted = predict((X[kept], y[kept], E, t))
    assert 3 not in predicted
    assert metrics.unseen(y[kept], t).tolist() == [3]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"classifier": "smv"}, UsageError, "unknown classifier 'smv'"),
        ({"C": [1, 0]}, UsageError, "C must be finite and above 0; got 0"),
        ({"C": [np.inf]}, UsageError, "C must be finite and above 0; got inf"),
        ({"scales": [np.nan]}, UsageError, "a scale must be finite and above 0; got nan"),
        (
            {"classifier": "knn", "C": [1, 2]},
            UsageError,
            "knn has no C to sweep over; got 2 values",
        ),
        (
            {"fit_labels": np.zeros(4, int)},
            ClipkitError,
            "two classes or more to tell apart; got 1",
        ),
        ({"fit_labels": np.arange(5)}, ClipkitError, "as many rows; got 4 and 5"),
        (
            {"eval_features": {"val": np.ones((2, 3))}},
            ClipkitError,
            r"val must have as many columns.*\(2, 3\)",
        ),
    ],
)
def test_errors_say_what_must_hold(options, error, message):
    given = {
        "fit_features": np.eye(4),
        "fit_labels": np.array([0, 0, 1, 1]),
        "eval_features": {"test": np.eye(4)},
    }
    with pytest.raises(error, match=message) as caught:
        probes.sweep(**given | options)
    if "classifier" in options and options["classifier"] == "smv":
        assert caught.value.hint == "did you mean svm?"
