"""What an accuracy does not say: of fitted images, of copies, of images that chose the best run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from factories import random_features
from shell import ok, rows
from test_report import write_baseline, write_results

from clipkit.analysis import attributes, importance, prediction, results
from clipkit.analysis.calibration import calibrate
from clipkit.analysis.evaluation import evaluate_grid
from clipkit.analysis.results import Predictions
from clipkit.features import FeatureFile, Split, concatenation, read, row_ids, splitting, write
from clipkit.plots.attributes import draw_attributes
from clipkit.report.summary import against_references

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
    note = (
        "40 of 40 images of test were also fitted: "
        "the accuracy on them says nothing about other images."
    )
    assert results.caveat_note(result, "test") == note
    assert not results.is_testable(results.caveats(result))
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
    [
        5,
        [5],
        [{"kind": "fitted"}],
        [{"kind": "chosen", "split": "test", "count": "1"}],
        [{"kind": "few", "split": "test", "count": 1, "rows": 1}],
    ],
)
def test_foreign_caveats_are_ignored(entry):
    file = FeatureFile("result", [{"command": "probe", "caveats": entry}])
    assert results.caveat_note(file) == ""


@pytest.mark.parametrize(("copies", "is_tested"), [(0, True), (3, False), (40, False)])
def test_attributes_of_fitted_images_have_no_interval_of_the_probe(copies, is_tested):
    file = images({"train": 60, "test": 40})
    for split in file.splits.values():
        split.features[:, 0] += 5 * split.labels
    file.splits["test"].features[:copies] = file.splits["train"].features[:copies]
    result = attributes.measure(file)
    assert caveats(result) == ([] if is_tested else [("fitted", "test", copies, 40)])
    (row,) = result.rows()
    assert row["probe"] > 0.9
    assert np.isfinite(row["probe_low"]) == np.isfinite(row["probe_high"]) == is_tested


def test_calibrate_records_scored_images_that_set_the_temperature(capsys):
    file = logits({"train": 60, "test": 40})
    file.class_index = np.arange(16) % 2
    assert "caveats" not in calibrate(file).history[-1]
    assert "warning" not in capsys.readouterr().err
    file.splits["test"].features[:5] = file.splits["train"].features[7:12]
    assert caveats(calibrate(file)) == [("fitted", "test", 5, 40)]
    assert "5 of 40 images of test were also fitted" in capsys.readouterr().err


def test_importance_notices_fitted_images_in_another_file():
    probe = evaluate_grid(logits({"train": 60, "test": 40}), keep=True)
    assert not results.caveats(importance.prompt_importance(probe, logits({"all": 60}, seed=9)))
    renamed = importance.prompt_importance(probe, logits({"all": 60}))
    assert caveats(renamed) == [("fitted", "all", 60, 60)]


def logits(sizes: dict[str, int], seed: int = 0) -> FeatureFile:
    """Return logits of 16 prompts for images of two classes at random."""
    file = images(sizes, seed=seed)
    prompts = {"texts": list("abcdefghijklmnop"), "class_index": np.full(16, -1)}
    return replace(file, kind="logits", temperature=1.0, **prompts)


# ---- what the commands say of it ----


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with results: fair, fitted on test, chosen on test, of shuffled labels."""
    folder = tmp_path_factory.mktemp("caveats")
    file = images({"train": 200, "test": 160})
    file.splits["test"].features[::2, 0] += 2
    file.splits["train"].features[::2, 0] += 2
    write(folder / "img.h5", file)
    shuffled = ok("relabel", folder / "img.h5", "--shuffle", "-o", folder / "shuffled.h5")
    assert not shuffled.stderr
    fit = ("--fit-split", "test", "-C", "1000")
    ok("probe", folder / "img.h5", "-o", folder / "fair.h5")
    ok("probe", folder / "img.h5", *fit, "-o", folder / "fitted.h5")
    ok("probe", folder / "shuffled.h5", *fit, "-o", folder / "s.h5")
    ok("probe", folder / "img.h5", "-C", "0.01,1", "--val", "test", "-o", folder / "chosen.h5")
    return folder


ALL = "160 of 160 images of test were also"
FITTED = f"{ALL} fitted: the accuracy on them says nothing about other images."
CHOSEN = f"{ALL} used to choose: the accuracy of the best run is optimistic."


def unwrapped(page: str) -> str:
    """Return a page of Markdown as one line without escapes."""
    return " ".join(page.split()).replace("\\", "")


@pytest.mark.long
@pytest.mark.parametrize(("name", "note"), [("s", FITTED), ("fitted", FITTED), ("chosen", CHOSEN)])
def test_a_page_has_the_note_and_no_verdict(folder, name, note):
    text = unwrapped(ok("report", folder / f"{name}.h5", folder / "fair.h5").stdout)
    assert f"{name}.h5: {note}" in text
    assert "McNemar" not in text
    assert "Worst class" not in ok("report", folder / f"{name}.h5").stdout
    (row,) = rows(ok("compare", folder / f"{name}.h5", "--run", 0).stdout)
    assert row["low"] == row["high"] == ""
    ok("report", folder / f"{name}.h5", "-f", "-o", folder / "page.html")
    page = (folder / "page.html").read_text()
    assert page.count(note) == 2  # in the summary and below the table
    assert "above chance" not in page
    ok("report", folder / "fair.h5", "-f", "-o", folder / "page.html")
    assert "This is above chance" in (folder / "page.html").read_text()


