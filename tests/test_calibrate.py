"""`calibrate`: the temperature at which the softmax over classes is a probability."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from factories import MODEL, feature_file
from scipy.special import softmax
from scipy.stats import chi2, entropy
from shell import ok, rows
from sklearn import metrics as reference

from clipkit import plots
from clipkit.analysis.calibrate import calibration
from clipkit.analysis.calibrate.calibration import (
    ClassScores,
    calibrate,
    fit_temperature,
    score_probabilities,
)
from clipkit.base import console
from clipkit.base.errors import ClipkitError
from clipkit.features import BlockMatrix, FeatureFile, Split, read, row_ids, write
from clipkit.features.splitting import stratified_split
from clipkit.statistics import metrics


def draw(n, n_classes, tau, seed=0, scale=4.0):
    """Return random scores (N, C), and labels (N) that are drawn from softmax(score / tau)."""
    rng = np.random.default_rng(seed)
    scores = (scale * rng.standard_normal((n, n_classes))).astype(np.float32)
    p = softmax(scores / tau, axis=1)
    labels = (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return scores, labels


def class_scores(scores, labels):
    return ClassScores("train", BlockMatrix.from_array(scores), np.asarray(labels))


def scored(*arguments, **options):
    """Return the scores and labels of `draw`."""
    return class_scores(*draw(*arguments, **options))


def mean_nll(scores, temperature):
    """Return the mean negative log-likelihood of the labels by scikit-learn."""
    rows = scores.matrix.read().astype(np.float64)
    p = softmax(rows / temperature, axis=1)
    return reference.log_loss(scores.labels, p, labels=range(rows.shape[1]))


def logits_file(n=300, n_classes=5, splits="train test"):
    """Return logits whose labels are drawn at the temperature 0.05, sorted by class."""
    file = FeatureFile("logits", [{"command": "embed", "model": MODEL}], temperature=1.0)
    file.texts = file.class_names = [f"class {c}" for c in range(n_classes)]
    file.class_index = np.arange(n_classes)
    file.logit_scale = 100.0
    for seed, name in enumerate(splits.split()):
        scores, labels = draw(n, n_classes, 0.05, seed, scale=0.1)
        order = np.argsort(labels, kind="stable")
        file.splits[name] = Split(scores[order], labels[order], row_ids(n))
    return file


def saved(folder, file):
    path = folder / "logits.h5"
    write(path, file, force=True)
    return path


def test_the_temperature_that_labels_were_drawn_at_is_found():
    fitted, low, high = fit_temperature(scored(20_000, 10, 2.0))
    assert low < 2 < high
    assert fitted == pytest.approx(2, rel=0.02)
    assert (low, high) == pytest.approx((fitted - 0.029, fitted + 0.029), abs=0.01)


def test_the_interval_is_that_of_the_likelihood_ratio():
    scores = scored(500, 4, 1.0)
    fitted, low, high = fit_temperature(scores)
    least = mean_nll(scores, fitted)
    for end in (low, high):
        ratio = 2 * 500 * (mean_nll(scores, end) - least)
        assert ratio == pytest.approx(chi2.ppf(0.95, 1), rel=1e-3)
    assert least <= min(mean_nll(scores, fitted * 0.999), mean_nll(scores, fitted * 1.001))


def test_a_fit_reads_the_scores_at_most_twenty_times():
    rows, labels = draw(500, 4, 0.05, scale=0.1)
    passes = []

    def blocks():
        passes.append(1)
        return iter([rows[:300], rows[300:]])

    fit = fit_temperature(ClassScores("train", BlockMatrix(rows.shape, blocks), labels))
    assert fit == pytest.approx(fit_temperature(class_scores(rows, labels)), rel=1e-9)
    assert 5 < len(passes) <= 20


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_scores_of_any_size_are_fitted(scale):
    scores, labels = draw(500, 4, 1.0)
    expected = fit_temperature(class_scores(scores, labels))
    fit = fit_temperature(class_scores(scores * np.float32(scale), labels))
    assert np.array(fit) / scale == pytest.approx(expected, rel=1e-4)


def test_where_all_rows_are_right_the_interval_has_no_lower_end(capsys):
    scores, _ = draw(300, 4, 1.0)
    _, low, high = fit_temperature(class_scores(scores, scores.argmax(axis=1)))
    assert np.isnan(low)
    assert 0 < high < 1
    assert "train: all rows are right" in capsys.readouterr().err


@pytest.mark.parametrize("sign", [-1, 1])
def test_where_scores_say_nothing_the_interval_has_no_upper_end(sign, capsys):
    """With one sign, scores happen to be a little higher for the label, with the other, lower."""
    scores, _ = draw(300, 4, 1.0)
    labels = np.random.default_rng(1).integers(0, 4, 300)
    scores = class_scores(sign * scores, labels)
    fitted, low, high = fit_temperature(scores)
    assert low < fitted
    assert np.isnan(high)
    assert mean_nll(scores, fitted) == pytest.approx(np.log(4), abs=0.01)
    assert "the interval of the fitted temperature has no upper end" in capsys.readouterr().err


def test_a_temperature_that_changes_nothing_is_refused():
    file = logits_file(splits="all")
    file.splits["all"].features[:] = 0.2
    with pytest.raises(ClipkitError, match="all: expected scores that differ between"):
        calibrate(file)


def test_likelihood_and_brier_score_are_scikit_learns():
    scores, labels = draw(400, 6, 1.0)
    p = softmax(scores.astype(np.float64) / 0.7, axis=1)
    found = score_probabilities(class_scores(scores, labels), 0.7)
    assert found.nll == pytest.approx(reference.log_loss(labels, p), rel=1e-5)
    brier = ((p - np.eye(6)[labels]) ** 2).sum(axis=1).mean()
    assert found.brier == pytest.approx(brier, rel=1e-5)
    np.testing.assert_allclose(found.confidence, p.max(axis=1), rtol=1e-5)
    assert np.array_equal(found.right, p.argmax(axis=1) == labels)


@pytest.mark.parametrize("seed", range(3))
def test_images_that_are_independent_of_uneven_labels_have_no_information(
    seed, capsys, monkeypatch
):
    """One prompt has the higher cosine with every image, so a low temperature always names it."""
    monkeypatch.setattr(console, "_verbose", True)
    rng = np.random.default_rng(seed)
    file = logits_file(2000, 2)
    for split in file.splits.values():
        split.features = rng.normal(0, 0.001, split.features.shape).astype(np.float32)
        split.features[:, 0] += 0.1
        split.labels = np.where(rng.random(len(split.labels)) < 0.95, 0, 1)
    for row in calibrate(file).rows():
        assert row["information"] < 0.01
    assert row["information"] == pytest.approx(0, abs=0.05)
    share = 100 * np.mean(file.splits["test"].labels == 0)
    told = capsys.readouterr().err
    assert f"test: {share:.0f} % of the images have one of 2 classes: `information`" in told
    even = logits_file()
    found = calibrate(even).rows()[-1]["temperature"]
    assert found == calibration.fitted_on_train(even, "test")
    assert "of the images have one of" not in capsys.readouterr().err


def test_the_calibration_error_is_that_of_bins_of_equal_mass():
    rng = np.random.default_rng(0)
    confidence, right = rng.random(1001), rng.random(1001) < 0.6
    bins = np.array_split(np.argsort(confidence), 15)
    gaps = [len(b) * abs(right[b].mean() - confidence[b].mean()) for b in bins]
    found = metrics.reliability(confidence, right)
    assert found.ece == pytest.approx(sum(gaps) / 1001, rel=0.02)  # where the remainder goes
    shuffled = rng.permutation(1001)
    again = metrics.reliability(confidence[shuffled], right[shuffled])
    assert again.ece == pytest.approx(found.ece)
    # rows that are sorted by class do not put one class into each bin
    uniform = metrics.reliability(np.full(600, 1 / 8), np.arange(600) < 75)
    assert uniform.ece < uniform.ece_null95


def test_the_error_of_a_model_that_is_always_90_percent_sure_and_so_often_right():
    n = 10_000
    found = metrics.reliability(np.full(n, 0.9), np.arange(n) % 10 > 0)
    deviation = np.sqrt(0.09 / (n / 15))
    expected = np.sqrt(2 / np.pi) * deviation  # mean of |normal|
    assert found.ece == pytest.approx(expected, abs=0.004)
    assert found.ece_null == pytest.approx(expected, rel=0.02)
    assert found.low == pytest.approx(np.full(15, 0.9 - 1.96 * deviation), abs=0.005)
    assert found.high == pytest.approx(np.full(15, 0.9 + 1.96 * deviation), abs=0.005)


@pytest.mark.exhaustive
def test_five_percent_of_calibrated_models_exceed_the_null():
    rng = np.random.default_rng(0)
    confidence = rng.beta(4, 2, 400)
    draws = [metrics.reliability(confidence, rng.random(400) < confidence) for _ in range(300)]
    assert 0.02 < np.mean([found.ece > found.ece_null95 for found in draws]) < 0.09
    mean = np.mean([found.ece for found in draws])
    assert mean == pytest.approx(draws[0].ece_null, rel=0.05)


def test_a_bin_has_at_least_one_row():
    found = metrics.reliability([0.2, 0.6], [False, True], bins=15)
    assert (found.confidence.tolist(), found.accuracy.tolist()) == ([0.2, 0.6], [0, 1])
    assert found.ece == pytest.approx(0.3)


@pytest.mark.long
def test_a_row_per_temperature_and_one_that_is_fitted(tmp_path):
    path = saved(tmp_path, logits_file())
    report = rows(ok("calibrate", path, "-t", "1,model", "-o", tmp_path / "result.h5").stdout)
    assert [row["fitted"] for row in report] == ["false", "false", "true"]
    assert [row["temperature"] for row in report[:2]] == ["1", "0.01"]
    assert [row["low"] for row in report[:2]] == ["", ""]
    assert float(report[2]["low"]) < 0.05 < float(report[2]["high"])
    zeroshot = rows(ok("zeroshot", path, "--split", "test").stdout)
    assert {row["acc1"] for row in report} == {zeroshot[0]["acc1"]}
    label_entropy = entropy(np.bincount(read(path).splits["test"].labels))
    for row in report:
        assert float(row["information"]) == pytest.approx(label_entropy - float(row["nll"]))
    assert min(report, key=lambda row: float(row["nll"])) is report[2]
    entry = read(tmp_path / "result.h5").history[-1]
    expected = {"command": "calibrate", "temperature": [1, 0.01], "bins": 15, "seed": 42}
    expected |= {"eval_split": "test", "inputs": {"logits": read(path).digest}}
    assert expected.items() <= entry.items()


@pytest.mark.parametrize("stored", [1.0, 0.25])
def test_temperatures_are_absolute_and_the_default_is_that_of_the_file(stored):
    expected = calibrate(logits_file(), [0.07]).runs
    file = logits_file()
    file.temperature = stored
    for split in file.splits.values():
        split.features /= np.float32(stored)
    np.testing.assert_equal(calibrate(file, [0.07]).runs, expected)
    assert calibrate(file).rows()[0]["temperature"] == stored


@pytest.mark.parametrize("parts", [3, 30])
def test_scores_that_do_not_fit_into_memory_give_the_same(monkeypatch, parts):
    file = logits_file(splits="all")
    expected = calibrate(file, [1.0]).runs
    matrix = file.splits["all"].features
    monkeypatch.setattr(calibration, "MAX_SCORES", matrix.size // parts)
    found = calibrate(file, [1.0]).runs
    for name in ("temperature", "low", "high", "nll", "ece"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4, nan_ok=True)


def test_of_a_single_split_a_fifth_is_held_out_and_scored(tmp_path):
    path = saved(tmp_path, logits_file(splits="all"))
    run = ok("calibrate", path)
    assert "of the only split, all, 20% of the rows are held out and scored" in run.stderr
    assert {row["eval_split"] for row in rows(run.stdout)} == {"val"}
    assert ok("calibrate", path, "--val", 0.2).stdout == run.stdout
    other = ok("calibrate", path, "--val", 0.2, "--seed", 1)
    assert other.stdout != run.stdout
    assert other.stderr == ""


def test_held_out_rows_are_not_fitted():
    file = logits_file(splits="all")
    fit, held_out = stratified_split(file.splits["all"].labels, 0.5, seed=3)
    parts = {"train": file.splits["all"].take(fit), "test": file.splits["all"].take(held_out)}
    found = calibrate(file, val=0.5, seed=3).runs
    expected = calibrate(replace(file, splits=parts), seed=3).runs
    del found["eval_split"], expected["eval_split"]
    np.testing.assert_equal(found, expected)


def test_of_pairs_of_image_and_text_any_rows_are_held_out(tmp_path):
    file = logits_file(n=100, n_classes=100, splits="pairs")
    split = file.splits["pairs"]
    split.labels = np.arange(100)
    split.features += 0.2 * np.eye(100, dtype=np.float32)
    report = rows(ok("calibrate", saved(tmp_path, file), "--val", 0.5).stdout)
    assert 0.2 < float(report[-1]["acc1"]) < 1
    assert float(report[-1]["information"]) > 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train/labels": None}, "train: expected labels, got none"),
        ({"class_index": np.array([0, -1, -1])}, "expected a prompt for every class, got none for"),
        ({"class_index": np.array([-1, -1, -1])}, "expected prompts of the images' classes"),
    ],
)
def test_files_that_cannot_be_calibrated(changes, message):
    with pytest.raises(ClipkitError, match=message):
        calibrate(feature_file("logits", datasets=changes))


def test_a_model_of_sigmoids_is_calibrated_as_a_softmax(tmp_path):
    file = logits_file()
    plain = ok("calibrate", saved(tmp_path, file), "-t", "model")
    file.history[0]["model"] = {**MODEL, "logit_bias": -10.0}
    sigmoid = ok("calibrate", saved(tmp_path, file), "-t", "model")
    assert sigmoid.stdout == plain.stdout
    assert (
        "the model's own probabilities are sigmoids; those of a softmax are scored"
        in sigmoid.stderr
    )


@pytest.mark.long
def test_the_picture_shows_bins_the_diagonal_and_both_errors():
    found = score_probabilities(scored(300, 4, 1.0), 1.0)
    diagram = metrics.reliability(found.confidence, found.right, bins=5)
    (ax, _) = plots.reliability({1.0: diagram, 0.5: diagram}, title="tiny").axes
    diagonal, points = ax.lines
    assert diagonal.get_xydata().tolist() == [[0, 0], [100, 100]]
    expected = 100 * np.stack([diagram.confidence, diagram.accuracy], axis=1)
    np.testing.assert_allclose(points.get_xydata(), expected)
    (band,) = ax.collections
    bounds = band.get_datalim(ax.transData).bounds
    assert bounds[1] == pytest.approx(100 * diagram.low.min())


def test_a_table_shows_chance_beside_accuracy(tmp_path):
    path = saved(tmp_path, logits_file())
    header = ok("zeroshot", path, "--format", "table").stdout.splitlines()[0]
    assert re.search(r"accuracy % +chance % ", header)


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_the_error_in_bins_of_equal_width_is_that_of_guo_and_others(bins):
    rng = np.random.default_rng(0)
    confidence = np.append(rng.random(2000) ** 2, np.arange(1, 16) / 15)  # edges belong below
    right = rng.random(len(confidence)) < 0.7 * confidence
    expected, edges = 0.0, np.linspace(0, 1, bins + 1)
    for low, high in itertools.pairwise(edges):
        rows = (confidence > low) & (confidence <= high)
        if rows.any():
            expected += rows.mean() * abs(right[rows].mean() - confidence[rows].mean())
    found = metrics.reliability(confidence, right, bins)
    assert found.ece_equal_width == pytest.approx(expected, abs=1e-12)
