"""A kept probe predicts what the sweep reported, on other files and from other processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from clipkit import probes
from clipkit.probes import FittedProbe
from clipkit.probes import svm as svm_module

SETTINGS = {
    "svm": {"C": (0.01, 1, 100), "scales": (1, 14.3)},
    "logreg": {"C": (0.01, 1, 100), "scales": (1, 14.3)},
    "mlp": {"C": (1,), "scales": (1, 14.3)},
    "knn": {"C": (1,), "scales": (1, 14.3)},
}


def world(
    classes: int, rows: int = 240, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw noisy rows of classes with ids 3, 5, 7, ... that overlap a little."""
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(np.arange(rows) % classes)
    means = np.random.default_rng(99).standard_normal((classes, 12))
    X = 0.3 + 0.1 * (means[numbers] + rng.standard_normal((rows, 12)))
    return X.astype(np.float32), 3 + 2 * numbers


def reread(fitted: FittedProbe) -> FittedProbe:
    """Return the probe that another process would make of its arrays."""
    arrays: Mapping[str, Any] = {
        name: value if isinstance(value, list) else value.copy()
        for name, value in fitted.to_arrays().items()
    }
    return FittedProbe.from_arrays(arrays)


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("classifier", SETTINGS)
def test_a_kept_probe_predicts_what_its_sweep_predicted(
    classifier: str, standardize: bool, classes: int
) -> None:
    X, y = world(classes)
    X_eval, _ = world(classes, 101, seed=1)
    options: dict[str, Any] = {"classifier": classifier, "standardize": standardize}
    runs = probes.sweep(X, y, X_eval, keep=True, **SETTINGS[classifier], **options)
    for run in runs:
        assert run.fitted
        fitted = reread(run.fitted)
        np.testing.assert_array_equal(fitted.predict(X_eval), run.predicted)
        scores = fitted.scores(X_eval)
        np.testing.assert_array_equal(fitted.classes[scores.argmax(axis=1)], run.predicted)
        confidences = fitted.confidences(scores)
        np.testing.assert_array_equal(confidences.argmax(axis=1), scores.argmax(axis=1))
        assert fitted.width == 12


def test_a_sweep_that_keeps_nothing_has_no_fitted_probes() -> None:
    X, y = world(3)
    assert probes.sweep(X, y, X)[0].fitted is None


def test_hyperplanes_that_are_fitted_pair_by_pair_are_kept_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(svm_module, "NORMALS", 10)
    X, y = world(14)
    X_eval, _ = world(14, 50, seed=1)
    for run in probes.sweep(X, y, X_eval, C=(0.1, 10), keep=True):
        assert run.fitted
        np.testing.assert_array_equal(reread(run.fitted).predict(X_eval), run.predicted)


def test_logits_and_probabilities_of_logreg_are_scikit_learns() -> None:
    X, y = world(4)
    (run,) = probes.sweep(X, y, X, classifier="logreg", C=(3.0,), keep=True)
    assert run.fitted
    reference = LogisticRegression(C=3.0, tol=1e-8, max_iter=10_000).fit(X, y)
    probabilities = run.fitted.confidences(run.fitted.scores(X))
    np.testing.assert_allclose(probabilities, reference.predict_proba(X), atol=3e-3)
    np.testing.assert_allclose(
        run.fitted.weights(), reference.coef_, atol=0.02 * np.abs(reference.coef_).max()
    )


def test_margins_of_two_classes_are_those_of_an_svm() -> None:
    X, y = world(2)
    (run,) = probes.sweep(X, y, X, C=(3.0,), keep=True)
    assert run.fitted
    reference = SVC(kernel="linear", C=3.0).fit(X, y)
    margins = run.fitted.scores(X)
    np.testing.assert_allclose(margins[:, 1], reference.decision_function(X), atol=5e-3)
    np.testing.assert_allclose(margins[:, 0], -margins[:, 1])
    np.testing.assert_allclose(run.fitted.weights()[1], reference.coef_[0], atol=5e-3)
