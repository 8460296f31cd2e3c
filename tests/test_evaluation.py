"""Evaluation of probes: grids, validation, few shots, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.svm import SVC

from clipkit.analysis.evaluation import ProbeSpec, evaluate_grid
from clipkit.analysis.held_out import few_shot
from clipkit.analysis.probes import logistic
from clipkit.analysis.softmax import softmax
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.features import FeatureFile, Split, row_ids
from clipkit.features.splitting import stratified_split

NAMES = ["cat", "dog", "hen", "cow"]


def feature_file(kind="logits", temperature=1.0, splits=("train", "test")):
    """60 rows per split in 4 overlapping classes, with 6 prompts or dimensions."""
    rng = np.random.default_rng(0)
    means = rng.standard_normal((4, 6))
    file = FeatureFile(kind, class_names=NAMES, display_name="x.h5")
    for name in splits:
        labels = rng.permutation(np.arange(60) % 4)
        cosines = 0.3 + 0.1 * (means[labels] + rng.standard_normal((60, 6)))
        features = (cosines / temperature).astype(np.float32)
        file.splits[name] = Split(features=features, labels=labels, ids=row_ids(60))
    if kind == "logits":
        file.temperature = temperature
        file.texts = list("abcdef")
    return file


def svm_predictions(X, y, X_eval):
    return SVC(kernel="linear").fit(X, y).predict(X_eval)


@pytest.mark.parametrize("features", ["logits", "probs"])
def test_temperatures_and_cs_in_any_order_label_every_run_correctly(features):
    file, spec = feature_file(), ProbeSpec(features=features)
    result = evaluate_grid(file, spec, [0.1, 1, 0.02, 0.1], [10, 0.1, 1])
    rows = result.rows()
    points = [(row["temperature"], row["C"]) for row in rows]
    assert points == [(tau, C) for tau in (0.1, 1, 0.02, 0.1) for C in (10, 0.1, 1)]
    for row, predicted in zip(rows, result.splits["test"].predicted, strict=True):
        single = evaluate_grid(file, spec, [row["temperature"]], [row["C"]])
        assert [row] == single.rows()
        assert np.array_equal(single.splits["test"].predicted[0], predicted)
    assert len({row["acc1"] for row in rows}) > 2


def test_a_run_is_a_fit_on_one_split_and_a_score_on_another():
    file = feature_file(temperature=0.5)
    train, test = file.splits["train"], file.splits["test"]
    result = evaluate_grid(file, temperatures=[0.25])
    (row,) = result.rows()
    predicted = result.splits["test"].predicted[0]
    expected = svm_predictions(train.features * 2, train.labels, test.features * 2)
    assert np.array_equal(predicted, expected)
    assert row["acc1"] == (expected == test.labels).mean()
    p = softmax(test.features * 0.5, 0.25)
    assert row["mean_entropy"] == pytest.approx(-(p * np.log(p)).sum(axis=1).mean())
    assert row["mean_confidence"] == pytest.approx(p.max(axis=1).mean())
    assert result.class_names == NAMES
    assert result.splits["test"].ids == test.ids
    assert result.history[-1] == {
        "command": "probe",
        "clipkit": result.history[-1]["clipkit"],
        "classifier": "svm",
        "C": [1.0],
        "temperature": [0.25],
        "features": "logits",
        "standardize": False,
        "fit_split": "train",
        "eval_split": "test",
        "seed": 42,
        "prompts": 6,
        "inputs": {"features": file.digest},
    }


@pytest.mark.parametrize(
    ("kind", "spec", "standardize"),
    [
        ("images", ProbeSpec(), True),
        ("images", ProbeSpec("knn"), False),
        ("images", ProbeSpec(standardize=False), False),
        ("logits", ProbeSpec(), False),
        ("logits", ProbeSpec(standardize=True), True),
    ],
)
def test_embeddings_are_standardised_by_default_and_have_no_temperature(kind, spec, standardize):
    (row,) = evaluate_grid(feature_file(kind), spec).rows()
    assert row["standardize"] is standardize
    assert np.isnan(row["temperature"]) == ("mean_entropy" not in row) == (kind == "images")


def test_without_temperatures_logits_have_that_of_their_file():
    file = feature_file(temperature=0.5)
    assert evaluate_grid(file).rows()[0]["temperature"] == 0.5


def test_the_best_run_on_held_out_rows_is_fitted_again_and_scored_once():
    file = feature_file()
    result = evaluate_grid(file, temperatures=[1, 0.05], Cs=[0.1, 1], val=0.25)
    *tried, chosen = result.rows()
    assert {(row["fit_split"], row["eval_split"]) for row in tried} == {("train-val", "val")}
    best = max(tried, key=lambda row: row["acc1"])
    (again,) = evaluate_grid(file, temperatures=[best["temperature"]], Cs=[best["C"]]).rows()
    assert chosen == again
    train = file.splits["train"]
    train_index, val_index = stratified_split(train.labels, 0.25)
    assert result.splits["val"].ids == [train.ids[row] for row in val_index]
    X = train.features / 0.05
    expected = svm_predictions(X[train_index], train.labels[train_index], X[val_index])
    assert np.array_equal(result.splits["val"].predicted[3], expected)
    assert result.splits["test"].predicted.shape == (1, 60)


@pytest.mark.parametrize(
    ("splits", "val", "eval_split", "expected"),
    [
        (("train", "dev", "test"), "dev", "test", [("train", "dev"), ("train", "test")]),
        (("train", "test"), "test", "test", [("train", "test")]),
        (("train", "test"), 0.5, "train", [("train-val", "val")]),
        (("train",), "0.5", "test", [("train-val", "val")]),
        (
            ("train", "val"),
            0.5,
            "val",
            [("train-val", "train-held-out"), ("train", "val")],
        ),
        (
            ("train", "val", "train-held-out"),
            0.5,
            "train-held-out",
            [("train-val", "train-held-out-2"), ("train", "train-held-out")],
        ),
    ],
)
def test_validation_on_a_split_or_without_another_split_to_score(splits, val, eval_split, expected):
    rows = evaluate_grid(feature_file(splits=splits), eval_split=eval_split, val=val).rows()
    assert [(row["fit_split"], row["eval_split"]) for row in rows] == expected


def test_shots_are_drawn_from_the_rows_that_are_fitted_on():
    file = feature_file()
    train, test = file.splits["train"], file.splits["test"]
    result = evaluate_grid(file, ProbeSpec(shots=[3], seed=7))
    assert result.runs["fit_split"].tolist() == ["train-3-shot"]
    assert result.history[-1]["shots"] == 3
    drawn = few_shot(train.labels, 3, seed=7)
    expected = svm_predictions(train.features[drawn], train.labels[drawn], test.features)
    assert np.array_equal(result.splits["test"].predicted[0], expected)

    result = evaluate_grid(file, ProbeSpec(shots=[2]), val=0.25)
    assert result.runs["fit_split"].tolist() == ["train-val-2-shot", "train-2-shot"]
    assert len(result.splits["val"]) == 16


def test_more_shots_than_rows_are_all_rows_and_say_so(capsys):
    (few,), (every,) = (
        evaluate_grid(feature_file(), ProbeSpec(shots=shots)).rows() for shots in ([999], [])
    )
    name = "train-up-to-999-shot"
    assert few == {**every, "fit_split": name, "shots": 999, "draw": 0}
    assert capsys.readouterr().err == (
        "clipkit: warning: 4 of 4 classes of train have fewer than 999 rows (the smallest: "
        "15): all of their rows are used\n"
    )


@pytest.mark.parametrize("split", ["all", "train", "test"])
def test_a_fifth_of_a_single_split_is_held_out_and_scored(capsys, split):
    (row,) = evaluate_grid(feature_file(splits=[split])).rows()
    assert (row["fit_split"], row["eval_split"]) == (f"{split}-val", "val")
    assert capsys.readouterr().err == (
        f"clipkit: warning: x.h5 has one split, {split}: 20% of its rows are held out and scored\n"
    )
    (same,) = evaluate_grid(feature_file(splits=[split]), val="0.2").rows()
    assert same == row
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("file", "arguments", "warning"),
    [
        (
            feature_file(splits=["all"]),
            {"fit_split": "all", "eval_split": "all"},
            "60 of 60 images of all were also fitted: "
            "the accuracy on them says nothing about other images",
        ),
        (
            feature_file(),
            {"val": "test"},
            "60 of 60 images of test were also used to choose: "
            "the accuracy of the best run is optimistic",
        ),
        (
            feature_file(),
            {"spec": ProbeSpec(standardize=True), "temperatures": [0.1]},
            "standardised features are the same at every temperature",
        ),
        (
            feature_file(),
            {"spec": ProbeSpec("knn"), "temperatures": [1, 0.1]},
            "knn compares directions, which are the same at every temperature",
        ),
    ],
)
def test_a_number_that_says_less_than_it_seems_is_warned_about(capsys, file, arguments, warning):
    evaluate_grid(file, **arguments)
    assert capsys.readouterr().err == f"clipkit: warning: {warning}\n"


def test_a_fit_that_did_not_converge_is_warned_about(capsys, monkeypatch):
    monkeypatch.setattr(logistic, "MAX_ITER", 2)
    evaluate_grid(feature_file("images"), ProbeSpec("logreg"), Cs=[1e-6, 1e6])
    assert capsys.readouterr().err == ("clipkit: warning: logreg did not converge in 1 of 2 runs\n")


VAL = "val: expected a fraction between 0 and 1 or a split other than train"


@pytest.mark.parametrize(
    ("file", "arguments", "error", "message"),
    [
        (feature_file(), {"fit_split": "dev"}, ClipkitError, "expected a split 'dev', got train"),
        (feature_file(), {"eval_split": "dev"}, ClipkitError, "expected a split 'dev', got train"),
        (feature_file("images"), {"temperatures": [1]}, UsageError, "x.h5: expected logits"),
        (
            feature_file("images"),
            {"spec": ProbeSpec(features="probs")},
            UsageError,
            "x.h5: expected logits",
        ),
        *(
            (feature_file(), {"val": val}, UsageError, f"{VAL}, got {val}")
            for val in ("tset", "train", "2", "nan", "-0.1", "", 0, 1.5)
        ),
        (feature_file(), {"val": 0.1, "eval_split": "tset"}, UsageError, "split of x.h5 'tset'"),
        (
            FeatureFile("images", splits={"train": Split(np.eye(3), np.arange(3), row_ids(3))}),
            {"val": 0.1},
            ClipkitError,
            "train: expected a class with two rows or more to hold out one, got none",
        ),
        (
            feature_file(),
            {"temperatures": [1e-309]},
            UsageError,
            "temperature: expected a number between 1e-12 and 1e+12, got 1e-309",
        ),
        (feature_file(), {"spec": ProbeSpec(shots=[0])}, UsageError, "expected at least 1, got 0"),
    ],
)
def test_errors_name_what_is_expected(file, arguments, error, message):
    with pytest.raises(error) as caught:
        evaluate_grid(file, **arguments)
    assert message in caught.value.message


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=80), st.floats(0.01, 0.99), st.integers(0, 3)
)
def test_a_stratified_split_is_a_partition_of_every_class(labels, fraction, seed):
    labels = np.array(labels)
    train_index, val_index = stratified_split(labels, fraction, seed)
    assert np.array_equal(np.sort([*train_index, *val_index]), np.arange(len(labels)))
    assert np.array_equal(train_index, np.sort(train_index))
    for c, count in zip(*np.unique(labels, return_counts=True), strict=True):
        expected = min(max(1, round(fraction * count)), count - 1)
        assert np.sum(labels[val_index] == c) == expected


def test_a_stratified_split_depends_on_the_seed_alone():
    labels = np.repeat([0, 1], 50)
    first, again, other = (stratified_split(labels, 0.2, seed)[1].tolist() for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("fraction", [0, 1, -0.1, np.nan])
def test_a_fraction_lies_between_0_and_1(fraction):
    with pytest.raises(UsageError, match="between 0 and 1"):
        stratified_split(np.zeros(4), fraction)


def test_few_shot_draws_the_same_number_of_rows_of_every_class():
    labels = np.array([3] * 10 + [8] * 2)
    rows = few_shot(labels, 4, seed=0)
    assert np.unique(labels[rows], return_counts=True)[1].tolist() == [4, 2]
    assert np.array_equal(rows, np.unique(rows))


@pytest.mark.long
def test_rows_are_drawn_class_by_class_in_one_pass():
    labels = np.arange(200_000)  # a pass over all rows for each class would take minutes
    assert len(few_shot(labels, 1)) == 200_000
    assert len(stratified_split(labels, 0.5)[1]) == 0


@pytest.mark.parametrize(("classifier", "most"), [("svm", "2,000"), ("logreg", "5,000")])
def test_labels_that_are_no_classes_are_refused_before_they_are_fitted(classifier, most):
    labels = np.arange(5001)
    rows = Split(np.ones((5001, 1), np.float32), labels, row_ids(5001))
    file = FeatureFile("images", splits={"train": rows, "test": rows}, display_name="x.h5")
    message = f"x.h5: train: expected at most {most} classes for {classifier}, got 5,001"
    with pytest.raises(ClipkitError, match=message):
        evaluate_grid(file, ProbeSpec(classifier))


@pytest.mark.parametrize("features", ["logits", "probs"])
def test_the_temperature_of_a_file_is_checked_too(features):
    file = feature_file(temperature=1e-30)
    with pytest.raises(UsageError, match="temperature: expected a number between"):
        evaluate_grid(file, ProbeSpec(features=features))
