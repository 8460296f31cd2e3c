"""Evaluation of probes: grids, validation, few shots, and what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.svm import SVC

from clipkit.analysis.held_out import few_shot
from clipkit.analysis.probe import evaluation
from clipkit.analysis.probe.evaluation import ProbeSpec, evaluate_grid, parse_range
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.features import BlockMatrix, FeatureFile, Split, row_ids
from clipkit.features.splitting import stratified_split
from clipkit.probes import logistic
from clipkit.statistics.softmax import softmax

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
    entry = result.history[-1]
    del entry["clipkit"]
    assert entry == {
        **{"command": "probe", "classifier": "svm", "C": [1.0], "temperature": [0.25]},
        **{"features": "logits", "standardize": False, "fit_split": "train", "eval_split": "test"},
        **{"seed": 42, "prompts": 6, "inputs": {"features": file.digest}},
    }
    assert evaluate_grid(file).rows()[0]["temperature"] == 0.5  # that of the file


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
        ("train dev test", "dev", "test", [("train", "dev"), ("train", "test")]),
        ("train test", "test", "test", [("train", "test")]),
        ("train test", 0.5, "train", [("train-val", "val")]),
        ("train", "0.5", "test", [("train-val", "val")]),
        ("train val", 0.5, "val", [("train-val", "train-held-out"), ("train", "val")]),
    ],
)
def test_validation_on_a_split_or_without_another_split_to_score(splits, val, eval_split, expected):
    file = feature_file(splits=splits.split())
    rows = evaluate_grid(file, eval_split=eval_split, val=val).rows()
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
    (few,) = evaluate_grid(feature_file(), ProbeSpec(shots=[999])).rows()
    (every,) = evaluate_grid(feature_file()).rows()
    asked = {"fit_split": "train-up-to-999-shot", "shots": 999, "draw": 0}
    assert few == {**every, **asked, "fitted_per_class": 15}
    warning = "4 of 4 classes of train have fewer than 999 rows (the smallest: 15): all of their"
    assert warning in capsys.readouterr().err


@pytest.mark.parametrize("split", ["all", "test"])
def test_a_fifth_of_a_single_split_is_held_out_and_scored(capsys, split):
    (row,) = evaluate_grid(feature_file(splits=[split])).rows()
    assert (row["fit_split"], row["eval_split"]) == (f"{split}-val", "val")
    assert f"x.h5: of the only split, {split}, 20%" in capsys.readouterr().err
    (same,) = evaluate_grid(feature_file(splits=[split]), val="0.2").rows()
    assert same == row
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("file", "arguments", "warning"),
    [
        ({"splits": ["all"]}, {"fit_split": "all", "eval_split": "all"}, "60 of 60 images of all"),
        ({}, {"val": "test"}, "60 of 60 images of test were also used to choose: the accuracy"),
        ({}, {"spec": ProbeSpec(standardize=True), "temperatures": [0.1]}, "standardised features"),
        ({}, {"spec": ProbeSpec("knn"), "temperatures": [1, 0.1]}, "knn compares directions, whi"),
    ],
)
def test_a_number_that_says_less_than_it_seems_is_warned_about(capsys, file, arguments, warning):
    evaluate_grid(feature_file(**file), **arguments)
    assert f"clipkit: warning: {warning}" in capsys.readouterr().err


def test_a_fit_that_did_not_converge_is_warned_about(capsys, monkeypatch):
    monkeypatch.setattr(logistic, "MAX_ITER", 2)
    evaluate_grid(feature_file("images"), ProbeSpec("logreg"), Cs=[1e-6, 1e6])
    assert "logreg did not converge in 1 of 2 runs" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["images", "logits"])
@pytest.mark.parametrize("options", [{}, {"val": 0.3, "Cs": [0.1, 1]}, {"spec": {"shots": [1]}}])
def test_features_that_are_read_when_needed_give_the_same_runs(monkeypatch, kind, options):
    monkeypatch.setattr("clipkit.base.matrices.block_rows", lambda width: 5)
    monkeypatch.setattr("clipkit.statistics.softmax.CACHE_ROWS", 1)  # the order of sums stays
    file = feature_file(kind, temperature=0.5 if kind == "logits" else 1.0)
    spec = ProbeSpec("logreg", **options.get("spec", {}))
    options = {name: value for name, value in options.items() if name != "spec"}
    expected = evaluate_grid(file, spec, keep=True, **options)
    monkeypatch.setattr("clipkit.base.matrices.SMALL", 0)
    monkeypatch.setattr(BlockMatrix, "read", None)  # nothing reads all of them
    for split in file.splits.values():
        split.features = BlockMatrix.from_array(split.features)
    result = evaluate_grid(file, spec, keep=True, **options)
    np.testing.assert_equal(result.runs, expected.runs)
    assert (result.fitted["coefficients"] == expected.fitted["coefficients"]).all()


def test_an_svm_of_many_classes_says_what_it_costs_before_it_begins(capsys, monkeypatch):
    monkeypatch.setattr(evaluation, "MANY_PAIRS", 0)
    evaluate_grid(feature_file("images"), ProbeSpec("logreg"))
    assert "pairs" not in capsys.readouterr().err
    evaluate_grid(feature_file("images"))
    assert "clipkit: svm fits 6 pairs of classes, which takes minutes" in capsys.readouterr().err


@pytest.mark.parametrize("val", ["tset", "train", "2", "nan", "-0.1", "", 0, 1.5])
def test_validation_is_a_fraction_or_another_split(val):
    with pytest.raises(UsageError, match="a fraction between 0 and 1 or a split other than train"):
        evaluate_grid(feature_file(), val=val)


@pytest.mark.parametrize(
    ("file", "arguments", "message"),
    [
        ({}, {"fit_split": "dev"}, "expected a split 'dev', got train"),
        ({}, {"eval_split": "dev"}, "expected a split 'dev', got train"),
        ({"kind": "images"}, {"temperatures": [1]}, "x.h5: expected logits"),
        ({"kind": "images"}, {"spec": ProbeSpec(features="probs")}, "x.h5: expected logits"),
        ({}, {"val": 0.1, "eval_split": "tset"}, "split of x.h5 'tset'"),
        ({"temperature": 1e-30}, {}, "temperature: expected a number between"),
        ({}, {"spec": ProbeSpec(shots=[0])}, "expected at least 1, got 0"),
    ],
)
def test_errors_name_what_is_expected(file, arguments, message):
    with pytest.raises(ClipkitError, match=message):
        evaluate_grid(feature_file(**file), **arguments)


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
    assert np.array_equal(stratified_split(labels, fraction, seed)[1], val_index)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, np.nan])
def test_a_fraction_lies_between_0_and_1(fraction):
    with pytest.raises(UsageError, match="between 0 and 1"):
        stratified_split(np.zeros(4), fraction)


def test_a_split_with_one_row_a_class_has_none_to_hold_out():
    train = Split(np.eye(3), np.arange(3), row_ids(3))
    with pytest.raises(ClipkitError, match="train: expected a class with two rows or more to hold"):
        evaluate_grid(FeatureFile("images", splits={"train": train}), val=0.1)


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
    rows = Split(np.ones((5001, 1), np.float32), np.arange(5001), row_ids(5001))
    file = FeatureFile("images", splits={"train": rows, "test": rows}, display_name="x.h5")
    message = f"x.h5: train: expected at most {most} classes for {classifier}, got 5,001"
    with pytest.raises(ClipkitError, match=message):
        evaluate_grid(file, ProbeSpec(classifier))


@pytest.mark.parametrize("count", [2, 7, 33, 97, 98, 99])
def test_a_search_finds_the_peak_of_any_range_with_one_peak(monkeypatch, count):
    """Of 97 values, 15 are fitted at most, as in CLIP's protocol."""
    Cs = parse_range(f"1e-6..1e6:{count}")
    assert np.allclose(Cs, np.geomspace(1e-6, 1e6, count), rtol=1e-7)

    def score(grid, fit, scored, draw, keep):
        places = [Cs.index(C) for C in grid.Cs]
        rows = [{"C": Cs[place], "acc1": -abs(place - peak)} for place in places]
        return [evaluation.ScoredRun(row, None, True, None) for row in rows]

    monkeypatch.setattr(evaluation, "_evaluate", score)
    grid = evaluation.Grid(None, ProbeSpec(), [None], Cs)
    scored = SimpleNamespace(labels=np.arange(2))  # equal classes
    for peak in range(count):
        rows = [run.row for run in evaluation._search(grid, None, scored, evaluation.Draw())]
        assert max(rows, key=lambda row: row["acc1"])["C"] == Cs[peak]
        assert rows == sorted(rows, key=lambda row: row["C"])
        assert len(rows) <= (15 if count == 97 else 20)


