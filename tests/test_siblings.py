"""Rows that depend on each other: how often sentences are wrong, and intervals hold.

`python tests/test_siblings.py WORLDS` prints the rates of docs/tests.md.
"""

from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.special import softmax
from shell import fails, ok

import clipkit
from clipkit import datasets, features
from clipkit.analysis import held_out, relabeling
from clipkit.base import console
from clipkit.embedding.copies import find_copies
from clipkit.features import FeatureFile, History, Split, concatenation, splitting
from clipkit.statistics import metrics

# The rows of each kind of world: clusters, rows of each, and how alike these are (1: copies)
KINDS = {
    "independent": (300, 1, 0.0),
    "each twice": (150, 2, 1.0),
    "30 x 10 copies": (30, 10, 1.0),
    "40 x 10 frames": (40, 10, 0.9),
}
OBJECTS = [f"{colour} {shape}" for colour in "abc" for shape in "wxyz"]
WORLDS = 200
MODEL = {"name": "m", "digest": "sha256:1", "weights": "sha256:2", "logit_scale": 100.0}


def draw(random, kind, width):
    """Return standard normal numbers (N, width) and the cluster (N,) of each row."""
    clusters, size, alike = KINDS[kind]
    index = np.repeat(np.arange(clusters), size)
    shared = random.standard_normal((clusters, width))[index]
    own = random.standard_normal((len(index), width))
    return np.sqrt(alike) * shared + np.sqrt(1 - alike) * own, index


def file_of(kind, splits, names=("a", "b"), **fields):
    history = History([{"command": "embed", "model": dict(MODEL)}])
    file = FeatureFile(kind, history, class_names=list(names), **fields)
    for split, (values, labels, cluster) in splits.items():
        ids = [f"{split}/{row}" for row in range(len(labels))]
        rows = np.asarray(values, np.float32)
        if split == "test" and cluster is not None:
            cluster = cluster + 1000  # others than those of the fitted rows
        file.splits[split] = Split(rows, np.asarray(labels), ids, cluster=cluster)
    return file


def labels_of_clusters(random, index, count=2):
    """Return a label of each row that its cluster decides, as a patient's disease."""
    return random.randint(count, size=index.max() + 1)[index]


def variance(random, kind):
    X, index = draw(random, kind, 8)
    images = file_of("images", {"test": (X, labels_of_clusters(random, index), index)})
    (row,) = clipkit.variance(images).rows()
    return row["share"] > row["null95"]


def importance(random, kind):
    """Return whether the interval holds the cost that 100 times as many rows show."""
    weights = np.random.RandomState(0).standard_normal((3, 4))
    sides = {}
    for split in ("train", "test"):
        X, index = draw(random, kind, 4)
        noisy = X + 0.8 * draw(random, kind, 4)[0]
        sides[split] = (0.1 * X, (noisy @ weights.T).argmax(axis=1), index)
    logits = logits_of(sides, 4, "abc")
    probe = clipkit.probe(logits, classifier="logreg", keep=True)
    rows = clipkit.importance(probe, logits, repeat=5).rows()
    return probe, {row["prompt"]: (row["low"], row["high"]) for row in rows}


def logits_of(splits, prompts, names, classes=None):
    texts = [f"prompt {number}" for number in range(prompts)]
    index = np.full(prompts, -1) if classes is None else np.arange(prompts)
    return file_of(
        "logits", splits, names, texts=texts, class_index=index, temperature=1.0, logit_scale=100.0
    )


def importance_holds(random, kind):
    probe, intervals = importance(random, kind)
    large = np.random.RandomState(random.randint(2**31))
    weights = np.random.RandomState(0).standard_normal((3, 4))
    X = large.standard_normal((20_000, 4))
    noisy = X + 0.8 * large.standard_normal((20_000, 4))
    rows = 0.1 * X, (noisy @ weights.T).argmax(axis=1), None
    truth = clipkit.importance(probe, logits_of({"test": rows}, 4, "abc"), repeat=1).rows()
    held = [
        intervals[row["prompt"]][0] <= row["cost"] <= intervals[row["prompt"]][1] for row in truth
    ]
    return float(np.mean(held))


def calibrated(random, kind):
    """Return logits of which the softmax at the temperature 0.1 is calibrated."""
    splits = {}
    for split in ("train", "test"):
        X, index = draw(random, kind, 4)
        cosines = 0.15 * X
        # a normal copula: one number for rows that are alike
        shared, _ = draw_as(random, kind)
        p = np.cumsum(softmax(cosines / 0.1, axis=1), axis=1)
        splits[split] = (cosines, (shared[:, None] > p[:, :-1]).sum(axis=1), index)
    return logits_of(splits, 4, "abcd", classes=True)


