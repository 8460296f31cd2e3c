"""What an accuracy does not say: of fitted images, of copies, of images that chose the best run."""

from dataclasses import replace

import numpy as np
import pytest
from factories import random_features
from shell import ok, rows

from clipkit.analysis import results
from clipkit.analysis.attributes import recalls
from clipkit.analysis.calibrate.calibration import calibrate
from clipkit.analysis.importance import costs
from clipkit.analysis.predict import prediction
from clipkit.analysis.probe.evaluation import ProbeSpec, evaluate_grid
from clipkit.analysis.results import Predictions
from clipkit.features import FeatureFile, Split, concatenation, matching, read, row_ids, write
from clipkit.plots.attributes import draw_attributes
from clipkit.report.summary import found

HISTORY = [{"command": "embed", "model": {"name": "m", "digest": "sha256:1"}}]
SIZES = {"train": 60, "test": 40}
ALL = "160 of 160 images of test were also"
FITTED = f"{ALL} fitted: the accuracy on them says nothing about other images."
CHOSEN = f"{ALL} used to choose: the accuracy on them is optimistic."


def images(sizes, width=16, seed=0, copies=0):
    """Return images of two classes at random; the first of test are copies of rows of train."""
    splits = {}
    for number, (name, n) in enumerate(sizes.items()):
        X = random_features(n, width, seed + number)
        ids = [f"{name}/{row_id}" for row_id in row_ids(n)]
        splits[name] = Split(X, np.arange(n) % 2, ids)
    if copies:
        splits["test"].features[:copies] = splits["train"].features[7 : 7 + copies]
    return FeatureFile("images", HISTORY, splits, class_names=["cat", "dog"])


def caveats(result):
    """Return the caveats of a result as tuples."""
    return [tuple(caveat.values()) for caveat in results.caveats(result)]


def test_a_probe_that_scores_what_it_fitted_says_so_in_its_history():
    file = images(SIZES)
    result = evaluate_grid(file, fit_split="test")
    assert caveats(result) == [("fitted", "test", 40, 40)]
    assert results.caveat_note(result, "test") == FITTED.replace("160", "40")
    assert not results.is_testable(results.caveats(result))
    assert "caveats" not in evaluate_grid(file).history[-1]


def test_exported_runs_that_score_what_was_fitted_are_warned_of(tmp_path):
    write(tmp_path / "leaked.h5", evaluate_grid(images(SIZES), fit_split="test"))
    write(tmp_path / "sound.h5", evaluate_grid(images(SIZES)))
    for words in ([], ["--runs"]):
        done = ok("convert", tmp_path / "leaked.h5", tmp_path / f"{len(words)}.csv", *words)
        assert f"leaked.h5: {FITTED.replace('160', '40')[:-1]}" in done.stderr
        done = ok("convert", tmp_path / "sound.h5", tmp_path / f"{len(words)}.tmp.csv", *words)
        assert done.stderr == ""


def test_copies_and_a_choice_on_the_scored_split_are_recorded():
    file = images(SIZES, copies=3)
    assert caveats(evaluate_grid(file)) == [("fitted", "test", 3, 40)]
    chosen = evaluate_grid(file, Cs=[0.1, 1], val="test")
    assert caveats(chosen) == [("chosen", "test", 40, 40), ("fitted", "test", 3, 40)]
    few = evaluate_grid(images({"train": 300, "test": 200}, copies=2))
    assert "2 of 200 images of test were also fitted" in results.caveat_note(few, "test")
    assert results.is_testable(results.caveats(few))


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
    assert matching.count_shared_rows(matching.hash_rows(X), X_eval) == copies


@pytest.mark.parametrize("width", [1, 2, 16])
def test_rows_may_be_shared_if_they_begin_alike(width):
    X = random_features(50, width)
    beside = random_features(40, width, seed=1)
    assert not matching.may_share_rows(X, beside)
    beside[-1] = X[0]
    assert matching.may_share_rows(X, beside)
    assert not matching.may_share_rows(X, beside[:0])