@pytest.mark.long
@pytest.mark.parametrize("pair", [("fitted", "fair"), ("fair", "fitted")])
def test_compare_does_not_test_a_fitted_result(folder, pair):
    paths = [folder / f"{name}.h5" for name in pair]
    done = ok("compare", *paths, "-o", folder / "c.h5", "-f")
    assert f"warning: fitted: {FITTED[:-1]}" in done.stderr
    (row,) = rows(done.stdout)
    assert row["p"] == row["kappa"] == row["low"] == row["high"] == ""
    assert float(row["difference"]) != 0
    assert FITTED in ok("info", "--runs", folder / "c.h5").stderr
    assert f"c.h5: fitted: {FITTED}" in unwrapped(ok("report", folder / "c.h5").stdout)


@pytest.mark.long
def test_a_correction_is_for_the_tests_that_are_made(folder):
    fair, other = folder / "fair.h5", folder / "other.h5"
    ok("probe", folder / "img.h5", "--classifier", "knn", "-o", other, "-f")
    first, second, third = rows(ok("compare", fair, other, folder / "fitted.h5", fair).stdout)
    assert float(first["p_holm"]) == pytest.approx(min(1, 2 * float(first["p"])))
    assert second["p_holm"] == ""
    assert third["p"] == "1"


@pytest.mark.long
def test_info_and_pictures_repeat_the_note(folder):
    assert FITTED in ok("info", "--runs", folder / "fitted.h5").stderr
    assert not ok("info", "--runs", folder / "fair.h5").stderr
    ok("plot", "confusion", folder / "fitted.h5", "-o", folder / "p.svg", "-f")
    both = ("--fit-split", "test", "--eval-split", "test")
    done = ok("attributes", folder / "img.h5", *both, "-o", folder / "a.h5", "-f")
    assert f"warning: {FITTED[:-1]}" in done.stderr
    assert "(" not in rows(done.stdout)[0]["probe"]
    assert FITTED in ok("info", "--runs", folder / "a.h5").stderr
    assert f"a.h5: {FITTED}" in unwrapped(ok("report", folder / "a.h5").stdout)
    assert draw_attributes(read(folder / "a.h5"))[1].endswith(FITTED)
    assert results.source_label(read(folder / "fitted.h5"), "test").endswith(f", test. {FITTED}")


def test_few_copies_leave_the_tests_in_place_and_are_noted():
    file = images({"train": 300, "test": 200})
    file.splits["test"].features[:2] = file.splits["train"].features[7:9]
    result = evaluate_grid(file)
    assert "2 of 200 images of test were also fitted" in results.caveat_note(result, "test")
    assert results.is_testable(results.caveats(result))


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "labels"),
    [
        (["--shuffle"], "classes, shuffled"),
        (["shapes", "--column", "colour"], "colour"),
        (["shapes", "--column", "colour", "--shuffle"], "colour, shuffled"),
        (["--groups", "shapes-outlines"], "groups of classes"),
        (["--groups", "shapes-outlines", "--shuffle"], "groups of classes, dealt at random"),
    ],
)
def test_a_heading_says_what_the_labels_are(tmp_path, words, labels):
    file = read(_shapes(tmp_path))
    heading = f"; labels: {labels}"
    ok("relabel", tmp_path / "img.h5", *words, "-o", tmp_path / "new.h5")
    ok("probe", tmp_path / "new.h5", "--classifier", "knn", "-o", tmp_path / "p.h5")
    text = ok("report", tmp_path / "p.h5").stdout
    assert next(line for line in text.splitlines() if line.startswith("## ")).endswith(heading)
    assert results.labels_suffix(file) == ""


def _shapes(folder: Path) -> Path:
    ok("embed", "shapes", "--model", "tiny", "--limit", "64", "-o", folder / "img.h5")
    return folder / "img.h5"


def test_a_verdict_agrees_with_the_exact_tests():
    labels = np.arange(40) % 2
    names, ids = ["a", "b"], row_ids(40)
    control = Predictions(ids, labels, np.r_[labels[:32], 1 - labels[32:]], names, "", "")
    for more, verdict in ((4, "not shown to be above"), (6, "above")):
        predicted = control.predicted.copy()
        predicted[32 : 32 + more] = labels[32 : 32 + more]
        scored = replace(control, predicted=predicted)
        text = against_references("t", "x", scored, [control], "s").text
        assert f"It is {verdict} the untrained control" in text
    few = Predictions(ids[:4], labels[:4], labels[:4], names, "", "")
    assert "This is not shown to be above chance" in against_references("", "", few, [], "").text


@pytest.mark.long
def test_the_page_of_a_folder_has_the_note_and_no_verdict(tmp_path):
    caveat = {"kind": "fitted", "split": "test", "count": 20, "rows": 200}
    folder = write_results(tmp_path / "results")
    write_baseline(folder, caveats=[caveat])
    text = " ".join(ok("report", folder).stdout.split())
    note = "20 of 200 images of test were also fitted: the accuracy on them says nothing"
    assert f"img.svm.h5: {note}" in text.replace("\\", "")
    ok("report", folder, "-o", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count(note) == 2
    assert "above chance" not in page