def draw_as(random, kind):
    from scipy.special import ndtr

    X, index = draw(random, kind, 1)
    return ndtr(X[:, 0]), index


def calibration(random, kind):
    """Return whether the error is above its null, and whether the interval holds 0.1."""
    row, fitted = clipkit.calibrate(calibrated(random, kind), temperature=[0.1]).rows()
    is_outside = fitted["low"] > 0.1 or fitted["high"] < 0.1  # an end may be missing
    return row["ece"] > row["ece_null975"], not is_outside


def attributes(random, kind):
    splits = {}
    for split in ("train", "test"):
        X, index = draw(random, kind, 8)
        splits[split] = (X, labels_of_clusters(random, index), index)
    (row,) = clipkit.attributes(file_of("images", splits), random=0).rows()
    return row["probe_low"] > row["chance"]


def gap(random, kind):
    X, index = draw(random, kind, 8)
    Y, _ = draw(random, kind, 8)
    labels = np.zeros(len(X), int)
    images = file_of("images", {"test": (X, labels, index)})
    history = History([{"command": "textembed", "model": dict(MODEL)}])
    ids = images.splits["test"].ids
    texts = FeatureFile("texts", history, texts=ids, class_names=ids, features=np.float32(Y))
    texts.class_index = np.arange(len(ids))
    return clipkit.retrieve(images, texts, gap=True).rows()[0]["gap_p"] <= 0.05


def result(random, kind):
    """Return a result with an accuracy of about 70 %, and where its figures come from."""
    splits = {}
    shared, index = draw_as(random, kind)
    labels = random.randint(2, size=len(index))
    if KINDS[kind][2] == 1:
        labels = labels_of_clusters(random, index)
    predicted = np.where(shared < 0.7, labels, 1 - labels)
    splits["test"] = (0.9 * np.eye(2)[predicted], labels, index)
    return clipkit.zeroshot(logits_of(splits, 2, "ab", classes=True))


def worst_group(random, kind):
    made = result(random, kind)
    split = made.splits["test"]
    clusters, size, _ = KINDS[kind]
    groups = random.randint(5, size=clusters)[np.repeat(np.arange(clusters), size)]
    table = {"id": split.ids, "group": [f"group {number}" for number in groups]}
    rows = clipkit.compare(made, table=table, attribute="group").rows()
    (row,) = [row for row in rows if row["scope"] == "worst"]
    return row["acc_a"] < row["null5"]


def f1_holds(random, kind):
    split = result(random, kind).splits["test"]
    _, low, high = metrics.mean_f1(split.labels, split.predicted[0], [0, 1], 2, split.cluster)
    return low <= 0.7 <= high


def accuracy_holds(random, kind):
    (row,) = result(random, kind).rows()
    return row["acc1_low"] <= 0.7 <= row["acc1_high"]


def errors(random, kind):
    """Return the attributes of the errors of a result that are of any other class alike."""
    shared, index = draw_as(random, kind)
    classes = len(OBJECTS)
    labels = labels_of_clusters(random, index, classes)
    # the same number decides whether a row is right and, if not, on its class
    others = [random.permutation(np.delete(np.arange(classes), one)) for one in range(classes)]
    place = np.floor(np.clip(shared / 0.4, 0, 0.999) * (classes - 1)).astype(int)
    predicted = np.where(shared < 0.4, np.array(others)[labels, place], labels)
    rows = (0.9 * np.eye(classes)[predicted], labels, index)
    logits = logits_of({"test": rows}, classes, OBJECTS, classes=True)
    return clipkit.mistakes(clipkit.zeroshot(logits)).rows()


def kept_by_errors(random, kind):
    return min(row["p"] for row in errors(random, kind)) <= 0.05


def kept_holds(random, kind):
    """Return in how many attributes the interval holds the share of the wrong classes with it."""
    held = []
    for row in errors(random, kind):
        others = len(OBJECTS) / row["values"] - 1
        held.append(row["kept_low"] <= others / (len(OBJECTS) - 1) <= row["kept_high"])
    return np.mean(held)


RATES = {
    "variance above null95": (variance, 0.05),
    "learned": (attributes, 0.025),
    "gap_p <= .05": (gap, 0.05),
    "worst group below null5": (worst_group, 0.05),
    "errors keep an attribute": (kept_by_errors, 0.05),
    "miscalibrated": (lambda random, kind: calibration(random, kind)[0], 0.05),
}
COVERAGES = {
    "temperature": lambda random, kind: calibration(random, kind)[1],
    "importance": importance_holds,
    "acc1": accuracy_holds,
    "mean F1": f1_holds,
    "share of errors that keep an attribute": kept_holds,
}