def test_a_searched_range_reports_each_c_that_it_fitted_and_refits_the_best():
    file, text = feature_file(), "1e-4..1e4:65"
    searched = evaluate_grid(file, Cs=text, val=0.3)
    *rows, last = searched.rows()
    tried = [row["C"] for row in rows]
    assert {row["eval_split"] for row in rows} == {"val"}
    assert len(tried) < 20
    assert searched.history[-1]["tried"] == tried == sorted(tried)
    assert searched.history[-1]["C"] == text
    assert evaluate_grid(file, Cs=tried, val=0.3).rows() == [*rows, last]
    best = max(rows, key=lambda row: row["acc1"])
    assert (last["C"], last["eval_split"]) == (best["C"], "test")
    listed = evaluate_grid(file, Cs="0.01..100:5")  # nothing to choose on: all are fitted
    assert [row["C"] for row in listed.rows()] == [0.01, 0.1, 1, 10, 100]
    assert "tried" not in listed.history[-1]


def test_a_search_whose_best_c_is_an_end_of_the_range_says_so(capsys):
    file = feature_file()
    ranges = {"1e-4..1e4:65": False, "1e-12..1e-9:4": True, "1e-9..1e-12:4": True}
    for text, is_end in ranges.items():
        evaluate_grid(file, Cs=text, val=0.3)
        said = "train-val: the chosen C, 1e-12, is an end of the range" in capsys.readouterr().err
        assert said == is_end


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1e-6..1e6", "expected a range such as 1e-6..1e6:97, got '1e-6..1e6'"),
        ("1..2:1", "expected a range such as"),
        ("1e-20..1:3", "expected a number between 1e-12 and 1e"),
    ],
)
def test_a_range_that_is_none_is_refused(text, message):
    with pytest.raises(UsageError, match=message):
        parse_range(text)
