"""The cosine above which an image and a prompt match."""

from __future__ import annotations

import re

import numpy as np
import pytest
from factories import MODEL, fails_with, saved
from scipy.stats import norm
from shell import fails, ok, rows
from sklearn.metrics import roc_auc_score

import clipkit
from clipkit import plots
from clipkit.analysis.threshold import thresholds
from clipkit.base import console
from clipkit.features import FeatureFile, Split
from clipkit.plots.thresholds import draw_threshold

N, K = 2000, 4


def logits(distance: float = 2.0, offset: float = 0.0, seed: int = 0) -> FeatureFile:
    """Return logits of Gaussian cosines; matching pairs are `distance` deviations higher."""
    generator = np.random.default_rng(seed)
    file = FeatureFile("logits", [{"command": "embed", "model": MODEL}], temperature=0.5)
    file.logit_scale = 100.0
    file.texts, file.class_names = [f"prompt {number}" for number in range(K)], list("abcd")
    file.class_index = np.arange(K)
    for name in ("train", "test"):
        labels = np.arange(N) % K
        cosines = generator.normal(0.2, 0.02, (N, K))
        cosines[np.arange(N), labels] += 0.02 * distance
        cosines[:, 0] += offset
        ids = [f"{row}.png" for row in range(N)]
        file.splits[name] = Split((cosines / 0.5).astype("f4"), labels, ids)
    return file


def test_a_threshold_keeps_its_rate_on_other_images_and_finds_what_gaussians_say():
    found = thresholds.choose(logits(), fpr=[0.01, 0.05]).rows()
    assert [row["prompt"] for row in found[:3]] == ["all prompts"] * 2 + ["prompt 0"]
    for row, share in zip(found, (0.01, 0.05), strict=False):
        z = norm.ppf(1 - share)
        assert row["threshold"] == pytest.approx(0.2 + 0.02 * z, abs=0.002)
        assert row["fpr_low"] < share < row["fpr_high"]
        assert row["tpr"] == pytest.approx(norm.cdf(2 - z), abs=0.04)
        assert (row["matching"], row["other"]) == (N, N * (K - 1))
        assert row["auroc"] == pytest.approx(norm.cdf(2 / np.sqrt(2)), abs=0.01)


def test_rates_and_auroc_are_those_of_a_plain_count():
    file = logits()
    cosines, labels = np.asarray(file.cosines("test")), file.splits["test"].labels
    row = thresholds.choose(file, at=[0.23]).rows()[2]
    matches = labels == 1
    assert row["tpr"] == pytest.approx((cosines[matches, 1] > 0.23).mean())
    assert row["fpr"] == pytest.approx((cosines[~matches, 1] > 0.23).mean())
    assert row["auroc"] == pytest.approx(roc_auc_score(matches, cosines[:, 1]))


def test_a_share_of_whole_pairs_is_reached():
    file = logits()
    file.splits["train"] = file.splits["train"].take(np.arange(133))  # 100 others of prompt 1
    cosines, labels = np.asarray(file.cosines("train")), file.splits["train"].labels
    row = thresholds.choose(file, fpr=[0.29]).rows()[2]
    assert (cosines[labels != 1, 1] > np.float32(row["threshold"])).sum() == 29


def test_a_prompt_that_matches_all_fitted_images_has_no_threshold_and_no_rates():
    file = logits()
    file.splits["train"].labels = np.ones(N, int)
    row = thresholds.choose(file).rows()[2]
    assert np.isnan([row[name] for name in ("threshold", "tpr", "fpr", "fpr_low")]).all()
    assert row["auroc"] > 0.5


def test_scored_images_that_were_fitted_are_warned_of_and_get_no_interval(capsys):
    file = logits()
    known = thresholds.choose(file, eval_split="train")
    assert "2,000 of 2,000 images of train were also fitted" in capsys.readouterr().err
    assert np.isnan([known.rows()[0][name] for name in ("tpr_low", "fpr_high")]).all()
    assert known.history[-1]["caveats"][0]["kind"] == "fitted"
    thresholds.choose(file, at=[0.2], eval_split="train")
    assert "also fitted" not in capsys.readouterr().err