def rate(measure, kind, worlds):
    """Return the mean of a measure over worlds of a kind."""
    return float(np.mean([measure(np.random.RandomState(world), kind) for world in range(worlds)]))


# ---- Files ---------------------------------------------------------------------------------------


def pairs(rows=40):
    """Return images of two classes of which two share a cluster, in two splits."""
    random = np.random.RandomState(0)
    splits = {}
    for number, split in enumerate(("train", "test")):
        X = random.standard_normal((rows, 4))
        cluster = np.arange(rows) // 2 + number * rows
        splits[split] = (X, np.arange(rows) // 2 % 2, cluster)
    return file_of("images", splits)


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_clusters_survive_an_export(ending, tmp_path):
    features.write(tmp_path / "a.h5", pairs())
    ok("convert", tmp_path / "a.h5", tmp_path / f"a.{ending}")
    ok("convert", tmp_path / f"a.{ending}", tmp_path / "b.h5")
    for name, split in features.read(tmp_path / "b.h5").splits.items():
        assert split.cluster.tolist() == pairs().splits[name].cluster.tolist()


def test_names_of_clusters_are_numbered_in_all_splits_alike(tmp_path):
    table = pa.table(
        {
            "split": ["train", "train", "test"],
            "id": ["a", "b", "c"],
            "patient": ["ann", "bob", "ann"],
            "feature": [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    ok("convert", tmp_path / "a.parquet", tmp_path / "a.h5", "--cluster-column", "patient")
    splits = features.read(tmp_path / "a.h5").splits
    assert splits["train"].cluster.tolist() == [0, 1]
    assert splits["test"].cluster.tolist() == [0]


def test_split_keeps_clusters_whole_and_concat_keeps_those_of_files_apart():
    images = pairs()
    parts = splitting.split(images, {"val": 0.3}).splits
    assert not set(parts["val"].cluster) & set(parts["train"].cluster)
    joined = concatenation.concat([images, pairs()], prefix=True).splits["test"]
    assert len(np.unique(joined.cluster)) == 40
    probe = clipkit.probe(file_of("images", {"all": (*some_rows(), np.arange(60) // 3)}))
    held_out = probe.splits["val"].ids
    of_cluster = {}
    for row_id in held_out:
        of_cluster.setdefault(int(row_id.partition("/")[2]) // 3, []).append(row_id)
    assert {len(rows) for rows in of_cluster.values()} == {3}


def some_rows():
    random = np.random.RandomState(1)
    return random.standard_normal((60, 4)), np.arange(60) // 3 % 2


def test_an_option_wins_over_the_file(tmp_path):
    images = pairs()
    images.splits["test"].cluster = np.arange(40) % 3
    logits = file_of(
        "logits",
        {"test": (np.eye(2)[np.arange(40) % 2], np.arange(40) % 2, None)},
        texts=["a", "b"],
        class_index=np.arange(2),
        temperature=1.0,
        logit_scale=1.0,
    )
    logits.splits["test"].cluster = images.splits["test"].cluster
    assert clipkit.zeroshot(logits).rows()[0]["clusters"] == 3
    table = {"id": logits.splits["test"].ids, "by": [str(row // 4) for row in range(40)]}
    named = clipkit.zeroshot(logits, table=table, cluster="by")
    assert named.rows()[0]["clusters"] == 10
    assert named.splits["test"].cluster.max() == 9


def test_embed_marks_equal_images_in_all_splits(tmp_path):
    random = np.random.RandomState(0)
    for number in range(12):
        pixels = random.randint(0, 255, (24, 24, 3)).astype(np.uint8)
        for copy, split in enumerate(("train", "test") if number < 3 else ("train",)):
            folder = tmp_path / "photos" / split / "cat"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{number}-{copy}.png")
    done = ok("embed", tmp_path / "photos", "--model", "tiny", "-o", tmp_path / "a.h5")
    assert "15 images, 12 independent" in done.stderr
    splits = features.read(tmp_path / "a.h5").splits
    of_train = dict(zip(splits["train"].ids, splits["train"].cluster, strict=True))
    assert sorted(of_train[f"cat/{n}-0.png"] for n in range(3)) == sorted(splits["test"].cluster)


def write_scenes(folder, scenes=6, frames=4):
    """Write images of scenes, of which the first of scenes 0 and 1 are equal, and a manifest.

    Return the lines of the manifest: path, label, scene.
    """
    random = np.random.RandomState(0)
    lines = []
    equal = random.randint(0, 255, (24, 24, 3)).astype(np.uint8)
    for scene in range(scenes):
        (folder / f"s{scene}").mkdir(parents=True)
        for frame in range(frames):
            pixels = random.randint(0, 255, (24, 24, 3)).astype(np.uint8)
            path = f"s{scene}/{frame}.png"
            Image.fromarray(equal if scene < 2 and not frame else pixels).save(folder / path)
            lines.append((path, f"c{scene % 2}", f"scene {scene}"))
    text = "".join(f"{','.join(line)}\n" for line in [("path", "label", "scene"), *lines])
    (folder / "m.csv").write_text(text)
    return lines


def scenes_of(file):
    """Return the scenes, as numbers of folders, of each cluster of a file, and those of splits."""
    of_cluster, of_split = {}, {}
    for name, split in file.splits.items():
        for row_id, cluster in zip(split.ids, split.cluster, strict=True):
            scene = row_id.rpartition("/")[0]
            of_cluster.setdefault(cluster, set()).add(scene)
            of_split.setdefault(name, set()).add(scene)
    return sorted(map(sorted, of_cluster.values())), of_split


@pytest.mark.parametrize("words", [("m.csv", "scene"), (".", "folder")])
def test_embed_joins_the_clusters_of_a_data_set_with_equal_images(words, tmp_path, monkeypatch):
    write_scenes(tmp_path / "photos")
    monkeypatch.chdir(tmp_path / "photos")
    data, cluster = words
    done = ok("embed", data, "--cluster", cluster, "--model", "tiny", "-o", tmp_path / "a.h5")
    assert "24 images, 5 independent: by the clusters of the data set and equal" in done.stderr
    file = features.read(tmp_path / "a.h5")
    joined = [["s0", "s1"], ["s2"], ["s3"], ["s4"], ["s5"]]
    assert scenes_of(file)[0] == joined
    assert file.history[0]["dataset"]["cluster"] == cluster


def test_split_off_keeps_the_clusters_of_a_data_set_whole(tmp_path):
    write_scenes(tmp_path / "photos")
    for path in (tmp_path / "photos").glob("s[01]/0.png"):
        Image.new("RGB", (24, 24), "red" if "s0" in str(path) else "blue").save(path)
    embed = ("embed", tmp_path / "photos" / "m.csv", "--cluster", "scene", "--model", "tiny")
    # of some images, the numbers of the clusters have gaps
    embed += ("--limit", 20, "-o")
    ok(*embed, tmp_path / "a.h5", "--split-off", "test=0.3,val=0.2")
    ok(*embed, tmp_path / "whole.h5")
    ok("split", tmp_path / "whole.h5", "--test", 0.3, "--val", 0.2, "-o", tmp_path / "b.h5")
    of_split = scenes_of(features.read(tmp_path / "a.h5"))[1]
    assert sum(map(len, of_split.values())) == len(set().union(*of_split.values())) == 6
    assert scenes_of(features.read(tmp_path / "b.h5"))[1] == of_split


def test_split_off_keeps_equal_files_together(tmp_path):
    random = np.random.RandomState(0)
    for number in range(20):
        pixels = random.randint(0, 255, (24, 24, 3)).astype(np.uint8)
        folder = tmp_path / "photos" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        for copy in "ab"[: 1 + number % 3]:
            Image.fromarray(pixels).save(folder / f"{copy}{number}.png")
    embed = ("embed", tmp_path / "photos", "--model", "tiny", "-o")
    ok(*embed, tmp_path / "a.h5", "--split-off", "test=0.4")
    of_split = {
        name: {row_id[5:] for row_id in split.ids}
        for name, split in features.read(tmp_path / "a.h5").splits.items()
    }
    assert not of_split["train"] & of_split["test"]
    ok(*embed, tmp_path / "whole.h5")
    ok("split", tmp_path / "whole.h5", "--test", 0.4, "-o", tmp_path / "b.h5")
    ids = [features.read(tmp_path / name).splits["test"].ids for name in ("a.h5", "b.h5")]
    assert ids[0] == ids[1]


def test_rows_are_fitted_once():
    a, b = [1.0, 2.0], [1.0, 2.1]
    rows = np.array([a, b, a, a, b, a], np.float32)
    rows[2] *= 1 + 1e-7  # a product in another block
    split = Split(
        rows, np.array([0, 0, 0, 1, 0, 0]), list("123456"), cluster=np.array([5, 5, 5, 5, 5, 6])
    )
    distinct, equal_to = held_out.distinct_rows(split)
    assert distinct.tolist() == [0, 1, 3, 5]  # another label, and another cluster, are other rows
    assert equal_to.tolist() == [0, 1, 0, 2, 1, 3]


def test_an_image_without_a_cluster_is_alone_and_one_cluster_of_all_is_refused(tmp_path):
    write_scenes(tmp_path, scenes=3, frames=2)
    (tmp_path / "m.csv").write_text("path,scene\ns1/1.png,a\ns2/0.png,\ns0/1.png,a\ns2/1.png,\n")
    numbers = datasets.load(tmp_path / "m.csv", cluster="scene").splits["all"].cluster
    assert numbers[0] == numbers[2]
    assert len(set(numbers)) == 3
    (tmp_path / "m.csv").write_text("path,scene\ns1/1.png,a\ns2/0.png,a\n")
    for data, column, message in (
        ("m.csv", "scene", "m.csv: scene: expected at least 2 clusters of images, got 1"),
        ("m.csv", "x", "expected a column 'x'"),
        ("s1", "folder", "s1: expected at least 2 clusters"),
    ):
        line = fails("embed", tmp_path / data, "--cluster", column, "--model", "tiny")
        assert message in line
    line = fails("embed", tmp_path / "s1", "--cluster", "scene", "--model", "tiny", exit_code=2)
    assert "cluster: expected a manifest" in line


def test_rows_that_are_all_equal_or_coincide_by_chance_are_no_copies():
    equal = {"all": Split(np.ones((50, 4), np.float32), ids=list("a" * 50))}
    assert find_copies(equal) == {}
    few = np.random.RandomState(0).randint(2, size=(200, 2)).astype(np.float32)
    assert find_copies({"all": Split(few, ids=list("a" * 200))}) == {}


def test_row_numbers_of_two_splits_join_by_name(tmp_path):
    random = np.random.RandomState(0)
    arrays = {f"{split}_features": random.standard_normal((20, 3)) for split in ("train", "val")}
    np.savez(tmp_path / "a.npz", **arrays)
    ok("convert", tmp_path / "a.npz", tmp_path / "a.h5")
    ok("concat", tmp_path / "a.h5", "--split", "all", "-o", tmp_path / "b.h5")
    ids = features.read(tmp_path / "b.h5").splits["all"].ids
    assert (ids[0], ids[20]) == ("train/00", "val/00")


def test_a_table_without_ids_is_taken_in_the_order_of_one_split(tmp_path):
    images = pairs()
    features.write(tmp_path / "a.h5", images)
    lines = ["colour", *(["red", "blue"] * 20)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    done = ok("variance", tmp_path / "a.h5", "--table", tmp_path / "t.csv")
    assert "t.csv has no ids: its lines are those of test, in their order" in done.stderr
    (tmp_path / "t.csv").write_text("\n".join(lines[:-1]))
    failed = fails("variance", tmp_path / "a.h5", "--table", tmp_path / "t.csv")
    assert "expected a header with id and attributes, got colour" in failed


def test_relabel_keeps_the_intervals_of_clusters_and_shuffles_these():
    images = pairs()
    shuffled = relabeling.shuffle_rows(images, 0).splits["test"].labels.reshape(-1, 2)
    assert (shuffled[:, 0] == shuffled[:, 1]).all()


# ---- Rates ---------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("kind", list(KINDS)[1:])
@pytest.mark.parametrize("name", RATES)
def test_nothing_is_said_of_nothing_more_often_than_it_says(name, kind):
    measure, nominal = RATES[name]
    allowed = nominal * WORLDS + 2.5 * np.sqrt(nominal * (1 - nominal) * WORLDS)
    assert rate(measure, kind, WORLDS) <= allowed / WORLDS


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", list(KINDS)[1:])
@pytest.mark.parametrize("name", COVERAGES)
def test_intervals_hold_the_truth_in_clusters(name, kind):
    allowed = 0.93 - 2.5 * np.sqrt(0.93 * 0.07 / WORLDS)
    assert rate(COVERAGES[name], kind, WORLDS) >= allowed


if __name__ == "__main__":
    console.set_quiet(True)
    count = int(sys.argv[1])
    print("measure", *KINDS, sep="\t")
    measures = {name: measure for name, (measure, _) in RATES.items()} | COVERAGES
    for name in sys.argv[2:] or measures:
        found = [f"{100 * rate(measures[name], kind, count):.1f}" for kind in KINDS]
        print(name, *found, sep="\t", flush=True)
