"""What an accuracy does not say: of fitted images, of copies, of images that chose the best run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from factories import random_features

from clipkit import concatenation, prediction, results, splitting
from clipkit.evaluation import evaluate_grid
from clipkit.features import FeatureFile, Split, row_ids

HISTORY = [{"command": "embed", "model": {"name": "m", "digest": "sha256:1"}}]


def images(sizes: dict[str, int], width: int = 16, seed: int = 0) -> FeatureFile:
    """Return images of two classes at random."""
    splits = {}
    for number, (name, n) in enumerate(sizes.items()):
        X = random_features(n, width, seed + number)
        ids = [f"{name}/{row_id}" for row_id in row_ids(n)]
        splits[name] = Split(X, np.arange(n) % 2, ids)
    return FeatureFile("images", HISTORY, splits, class_names=["cat", "dog"])


def caveats(result: FeatureFile) -> list[tuple[str, str, int, int]]:
    """Return the caveats of a result as tuples."""
    return [tuple(caveat.values()) for caveat in results.caveats(result)]


def test_a_probe_that_scores_what_it_fitted_says_so_in_its_history():
    file = images({"train": 60, "test": 40})
    result = evaluate_grid(file, fit_split="test")
    assert caveats(result) == [("fitted", "test", 40, 40)]
    note = "test was fitted: the accuracy on it says nothing about other images."
    assert results.caveat_note(result, "test") == note
    assert not results.is_testable(result, "test")
    assert "caveats" not in evaluate_grid(file).history[-1]


def test_copies_and_a_choice_on_the_scored_split_are_recorded():
    file = images({"train": 60, "test": 40})
    file.splits["test"].features[:3] = file.splits["train"].features[7:10]
    assert caveats(evaluate_grid(file)) == [("fitted", "test", 3, 40)]
    chosen = evaluate_grid(file, Cs=[0.1, 1], val="test")
    assert caveats(chosen) == [("chosen", "test", 40, 40), ("fitted", "test", 3, 40)]


def test_a_validation_split_that_holds_the_test_images_is_noticed(capsys):
    file = images({"train": 60, "val": 40, "test": 40})
    file.splits["val"].features[:30] = file.splits["test"].features[:30]
    result = evaluate_grid(file, Cs=[0.1, 1], val="val")
    assert caveats(result) == [("chosen", "test", 30, 40)]
    assert "30 of 40 images of test were also used to choose" in capsys.readouterr().err
    assert results.caveat_note(result, "val") == ""


@pytest.mark.parametrize("width", [4, 32, 512])
@pytest.mark.parametrize("copies", [1, 5, 20])
def test_copies_are_found_although_training_rows_are_copies_across_classes(width, copies):
    X, X_eval = random_features(200, width), random_features(50, width, seed=1)
    X[100:120] = X[1:21]
    X_eval[:copies] = X[50 : 50 + copies]
    assert splitting.count_shared_rows(splitting.hash_rows(X), X_eval) == copies


def test_predict_knows_fitted_rows_in_other_files_and_under_other_names():
    file = images({"train": 60, "test": 40})
    probe = evaluate_grid(file, keep=True)
    other = replace(file, splits={"all": file.splits["train"], "new": file.splits["test"]})
    result = prediction.predict(probe, other).result
    assert caveats(result) == [("fitted", "all", 60, 60)]
    fresh = images({"train": 50}, seed=9)
    joined = concatenation.concat([fresh, file], prefix=True)
    assert caveats(prediction.predict(probe, joined).result) == [("fitted", "train", 60, 110)]
    assert caveats(prediction.predict(probe, fresh).result) == []


def test_predict_without_row_hashes_knows_the_fitted_file():
    file = images({"train": 60, "test": 40})
    probe = evaluate_grid(file, keep=True)
    del probe.fitted["row_hashes"]
    assert caveats(prediction.predict(probe, file).result) == [("fitted", "train", 60, 60)]


def test_one_image_of_many_columns_is_recognised():
    X = random_features(200, 64)
    assert splitting.count_shared_rows(splitting.hash_rows(X), X[:1]) == 1


@pytest.mark.parametrize(
    "entry",
    [5, [5], [{"kind": "fitted"}], [{"kind": "x", "split": "test", "count": 1, "rows": 1}]],
)
def test_foreign_caveats_are_ignored(entry):
    file = FeatureFile("result", [{"command": "probe", "caveats": entry}])
    assert results.caveat_note(file) == ""