def test_the_intervals_count_the_pairs_of_an_image_together():
    file = logits()
    for split in file.splits.values():  # all cosines of an image are one
        split.features = np.repeat(split.features[:, :1], K, axis=1)
    row = thresholds.choose(file, fpr=[0.2]).rows()[0]
    half = 1.96 * np.sqrt(row["fpr"] * (1 - row["fpr"]) / N)
    assert row["fpr_high"] - row["fpr_low"] == pytest.approx(2 * half, rel=0.1)


def test_the_intervals_count_the_images_of_a_cluster_together(tmp_path):
    file = logits()
    for split in file.splits.values():  # each image four times
        split.features = np.repeat(split.features[: N // 4], 4, axis=0)
        split.labels = np.repeat(split.labels[: N // 4], 4)
    lines = [f"{row}.png,{row // 4}\n" for row in range(N)]
    (tmp_path / "t.csv").write_text("id,video\n" + "".join(lines))
    alone = thresholds.choose(file, fpr=[0.2]).rows()[0]
    row = thresholds.choose(file, fpr=[0.2], table=str(tmp_path / "t.csv"), cluster="video").rows()[
        0
    ]
    assert (row["clusters"], row["fpr"]) == (N // 4, alone["fpr"])
    for rate in ("tpr", "fpr"):
        wide = row[f"{rate}_high"] - row[f"{rate}_low"]
        assert wide == pytest.approx(2 * (alone[f"{rate}_high"] - alone[f"{rate}_low"]), rel=0.1)
    with fails_with("expected --cluster for --table, got none"):
        thresholds.choose(file, table=str(tmp_path / "t.csv"))


def test_false_positives_of_few_images_are_among_the_details(capsys, monkeypatch):
    thresholds.choose(logits(), fpr=[0.002])
    assert "false positives" not in capsys.readouterr().err
    monkeypatch.setattr(console, "_verbose", True)
    thresholds.choose(logits(), fpr=[0.2])
    assert "false positives" not in capsys.readouterr().err
    thresholds.choose(logits(), fpr=[0.002])
    note = "fewer than 20 images have the false positives of all prompts, prompt 0, prompt 1"
    assert note in capsys.readouterr().err


def test_a_rate_of_nearly_all_pairs_has_the_lowest_threshold():
    file = logits()
    file.splits["train"] = file.splits["train"].take(np.arange(4))
    cosines, labels = np.asarray(file.cosines("train")), file.splits["train"].labels
    row = thresholds.choose(file, fpr=[0.9999999]).rows()[1]
    assert row["threshold"] == pytest.approx(cosines[labels != 0, 0].min())
    assert row["prompt"] == "prompt 0"


def test_standardising_removes_what_a_prompt_has_with_every_image():
    file = logits(offset=0.2)
    plain, standardized = (
        thresholds.choose(file, standardize=flag).rows()[0]["tpr"] for flag in (False, True)
    )
    assert plain < 0.3
    assert standardized == pytest.approx(norm.cdf(2 - norm.ppf(0.99)), abs=0.08)


def test_files_without_labels_or_classes_and_shares_out_of_range_are_refused(tmp_path):
    path = saved(tmp_path / "logits.h5", logits())
    assert rows(ok("threshold", path, "--at", "0.2").stdout)[0]["threshold"] == "0.2"
    ok("threshold", path, "-o", tmp_path / "t.h5")
    assert "shares above the threshold" in ok("report", tmp_path / "t.h5").stdout
    same = ("threshold", path, "--eval-split", "train")
    assert "images of train were also fitted" in ok(*same).stderr
    assert "also fitted" not in ok(*same, "--at", "0.2").stderr
    assert "between 0 and 1" in fails("threshold", path, "--fpr", "1", exit_code=2)
    for word in ("x", "nan", "inf"):
        assert "expected a number" in fails("threshold", path, "--at", word, exit_code=2)
    for word in ("2", "-1.5"):
        assert "a cosine from -1 to 1" in fails("threshold", path, "--at", word, exit_code=2)
    ok(*same, "--standardize", "--at", "2")
    with fails_with("at: expected a number, got inf"):
        thresholds.choose(logits(), at=[np.inf], standardize=True)
    file = logits()
    file.splits["test"].labels = None
    with fails_with("expected labels in test"):
        thresholds.choose(file)
    file.class_index = np.full(K, -1)
    with fails_with("expected prompts of the images' classes"):
        thresholds.choose(file)


def test_images_of_no_known_class_are_told_apart_by_their_largest_score():
    known, unknown = logits(), logits(distance=0, seed=1)
    unknown.class_index, unknown.class_names = np.full(K, -1), ["other"]
    cosine, softmax = thresholds.detect(known, unknown).rows()
    largest = {}
    for name, file in (("known", known), ("unknown", unknown)):
        largest[name] = np.asarray(file.cosines("test")).max(axis=1)
    both = [*largest["known"], *np.asarray(unknown.cosines("train")).max(axis=1)]
    both += [*largest["unknown"]]
    assert cosine["auroc"] == pytest.approx(roc_auc_score(np.arange(3 * N) < N, both), abs=1e-6)
    threshold = np.quantile(np.asarray(known.cosines("train")).max(axis=1), 0.05)
    assert cosine["threshold"] == pytest.approx(threshold)
    assert cosine["tpr"] == pytest.approx((largest["known"] > threshold).mean())
    assert (cosine["known"], cosine["unknown"]) == (N, 2 * N)
    assert cosine["fpr_low"] < cosine["fpr"] < cosine["fpr_high"]
    assert 0.5 < softmax["auroc_low"] < softmax["auroc"] < softmax["auroc_high"] < 1
    unknown.texts = ["other", *unknown.texts[1:]]
    with fails_with("have different prompts"):
        thresholds.detect(known, unknown)


def test_images_far_from_the_known_ones_are_told_apart_by_a_neighbour(tmp_path):
    generator = np.random.default_rng(0)
    known, unknown = (FeatureFile("images", logits().history) for _ in range(2))
    for name in ("train", "test"):
        X = np.abs(generator.normal(size=(300, 8))).astype("f4")
        known.splits[name] = Split(X, ids=[f"{row}.png" for row in range(300)])
    X = generator.normal(size=(200, 8)).astype("f4")
    unknown.splits["all"] = Split(X, ids=[f"{row}.png" for row in range(200)])
    (row,) = thresholds.detect(known, unknown).rows()
    bank, scored, others = (
        X / np.linalg.norm(X, axis=1, keepdims=True)
        for X in (known.splits["train"].features, known.splits["test"].features, X)
    )
    of_known, of_unknown = (np.sort(rows @ bank.T)[:, -10] for rows in (scored, others))
    of_fitted = np.sort(bank @ bank.T - 2 * np.eye(300))[:, -10]
    assert row["threshold"] == pytest.approx(np.quantile(of_fitted, 0.05))
    assert row["fpr"] == pytest.approx((of_unknown > row["threshold"]).mean())
    auroc = roc_auc_score(np.arange(500) < 300, [*of_known, *of_unknown])
    assert row["auroc"] == pytest.approx(auroc)
    path = saved(tmp_path / "img.h5", known)
    known.splits["train"] = known.splits["train"].take(np.arange(5))
    few = saved(tmp_path / "few.h5", known)
    assert "more than 10 fitted images, got 5" in fails("threshold", few, "--unknown", path)


@pytest.mark.long
def test_images_below_a_threshold_get_the_class_none_of_these_and_count_as_wrong(tmp_path):
    file, path = logits(), saved(tmp_path / "logits.h5", logits())
    cosines, labels = np.asarray(file.cosines("test")), file.splits["test"].labels
    best, answered = cosines.argmax(axis=1), cosines.max(axis=1) > 0.24
    printed = ok("zeroshot", path, "--threshold", "0.24", "-o", tmp_path / "z.h5", "--split=test")
    (row,) = rows(printed.stdout)
    right = answered & (best == labels)
    for name, share in (
        ("acc1", right),
        ("coverage", answered),
        ("acc1_answered", right[answered]),
    ):
        assert float(row[name]) == pytest.approx(share.mean())
        assert float(row[f"{name}_low"]) < share.mean() < float(row[f"{name}_high"])
    result = clipkit.read(tmp_path / "z.h5")
    assert result.class_names == [*"abcd", "none of these"]
    assert np.array_equal(result.splits["test"].predicted[0], np.where(answered, best, K))
    reported = ok("report", tmp_path / "z.h5").stdout
    assert "2,000 images, 4 classes" in reported
    assert f"{100 * answered.mean():.2f} |" in reported
    assert "| with an answer (%) | accuracy of answers (%) |" in reported
    per_class = rows(ok("zeroshot", path, "--threshold=0.24", "--per-class").stdout)
    assert {row["class"] for row in per_class} == set("abcd")
    images = rows(ok("zeroshot", path, "--threshold=0.24", "--split=test", "--per-image").stdout)
    first = np.flatnonzero(~answered)[0]
    assert images[first]["prediction"] == "none of these"
    assert images[first]["runner_up"] == "abcd"[best[first]]
    groups = tmp_path / "groups.tsv"
    groups.write_text("a\tx\nb\tx\nc\ty\nd\ty\n")
    ok("plot", "confusion", tmp_path / "z.h5", "--groups", groups, "-o", tmp_path / "c.png")
    listed = ok("compare", tmp_path / "z.h5", tmp_path / "z.h5", "--groups", groups).stdout
    assert float(rows(listed)[0]["acc_a"]) == right.mean()


def test_the_thresholds_of_prompts_are_those_of_their_classes(tmp_path):
    path, cuts = saved(tmp_path / "logits.h5", logits(offset=0.1)), tmp_path / "cuts.h5"
    ok("threshold", path, "--fpr", "0.05", "-o", cuts)
    of_class = np.array(clipkit.read(cuts).runs["threshold"][1:])
    printed = ok("zeroshot", path, "--threshold", cuts)
    assert "2,000 of 2,000 images of train were also used to choose" in printed.stderr
    cosines = np.asarray(logits(offset=0.1).cosines("test"))
    best = cosines.argmax(axis=1)
    answered = cosines.max(axis=1) > of_class[best]
    assert float(rows(printed.stdout)[0]["coverage"]) == pytest.approx(answered.mean())
    ok("threshold", path, "--fpr", "0.01,0.05", "-o", tmp_path / "two.h5")
    refused = fails("zeroshot", path, "--threshold", tmp_path / "two.h5")
    assert "one threshold for each prompt, got 1 and 2 for a" in refused
    assert "expected a number" in fails("zeroshot", path, "--threshold=nan", exit_code=2)
    ok("threshold", path, "--at", "0.2", "-o", tmp_path / "at.h5")
    assert "used to choose" not in ok("zeroshot", path, "--threshold", tmp_path / "at.h5").stderr


def test_the_images_that_chose_thresholds_are_counted_in_a_file_with_one_split(tmp_path):
    file = logits()
    del file.splits["test"]
    path, cuts = saved(tmp_path / "logits.h5", file), tmp_path / "cuts.h5"
    for splits, count in (((), "1,600"), (("--fit-split=train", "--eval-split=train"), "2,000")):
        ok("threshold", path, *splits, "--force", "-o", cuts)
        warned = ok("zeroshot", path, "--threshold", cuts).stderr
        assert f"{count} of 2,000 images of train were also used to choose" in warned


def test_a_class_of_all_fitted_images_has_no_threshold_to_answer_above(tmp_path):
    file = logits()
    file.splits["train"].labels = np.ones(N, int)
    path, cuts = saved(tmp_path / "logits.h5", file), tmp_path / "cuts.h5"
    ok("threshold", path, "-o", cuts)
    refused = fails("zeroshot", path, "--threshold", cuts)
    assert "got none for b, which all fitted images have" in refused


def test_the_picture_says_which_pairs_are_above_the_threshold(tmp_path):
    figure, source = draw_threshold(logits(), 0.01, "train", "test")
    row = thresholds.choose(logits(), fpr=[0.01]).rows()[0]
    above = [f"{100 * row[name]:.1f} % of" for name in ("tpr", "fpr")]
    assert re.findall(r"\d+\.\d % of", plots.title_of(figure)) == above
    assert "test" in source
    (line,) = figure.axes[0].lines
    assert line.get_xdata()[0] == row["threshold"]
    path = saved(tmp_path / "logits.h5", logits())
    ok("plot", "threshold", path, "--fpr", "0.05", "-o", tmp_path / "threshold.png")


def test_a_table_of_prompts_fits_eighty_columns(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    file = logits()
    file.texts = [f"a photo of a checkered butterfly {number}" for number in range(K)]
    path = saved(tmp_path / "logits.h5", file)
    table = ok("threshold", path, "--fpr", "0.01,0.2", "--format", "table").stdout
    assert max(map(len, table.splitlines())) <= 80
    assert "In all rows: split test" in table
