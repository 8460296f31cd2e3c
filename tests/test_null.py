"""`clipkit null`: verdicts of shuffled inputs beside those of the inputs as they are."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax
from shell import clipkit, fails, ok

from clipkit import features
from clipkit.analysis import shuffling
from clipkit.analysis.calibrate import calibration
from clipkit.analysis.shuffling import Shuffle
from clipkit.base import signals
from clipkit.features import FeatureFile, History, Split
from clipkit.statistics import dependence

ROWS, RUNS = 200, 30
MODEL = {"name": "m", "digest": "sha256:1", "weights": "sha256:2", "logit_scale": 100.0}
FEW = 0.2  # of RUNS; a verdict of 2.5 % is said in more with a probability of 1e-4


def images(seed=0):
    """Return images whose first feature is their class, in two splits."""
    random = np.random.RandomState(seed)
    file = FeatureFile("images", History([{"command": "embed", "model": dict(MODEL)}]))
    file.class_names = ["a", "b"]
    for name in ("train", "test"):
        labels = random.randint(2, size=ROWS)
        values = random.standard_normal((ROWS, 8)).astype(np.float32)
        values[:, 0] += 4 * labels
        file.splits[name] = Split(values, labels, [f"{name}/{row}" for row in range(ROWS)])
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("null")
    file = images()
    features.write(str(folder / "img.h5"), file)
    lines = ["id\tlight"]
    for split in file.splits.values():
        lines += [f"{i}\t{'ab'[k]}" for i, k in zip(split.ids, split.labels, strict=True)]
    (folder / "table.tsv").write_text("\n".join([*lines, ""]))
    random = np.random.RandomState(1)
    test = file.splits["test"]
    texts = FeatureFile("texts", History([{"command": "textembed", "model": dict(MODEL)}]))
    texts.features = test.features + random.standard_normal((ROWS, 8)).astype(np.float32) / 4
    texts.texts = [f"caption {row}" for row in range(ROWS)]
    texts.class_index, texts.class_names = np.arange(ROWS), test.ids
    features.write(str(folder / "captions.h5"), texts)
    return folder


def ask(*words, runs=RUNS):
    rows = json.loads(ok("null", runs, *words, "--format", "json").stdout)
    return {row["verdict"]: row for row in rows}


@pytest.mark.parametrize(
    "words",
    [
        ["probe", "img.h5"],
        ["retrieve", "img.h5", "captions.h5", "--split", "test", "-k", "1"],
        ["nearest", "img.h5"],
    ],
    ids=lambda words: words[0],
)
@pytest.mark.long
def test_what_is_there_is_said_of_the_inputs_and_rarely_of_shuffled_ones(words, folder):
    command, *others = words
    others = [folder / word if word.endswith(".h5") else word for word in others]
    found = ask(command, *others)
    above = found["above chance"]
    assert above["real"] >= 1
    assert above["null"] <= FEW
    assert above["any_low"] <= above["any"] <= above["any_high"]
    assert found["not decided against chance"]["null"] >= 1 - 2 * FEW


@pytest.mark.long
def test_attributes_are_learned_only_from_the_images_that_have_them(folder):
    features.write(str(folder / "plain.h5"), without_classes(), force=True)
    control = without_classes()
    for split in control.splits.values():
        split.features = np.random.RandomState(5).standard_normal((ROWS, 8)).astype(np.float32)
    control.history = History(
        [{"command": "embed", "model": {**MODEL, "weights": "sha256:3", "untrained": 0}}]
    )
    features.write(str(folder / "control.h5"), control, force=True)
    of_files = [folder / "plain.h5", "--table", folder / "table.tsv", "--attribute", "light"]
    found = ask("attributes", *of_files, "--control", folder / "control.h5", "--random-sets", 0)
    learned = [row for verdict, row in found.items() if verdict.startswith("learned")]
    assert sum(row["real"] for row in learned) == 1
    assert sum(row["null"] for row in learned) <= FEW


def test_a_seed_gives_the_same_and_no_file_is_written(folder):
    before = sorted(folder.iterdir())
    words = ["probe", folder / "img.h5", "--format", "tsv"]
    first, again = (ok("null", "--seed", 3, 5, *words).stdout for _ in range(2))
    assert first == again
    assert first.startswith("verdict\treal\tnull\tany\tany_low\tany_high\n")
    assert sorted(folder.iterdir()) == before
    assert "-o" in fails("null", 5, "probe", folder / "img.h5", "-o", "x.h5", exit_code=2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["entropy", "img.h5"], "entropy: no verdicts to try on shuffled inputs"),
        (["nothing", "img.h5"], "unknown question 'nothing'"),
        (["embed", "img.h5"], "unknown question 'embed'"),
        (
            ["probe", "img.h5", "--shots", "5", "--seed", "1,2"],
            "expected one --seed behind probe, got 2",
        ),
    ],
)
def test_what_has_no_verdicts_is_refused_in_one_line(words, said, folder):
    words = [folder / word if word.endswith(".h5") else word for word in words]
    (line,) = fails("null", 5, *words, exit_code=2).splitlines()
    assert said in line


def test_a_question_that_claims_nothing_of_the_files_is_refused(folder):
    features.write(str(folder / "none.h5"), without_classes(), force=True)
    (line,) = fails("null", 2, "nearest", folder / "none.h5").splitlines()
    assert "nearest: expected a verdict on these files, got none" in line
    assert "clipkit nearest --help" in line


@pytest.mark.parametrize("error", [signals.Interrupted(2), ValueError("of a library")])
def test_an_interrupt_prints_the_rates_of_the_runs_until_then(error, folder, monkeypatch):
    permute, calls = shuffling.permute, []

    def interrupt(*of_rows):
        calls.append(of_rows)
        if len(calls) > 2 * 3:  # three runs of two splits
            monkeypatch.setattr(signals, "interrupted", lambda: signals.Interrupted(2))
            raise error
        return permute(*of_rows)

    monkeypatch.setattr(shuffling, "permute", interrupt)
    done = clipkit("null", 100, "probe", folder / "img.h5", "--format", "json")
    assert done.exit_code == 128 + 2
    assert "the rates are of 3 of 100 runs" in done.stderr
    rows = {row["verdict"]: row for row in json.loads(done.stdout)}
    assert rows["above chance"]["real"] == 1
    assert sum(row["null"] for row in rows.values()) == pytest.approx(1)


def test_clusters_that_an_option_names_are_those_of_a_file(folder, monkeypatch):
    orders = []

    def permute(*of_rows):
        orders.append(dependence.permute(*of_rows))
        return orders[-1]

    monkeypatch.setattr(shuffling, "permute", permute)
    file = images()
    clusters = np.arange(ROWS) // 4
    lines = ["id\tpatient"]
    for name, split in file.splits.items():
        lines += [f"{i}\t{name}{k}" for i, k in zip(split.ids, clusters, strict=True)]
        split.labels = np.random.RandomState(0).randint(2, size=ROWS)[clusters]
    (folder / "patients.tsv").write_text("\n".join([*lines, ""]))
    features.write(str(folder / "plain-rows.h5"), file)
    of_table = ["--table", folder / "patients.tsv", "--cluster", "patient"]
    named = ask("probe", folder / "plain-rows.h5", *of_table)
    for place, split in enumerate(file.splits.values()):
        split.cluster = clusters + place * ROWS
    features.write(str(folder / "of-file.h5"), file)
    assert named == ask("probe", folder / "of-file.h5")
    assert len(orders) == 2 * 2 * RUNS  # of two files with two splits
    for order in orders:
        donors = clusters[order].reshape(-1, 4)
        assert (donors == donors[:, :1]).all()


def without_classes():
    file = images()
    file.class_names = None
    for split in file.splits.values():
        split.labels = None
    return file


def test_the_help_says_what_is_shuffled():
    assert "Labels, attributes or pairs are shuffled" in ok("null", "--help").stdout
    assert "--format" in ok("null", 2, "probe", "--help").stdout


# ---- Shuffles ------------------------------------------------------------------------------------


def test_features_move_and_labels_stay():
    file = images()
    shuffled = Shuffle("labels", (1, 2)).file(file)
    for name, split in shuffled.splits.items():
        before = file.splits[name]
        assert (split.labels == before.labels).all()
        assert split.ids == before.ids
        assert (split.features != before.features).any()
        assert sorted(split.features[:, 0]) == sorted(before.features[:, 0])


def test_a_cluster_receives_the_features_of_one_other():
    file = images()
    for split in file.splits.values():
        split.cluster = np.arange(ROWS) // 4
        split.features = split.cluster[:, None].astype(np.float32)
    for split in Shuffle("labels", (0,)).file(file).splits.values():
        received = split.features[:, 0].reshape(-1, 4)
        assert (received == received[:, :1]).all()
        assert sorted(received[:, 0]) == list(range(ROWS // 4))


def test_a_control_in_another_order_is_shuffled_alike_but_not_the_other_file_of_pairs():
    file, other = images(), images()
    rows = np.arange(ROWS)[::-1]
    other.splits = {name: split.take(rows) for name, split in other.splits.items()}

    def features_of(null):
        found = Shuffle(null, (0,)).values({"images": file, "control": [other]})
        first, second = found["images"].splits["test"], found["control"][0].splits["test"]
        return first.features, second.features[rows]

    first, second = features_of("attributes")
    assert (first == second).all()
    first, second = features_of("pairs")
    assert (first != second).any()


# ---- Questions with a null world of their own ----------------------------------------------------


def logits(rows=ROWS, seed=0, away=2.0, clusters=None):
    """Return logits of images that are nearer to the prompt of their class."""
    random = np.random.RandomState(seed)
    entry = {"command": "embed", "model": dict(MODEL)}
    file = FeatureFile("logits", History([entry]), class_names=list("abc"))
    file.texts, file.class_index = ["an a", "a b", "a c"], np.arange(3)
    file.temperature, file.logit_scale = 1.0, 10.0
    for name in ("train", "test"):
        labels = random.randint(3, size=rows)
        cosines = random.standard_normal((rows, 3))
        cosines[np.arange(rows), labels] += away
        ids = [f"{name}/{row}" for row in range(rows)]
        file.splits[name] = Split((cosines / 10).astype(np.float32), labels, ids, cluster=clusters)
    return file


def saved(folder, name, file):
    features.write(str(folder / name), file, force=True)
    return folder / name


def test_pairs_that_match_are_above_a_threshold_of_images_and_rarely_of_shuffled_ones(folder):
    found = ask("threshold", saved(folder, "l.h5", logits()))
    above = found["above other pairs"]
    assert above["real"] == 4  # all prompts, and each of three
    assert above["null"] <= FEW


@pytest.mark.parametrize("clusters", [None, np.arange(ROWS) // 4])
def test_known_images_are_told_from_unknown_ones_and_rarely_from_exchanged_ones(clusters, folder):
    known = saved(folder, "known.h5", logits(clusters=clusters))
    other = logits(seed=1, away=0)
    other.splits = {"all": replace(other.splits["test"], labels=None)}
    unknown = saved(folder, "unknown.h5", other)
    found = ask("threshold", known, "--unknown", unknown)
    assert found["above chance"]["real"] == 2  # by the largest cosine, and by the softmax
    assert found["above chance"]["null"] <= FEW


def test_labels_that_are_drawn_from_the_probabilities_are_calibrated(folder):
    path = saved(folder, "l.h5", logits())
    found = ask("calibrate", path, "-t", "0.02")
    miscalibrated = found["miscalibrated"]
    assert miscalibrated["real"] >= 1
    assert miscalibrated["null"] <= FEW
    (line,) = fails("null", 2, "calibrate", path, "-t", "1,2", exit_code=2).splitlines()
    assert "expected one temperature to draw labels at, got 2" in line


def test_labels_are_drawn_as_often_as_their_probability_and_alike_in_a_cluster():
    file = logits(rows=20_000)
    drawn = calibration.draw_labels(file, 0.1, np.random.default_rng(0)).splits["test"].labels
    probabilities = softmax(file.cosines("test").read().astype(np.float64) / 0.1, axis=1)
    for name in range(3):
        of_class = drawn == name
        expected = probabilities[:, name]
        error = np.sqrt((expected * (1 - expected)).sum())
        assert abs(of_class.sum() - expected.sum()) < 5 * error
        assert expected[of_class].mean() > expected.mean() + 0.05
    split = file.splits["test"]
    split.features = np.repeat(split.features[::4], 4, axis=0)
    split.cluster = np.arange(20_000) // 4
    drawn = calibration.draw_labels(file, 0.1, np.random.default_rng(0)).splits["test"].labels
    assert (drawn.reshape(-1, 4) == drawn[::4, None]).all()


@pytest.mark.long
def test_answers_are_right_for_their_images_and_rarely_for_shuffled_ones(folder):
    file = images()
    test = file.splits["test"]
    lines, texts, vectors = ["item,image,text,correct"], [], []
    for row, row_id in enumerate(test.ids):
        texts += [f"right {row}", f"wrong {row}"]
        vectors += [test.features[row], -test.features[row]]
        lines += [f"{row},{row_id},{texts[-2]},1", f"{row},{row_id},{texts[-1]},0"]
    (folder / "items.csv").write_text("\n".join([*lines, ""]))
    captions = FeatureFile("texts", History([{"command": "textembed", "model": dict(MODEL)}]))
    captions.texts, captions.features = texts, np.array(vectors)
    captions.class_index = np.full(len(texts), -1)
    path = saved(folder, "answers.h5", captions)
    split = ["--items", folder / "items.csv", "--split", "test"]
    found = ask("choose", folder / "img.h5", path, *split)
    assert found["above shuffled images"]["real"] >= 1
    assert found["above shuffled images"]["null"] <= FEW