def test_predict_knows_fitted_rows_in_other_files_and_under_other_names():
    file = images(SIZES)
    probe = evaluate_grid(file, keep=True)
    other = replace(file, splits={"all": file.splits["train"], "new": file.splits["test"]})
    assert caveats(prediction.predict(probe, other).result) == [("fitted", "all", 60, 60)]
    fresh = images({"train": 50}, seed=9)
    joined = concatenation.concat([fresh, file], prefix=True)
    assert caveats(prediction.predict(probe, joined).result) == [("fitted", "train", 60, 110)]
    assert caveats(prediction.predict(probe, fresh).result) == []
    del probe.fitted["row_hashes"]
    assert caveats(prediction.predict(probe, file).result) == [("fitted", "train", 60, 60)]


def test_predict_counts_fitted_rows_of_a_draw_although_most_blocks_have_none(monkeypatch):
    monkeypatch.setattr("clipkit.base.matrices.block_rows", lambda width: 5)
    file = images(SIZES)
    probe = evaluate_grid(file, ProbeSpec(shots=[1]), keep=True)
    assert caveats(prediction.predict(probe, file).result) == [("fitted", "train", 2, 60)]


def test_foreign_caveats_are_ignored():
    few = {"kind": "few", "split": "test", "count": 1, "rows": 1}
    for entry in (5, [5], [{"kind": "fitted"}], [few | {"count": "1"}], [few]):
        file = FeatureFile("result", [{"command": "probe", "caveats": entry}])
        assert results.caveat_note(file) == ""


@pytest.mark.parametrize(("copies", "is_tested"), [(0, True), (3, False), (40, False)])
def test_attributes_of_fitted_images_have_no_interval_of_the_probe(copies, is_tested):
    file = images(SIZES)
    for split in file.splits.values():
        split.features[:, 0] += 5 * split.labels
    file.splits["test"].features[:copies] = file.splits["train"].features[:copies]
    result = recalls.measure(file)
    assert caveats(result) == ([] if is_tested else [("fitted", "test", copies, 40)])
    (row,) = result.rows()
    assert row["probe"] > 0.9
    assert np.isfinite(row["probe_low"]) == np.isfinite(row["probe_high"]) == is_tested


def test_calibrate_records_scored_images_that_set_the_temperature(capsys):
    fair, copied = (logits(SIZES, copies=copies) for copies in (0, 5))
    fair.class_index = copied.class_index = np.arange(16) % 2
    assert "caveats" not in calibrate(fair).history[-1]
    assert "warning" not in capsys.readouterr().err
    assert caveats(calibrate(copied)) == [("fitted", "test", 5, 40)]
    assert "5 of 40 images of test were also fitted" in capsys.readouterr().err


def test_importance_notices_fitted_images_in_another_file():
    probe = evaluate_grid(logits(SIZES), keep=True)
    assert not results.caveats(costs.prompt_importance(probe, logits({"all": 60}, seed=9)))
    renamed = costs.prompt_importance(probe, logits({"all": 60}))
    assert caveats(renamed) == [("fitted", "all", 60, 60)]


