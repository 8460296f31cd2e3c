"""Precision, recall and F1 of each class: those of scikit-learn."""

import numpy as np
import pytest
from factories import feature_file, result_file
from sklearn.metrics import precision_recall_fscore_support

from clipkit.analysis.results import per_class_rows
from clipkit.base.errors import ClipkitError
from clipkit.features import Split

NAMES = ["crane", "cock", "crane", "owl", "egg"]


def random_result(class_names=None, **changes):
    """Return two runs over four of five classes; one class is never predicted."""
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 4, 60), rng.integers(0, 3, (2, 60))
    rows = [{"classifier": "svm", "C": C, "eval_split": "test", "acc1": 0.5} for C in (1.0, 2.0)]
    return result_file(rows, labels, predicted, [{"command": "probe"}], class_names)


def test_the_numbers_are_scikit_learns_with_zero_division_0():
    result = random_result(NAMES)
    rows = per_class_rows(result)
    assert [row["C"] for row in rows] == [1.0] * 5 + [2.0] * 5
    scored = result.splits["test"]
    assert scored.predicted is not None
    for number, predicted in enumerate(scored.predicted):
        expected = precision_recall_fscore_support(
            scored.labels, predicted, labels=range(5), zero_division=0
        )
        of_run = rows[5 * number : 5 * (number + 1)]
        for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
            np.testing.assert_allclose([row[name] for row in of_run], values, err_msg=name)


def test_classes_of_one_name_are_told_apart_by_number():
    rows = per_class_rows(random_result(NAMES))
    assert [row["class"] for row in rows[:5]] == ["0: crane", "cock", "2: crane", "owl", "egg"]


def test_without_names_the_classes_that_occur_are_numbered():
    assert [row["class"] for row in per_class_rows(random_result())[:4]] == ["0", "1", "2", "3"]


def test_a_split_without_labels_is_left_out():
    result = random_result(NAMES)
    result.runs = {"split": np.array(["test", "test", "new"])}
    result.splits["new"] = Split(ids=["a"], predicted=np.array([[1]]))
    assert {row["split"] for row in per_class_rows(result)} == {"test"}


@pytest.mark.parametrize("command", ["cluster", "entropy"])
def test_a_result_without_predicted_classes_is_refused(command):
    result = random_result(NAMES)
    result.history = [{"command": command}]
    if command == "entropy":
        result.splits = {}
    with pytest.raises(
        ClipkitError, match=f"expected predicted classes, got a result of {command}"
    ):
        per_class_rows(result)


@pytest.mark.long
def test_too_many_rows_are_refused_before_they_are_made():
    result = feature_file("result")
    result.class_names = [str(number) for number in range(1 << 20)]
    with pytest.raises(ClipkitError, match=r"expected at most 1,048,576 rows of runs and classes"):
        per_class_rows(result)