def logits(sizes, **options):
    """Return logits of 16 prompts for images of two classes at random."""
    prompts = {"texts": list("abcdefghijklmnop"), "class_index": np.full(16, -1)}
    return replace(images(sizes, **options), kind="logits", temperature=1.0, **prompts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with results: fair, fitted on test, chosen on test, of shuffled labels."""
    folder = tmp_path_factory.mktemp("caveats")
    file = images({"train": 200, "test": 160})
    for split in file.splits.values():
        split.features[::2, 0] += 2
    write(folder / "img.h5", file)
    ok("relabel", folder / "img.h5", "--shuffle", "-o", folder / "shuffled.h5")
    fit = ("--fit-split", "test", "-C", "1000")
    ok("probe", folder / "img.h5", "-o", folder / "fair.h5")
    ok("probe", folder / "img.h5", *fit, "-o", folder / "fitted.h5")
    ok("probe", folder / "shuffled.h5", *fit, "-o", folder / "s.h5")
    ok("probe", folder / "img.h5", "-C", "0.01,1", "--val", "test", "-o", folder / "chosen.h5")
    return folder


def unwrapped(page):
    """Return a page of Markdown as one line without escapes."""
    return " ".join(page.split()).replace("\\", "")


@pytest.mark.long
@pytest.mark.parametrize(("name", "note"), [("s", FITTED), ("fitted", FITTED), ("chosen", CHOSEN)])
def test_a_page_has_the_note_and_no_verdict(folder, name, note):
    result, page = folder / f"{name}.h5", folder / "page.html"
    text = unwrapped(ok("report", result, folder / "fair.h5").stdout)
    assert f"{name}.h5: {note}" in text
    assert "McNemar" not in text
    assert "Lowest class" not in ok("report", result).stdout
    (row,) = rows(ok("compare", result, "--run", 0).stdout)
    assert row["low"] == row["high"] == ""
    ok("report", result, "-f", "-o", page)
    # In the summary, below the table and the picture, and in the alternative text
    assert page.read_text().count(note) == 4
    assert "above chance" not in page.read_text()
    ok("report", folder / "fair.h5", "-f", "-o", page)
    assert "above chance (" in page.read_text()


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
def test_info_pictures_and_reports_of_attributes_repeat_the_note(folder):
    assert not ok("info", "--runs", folder / "fair.h5").stderr
    ok("plot", "confusion", folder / "fitted.h5", "-o", folder / "p.svg", "-f")
    assert results.source_label(read(folder / "fitted.h5"), "test").endswith(f", test. {FITTED}")
    both = ("--fit-split", "test", "--eval-split", "test")
    done = ok("attributes", folder / "img.h5", *both, "-o", folder / "a.h5", "-f")
    assert f"warning: {FITTED[:-1]}" in done.stderr
    for result in ("fitted", "a"):
        assert FITTED in ok("info", "--runs", folder / f"{result}.h5").stderr
    assert f"a.h5: {FITTED}" in unwrapped(ok("report", folder / "a.h5").stdout)
    assert draw_attributes(read(folder / "a.h5"))[1].endswith(FITTED)


def test_a_heading_says_what_the_labels_are(folder):
    assert "; labels: classes, shuffled\n" in ok("report", folder / "s.h5").stdout
    assert results.labels_suffix(read(folder / "fair.h5")) == ""
    of_groups = {"inputs": {"groups": "sha256:1"}}
    for entry, labels in (
        ({"column": "colour"}, "colour"),
        ({"column": "colour", "shuffle": True}, "colour, shuffled"),
        (of_groups, "groups of classes"),
        (of_groups | {"shuffle": True}, "groups of classes, dealt at random"),
    ):
        file = FeatureFile("images", [*HISTORY, {"command": "relabel", **entry}])
        assert results.labels_suffix(file) == f"; labels: {labels}"


def test_a_verdict_agrees_with_the_exact_tests():
    labels = np.arange(40) % 2
    names, ids = ["a", "b"], row_ids(40)
    control = Predictions(ids, labels, np.r_[labels[:32], 1 - labels[32:]], names, "", "")
    for more, verdict in ((4, ", not decided against"), (6, " and")):
        predicted = control.predicted.copy()
        predicted[32 : 32 + more] = labels[32 : 32 + more]
        scored = replace(control, predicted=predicted)
        text = found("it", scored, [control], "s").text.replace("\xa0", " ")
        assert f"above chance (50.00 %){verdict} the untrained control" in text
    few = Predictions(ids[:4], labels[:4], labels[:4], names, "", "")
    assert "not decided against chance" in found("", few, [], "").text
